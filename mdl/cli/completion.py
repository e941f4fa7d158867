"""Completion in bash, zsh and fish: `mdl completion`, and what it offers for names."""

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from mdl.cli.output import confirm, echo_json, yes_option
from mdl.errors import MdlError, UsageError
from mdl.settings import Settings, load_settings

VARIABLE = "_MDL_COMPLETE"
_MOST = 200
_FILTERS = (
    "size>", "size<", "accessed>", "accessed<", "modified>", "modified<", "type=model",
    "type=dataset", "type=space", "state=complete", "state=partial", "state=broken", "name=",
    "refs=", "pinned=true", "pinned=false",
)  # fmt: skip
_ORDERS = [f"{key}{way}" for key in ("size", "name", "accessed", "modified")
           for way in ("", ":asc", ":desc")]  # fmt: skip

# bash breaks words at more than white space: the whole line is sent, and Python finds the word.
_BASH = """\
%(complete_func)s() {
    local response type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value"); [[ $value == *[=\\>\\<:@/] ]] && compopt -o nospace ;;
        esac
    done <<< "$response"
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """click's, for values in which bash sees several words (`type=model`, `size:desc`)."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """The script needs bash 4.4; asking for the version would start another bash."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        args = split_arg_string(line)
        self._quoted = _is_open(line)
        self._incomplete = args.pop() if self._quoted or line[-1:].strip() else ""
        return args[1:], self._incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        value = item.value
        if not self._quoted:
            seen = 1 + max(self._incomplete.rfind(c) for c in "=:@<>")
            value = value.removeprefix(self._incomplete[:seen])
        return f"{item.type},{value}"


def _is_open(line: str) -> bool:
    """Whether a quote is still open at the end."""
    try:
        shlex.split(line)
    except ValueError:
        return True
    return False


add_completion_class(_Bash)


def _names(settings: Settings, context: click.Context, begun: str) -> Iterable[str]:
    """Repositories in the cache and, but for the cache's own commands, in the catalogue."""
    from mdl.cachemgr import cached_names
    from mdl.store import catalogued_names

    of_cache = context.command_path.startswith("mdl cache")
    name, at, _ = begun.partition("@")
    if of_cache and at:
        return [f"{name}@{revision}" for revision in _revisions_of(settings, context, name)]
    given = context.params.get("cache_dir")
    cached = [
        repo_id if repo_type == "model" else f"{repo_type}/{repo_id}"
        for repo_type, repo_id in cached_names(settings, given, begun.rpartition("/")[2])
        if of_cache or repo_type == "model"
    ]
    if of_cache:
        return cached
    return [*cached, *catalogued_names(Path(settings.database_path), begun, _MOST)]


def _revisions(settings: Settings, context: click.Context, begun: str) -> Iterable[str]:
    # click leaves the arguments in `args` where the last option still waits for its value.
    given = context.params.get("name") or context.params.get("names") or context.args
    names = [given] if isinstance(given, str) else given
    return [found for name in names for found in _revisions_of(settings, context, name)]


def _revisions_of(settings: Settings, context: click.Context, name: str) -> list[str]:
    from mdl.cachemgr import cached_revisions

    return cached_revisions(Path(context.params.get("cache_dir") or settings.cache_root), name)


_Offer = Callable[[Settings, click.Context, str], Iterable[str]]
_BY_PARAMETER: dict[str, _Offer] = {
    **dict.fromkeys(("name", "names", "target", "targets", "pattern", "mirror"), _names),
    "revision": _revisions,
    "filters": lambda *_: _FILTERS,
    "order": lambda *_: _ORDERS,
}


class _Offered(click.ParamType[str]):
    """A text for which values are offered."""

    name = "text"

    def __init__(self, offer: _Offer) -> None:
        self._offer = offer

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        try:
            found = self._offer(load_settings(), ctx, incomplete)
        except (MdlError, OSError):
            return []  # the command itself will say what is wrong
        begun = incomplete.casefold()
        fits = (value for value in dict.fromkeys(found) if value.casefold().startswith(begun))
        shown = [value for value in fits if value.isprintable()]
        return [CompletionItem(value) for value in shown[:_MOST]]


def offer_names(command: click.Command) -> None:
    """Have a command's plain arguments and options complete by what they are called."""
    for parameter in command.params:
        offer = _BY_PARAMETER.get(parameter.name or "")
        if offer is not None and parameter.type is click.STRING:
            parameter.type = _Offered(offer)


_SHELLS = ("bash", "zsh", "fish")
_MARK = "# mdl completion"


@click.command()
@click.argument("what", metavar="bash|zsh|fish|install",
                type=click.Choice([*_SHELLS, "install"]))  # fmt: skip
@click.option("--shell", type=click.Choice(_SHELLS), help="Install for it; else for $SHELL.")
@click.option("--dry-run", is_flag=True, help="Show what would be written.")
@yes_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def completion(what: str, shell: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Print the completion script of a shell, or install it for yours.

    Completes commands, options, repository names, revisions and filters. For this shell alone:

        eval "$(mdl completion bash)"
    """
    if what != "install":
        script = _script(what)
        echo_json({"shell": what, "script": script}) if as_json else click.echo(script, nl=False)
        return 0
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in _SHELLS:
        raise UsageError(
            f"There is no completion for the shell {shell!r}.",
            next="Name one: mdl completion install --shell bash (or zsh, fish).",
        )
    path, text = _target(shell), _installed(shell)
    old = path.read_text() if path.exists() else ""
    here = _MARK in old and shell != "fish"
    new = text if shell == "fish" else old if here else f"{old.rstrip()}\n\n{text}".lstrip()
    if new != old and not dry_run:
        confirm(f"Write completion into {path}?", yes=yes)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new)
    if as_json:
        echo_json({"shell": shell, "path": str(path), "changed": new != old, "dry_run": dry_run})
    elif new == old:
        click.echo(f"{path} already has it.")
    elif dry_run:
        click.echo(f"Would write into {path}:\n{text}", nl=False)
    else:
        click.echo(f"{path} has it; a new {shell} completes `mdl`.")
    return 0


def _script(shell: str) -> str:
    root = click.get_current_context().find_root().command
    kind: Any = get_completion_class(shell)
    script: str = kind(root, {}, "mdl", VARIABLE).source()
    return script


def _target(shell: str) -> Path:
    home = Path.home()
    if shell == "fish":
        config = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
        return Path(config, "fish", "completions", "mdl.fish")
    return Path(os.environ.get("ZDOTDIR") or home, ".zshrc") if shell == "zsh" else home / ".bashrc"


def _installed(shell: str) -> str:
    if shell == "fish":
        return _script(shell)
    first = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\n"
    line = f'command -v mdl >/dev/null && eval "$(mdl completion {shell})"\n'
    return f"{_MARK}\n{first if shell == 'zsh' else ''}{line}"
