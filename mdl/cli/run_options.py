"""The options of `mdl run`, read without click: its import would delay every run."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class RunOption(NamedTuple):
    """An option. `value` is what its value is called in the help, `""` for a flag."""

    name: str
    help: str
    value: str = ""
    several: bool = False
    is_file: bool = False
    short: str = ""

    @property
    def key(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


OPTIONS = (
    RunOption("--expect", "Weights that are to be opened, and no others.",
              "NAME[=FORMAT][@REVISION]", several=True),
    RunOption("--locked", "Open only what this lock file names.", "FILE", is_file=True),
    RunOption("--offline", "Keep Hugging Face libraries from opening a socket."),
    RunOption("--fail-fast", "End the command when unexpected weights are opened."),
    RunOption("--watch", "A folder of models outside the cache.", "FOLDER", several=True),
    RunOption("--report", "Write the report.", "FILE", is_file=True),
    RunOption("--quiet", "Say nothing when all is as expected.", short="-q"),
    RunOption("--json", "Print the report as JSON, on standard error."),
)  # fmt: skip


def read_plainly(args: Sequence[str]) -> tuple[dict[str, Any], list[str]] | None:
    """Options and command; `None` for anything that click should explain."""
    options = {each.name: each for each in OPTIONS} | {o.short: o for o in OPTIONS if o.short}
    values: dict[str, Any] = {
        each.key: (() if each.several else None if each.value else False) for each in OPTIONS
    }
    rest = list(args)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        option = options.get(name)
        if option is None or (equals and not option.value):
            return None
        if not option.value:
            values[option.key] = True
            continue
        if not equals:
            if not rest:
                return None
            value = rest.pop(0)
        if not value:
            return None
        values[option.key] = (*values[option.key], value) if option.several else value
    return (values, rest) if rest else None


def run_plainly(values: dict[str, Any], words: Sequence[str]) -> int:
    """Run the command that was read."""
    from mdl.observe import Output, read_requirements, run_command

    required = read_requirements(
        values["expect"],
        values["locked"],
        offline=values["offline"],
        fail_fast=values["fail_fast"],
    )
    output = Output(values["report"], values["json"], values["quiet"])
    return run_command(words, required, output, values["watch"])
