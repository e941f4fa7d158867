"""The group of all commands; each is imported when used: `mdl cache ls` imports no torch."""

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import click

from mdl.errors import UsageError
from mdl.version import __version__

# command → (module, one-line help); with the help here, `mdl --help` imports no command.
COMMANDS = {
    "resolve": ("mdl.cli.resolve", "Show what a model name resolves to, and why."),
    "inspect": ("mdl.cli.inspect", "Show the format of a repository's weights, and the proof."),
    "tree": ("mdl.cli.tree", "Show the family of a model, and what each request takes."),
    "access": ("mdl.cli.resolve", "Show who may read a repository, and where to request access."),
    "lock": ("mdl.cli.lock", "Lock names to commits and file hashes."),
    "pull": ("mdl.cli.load", "Download what a name resolves to."),
    "load": ("mdl.cli.load", "Load a model, report what was loaded, try a prompt."),
    "chat": ("mdl.cli.chat", "Load a model and talk with it."),
    "run": ("mdl.cli.run", "Run a command and say which models it really opened."),
    "verify": ("mdl.cli.load", "Check a report, a lock file or a snapshot against the disk."),
    "catalog": ("mdl.cli.catalog", "The table of mirrors: list, add, import, sync, check."),
    "cache": ("mdl.cli.cache.group", "See and shrink the Hugging Face cache."),
    "daemon": ("mdl.cli.daemon", "The process that keeps the cache within its limits."),
    "serve": ("mdl.cli.serve", "The HTTP service for a team."),
    "kernels": ("mdl.cli.kernels", "The Triton kernels: list, check, benchmark."),
    "config": ("mdl.cli.config", "Show and change mdl's settings."),
    "completion": ("mdl.cli.completion", "Complete commands and names in bash, zsh and fish."),
    "doctor": ("mdl.cli.doctor", "Check this machine's settings, cache, database and libraries."),
}


# How `mdl --help` groups them.
GROUPS = {
    "Names and models": "resolve inspect tree access pull load chat run verify kernels",
    "Cache": "cache daemon",
    "Team and machine": "lock catalog serve doctor config completion",
}

# What people try, from `hf`, `ollama` and shells → the command that does it; `{}` is what follows.
SHORT_FORMS = {
    **dict.fromkeys(("ls", "list", "scan"), "cache ls"),
    **dict.fromkeys(("rm", "delete", "remove", "del"), "cache rm"),
    **dict.fromkeys(("prune", "gc", "clean", "cleanup"), "cache prune"),
    **dict.fromkeys(("download", "get", "fetch", "install"), "pull"),
    **dict.fromkeys(("info", "describe", "format"), "inspect"),
    **dict.fromkeys(("search", "find", "models"), "catalog ls"),
    **dict.fromkeys(("generate", "prompt"), "load {} --prompt TEXT"),
    **dict.fromkeys(("quantize", "convert"), "load {} --4bit"),
    **dict.fromkeys(("which", "what", "name"), "resolve"),
    **dict.fromkeys(("check", "env", "status", "whoami"), "doctor"),
    **{verb: f"cache {verb}" for verb in ("du", "show", "pin", "unpin", "trash", "undo")},
    "normalize": "cache normalize", "dedupe": "cache normalize", "server": "serve",
    "version": "--version", "help": "{} --help",
}  # fmt: skip


class LazyGroup(click.Group):
    """A group that lists its commands without importing them.

    Args:
        places: command → (module, one-line help); the command is the attribute of its name there,
            or the one named behind a colon.
        groups: title → commands, separated by spaces; by default all stand below "Commands".
        short_forms: a word people try → the command below this group that does it.
    """

    def __init__(
        self,
        *args: Any,
        places: Mapping[str, tuple[str, str]],
        groups: Mapping[str, str] | None = None,
        short_forms: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._places = places
        self._groups = groups or {}
        self._short_forms = short_forms or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute or cmd_name)
        if "_MDL_COMPLETE" in os.environ:
            from mdl.cli.completion import offer_names

            offer_names(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word in self._short_forms and word not in self._places:
            import shlex

            before, _, after = map(str.strip, self._short_forms[word].partition("{}"))
            instead = " ".join(filter(None, [before, shlex.join(args[1:]), after]))
            raise UsageError(
                f"There is no command `{ctx.command_path} {word}`.",
                next=f"Run: {ctx.command_path} {instead}",
            )
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(word, self._places, n=2)
            if close:
                said = f"{error.message} Did you mean {' or '.join(close)}?"
                raise click.UsageError(said, ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self._places))
        for title, names in self._sections():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), self._places[name][1]) for name in names])

    def _sections(self) -> Iterator[tuple[str, list[str]]]:
        grouped = [name for names in self._groups.values() for name in names.split()]
        for title, names in self._groups.items():
            yield title, names.split()
        others = [name for name in self._places if name not in grouped]
        if others:
            yield "Commands", others


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    groups=GROUPS,
    short_forms=SHORT_FORMS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "--version", prog_name="mdl")
def cli() -> None:
    """Resolve, cache and load Hugging Face models without surprises.

    \b
    First, see what a name resolves to, and why (this downloads nothing):
      mdl resolve meta-llama/Llama-3.1-8B-Instruct --4bit

    \b
    Then, for example:
      mdl pull Qwen/Qwen3-0.6B                      download it
      mdl load Qwen/Qwen3-0.6B --4bit --prompt Hi   load it in 4 bits and try it
      mdl chat Qwen/Qwen3-0.6B                      talk with it
      mdl cache ls                                  see what is on the disk
      mdl cache prune --unused-for 90d --dry-run    see what could go
    """
