"""Which repositories could serve a request, best first; `rules` judges them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mdl.resolver.types import ResolveOptions
from mdl.store import USER, BadMirror, MirrorRow, NameRecord, RepositoryRow

_KINDS = {"dynamic": "the dynamic 4-bit mirror", "plain": "the 4-bit mirror"}


class Candidate(NamedTuple):
    """One repository that could serve the request. `format` is its weights', `None` if unknown."""

    repo_id: str
    format: str | None
    rule: str
    source: str
    reason: str
    bad: BadMirror | None = None
    dead: str | None = None
    version: str | None = None  # the edition of the source
    runtimes: tuple[str, ...] = ()  # what loads it, where not all that load its format do

    @property
    def key(self) -> str:
        return self.repo_id.lower()


class Field(NamedTuple):
    """What the order depends on: options, catalogue rows, and the repository named."""

    options: ResolveOptions
    known: NameRecord
    name: str
    format: str | None
    gated: str | None
    base_model: str | None
    runtime: str


def candidates(field: Field) -> Iterator[Candidate]:
    """Every repository that could serve the request, best first, each once."""
    own = Candidate(field.name, field.format, "itself", "hub", "", field.known.bad,
                    runtimes=field.known.runtimes)  # fmt: skip
    seen: set[str] = set()
    elsewhere = []
    for candidate in _in_order(field, own, field.format or "16bit"):
        for each in _with_replacement(candidate):
            if each.key not in seen:
                seen.add(each.key)
                against = _against(each, field.runtime)
                if against:
                    elsewhere.append(each._replace(reason=each.reason + ", as there is no other"))
                yield each._replace(dead=against) if against else each
    yield from elsewhere


def _against(mirror: Candidate, runtime: str) -> str:
    """Why a mirror is taken only where there is nothing else: another runtime has to load it."""
    loads = mirror.runtimes
    if mirror.rule != "mirror" or mirror.dead or not loads or runtime in loads:
        return ""
    return f"{runtime} cannot load it; it runs in {', '.join(loads)}"


def ungated_mirrors(known: NameRecord, format: str | None = None) -> tuple[str, ...]:
    """Repositories with the same weights that nothing says are gated or gone, best first.

    With `format` only those that are taken for it.
    """
    found = {
        row.repo_id: None
        for row, bad, repository in known.mirrors
        if bad is None
        and format in (None, row.format)
        and row.variant != "official"
        and _dead_reason(row) is None
        and (repository is None or _is_open(repository))
    }
    return tuple(found)


def _is_open(repository: RepositoryRow) -> bool:
    return repository.state == "ok" and repository.gated in (None, "false")


def adapter_reason(base: str | None) -> str:
    return f"it is an adapter, loaded on top of its base model{f' {base}' if base else ''}"


def _in_order(field: Field, own: Candidate, own_format: str) -> Iterator[Candidate]:
    format = field.options.format
    rows = list(_rows(field, format))
    yield from (row for row in rows if row.rule == "override")
    if own_format == "adapter":
        yield own._replace(reason=adapter_reason(field.base_model))
        return
    if own_format == format != "16bit":
        yield own._replace(reason=f"its weights already are {format}")
    if field.options.prefer == "official":
        yield from _official(field, own, own_format)
    if format == "16bit":
        yield from _float_order(field, own, own_format, rows)
        return
    yield from rows
    if own_format == "16bit":
        yield own._replace(
            rule="quantize-on-load", reason=f"no {format} mirror is known: converted on load"
        )
    yield from _floats(
        field, "quantize-on-load", f"its float repository, converted to {format} on load"
    )


def _float_order(
    field: Field, own: Candidate, own_format: str, rows: list[Candidate]
) -> Iterator[Candidate]:
    published = any(r.format == "16bit" and r.weights == own_format for r, _, _ in
                    field.known.mirrors)  # fmt: skip
    if own_format != "16bit" and not published:
        yield from _floats(field, "float", f"the float repository of a {own_format} one")
        return
    gated = field.gated
    if field.options.revision is not None:
        yield own._replace(reason="the revision is its own")
    if gated == "false":
        known = "its weights are 16-bit" if field.format else "nothing says it is quantized"
        yield own._replace(reason=f"it is open and {known}")
    why = f"it is gated ({gated})" if gated else "it may be gated"
    for row in rows:
        yield row._replace(rule="ungated-mirror", reason=f"the ungated mirror: {why}")
    yield own._replace(reason="the repository itself")


def _official(field: Field, own: Candidate, own_format: str) -> Iterator[Candidate]:
    reason = "the publisher's own repository, as preferred"
    official = list(_rows(field, "16bit", ("official",)))
    for row in official:
        yield row._replace(rule="official", reason=reason)
    if not official and own_format == "16bit":
        yield own._replace(rule="official", reason=reason)


def _floats(field: Field, rule: str, reason: str) -> Iterator[Candidate]:
    for row in (*_rows(field, "16bit"), *_rows(field, "16bit", ("official",))):
        yield row._replace(rule=rule, reason=reason)
    if field.base_model:
        yield Candidate(field.base_model, None, rule, "hub", reason + ", by its card")


def _rows(
    field: Field, format: str, variants: tuple[str, ...] | None = None
) -> Iterator[Candidate]:
    """The catalogue's rows for a format; `official` ones only if asked for."""
    if format == "fp8":
        # Row scaling needs FBGEMM kernels; block scaling runs wherever fp8 does.
        scalings = ("block",) if field.options.fp8_scaling == "block" else ("row", "block")
        for scaling in scalings:
            yield from _matching(field, format, lambda v, s=scaling: v == s or v == "")  # type: ignore[misc] # the default binds the loop's value
        return
    yield from _matching(field, format, lambda v: v in variants if variants else v != "official")


def _matching(field: Field, format: str, fits: Callable[[str], bool]) -> Iterator[Candidate]:
    for row, bad, _ in field.known.mirrors:
        if row.format == format and fits(row.variant):
            yield Candidate(
                row.repo_id,
                row.weights,
                "override" if row.source == USER else "mirror",
                row.source,
                _row_reason(row),
                bad,
                _dead_reason(row),
                row.source_version,
                row.loads_in,
            )


def _with_replacement(candidate: Candidate) -> Iterator[Candidate]:
    """The candidate, followed by the replacement of a bad one."""
    yield candidate
    bad = candidate.bad
    if bad is not None:
        yield Candidate(
            bad.replacement,
            bad.replacement_format,
            "bad-mirror",
            bad.source,
            f"replaces {bad.repo_id} ({bad.reason})",
            version=candidate.version,
        )


def _row_reason(row: MirrorRow) -> str:
    if row.source == USER:
        return "your own row in the catalogue"
    return _KINDS.get(row.variant) or f"the {row.variant} {row.weights} mirror".replace("  ", " ")


def _dead_reason(row: MirrorRow) -> str | None:
    if row.status in ("dead", "mismatch"):
        return f"found {row.status} by `mdl catalog check`: {row.status_reason}"
    return None
