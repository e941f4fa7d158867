"""What commands share: options, JSON on standard output, confirmation of changes."""

import os
import sys
from typing import Any

import click

from mdl.cli.terminal import clean
from mdl.errors import MdlError, UsageError

# Every command that changes something takes --yes, so scripts need not know which ones ask.
never_asks = click.option(
    "-y", "--yes", is_flag=True, expose_value=False, help="For scripts; this command does not ask."
)


yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


class FilePath(click.Path):
    """A path on the command line; rejects an empty one, which pathlib reads as `.`."""

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if value == "":
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


def echo_json(value: Any) -> None:
    """Print one JSON document: indented on a terminal, on one line for a program.

    Names that are not UTF-8 are escaped, never a crash.
    """
    import json

    # Without an indent the encoder is the one written in C, several times as fast.
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def echo_json_line(value: Any) -> None:
    """Print one line of JSON Lines."""
    import json

    print(json.dumps(value))


def page(text: str) -> None:
    """Print a text; on a terminal that it does not fit on, through the user's pager."""
    if sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM") != "dumb":
        import shutil

        if text.count("\n") + 2 > shutil.get_terminal_size().lines:
            os.environ.setdefault("LESS", "-FRX")  # colours; the text stays when less ends
            click.echo_via_pager(clean(text, styles=True))
            return
    click.echo(text)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before changing something; without a terminal, `--yes` is required.

    Raises:
        MdlError: the user says no.
        UsageError: there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "This needs confirmation, and there is no terminal.",
            next="Add --yes to do it, or --dry-run to preview it.",
        )
    # On standard error: standard output may be for a JSON object alone.
    if not click.confirm(question, default=False, err=True):
        raise MdlError("Cancelled: nothing was changed.", next="Confirm with y, or add --yes.")
