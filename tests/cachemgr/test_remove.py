"""`rm`, the trash and `undo`: exactly what was named goes, and all of it comes back."""

import os
import shutil
from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.journal import trash_place
from mdl.cachemgr.remove import (
    apply_remove,
    choose_trash,
    empty_trash,
    plan_remove,
    restore,
    trash_entries,
    undo_last,
    unknown_in_trash,
)
from mdl.errors import BusyError, NotFoundError, UsageError
from mdl.settings import Settings
from tests.cachemgr.builder import A, B, CacheBuilder, disk_use, manifest


@pytest.fixture
def two_casings(built: CacheBuilder) -> CacheBuilder:
    built.revision("Org/Name", A, {"w": b"1" * 100}, refs=("main",))
    built.revision("org/name", A, {"w": b"1" * 100}, refs=("main",))
    built.revision("org/other", B, {"w": b"2" * 10, "sub/t": b"t"}, refs=("main",))
    return built


def remove(cache: Cache, target: str, *, casings: bool = False) -> int:
    return apply_remove(cache, plan_remove(cache, target, casings=casings)).freed


def folders(built: CacheBuilder) -> set[str]:
    return {path.name for path in built.root.iterdir()}


def test_the_casing_that_is_written_is_meant(two_casings: CacheBuilder, cache: Cache) -> None:
    for _ in range(5):
        assert remove(cache, "org/name") == 100
        assert folders(two_casings) == {"models--Org--Name", "models--org--other"}
        undo_last(cache)


def test_a_casing_nobody_has_is_refused(two_casings: CacheBuilder, cache: Cache) -> None:
    with pytest.raises(UsageError, match="in several casings"):
        plan_remove(cache, "ORG/NAME")
    assert remove(cache, "ORG/NAME", casings=True) == 200
    assert folders(two_casings) == {"models--org--other"}


def test_any_casing_names_the_only_one(two_casings: CacheBuilder, cache: Cache) -> None:
    remove(cache, "ORG/OTHER")
    assert folders(two_casings) == {"models--Org--Name", "models--org--name"}


@pytest.mark.parametrize(
    ("target", "gone"),
    [
        ("org/other@main", {"w", "sub/t"}),
        (B, {"w", "sub/t"}),
        (B[:9], {"w", "sub/t"}),
        ("model/org/other:sub/t", {"sub/t"}),
        ("org/other@main:w", {"w"}),
    ],
)
def test_targets(two_casings: CacheBuilder, cache: Cache, target: str, gone: set[str]) -> None:
    before = manifest(two_casings.root)
    remove(cache, target)
    prefix = f"models--org--other/snapshots/{B}/"
    assert set(before) - set(manifest(two_casings.root)) == {prefix + name for name in gone}


@pytest.mark.parametrize(
    "target", ["org/nothing", "org/other@v9", "org/other:no.txt", "dataset/org/other", "0" * 9]
)
def test_what_is_not_here_is_said(two_casings: CacheBuilder, cache: Cache, target: str) -> None:
    with pytest.raises(NotFoundError):
        plan_remove(cache, target)


@pytest.mark.parametrize("target", ["org/other:", "org/other@", "org/other@:", "org/other@main:"])
def test_nothing_for_a_part_is_not_the_whole(
    two_casings: CacheBuilder, cache: Cache, target: str
) -> None:
    """As of a script whose variable is empty."""
    with pytest.raises(UsageError, match="after its"):
        plan_remove(cache, target)


def test_a_commit_in_two_repositories_is_ambiguous(two_casings: CacheBuilder, cache: Cache) -> None:
    two_casings.revision("o/third", B, {"w": b"3"})
    with pytest.raises(UsageError, match="Several revisions begin"):
        plan_remove(cache, B)


def test_two_types_of_one_name_are_ambiguous(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1"})
    built.revision("o/n", A, {"w": b"2"}, kind="datasets")
    with pytest.raises(UsageError, match="dataset/o/n, model/o/n"):
        plan_remove(cache, "o/n")
    remove(cache, "dataset/o/n")
    assert folders(built) == {"models--o--n"}


def test_pinned_is_refused(two_casings: CacheBuilder, cache: Cache) -> None:
    cache.index.add_pin("model/org/other", "main", "org/other")
    with pytest.raises(UsageError, match="pinned as main"):
        plan_remove(cache, "org/other")


def test_a_running_download_is_refused(two_casings: CacheBuilder, cache: Cache) -> None:
    with two_casings.downloading("org/other", b"2" * 10), pytest.raises(BusyError):
        plan_remove(cache, "org/other")


def test_undo_brings_everything_back(two_casings: CacheBuilder, cache: Cache) -> None:
    before, tree = manifest(two_casings.root), sorted(two_casings.root.rglob("*"))
    for target in ("org/other", "Org/Name@main", "org/name:w"):
        remove(cache, target)
        assert manifest(two_casings.root) != before
        assert undo_last(cache).kind == "rm"
        assert manifest(two_casings.root) == before
        assert sorted(two_casings.root.rglob("*")) == tree
    with pytest.raises(NotFoundError):
        undo_last(cache)


def test_undo_of_a_shared_payload(built: CacheBuilder, cache: Cache) -> None:
    data = b"p" * 2000
    built.revision("o/n", A, {"w": data}, refs=("main",))
    payload = built.share("o/n", data)
    assert remove(cache, "o/n") == 2000
    assert not payload.exists()
    undo_last(cache)
    assert payload.read_bytes() == data
    assert payload.with_name(f"{payload.name}.refs").exists()
    assert len(manifest(built.root)) == 1


def test_what_was_downloaded_again_stays_and_is_joined(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1", "x": b"2"}, refs=("main",))
    remove(cache, "o/n")
    built.revision("o/n", B, {"w": b"new"}, refs=("main",))
    undo_last(cache)
    repo = cache.repo("o/n")
    assert {revision.commit for revision in repo.revisions} == {A, B}
    assert (built.folder("o/n") / "refs" / "main").read_text() == B


def test_the_trash_lists_restores_and_empties(two_casings: CacheBuilder, cache: Cache) -> None:
    def used() -> int:
        place = Path(trash_place(cache.root).path)
        return disk_use(two_casings.root) + (disk_use(place) if place.exists() else 0)

    before = used()
    remove(cache, "org/other")
    remove(cache, "Org/Name")
    first, second = trash_entries(cache)
    assert (first.kind, first.bytes, second.bytes) == ("rm", 11, 100)
    restore(cache, first.id)
    assert "models--org--other" in folders(two_casings)
    assert empty_trash(cache, [second.id]) == 100
    assert trash_entries(cache) == []
    assert before - used() == 100 + len(A)
    with pytest.raises(NotFoundError, match="cannot be undone"):
        undo_last(cache)
    with pytest.raises(NotFoundError):
        restore(cache, second.id)


def test_a_folder_without_a_file_goes_and_comes_back(built: CacheBuilder, cache: Cache) -> None:
    """What a download that was refused leaves: nothing but folders."""
    (built.folder("o/nothing") / "snapshots").mkdir(parents=True)
    outcome = apply_remove(cache, plan_remove(cache, "o/nothing"))
    assert folders(built) == set()
    assert [entry.id for entry in trash_entries(cache)] == [outcome.action_id]
    undo_last(cache)
    assert (built.folder("o/nothing") / "snapshots").is_dir()
    remove(cache, "o/nothing")
    assert empty_trash(cache, [entry.id for entry in trash_entries(cache)]) == 0
    assert not Path(outcome.trash or "").parent.exists()


def test_emptying_by_number_and_age(two_casings: CacheBuilder, cache: Cache) -> None:
    remove(cache, "org/other")
    remove(cache, "Org/Name")
    assert choose_trash(cache, older_than=3600) == []
    assert empty_trash(cache, []) == 0
    first, second = trash_entries(cache)
    assert choose_trash(cache, older_than=0) == [first, second]
    assert empty_trash(cache, [second.id]) == 100
    assert [entry.id for entry in trash_entries(cache)] == [first.id]
    with pytest.raises(NotFoundError):
        empty_trash(cache, [999])


def test_a_trash_of_unknown_origin_is_shown_and_goes_only_with_everything(
    two_casings: CacheBuilder, cache: Cache
) -> None:
    remove(cache, "org/other")
    place = Path(trash_entries(cache)[0].path).parent
    stray = place / "left by someone"
    stray.mkdir()
    assert unknown_in_trash(cache) == [str(stray)]
    empty_trash(cache, [1])
    assert stray.exists()
    empty_trash(cache, [], [str(stray)])
    assert not stray.exists()


def test_without_room_beside_the_root_the_trash_is_inside_it(
    two_casings: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the root is a mount point; `hf cache` does not look into `.locks`."""
    real_access = os.access
    parent = str(two_casings.root.parent)
    monkeypatch.setattr(
        "mdl.cachemgr.journal.trash.os.access",
        lambda path, mode: str(path) != parent and real_access(path, mode),
    )
    outcome = apply_remove(cache, plan_remove(cache, "org/other"))
    assert outcome.trash is not None
    assert Path(outcome.trash).is_relative_to(two_casings.root / ".locks")
    assert "another device" in outcome.note
    undo_last(cache)
    assert "models--org--other" in folders(two_casings)


def test_the_trash_keeps_things_for_as_long_as_the_configuration_says(
    two_casings: CacheBuilder, settings: Settings
) -> None:
    impatient = settings._replace(cache=settings.cache._replace(trash_days=0.0))
    cache = open_cache(impatient)
    remove(cache, "org/other")
    assert trash_entries(cache) == []


def test_a_trash_that_was_removed_by_hand_is_said(two_casings: CacheBuilder, cache: Cache) -> None:
    remove(cache, "org/other")
    shutil.rmtree(trash_entries(cache)[0].path)
    with pytest.raises(NotFoundError, match="cannot be undone"):
        undo_last(cache)


def test_a_variant_is_removed_with_all_its_files(built: CacheBuilder, cache: Cache) -> None:
    parts = {f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf": b"8%d" % n for n in (1, 2)}
    files = {"m-Q4_K_M.gguf": b"4", "mmproj-F16.gguf": b"p", **parts}
    built.revision("Org/Model-GGUF", A, files, refs=("main",))
    freed = remove(cache, "Org/Model-GGUF:q8_0")
    assert freed == sum(len(data) for data in parts.values())
    (repo,) = cache.list()
    assert repo.formats == ("gguf:Q4_K_M",)
    with pytest.raises(NotFoundError, match="variant 'Q6_K'"):
        plan_remove(cache, "Org/Model-GGUF:Q6_K")
