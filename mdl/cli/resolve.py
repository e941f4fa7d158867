"""`mdl resolve` and `mdl access`."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.output import FilePath, echo_json, echo_json_line, page
from mdl.errors import MdlError, NoAccessError, UsageError
from mdl.formatting import human_ago, human_size, printable, styled, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mdl.resolver import Family, Resolution, ResolveOptions, Resolver

    Relatives = Callable[[Resolution | MdlError], Family | None]

# Formats that are taken as they are stored and have a flag of their own; the rest has --format.
_FLAGS = ("gguf", "awq", "gptq", "mlx", "nvfp4", "mxfp4", "exl2", "exl3", "onnx", "openvino",
          "torchao", "hqq", "w4a16", "w8a8")  # fmt: skip
_SHOWN = ("gguf", "awq", "gptq", "mlx")
_FORMATS = {
    "four": "bnb-4bit", "eight": "8bit", "fp8": "fp8", "sixteen": "16bit",
    **{flag: flag for flag in _FLAGS},
}  # fmt: skip


def format_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """The options shared by all commands that resolve names."""
    for option in reversed(
        (
            click.option("--4bit", "four", is_flag=True, help="4-bit (NF4) weights."),
            click.option("--8bit", "eight", is_flag=True, help="8-bit weights."),
            click.option("--fp8", is_flag=True, help="fp8 weights."),
            click.option("--16bit", "sixteen", is_flag=True, help="16-bit weights."),
            *(
                click.option(
                    f"--{flag}",
                    is_flag=True,
                    hidden=flag not in _SHOWN,
                    help=f"{flag.upper()} weights, as they are stored.",
                )
                for flag in _FLAGS
            ),
            click.option(
                "--format",
                "named_format",
                metavar="FORMAT[:VARIANT]",
                help="Any format, such as gguf:Q4_K_M, awq, exl2:4.25, w4a16, nvfp4, onnx:q4.",
            ),
            click.option(
                "--mmproj",
                metavar="PRECISION",
                help="Vision projector to take with a GGUF model: F16, BF16, …; none for none.",
            ),
            click.option(
                "--for",
                "runtime",
                metavar="RUNTIME",
                help="The best format that vllm, sglang, llama.cpp, ollama, mlx, transformers,"
                " unsloth, exllama or onnxruntime loads on this machine.",
            ),
            click.option(
                "--fit",
                is_flag=False,
                flag_value="auto",
                metavar="[SIZE]",
                help="The largest that fits this memory, such as 24GB; this machine's by default.",
            ),
            click.option(
                "--context",
                type=click.IntRange(min=1),
                default=8192,
                show_default=True,
                help="Tokens that have to fit with --fit.",
            ),
            click.option(
                "--any-publisher",
                is_flag=True,
                help="Also take formats from publishers who are not on the trust list.",
            ),
            click.option("--exact", is_flag=True, help="This repository and no other."),
            click.option("--revision", help="A branch, tag or commit of the named repository."),
            click.option(
                "--prefer",
                type=click.Choice(["default", "cached", "official"]),
                help="Prefer what is in the cache, or the publisher's own.",
            ),
            click.option("--offline", is_flag=True, help="Use the database and the cache alone."),
        )
    ):
        command = option(command)
    return command


def asked_format(flags: dict[str, Any], *names: str) -> str | None:
    """The one format that is asked for, if any.

    Raises:
        UsageError: two formats at once; 16-bit, and a name with a variant (`org/name:Q8_0`).
    """
    formats = [name for flag, name in _FORMATS.items() if flags.get(flag)]
    if flags.get("named_format"):
        formats.append(flags["named_format"])
    if "16bit" in formats:  # in the resolver's options, it is no more than the default
        from mdl.resolver import parse_name

        formats += [n for n in names if ":" in n and parse_name(n, allow_variant=True).variant]
    if len(formats) > 1:
        raise UsageError(
            "Ask for one format at a time.",
            why=f"given: {', '.join(formats)}",
            next="Leave out all but one.",
        )
    return formats[0] if formats else None


def resolve_arguments(flags: dict[str, Any], *names: str) -> dict[str, Any]:
    """The arguments of `mdl.resolve` for the options of `format_options`.

    Raises:
        UsageError: two formats at once.
    """
    return {
        "format": asked_format(flags, *names) or "16bit",
        "exact": flags["exact"],
        "revision": flags["revision"],
        "prefer": flags["prefer"],
        "offline": True if flags["offline"] else None,
        "mmproj": flags["mmproj"],
        "any_publisher": flags["any_publisher"],
        "runtime": flags["runtime"],
        "fit": flags["fit"],
        "context": flags["context"],
    }


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@format_options
@click.option("--fp8-scaling", type=click.Choice(["block", "row"]), help="How fp8 is scaled.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read a name per line; print JSON Lines.")
@click.option("--locked", type=FilePath(dir_okay=False), help="Resolve as this lock file says.")
@click.option(
    "--family", "with_family", is_flag=True, help="Show the model's family too, as `mdl tree` does."
)
@click.option("--history", is_flag=True, help="Show earlier resolutions that were used.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per name.")
def resolve(names: tuple[str, ...], **flags: Any) -> int:
    """Show what each NAME resolves to, and why. Downloads nothing."""
    from mdl.local_resolver import resolver_for
    from mdl.resolver import ResolveOptions

    if not names and not flags["from_stdin"] and not flags["history"]:
        raise UsageError("Which name?", next="mdl resolve org/name [--4bit | --exact]")
    if flags["history"]:
        return _show_history(resolver_for(offline=True), names, flags["as_json"])
    arguments = resolve_arguments(flags, *names)
    resolver = resolver_for(offline=arguments.pop("offline"))
    arguments["prefer"] = arguments["prefer"] or resolver.settings.prefer
    options = ResolveOptions(**arguments, fp8_scaling=flags["fp8_scaling"] or "block")
    asked = _with_stdin(names) if flags["from_stdin"] else names
    if flags["locked"]:
        results = _locked(resolver, flags["locked"], asked, options)
    else:
        results = resolver.resolve_many(asked, options)
    relatives = partial(_relatives, resolver) if flags["with_family"] else None
    if flags["from_stdin"]:
        return _stream(results, relatives)
    printed = list(results)
    if not flags["locked"]:
        _record(resolver, printed)
    return _print_all(printed, relatives, as_json=flags["as_json"])


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


def _record(resolver: "Resolver", results: "list[Resolution | MdlError]") -> None:
    for result in results:
        if not isinstance(result, MdlError) and result.substituted and result.error is None:
            resolver.record(result, "resolve", announce=False)  # it is printed


def _relatives(resolver: "Resolver", result: "Resolution | MdlError") -> "Family | None":
    """The family of a resolved name; `None` for a folder, and where nothing is known of it."""
    from mdl.resolver import family

    if isinstance(result, MdlError) or result.is_local:
        return None
    try:
        return family(resolver, result.canonical)
    except MdlError:
        return None


def _print_all(
    results: "Sequence[Resolution | MdlError]", relatives: "Relatives | None", *, as_json: bool
) -> int:
    code = 0
    for result in results:
        error = result if isinstance(result, MdlError) else result.error
        if as_json:
            (echo_json if len(results) == 1 else echo_json_line)(_body(result, relatives))
        elif error is not None:
            if not isinstance(result, MdlError):
                _print_trace(result)
            click.echo(f"error: {error}", err=True)
        elif not isinstance(result, MdlError):
            _print(result)
        if relatives is not None and not as_json:
            _print_relatives(relatives(result))
        code = code or (error.exit_code if error is not None else 0)
    return code


def _print_relatives(found: "Family | None") -> None:
    if found is not None:
        from mdl.cli.tree import print_family

        print_family(found)


def _body(result: "Resolution | MdlError", relatives: "Relatives | None") -> dict[str, Any]:
    if isinstance(result, MdlError):
        return {**result.details, "error": result.to_json()}
    body = result.to_json()
    if relatives is not None:
        found = relatives(result)
        body["family"] = None if found is None else found.to_json()
    if result.error is not None and "suggestions" in result.error.details:
        body["suggestions"] = result.error.details["suggestions"]
    return body


def _stream(results: "Iterable[Resolution | MdlError]", relatives: "Relatives | None") -> int:
    """Print one JSON line per name at once; returns the first failure's exit code."""
    import json

    code = 0
    write = sys.stdout.write
    for result in results:
        error = result if isinstance(result, MdlError) else result.error
        write(json.dumps(_body(result, relatives)) + "\n")
        sys.stdout.flush()  # the reader may be waiting for it
        code = code or (error.exit_code if error is not None else 0)
    return code


def _print(result: "Resolution") -> None:
    arrow = "→" if result.substituted else "="
    click.echo(styled(f"{printable(result.requested)} {arrow} {result.repo_id}", "bold"))
    lines = [("format", _format_line(result))]
    if result.files is not None:
        sizes = [file.size for file in result.files]
        known = None not in sizes
        size = human_size(sum(size or 0 for size in sizes)) if known else "size unknown"
        lines.append(("files", f"{len(sizes)}, {size}"))
        lines += [("", file.path) for file in result.files]
    if result.runtimes:
        lines.append(("runs in", ", ".join(result.runtimes)))
    if result.commit:
        lines.append(("commit", result.commit))
    lines.append(
        ("access", f"{_ACCESS.get(result.access, result.access)} ({_gated(result.gated)})")
    )
    lines.append(("source", f"{result.source} {result.source_version or ''}".rstrip()))
    lines.append(("cached", _cached_line(result)))
    if result.knowledge_age is not None:
        import time

        lines.append(("as of", human_ago(time.time() - result.knowledge_age)))
    for key, value in lines:
        click.echo(f"  {key:<8}{value}")
    _print_trace(result)


_MARKS = {"accepted": ("✓", "good"), "rejected": ("✗", "bad")}
_ACCESS = {
    "no_token": "no token given",
    "bad_token": "token not accepted",
    "not_requested": "not requested",
    "pending": "waiting for its author's review",
    "rejected": "rejected by its author",
}


def _print_trace(result: "Resolution") -> None:
    for step in result.trace:
        mark, style = _MARKS.get(step.verdict, ("·", ""))
        click.echo(f"  {styled(mark, style)} {printable(step.candidate)}: {printable(step.reason)}")
    if result.alternatives and result.error is None:
        click.echo(f"  also: {', '.join(result.alternatives)}")


def _format_line(result: "Resolution") -> str:
    if result.variant:
        return result.label
    if result.quantize_on_load:
        return f"{result.format}, quantized on load from {result.weights or 'float'} weights"
    return result.format


def _gated(gated: bool | str | None) -> str:
    if isinstance(gated, str):
        return f"gated: {gated}"
    return "gating unknown" if gated is None else "not gated"


def _cached_line(result: "Resolution") -> str:
    if result.cached is None:
        return "no"
    state = "yes" if result.cached.complete else "partly"
    return f"{state}, {human_size(result.cached.bytes)}"


def _show_history(resolver: "Resolver", names: tuple[str, ...], as_json: bool) -> int:
    rows = [row for name in names or (None,) for row in resolver.catalog.history(name)]
    if as_json:
        echo_json({"history": rows})
    elif not rows:
        click.echo("No resolutions are recorded.")
    else:
        page(
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
@click.option("--offline", is_flag=True, help="Use the database and the cache alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def access(name: str, offline: bool, as_json: bool) -> int:
    """Show who may read NAME, where to request access, and ungated mirrors."""
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
    state = _ACCESS.get(found.access, found.access)
    click.echo(f"{found.repo_id}: {state} ({_gated(found.gated)})")
    if found.message and found.access not in ("open", "granted"):
        click.echo(f"  the Hub  {printable(found.message)}")
    click.echo(f"  page     {found.page}")
    if found.ungated_mirrors:
        click.echo(f"  ungated  {', '.join(found.ungated_mirrors)}")
    return NoAccessError.exit_code if found.denied else 0
