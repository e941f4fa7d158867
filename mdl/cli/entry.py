"""The console entry point: a command, then its exit code; every failure is one clear message."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdl.errors import DiskError, MdlError, UsageError
from mdl.formatting import printable

if TYPE_CHECKING:
    import click

_TRACEBACK = "Run it again with MDL_DEBUG=1 for the traceback, and report it."
# What the system says of a path or a disk, and what to do about it.
_NO_SPACE = "Free some: `mdl cache prune --dry-run` shows what could go."
_NO_RIGHT = "Check its permissions, or name another place."
_DISK = {
    errno.ENOSPC: ("No space left on the disk", _NO_SPACE),
    errno.EDQUOT: ("Your quota on this disk is used up", _NO_SPACE),
    errno.EROFS: ("The file system is read-only", "Name another place, or mount it writable."),
    errno.EACCES: ("No right to use", _NO_RIGHT),
    errno.EPERM: ("No right to use", _NO_RIGHT),
    errno.ENOENT: ("There is no", "Check the path: it, or a folder on the way to it, is missing."),
    errno.ENOTDIR: ("There is a file where a folder must be:", "Name another place."),
    errno.EISDIR: ("There is a folder where a file must be:", "Name a file."),
    errno.EEXIST: ("There is a file where a folder must be:", "Name another place."),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Every ending is an exit code, never a traceback."""
    raise SystemExit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: every failure is one clear message."""
    args = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    try:
        code = _run(args, as_json="--json" in args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, and the interpreter must not say so.
        _silence_stdout()
        return 0
    except OSError as error:  # standard output itself cannot be written
        _silence_stdout()
        return _fail(_disk_error(error), as_json=False)


def _run(args: list[str], *, as_json: bool) -> int:
    stdout = sys.stdout
    try:
        return _command(args)
    except MdlError as error:
        return _fail(error, as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        raise
    except SystemExit:
        # click wraps a standard output whose reader went away, and exits.
        if sys.stdout is not stdout:
            raise BrokenPipeError from None
        raise
    except ModuleNotFoundError as error:
        return _fail(_missing_module(error), as_json=as_json)
    except OSError as error:
        return _fail(_disk_error(error), as_json=as_json)
    except Exception as error:
        code = _ending_of_click(error, as_json=as_json)
        if code is not None:
            return code
        if os.environ.get("MDL_DEBUG"):
            raise
        return _fail(_unexpected(error), as_json=as_json)


def _command(args: list[str]) -> int:
    from mdl.cli.group import cli

    result = cli.main(args=args, prog_name="mdl", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _ending_of_click(error: Exception, *, as_json: bool) -> int | None:
    """The exit code where click ended the command; `None` for any other exception."""
    import click

    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return _interrupted()
    if not isinstance(error, click.ClickException):
        return None
    if as_json:
        return _fail(_usage_error(error), as_json=True)
    error.show()
    return UsageError.exit_code


def _interrupted() -> int:
    print("interrupted: nothing that was there before is lost.", file=sys.stderr)
    return 130


def _fail(error: MdlError, *, as_json: bool) -> int:
    """Print one error, as text on standard error or as JSON on standard output."""
    if as_json:
        import json

        print(json.dumps({**error.details, "error": error.to_json()}, indent=2))
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _prepare_streams() -> None:
    """Closed streams swallow or are empty; what a terminal lacks is escaped, never a crash."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_error(error: "click.ClickException") -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mdl"
    return UsageError(error.format_message(), next=f"See {command} --help.")


def _missing_module(error: ModuleNotFoundError) -> MdlError:
    extras = {
        "torch": "load",
        "transformers": "load",
        "bitsandbytes": "load",
        "triton": "kernels",
        "psycopg": "postgres",
        "fastapi": "service",
        "uvicorn": "service",
    }
    name = (error.name or "").split(".")[0]
    extra = extras.get(name)
    return MdlError(
        f"This command needs the Python package {name!r}, which is not installed.",
        next=f'Run: pip install "mdl[{extra}]"' if extra else f"Run: pip install {name}",
    )


def _disk_error(error: OSError) -> MdlError:
    where = f" {printable(str(error.filename))}" if error.filename else ""
    other = (f"{error.strerror or error}:", "Check the path and the disk, and try again.")
    said, do = _DISK.get(error.errno or 0, other)
    return DiskError(f"{said}{where}".rstrip(":") + ".", why=str(error), next=do)


def _unexpected(error: Exception) -> MdlError:
    return MdlError(
        f"mdl met something it did not expect: {printable(str(error)) or type(error).__name__}",
        why=type(error).__name__,
        next=_TRACEBACK,
    )
