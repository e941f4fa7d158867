"""`mdl cache`: inspect the Hugging Face cache, and shrink it safely."""

import click

from mdl.cli.group import LazyGroup

# command -> (module, one-line help): a listing does not import what pruning needs.
COMMANDS = {
    "ls": ("mdl.cli.cache.read:list_command", "List the repositories in the cache."),
    "show": ("mdl.cli.cache.read", "Show the details of one repository."),
    "du": ("mdl.cli.cache.read", "Show what takes up the space; draw it with --plot."),
    "prune": ("mdl.cli.cache.change", "Move what a policy selects to the trash."),
    "rm": ("mdl.cli.cache.change", "Move one repository, revision or file to the trash."),
    "normalize": ("mdl.cli.cache.change", "Make every casing find the same copy."),
    "verify": ("mdl.cli.cache.verify", "Check files against their hashes, offline."),
    "pin": ("mdl.cli.cache.keep", "Protect a repository, revision or commit from pruning."),
    "unpin": ("mdl.cli.cache.keep", "Remove a pin."),
    "trash": ("mdl.cli.cache.keep", "List, restore or empty the trash."),
    "undo": ("mdl.cli.cache.keep", "Revert the last action."),
}


SHORT_FORMS = {
    **dict.fromkeys(("list", "scan"), "ls"),
    **dict.fromkeys(("delete", "remove"), "rm"),
    **dict.fromkeys(("clean", "gc"), "prune"),
    **dict.fromkeys(("dedupe", "dedup"), "normalize"),
    "info": "show", "restore": "trash restore", "check": "verify",
}  # fmt: skip


@click.group(cls=LazyGroup, places=COMMANDS, short_forms=SHORT_FORMS)
def cache() -> None:
    """Inspect the Hugging Face cache, and shrink it safely."""
