"""`%load_ext mdl` and `%%mdl_run`: a notebook's cell, watched."""

import shlex
import sys
from typing import Any

from mdl.errors import MdlError, UsageError
from mdl.observe.in_process import watch

_USAGE = "%%mdl_run [--expect NAME[=FORMAT][@REVISION]]... [--locked FILE] [--report FILE]"


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext mdl`."""

    def mdl_run(line: str, cell: str) -> None:
        """Run a cell and say which models it really opened."""
        run_cell(shell, line, cell)

    shell.register_magic_function(mdl_run, magic_kind="cell")


def run_cell(shell: Any, line: str, cell: str) -> None:
    """Run a cell's code as the shell does, and say what it opened."""
    try:
        watched = watch(**_options(line))
        try:
            with watched:
                shell.run_cell(cell)
        finally:
            if hasattr(watched, "report"):
                print("\n".join(watched.report.summary()), file=sys.stderr)
    except MdlError as error:
        print(f"error: {error}", file=sys.stderr)


def _options(line: str) -> dict[str, Any]:
    """The arguments of `watch` behind a magic's line.

    Raises:
        UsageError: it cannot be read.
    """
    found: dict[str, Any] = {"expect": []}
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"The line cannot be read: {error}.", next=f"Write {_USAGE}.") from error
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name not in ("--expect", "--locked", "--report") or not (equals or words):
            raise UsageError(f"{name!r} is not understood here.", next=f"Write {_USAGE}.")
        value = value if equals else words.pop(0)
        if name == "--expect":
            found["expect"].append(value)
        else:
            found[name.removeprefix("--")] = value
    return found
