"""The group of all commands; each is imported when used: `mdl cache ls` imports no torch."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from mdl.version import __version__

# command → (module, one-line help); with the help here, `mdl --help` imports no command.
COMMANDS = {
    "resolve": ("mdl.cli.resolve", "Show what a model name resolves to, and why."),
    "inspect": ("mdl.cli.inspect", "Show the format of a repository's weights, and the proof."),
    "access": ("mdl.cli.resolve", "Show who may read a repository, and where to request access."),
    "lock": ("mdl.cli.lock", "Lock names to commits and file hashes."),
    "pull": ("mdl.cli.load", "Download what a name resolves to."),
    "load": ("mdl.cli.load", "Load a model, report what was loaded, try a prompt."),
    "verify": ("mdl.cli.load", "Check a report, a lock file or a snapshot against the disk."),
    "catalog": ("mdl.cli.catalog", "The table of mirrors: list, add, import, sync, check."),
    "cache": ("mdl.cli.cache.group", "See and shrink the Hugging Face cache."),
    "daemon": ("mdl.cli.daemon", "The process that keeps the cache within its limits."),
    "serve": ("mdl.cli.serve", "The HTTP service for a team."),
    "kernels": ("mdl.cli.kernels", "The Triton kernels: list, check, benchmark."),
    "doctor": ("mdl.cli.doctor", "Check this machine's settings, cache, database and libraries."),
}


class LazyGroup(click.Group):
    """A group that lists its commands without importing them.

    Args:
        places: command → (module, one-line help); the command is the attribute of its name there,
            or the one named behind a colon.
    """

    def __init__(self, *args: Any, places: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute or cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self._places, n=2)
            if close:
                said = f"{error.message} Did you mean {' or '.join(close)}?"
                raise click.UsageError(said, ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._places.items()])


@click.group(
    cls=LazyGroup, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "--version", prog_name="mdl")
def cli() -> None:
    """Resolve, cache and load Hugging Face models without surprises."""
