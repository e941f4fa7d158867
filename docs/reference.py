"""Writes docs/cli.md and the man page from the commands' own help: `python docs/reference.py`."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from mdl.cli.group import GROUPS, cli
from mdl.version import __version__

HEAD = """# Commands

Every command's `--help`, as it is. Made by `make docs`; a test holds it against the code.
"""


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below `command` with its full name, groups before what they hold."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, f"{path} {name}")


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for path, command in commands(cli, "mdl"):
        context = click.Context(
            command,
            info_name=path,
            max_content_width=90,
            terminal_width=90,
            help_option_names=["-h", "--help"],  # as below the real `mdl`
        )
        parts.append(f"\n## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return "".join(parts)


ENDINGS = (
    (0, "done"), (1, "failed"), (2, "wrong usage"), (3, "not found"), (4, "no access"),
    (5, "not available offline"), (6, "verification failed"), (7, "busy"), (130, "interrupted"),
)  # fmt: skip
VARIABLES = (
    ("MDL_HOME", "the folder of mdl's database, index and configuration; ~/.mdl by default"),
    ("MDL_CONFIG", "the configuration file"),
    ("MDL_SERVER, MDL_SERVER_TOKEN", "a service that resolves names, and the token for it"),
    ("MDL_DATABASE_URL", "a database for the catalogue: PostgreSQL or SQLite"),
    ("MDL_HUB_TIMEOUT", "seconds to wait for the Hub"),
    ("MDL_DEBUG", "show tracebacks of unexpected errors"),
    ("HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE", "as for huggingface_hub"),
    ("NO_COLOR, PAGER", "no colours; the program for long lists"),
)


def roff(text: str) -> str:
    """Text as roff source: nothing in it is a command or a ligature."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """A docstring of click's: paragraphs, some laid out by hand behind a `\\b`."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith("\b\n"):
            yield f".PP\n.nf\n{roff(part[2:])}\n.fi"
        else:
            yield f".PP\n{roff(' '.join(part.split()))}"


def man_page() -> str:
    """Every command on one page, `mdl.1`."""
    known = dict(commands(cli, "mdl"))
    parts = [
        f'.TH MDL 1 "" "mdl {__version__}" "User Commands"',
        ".nh\n.ad l",
        ".SH NAME\nmdl \\- resolve, cache and load Hugging Face models",
        ".SH SYNOPSIS\n.B mdl\n.I command\n[options] [arguments]",
        ".SH DESCRIPTION",
        *paragraphs(cli.help or ""),
        ".PP\nEvery command takes \\-\\-help and \\-\\-json.",
    ]
    for title, names in GROUPS.items():
        parts.append(f".SH {roff(title.upper())}")
        for name in names.split():
            for path in (p for p in known if p.split()[1:2] == [name]):
                parts += list(_section(path, known[path]))
    parts.append(".SH EXIT STATUS")
    parts += [f".TP\n.B {code}\n{roff(meaning)}" for code, meaning in ENDINGS]
    parts.append(".SH ENVIRONMENT")
    parts += [f".TP\n.B {roff(name)}\n{roff(meaning)}" for name, meaning in VARIABLES]
    return "\n".join(parts) + "\n"


def _section(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {roff(f'{path} {usage}')}"
    yield from paragraphs(command.help or "")
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            name = roff(record[0]).replace("|", r"|\:")  # where a long line may break
            yield f".TP\n.B {name}\n{roff(' '.join(record[1].split()))}"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference())
    Path(__file__).with_name("mdl.1").write_text(man_page())
