"""The resolver with this machine's cache in view: `mdl.resolve`, `where`, `access` and `lock`.

The resolver and the cache manager do not know each other; they meet here.
"""

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mdl.errors import OfflineError
from mdl.resolver import Access, Cached, Resolution, ResolveOptions, Resolver, parse_name
from mdl.settings import Settings, StrPath, load_settings

if TYPE_CHECKING:
    from mdl.cachemgr import Cache, Placement
    from mdl.formats import Format
    from mdl.resolver import LockEntry

# The environment that settings are read from: a resolver is reused until one of these changes.
_SETTING_NAMES = (
    "HOME", "MDL_HOME", "MDL_CONFIG", "MDL_DATABASE_URL", "MDL_SERVER", "MDL_SERVER_TOKEN",
    "MDL_HUB_TIMEOUT",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME",
)  # fmt: skip
_kept = threading.local()


def resolve(
    name: str,
    *,
    format: str | None = "16bit",
    exact: bool = False,
    revision: str | None = None,
    prefer: str | None = None,
    mmproj: str | None = None,
    any_publisher: bool = False,
    runtime: str | None = None,
    fit: int | str | None = None,
    context: int = 8192,
    token: str | bool | None = None,
    offline: bool | None = None,
    settings: Settings | None = None,
) -> Resolution:
    """Say what a model name resolves to, and why; downloads nothing.

    Args:
        name: `org/name` or `name` in any casing, or a folder.
        format: `16bit`, `bnb-4bit`, `8bit`, `fp8`, or one taken as it is stored, with its variant
            behind a colon: `gguf:Q4_K_M`, `awq`, `mlx:4bit`.
        exact: the named repository and no other, whatever the catalogue says.
        revision: a branch, tag or commit of the named repository.
        prefer: `default`, `cached` or `official`; the configuration's by default.
        mmproj: the precision of a vision projector beside a GGUF model; `none` leaves it out.
        any_publisher: take such a format from publishers who are not on the trust list, too.
        runtime: what is to run it (`vllm`, `llama.cpp`, …): the best format that it loads here.
        fit: memory to fit, as bytes or `24GB`; `auto` is this machine's.
        context: tokens of KV cache that have to fit.
        token: a Hub token; the environment's by default, `False` for none.
        offline: `True` uses the database and the cache alone.
        settings: other settings than the environment's.

    Returns:
        The repository to load, its commit and format, and each candidate with the reason why it
        was taken or not.

    Raises:
        MdlError: the name cannot be resolved; the class and `exit_code` say how.
    """
    resolver = resolver_for(settings, token=token, offline=offline)
    prefer = prefer or resolver.settings.prefer
    options = ResolveOptions(
        format, exact, revision, prefer, mmproj=mmproj, any_publisher=any_publisher,
        runtime=runtime, fit=fit, context=context,
    )  # fmt: skip
    return resolver.resolve(name, options).checked()


def where(
    name: str, *, revision: str | None = None, settings: Settings | None = None
) -> "Placement":
    """Find a repository in this machine's cache; opens no socket.

    Args:
        name: `org/name` in any casing.
        revision: a branch, tag or commit; `main` by default.
        settings: other settings than the environment's.

    Returns:
        Its snapshot folder (`path`), commit, size in bytes and `state`: `complete`, `partial`,
        `broken` or `absent`.

    Raises:
        NameRefusedError: no repository can have this name.
    """
    from mdl.cachemgr import open_cache

    repo_id = parse_name(name, allow_local=False).text
    return open_cache(settings or load_settings()).placement(repo_id, revision=revision)


def access(
    name: str,
    *,
    token: str | bool | None = None,
    offline: bool | None = None,
    settings: Settings | None = None,
) -> Access:
    """Ask the Hub who may read a repository, and whether you may.

    Args:
        name: `org/name` in any casing.
        token: a Hub token; the environment's by default, `False` for none.
        offline: `True` uses the database alone.
        settings: other settings than the environment's.

    Returns:
        Whether it is gated, your access to it, its page on the Hub, and ungated mirrors.

    Raises:
        NotFoundError: there is no such repository that this token can see.
        OfflineError: the Hub does not respond, and the database has nothing about it.
        UsageError: the name is a folder.
    """
    return resolver_for(settings, token=token, offline=offline).access(name)


def inspect(
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    offline: bool | None = None,
    settings: Settings | None = None,
) -> "Format":
    """Recognise what the weights of a repository or a folder are; downloads no weights.

    Args:
        name: `org/name` in any casing, or a folder.
        revision: a branch, tag or commit; `main` by default.
        token: a Hub token; the environment's by default, `False` for none.
        offline: `True` looks at what is in the cache, and opens no socket.
        settings: other settings than the environment's.

    Returns:
        The format with its variants and files, what shows it and what speaks against it.

    Raises:
        NoAccessError: the Hub shows no such repository to this token.
        OfflineError: the Hub does not respond, and the repository is not in the cache.
    """
    from pathlib import Path

    from mdl.formats import describe_folder, recognize

    resolver = resolver_for(settings, token=token, offline=offline)
    asked = parse_name(name)
    if asked.path is not None:
        return recognize(describe_folder(Path(asked.path)))
    unreachable = None
    if resolver.online:
        from mdl.resolver import format_on_hub

        try:
            return format_on_hub(resolver.hub, asked.text, revision)
        except OfflineError as error:
            unreachable = error
    here = resolver.cached(asked.text, revision)
    if here is not None and here.path is not None:
        return recognize(describe_folder(Path(here.path), name=here.repo_id))
    raise unreachable or OfflineError(
        f"{asked.text} is not in the cache.",
        why="the Hub may not be asked (offline)",
        next="Leave out --offline, or give the folder that holds it.",
    )


def lock(
    names: str | Iterable[str],
    path: StrPath = "mdl.lock",
    *,
    format: str | None = "16bit",
    exact: bool = False,
    revision: str | None = None,
    prefer: str | None = None,
    mmproj: str | None = None,
    any_publisher: bool = False,
    runtime: str | None = None,
    fit: int | str | None = None,
    context: int = 8192,
    add: bool = False,
    dry_run: bool = False,
    token: str | bool | None = None,
    offline: bool | None = None,
    settings: Settings | None = None,
) -> "tuple[LockEntry, ...]":
    """Write what names resolve to, down to commits and file hashes, into a lock file.

    The cache keeps the locked commits: pruning removes none of them.

    Args:
        names: one name or several.
        path: the lock file. It is replaced, or with `add` keeps its other entries.
        dry_run: write nothing.
        format, exact, revision, prefer, mmproj, any_publisher, runtime, fit, context, token,
            offline, settings: as `resolve` takes them.

    Returns:
        Every entry of the file, those of `names` last.

    Raises:
        DiskError: the file cannot be written; an old one is unchanged.
        MdlError: a name cannot be resolved, or is a folder.
    """
    from pathlib import Path

    from mdl.cachemgr import open_cache
    from mdl.resolver import lock_entry, read_lock, write_lock

    file = Path(path)
    resolver = resolver_for(settings, token=token, offline=offline)
    options = ResolveOptions(
        format,
        exact,
        revision,
        prefer or resolver.settings.prefer,
        mmproj=mmproj,
        any_publisher=any_publisher,
        runtime=runtime,
        fit=fit,
        context=context,
    )
    given = [names] if isinstance(names, str) else names
    unique = {name.strip().lower(): name for name in given}.values()
    kept = read_lock(file) if add and file.exists() else []
    made = [lock_entry(resolver, resolver.resolve(name, options).checked()) for name in unique]
    replaced = {entry.key for entry in made}
    entries = (*(entry for entry in kept if entry.key not in replaced), *made)
    if not dry_run:
        cache = open_cache(resolver.settings)
        cache.index.must_last()  # fails before the file is written, not after
        write_lock(file, entries)
        cache.register_lock(file, [(entry.repo_id, entry.commit) for entry in entries])
    return entries


def resolver_for(
    settings: Settings | None = None,
    *,
    token: str | bool | None = None,
    offline: bool | None = None,
) -> Resolver:
    """A resolver that sees this machine's cache; reused while nothing changes."""
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


class CacheWindow:
    """Looks up repositories in the cache, one at a time.

    Most names are not there: one listing of the root, kept until its mtime changes, tells so
    without importing the cache manager.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = os.fspath(settings.cache_root)
        self._listed: tuple[int, frozenset[str]] = (-1, frozenset())
        self._cache: Cache | None = None

    def __call__(self, repo_id: str, revision: str | None) -> Cached | None:
        placement = self._placement(repo_id, revision)
        if placement is None or placement.state == "absent":
            return None
        return Cached(
            complete=placement.complete,
            path=str(placement.path) if placement.path is not None else None,
            bytes=placement.bytes,
            commit=placement.commit,
            repo_id=placement.repo_id,
        )

    def revisions(self, repo_id: str, but: str | None) -> tuple[str, ...]:
        placement = self._placement(repo_id, but)
        return placement.revisions if placement is not None else ()

    def _placement(self, repo_id: str, revision: str | None) -> "Placement | None":
        if not self._has_folder(repo_id):
            return None
        if self._cache is None:
            from mdl.cachemgr import open_cache

            self._cache = open_cache(self._settings)
        return self._cache.placement(repo_id, revision=revision)

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
