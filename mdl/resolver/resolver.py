"""Gathering what the policy needs: the database, the Hub, and the cache view it is handed."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from mdl.errors import (
    BusyError,
    MdlError,
    NotFoundError,
    OfflineError,
    StoreError,
    UsageError,
)
from mdl.resolver import refusals
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

# Seconds for which an answer of the Hub is taken again without asking.
_LIVE = 60.0  # what this session itself asked: the commit of a branch
_FACTS = 86400.0  # name, gating, format: they change rarely, and the load asks again
_GRANTED, _DENIED = 3600.0, 300.0  # a denial is forgotten soon: people fix it and try again
# From this many unknown names of one owner on, its listing is cheaper than asking for each.
_LISTING_PAYS = 8
_BATCH = 500


class Resolver:
    """Answers names for one set of settings; keeps its database open between them.

    Args:
        settings: where the database and the Hub are; `offline` forbids any socket.
        cached: what is on the disk, for offline answers and `prefer="cached"`.
        token: the caller's Hub token; the settings' own when left out, `False` for none.
        allow_local: whether a name may be a folder (a server says no).
        catalog: one that is open already, and stays the caller's to close.
    """

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
        self._told_of_token = False
        self._dead: OfflineError | None = None
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
        """Whether the Hub may be asked and, as far as is known, answers."""
        return not self.settings.offline and self._dead is None

    def close(self) -> None:
        self.catalog.database.close()

    # -- one name ---------------------------------------------------------------------------

    def resolve(self, text: str, options: ResolveOptions | None = None) -> Resolution:
        """Answer one name; a refusal is an answer with `error` set (see `Resolution.checked`).

        Raises:
            NameRefusedError: no repository and no folder can have this name.
            BusyError: the Hub's rate limit is used up.
            StoreError: the database cannot be read.
        """
        options = options or ResolveOptions(prefer=self.settings.prefer)
        name = self._parse(text)
        if name.path is not None:
            from mdl.resolver.local_folder import resolve_folder

            return resolve_folder(name, options)
        was_online = self.online
        try:
            answer = self._decide(ResolveRequest(name, options, was_online))
        except OfflineError as error:
            # A dead endpoint after a short bound: what is known here answers.
            if not was_online:
                raise
            self._dead = error
            _warn("%s Answering from what is known here.", error.message)
            answer = self._decide(ResolveRequest(name, options, online=False))
        if answer.error is not None and answer.error.exit_code in (3, 5):
            self._suggest(answer.error, name)
        return answer

    def resolve_many(
        self, names: Iterable[str], options: ResolveOptions | None = None
    ) -> Iterator[Resolution | MdlError]:
        """Answer many names, in order, as they come; one that cannot be answered gives its error.

        Online, names are taken in batches, so that whole owners can be asked for at once.
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

    def record(self, answer: Resolution, purpose: str, *, announce: bool = True) -> None:
        """Write an answer that is used into the resolution log, and announce a substitution."""
        if answer.substituted and announce:
            _warn(
                "%s was asked for; %s is used instead (%s).",
                answer.requested,
                answer.repo_id,
                answer.trace[-1].reason if answer.trace else answer.rule,
            )
        self._write(
            lambda: self.catalog.log(purpose, answer.requested, answer.format, answer.to_json())
        )

    def access(self, text: str) -> Access:
        """Gating of a repository and the caller's own access to it, asked now.

        Raises:
            NotFoundError: no such repository can be seen.
            OfflineError: the Hub does not answer, and nothing is known here.
            UsageError: the name is a folder.
        """
        name = self._parse(text)
        if name.path is not None:
            raise UsageError(
                f"{name.text} is a folder: access is a matter of the file system.",
                next="Ask about a repository, as org/name.",
            )
        if not self.online:
            stored = self._stored(name.key, self.catalog.about(name.key).repository)
            if stored is None:
                raise OfflineError(
                    f"Nothing is known here about the access to {name.text}.",
                    next="Ask again with the network.",
                )
            return self._access_of(name, stored)
        facts = self.hub.facts(name.text)
        if facts.state != "ok":
            error = NotFoundError(
                f"{name.text} cannot be seen.",
                why=facts.message,
                next="Check the spelling; a private repository needs a token of its owner's.",
            )
            self._suggest(error, name)
            raise error
        self._keep(name.key, None, facts)
        if facts.gated != "false":
            facts = self._with_access(facts, ask_again=True)
        return self._access_of(name, facts)

    def _access_of(self, name: Name, facts: RepoInfo) -> Access:
        mirrors = self.catalog.about(facts.repo_id.lower()).mirrors
        ungated = {
            row.repo_id: None
            for row, bad, known in mirrors
            if bad is None
            and row.variant != "official"
            and (known is None or known.gated in (None, "false"))
        }
        return Access(
            requested=name.text,
            repo_id=facts.repo_id,
            gated=False if facts.gated == "false" else facts.gated,
            access=facts.access,
            message=facts.message,
            page=f"{self.settings.endpoint}/{facts.repo_id}",
            ungated_mirrors=tuple(ungated),
        )

    def _parse(self, text: str) -> Name:
        endpoint = self.settings.endpoint
        return parse_name(text, allow_local=self._allow_local, endpoint=endpoint)

    # -- gathering --------------------------------------------------------------------------

    def _decide(self, request: ResolveRequest) -> Resolution:
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

    def _with_local(self, answer: Resolution, request: ResolveRequest) -> Resolution:
        """What was quantized here before, when another repository than the named one answers."""
        key = answer.repo_id.lower()
        if not answer.quantize_on_load or key == request.name.key:
            return answer
        made = [m for m in self._about(key).local if m.commit == answer.commit]
        if not made:
            return answer
        return answer._replace(local_mirrors=tuple(m._asdict() for m in made))

    def _knowledge(self, request: ResolveRequest, facts: dict[str, RepoInfo]) -> NameRecord:
        """The catalogue's rows about a name, and the stored facts that are still good."""
        known = self._about(request.name.key)
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

    def _about(self, key: str) -> NameRecord:
        """The catalogue's rows, with the local mirrors that are still here.

        A folder may have been removed since, or be on another machine of the team's.
        """
        known = self._look_up(key)
        if known.local:
            here = tuple(mirror for mirror in known.local if os.path.isdir(mirror.path))
            known = known._replace(local=here)
        return known

    def _look_up(self, key: str) -> NameRecord:
        return self.catalog.about(key)

    def _gather(
        self, need: MissingFact, request: ResolveRequest, facts: dict[str, RepoInfo]
    ) -> None:
        key = need.repo_id.lower()
        if need.what == "facts":
            own = key == request.name.key or need.repo_id == request.name.text
            facts[key] = self._fetch(need.repo_id, request.options.revision if own else None)
            if own:
                facts[request.name.key] = facts[key]
            facts[facts[key].repo_id.lower()] = facts[key]
        else:
            facts[key] = self._with_access(facts[key])

    def _fetch(self, repo_id: str, revision: str | None) -> RepoInfo:
        key = (repo_id.lower(), revision)
        held = self._facts.get(key)
        if held is not None and time.monotonic() - held[0] < _LIVE:
            return held[1]
        facts = self.hub.facts(repo_id, revision)
        if self.hub.bad_token and not self._told_of_token:
            self._told_of_token = True
            _warn("The Hub does not accept the token; asking without one.")
        self._keep(repo_id.lower(), revision, facts)
        return facts

    def _keep(self, key: str, revision: str | None, facts: RepoInfo) -> None:
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
        self._write(lambda: self.catalog.remember(rows.items()))

    def _write(self, write: Callable[[], None]) -> None:
        """Keep what was learnt. A full or busy disk must not keep a good answer from its asker."""
        if not self.catalog.database.writable:
            return
        try:
            write()
        except (StoreError, BusyError) as error:
            said = "%s (%s) The answer stands, but nothing was recorded."
            _warn(said, error.message, error.why)

    def _stored(self, key: str, row: RepositoryRow | None) -> RepoInfo | None:
        """A stored row as facts, with what is known of this token's access."""
        if row is None:
            return None
        access, message = ("open" if row.gated == "false" else "unknown"), ""
        if row.gated in ("auto", "manual"):
            held = self.catalog.access(key, self._fingerprint())
            if held is not None:
                access, message = held[0], held[1]
        if row.state != "ok":
            message = f"the Hub said: {row.state}"
        return RepoInfo(
            repo_id=row.renamed_to or row.repo_id,
            state=row.state,
            gated=row.gated,
            format=row.format,
            base_model=row.base_model,
            commit=row.commit,
            access=access,
            message=message,
            age=max(0.0, time.time() - row.checked_at),
        )

    def _with_access(self, facts: RepoInfo, *, ask_again: bool = False) -> RepoInfo:
        key, mark = facts.repo_id.lower(), self._fingerprint()
        held = None if ask_again else self.catalog.access(key, mark)
        if held is not None:
            life = _GRANTED if held[0] == "granted" else _DENIED
            if time.time() - held[2] < life:
                return facts._replace(access=held[0], message=held[1])
        state, message = self.hub.access(facts.repo_id)
        if state not in ("unknown", "no_token"):
            self._write(lambda: self.catalog.remember_access(key, mark, state, message))
        return facts._replace(access=state, message=message or state)

    def _fingerprint(self) -> str:
        if self._print is None:
            from mdl.resolver.token_fingerprint import fingerprint

            self._print = fingerprint(self._token, self.settings.home)
        return self._print

    def _prefetch(self, names: list[str]) -> None:
        """Ask for whole owners where many names are theirs."""
        owners: dict[str, list[str]] = {}
        for text in names:
            try:
                name = parse_name(text, allow_local=False)
            except MdlError:
                continue  # it gets its own answer
            known = self.catalog.about(name.key)
            for each in (
                known.spelling or name.text,
                *(m.repo_id for m, _, _ in known.mirrors[:1]),
            ):
                if "/" in each:
                    owners.setdefault(each.partition("/")[0].lower(), []).append(each)
        try:
            for theirs in owners.values():
                if len(theirs) >= _LISTING_PAYS:
                    self._prefetch_owner(theirs[0])
        except OfflineError as error:
            self._dead = error
            _warn("%s Answering from what is known here.", error.message)

    def _prefetch_owner(self, one_name: str) -> None:
        # The listing wants the owner as the Hub spells it; one of the names tells.
        spelled = self._fetch(one_name, None)
        listed = list(self.hub.by_author(spelled.repo_id.partition("/")[0]))
        now = time.monotonic()
        for facts in listed:
            self._facts[(facts.repo_id.lower(), None)] = (now, facts)
        self._write_rows({f.repo_id.lower(): f.to_row() for f in listed if not f.is_private})

    def _suggest(self, error: MdlError, name: Name) -> None:
        refusals.suggest(error, name.key, self.catalog.names_near(name.key))


def _warn(text: str, *values: object) -> None:
    # Most answers have nothing to warn of, and importing logging takes a tenth of their time.
    import logging

    logging.getLogger("mdl").warning(text, *values)


def _nothing_cached(repo_id: str, revision: str | None) -> Cached | None:
    return None
