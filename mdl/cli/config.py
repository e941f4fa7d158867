"""`mdl config`: the configuration file, from the command line."""

import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import click

from mdl.cli.output import echo_json, never_asks
from mdl.errors import ConfigError, DiskError, UsageError
from mdl.formatting import table
from mdl.settings import SETTINGS, config_path, file_settings, load_settings, read_config

_VARIABLES = {
    "database_url": "MDL_DATABASE_URL",
    "server": "MDL_SERVER",
    "hub_timeout": "MDL_HUB_TIMEOUT",
}
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Setting(NamedTuple):
    """One setting, its value or `None`, and its source: a variable, `file` or `default`."""

    name: str
    value: Any
    source: str


@click.group()
def config() -> None:
    """Show and change the settings in mdl's configuration file."""


@config.command()
@_json
def path(as_json: bool) -> None:
    """Print the path of the configuration file, whether or not it exists."""
    place = Path(config_path(os.environ)).absolute()
    if as_json:
        echo_json({"path": str(place), "exists": place.exists()})
    else:
        click.echo(str(place))


@config.command()
@click.argument("key", required=False)
@_json
def show(key: str | None, as_json: bool) -> None:
    """Show every setting or KEY, its value and where that comes from."""
    place = config_path(os.environ)
    written = _read(place)
    load_settings()  # fails for what cannot be used
    found = [_setting(name, written) for name in ([_known(key)] if key else SETTINGS)]
    if as_json:
        echo_json({"path": place, "settings": [setting._asdict() for setting in found]})
        return
    rows = [
        (setting.name, "-" if setting.value is None else _toml(setting.value), setting.source)
        for setting in found
    ]
    click.echo(table(("SETTING", "VALUE", "FROM"), rows))
    click.echo(f"\n{place}{'' if Path(place).exists() else ' (does not exist)'}")


@config.command("set")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--unset", is_flag=True, help="Remove the setting from the file.")
@click.option("--dry-run", is_flag=True, help="Show the file as it would be.")
@never_asks
@_json
def set_(key: str, value: str | None, unset: bool, dry_run: bool, as_json: bool) -> None:
    """Set KEY to VALUE, such as cache.max_size 200GB; the rest of the file is kept.

    Names of a list are separated by commas. `mdl config show` lists the keys.
    """
    if value is None and "=" in key:
        key, _, value = key.partition("=")
    name = _known(key)
    if (value is None) != unset:
        raise UsageError(
            "Give a value, or --unset.", next=f"mdl config set {name} VALUE, or {name} --unset"
        )
    place = Path(os.path.realpath(config_path(os.environ)))
    old = place.read_text() if place.exists() else ""
    wanted = None if value is None else _parsed(name, value)
    new = changed(old, name, wanted)
    file_settings(tomllib.loads(new), str(place))
    if not dry_run:
        _write(place, new)
    if as_json:
        body = {"key": name, "value": wanted, "path": str(place), "dry_run": dry_run}
        echo_json({**body, "changed": new != old})
    elif dry_run:
        click.echo(new, nl=False)
    else:
        click.echo(f"{name} is {'not set' if unset else _toml(wanted)} in {place}.")


def changed(text: str, name: str, value: Any) -> str:
    """A configuration's text with one setting changed, or removed for `None`; the rest is kept.

    Raises:
        ConfigError: the text is not TOML, or is written such that only a person can change it.
    """
    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            "The configuration file is not TOML.",
            why=str(error),
            next="`mdl config path` prints its path: fix it first.",
        ) from error
    section, _, key = name.rpartition(".")
    home = wanted.setdefault(section, {}) if section else wanted
    if value is None:
        home.pop(key, None)
    else:
        home[key] = value
    new = _edited(text.splitlines(), section, key, value)
    try:
        same = _without_empty(tomllib.loads(new)) == _without_empty(wanted)
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise ConfigError(
            f"{name} cannot be changed in this file.",
            why="it is written over several lines, or in a table on one line",
            next="`mdl config path` prints the file's path: change it in an editor.",
        )
    return new


def _edited(lines: list[str], section: str, key: str, value: Any) -> str:
    """The lines with that of the key replaced, removed, or added at the end of its section."""
    inside, end = not section, 0
    line = [] if value is None else [f"{key} = {_toml(value)}"]
    for number, text in enumerate(lines):
        header = re.match(r"\s*\[+\s*([^\]]*?)\s*\]", text)
        if header:
            inside = header[1] == section
        if inside and re.match(rf'\s*"?{re.escape(key)}"?\s*=', text):
            return "\n".join([*lines[:number], *line, *lines[number + 1 :]]) + "\n"
        if inside and text.strip():
            end = number + 1
    if not line:
        return "\n".join([*lines, ""]) if lines else ""
    if section and not end:
        return "\n".join([*lines, *([""] if lines else []), f"[{section}]", *line]) + "\n"
    return "\n".join([*lines[:end], *line, *lines[end:]]) + "\n"


def _without_empty(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value != {}}


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # strings, numbers, booleans and lists: as in TOML


def _parsed(name: str, text: str) -> Any:
    """A value of a setting's type, from the command line."""
    kind = SETTINGS[name]
    if kind is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is not str and kind is not bool:
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text  # a size or a duration; anything else is refused with the setting's name


def _setting(name: str, written: dict[str, Any]) -> Setting:
    variable = _VARIABLES.get(name, "")
    if os.environ.get(variable):
        return Setting(name, os.environ[variable], variable)
    section, _, key = name.rpartition(".")
    table = written.get(section, {}) if section else written
    if key in table:
        return Setting(name, table[key], "file")
    defaults: Any = load_settings({"HOME": os.devnull, "MDL_CONFIG": os.devnull})
    value = getattr(defaults.cache if section == "cache" else defaults, key, None)
    return Setting(name, value, "default")


def _read(place: str) -> dict[str, Any]:
    return read_config(place, named=bool(os.environ.get("MDL_CONFIG")))


def _known(key: str) -> str:
    if key in SETTINGS:
        return key
    from difflib import get_close_matches

    last = {name.rpartition(".")[2]: name for name in SETTINGS}
    close = [last[key]] if key in last else get_close_matches(key, SETTINGS, n=2)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise UsageError(
        f"There is no setting {key!r}.", next=f"{hint}`mdl config show` lists the settings."
    )


def _write(place: Path, text: str) -> None:
    """Replace the file at once; a reader sees the old one or the new one."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = place.stat().st_mode & 0o777 if place.exists() else 0o600
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
            file.write(text)
        Path(file.name).chmod(mode)
        Path(file.name).replace(place)
    except OSError as error:
        raise DiskError(
            f"{place} cannot be written.",
            why=error.strerror or str(error),
            next="Check its permissions, or set MDL_CONFIG to another file.",
        ) from error
