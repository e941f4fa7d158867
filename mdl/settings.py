"""Settings from the environment and one TOML file, read once.

Precedence: environment, then the configuration file (`config_path`), then the defaults. The
`HF_*` variables mean what they mean to huggingface_hub; they are parsed here because importing
huggingface_hub takes longer than a whole `mdl cache ls`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from mdl.errors import ConfigError

_TRUE = {"1", "ON", "YES", "TRUE"}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_UNITS |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGTP", start=1)}
# Seconds and minutes are missing on purpose: every age here is one of days, and `3m` is a trap.
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400, "mo": 30 * 86400, "y": 365 * 86400}
_NUMBER, _SIZE, _DURATION = (int, float), (int, str), (int, float, str)
# The type of each setting in the file (a bool is never taken for a number).
_FILE = {"database_url": str, "server": str, "prefer": str, "hub_timeout": _NUMBER, "cache": dict,
         "publishers": dict}  # fmt: skip
_CACHE = {
    "max_size": _SIZE, "keep_free": _SIZE, "unused_for": _DURATION, "older_than": _DURATION,
    "keep_last": int, "detached": bool, "incomplete": bool, "low_watermark": _NUMBER,
    "trash_days": _NUMBER, "undo_days": _NUMBER, "normalize": str,
}  # fmt: skip
_PUBLISHERS = {"trust": list, "distrust": list}
SETTINGS = {
    **{key: kind for key, kind in _FILE.items() if kind is not dict},
    **{f"cache.{key}": kind for key, kind in _CACHE.items()},
    **{f"publishers.{key}": kind for key, kind in _PUBLISHERS.items()},
}
PREFERENCES = ("default", "cached", "official")
DEFAULT_ENDPOINT = "https://huggingface.co"

StrPath: TypeAlias = str | os.PathLike[str]


class CacheSettings(NamedTuple):
    """The `[cache]` table: limits of the daemon, and the defaults of `mdl cache prune`.

    Sizes are bytes, durations seconds; `None` means no limit.
    """

    max_size: int | None = None
    keep_free: int | None = None
    unused_for: float | None = None
    older_than: float | None = None
    keep_last: int | None = None
    detached: bool = False
    incomplete: bool = False
    low_watermark: float = 0.9
    trash_days: float = 7.0
    undo_days: float = 7.0
    normalize: str = "shared"


class Settings(NamedTuple):
    """One frozen value, passed down from the top; nothing below reads `os.environ`.

    Folders are strings or paths, as given: importing pathlib takes a fifteenth of the time of
    `mdl resolve`, which does not need it.
    """

    home: StrPath
    cache_root: StrPath
    endpoint: str = DEFAULT_ENDPOINT
    offline: bool = False
    database_url: str | None = None
    server: str | None = None
    server_token: str | None = None
    token: str | None = None
    stored_token: str | None = None  # for `token=True` alone (HF_HUB_DISABLE_IMPLICIT_TOKEN)
    prefer: str = "default"
    hub_timeout: float = 5.0
    cache: CacheSettings = CacheSettings()
    trusted: tuple[str, ...] = ()  # publishers of quantized repositories, besides the packaged list
    distrusted: tuple[str, ...] = ()
    config_file: StrPath = ""  # the configuration file, whether or not it exists

    def __repr__(self) -> str:
        secret = ("token", "stored_token", "server_token")
        shown = {k: "…" if k in secret and v else v for k, v in self._asdict().items()}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def database_path(self) -> str:
        """The SQLite file used if `database_url` does not name a server."""
        if self.database_url and self.database_url.startswith("sqlite:///"):
            return self.database_url.removeprefix("sqlite:///")
        return os.path.join(self.home, "mdl.db")

    def token_for(self, given: str | bool | None) -> str | None:
        """The token that a `token` argument stands for.

        A string is the token itself, False none, True this machine's, None this machine's unless
        that is used on request only (HF_HUB_DISABLE_IMPLICIT_TOKEN).
        """
        if given is None or given is True:
            return self.token or (self.stored_token if given else None)
        return given or None

    @property
    def on_sqlite(self) -> bool:
        return not self.database_url or self.database_url.startswith("sqlite:///")


def parse_size(text: str | int) -> int:
    """Bytes of `200GB`, `50 GiB`, `1.5T`, `1024`.

    Raises:
        ConfigError: not a size.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d+)?)\s*([kmgtp]?i?)b?\s*", str(text), re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a size.", next="Write a number and a unit, such as 200GB or 50GiB."
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_duration(text: str | int | float) -> float:
    """Seconds of `12h`, `30d`, `2w`, `3mo`, `1y`; a bare number is days, a month 30 of them.

    Raises:
        ConfigError: not a duration, or one in minutes or seconds.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool) and text >= 0:
        return float(text) * 86400
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*(s|mo?|[hdwy]|)\s*", str(text), re.IGNORECASE)
    unit = match[2].lower() or "d" if match else ""
    if match and unit in _SECONDS:
        return float(match[1]) * _SECONDS[unit]
    if match and unit == "m":
        raise ConfigError(
            f"{text!r} could mean minutes or months.",
            next=f"Write {match[1]}mo for months; the shortest unit is an hour, such as 12h.",
        )
    raise ConfigError(
        f"{text!r} is not a duration.",
        next="Write a number and a unit: h, d, w, mo or y, such as 12h, 30d or 3mo.",
    )


def load_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of this process.

    Args:
        env: the environment; `os.environ` by default.

    Raises:
        ConfigError: the configuration file is not TOML, or a setting in it has no such value.
    """
    env = os.environ if env is None else env
    user = env.get("HOME") or os.path.expanduser("~")
    home = _folder(env.get("MDL_HOME"), user) or os.path.join(user, ".mdl")
    path = config_path(env)
    config = read_config(path, named=bool(env.get("MDL_CONFIG")))
    in_file = file_settings(config, path)
    hf_home = _folder(env.get("HF_HOME"), user)
    if hf_home is None:
        base = _folder(env.get("XDG_CACHE_HOME"), user) or os.path.join(user, ".cache")
        hf_home = os.path.join(base, "huggingface")
    cache_root = _folder(env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"), user)
    offline = any(_truthy(env.get(name)) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    token = _token(env, hf_home, user)
    implicit = not _truthy(env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
    return Settings(
        home=home,
        cache_root=cache_root or os.path.join(hf_home, "hub"),
        endpoint=_endpoint(env.get("HF_ENDPOINT", ""), offline=offline),
        offline=offline,
        database_url=env.get("MDL_DATABASE_URL") or config.get("database_url"),
        server=env.get("MDL_SERVER") or config.get("server"),
        server_token=env.get("MDL_SERVER_TOKEN") or None,
        token=token if implicit else None,
        stored_token=None if implicit else token,
        **in_file | _timeout_of(env),
        config_file=path,
    )


def config_path(env: Mapping[str, str]) -> str:
    """The configuration file, whether or not it exists.

    `$MDL_CONFIG`; else `$MDL_HOME/config.toml` or `$XDG_CONFIG_HOME/mdl/config.toml`, whichever
    exists; else the latter if that variable is set, and the former if not.
    """
    if env.get("MDL_CONFIG"):
        return env["MDL_CONFIG"]
    user = env.get("HOME") or os.path.expanduser("~")
    home = _folder(env.get("MDL_HOME"), user) or os.path.join(user, ".mdl")
    xdg = _folder(env.get("XDG_CONFIG_HOME"), user)
    ours = os.path.join(home, "config.toml")
    common = os.path.join(xdg or os.path.join(user, ".config"), "mdl", "config.toml")
    if os.path.exists(ours) or not (xdg or os.path.exists(common)):
        return ours
    return common


def read_config(path: str, *, named: bool = False) -> dict[str, Any]:
    """The configuration file's content; empty if it does not exist, unless it was `named`.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    if not named and not os.path.exists(path):
        return {}
    import tomllib  # only if there is a file: a twentieth of the time of `mdl cache ls`

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read.",
            why=str(error),
            next="Fix the file, or unset MDL_CONFIG." if named else "Fix the file.",
        ) from error


def file_settings(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The fields of `Settings` that a configuration file sets alone.

    An unknown setting is reported once, with the file's name, and ignored.

    Raises:
        ConfigError: a setting has a value that it cannot have.
    """
    try:
        known = _checked(config, _FILE, path)
        prefer = known.get("prefer", "default")
        if prefer not in PREFERENCES:
            raise ConfigError(f"prefer is {prefer!r}.", next=f"Use {', '.join(PREFERENCES)}.")
        publishers = _checked(known.get("publishers", {}), _PUBLISHERS, path, "publishers.")
        return {
            "prefer": prefer,
            "hub_timeout": _timeout(known.get("hub_timeout", 5.0)),
            "cache": _cache_settings(_checked(known.get("cache", {}), _CACHE, path, "cache.")),
            "trusted": _publishers(publishers, "trust"),
            "distrusted": _publishers(publishers, "distrust"),
        }
    except ConfigError as error:
        raise ConfigError(error.message, why=f"in {path}", next=error.next) from error


def _timeout_of(env: Mapping[str, str]) -> dict[str, float]:
    value = env.get("MDL_HUB_TIMEOUT")
    return {"hub_timeout": _timeout(value)} if value else {}


def _publishers(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Names out of the `[publishers]` table."""
    names = table.get(key, [])
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"publishers.{key} is {names!r}.", next=f"Write {_WORDS[list]}.")
    return tuple(names)


def _truthy(value: str | None) -> bool:
    return value is not None and value.upper() in _TRUE


def _endpoint(value: str, *, offline: bool) -> str:
    """The Hub's URL without a trailing slash; offline, an invalid one does no harm."""
    address = value.strip().rstrip("/") or DEFAULT_ENDPOINT
    if offline or re.fullmatch(r"https?://[^\s/]+\S*", address, re.IGNORECASE):
        return address
    why = "it does not start with http:// or https://"
    if re.search(r"\s", address):
        why = "it contains white space"
    elif re.match("https?:", address, re.IGNORECASE):
        why = "it has no host"
    raise ConfigError(
        f"HF_ENDPOINT is not a URL: {value!r}.",
        why=why,
        next=f"Set it to a URL such as {DEFAULT_ENDPOINT}, or unset it.",
    )


def _folder(value: str | None, user: str) -> str | None:
    if not value:
        return None
    if value == "~" or value.startswith("~/"):
        value = user + value[1:]
    value = os.path.expandvars(value)
    # Absolute, but not normalized: `a/../b` is another place if `a` is a link.
    return value if os.path.isabs(value) else os.path.join(os.getcwd(), value)


def _token(env: Mapping[str, str], hf_home: str, user: str) -> str | None:
    found = _clean(env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN") or "")
    if found:
        return found
    path = _folder(env.get("HF_TOKEN_PATH"), user) or os.path.join(hf_home, "token")
    try:
        with open(path) as file:
            return _clean(file.read()) or None
    except (OSError, UnicodeDecodeError):
        return None


def _clean(token: str) -> str:
    """As huggingface_hub does it: a token pasted on two lines is one, white space is none."""
    return token.replace("\r", "").replace("\n", "").strip()


def _timeout(value: str | float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:  # and no NaN
        raise ConfigError(
            f"The Hub time-out {value!r} is not valid.",
            next="Set MDL_HUB_TIMEOUT or hub_timeout to a positive number of seconds.",
        )
    return seconds


_reported: set[tuple[str, str]] = set()


def _checked(
    table: Mapping[str, Any], kinds: Mapping[str, Any], path: str, prefix: str = ""
) -> dict[str, Any]:
    """The settings of a table that mdl knows, each of the right type."""
    known = {key: value for key, value in table.items() if key in kinds}
    for key in table.keys() - known.keys():
        _report_unknown(f"{prefix}{key}", path)
    for key, value in known.items():
        wanted = kinds[key]
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            raise ConfigError(f"{prefix}{key} is {value!r}.", next=f"Write {_WORDS[wanted]}.")
    return known


def _report_unknown(name: str, path: str) -> None:
    if (name, path) in _reported:
        return
    _reported.add((name, path))
    import logging
    from difflib import get_close_matches

    close = get_close_matches(name, SETTINGS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    logging.getLogger("mdl").warning("%s: unknown setting %r, ignored.%s", path, name, hint)


_WORDS: Mapping[Any, str] = {
    str: "a string in quotes",
    bool: "true or false",
    int: "a whole number",
    dict: "a table: [cache] or [publishers], and its settings below",
    list: 'a list of names, such as ["bartowski"]',
    _NUMBER: "a number",
    _SIZE: 'a size, such as "200GB"',
    _DURATION: 'a duration, such as "30d"',
}


def _cache_settings(table: Mapping[str, Any]) -> CacheSettings:
    values = {key: _parsed(key, value) for key, value in table.items()}
    settings = CacheSettings(**values)
    for key, right, words in (
        ("normalize", settings.normalize in ("shared", "hub", "lower", "off"),
         "shared, hub, lower or off"),
        ("keep_last", settings.keep_last is None or settings.keep_last > 0, "1 or more"),
        ("low_watermark", 0 < settings.low_watermark <= 1, "a fraction such as 0.9"),
        ("trash_days", settings.trash_days >= 0, "0 or more days"),
        ("undo_days", settings.undo_days >= 0, "0 or more days"),
    ):  # fmt: skip
        if not right:
            raise ConfigError(f"cache.{key} is {table[key]!r}.", next=f"Use {words}.")
    return settings


def _parsed(key: str, value: Any) -> Any:
    try:
        if _CACHE[key] is _SIZE:
            return parse_size(value)
        return parse_duration(value) if _CACHE[key] is _DURATION else value
    except ConfigError as error:
        raise ConfigError(f"cache.{key}: {error.message}", next=error.next) from error


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    import ipaddress  # takes a millisecond, which only a service and its clients need

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
