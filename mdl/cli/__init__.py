"""The command line: thin commands that parse, call and print."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cli.entry import main

__getattr__ = door(
    __name__,
    {
        "entry": "main",
    },
)
