"""Writes docs/cli.md from the commands' own --help: `python docs/reference.py`."""

from collections.abc import Iterator
from pathlib import Path

import click

from mdl.cli.group import cli

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


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference())
