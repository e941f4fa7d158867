"""The rules that turn a name and a format into a resolution: a pure function.

`decide` looks at what is known and returns a resolution, or the one fact it is missing
(`MissingFact`), or the name the Hub redirects to (`Redirect`); the caller gathers it and decides
again. So the same code serves offline, where nothing more can be gathered, and online.

The rules, in order; each leaves a line in the trace:

1. A local folder is used as it is.
2. With `exact`, that repository and no other.
3. Your own rows.
4. A repository whose weights already have the format, unless it is known to be bad; a 16-bit
   one that is gated, or may be, gives way to its ungated mirror. An adapter.
5. The catalogue's mirrors by rank, without bad, dead and unreadable ones.
6. The repository itself, converted on load; then its float repositories, converted on load.
7. Mirrors that another runtime has to load; the resolution names it.
8. Otherwise a refusal that names the alternatives.
"""

from collections.abc import Iterator, Mapping

from mdl.errors import MdlError
from mdl.formats import claimed_format
from mdl.resolver import refusals
from mdl.resolver.candidates import Candidate, Field, candidates, ungated_mirrors
from mdl.resolver.names import has_other_owner, is_commit, shown
from mdl.resolver.types import (
    READABLE,
    Cached,
    CacheView,
    MissingFact,
    Redirect,
    RepoInfo,
    Resolution,
    ResolveRequest,
    TraceStep,
)
from mdl.store import NameRecord

_MIRRORS = 3  # asked for and named in a refusal
_CONVERTIBLE = ("16bit", "adapter", "other")  # on load, as far as is known
FactsByKey = Mapping[str, RepoInfo]


def decide(
    request: ResolveRequest, known: NameRecord, facts: FactsByKey, cached: CacheView
) -> Resolution | MissingFact | Redirect:
    """Resolve a request from what is known.

    Args:
        request: the checked name and options.
        known: the catalogue's rows about the name.
        facts: what is known of repositories, by key; while online a missing or stale one that
            matters is returned as a `MissingFact`.
        cached: looks up what is on the disk.
    """
    return _Decision(request, known, facts, cached).run()


class _Decision:
    """One run of `decide`: its inputs, and the trace as it grows."""

    def __init__(
        self, request: ResolveRequest, known: NameRecord, facts: FactsByKey, cached: CacheView
    ) -> None:
        self.request, self.known, self.facts, self.cached = request, known, facts, cached
        self.name, self.options = request.name, request.options
        self.own = facts.get(request.name.key)
        self.trace: list[TraceStep] = []
        self.own_cached: Cached | None = None
        spelled = self.own.repo_id if self.own and self.own.state == "ok" else known.spelling
        if spelled is None:
            self.own_cached = cached(self.name.text, self.options.revision)
            spelled = self.own_cached.repo_id if self.own_cached else None
        self.canonical = spelled or self.name.text
        self.found = spelled is not None
        if request.name.typed:
            self._step(self.canonical, "noted", f"{shown(request.name.typed)} means this name")

    def run(self) -> Resolution | MissingFact | Redirect:
        fact = self._missing_fact()
        if fact:
            return fact
        if self.own is not None and self.own.state == "ok" and self._renamed(self.own):
            return self._follow(self.own)
        if self.request.renamed_from:
            self._note_rename(self.request.renamed_from)
        refusal = self._refuse_unknown()
        if refusal:
            return refusal
        if self.options.exact:
            return self._exact()
        return self._choose()

    # -- the repository named ---------------------------------------------------------------

    def _missing_fact(self) -> MissingFact | None:
        if not self.request.online or self.own is not None:
            return None
        options = self.options
        if is_commit(options.revision) and (options.exact or options.format == "16bit"):
            here = self.cached(self.name.text, options.revision)
            if here is not None and here.complete:
                return None
        has_row = any(row.format == options.format for row, _, _ in self.known.mirrors)
        if (
            options.exact
            or options.format == "16bit"
            or options.prefer == "official"
            or not has_row
        ):
            return MissingFact("facts", self.canonical)
        return None

    def _renamed(self, own: RepoInfo) -> bool:
        return own.repo_id.lower() != self.name.key

    def _follow(self, own: RepoInfo) -> Resolution | MissingFact | Redirect:
        if self.options.exact and has_other_owner(self.name.text, own.repo_id):
            self._step(own.repo_id, "rejected", "the name is exact, and this is another owner's")
            return self._refusal(refusals.moved_to_another_owner(self.name.text, own.repo_id))
        return Redirect(own.repo_id)

    def _note_rename(self, old: str) -> None:
        moved = has_other_owner(old, self.name.text)
        why = "; it belongs to another owner" if moved else ": the repository was renamed"
        self._step(self.name.text, "noted", f"the Hub redirects {old} here{why}")

    def _refuse_unknown(self) -> Resolution | MissingFact | None:
        own = self.own
        if own is None or own.state == "ok":
            if self.found or own is not None or self.request.online:
                return None
            revision = self.options.revision
            here = self.cached.revisions(self.name.text, revision)
            if here:
                return self._refusal(refusals.not_at_revision(self.name.text, revision, here))
            return self._refusal(refusals.unknown_offline(self.name.text))
        self._step(self.canonical, "rejected", own.message or own.state)
        if own.state == "missing" and self.known.mirrors and not self.options.exact:
            return None  # gone or private upstream; its mirrors may remain
        revision = self.options.revision
        return self._refusal(refusals.not_to_be_had(own, self.name.text, self.canonical, revision))

    # -- exact ------------------------------------------------------------------------------

    def _exact(self) -> Resolution | MissingFact:
        own = Candidate(
            self.canonical,
            self._own_format(),
            "exact",
            "hub",
            "the name is exact: no other repository",
        )
        verdict = self._judge(own)
        if isinstance(verdict, MissingFact):
            return verdict
        if verdict is not None:
            self._step(own.repo_id, "rejected", verdict)
            return self._refusal(self._no_access(own.repo_id, verdict))
        weights = own.format or "16bit"
        if self.options.format not in ("16bit", weights) and weights not in ("16bit", "adapter"):
            return self._refusal(refusals.wrong_format(self.canonical, weights, self.options))
        return self._accept(own)

    # -- a choice among candidates ----------------------------------------------------------

    def _choose(self) -> Resolution | MissingFact:
        if self.options.prefer == "cached":
            for candidate in self._candidates():
                here = self._here(candidate)
                if here is not None and here.complete and not self._known_problem(candidate):
                    return self._finish(candidate, here)
            self._step(
                self.canonical, "noted", "no candidate is in the cache: the usual order applies"
            )
        for candidate in self._candidates():
            reason = self._known_problem(candidate)
            if reason is None:
                verdict = self._judge(candidate)
                if isinstance(verdict, MissingFact):
                    return verdict
                reason = verdict
            if reason is None:
                return self._finish(candidate)
            self._step(candidate.repo_id, "rejected", reason)
        return self._refusal(self._nothing_left())

    def _finish(
        self, candidate: Candidate, preferred: Cached | None = None
    ) -> Resolution | MissingFact:
        if self.options.revision is not None and candidate.key != self.canonical.lower():
            self._step(
                candidate.repo_id, "rejected", "the revision belongs to the repository named"
            )
            return self._refusal(
                refusals.lost_revision(self.canonical, self.options, candidate.repo_id)
            )
        if preferred is not None:
            reason = "it is in the cache, as preferred"
            candidate = candidate._replace(reason=reason)
        return self._accept(candidate, preferred)

    def _candidates(self) -> Iterator[Candidate]:
        gated, base = (self.own.gated, self.own.base_model) if self.own else (None, None)
        field = Field(self.options, self.known, self.canonical, self._own_format(), gated, base,
                      self.request.runtime)  # fmt: skip
        return candidates(field)

    # -- judging one candidate --------------------------------------------------------------

    def _known_problem(self, candidate: Candidate) -> str | None:
        """The reason against a candidate that is known already, or `None`."""
        if candidate.bad is not None:
            return f"known bad: {candidate.bad.reason}"
        facts = self.facts.get(candidate.key)
        weights = (facts.format if facts is not None else None) or candidate.format or "16bit"
        if candidate.rule == "quantize-on-load" and weights not in _CONVERTIBLE:
            return f"its weights are {weights}, which is not converted on load"
        return candidate.dead

    def _judge(self, candidate: Candidate) -> str | MissingFact | None:
        """Why a candidate cannot be used, what must be known first, or `None` if it can be used."""
        facts = self.facts.get(candidate.key)
        if facts is None or (self.request.online and not facts.live):
            if self.request.online and not self._pinned_here(candidate):
                return MissingFact("facts", candidate.repo_id)
            if facts is None:
                return None
        if facts.state != "ok":
            return facts.message or f"the Hub said: {facts.state}"
        if facts.format == "adapter" and candidate.key != self.canonical.lower():
            return "it is an adapter, not a model"
        if facts.gated in ("auto", "manual") and facts.access not in READABLE:
            if facts.access == "unknown":
                if self.request.online and not facts.message:
                    return MissingFact("access", candidate.repo_id)
                return None if not self.request.online else refusals.ACCESS_WORDS["unknown"]
            return refusals.ACCESS_WORDS.get(facts.access, facts.access)
        return None

    def _pinned_here(self, candidate: Candidate) -> bool:
        """A commit that is complete in the cache cannot change: no need to ask the Hub."""
        if not is_commit(self.options.revision):
            return False
        here = self.cached(candidate.repo_id, self.options.revision)
        return here is not None and here.complete

    def _here(self, candidate: Candidate) -> Cached | None:
        own = candidate.key == self.canonical.lower()
        return self.cached(candidate.repo_id, self.options.revision if own else None)

    def _own_format(self) -> str | None:
        if self.own is not None and self.own.format is not None:
            return self.own.format
        return self.known.quantized or claimed_format(self.name.text)

    # -- results ----------------------------------------------------------------------------

    def _accept(self, candidate: Candidate, preferred: Cached | None = None) -> Resolution:
        """The resolution; `preferred` is the cached copy, where that comes before the newest."""
        facts = self.facts.get(candidate.key)
        is_own = candidate.key == self.canonical.lower()
        repo_id = facts.repo_id if facts is not None else candidate.repo_id
        weights = (facts.format if facts is not None else None) or candidate.format or "16bit"
        format = self.options.format
        quantize = format != "16bit" and weights not in (format, "adapter")
        commit = None if preferred is not None else self._newest(facts, is_own)
        revision = commit or (self.options.revision if is_own else None)
        # The commit to load, which may be newer than the one a branch meant when it was downloaded.
        here = preferred or self.cached(repo_id, revision)
        commit = commit or self._commit_at_hand(facts, here)
        substituted = not is_own or self._moved_owner()
        local = tuple(
            made for made in self.known.local
            if is_own and quantize and made.format == format and commit in (None, made.commit)
        )  # fmt: skip
        for made in local:
            self._step(made.path, "noted", f"a local copy, quantized from {made.commit[:12]}")
        self._step(repo_id, "accepted", candidate.reason + (", converted on load"
            if quantize and "on load" not in candidate.reason else ""))  # fmt: skip
        return Resolution(
            requested=self._requested(),
            canonical=self.canonical,
            repo_id=repo_id,
            revision=self.options.revision if is_own else None,
            commit=commit,
            format=self.options.label,
            substituted=substituted,
            quantize_on_load=quantize,
            gated=_gated(facts),
            access=_access(facts),
            source=candidate.source,
            source_version=candidate.version,
            rule=candidate.rule,
            trace=tuple(self.trace),
            alternatives=self._alternatives(candidate.key),
            cached=here,
            local_mirrors=tuple(m._asdict() for m in local),
            weights=weights,
            knowledge_age=None if facts is None or facts.live else facts.age,
            runtimes=candidate.runtimes if weights == candidate.format else (),
        )

    def _refusal(self, error: MdlError | MissingFact) -> Resolution | MissingFact:
        if isinstance(error, MissingFact):
            return error
        resolution = Resolution(
            requested=self._requested(),
            canonical=self.canonical,
            repo_id=self.canonical,
            revision=self.options.revision,
            commit=self.own.commit if self.own else None,
            format=self.options.label,
            substituted=False,
            quantize_on_load=False,
            gated=_gated(self.own),
            access=_access(self.own),
            source="hub",
            rule="refused",
            trace=tuple(self.trace),
            alternatives=self._alternatives(self.canonical.lower()),
            cached=None,
            error=error,
        )
        body = resolution.to_json()
        del body["error"]
        error.details = {**body, **error.details}
        return resolution

    def _no_access(self, repo_id: str, reason: str) -> MdlError | MissingFact:
        """The refusal, with the ungated mirrors in this format that are there."""
        mirrors = []
        for mirror in ungated_mirrors(self.known, self.options.format)[:_MIRRORS]:
            facts = self.facts.get(mirror.lower())
            if self.request.online and (facts is None or not facts.live):
                return MissingFact("facts", mirror)
            if facts is None or (facts.state == "ok" and facts.gated == "false"):
                mirrors.append(mirror)
        facts = self.facts.get(repo_id.lower())
        access, said = (facts.access, facts.message) if facts is not None else ("unknown", "")
        return refusals.no_access(repo_id, reason, access, said, mirrors)

    def _nothing_left(self) -> MdlError | MissingFact:
        if any(step.reason in refusals.ACCESS_WORDS.values() for step in self.trace):
            return self._no_access(self.canonical, refusals.last_reason(self.trace))
        others, weights = self._alternatives(""), self._own_format()
        rejected = [step for step in self.trace if step.verdict == "rejected"]
        if not rejected and weights is not None:
            read = self.own is not None
            return refusals.no_original(self.canonical, weights, self.options, others, card=read)
        return refusals.nothing_left(self.canonical, self.options, rejected, others)

    def _alternatives(self, but: str) -> tuple[str, ...]:
        found: dict[str, str] = {}
        for row, bad, _ in self.known.mirrors:
            if bad is None and row.status not in ("dead", "mismatch"):
                found.setdefault(row.repo_id.lower(), row.repo_id)
        found.pop(but, None)
        return tuple(r for k, r in found.items() if not self._unreadable(k))

    def _unreadable(self, key: str) -> bool:
        facts = self.facts.get(key)
        return facts is not None and (
            facts.state != "ok" or (facts.gated in ("auto", "manual") and facts.access != "granted")
        )

    def _newest(self, facts: RepoInfo | None, is_own: bool) -> str | None:
        """The commit asked for, or the one the Hub just named."""
        if is_own and is_commit(self.options.revision):
            return self.options.revision
        return facts.commit if facts is not None and facts.live else None

    def _commit_at_hand(self, facts: RepoInfo | None, here: Cached | None) -> str | None:
        if here is not None and here.commit:
            return here.commit
        return facts.commit if facts is not None and not self.options.revision else None

    def _requested(self) -> str:
        return self.request.renamed_from or self.name.text

    def _moved_owner(self) -> bool:
        old = self.request.renamed_from
        return old is not None and has_other_owner(old, self.canonical)

    def _step(self, candidate: str, verdict: str, reason: str) -> None:
        self.trace.append(TraceStep(candidate, verdict, reason))


def _gated(facts: RepoInfo | None) -> bool | str | None:
    if facts is None or facts.gated is None:
        return None
    return False if facts.gated == "false" else facts.gated


def _access(facts: RepoInfo | None) -> str:
    if facts is None:
        return "unknown"
    if facts.gated == "false" and facts.access == "unknown" and facts.state == "ok":
        return "open"
    return facts.access
