"""What every command shares: its options, JSON on standard output, a question before a change."""

import sys
from typing import Any

import click

from mdl.errors import MdlError, UsageError

# Every command that changes something takes --yes, so that a script need not know which ones ask.
never_asks = click.option(
    "-y", "--yes", is_flag=True, expose_value=False, help="Nothing is asked here; for scripts."
)


# Of those that do ask.
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


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


def confirm(question: str, *, yes: bool) -> None:
    """Ask before changing something; without a terminal only `--yes` says yes.

    Raises:
        MdlError: the answer is no.
        UsageError: nobody is there to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "This changes things and there is no terminal to ask.",
            next="Add --yes to do it, or --dry-run to see it.",
        )
    # On standard error: a JSON object may be all that standard output is for.
    if not click.confirm(question, default=False, err=True):
        raise MdlError("You said no: nothing was changed.", next="Say y, or add --yes.")
