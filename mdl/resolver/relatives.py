"""A model's family: the publisher's repository and everything made from it, and what is taken.

Read from the catalogue, the Hub's model tree and the cache; sizes are shown where they are known.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.errors import MdlError, UsageError
from mdl.formats import named_weights, runtimes_of
from mdl.formatting import human_size
from mdl.resolver.stored import Listing, about_bytes, trust_rank
from mdl.resolver.types import Cached, RepoInfo, ResolveOptions
from mdl.settings import Settings
from mdl.store import BadMirror, MirrorRow

if TYPE_CHECKING:
    from mdl.resolver.resolver import Resolver

_SHOWN = 6  # variants in one line
_ROLES = ("publisher", "float copy", "quantized", "adapter")


class Member(NamedTuple):
    """One repository of a family.

    `role` is `publisher`, `float copy`, `quantized` or `adapter`; `variants` are (name, bytes)
    pairs; `trust` is its publisher's place on the trust list, `None` for not on it; `against` is
    why it is not taken; `about` are the bytes of the smallest and the largest variant as the
    number of weights tells them, where no size is known.
    """

    repo_id: str
    role: str
    format: str
    variants: tuple[tuple[str, int | None], ...]
    size: int | None
    gated: str | None
    access: str
    trust: int | None
    source: str
    cached: Cached | None
    runtimes: tuple[str, ...]
    against: str = ""
    about: tuple[int, int] | None = None

    @property
    def variants_text(self) -> str:
        """The names of its variants; the first few of many."""
        names = [name for name, _ in self.variants if name]
        more = f" +{len(names) - _SHOWN}" if len(names) > _SHOWN else ""
        return " ".join(names[:_SHOWN]) + more

    @property
    def size_text(self) -> str:
        """Its size, or those of its smallest and largest variant; empty where none is known."""
        sizes = [size for size in (self.size, *(size for _, size in self.variants)) if size]
        if not sizes and self.about is None:
            return ""
        low, high = map(human_size, (min(sizes), max(sizes)) if sizes else self.about or ())
        return ("" if sizes else "about ") + (low if low == high else f"{low}–{high}")

    def to_json(self) -> dict[str, Any]:
        cached = self.cached
        return {
            **self._asdict(),
            "variants": [{"variant": name, "size": size} for name, size in self.variants],
            "cached": None
            if cached is None
            else {"complete": cached.complete, "path": cached.path, "bytes": cached.bytes},
            "runtimes": list(self.runtimes),
            "about": None if self.about is None else list(self.about),
        }


class Family(NamedTuple):
    """A base model, its members, and for each format the repository that a request takes."""

    requested: str
    base: str
    members: tuple[Member, ...]
    requests: Mapping[str, str | None]

    def to_json(self) -> dict[str, Any]:
        return {
            "requested": self.requested,
            "base": self.base,
            "members": [member.to_json() for member in self.members],
            "requests": dict(self.requests),
        }


def family(resolver: "Resolver", text: str) -> Family:
    """The family of any of its members; online two requests at most, three from a mirror.

    Raises:
        NotFoundError: there is no such repository.
        OfflineError: nothing is known of it here.
    """
    name = resolver.parse(text, allow_variant=True)
    if name.path is not None:
        raise UsageError(f"{name.text} is a local folder.", next="Give a repository, as org/name.")
    base, rows, listings = resolver.family_rows(name)
    own = listings.get(base.lower())
    whole = own.whole_bytes if own is not None and own.formats[:1] == ("16bit",) else None
    weights = whole / 2 if whole else named_weights(base.rpartition("/")[2])
    members: dict[str, Member] = {}
    for row, bad, stored in ((None, None, None), *rows):
        repo_id = base if row is None else row.repo_id
        key = repo_id.lower()
        if key in members:
            continue
        listing = listings.get(key)
        info = listing.info if listing is not None else None
        if info is None and stored is not None:
            info = resolver.stored_info(key, stored)
        info = resolver.known_access(info or RepoInfo(repo_id, "ok"))
        trust = _trust(resolver.settings, base, repo_id, _format(row, listing))
        found = _member(info, row, bad, listing, trust)
        members[key] = found._replace(
            repo_id=repo_id,
            cached=resolver.cached(repo_id, None),
            about=_about(found, listing, weights),
        )
    order = sorted(members.values(), key=_order)
    return Family(text, base, tuple(order), _requests(resolver, base, order))


def _about(
    member: Member, listing: Listing | None, weights: float | None
) -> tuple[int, int] | None:
    known = member.size or any(size for _, size in member.variants)
    if known or not weights or member.format == "adapter":
        return None
    found = listing.of(member.format) if listing is not None else None
    bits = [each.bits for each in found.variants] if found is not None else []
    sizes = [about_bytes(weights, member.format, each) for each in bits or [None]]
    return min(sizes), max(sizes)


def _trust(settings: Settings, base: str, repo_id: str, format: str) -> int | None:
    owner = repo_id.partition("/")[0]
    return trust_rank(owner, base.partition("/")[0], format, settings.trusted, settings.distrusted)


def _format(row: MirrorRow | None, listing: Listing | None) -> str:
    if listing is not None and listing.formats:
        return listing.formats[0]
    return row.weights if row is not None else "16bit"


def _member(
    info: RepoInfo,
    row: MirrorRow | None,
    bad: BadMirror | None,
    listing: Listing | None,
    trust: int | None,
) -> Member:
    format = _format(row, listing)
    role = "publisher" if row is None else "float copy" if format == "16bit" else "quantized"
    role = "adapter" if format == "adapter" else role
    found = listing.of(format) if listing is not None else None
    variants = () if found is None else tuple((v.name, v.size if v.files else None)
                                              for v in found.variants)  # fmt: skip
    size = None
    if listing is not None and found is not None and not any(v.files for v in found.variants):
        size = listing.weight_bytes(found.variants[0]) if found.variants else listing.whole_bytes
    return Member(
        info.repo_id, role, format, variants, size, info.gated, info.access, trust,
        row.source if row is not None else "hub", None,
        found.runtimes if found is not None else runtimes_of(format),
        _against(info, row, bad, trust),
    )  # fmt: skip


def _against(
    info: RepoInfo, row: MirrorRow | None, bad: BadMirror | None, trust: int | None
) -> str:
    if bad is not None:
        return f"known bad: {bad.reason}"
    if row is not None and row.status in ("dead", "mismatch"):
        return f"found {row.status} by `mdl catalog check`"
    if info.state != "ok":
        return f"the Hub said: {info.state}"
    if row is not None and row.source == "hub-tree" and trust is None:
        return "its publisher is not on the trust list"
    return ""


def _order(member: Member) -> tuple[int, str, bool, int, str]:
    untrusted = member.trust is None
    return (
        _ROLES.index(member.role), member.format, untrusted, member.trust or 0,
        member.repo_id.lower(),
    )  # fmt: skip


def _requests(resolver: "Resolver", base: str, members: list[Member]) -> dict[str, str | None]:
    """What each request would take, by what is known now: no further request to the Hub."""
    formats = ["16bit", "bnb-4bit", "8bit", "fp8"]
    formats += [member.format for member in members if member.role == "quantized"]
    found: dict[str, str | None] = {}
    for format in dict.fromkeys(formats):
        try:
            resolution = resolver.resolve_known(base, ResolveOptions(format))
        except MdlError:
            continue
        found[format] = None if resolution.error is not None else resolution.repo_id
    return found
