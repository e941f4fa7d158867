"""The policy as a pure function: golden cases, and properties over many made-up caches."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mdl.cachemgr.remove.policy import INCOMPLETE_AGE, Inventory, Item, Ledger, Policy, decide_prune

NOW = 1_000_000.0
DAY = 86400.0


def item(
    name: str,
    *,
    kind: str = "revision",
    refs: tuple[str, ...] = (),
    blobs: tuple[str, ...] = (),
    age: float = 0.0,
    unused: float = 0.0,
    protected: str = "",
    repo: str = "o/n",
) -> Item:
    commit = name if kind == "revision" else None
    names = frozenset((repo, blob) for blob in blobs or (f"blob of {name}",))
    return Item(kind, f"model/{repo}", repo, "model", commit, refs, names, NOW - age,
                NOW - unused, (repo,), protected)  # fmt: skip


def inventory(
    *items: Item, size: int = 100, total: int | None = None, free: int = 0, names: Any = None
) -> Inventory:
    blobs = {blob for item in items for blob in item.blobs}
    return Inventory(
        items,
        {blob: blob for blob in blobs},
        dict.fromkeys(blobs, size),
        names or dict.fromkeys(blobs, 1),
        size * len(blobs) if total is None else total,
        free,
        NOW,
    )


def gone(stock: Inventory, policy: Policy) -> list[str]:
    return [remove.item.commit or remove.item.kind for remove in decide_prune(stock, policy).remove]


def test_no_rule_removes_nothing() -> None:
    plan = decide_prune(inventory(item("a"), item("b", refs=("main",))), Policy())
    assert plan.remove == ()
    assert {keep.reason for keep in plan.keep} == {"no rule removes it"}


def test_every_item_is_kept_or_removed_once_and_has_a_reason() -> None:
    stock = inventory(item("a"), item("b", refs=("main",)), item("c", protected="pinned"))
    plan = decide_prune(stock, Policy(detached=True))
    assert Counter([*(k.item for k in plan.keep), *(r.item for r in plan.remove)]) == Counter(
        stock.items
    )
    assert all(each.reason for each in (*plan.keep, *plan.remove))


def test_blobs_that_stay_in_use_free_nothing() -> None:
    stock = inventory(item("a", blobs=("x", "y")), item("b", refs=("main",), blobs=("y", "z")))
    plan = decide_prune(stock, Policy(detached=True))
    assert plan.freed == 100


def test_the_budget_stops_as_soon_as_it_is_met() -> None:
    stock = inventory(*(item(str(n), refs=("main",), unused=n * DAY) for n in range(10)))
    assert gone(stock, Policy(max_size=800, low_watermark=0.5)) == ["9", "8", "7", "6", "5", "4"]
    assert gone(stock, Policy(max_size=1000, low_watermark=0.5)) == []


def test_among_equals_the_budget_takes_what_no_ref_names() -> None:
    stock = inventory(item("named", refs=("main",)), item("unnamed"))
    assert gone(stock, Policy(max_size=199, low_watermark=1.0)) == ["unnamed"]


def test_the_floor_of_free_space() -> None:
    stock = inventory(*(item(str(n), unused=n) for n in range(4)), free=250)
    assert gone(stock, Policy(keep_free=400)) == ["3", "2"]
    assert gone(stock, Policy(keep_free=250)) == []


def test_rules_that_judge_count_towards_the_budget() -> None:
    stock = inventory(item("old", age=50 * DAY), item("x", unused=9), item("y", unused=8))
    assert gone(stock, Policy(older_than=30 * DAY, max_size=250, low_watermark=0.8)) == ["old"]


def test_unfinished_downloads() -> None:
    old = item("old", kind="incomplete", age=INCOMPLETE_AGE + 1)
    young = item("young", kind="incomplete", age=INCOMPLETE_AGE - 1)
    plan = decide_prune(inventory(old, young), Policy(incomplete=True))
    assert [remove.item for remove in plan.remove] == [old]
    assert "a download may resume it" in plan.keep[0].reason


def test_what_is_left_of_a_repository_goes_with_its_last_revision() -> None:
    stock = inventory(
        item("a", age=9 * DAY),
        item("rest", kind="orphan"),
        item("old", kind="incomplete", age=DAY),
        item("young", kind="incomplete"),
        item("b", repo="o/other"),
        item("other's", kind="orphan", repo="o/other"),
    )
    assert gone(stock, Policy(older_than=DAY)) == ["a", "orphan", "incomplete"]


@st.composite
def stocks(draw: st.DrawFn) -> Inventory:
    """Up to eight revisions in three repositories over shared blobs, inodes and outside names."""
    items = []
    for number in range(draw(st.integers(1, 8))):
        repo = draw(st.sampled_from(["o/a", "o/b", "o/c"]))
        items.append(
            item(
                f"{number}",
                repo=repo,
                refs=draw(st.sampled_from([(), ("main",)])),
                blobs=tuple(draw(st.sets(st.sampled_from("uvwxyz"), min_size=1))),
                age=draw(st.floats(0, 99)) * DAY,
                unused=draw(st.floats(0, 99)) * DAY,
                protected=draw(st.sampled_from(["", "", "pinned"])),
            )
        )
    blobs = sorted({blob for one in items for blob in one.blobs})
    inodes = {blob: draw(st.integers(0, 5)) for blob in blobs}
    here = Counter(inodes.values())
    sizes = {inode: draw(st.integers(0, 1000)) for inode in here}
    names = {inode: count + draw(st.integers(0, 1)) for inode, count in here.items()}
    free = draw(st.integers(0, 3000))
    return Inventory(tuple(items), inodes, sizes, names, sum(sizes.values()), free, NOW)


POLICIES = st.builds(
    Policy,
    max_size=st.none() | st.integers(0, 4000),
    keep_free=st.none() | st.integers(0, 4000),
    older_than=st.none() | st.floats(0, 99 * DAY),
    unused_for=st.none() | st.floats(0, 99 * DAY),
    detached=st.booleans(),
    keep_last=st.none() | st.integers(1, 3),
    low_watermark=st.floats(0.1, 1.0),
)


@given(stocks(), POLICIES)
@settings(max_examples=150, deadline=None)
def test_properties(stock: Inventory, policy: Policy) -> None:
    plan = decide_prune(stock, policy)
    removed = {remove.item for remove in plan.remove}
    assert not any(one.protected for one in removed)
    assert removed | {keep.item for keep in plan.keep} == set(stock.items)
    assert len(plan.remove) + len(plan.keep) == len(stock.items)
    assert plan.freed == brute_force(stock, removed)
    if policy.keep_last is not None:
        for repo in {one.key for one in stock.items}:
            here = [one for one in stock.items if one.key == repo]
            left = sum(one not in removed for one in here)
            assert left >= min(policy.keep_last, len(here))
    if policy.max_size is not None and stock.total > policy.max_size and not plan.short:
        assert stock.total - plan.freed <= policy.max_size
    if policy.keep_free is not None and not plan.short:
        assert stock.disk_free + plan.freed >= policy.keep_free


def brute_force(stock: Inventory, removed: set[Item]) -> int:
    """What the disk regains: the inodes without a name left."""
    staying = {blob for one in stock.items if one not in removed for blob in one.blobs}
    left = Counter(stock.names)
    for blob, inode in stock.inodes.items():
        left[inode] -= blob not in staying
    return sum(size for inode, size in stock.sizes.items() if left[inode] == 0)


@given(stocks())
@settings(max_examples=100, deadline=None)
def test_the_ledger_does_not_depend_on_the_order(stock: Inventory) -> None:
    forwards, backwards = Ledger(stock), Ledger(stock)
    assert sum(forwards.remove(one) for one in stock.items) == sum(
        backwards.remove(one) for one in reversed(stock.items)
    )
