"""Repositories, blobs and files that people moved elsewhere and left a link: read, not removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mdl.cachemgr import Cache
from mdl.cachemgr.normalize import NormalizeRequest, apply_normalize, plan_normalize
from mdl.cachemgr.remove import (
    Policy,
    apply_prune,
    apply_remove,
    plan_prune,
    plan_remove,
    undo_last,
)
from mdl.cachemgr.verify.verify import Verifier, select_folders
from mdl.errors import UsageError
from tests.cachemgr.builder import A, B, CacheBuilder, etag

MODEL = {"config.json": b"{}", "model.safetensors": b"w" * 5000}
EVERYTHING = Policy(max_size=0, detached=True)


def of_another_disk(built: CacheBuilder) -> Path:
    place = built.root.parent / "disk2"
    place.mkdir(exist_ok=True)
    return place


def move_repository(built: CacheBuilder) -> None:
    folder = built.folder("o/n")
    shutil.move(folder, of_another_disk(built) / "anything")
    folder.symlink_to(of_another_disk(built) / "anything")


def move_blobs(built: CacheBuilder) -> None:
    blobs = built.folder("o/n") / "blobs"
    shutil.move(blobs, of_another_disk(built) / "blobs")
    blobs.symlink_to(of_another_disk(built) / "blobs")


def move_snapshots(built: CacheBuilder) -> None:
    """Their links lead to the blobs as before only where they are absolute."""
    snapshots = built.folder("o/n") / "snapshots"
    for link in (snapshots / A).iterdir():
        target = link.resolve()
        link.unlink()
        link.symlink_to(target)
    shutil.move(snapshots, of_another_disk(built) / "snapshots")
    snapshots.symlink_to(of_another_disk(built) / "snapshots")


def move_a_snapshot(built: CacheBuilder) -> None:
    """As `ln -s /models/my-folder snapshots/<commit>`: plain files behind it."""
    snapshot = built.folder("o/n") / "snapshots" / A
    shutil.copytree(snapshot, of_another_disk(built) / "plain")
    shutil.rmtree(snapshot)
    snapshot.symlink_to(of_another_disk(built) / "plain")


def link_to_another_cache(built: CacheBuilder) -> None:
    """A snapshot is a link to one of another cache, whose own links are relative."""
    other = CacheBuilder(of_another_disk(built) / "hub")
    there = other.revision("x/y", B, MODEL)
    snapshot = built.folder("o/n") / "snapshots" / A
    shutil.rmtree(snapshot)
    snapshot.symlink_to(there)


def move_files(built: CacheBuilder) -> None:
    """As a cache that was copied by hand: links to plain files elsewhere."""
    for link in (built.folder("o/n") / "snapshots" / A).iterdir():
        target = of_another_disk(built) / link.name
        shutil.copyfile(link, target)
        link.unlink()
        link.symlink_to(target)
    shutil.rmtree(built.folder("o/n") / "blobs")


LINKED = [move_repository, move_blobs, move_snapshots, move_a_snapshot, link_to_another_cache]
ALL = [*LINKED, move_files]
each = pytest.mark.parametrize("move", ALL, ids=lambda move: move.__name__)


@pytest.fixture
def model(built: CacheBuilder) -> CacheBuilder:
    built.revision("o/n", A, MODEL, refs=("main",))
    return built


@each
def test_it_is_here_and_whole(model: CacheBuilder, cache: Cache, move: object) -> None:
    move(model)
    placed = cache.placement("o/n")
    assert (placed.state, placed.commit, placed.missing) == ("complete", A, ())
    assert placed.bytes == sum(map(len, MODEL.values()))
    assert placed.path is not None
    assert (placed.path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    (repo,) = cache.list()
    assert (repo.state, repo.problems) == ("complete", ())
    assert repo.logical_size == placed.bytes


@each
def test_what_is_elsewhere_is_not_counted_as_the_caches(
    model: CacheBuilder, cache: Cache, move: object
) -> None:
    move(model)
    repos, totals = cache.listing()
    blobs = model.folder("o/n") / "blobs"
    left = blobs.is_dir() and not blobs.is_symlink() and not model.folder("o/n").is_symlink()
    assert repos[0].reclaimable == 0 or left
    assert plan_prune(cache, EVERYTHING).freed <= totals.size_on_disk


@each
def test_removing_never_follows(
    model: CacheBuilder, cache: Cache, move: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(model)
    away = of_another_disk(model)
    before = {path: path.lstat().st_mtime_ns for path in away.rglob("*")}
    apply_prune(cache, plan_prune(cache, EVERYTHING))
    apply_normalize(
        cache, plan_normalize(cache, NormalizeRequest("lower", across=True), lambda *_: None)
    )
    if cache.placement("o/n").path is not None:
        if move in LINKED:
            with pytest.raises(UsageError, match="link"):
                plan_remove(cache, f"o/n@{A}")
        done = apply_remove(cache, plan_remove(cache, "o/n"))
        assert done.freed == 0 or move in (move_snapshots, move_a_snapshot, link_to_another_cache)
        assert cache.placement("o/n").state == "absent"
    assert {path: path.lstat().st_mtime_ns for path in away.rglob("*")} == before
    undo_last(cache)
    assert cache.placement("o/n").complete


@each
def test_verify_finds_nothing_wrong_and_a_flipped_byte(
    model: CacheBuilder, cache: Cache, move: object
) -> None:
    move(model)

    def run() -> object:
        return Verifier(str(model.root), cache.index, again=True).run(select_folders(cache, ()))

    report = run()
    assert report.bad == []
    assert report.checked + report.unknown >= 2
    weights = Path(os.path.realpath(cache.placement("o/n").path / "model.safetensors"))
    weights.write_bytes(b"x" * 5000)
    known = report.unknown == 0
    assert bool(run().bad) == known


def test_a_file_is_checked_by_the_name_it_is_called_by(model: CacheBuilder, cache: Cache) -> None:
    """A cache that was moved: absolute links to blobs in another place, still called by hashes."""
    snapshot = model.folder("o/n") / "snapshots" / A
    shutil.move(model.folder("o/n") / "blobs", of_another_disk(model) / "blobs")
    for name, data in MODEL.items():
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(of_another_disk(model) / "blobs" / etag(data))
    report = Verifier(str(model.root), cache.index).run(select_folders(cache, ()))
    assert (report.checked, report.unknown, report.bad) == (2, 0, [])
    (of_another_disk(model) / "blobs" / etag(MODEL["model.safetensors"])).write_bytes(b"x")
    assert Verifier(str(model.root), cache.index).run(select_folders(cache, ())).bad


@each
def test_the_index_sees_what_changes_behind_a_link(
    model: CacheBuilder, cache: Cache, move: object
) -> None:
    move(model)
    assert cache.list()[0].state == "complete"
    real = Path(os.path.realpath(cache.placement("o/n").path))
    (real / "model.safetensors").unlink()
    assert cache.list()[0].state != "complete"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_link_of_somebody_else_to_a_file_of_yours_is_not_followed(
    model: CacheBuilder, cache: Cache
) -> None:
    """Whoever may write into a shared cache must not have another user's files read by a link."""
    secret = of_another_disk(model) / "secret"
    secret.write_bytes(b"secret")
    link = model.folder("o/n") / "snapshots" / A / "link"
    link.symlink_to(secret)
    os.lchown(link, 12345, 12345)
    assert "link points to no blob" in "\n".join(cache.repo("o/n").problems)
    os.chown(secret, 12345, 12345)
    assert cache.placement("o/n").complete


def test_show_says_where_the_link_leads(
    model: CacheBuilder, cache: Cache, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mdl.cli.entry import run

    move_repository(model)
    monkeypatch.setenv("HF_HUB_CACHE", str(model.root))
    monkeypatch.setenv("MDL_HOME", str(cache.settings.home))
    assert run(["cache", "show", "o/n"]) == 0
    assert "disk2/anything" in capsys.readouterr().out
    assert run(["cache", "show", "o/n", "--json"]) == 0
    (folder,) = json.loads(capsys.readouterr().out)["folders"]
    assert folder["linked"].endswith("disk2/anything")
