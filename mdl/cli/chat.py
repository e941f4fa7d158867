"""`mdl chat`."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.load import load_model, load_options, model_options
from mdl.cli.output import echo_json_line
from mdl.cli.resolve import format_options
from mdl.errors import MdlError

if TYPE_CHECKING:
    from mdl.loader import Conversation

_HELP = """\
/reset  forget the conversation so far
/exit   end (Ctrl-D does too)
/help   this list
Ctrl-C stops a reply. A message that begins with a slash: put a space before it."""
_HINT = "Write a message; /help lists the commands, Ctrl-D ends."


@click.command()
@click.argument("name")
@format_options
@load_options
@model_options
@click.option("--system", metavar="TEXT", help="Tell the model this before the first message.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="The longest reply.",
)
def chat(name: str, **options: Any) -> None:
    """Load NAME and keep a conversation with it, through its chat template.

    Without a terminal each line of standard input is a message; --json prints an object a line,
    the load's report first.
    """
    loaded = load_model(name, options)
    if loaded is None:
        return
    from mdl.loader import Conversation

    conversation = Conversation(loaded, options["system"])
    as_json, person = options["as_json"], sys.stdin.isatty()
    if as_json:
        echo_json_line(loaded.report.to_json())
    else:
        click.echo(f"{loaded.report}\n")
        if person:
            click.echo(_HINT)
    for text in _messages(person=person):
        word = text.split(" ")[0]
        if word in ("/exit", "/quit", "/bye"):
            break
        if word == "/reset":
            conversation.reset()
            click.echo("The conversation begins anew.", err=True)
        elif word.startswith("/"):
            if word != "/help":
                click.echo(f"There is no command {word}.", err=True)
            click.echo(_HELP, err=True)
        elif text.strip():
            _reply(conversation, text.strip(), options["max_new_tokens"], as_json=as_json,
                   person=person)  # fmt: skip


def _messages(*, person: bool) -> Iterator[str]:
    """What is written, line by line, until the end of the input."""
    if not person:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # input() edits and remembers lines with it
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            click.echo("\n(/exit or Ctrl-D ends)", err=True)
        except EOFError:
            click.echo()
            return


def _reply(
    conversation: "Conversation", text: str, length: int, *, as_json: bool, person: bool
) -> None:
    """Print one reply; a person may interrupt it, and is told what went wrong and asked again."""
    show = None if as_json else lambda piece: click.echo(piece, nl=False)
    try:
        reply = conversation.reply(text, length, show)
    except KeyboardInterrupt:
        if not person:
            raise
        click.echo("\n(stopped)", err=True)
    except MdlError as error:
        if not person:
            raise
        click.echo(f"error: {error}", err=True)
    else:
        if as_json:
            echo_json_line({"message": text, "reply": reply})
        else:
            click.echo("\n" if person else "")
