"""`mdl cache`: see the Hugging Face cache whole, and shrink it without fear."""

import click

from mdl.cli.group import LazyGroup

# command -> (module, one-line help); a listing does not import what pruning needs.
COMMANDS = {
    "ls": ("mdl.cli.cache.read:list_command", "List every repository once, whatever its casings."),
    "show": ("mdl.cli.cache.read", "Say everything about one repository."),
    "du": ("mdl.cli.cache.read", "Say what takes the room; draw it with --plot."),
    "prune": ("mdl.cli.cache.change", "Remove what a policy says, into the trash."),
    "rm": ("mdl.cli.cache.change", "Remove one repository, revision or file, into the trash."),
    "normalize": ("mdl.cli.cache.change", "Make every casing find one copy."),
    "verify": ("mdl.cli.cache.verify", "Check content against its names, offline."),
    "pin": ("mdl.cli.cache.keep", "Keep a repository, revision or commit from every prune."),
    "unpin": ("mdl.cli.cache.keep", "Take a pin away."),
    "trash": ("mdl.cli.cache.keep", "List, restore or empty the trash."),
    "undo": ("mdl.cli.cache.keep", "Revert the last action."),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def cache() -> None:
    """See the Hugging Face cache whole, and shrink it without fear."""
