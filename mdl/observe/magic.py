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
    """Run a cell's code as the shell does, and say what it opened.

    Raises:
        MdlError: it did not open what was expected, or the line cannot be read.
        Exception: the cell's own. Either fails the cell, so that a notebook that runs as a whole
            stops here; the shell has shown the cell's own already.
    """
    own = None
    try:
        watched = watch(**_options(line))
        try:
            with watched:
                result = shell.run_cell(cell)
                own = result.error_before_exec or result.error_in_exec
                result.raise_error()
        finally:
            if hasattr(watched, "report"):
                print("\n".join(watched.report.summary()), file=sys.stderr)
            if own is not None and watched.error is not None:
                print(f"error: {watched.error}", file=sys.stderr)
    except Exception as error:
        if error is not own and not isinstance(error, MdlError):
            raise
        shown = [] if error is own else [f"error: {error}"]
        # What IPython shows instead of a traceback.
        vars(error)["_render_traceback_"] = lambda: shown
        raise


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
