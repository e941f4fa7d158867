"""Resolve names: gather what the rules need from the database, the Hub and the cache."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from mdl.errors import (
    BusyError,
    HubFaultError,
    MdlError,
    NotFoundError,
    OfflineError,
    StoreError,
    UsageError,
)
from mdl.resolver import candidates, refusals
from mdl.resolver.names import Name, parse_name
from mdl.resolver.rules import decide
from mdl.resolver.types import (
    Access,
    Cached,
    CacheView,
    MissingFact,
    Redirect,
    RepoInfo,
    Resolution,
    ResolveOptions,
    ResolveRequest,
)
from mdl.settings import Settings
from mdl.store import Catalog, NameRecord, RepositoryRow, open_catalog

if TYPE_CHECKING:
    from mdl.resolver.hub_api import HubApi
    from mdl.resolver.stored import StoredLookup

# Seconds for which what the Hub said is used again without asking.
_LIVE = 60.0  # asked by this very resolver: the commit of a branch
_FACTS = 86400.0  # name, gating, format: they change rarely, and a load asks again
_GRANTED, _DENIED = 3600.0, 300.0  # denials expire soon: people fix them and try again
# From this many names of one owner on, listing the owner is cheaper than asking for each.
_LISTING_PAYS = 8
_BATCH = 500
_USING_LOCAL_DATA = "%s Using local data."


class Resolver:
    """Resolves names with one set of settings; keeps the database open in between.

    Args:
        settings: where the database and the Hub are; with `offline` no socket is opened.
        cached: looks up the cache, for working offline and for `prefer="cached"`.
        token: the caller's Hub token; the settings' by default, `False` for none.
        allow_local: whether a name may be a folder (a server says no).
        catalog: one that is already open; the caller closes it.
    """

    FAULTS_OF_AN_OUTAGE = 3

    def __init__(
        self,
        settings: Settings,
        cached: CacheView | None = None,
        *,
        token: str | bool | None = None,
        allow_local: bool = True,
        catalog: Catalog | None = None,
    ) -> None:
        self.settings = settings
        self.catalog: Catalog = catalog or open_catalog(settings)
        self.cached = cached or _nothing_cached
        self._token = settings.token_for(token)
        self._allow_local = allow_local
        self._hub: HubApi | None = None
        self._warned_of_token = False
        self._dead: OfflineError | None = None
        self._failing: set[str] = set()  # the names' keys
        self._facts: dict[tuple[str, str | None], tuple[float, RepoInfo]] = {}
        self._print: str | None = None

    @cached_property
    def stored(self) -> "StoredLookup":
        from mdl.resolver.stored import StoredLookup

        return StoredLookup(self)

    @property
    def hub(self) -> "HubApi":
        if self._hub is None:
            from mdl.resolver.hub_api import HubApi

            self._hub = HubApi(self.settings.endpoint, self._token, self.settings.hub_timeout)
        return self._hub

    @property
    def online(self) -> bool:
        """Whether the Hub may be asked and, as far as is known, responds."""
        return not self.settings.offline and self._dead is None

    def close(self) -> None:
        self.catalog.database.close()

    # -- one name ---------------------------------------------------------------------------

    def resolve(self, text: str, options: ResolveOptions | None = None) -> Resolution:
        """Resolve one name; a refusal is a resolution with `error` set (see `Resolution.checked`).

        Raises:
            NameRefusedError: no repository and no folder can have this name.
            BusyError: the Hub's rate limit is used up.
            StoreError: the database cannot be read.
        """
        options = options or ResolveOptions(prefer=self.settings.prefer)
        name = self.parse(text, allow_variant=not options.exact)
        if name.variant is not None and options.variant is None:
            options = options._replace(variant=name.variant)
        if name.path is not None:
            from mdl.resolver.local_folder import resolve_folder

            return resolve_folder(name, options)
        was_online = self.online
        try:
            resolution = self._decide(ResolveRequest(name, options, was_online))
        except OfflineError as error:
            # The Hub is out of reach: use the database and the cache.
            if not was_online:
                raise
            self._note_fault(error, name.key)
            _warn(_USING_LOCAL_DATA, error.message)
            resolution = self._decide(ResolveRequest(name, options, online=False))
        refusal = resolution.error
        if (
            refusal is not None
            and refusal.exit_code in (3, 5)
            and not self._has_mirrors(name, options)
        ):
            self._suggest(refusal, name)
        return resolution

    def resolve_many(
        self, names: Iterable[str], options: ResolveOptions | None = None
    ) -> Iterator[Resolution | MdlError]:
        """Resolve many names, in order, as they come; one that cannot be resolved gives its error.

        Online, names are taken in batches, so that one request can list a whole owner.
        """
        waiting = iter(names)
        while batch := list(islice(waiting, _BATCH if self.online else 1)):
            if self.online:
                self._prefetch(batch)
            for text in batch:
                try:
                    yield self.resolve(text, options)
                except MdlError as error:
                    error.details.setdefault("requested", text)
                    yield error

    def record(self, resolution: Resolution, purpose: str, *, announce: bool = True) -> None:
        """Log a resolution that is used, and warn of a substitution."""
        if resolution.substituted and announce:
            _warn(
                "Using %s instead of %s (%s).",
                resolution.repo_id,
                resolution.requested,
                resolution.trace[-1].reason if resolution.trace else resolution.rule,
            )
        row = resolution.requested, resolution.format, resolution.to_json()
        self.write(lambda: self.catalog.log(purpose, *row))

    def access(self, text: str) -> Access:
        """Ask how a repository is gated and whether this caller may read it.

        Raises:
            NotFoundError: no such repository is visible to this token.
            OfflineError: the Hub does not respond, and nothing is known here.
            UsageError: the name is a folder.
        """
        name = self.parse(text)
        if name.path is not None:
            raise UsageError(
                f"{name.text} is a local folder: the Hub does not control access to it.",
                next="Give a repository, as org/name.",
            )
        if not self.online:
            stored = self._stored(name.key, self.catalog.about(name.key).repository)
            if stored is None:
                raise OfflineError(
                    f"Access to {name.text} has not been checked on this machine.",
                    next="Try again online.",
                )
            return self._access_of(name, stored)
        facts = self.hub.facts(name.text)
        if facts.state != "ok":
            error = NotFoundError(
                f"{name.text} does not exist, or is not visible to this token.",
                why=facts.message,
                next="Check the spelling; a private repository needs a token of its owner.",
            )
            self._suggest(error, name)
            raise error
        self.keep(name.key, None, facts)
        if facts.gated != "false":
            facts = self.with_access(facts, ask_again=True)
        return self._access_of(name, facts)

    def _access_of(self, name: Name, facts: RepoInfo) -> Access:
        ungated = candidates.ungated_mirrors(self.catalog.about(facts.repo_id.lower()))
        return Access(
            requested=name.text,
            repo_id=facts.repo_id,
            gated=False if facts.gated == "false" else facts.gated,
            access=facts.access,
            message=facts.message,
            page=f"{self.settings.endpoint}/{facts.repo_id}",
            ungated_mirrors=ungated,
        )

    def parse(self, text: str, *, allow_variant: bool = False) -> Name:
        """Check a name as this resolver's settings have it."""
        return parse_name(
            text,
            allow_local=self._allow_local,
            endpoint=self.settings.endpoint,
            allow_variant=allow_variant,
        )

    def resolve_known(self, text: str, options: ResolveOptions) -> Resolution:
        """Resolve a repository's name from the database and the cache alone."""
        name = parse_name(text, allow_local=False)
        return self._decide(ResolveRequest(name, options, online=False))

    # -- gathering --------------------------------------------------------------------------

    def _decide(self, request: ResolveRequest) -> Resolution:
        if request.options.runtime is not None:
            from mdl.resolver.stored import resolve_for, this_machine

            return resolve_for(request, this_machine(), self.stored, self._decide)
        if request.options.is_stored:
            return self.stored.resolve(request)
        facts: dict[str, RepoInfo] = {}
        known = self._knowledge(request, facts)
        while True:
            outcome = decide(request, known, facts, self.cached)
            if isinstance(outcome, Resolution):
                return self._with_local(outcome, request)
            if isinstance(outcome, Redirect):
                name = parse_name(outcome.repo_id, allow_local=False)
                if not facts[request.name.key].is_private:
                    self._remember_rename(request.name.key, outcome.repo_id)
                request = request._replace(name=name, renamed_from=request.name.text)
                facts[name.key] = self._fetch(outcome.repo_id, request.options.revision)
                known = self._knowledge(request, facts)
                continue
            self._gather(outcome, request, facts)

    def _with_local(self, resolution: Resolution, request: ResolveRequest) -> Resolution:
        """Add local copies made earlier, where the resolution is not the repository named."""
        key = resolution.repo_id.lower()
        if not resolution.quantize_on_load or key == request.name.key:
            return resolution
        made = [m for m in self.about(key).local if m.commit == resolution.commit]
        if not made:
            return resolution
        return resolution._replace(local_mirrors=tuple(m._asdict() for m in made))

    def _knowledge(self, request: ResolveRequest, facts: dict[str, RepoInfo]) -> NameRecord:
        """The catalogue's rows about a name; adds stored facts that are fresh enough to `facts`."""
        known = self.about(request.name.key)
        rows = [known.repository, *(row for _, _, row in known.mirrors)]
        for row in rows:
            if row is None:
                continue
            key = row.repo_id.lower() if row is not known.repository else request.name.key
            age = time.time() - row.checked_at
            if key not in facts and (not request.online or age < _FACTS):
                if (
                    request.options.revision is not None
                    and row is known.repository
                    and request.online
                ):
                    continue  # the stored commit is the default branch's
                stored = self._stored(key, row)
                if stored is not None and (stored.state == "ok" or not request.online):
                    facts[key] = stored
        return known

    def about(self, key: str) -> NameRecord:
        """The catalogue's rows, with those local copies that still exist.

        A copy may have been removed, or be on a teammate's machine.
        """
        known = self._look_up(key)
        if known.local:
            here = tuple(mirror for mirror in known.local if os.path.isdir(mirror.path))
            known = known._replace(local=here)
        return known

    def _look_up(self, key: str) -> NameRecord:
        return self.catalog.about(key)

    def _gather(
        self, missing: MissingFact, request: ResolveRequest, facts: dict[str, RepoInfo]
    ) -> None:
        key = missing.repo_id.lower()
        if missing.what == "facts":
            own = key == request.name.key or missing.repo_id == request.name.text
            facts[key] = self._fetch(missing.repo_id, request.options.revision if own else None)
            if own:
                facts[request.name.key] = facts[key]
            facts[facts[key].repo_id.lower()] = facts[key]
        else:
            facts[key] = self.with_access(facts[key])

    def _fetch(self, repo_id: str, revision: str | None) -> RepoInfo:
        key = (repo_id.lower(), revision)
        at, stored = self._facts.get(key, (-_LIVE, None))
        if stored is not None and time.monotonic() - at < _LIVE:
            return stored
        facts = self.hub.facts(repo_id, revision)
        if self.hub.bad_token and not self._warned_of_token:
            self._warned_of_token = True
            _warn("The Hub does not accept the token; continuing without it.")
        self.keep(repo_id.lower(), revision, facts)
        return facts

    def keep(self, key: str, revision: str | None, facts: RepoInfo) -> None:
        self._facts[(key, revision)] = (time.monotonic(), facts)
        if facts.state == "no_revision" or facts.is_private:
            return
        row = facts.to_row(commit=revision is None)
        rows = {facts.repo_id.lower(): row}
        if facts.state != "ok":
            rows = {key: row}
        self._write_rows(rows)

    def _remember_rename(self, old: str, new: str) -> None:
        row = RepositoryRow(new, "ok", None, None, None, None, None, time.time(), renamed_to=new)
        self._write_rows({old: row})

    def _write_rows(self, rows: dict[str, RepositoryRow]) -> None:
        self.write(lambda: self.catalog.remember(rows.items()))

    def write(self, write: Callable[[], None]) -> None:
        """Write to the database; a full or busy disk must not lose a good resolution."""
        if not self.catalog.database.writable:
            return
        try:
            write()
        except (StoreError, BusyError) as error:
            _warn("%s (%s) The result is unaffected, but not recorded.", error.message, error.why)

    def stored_info(self, key: str, row: RepositoryRow | None = None) -> RepoInfo | None:
        """What the database has of a repository, whose `row` may be at hand."""
        return self._stored(key, row or self.catalog.about(key).repository)

    def _stored(self, key: str, row: RepositoryRow | None) -> RepoInfo | None:
        """A stored row as facts, with this token's access as last found."""
        if row is None:
            return None
        access, message = ("open" if row.gated == "false" else "unknown"), ""
        if row.gated in ("auto", "manual"):
            known = self.catalog.access(key, self._fingerprint())
            if known is not None:
                access, message = known[0], known[1]
        if row.state != "ok":
            message = f"the Hub said: {row.state}"
        return RepoInfo.from_row(row, access, message)

    def with_access(self, facts: RepoInfo, *, ask_again: bool = False) -> RepoInfo:
        key, mark = facts.repo_id.lower(), self._fingerprint()
        known = None if ask_again else self.catalog.access(key, mark)
        if known is not None:
            state, message, at = known
            if time.time() - at < (_GRANTED if state == "granted" else _DENIED):
                return facts._replace(access=state, message=message)
        state, message = self.hub.access(facts.repo_id)
        if state not in ("unknown", "no_token"):
            self.write(lambda: self.catalog.remember_access(key, mark, state, message))
        return facts._replace(access=state, message=message or state)

    def _fingerprint(self) -> str:
        if self._print is None:
            from mdl.resolver.token_fingerprint import fingerprint

            self._print = fingerprint(self._token, self.settings.home)
        return self._print

    def _note_fault(self, error: OfflineError, key: str) -> None:
        """One repository's fault is its own; the Hub is down when it fails for several."""
        if isinstance(error, HubFaultError):
            self._failing.add(key)
            if len(self._failing) < self.FAULTS_OF_AN_OUTAGE:
                return
        self._dead = error

    def _prefetch(self, names: list[str]) -> None:
        """List owners that many of the names belong to."""
        owners: dict[str, list[str]] = {}
        for text in names:
            try:
                name = parse_name(text, allow_local=False)
            except MdlError:
                continue  # `resolve` reports it
            known = self.catalog.about(name.key)
            first = [row.repo_id for row, _, _ in known.mirrors[:1]]
            for each in (known.spelling or name.text, *first):
                if "/" in each:
                    owners.setdefault(each.partition("/")[0].lower(), []).append(each)
        try:
            for theirs in owners.values():
                if len(theirs) >= _LISTING_PAYS:
                    self._prefetch_owner(theirs[0])
        except OfflineError as error:
            self._note_fault(error, theirs[0].partition("/")[0].lower())
            _warn(_USING_LOCAL_DATA, error.message)

    def _prefetch_owner(self, one_name: str) -> None:
        # A listing needs the owner in the Hub's spelling, which one of the names gives.
        spelled = self._fetch(one_name, None)
        listed = list(self.hub.by_author(spelled.repo_id.partition("/")[0]))
        now = time.monotonic()
        for facts in listed:
            self._facts[(facts.repo_id.lower(), None)] = (now, facts)
        self._write_rows({f.repo_id.lower(): f.to_row() for f in listed if not f.is_private})

    def _has_mirrors(self, name: Name, options: ResolveOptions) -> bool:
        """Whether a name that lacks a stored format is in the catalogue: it is not misspelled."""
        return options.is_stored and bool(self.about(name.key).mirrors)

    def _suggest(self, error: MdlError, name: Name) -> None:
        refusals.suggest(error, name.key, self.catalog.names_near(name.key))


def _warn(text: str, *values: object) -> None:
    # Seldom needed, and importing logging takes a tenth of the time of `mdl resolve`.
    import logging

    logging.getLogger("mdl").warning(text, *values)


def _nothing_cached(repo_id: str, revision: str | None) -> Cached | None:
    return None
