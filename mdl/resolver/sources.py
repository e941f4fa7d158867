"""What is known of repositories: the rows of the database, and what the Hub says of the rest."""

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mdl.errors import BusyError, HubFaultError, OfflineError, StoreError
from mdl.resolver.types import Cached, CacheView, MissingFact, RepoInfo, ResolveRequest
from mdl.settings import Settings
from mdl.store import Catalog, NameRecord, RepositoryRow, open_catalog

if TYPE_CHECKING:
    from mdl.resolver.hub_api import HubApi

# Seconds for which what the Hub said is used again without asking.
_LIVE = 60.0  # asked by this very resolver: the commit of a branch
_FACTS = 86400.0  # name, gating, format: they change rarely, and a load asks again
_GRANTED, _DENIED = 3600.0, 300.0  # denials expire soon: people fix them and try again


class Sources:
    """The database, the cache view and the Hub, with what they said lately."""

    FAULTS_OF_AN_OUTAGE = 3

    def __init__(
        self,
        settings: Settings,
        cached: CacheView | None,
        *,
        token: str | bool | None,
        catalog: Catalog | None,
    ) -> None:
        self.settings = settings
        self.catalog: Catalog = catalog or open_catalog(settings)
        self.cached = cached or _NothingCached()
        self._token = settings.token_for(token)
        self._hub: HubApi | None = None
        self._warned_of_token = False
        self._dead: OfflineError | None = None
        self._failing: set[str] = set()  # the names' keys
        self._facts: dict[tuple[str, str | None], tuple[float, RepoInfo]] = {}
        self._print: str | None = None

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
            warn("The Hub does not accept the token; continuing without it.")
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

    def keep_all(self, facts: Iterable[RepoInfo]) -> None:
        """Remember what a listing of the Hub says of repositories."""
        self._write_rows({each.repo_id.lower(): each.to_row() for each in facts
                          if each.state == "ok" and not each.is_private})  # fmt: skip

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
            warn("%s (%s) The result is unaffected, but not recorded.", error.message, error.why)

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

    def known_access(self, facts: RepoInfo) -> RepoInfo:
        """The facts with this token's access as last found; asks nobody."""
        if facts.gated not in ("auto", "manual") or facts.access != "unknown":
            return facts
        if self._token is None:
            return facts._replace(access="no_token")
        known = self.catalog.access(facts.repo_id.lower(), self._fingerprint())
        return facts if known is None else facts._replace(access=known[0], message=known[1])

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


def warn(text: str, *values: object) -> None:
    """Warn through the logger `mdl`."""
    # Seldom needed, and importing logging takes a tenth of the time of `mdl resolve`.
    import logging

    logging.getLogger("mdl").warning(text, *values)


class _NothingCached:
    def __call__(self, repo_id: str, revision: str | None) -> Cached | None:
        return None

    def revisions(self, repo_id: str, but: str | None) -> tuple[str, ...]:
        return ()
