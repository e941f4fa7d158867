"""What `list` says about a root: one entry a repository, honest sizes, nothing hidden."""

import os
from pathlib import Path
from typing import Any

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.index import compile_filter, describe, rows_of
from mdl.cachemgr.remove import Policy, plan_prune
from mdl.settings import Settings
from tests.cachemgr.builder import DAY, A, B, C, CacheBuilder, disk_use, settle


def test_casings_are_one_entry(built: CacheBuilder, cache: Cache) -> None:
    built.revision("Org/Name", A, {"config.json": b"{}", "w": b"x" * 500}, refs=("main",))
    built.revision("org/name", A, {"config.json": b"{}"}, refs=("v1",))
    (repo,) = cache.list()
    assert repo.repo_id == "Org/Name"
    assert repo.spellings == ("Org/Name", "org/name")
    (revision,) = repo.revisions
    assert revision.refs == ("main", "v1")
    assert revision.files == 2
    assert repo.size_on_disk == 504
    assert repo.logical_size == 504


def test_an_alias_is_a_spelling_and_no_bytes(built: CacheBuilder, cache: Cache) -> None:
    built.revision("Org/Name", A, {"w": b"x" * 500}, refs=("main",))
    (built.root / "models--org--name").symlink_to("models--Org--Name")
    (repo,) = cache.list()
    assert repo.spellings == ("Org/Name", "org/name")
    assert repo.aliases == ("org/name",)
    assert repo.size_on_disk == 500
    assert not repo.problems


def test_bytes_with_two_names_count_once(built: CacheBuilder, cache: Cache) -> None:
    """Hard links between two repositories: neither gives its bytes back alone."""
    built.revision("o/one", A, {"w": b"x" * 1000, "own": b"1"}, refs=("main",))
    built.revision("o/two", A, {"w": b"x" * 1000}, refs=("main",))
    first, second = (built.folder(f"o/{name}") / "blobs" for name in ("one", "two"))
    name = max(os.listdir(second), key=lambda name: (second / name).stat().st_size)
    (second / name).unlink()
    os.link(first / name, second / name)
    one, two = cache.list()
    assert (one.size_on_disk, one.reclaimable) == (1001, 1)
    assert (two.size_on_disk, two.reclaimable) == (1000, 0)
    assert cache.listing()[1].size_on_disk == disk_use(built.root) - 2 * len(A)  # the refs


def test_shared_payloads_count_once_and_belong_to_their_last_user(
    built: CacheBuilder, cache: Cache
) -> None:
    data = b"p" * 2000
    for name in ("o/one", "o/two"):
        built.revision(name, A, {"w": data}, refs=("main",))
        built.share(name, data)
    one, two = cache.list()
    assert (one.size_on_disk, one.reclaimable) == (2000, 0)
    assert (two.size_on_disk, two.reclaimable) == (2000, 0)
    totals = cache.listing()[1]
    assert totals.size_on_disk == 2000
    assert totals.shared_store_size == 2000


def test_states(built: CacheBuilder, cache: Cache) -> None:
    files = {"config.json": b"{}", "w": b"x" * 10}
    built.revision("o/whole", A, files, tree=files, refs=("main",))
    built.revision("o/part", A, {"config.json": b"{}"}, tree=files, refs=("main",))
    broken = built.revision("o/broken", A, files, refs=("main",))
    (broken / "w").resolve().unlink()
    cut = built.revision("o/cut", A, files, tree=files, refs=("main",))
    (cut / "w").resolve().write_bytes(b"x" * 9)
    built.revision("o/unfinished", A, {"config.json": b"{}"}, refs=("main",))
    built.incomplete("o/unfinished", b"y" * 100)
    states = {repo.repo_id: repo.revisions[0].state for repo in cache.list()}
    assert states == {
        "o/whole": "complete",
        "o/part": "partial",
        "o/broken": "broken",
        "o/cut": "broken",
        "o/unfinished": "partial",
    }


def test_a_broken_repository_is_shown_with_what_is_wrong(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/name", A, {"w": b"x"}, refs=("main",))
    (built.folder("o/name") / "refs" / "gone").write_text(C)
    (repo,) = cache.list()
    assert repo.problems == ("the ref 'gone' names 'cccccccccccc', which is missing",)


def test_a_change_is_seen_and_only_that_folder_is_read(
    built: CacheBuilder, cache: Cache, settings: Settings
) -> None:
    for number in range(5):
        built.revision(f"o/{number}", A, {"w": b"%d" % number}, refs=("main",))
    settle(built.root)
    assert cache.survey().read == 5
    assert cache.survey().read == 0
    built.revision("o/3", B, {"w": b"new"})
    again = open_cache(settings)
    assert again.survey().read == 1
    assert len(again.repo("O/3").revisions) == 2


def test_a_pointer_added_without_a_new_blob_is_seen(built: CacheBuilder, cache: Cache) -> None:
    snapshot = built.revision("o/n", A, {"w": b"1"}, refs=("main",))
    settle(built.root)
    cache.survey()
    built.pointer(snapshot, "sub/again", (snapshot / "w").resolve().name)
    assert cache.repo("o/n").revisions[0].files == 2


def test_other_things_in_the_totals(built: CacheBuilder, cache: Cache, tmp_path: Path) -> None:
    built.revision("o/n", A, {"w": b"12345"}, refs=("main",))
    built.incomplete("o/n", b"z" * 300, age=DAY)
    marker = built.folder("o/n") / ".no_exist" / A / "adapter_config.json"
    marker.parent.mkdir(parents=True)
    marker.touch()
    xet = built.root.parent / "xet" / "chunk-cache" / "block"
    xet.parent.mkdir(parents=True)
    xet.write_bytes(b"c" * 70)
    (built.root / "my notes").write_text("no repository")
    totals = cache.listing()[1]
    assert (totals.incomplete_files, totals.incomplete_size) == (1, 150)
    assert totals.no_exist_files == 1
    assert totals.xet_size == 70
    assert totals.size_on_disk == 155
    assert totals.strangers == ("my notes",)


def test_a_root_that_is_not_there_is_empty(settings: Settings, tmp_path: Path) -> None:
    assert open_cache(settings, tmp_path / "nowhere").list() == []


def test_the_index_can_be_dropped_and_pins_survive(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"1"}, refs=("main",))
    cache.index.add_pin("model/o/n", "", "o/n")
    before = cache.list()
    cache.index.drop_view()
    assert cache.list() == before
    assert before[0].pinned


def test_the_formats_of_each_repository_are_in_the_listing(
    built: CacheBuilder, cache: Cache
) -> None:
    awq = b'{"quantization_config": {"quant_method": "awq", "bits": 4}}'
    built.revision("o/awq", A, {"config.json": awq, "model.safetensors": b"w"}, refs=("main",))
    built.revision(
        "o/gguf", A, {"m-Q8_0.gguf": b"8", "m-Q4_K_M.gguf": b"4", "mmproj-F16.gguf": b"p"}
    )
    built.revision("o/plain", A, {"config.json": b"{}", "model.safetensors": b"w" * 9})
    formats = {repo.repo_id: repo.formats for repo in cache.list()}
    assert formats == {
        "o/awq": ("awq",), "o/gguf": ("gguf:Q4_K_M", "gguf:Q8_0"), "o/plain": ("16bit",),
    }  # fmt: skip
    assert cache.list()[1].to_json()["revisions"][0]["formats"] == ["gguf:Q4_K_M", "gguf:Q8_0"]
    for text, names in (
        ("format=gguf", ["o/gguf"]), ("format=gguf:q8_0", ["o/gguf"]),
        ("format!=16bit", ["o/awq", "o/gguf"]),
    ):  # fmt: skip
        keep = compile_filter(text, 0.0)
        assert [row.repo.repo_id for row in rows_of(cache.list()) if keep(row)] == names


def test_one_variant_of_a_gguf_repository_is_complete(built: CacheBuilder, cache: Cache) -> None:
    parts = {f"m-Q8_0-0000{n}-of-00002.gguf": b"8%d" % n for n in (1, 2)}
    one = {"m-Q4_K_M.gguf": b"4"}
    tree = {**one, **parts, "config.json": b"{}", "README.md": b"-"}
    built.revision("o/one", A, one, tree=tree)
    built.revision("o/split", A, {"m-Q8_0-00001-of-00002.gguf": b"81"}, tree=tree)
    built.revision("o/none", A, {"README.md": b"-"}, tree=tree)
    assert {repo.repo_id: repo.state for repo in cache.list()} == {
        "o/one": "complete", "o/split": "partial", "o/none": "partial",
    }  # fmt: skip
    details = describe(cache.root, cache.repo("o/split"), cache.folders_of("o/split", "model"))
    assert details["revisions"][0]["missing"] == ["m-Q8_0-00002-of-00002.gguf"]


def test_the_variants_of_a_revision_are_listed_with_their_sizes(
    built: CacheBuilder, cache: Cache
) -> None:
    parts = {f"m-Q8_0-0000{n}-of-00002.gguf": b"8" * 40 for n in (1, 2)}
    files = {"m-Q4_K_M.gguf": b"4" * 50, "mmproj-F16.gguf": b"p" * 9, "README.md": b"-", **parts}
    built.revision("o/gguf", A, files, refs=("main",))
    built.revision("o/plain", A, {"config.json": b"{}", "model.safetensors": b"w" * 9})

    def shown(name: str) -> list[dict[str, Any]]:
        details = describe(cache.root, cache.repo(name), cache.folders_of(name, "model"))
        return details["revisions"][0]["variants"]  # type: ignore[no-any-return] # JSON

    assert shown("o/gguf") == [
        {"format": "gguf", "variant": "Q4_K_M", "size": 50, "files": ["m-Q4_K_M.gguf"]},
        {"format": "gguf", "variant": "Q8_0", "size": 80, "files": list(parts)},
        {"format": "mmproj", "variant": "F16", "size": 9, "files": ["mmproj-F16.gguf"]},
    ]
    assert shown("o/plain") == []
    (keep,) = plan_prune(cache, Policy(detached=True)).to_json()["keep"]
    assert keep["formats"] == ["gguf:Q4_K_M", "gguf:Q8_0"]
