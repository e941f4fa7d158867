"""Where things are and what is allowed: the environment and one TOML file, read once.

Precedence: environment, then `$MDL_HOME/config.toml` (or the file `$MDL_CONFIG` names), then
the defaults. The `HF_*` variables mean what they mean to huggingface_hub; they are read here
again, because importing huggingface_hub costs more than a whole `mdl cache ls`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from mdl.errors import ConfigError

_TRUE = {"1", "ON", "YES", "TRUE"}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_UNITS |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGTP", start=1)}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
DEFAULT_ENDPOINT = "https://huggingface.co"

StrPath: TypeAlias = str | os.PathLike[str]


class CacheSettings(NamedTuple):
    """The `[cache]` table: what the daemon keeps and `mdl cache prune` defaults to.

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
    normalize: str = "shared"


class Settings(NamedTuple):
    """One frozen object, handed down from the command line; no layer below reads `os.environ`.

    Folders are strings or paths, whatever was given: importing pathlib (and with it urllib) takes
    a fifteenth of the time of `mdl resolve`, which needs neither.
    """

    home: StrPath
    cache_root: StrPath
    endpoint: str = DEFAULT_ENDPOINT
    offline: bool = False
    database_url: str | None = None
    server: str | None = None
    server_token: str | None = None
    token: str | None = None
    prefer: str = "default"
    hub_timeout: float = 5.0
    cache: CacheSettings = CacheSettings()

    def __repr__(self) -> str:
        shown = {**self._asdict(), "token": "…" if self.token else None}
        shown["server_token"] = "…" if self.server_token else None
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def database_path(self) -> str:
        """The SQLite file used when `database_url` names no server."""
        if self.database_url and self.database_url.startswith("sqlite:///"):
            return self.database_url.removeprefix("sqlite:///")
        return os.path.join(self.home, "mdl.db")

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
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?i?)b?\s*", str(text), re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a size.", next="Write a number and a unit, such as 200GB or 50GiB."
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_duration(text: str | int | float) -> float:
    """Seconds of `30d`, `12h`, `2w`, `1y`, `90m`; a bare number is days.

    Raises:
        ConfigError: not a duration.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool) and text >= 0:
        return float(text) * 86400
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdwy]?)\s*", str(text), re.IGNORECASE)
    if not match:
        raise ConfigError(
            f"{text!r} is not a duration.", next="Write a number and a unit, such as 30d or 12h."
        )
    return float(match[1]) * _SECONDS[match[2].lower() or "d"]


def load_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of this process.

    Args:
        env: the environment; `os.environ` when left out.

    Raises:
        ConfigError: the configuration file is no TOML, or has a key or value mdl does not know.
    """
    env = os.environ if env is None else env
    user = env.get("HOME") or os.path.expanduser("~")
    home = _folder(env.get("MDL_HOME"), user) or os.path.join(user, ".mdl")
    config = _read_config(home, env)
    hf_home = _folder(env.get("HF_HOME"), user)
    if hf_home is None:
        base = _folder(env.get("XDG_CACHE_HOME"), user) or os.path.join(user, ".cache")
        hf_home = os.path.join(base, "huggingface")
    cache_root = _folder(env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"), user)
    offline = any(_truthy(env.get(name)) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return Settings(
        home=home,
        cache_root=cache_root or os.path.join(hf_home, "hub"),
        endpoint=(env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/"),
        offline=offline,
        database_url=env.get("MDL_DATABASE_URL") or config.get("database_url"),
        server=env.get("MDL_SERVER") or config.get("server"),
        server_token=env.get("MDL_SERVER_TOKEN") or None,
        token=_token(env, hf_home, user),
        prefer=config.get("prefer", "default"),
        hub_timeout=float(env.get("MDL_HUB_TIMEOUT") or config.get("hub_timeout", 5.0)),
        cache=_cache_settings(config.get("cache", {})),
    )


def _truthy(value: str | None) -> bool:
    return value is not None and value.upper() in _TRUE


def _folder(value: str | None, user: str) -> str | None:
    if not value:
        return None
    if value == "~" or value.startswith("~/"):
        value = user + value[1:]
    value = os.path.expandvars(value)
    # Made absolute, not normalized: `a/../b` is another place when `a` is a link.
    return value if os.path.isabs(value) else os.path.join(os.getcwd(), value)


def _token(env: Mapping[str, str], hf_home: str, user: str) -> str | None:
    token = env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        path = _folder(env.get("HF_TOKEN_PATH"), user) or os.path.join(hf_home, "token")
        try:
            with open(path) as file:
                token = file.read()
        except (OSError, UnicodeDecodeError):
            return None
    return token.strip() or None


def _read_config(home: str, env: Mapping[str, str]) -> dict[str, Any]:
    path = env.get("MDL_CONFIG") or os.path.join(home, "config.toml")
    if not os.path.exists(path):
        return {}
    import tomllib  # only for those who have the file: it is a twentieth of `mdl cache ls`

    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read.",
            why=str(error),
            next="Mend or remove the file.",
        ) from error
    known = {"database_url", "server", "prefer", "hub_timeout", "cache"}
    _refuse_unknown(config, known, str(path))
    return config


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(
            f"{where} has unknown settings: {', '.join(unknown)}.",
            next=f"Known are: {', '.join(sorted(known))}.",
        )


def _cache_settings(table: Mapping[str, Any]) -> CacheSettings:
    _refuse_unknown(table, set(CacheSettings._fields), "The [cache] table")
    values = dict(table)
    for key in ("max_size", "keep_free"):
        if key in values:
            values[key] = parse_size(values[key])
    for key in ("unused_for", "older_than"):
        if key in values:
            values[key] = parse_duration(values[key])
    settings = CacheSettings(**values)
    if settings.normalize not in ("shared", "hub", "lower", "off"):
        raise ConfigError(
            f"cache.normalize is {settings.normalize!r}.",
            next="Use shared, hub, lower or off.",
        )
    return settings
