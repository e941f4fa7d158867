"""The resolver with this machine's cache in view: what `mdl.resolve` and the commands call.

The resolver and the cache manager do not know each other; here, one is shown to the other.
"""

import os
import threading
from typing import TYPE_CHECKING, Any

from mdl.resolver import Cached, Resolution, ResolveOptions, Resolver
from mdl.settings import Settings, load_settings

if TYPE_CHECKING:
    from mdl.cachemgr import Cache

# What settings are made of: while none of it changes, one resolver serves a whole process.
_SETTING_NAMES = (
    "HOME", "MDL_HOME", "MDL_CONFIG", "MDL_DATABASE_URL", "MDL_SERVER", "MDL_SERVER_TOKEN",
    "MDL_HUB_TIMEOUT",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
)  # fmt: skip
_kept = threading.local()


def resolve(
    name: str,
    *,
    format: str = "16bit",
    exact: bool = False,
    revision: str | None = None,
    prefer: str | None = None,
    token: str | bool | None = None,
    offline: bool | None = None,
    settings: Settings | None = None,
) -> Resolution:
    """Say what a model name will give, and why, without fetching any of it.

    Args:
        name: `org/name` or `name` in any casing, or a folder.
        format: `16bit`, `bnb-4bit`, `8bit` or `fp8`.
        exact: the named repository and no other, whatever the catalogue says.
        revision: a branch, tag or commit of the named repository.
        prefer: `default`, `cached` or `official`; the configuration's when left out.
        token: a Hub token; the environment's when left out, `False` for none.
        offline: `True` answers from the database and the cache alone.
        settings: other settings than the environment's.

    Raises:
        MdlError: the name cannot be answered; the class and `exit_code` say how.
    """
    resolver = resolver_for(settings, token=token, offline=offline)
    prefer = prefer or resolver.settings.prefer
    return resolver.resolve(name, ResolveOptions(format, exact, revision, prefer)).checked()


def resolver_for(
    settings: Settings | None = None,
    *,
    token: str | bool | None = None,
    offline: bool | None = None,
) -> Resolver:
    """A resolver that sees this machine's cache; kept and given again while nothing changes."""
    mark: Any = (settings, token, offline)
    if settings is None:
        mark = (*(os.environ.get(name) for name in _SETTING_NAMES), token, offline)
    held: tuple[Any, Resolver] | None = getattr(_kept, "held", None)
    if held is not None and held[0] == mark:
        return held[1]
    found = load_settings() if settings is None else settings
    if offline is not None and offline != found.offline:
        found = found._replace(offline=offline)
    if found.server:
        from mdl.resolver import RemoteResolver

        resolver: Resolver = RemoteResolver(found, CacheWindow(found), token=token)
    else:
        resolver = Resolver(found, CacheWindow(found), token=token)
    if held is not None:
        held[1].close()
    _kept.held = (mark, resolver)
    return resolver


def resolve_locked(resolver: Resolver, path: str, name: str, options: ResolveOptions) -> Resolution:
    """Answer a name as a lock file says; online, the Hub must still have exactly that.

    Raises:
        NotFoundError: no such file, or the name is not in it.
        VerificationError: it is locked in another format, or the Hub has something else now.
    """
    from pathlib import Path

    from mdl.resolver import lockfile

    entry = lockfile.find_entry(lockfile.read_lock(Path(path)), name, options, path)
    answer = lockfile.resolution_of(entry, path, resolver.cached)
    if resolver.online and not (answer.cached is not None and answer.cached.complete):
        lockfile.check_against_hub(resolver, entry)
    return answer


class CacheWindow:
    """The cache as the resolver may see it: one repository at a time, no full scan.

    Most names asked for are not here: one listing of the root, kept while its mtime stands, says
    so without importing the cache manager.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = os.fspath(settings.cache_root)
        self._listed: tuple[int, frozenset[str]] = (-1, frozenset())
        self._cache: Cache | None = None

    def __call__(self, repo_id: str, revision: str | None) -> Cached | None:
        if not self._has_folder(repo_id):
            return None
        if self._cache is None:
            from mdl.cachemgr import open_cache

            self._cache = open_cache(self._settings)
        placement = self._cache.placement(repo_id, revision=revision)
        if placement.state == "absent":
            return None
        return Cached(
            complete=placement.complete,
            path=str(placement.path) if placement.path is not None else None,
            bytes=placement.bytes,
            commit=placement.commit,
            repo_id=placement.repo_id,
        )

    def _has_folder(self, repo_id: str) -> bool:
        """Whether the root has a folder for this repository, in any casing."""
        try:
            stamp = os.stat(self._root).st_mtime_ns
            if stamp != self._listed[0]:
                names = frozenset(name.lower() for name in os.listdir(self._root))
                self._listed = (stamp, names)
        except OSError:
            return False
        return f"models--{repo_id.replace('/', '--').lower()}" in self._listed[1]
