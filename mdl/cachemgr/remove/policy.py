"""Decide what to prune: a pure function from an inventory and a policy to a plan with reasons.

There are two kinds of rules. Those that judge a revision by itself (`detached`, `older_than`,
`unused_for`, `keep_last` alone, `incomplete`) remove whatever they match. Those that ask for space
(`max_size`, `keep_free`) remove the least recently used until there is enough. What is protected
is never removed.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mdl.settings import CacheSettings

# An unfinished file younger than this may belong to a download on another machine, or to one
# that is paused: no lock shows that.
INCOMPLETE_AGE = 3600.0
BlobName = tuple[str, str]  # (folder, what it is called there)


@dataclass(frozen=True)
class Policy:
    """The rules; sizes in bytes, durations in seconds. `None` and false: no such rule."""

    max_size: int | None = None
    keep_free: int | None = None
    older_than: float | None = None
    unused_for: float | None = None
    detached: bool = False
    incomplete: bool = False
    keep_last: int | None = None
    low_watermark: float = 0.9

    @classmethod
    def from_settings(cls, settings: CacheSettings) -> "Policy":
        names = {each.name for each in fields(cls)}
        return cls(**{name: getattr(settings, name) for name in names})

    @property
    def is_empty(self) -> bool:
        return self == Policy(low_watermark=self.low_watermark)

    def or_default(self, settings: CacheSettings) -> "Policy":
        """This policy if it has a rule; else the configured one; else detached and incomplete."""
        for policy in (
            self,
            Policy.from_settings(settings),
            Policy(detached=True, incomplete=True),
        ):
            if not policy.is_empty:
                break
        return replace(policy, low_watermark=settings.low_watermark)

    @property
    def by_last_use(self) -> bool:
        """Does any rule depend on when a revision was last used?"""
        return (
            self.unused_for is not None or self.max_size is not None or self.keep_free is not None
        )

    @property
    def judges(self) -> bool:
        """Does any rule but `keep_last` judge revisions?"""
        return self.detached or self.older_than is not None or self.by_last_use


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Something that can be removed on its own; compared by identity.

    Attributes:
        kind: `revision`, `incomplete` (an unfinished download), `orphan` (blobs that no snapshot
            names) or `payload` (one in the shared store that no blob links to).
        commit: of a revision, else `None`.
        blobs: what it needs, as (folder, name).
        folders: the repository folders it is in.
        files: of anything but a revision, the names of its files.
        protected: why it must stay, or `''`.
        formats: of a revision, what its weights are, one for each variant: `gguf:Q4_K_M`.
    """

    kind: str
    key: str
    repo_id: str
    repo_type: str
    commit: str | None
    refs: tuple[str, ...]
    blobs: frozenset[BlobName]
    modified: float
    last_used: float
    folders: tuple[str, ...]
    protected: str = ""
    files: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"repo_id": self.repo_id, "repo_type": self.repo_type}
        shown["commit"] = self.commit
        if self.kind != "revision":
            shown["kind"] = self.kind
            shown["files"] = list(self.files)
            return shown
        if self.refs:
            shown["refs"] = list(self.refs)
        return {**shown, "formats": list(self.formats)}


@dataclass(frozen=True)
class Inventory:
    """Everything a plan is made from.

    Attributes:
        inodes: blob → the inode behind it.
        sizes: inode → bytes.
        names: inode → how many names it has, including those outside the cache.
        total: bytes that the root occupies.
        disk_free: bytes free on the file system, including what emptying the trash would free.
    """

    items: tuple[Item, ...]
    inodes: Mapping[BlobName, Any]
    sizes: Mapping[Any, int]
    names: Mapping[Any, int]
    total: int
    disk_free: int
    now: float


@dataclass(frozen=True)
class Keep:
    item: Item
    reason: str


@dataclass(frozen=True)
class Remove:
    """`bytes` is what removing this frees, after everything listed before it."""

    item: Item
    bytes: int
    reason: str


@dataclass(frozen=True)
class PrunePlan:
    """What to keep and what to remove; `short` is how many bytes the goal is missed by."""

    keep: tuple[Keep, ...]
    remove: tuple[Remove, ...]
    short: int
    inventory: Inventory = field(repr=False, compare=False)

    @property
    def freed(self) -> int:
        """Bytes that are free once the removed files have left the trash too."""
        return sum(remove.bytes for remove in self.remove)

    def only(self, chosen: Container[int]) -> "PrunePlan":
        """This plan with only some of its removals, by their place in `remove`."""
        ledger = Ledger(self.inventory)
        keep, remove = list(self.keep), []
        for place, each in enumerate(self.remove):
            if place in chosen:
                remove.append(replace(each, bytes=ledger.remove(each.item)))
            else:
                keep.append(Keep(each.item, "you did not choose it"))
        return replace(self, keep=tuple(keep), remove=tuple(remove))

    def to_json(self) -> dict[str, Any]:
        return {
            "keep": [{**keep.item.to_json(), "reason": keep.reason} for keep in self.keep],
            "remove": [
                {**remove.item.to_json(), "bytes": remove.bytes, "reason": remove.reason}
                for remove in self.remove
            ],
            "freed": self.freed,
            "short": self.short,
        }


class Ledger:
    """Counts the bytes really freed as items are removed one after another."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._holders: dict[BlobName, int] = {}
        self._names = dict(inventory.names)
        for item in inventory.items:
            for blob in item.blobs:
                self._holders[blob] = self._holders.get(blob, 0) + 1

    def remove(self, item: Item) -> int:
        freed = 0
        for blob in item.blobs:
            self._holders[blob] -= 1
            if self._holders[blob] > 0:
                continue
            inode = self._inventory.inodes[blob]
            self._names[inode] -= 1
            if self._names[inode] == 0:
                freed += self._inventory.sizes[inode]
        return freed


def decide_prune(inventory: Inventory, policy: Policy) -> PrunePlan:
    """Decide what to remove and what to keep, each with its reason."""
    newest = _newest(inventory.items, policy.keep_last)
    reasons: dict[Item, str] = {}
    for item in inventory.items:
        reason = "" if item.protected else _judge(item, policy, newest, inventory.now)
        if reason:
            reasons[item] = reason
    ledger = Ledger(inventory)
    removed = [Remove(item, ledger.remove(item), reason) for item, reason in reasons.items()]
    need = _need(inventory, policy) - sum(remove.bytes for remove in removed)
    if need > 0:
        need = _free_space(inventory, policy, newest, removed, (ledger, need))
    rest = _leftovers(inventory, {remove.item for remove in removed}, ledger)
    removed += rest
    need -= sum(remove.bytes for remove in rest)
    gone = {remove.item for remove in removed}
    kept = [
        Keep(item, _why_kept(item, policy, newest, inventory.now))
        for item in inventory.items
        if item not in gone
    ]
    return PrunePlan(tuple(kept), tuple(removed), max(0, need), inventory)


def _newest(items: Iterable[Item], keep_last: int | None) -> set[Item]:
    """The `keep_last` most recently changed revisions of every repository."""
    if keep_last is None:
        return set()
    by_repo: dict[str, list[Item]] = {}
    for item in items:
        if item.kind == "revision":
            by_repo.setdefault(item.key, []).append(item)
    return {
        item
        for members in by_repo.values()
        for item in sorted(members, key=lambda item: (-item.modified, item.commit))[:keep_last]
    }


def _judge(item: Item, policy: Policy, newest: set[Item], now: float) -> str:
    """The reason why a rule removes this item by itself, or `''`."""
    if item.kind == "payload":
        return "no repository uses this shared payload" if policy.detached else ""
    if item.kind == "orphan":
        return "no snapshot names this file" if policy.detached else ""
    if item.kind == "incomplete":
        age = now - item.modified
        old = age >= INCOMPLETE_AGE
        return f"unfinished download, left {_ago(age)}" if policy.incomplete and old else ""
    if item in newest:
        return ""
    if policy.detached and not item.refs:
        return "detached: no ref points to it"
    if policy.older_than is not None and now - item.modified > policy.older_than:
        return f"changed {_ago(now - item.modified)}, longer than {span(policy.older_than)}"
    if policy.unused_for is not None and now - item.last_used > policy.unused_for:
        return f"used {_ago(now - item.last_used)}, longer than {span(policy.unused_for)}"
    if policy.keep_last is not None and not policy.judges:
        return f"not among the last {policy.keep_last}"
    return ""


def _need(inventory: Inventory, policy: Policy) -> int:
    """How many bytes the size budget and the free-space floor ask for."""
    need = 0
    if policy.max_size is not None and inventory.total > policy.max_size:
        need = inventory.total - int(policy.max_size * policy.low_watermark)
    if policy.keep_free is not None:
        need = max(need, policy.keep_free - inventory.disk_free)
    return need


def _free_space(
    inventory: Inventory,
    policy: Policy,
    newest: set[Item],
    removed: list[Remove],
    state: tuple[Ledger, int],
) -> int:
    """Remove the least recently used revisions until there is enough; return what is missing."""
    ledger, need = state
    gone = {remove.item for remove in removed}
    candidates = [
        item
        for item in inventory.items
        if item.kind in ("revision", "orphan", "payload")
        and not item.protected
        and item not in gone
        and item not in newest
    ]
    # Garbage first, then the least recently used; among equals, what no ref names.
    candidates.sort(key=lambda item: (item.kind == "revision", item.last_used, bool(item.refs)))
    over = "the size budget" if policy.max_size is not None else "the free-space floor"
    for item in candidates:
        if need <= 0:
            break
        freed = ledger.remove(item)
        need -= freed
        age = inventory.now - item.last_used
        removed.append(Remove(item, freed, f"over {over}; least recently used ({_ago(age)})"))
    return need


def _leftovers(inventory: Inventory, gone: set[Item], ledger: Ledger) -> list[Remove]:
    """The remains of repositories that lose all their revisions."""
    revisions: dict[str, list[Item]] = {}
    others: dict[str, list[Item]] = {}
    for item in inventory.items:
        which = revisions if item.kind == "revision" else others
        which.setdefault(item.key, []).append(item)
    found = []
    for key, members in revisions.items():
        if not gone.issuperset(members):
            continue
        for item in others.get(key, ()):
            young = item.kind == "incomplete" and inventory.now - item.modified < INCOMPLETE_AGE
            if item not in gone and not item.protected and not young:
                found.append(
                    Remove(item, ledger.remove(item), "the rest of its repository is removed")
                )
    return found


def _why_kept(item: Item, policy: Policy, newest: set[Item], now: float) -> str:
    if item.protected:
        return item.protected
    if item.kind == "incomplete":
        if now - item.modified < INCOMPLETE_AGE:
            return f"unfinished, written {_ago(now - item.modified)}: a download may resume it"
        return "no rule removes unfinished downloads (--incomplete)"
    if item.kind != "revision":
        return "no rule removes detached files (--detached)"
    if item in newest:
        return f"one of the last {policy.keep_last}"
    if policy.detached and item.refs:
        return f"referenced by {', '.join(item.refs)}"
    if policy.unused_for is not None:
        return f"used {_ago(now - item.last_used)}, within {span(policy.unused_for)}"
    if policy.older_than is not None:
        return f"changed {_ago(now - item.modified)}, within {span(policy.older_than)}"
    return "no rule removes it"


def span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
