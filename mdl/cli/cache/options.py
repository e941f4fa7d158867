"""What the cache commands share: options, and opening the cache."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.output import FilePath
from mdl.errors import MdlError, NotFoundError
from mdl.settings import load_settings, parse_duration, parse_size

if TYPE_CHECKING:
    from mdl.cachemgr import Cache


class Parsed(click.ParamType[Any]):
    """An option's type that one of the settings' parsers reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except MdlError as error:
            self.fail(f"{error.message} {error.next}", param, ctx)


SIZE = Parsed("size", parse_size)
DURATION = Parsed("duration", parse_duration)

cache_dir_option = click.option(
    "--cache-dir", type=FilePath(path_type=Path), help="Use this cache instead of HF_HUB_CACHE."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
dry_option = click.option("--dry-run", is_flag=True, help="Show what would be done, do nothing.")
type_option = click.option(
    "--type",
    "repo_type",
    type=click.Choice(["model", "dataset", "space", "kernel"]),
    help="Only repositories of this type.",
)


def opened(cache_dir: Path | None) -> "Cache":
    """The cache of the settings, or of another root.

    Raises:
        NotFoundError: `cache_dir` is not a folder.
    """
    from mdl.cachemgr import open_cache

    if cache_dir is not None and not cache_dir.is_dir():
        raise NotFoundError(
            f"{cache_dir} is not a folder.", next="Name the folder that holds models--org--name."
        )
    return open_cache(load_settings(), cache_dir.absolute() if cache_dir else None)


def print_notes(cache: "Cache") -> None:
    """Print what recovery did, on standard error: it is news, not the result."""
    if not cache.index.persistent:
        print(f"note: {cache.index.path} cannot be written: nothing is remembered.",
              file=sys.stderr)  # fmt: skip
    for note in cache.notes:
        print(f"note: {note}", file=sys.stderr)
    cache.notes.clear()
