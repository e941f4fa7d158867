"""Prune on a real disk: what goes, what stays and why, and what the disk gets back."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.journal import root_mutex
from mdl.cachemgr.remove import Outcome, Policy, PrunePlan, apply_prune, plan_prune, plan_remove
from mdl.errors import BusyError, UsageError
from mdl.settings import Settings
from tests.cachemgr.builder import DAY, A, B, C, CacheBuilder, disk_use, manifest

DETACHED = Policy(detached=True, incomplete=True)


def prune(cache: Cache, policy: Policy = DETACHED) -> tuple[PrunePlan, Outcome]:
    plan = plan_prune(cache, policy)
    return plan, apply_prune(cache, plan)


def removed(plan: PrunePlan) -> set[str]:
    return {remove.item.commit or remove.item.kind for remove in plan.remove}


def why(plan: PrunePlan, commit: str) -> str:
    return next(keep.reason for keep in plan.keep if keep.item.commit == commit)


def test_detached_goes_into_the_trash_and_the_rest_is_untouched(
    built: CacheBuilder, cache: Cache
) -> None:
    built.revision("o/n", A, {"same": b"s" * 100, "old": b"o" * 1000})
    built.revision("o/n", B, {"same": b"s" * 100, "new": b"n" * 500}, refs=("main",))
    before, used = manifest(built.root), disk_use(built.root)
    plan, outcome = prune(cache)
    assert removed(plan) == {A}
    assert plan.freed == outcome.freed == 1000 == used - disk_use(built.root)
    assert manifest(built.root) == {k: v for k, v in before.items() if f"/{B}/" in k}
    assert outcome.trash is not None
    assert not Path(outcome.trash).is_relative_to(built.root)
    assert why(plan, B) == "referenced by main"


def test_a_dry_plan_changes_nothing(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1"})
    before = sorted(str(path) for path in built.root.parent.rglob("*"))
    plan_prune(cache, DETACHED)
    assert sorted(str(path) for path in built.root.parent.rglob("*")) == before


def test_a_repository_without_revisions_left_goes_whole_with_its_aliases(
    built: CacheBuilder, cache: Cache
) -> None:
    """A dangling alias would break every later download of that spelling."""
    built.revision("Org/Name", A, {"w": b"1"})
    (built.root / "models--org--name").symlink_to("models--Org--Name")
    prune(cache)
    assert [path.name for path in built.root.iterdir()] == []


def test_pins_win(built: CacheBuilder, cache: Cache) -> None:
    for name in ("repo", "commit", "short", "nothing"):
        built.revision(f"o/{name}", A, {"w": name.encode()})
    cache.index.add_pin("model/o/repo", "", "o/repo")
    cache.index.add_pin("model/o/commit", A, "o/commit")
    cache.index.add_pin("model/o/short", A[:7], "o/short")
    cache.index.add_pin("model/o/nothing", A[:6], "o/nothing")
    plan, _ = prune(cache)
    assert [remove.item.repo_id for remove in plan.remove] == ["o/nothing"]
    assert {keep.reason for keep in plan.keep} == {"pinned", "pinned by its commit"}
    for name in ("commit", "short"):
        assert cache.repo(f"o/{name}").revisions[0].pinned


def test_a_pinned_repository_keeps_what_is_in_no_revision_too(
    built: CacheBuilder, cache: Cache
) -> None:
    part = built.incomplete("o/n", b"2" * 1000, age=DAY)
    orphan = built.blob(built.folder("o/n"), b"nobody names it", DAY)
    found = plan_prune(cache, Policy(detached=True, incomplete=True))
    assert len(found.remove) == 2
    cache.index.add_pin("model/o/n", "", "o/n")
    plan, _ = prune(cache)
    assert [keep.reason for keep in plan.keep] == ["pinned", "pinned"]
    assert apply_prune(cache, found).skipped == {"models--o--n": "pinned"}
    with pytest.raises(UsageError, match="pinned"):
        plan_remove(cache, "o/n")
    assert part.exists()
    assert orphan.exists()


def test_a_lock_file_protects_what_it_names_while_it_exists(
    built: CacheBuilder, cache: Cache, tmp_path: Path
) -> None:
    built.revision("Org/Name", A, {"w": b"1"})
    lock = tmp_path / "mdl.lock"
    lock.write_text("")
    cache.register_lock(lock, [("org/name", A)])
    plan, _ = prune(cache)
    assert why(plan, A) == f"named in the lock file {lock}"
    lock.unlink()
    assert removed(prune(cache)[0]) == {A}


def test_a_running_download_keeps_its_repository(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1"})
    built.revision("o/other", B, {"w": b"2"})
    part = built.incomplete("o/n", b"x" * 100, age=DAY)
    with built.downloading("o/n", b"x" * 100):
        plan, _ = prune(cache)
        assert removed(plan) == {B}
        assert "a download is running" in why(plan, A)
        assert part.exists()
    built.folder("o/n")
    assert removed(plan_prune(cache, DETACHED)) == {A, "incomplete"}


def test_a_download_through_an_alias_counts(built: CacheBuilder, cache: Cache) -> None:
    """huggingface_hub locks under the spelling it was asked for, wherever that leads."""
    built.revision("Org/Name", A, {"w": b"1"})
    (built.root / "models--org--name").symlink_to("models--Org--Name")
    plan = plan_prune(cache, DETACHED)
    with built.downloading("org/name", b"x"):
        assert plan_prune(cache, DETACHED).remove == ()
        assert apply_prune(cache, plan).action_id is None
    assert len(manifest(built.root)) == 2


def test_a_download_that_starts_after_the_plan_is_left_alone(
    built: CacheBuilder, cache: Cache
) -> None:
    built.revision("o/n", A, {"w": b"1"})
    plan = plan_prune(cache, DETACHED)
    with built.downloading("o/n", b"x" * 100):
        outcome = apply_prune(cache, plan)
    assert outcome.action_id is None
    assert "a download is" in outcome.skipped["models--o--n"]
    assert len(manifest(built.root)) == 1


def test_a_ref_that_appears_after_the_plan_keeps_the_revision(
    built: CacheBuilder, cache: Cache
) -> None:
    built.revision("o/n", A, {"w": b"1"})
    plan = plan_prune(cache, DETACHED)
    built.revision("o/n", A, {}, refs=("main",))
    outcome = apply_prune(cache, plan)
    assert outcome.skipped == {"models--o--n": "a ref was added to it since the plan was made"}


def test_a_file_mapped_by_a_process_stays(built: CacheBuilder, cache: Cache) -> None:
    """As safetensors does: mapped, and the descriptor closed."""
    snapshot = built.revision("o/n", A, {"w": b"1" * mmap.PAGESIZE})
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import mmap, os, sys\n"
            "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
            "m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)\n"
            "os.close(fd)\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()",
            str(snapshot / "w"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert why(plan_prune(cache, DETACHED), A) == f"open in process {child.pid}"
    finally:
        child.communicate()


def test_broken_off_downloads_go_when_they_are_old(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1"}, refs=("main",))
    old = built.incomplete("o/n", b"x" * 100, age=DAY)
    young = built.incomplete("o/n", b"y" * 100)
    plan, outcome = prune(cache)
    assert removed(plan) == {"incomplete"}
    assert not old.exists()
    assert young.exists()
    assert outcome.freed == 50


def test_hard_links_are_freed_only_with_their_last_name(built: CacheBuilder, cache: Cache) -> None:
    for name in ("o/a", "o/b"):
        built.revision(name, A, {"w": b"x" * 1000})
    first, second = (next((built.folder(name) / "blobs").iterdir()) for name in ("o/a", "o/b"))
    second.unlink()
    os.link(first, second)
    cache.index.add_pin("model/o/b", "", "o/b")
    plan, outcome = prune(cache)
    assert plan.freed == outcome.freed == 0
    cache.index.remove_pin("model/o/b", "")
    plan = plan_prune(cache, DETACHED)
    assert plan.freed == 0, "its other name is still in the trash"


def test_two_names_that_go_together_are_freed_once(built: CacheBuilder, cache: Cache) -> None:
    for name in ("Org/Name", "org/name"):
        built.revision(name, A, {"w": b"x" * 1000})
    first, second = (
        next((built.folder(name) / "blobs").iterdir()) for name in ("Org/Name", "org/name")
    )
    second.unlink()
    os.link(first, second)
    plan, outcome = prune(cache)
    assert plan.freed == outcome.freed == 1000


def test_a_shared_payload_goes_with_its_last_link(built: CacheBuilder, cache: Cache) -> None:
    data = b"p" * 2000
    built.revision("o/keep", A, {"w": data}, refs=("main",))
    built.revision("o/drop", B, {"w": data})
    payload = built.share("o/keep", data)
    built.share("o/drop", data)
    plan, _ = prune(cache)
    assert plan.freed == 0
    assert payload.exists()
    (built.folder("o/keep") / "refs" / "main").unlink()
    used = disk_use(built.root)
    plan, outcome = prune(cache)
    assert plan.freed == outcome.freed == 2000
    assert not payload.exists()
    assert used - disk_use(built.root) >= 2000


def test_a_payload_without_a_manifest_is_never_taken(built: CacheBuilder, cache: Cache) -> None:
    data = b"p" * 2000
    built.revision("o/drop", B, {"w": data})
    payload = built.share("o/drop", data)
    payload.with_name(f"{payload.name}.refs").unlink()
    prune(cache)
    assert payload.exists()


def test_the_budget_takes_the_least_recently_used(built: CacheBuilder, cache: Cache) -> None:
    for number, commit in enumerate((A, B, C)):
        built.revision(f"o/{number}", commit, {"w": b"%d" % number * 1000}, refs=("main",))
        cache.index.record_use(f"model/o/{number}", commit, 1000.0 - number)
    cache.index.add_pin("model/o/2", "", "o/2")
    plan, _ = prune(cache, Policy(max_size=2500, low_watermark=0.8))
    assert removed(plan) == {B}
    assert "over the size budget" in plan.remove[0].reason
    assert why(plan, C) == "pinned"


def test_a_budget_that_is_met_removes_nothing(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1" * 1000})
    assert not plan_prune(cache, Policy(max_size=1000)).remove


def test_a_budget_that_cannot_be_met_says_by_how_much(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1" * 1000}, refs=("main",))
    cache.index.add_pin("model/o/n", "main", "o/n")
    plan = plan_prune(cache, Policy(max_size=100, low_watermark=1.0))
    assert plan.short == 900
    assert why(plan, A) == "pinned as main"


def test_what_goes_with_its_repository_counts_for_the_budget(
    built: CacheBuilder, cache: Cache
) -> None:
    built.revision("o/n", A, {"w": b"1" * 1000}, refs=("main",))
    built.incomplete("o/n", b"2" * 1000, age=DAY)
    plan = plan_prune(cache, Policy(max_size=0))
    assert (plan.freed, plan.short) == (1500, 0)


def test_age_and_last_use(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/old", A, {"w": b"1"}, refs=("main",), age=40 * DAY)
    built.revision("o/new", B, {"w": b"2"}, refs=("main",), age=5 * DAY)
    assert removed(plan_prune(cache, Policy(older_than=30 * DAY))) == {A}
    assert removed(plan_prune(cache, Policy(unused_for=30 * DAY))) == {A}
    cache.record_use("O/Old", A)
    assert removed(plan_prune(cache, Policy(unused_for=30 * DAY))) == set()


def test_keep_last(built: CacheBuilder, cache: Cache) -> None:
    for commit, age in ((A, 3), (B, 2), (C, 1)):
        built.revision("o/n", commit, {"w": commit.encode()}, age=age * DAY)
    assert removed(plan_prune(cache, Policy(keep_last=2))) == {A}
    assert removed(plan_prune(cache, Policy(keep_last=2, detached=True))) == {A}
    assert removed(plan_prune(cache, Policy(keep_last=1, older_than=1.5 * DAY))) == {A, B}


def test_another_mdl_process_is_waited_for_and_then_said(
    built: CacheBuilder, cache: Cache, tmp_path: Path
) -> None:
    built.revision("o/n", A, {"w": b"1"})
    with (
        root_mutex(str(built.root), tmp_path / "unused"),
        pytest.raises(BusyError),
        cache.exclusive(wait=0.1),
    ):
        pytest.fail("two at once")
    prune(cache)
    assert manifest(built.root) == {}


def test_a_download_that_comes_back_for_a_taken_blob_gets_it(
    built: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the blob before the locks were taken, and makes its pointer after they are free."""
    data = b"w" * 100
    built.revision("o/n", A, {"w": data})
    built.revision("o/n", B, {"other": b"1"}, refs=("main",))
    snapshot = built.folder("o/n") / "snapshots" / B

    def pointer_made(seconds: float) -> None:
        built.pointer(snapshot, "late", next(iter(data_name)))

    data_name = {path.name for path in (built.folder("o/n") / "blobs").iterdir()
                 if path.read_bytes() == data}  # fmt: skip
    monkeypatch.setattr("mdl.cachemgr.remove.operations.time.sleep", pointer_made)
    prune(cache)
    assert (snapshot / "late").read_bytes() == data


def test_an_orphan_that_found_its_snapshot_after_the_plan_stays(
    built: CacheBuilder, cache: Cache
) -> None:
    """As when a download had the blob in place and its pointer not yet."""
    snapshot = built.revision("o/n", A, {"w": b"1"}, refs=("main",))
    blob = built.blob(built.folder("o/n"), b"orphan")
    plan = plan_prune(cache, DETACHED)
    assert removed(plan) == {"orphan"}
    built.pointer(snapshot, "late", blob.name)
    apply_prune(cache, plan)
    assert (snapshot / "late").read_bytes() == b"orphan"


def test_a_cache_that_does_not_exist_yet_loses_nothing(settings: Settings) -> None:
    cache = open_cache(settings._replace(cache_root=settings.home / "nowhere"))
    outcome = apply_prune(cache, plan_prune(cache, Policy(max_size=1)))
    assert (outcome.action_id, outcome.freed) == (None, 0)
