"""`mdl pull`, `mdl load` and `mdl verify`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.output import FilePath, echo_json, echo_json_line, never_asks
from mdl.cli.resolve import asked_format, format_options, resolve_arguments
from mdl.errors import UsageError
from mdl.formatting import counted, human_size, printable

if TYPE_CHECKING:
    from mdl.loader import Loaded, LoadRequest, Pulled
    from mdl.loader.planning import LoadPlan


def load_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `pull` and `load` share, besides those for the format."""
    for option in (
        click.option(
            "--allow-pickle", is_flag=True, help="Accept pickled weights, which can run code."
        ),
        click.option(
            "--locked",
            type=FilePath(dir_okay=False),
            help="Require exactly the files in this lock file.",
        ),
        click.option("--base", metavar="NAME", help="The model to put an adapter on."),
        click.option("--trust-remote-code", is_flag=True, help="Run the repository's own Python."),
        click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
        click.option("--progress/--no-progress", default=None, help="Show a progress bar."),
        never_asks,
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@format_options
@load_options
@click.option("--include", multiple=True, metavar="PATTERN", help="Only files that match.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="No files that match.")
@click.option("--all-files", is_flag=True, help="Every file of the repository.")
@click.option(
    "--local-dir",
    type=FilePath(file_okay=False, path_type=Path),
    help="Download to this folder instead of the cache.",
)
@click.option("--token", help="A Hub token, instead of the one of this machine.")
@click.option("-q", "--quiet", is_flag=True, help="Print the path alone, for another program.")
@click.option(
    "--repair", is_flag=True, help="Check the hash of every file; download damaged ones again."
)
def pull(names: tuple[str, ...], **options: Any) -> None:
    """Download the files that each NAME needs, and no others; print where they are."""
    from mdl import loader

    for name in names:
        pulled = loader.pull(
            name,
            **{**resolve_arguments(options), "format": asked_format(options, name)},
            base=options["base"],
            locked=options["locked"],
            allow_pickle=options["allow_pickle"],
            trust_remote_code=options["trust_remote_code"],
            repair=options["repair"],
            dry_run=options["dry_run"],
            include=options["include"],
            exclude=options["exclude"],
            all_files=options["all_files"],
            local_dir=options["local_dir"],
            token=options["token"],
            progress=loader.progress_for(f"pull {name}", options["progress"]),
        )
        if options["as_json"]:
            (echo_json if len(names) == 1 else echo_json_line)(pulled.report)
        elif options["quiet"]:
            if pulled.path is not None:
                click.echo(str(pulled.path))
        else:
            show_pulled(pulled)


def _what_came(pulled: "Pulled") -> str:
    """How much was, or would be, downloaded and copied."""
    would, done = ("would ", "") if pulled.path is None else ("", "ed")
    ways = []
    if pulled.downloaded or not pulled.copied:
        count = f"{human_size(pulled.bytes)} in {counted(len(pulled.downloaded), 'file')}"
        here = f" ({human_size(pulled.resumed)} more were here)" if pulled.resumed else ""
        ways.append(f"{would}download{done} {count}{here}")
    if pulled.copied:
        copy = "copied" if done else "would copy"
        ways.append(f"{copy} {counted(len(pulled.copied), 'file')} from the cache")
    return ", ".join(ways)


def show_pulled(pulled: "Pulled") -> None:
    adapter = pulled.adapter
    if adapter is not None:
        click.echo(f"{pulled.requested} is an adapter for {pulled.repo_id}.")
        if adapter["folder"] is not None:
            click.echo(adapter["folder"])
    commit = f" @ {pulled.commit[:12]}" if pulled.commit else ""
    format = f" ({pulled.format})" if pulled.format else ""
    click.echo(f"{pulled.repo_id}{commit}{format}: {_what_came(pulled)}")
    if pulled.left_out:
        some = ", ".join(printable(path) for path in pulled.left_out[:3])
        more = ", …" if len(pulled.left_out) > 3 else ""
        count = counted(len(pulled.left_out), "file")
        click.echo(f"  left out {count}: {some}{more} (--all-files takes them)")
    for path in pulled.repaired or ():
        click.echo(f"  repaired {path}")
    if pulled.path is not None:
        click.echo(str(pulled.path))
        return
    for path in pulled.downloaded:
        click.echo(f"  {path}")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the commands that load a model."""
    for option in (
        click.option(
            "--report",
            type=FilePath(dir_okay=False, path_type=Path),
            help="Write the report to this file.",
        ),
        click.option(
            "--no-memory-check", is_flag=True, help="Load even if the memory is too small."
        ),
        click.option(
            "--allow-dequantize",
            is_flag=True,
            help="Load fp8 or MXFP4 weights as floats where this machine cannot compute in them.",
        ),
        click.option("--no-local-copy", is_flag=True, help="Save no local 4-bit copy."),
        click.option("--no-kernels", is_flag=True, help="Apply none of mdl's kernels."),
        click.option("--device-map", help="cpu, cuda, auto, balanced or sequential."),
        click.option("--dtype", help="bfloat16, float16 or float32; the checkpoint's by default."),
        click.option(
            "--max-seq-length", type=int, help="Tokens to plan memory for (with --dry-run)."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("name")
@format_options
@load_options
@model_options
@click.option("--prompt", help="Print the model's reply to this.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Length of the reply.",
)
def load(name: str, **options: Any) -> None:
    """Load NAME, report what was loaded, and try a prompt."""
    loaded = load_model(name, options)
    if loaded is None:
        return None
    reply, as_json = None, options["as_json"]
    if options["prompt"] is not None:
        from mdl.loader import reply_to

        show = None if as_json else lambda piece: click.echo(piece, nl=False)
        reply = reply_to(loaded, options["prompt"], options["max_new_tokens"], show=show)
    if as_json:
        return echo_json({**loaded.report.to_json(), "answer": reply})
    if reply is not None:
        click.echo("\n")
    return click.echo(str(loaded.report))


def load_model(name: str, options: dict[str, Any]) -> "Loaded | None":
    """Load a model as the options say; None after a dry run, whose plan is printed."""
    from mdl.loader import load_request, progress_for
    from mdl.loader.planning import make_plan

    # On a CPU bitsandbytes logs at every import that an optional kernel package is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    request = request_of(name, options)
    if options["dry_run"]:
        show_plan(make_plan(request), options)
        return None
    if options["report"]:  # fail before the load, not after it
        from mdl.loader import make_parent

        make_parent(options["report"])
    loaded = load_request(request, progress=progress_for(f"load {name}", options["progress"]))
    if options["report"]:
        loaded.report.save(options["report"])
    return loaded


def show_plan(plan: "LoadPlan", options: dict[str, Any]) -> None:
    """Print a plan; one that does not fit ends with the load's error."""
    from mdl.loader.planning import check_plan

    if not options["as_json"]:
        click.echo(str(plan))
    check_plan(plan, sizes=not options["no_memory_check"])
    if options["as_json"]:
        echo_json(plan.to_json())


@click.command()
@click.argument("target", type=FilePath(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(target: Path, as_json: bool) -> None:
    """Check that a report, a lock file, a snapshot or a GGUF file still matches the disk."""
    from mdl.loader import verify_target

    outcome = verify_target(target)
    if not as_json:
        for line in outcome.checked:
            click.echo(f"ok       {line}")
        for line in outcome.problems:
            click.echo(f"changed  {line}")
    outcome.raise_problems()
    if as_json:
        echo_json(outcome.to_json())


def request_of(name: str, options: dict[str, Any]) -> "LoadRequest":
    """The load request behind the command line's options."""
    from mdl.loader import make_request

    arguments = resolve_arguments(options)
    for option, name_of in (("--for", "runtime"), ("--fit", "fit"), ("--mmproj", "mmproj")):
        if (value := arguments[name_of]) is not None:
            raise UsageError(
                f"A model is not loaded with {option}.",
                why="It chooses files for other programs, with mdl pull and mdl resolve.",
                next=f"Leave it out, or see what it takes: mdl resolve {name} {option} {value}.",
            )
    return make_request(
        name,
        format=asked_format(options, name),
        use_exact_model_name=arguments["exact"],
        base=options["base"],
        revision=arguments["revision"],
        dtype=options.get("dtype"),
        device_map=options.get("device_map"),
        kernels=not options.get("no_kernels", False),
        quantize_once=not options.get("no_local_copy", False),
        check_memory=not options.get("no_memory_check", False),
        max_seq_length=options.get("max_seq_length"),
        allow_dequantize=options.get("allow_dequantize", False),
        any_publisher=arguments["any_publisher"],
        trust_remote_code=options["trust_remote_code"],
        allow_pickle=options["allow_pickle"],
        local_files_only=arguments["offline"],
        prefer=arguments["prefer"],
        locked=options["locked"],
    )
