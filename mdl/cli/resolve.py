"""`mdl resolve` and `mdl access`."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.output import FilePath, echo_json, echo_json_line
from mdl.errors import MdlError, NoAccessError, UsageError
from mdl.formatting import human_ago, human_size, printable, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mdl.resolver import Resolution, ResolveOptions, Resolver

_FORMATS = {
    "four": "bnb-4bit", "eight": "8bit", "fp8": "fp8", "sixteen": "16bit",
}  # fmt: skip


def format_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """The options that every command which takes a name shares."""
    for option in reversed(
        (
            click.option("--4bit", "four", is_flag=True, help="4-bit (NF4) weights."),
            click.option("--8bit", "eight", is_flag=True, help="8-bit weights."),
            click.option("--fp8", is_flag=True, help="fp8 weights."),
            click.option("--16bit", "sixteen", is_flag=True, help="16-bit weights."),
            click.option("--exact", is_flag=True, help="That repository and no other."),
            click.option("--revision", help="A branch, tag or commit of the named repository."),
            click.option(
                "--prefer",
                type=click.Choice(["default", "cached", "official"]),
                help="Take what is here, or the publisher's own.",
            ),
            click.option("--offline", is_flag=True, help="Open no socket."),
        )
    ):
        command = option(command)
    return command


def resolve_arguments(flags: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `mdl.resolve` behind the options of `format_options`.

    Raises:
        UsageError: two formats at once.
    """
    formats = [name for flag, name in _FORMATS.items() if flags.get(flag)]
    if len(formats) > 1:
        raise UsageError(
            "Ask for one format at a time.",
            why=f"given: {', '.join(formats)}",
            next="Leave out all but one.",
        )
    return {
        "format": formats[0] if formats else "16bit",
        "exact": flags["exact"],
        "revision": flags["revision"],
        "prefer": flags["prefer"],
        "offline": True if flags["offline"] else None,
    }


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@format_options
@click.option("--fp8-scaling", type=click.Choice(["block", "row"]), help="How fp8 is scaled.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read names, one a line; JSON Lines out.")
@click.option("--locked", type=FilePath(dir_okay=False), help="Answer as this lock file says.")
@click.option("--history", is_flag=True, help="What was answered before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a name.")
def resolve(names: tuple[str, ...], **flags: Any) -> int:
    """Say what each NAME will give, and why. Fetches nothing."""
    from mdl.local_resolver import resolver_for
    from mdl.resolver import ResolveOptions

    if not names and not flags["from_stdin"] and not flags["history"]:
        raise UsageError("Which name?", next="mdl resolve org/name [--4bit | --exact]")
    if flags["history"]:
        return _show_history(resolver_for(offline=True), names, flags["as_json"])
    arguments = resolve_arguments(flags)
    resolver = resolver_for(offline=arguments.pop("offline"))
    arguments["prefer"] = arguments["prefer"] or resolver.settings.prefer
    options = ResolveOptions(**arguments, fp8_scaling=flags["fp8_scaling"] or "block")
    asked = _with_stdin(names) if flags["from_stdin"] else names
    if flags["locked"]:
        answers = _locked(resolver, flags["locked"], asked, options)
    else:
        answers = resolver.resolve_many(asked, options)
    if flags["from_stdin"]:
        return _stream(answers)
    printed = list(answers)
    if not flags["locked"]:
        _record(resolver, printed)
    return _print_all(printed, flags["as_json"])


def _with_stdin(names: tuple[str, ...]) -> Iterator[str]:
    yield from names
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def _locked(
    resolver: "Resolver", path: str, names: Iterable[str], options: "ResolveOptions"
) -> "Iterator[Resolution | MdlError]":
    from mdl.resolver import resolve_locked

    for name in names:
        try:
            yield resolve_locked(resolver, path, name, options)
        except MdlError as error:
            error.details.setdefault("requested", name)
            yield error


def _record(resolver: "Resolver", answers: "list[Resolution | MdlError]") -> None:
    for answer in answers:
        if not isinstance(answer, MdlError) and answer.substituted and answer.error is None:
            resolver.record(answer, "resolve", announce=False)  # it is printed


def _print_all(answers: "Sequence[Resolution | MdlError]", as_json: bool) -> int:
    code = 0
    for answer in answers:
        error = answer if isinstance(answer, MdlError) else answer.error
        if as_json:
            (echo_json if len(answers) == 1 else echo_json_line)(_body(answer))
        elif error is not None:
            if not isinstance(answer, MdlError):
                _print_trace(answer)
            click.echo(f"error: {error}", err=True)
        elif not isinstance(answer, MdlError):
            _print(answer)
        code = code or (error.exit_code if error is not None else 0)
    return code


def _body(answer: "Resolution | MdlError") -> dict[str, Any]:
    if isinstance(answer, MdlError):
        return {**answer.details, "error": answer.to_json()}
    body = answer.to_json()
    if answer.error is not None and "suggestions" in answer.error.details:
        body["suggestions"] = answer.error.details["suggestions"]
    return body


def _stream(answers: "Iterable[Resolution | MdlError]") -> int:
    """One JSON line a name, as soon as it is answered; the first failure's code at the end."""
    import json

    code = 0
    write = sys.stdout.write
    for answer in answers:
        error = answer if isinstance(answer, MdlError) else answer.error
        write(json.dumps(_body(answer)) + "\n")
        sys.stdout.flush()  # the reader may be waiting for this very answer
        code = code or (error.exit_code if error is not None else 0)
    return code


def _print(answer: "Resolution") -> None:
    arrow = "→" if answer.substituted else "="
    click.echo(f"{printable(answer.requested)} {arrow} {answer.repo_id}")
    lines = [("format", _format_line(answer))]
    if answer.commit:
        lines.append(("commit", answer.commit))
    lines.append(("access", f"{answer.access} ({_gated(answer.gated)})"))
    lines.append(("source", f"{answer.source} {answer.source_version or ''}".rstrip()))
    lines.append(("cached", _cached_line(answer)))
    if answer.knowledge_age is not None:
        import time

        lines.append(("known", human_ago(time.time() - answer.knowledge_age)))
    for key, value in lines:
        click.echo(f"  {key:<8}{value}")
    _print_trace(answer)


def _print_trace(answer: "Resolution") -> None:
    for step in answer.trace:
        mark = {"accepted": "✓", "rejected": "✗"}.get(step.verdict, "·")
        click.echo(f"  {mark} {printable(step.candidate)}: {printable(step.reason)}")
    if answer.alternatives and answer.error is None:
        click.echo(f"  also: {', '.join(answer.alternatives)}")


def _format_line(answer: "Resolution") -> str:
    if answer.quantize_on_load:
        return f"{answer.format}, quantized on load from {answer.weights or 'float'} weights"
    return answer.format


def _gated(gated: bool | str | None) -> str:
    if isinstance(gated, str):
        return f"gated: {gated}"
    return "gating unknown" if gated is None else "not gated"


def _cached_line(answer: "Resolution") -> str:
    if answer.cached is None:
        return "no"
    state = "yes" if answer.cached.complete else "in part"
    return f"{state}, {human_size(answer.cached.bytes)}"


def _show_history(resolver: "Resolver", names: tuple[str, ...], as_json: bool) -> int:
    rows = [row for name in names or (None,) for row in resolver.catalog.history(name)]
    if as_json:
        echo_json({"history": rows})
    elif not rows:
        click.echo("Nothing was recorded.")
    else:
        click.echo(
            table(
                ["REQUESTED", "FORMAT", "RESOLVED TO", "RULE", "FOR", "WHEN"],
                [
                    (r["requested"], r["format"], r["repo_id"], r["rule"], r["purpose"],
                     human_ago(r["at"]))
                    for r in rows
                ],
            )
        )  # fmt: skip
    return 0


@click.command()
@click.argument("name")
@click.option("--offline", is_flag=True, help="Open no socket.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def access(name: str, offline: bool, as_json: bool) -> int:
    """Say who may read NAME, where to ask, and which mirrors are open."""
    from mdl import local_resolver
    from mdl.resolver import no_access

    found = local_resolver.access(name, offline=True if offline else None)
    if as_json and found.denied:
        error = no_access(
            found.repo_id, found.access, found.access, found.message, found.ungated_mirrors
        )
        error.details = found.to_json()
        raise error
    if as_json:
        echo_json(found.to_json())
        return 0
    click.echo(f"{found.repo_id}: {found.access} ({_gated(found.gated)})")
    if found.message and found.access not in ("open", "granted"):
        click.echo(f"  the Hub  {printable(found.message)}")
    click.echo(f"  page     {found.page}")
    if found.ungated_mirrors:
        click.echo(f"  ungated  {', '.join(found.ungated_mirrors)}")
    return NoAccessError.exit_code if found.denied else 0
