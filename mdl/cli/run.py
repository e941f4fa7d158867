"""`mdl run`."""

from typing import Any

import click

from mdl.cli.output import FilePath
from mdl.cli.run_options import OPTIONS, RunOption, run_plainly


def _option(option: RunOption) -> click.Option:
    names = [option.name, option.key, *filter(None, [option.short])]
    if not option.value:
        return click.Option(names, is_flag=True, help=option.help)
    kind = FilePath(dir_okay=False) if option.is_file else None
    return click.Option(
        names, type=kind, metavar=option.value, multiple=option.several, help=option.help
    )


def _run(command: tuple[str, ...], **values: Any) -> int:
    """Run COMMAND and say which models it really opened, whatever it uses to load them.

    Its streams, signals and exit code are its own; with an expectation that it does not meet the
    exit code is 6.
    """
    return run_plainly(values, command)


run = click.Command(
    "run",
    callback=_run,
    params=[
        *map(_option, OPTIONS),
        click.Argument(["command"], nargs=-1, required=True, type=click.UNPROCESSED),
    ],
    context_settings={"allow_interspersed_args": False},
    help=_run.__doc__,
    options_metavar="[OPTIONS]",
)
