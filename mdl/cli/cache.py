"""`mdl cache`: see the Hugging Face cache whole, and shrink it without fear."""

from importlib import import_module
from typing import Any

import click

# command -> (module, function, one-line help); a listing does not import what pruning needs.
COMMANDS = {
    "ls": ("cache_read", "list_command", "List every repository once, whatever its casings."),
    "show": ("cache_read", "show", "Say everything about one repository."),
    "du": ("cache_read", "du", "Say what takes the room; draw it with --plot."),
    "prune": ("cache_change", "prune", "Remove what a policy says, into the trash."),
    "rm": ("cache_change", "rm", "Remove one repository, revision or file, into the trash."),
    "normalize": ("cache_change", "normalize", "Make every casing find one copy."),
    "verify": ("cache_verify", "verify", "Check content against its names, offline."),
    "pin": ("cache_keep", "pin", "Keep a repository, revision or commit from every prune."),
    "unpin": ("cache_keep", "unpin", "Take a pin away."),
    "trash": ("cache_keep", "trash", "List, restore or empty the trash."),
    "undo": ("cache_keep", "undo", "Revert the last action."),
}


class CacheGroup(click.Group):
    """Imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: Any = getattr(import_module(f"mdl.cli.{module}"), name)
        return command  # type: ignore[no-any-return] # a module attribute has no static type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=CacheGroup)
def cache() -> None:
    """See the Hugging Face cache whole, and shrink it without fear."""
