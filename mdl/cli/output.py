"""What every command shares: JSON or text on standard output, one clear error, an exit code."""

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from mdl.errors import DiskError, MdlError, UsageError

# Every command that changes something takes --yes, so that a script need not know which ones ask.
never_asks = click.option(
    "-y", "--yes", is_flag=True, expose_value=False, help="Nothing is asked here; for scripts."
)

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


class FilePath(click.Path):
    """A path on the command line; an empty one is refused, where pathlib would read `.`."""

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if value == "":
            self.fail("it is empty.", param, ctx)
        return super().convert(value, param, ctx)


def echo_json(value: Any) -> None:
    """One JSON document; names with bytes that are no UTF-8 are escaped, never a crash."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=True, sort_keys=False))


def echo_json_line(value: Any) -> None:
    """One line of JSON Lines."""
    import json

    click.echo(json.dumps(value, ensure_ascii=True))


def printable(text: str) -> str:
    """`text` on one line and without control characters or surrogates, safe for a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def human_size(size: int | float | None) -> str:
    """Decimal units, as the Hub and `hf cache ls` print them: `1.2G`, `512`, `-` for unknown."""
    if size is None:
        return "-"
    size = float(size)
    for unit in ("", "K", "M", "G", "T"):
        if abs(size) < 999.5:
            return f"{size:.0f}" if unit == "" else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}P"


def human_ago(then: float | None, now: float | None = None) -> str:
    """`5 minutes ago`, `3 days ago`, `-` for never."""
    if then is None:
        return "-"
    import time

    seconds = max(0.0, (time.time() if now is None else now) - then)
    for unit, size in (("year", 31557600), ("month", 2629800), ("week", 604800), ("day", 86400),
                       ("hour", 3600), ("minute", 60)):  # fmt: skip
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Columns padded with spaces; the first column gives way when the terminal is narrow.

    Args:
        right: indices of right-aligned columns.
    """
    lines = [list(header), *[[printable(cell) for cell in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        import shutil

        spare = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * (len(widths) - 1)
        widths[0] = min(widths[0], max(20, spare))
        for line in lines:
            line[0] = _shorten(line[0], widths[0])
    rights = set(right)
    # One format for all the rows: padding cell by cell takes three times as long.
    row = "  ".join(f"{{:{'>' if i in rights else '<'}{w}}}" for i, w in enumerate(widths)).format
    return "\n".join([row(*line).rstrip() for line in lines])


def _shorten(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"


def confirm(question: str, *, yes: bool) -> bool:
    """Ask before changing something; without a terminal only `--yes` says yes.

    Raises:
        UsageError: nobody is there to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            "This changes things and there is no terminal to ask.",
            next="Add --yes to do it, or --dry-run to see it.",
        )
    return click.confirm(question, default=False)


def fail(error: MdlError, *, as_json: bool) -> int:
    """Print one error, as text on standard error or as JSON on standard output."""
    if as_json:
        echo_json({**error.details, "error": error.to_json()})
    else:
        click.echo(f"error: {error}", err=True)
    return error.exit_code


def run(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run a click command and return its exit code: every failure is one clear message."""
    args = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    try:
        code = _run(command, args, as_json="--json" in args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, and the interpreter must not say so.
        _silence_stdout()
        return 0
    except OSError as error:  # standard output itself cannot be written
        _silence_stdout()
        return fail(_disk_error(error), as_json=False)


def _run(command: click.Command, args: list[str], *, as_json: bool) -> int:
    try:
        result = command.main(args=args, prog_name="mdl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except MdlError as error:
        return fail(error, as_json=as_json)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if as_json:
            return fail(_usage_error(error), as_json=True)
        error.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing that was there before is lost.", err=True)
        return 130
    except BrokenPipeError:
        raise
    except SystemExit:
        if "_MDL_COMPLETE" in os.environ:  # a shell asked for completions
            raise
        raise BrokenPipeError from None  # the only other way in which click exits by itself
    except ModuleNotFoundError as error:
        return fail(_missing_module(error), as_json=as_json)
    except OSError as error:
        return fail(_disk_error(error), as_json=as_json)
    except Exception as error:
        if os.environ.get("MDL_DEBUG"):
            raise
        return fail(_unexpected(error), as_json=as_json)


def _prepare_streams() -> None:
    """Closed streams swallow; what a terminal's encoding lacks is escaped, never a crash."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_error(error: click.ClickException) -> UsageError:
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
