"""The console entry point: runs a command; a failure is one clear message and an exit code."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mdl.cli.terminal import CleanStream
from mdl.errors import DiskError, MdlError, UsageError
from mdl.formatting import printable

if TYPE_CHECKING:
    import click

_INTERRUPTED = 130
_TRACEBACK = "Run it again with MDL_DEBUG=1 for a traceback, and report it."
# What the system reports about a path or disk, and what to do about it.
_NO_SPACE = "Free some: `mdl cache prune --dry-run` shows what could go."
_NO_RIGHT = "Check its permissions, or use another path."
_DISK = {
    errno.ENOSPC: ("No space left on the disk:", _NO_SPACE),
    errno.EDQUOT: ("Your disk quota is used up:", _NO_SPACE),
    errno.EROFS: ("The file system is read-only:", "Use another path, or mount it writable."),
    errno.EACCES: ("Permission denied:", _NO_RIGHT),
    errno.EPERM: ("Permission denied:", _NO_RIGHT),
    errno.ENOENT: ("No such file or folder:", "Check the path."),
    errno.ENOTDIR: ("Not a folder:", "Use another path."),
    errno.EISDIR: ("A folder, not a file:", "Give a file."),
    errno.EEXIST: ("A file is in the way:", "Use another path."),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Exit with a command's exit code, never with a traceback."""
    code = run(argv)
    if code == _INTERRUPTED:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)  # a thread may still wait for a connection
    raise SystemExit(code)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    before = sys.stdout, sys.stderr
    sys.stdout = CleanStream(sys.stdout, styles=True)
    sys.stderr = CleanStream(sys.stderr, redraws=True)
    try:
        code = _run(args, as_json="--json" in _own_words(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) is gone: not an error, and the interpreter must not report one.
        _silence_stdout()
        return 0
    except OSError as error:  # standard output itself cannot be written
        _silence_stdout()
        return _fail(_disk_error(error), as_json=False)
    finally:
        sys.stdout, sys.stderr = before


def _run(args: list[str], *, as_json: bool) -> int:
    stdout = sys.stdout
    try:
        return _command(args)
    except MdlError as error:
        return _fail(error, as_json=as_json)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except BrokenPipeError:
        raise
    except SystemExit:
        # click wraps a standard output whose reader is gone, and exits.
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


def _own_words(args: list[str]) -> list[str]:
    """The words that are options of mdl itself: not those of the command of `mdl run`."""
    if args[:1] != ["run"]:
        return args
    from mdl.cli.run_options import read_plainly

    read = read_plainly(args[1:])
    return args if read is None else args[: len(args) - len(read[1])]


def _command(args: list[str]) -> int:
    if args[:1] == ["run"]:  # without click: its import would delay every run
        from mdl.cli.run_options import read_plainly, run_plainly

        read = read_plainly(args[1:])
        if read is not None:
            return run_plainly(*read)
    from mdl.cli.group import cli

    if "_MDL_COMPLETE" in os.environ:
        import mdl.cli.completion  # noqa: F401  # how bash completes

    result = cli.main(args=args, prog_name="mdl", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _ending_of_click(error: Exception, *, as_json: bool) -> int | None:
    """The exit code where click ended the command; `None` for any other exception."""
    import click

    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return _interrupted(error)
    if not isinstance(error, click.ClickException):
        return None
    if as_json:
        return _fail(_usage_error(error), as_json=True)
    error.show()
    return UsageError.exit_code


def _interrupted(error: BaseException) -> int:
    said = str(error.__cause__ or error) or "nothing that was there before is lost"
    print(f"interrupted: {said}", file=sys.stderr)
    return _INTERRUPTED


def _fail(error: MdlError, *, as_json: bool) -> int:
    """Print one error, as text on standard error or as JSON on standard output."""
    if as_json:
        import json

        print(json.dumps({**error.details, "error": error.to_json()}, indent=2))
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _prepare_streams() -> None:
    """Replace closed streams, and escape characters that a terminal cannot show."""
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
    from mdl.version import install_command

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
        next=f"Run: {install_command(extra)}" if extra else f"Run: pip install {name}",
    )


def _disk_error(error: OSError) -> MdlError:
    where = f" {printable(str(error.filename))}" if error.filename else ""
    other = (f"{error.strerror or error}:", "Check the path and the disk, and try again.")
    said, do = _DISK.get(error.errno or 0, other)
    return DiskError(f"{said}{where}".rstrip(":") + ".", why=str(error), next=do)


def _unexpected(error: Exception) -> MdlError:
    return MdlError(
        f"Unexpected error: {printable(str(error)) or type(error).__name__}",
        why=type(error).__name__,
        next=_TRACEBACK,
    )
