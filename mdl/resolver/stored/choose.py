"""Choose the repository, variant and files of a stored format: a pure function.

`choose` looks at what is known and returns a resolution, or what it has to know first (`Ask`).
The order: the user's own rows; the named repository, if its files have the format; the
catalogue's mirrors by rank; those of the Hub's model tree by the trust list, then downloads.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mdl.errors import MdlError
from mdl.formats import Format, Variant
from mdl.formatting import human_size
from mdl.resolver.refusals import ACCESS_WORDS
from mdl.resolver.stored import refusals
from mdl.resolver.stored.listing import Listing
from mdl.resolver.stored.runtime import memory_needed
from mdl.resolver.stored.trust import trust_rank
from mdl.resolver.types import READABLE, RepoInfo, Resolution, ResolveRequest, TraceStep
from mdl.store import USER, BadMirror, MirrorRow, NameRecord

HUB_TREE = "hub-tree"  # the source of rows out of the Hub's model tree
# What a runtime takes beside a vision model: llama.cpp's own conversion first.
_PROJECTORS = ("F16", "BF16", "Q8_0", "F32")
_SHOWN = 12  # variants named in one line


class Ask(NamedTuple):
    """Something to find out first: a repository's `listing`, its `access`, or a name's `tree`."""

    what: str
    repo_id: str


class Known(NamedTuple):
    """What a choice is made from.

    `listings` are by key, `None` where nothing can be found out; `tree_read` is when the model
    tree's rows in `record` were read (seconds since 1970); `more` and `less` are publishers whom
    the configuration trusts besides, or does not trust.
    """

    record: NameRecord
    listings: Mapping[str, Listing | None]
    tree_read: float | None
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()


class Mirror(NamedTuple):
    """One repository that may be taken, and why; `against` is why it may not."""

    repo_id: str
    rule: str
    source: str
    reason: str
    against: str = ""
    version: str | None = None

    @property
    def key(self) -> str:
        return self.repo_id.lower()


def choose(request: ResolveRequest, format: str, known: Known) -> Resolution | Ask:
    """Choose for one format; a refusal is a resolution with `error` set."""
    return _Choice(request, format, known).run()


class _Choice:
    def __init__(self, request: ResolveRequest, format: str, known: Known) -> None:
        self.request, self.format, self.known = request, format, known
        self.options = request.options
        self.own = known.listings.get(request.name.key)
        spelled = self.own.repo_id if self.own is not None else known.record.spelling
        self.canonical = spelled or request.name.text
        self.trace: list[TraceStep] = []
        self.missing: dict[str, tuple[str, ...]] = {}  # variants of those that lack the one asked
        self.untrusted: list[str] = []
        if request.name.typed:
            self._step(self.canonical, "noted", f"{request.name.typed!r} means this name")

    def run(self) -> Resolution | Ask:
        if self.request.name.key not in self.known.listings:
            return Ask("listing", self.request.name.text)
        if self.own is not None and self.own.info.state != "ok":
            lost = self.own.info.state == "no_revision"  # it is the named repository's
            if self.options.exact or lost or not self.known.record.mirrors:
                name, revision = self.request.name.text, self.options.revision
                return self._refuse(refusals.not_there(self.own.info, name, revision))
            self._step(self.canonical, "rejected", self.own.info.message)
        if self.request.renamed_from:
            old = self.request.renamed_from
            self._step(self.canonical, "noted", f"the Hub redirects {old} here")
        for mirror in self._mirrors():
            outcome = self._judge(mirror)
            if isinstance(outcome, Ask | Resolution):
                return outcome
            self._step(mirror.repo_id, "rejected", outcome)
        if self.request.online and self.known.tree_read is None and not self.options.exact:
            return Ask("tree", self.canonical)
        return self._refuse(self._nothing())

    # -- candidates -------------------------------------------------------------------------

    def _mirrors(self) -> Iterator[Mirror]:
        """Everything to look at, best first, each once."""
        seen = set()
        for mirror in self._in_order():
            if mirror.key not in seen:
                seen.add(mirror.key)
                yield mirror

    def _in_order(self) -> Iterator[Mirror]:
        if self.options.exact:
            yield Mirror(self.canonical, "exact", "hub", "the name is exact: no other repository")
            return
        rows = [each for each in self.known.record.mirrors if each[0].format == self.format]
        for row, bad, _ in rows:
            if row.source == USER:
                yield _of_row(row, bad)
        itself = not rows if self.own is None else self.own.of(self.format) is not None
        if itself:
            yield Mirror(self.canonical, "itself", "hub", f"its files are {self.format}")
        for row, bad, _ in rows:
            if row.source not in (USER, HUB_TREE):
                yield _of_row(row, bad)
        yield from self._of_tree(rows)

    def _of_tree(
        self, rows: Sequence[tuple[MirrorRow, BadMirror | None, object]]
    ) -> Iterator[Mirror]:
        base = self.canonical.partition("/")[0]
        ranked = []
        for row, bad, _ in rows:
            if row.source == HUB_TREE:
                owner = row.repo_id.partition("/")[0]
                trust = trust_rank(owner, base, self.format, self.known.more, self.known.less)
                ranked.append((trust is None, trust or 0, row.rank, row.repo_id, bad, row))
        for untrusted, _, _, _, bad, row in sorted(ranked, key=lambda each: each[:4]):
            mirror = self._dated(_of_row(row, bad))
            if untrusted and not self.options.any_publisher and not mirror.against:
                self.untrusted.append(row.repo_id)
                owner = row.repo_id.partition("/")[0]
                mirror = mirror._replace(against=f"{owner} is not on the trust list")
            yield mirror

    def _dated(self, mirror: Mirror) -> Mirror:
        if self.known.tree_read is None:
            return mirror
        read = time.strftime("%Y-%m-%d", time.gmtime(self.known.tree_read))
        return mirror._replace(reason=f"{mirror.reason} (read {read})", version=read)

    # -- one candidate ----------------------------------------------------------------------

    def _judge(self, mirror: Mirror) -> Resolution | Ask | str:
        """The resolution to a candidate, what must be known first, or why it is not taken."""
        if mirror.against:
            return mirror.against
        if mirror.key not in self.known.listings:
            return Ask("listing", mirror.repo_id)
        listing = self.known.listings[mirror.key]
        if listing is None:
            if mirror.rule == "itself":
                return "nothing is known of it here"
            return self._accept_unseen(mirror)
        if listing.info.state != "ok":
            return listing.info.message or f"the Hub said: {listing.info.state}"
        found = listing.of(self.format)
        if found is None:
            return f"its files are {', '.join(listing.formats) or 'no weights'}"
        variant = self._variant_of(found)
        if isinstance(variant, str):
            self.missing[listing.repo_id] = tuple(each.name for each in found.variants)
            return variant
        if not listing.complete and self.request.online:
            return Ask("listing", mirror.repo_id)
        if self.options.fit is not None and not isinstance(self.options.fit, str):
            if self._wants_header(listing, found):
                return Ask("header", mirror.repo_id)
            fitting = self._fitting(listing, found, self.options.fit)
            if isinstance(fitting, str):
                return fitting
            variant = fitting
        barred = self._barred(listing.info)
        if barred is not None:
            return barred
        if self._loses_revision(mirror):
            self._step(mirror.repo_id, "rejected", "the revision belongs to the repository named")
            return self._refuse(
                refusals.lost_revision(self.canonical, str(self.options.revision), mirror.repo_id)
            )
        return self._accept(mirror, listing, found, variant)

    def _variant_of(self, found: Format) -> Variant | str:
        """The variant asked for, or the default; why there is none."""
        asked = self.options.variant
        if asked is None:
            return found.variants[0] if found.variants else Variant("")
        variant = found.variant(asked)
        if variant is not None:
            return variant
        names = [each.name for each in found.variants]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        listed = ", ".join(names[:_SHOWN]) + more
        return f"it has no {asked}: {listed}" if names else f"it does not say that it is {asked}"

    def _wants_header(self, listing: Listing, found: Format) -> bool:
        unread = listing.shape is None and not listing.description.gguf
        has_files = any(variant.files for variant in found.variants)
        return self.request.online and unread and self.format == "gguf" and has_files

    def _fitting(self, listing: Listing, found: Format, room: int) -> Variant | str:
        """The largest variant that fits; why none does."""
        if self.options.variant is not None:
            variants = [v for v in (found.variant(self.options.variant),) if v is not None]
        else:
            variants = list(found.variants) or [Variant("")]
        shape, context = listing.shape, self.options.context
        beside = f"with {context} tokens"
        if shape is None:
            beside = "and its KV cache, whose size is not known"
        sized = [(listing.weight_bytes(each) or 0, each) for each in variants]
        for size, variant in sorted(sized, key=lambda each: -each[0]):
            if size == 0:
                self._step(listing.repo_id, "noted", "its size is not known here")
                return variant
            needed = memory_needed(size, shape, context)
            said = f"{variant.name or self.format} needs {human_size(needed)} {beside}"
            if needed <= room:
                self._step(listing.repo_id, "noted", f"{said}, of {human_size(room)}")
                return variant
            self._step(listing.repo_id, "rejected", f"{said}: more than {human_size(room)}")
        return f"nothing of it fits {human_size(room)}: {said}"

    def _barred(self, info: RepoInfo) -> str | Ask | None:
        if info.gated not in ("auto", "manual") or info.access in READABLE:
            return None
        if info.access == "unknown":
            return Ask("access", info.repo_id) if self.request.online and not info.message else None
        return ACCESS_WORDS.get(info.access, info.access)

    def _loses_revision(self, mirror: Mirror) -> bool:
        return self.options.revision is not None and mirror.key != self.canonical.lower()

    def _projector(self, found: Format) -> Variant | MdlError | None:
        """The vision projector to take beside a model."""
        asked = self.options.mmproj
        if (asked is None and not found.projectors) or (asked or "").lower() == "none":
            return None
        if asked is not None:
            for each in found.projectors:
                if each.name.lower() == asked.lower():
                    return each
            return refusals.no_projector(self.canonical, asked, [p.name for p in found.projectors])
        order = {name: place for place, name in enumerate(_PROJECTORS)}
        return min(found.projectors, key=lambda p: order.get(p.name, 9), default=None)

    # -- results ----------------------------------------------------------------------------

    def _accept(
        self, mirror: Mirror, listing: Listing, found: Format, variant: Variant
    ) -> Resolution:
        projector = self._projector(found)
        if isinstance(projector, MdlError):
            return self._refuse(projector)
        files = variant.files + (projector.files if projector is not None else ())
        if self.options.variant is None and len(found.variants) > 1 and self.options.fit is None:
            others = len(found.variants) - 1
            reason = f"{variant.name} is the default; {others} more variants"
            self._step(listing.repo_id, "noted", reason)
        for problem in found.contradictions:
            self._step(listing.repo_id, "noted", problem)
        self._step(listing.repo_id, "accepted", mirror.reason)
        info = listing.info
        is_own = mirror.key == self.canonical.lower()
        revision = variant.branch or (self.options.revision if is_own else None)
        return self._resolution(
            mirror,
            repo_id=listing.repo_id,
            revision=revision or None,
            commit=None if variant.branch else info.commit,
            gated=None if info.gated is None else (info.gated != "false" and info.gated),
            access="open" if info.gated == "false" and info.access == "unknown" else info.access,
            variant=variant.name or None,
            files=tuple(files) or None,
            runtimes=found.runtimes,
            knowledge_age=None if info.live else info.age,
        )

    def _accept_unseen(self, mirror: Mirror) -> Resolution | str:
        if self._loses_revision(mirror):
            return "the revision belongs to the repository named"
        variant = self.options.variant
        unseen = f"whether it has {variant} is not known here" if variant else "by the catalogue"
        self._step(mirror.repo_id, "accepted", f"{mirror.reason}; {unseen}")
        return self._resolution(mirror, repo_id=mirror.repo_id, variant=variant)

    def _resolution(self, mirror: Mirror, *, repo_id: str, **fields: object) -> Resolution:
        substituted = repo_id.lower() != self.canonical.lower()
        values: dict[str, object] = {
            "requested": self.request.renamed_from or self.request.name.text,
            "canonical": self.canonical,
            "repo_id": repo_id,
            "revision": None,
            "commit": None,
            "format": self.format,
            "substituted": substituted,
            "quantize_on_load": False,
            "gated": None,
            "access": "unknown",
            "source": mirror.source,
            "source_version": mirror.version,
            "rule": mirror.rule,
            "trace": tuple(self.trace),
            "alternatives": self._alternatives(repo_id),
            "cached": None,
            "weights": self.format,
            "publisher": repo_id.partition("/")[0] if "/" in repo_id else None,
        }
        return Resolution(**{**values, **fields})  # type: ignore[arg-type] # each field's own type

    def _alternatives(self, but: str) -> tuple[str, ...]:
        if len(self.known.record.mirrors) < 2:
            return ()
        return tuple(
            mirror.repo_id
            for mirror in self._mirrors()
            if not mirror.against
            and mirror.key not in (but.lower(), self.canonical.lower())
            and mirror.repo_id not in self.missing
        )[:_SHOWN]

    def _nothing(self) -> MdlError:
        asked = self.format + (f":{self.options.variant}" if self.options.variant else "")
        if self.own is None and not self.known.record.mirrors:
            return refusals.unknown_offline(self.canonical, asked)
        for step in self.trace:
            if step.reason in ACCESS_WORDS.values():
                return refusals.no_access(step.candidate, step.reason)
        if self.missing:
            return refusals.no_variant(self.canonical, self.format, self.options, self.missing)
        for step in self.trace:
            if step.reason.startswith("nothing of it fits"):
                return refusals.does_not_fit(self.canonical, asked, step.reason)
        if self.untrusted:
            return refusals.untrusted(self.canonical, asked, self.untrusted)
        formats = self.own.formats if self.own is not None else ()
        return refusals.no_mirror(self.canonical, asked, formats, online=self.request.online)

    def _refuse(self, error: MdlError) -> Resolution:
        mirror = Mirror(self.canonical, "refused", "hub", "")
        made = self._resolution(mirror, repo_id=self.canonical, error=error, publisher=None)
        body = made.to_json()
        del body["error"]
        error.details = {**body, **error.details}
        return made

    def _step(self, candidate: str, verdict: str, reason: str) -> None:
        self.trace.append(TraceStep(candidate, verdict, reason))


def _of_row(row: MirrorRow, bad: BadMirror | None) -> Mirror:
    against = f"known bad: {bad.reason}" if bad is not None else ""
    if row.status in ("dead", "mismatch"):
        against = f"found {row.status} by `mdl catalog check`: {row.status_reason}"
    if row.source == USER:
        reason = "your own row in the catalogue"
    elif row.source == HUB_TREE:
        reason = f"the Hub's model tree says that it is made from {row.name}"
    else:
        reason = f"the catalogue's {row.format} mirror"
    rule = "override" if row.source == USER else "mirror"
    return Mirror(row.repo_id, rule, row.source, reason, against, row.source_version)
