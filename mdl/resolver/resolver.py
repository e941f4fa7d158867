"""Resolve names: let the rules decide, and gather the facts that they lack."""

import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from mdl.errors import MdlError, NotFoundError, OfflineError, UsageError
from mdl.formats import variant_key
from mdl.resolver import candidates, refusals
from mdl.resolver.names import Name, parse_name
from mdl.resolver.rules import decide
from mdl.resolver.sources import Sources, warn
from mdl.resolver.types import (
    Access,
    CacheView,
    Redirect,
    RepoInfo,
    Resolution,
    ResolveOptions,
    ResolveRequest,
)
from mdl.settings import Settings
from mdl.store import Catalog

if TYPE_CHECKING:
    from mdl.resolver.stored import FamilyRows, StoredLookup

# From this many names of one owner on, listing the owner is cheaper than asking for each.
_LISTING_PAYS = 8
_BATCH = 500
_MADE_ON_LOAD = ("bnb-4bit", "8bit")  # no variant of these is stored
_USING_LOCAL_DATA = "%s Using local data."


class Resolver(Sources):
    """Resolves names with one set of settings; keeps the database open in between.

    Args:
        settings: where the database and the Hub are; with `offline` no socket is opened.
        cached: looks up the cache, for working offline and for `prefer="cached"`.
        token: the caller's Hub token; the settings' by default, `False` for none.
        allow_local: whether a name may be a folder (a server says no).
        catalog: one that is already open; the caller closes it.
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
        super().__init__(settings, cached, token=token, catalog=catalog)
        self._allow_local = allow_local

    @cached_property
    def stored(self) -> "StoredLookup":
        from mdl.resolver.stored import StoredLookup

        return StoredLookup(self)

    # -- one name ---------------------------------------------------------------------------

    def resolve(self, text: str, options: ResolveOptions | None = None) -> Resolution:
        """Resolve one name; a refusal is a resolution with `error` set (see `Resolution.checked`).

        Raises:
            NameRefusedError: no repository and no folder can have this name.
            UsageError: it ends in a variant, and the options ask for another.
            BusyError: the Hub's rate limit is used up.
            StoreError: the database cannot be read.
        """
        options = options or ResolveOptions(prefer=self.settings.prefer)
        name, options = self.asked(text, options)
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
            warn(_USING_LOCAL_DATA, error.message)
            resolution = self._decide(ResolveRequest(name, options, online=False))
        refusal = resolution.error
        if (
            refusal is not None
            and refusal.exit_code in (3, 5)
            and "revisions" not in refusal.details
            and not self._exists(name, options)
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
            warn(
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
        if self.online and facts.gated != "false":
            found = [self._fetch(mirror, None) for mirror in ungated]
            ungated = tuple(each.repo_id for each in found
                            if (each.state, each.gated) == ("ok", "false"))  # fmt: skip
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

    def asked(self, text: str, options: ResolveOptions) -> tuple[Name, ResolveOptions]:
        """The name, and the options with the variant behind its colon (`org/name:Q8_0`).

        Raises:
            NameRefusedError: no repository and no folder can have this name.
            UsageError: the options ask for another variant or format.
        """
        name = self.parse(text, allow_variant=not options.exact)
        if name.variant is None:
            return name, options
        if options.variant is not None:
            agrees = variant_key(options.variant) == variant_key(name.variant)
        else:
            agrees = options.format not in _MADE_ON_LOAD
        if not agrees:
            raise refusals.two_formats(name, options)
        return name, options._replace(variant=options.variant or name.variant)

    def resolve_known(self, text: str, options: ResolveOptions) -> Resolution:
        """Resolve a repository's name from the database and the cache alone, by this token's
        access as it is known."""
        request = ResolveRequest(parse_name(text, allow_local=False), options, online=False)
        if options.is_stored or not self.online:
            return self._decide(request)
        facts: dict[str, RepoInfo] = {}
        known = self._knowledge(request, facts)
        facts = {key: self.known_access(each) for key, each in facts.items()}
        found = decide(request, known, facts, self.cached)
        return found if isinstance(found, Resolution) else self._decide(request)

    def family_rows(self, name: Name) -> "FamilyRows":
        """What a family is made from (`StoredLookup.family_of`); without the Hub, what is known."""
        if self.online:
            try:
                return self.stored.family_of(name, online=True)
            except OfflineError as error:
                self._note_fault(error, name.key)
                warn(_USING_LOCAL_DATA, error.message)
        return self.stored.family_of(name, online=False)

    # -- deciding ---------------------------------------------------------------------------

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
            warn(_USING_LOCAL_DATA, error.message)

    def _prefetch_owner(self, one_name: str) -> None:
        # A listing needs the owner in the Hub's spelling, which one of the names gives.
        spelled = self._fetch(one_name, None)
        listed = list(self.hub.by_author(spelled.repo_id.partition("/")[0]))
        now = time.monotonic()
        for facts in listed:
            self._facts[(facts.repo_id.lower(), None)] = (now, facts)
        self.keep_all(listed)

    def _exists(self, name: Name, options: ResolveOptions) -> bool:
        """Whether there is such a repository, as far as is known: the name is not misspelled."""
        known = self.about(name.key)
        if options.is_stored and known.mirrors:
            return True
        _, info = self._facts.get((name.key, options.revision), (0, known.repository))
        return info is not None and info.state == "ok"

    def _suggest(self, error: MdlError, name: Name) -> None:
        refusals.suggest(error, name.key, self.catalog.names_near(name.key))
