"""What nobody should put into a cache: reported, never changed, and never a traceback."""

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.journal import fileops
from mdl.cachemgr.journal.trash import trash_place
from mdl.cachemgr.layout import repo_key, root_id
from mdl.cachemgr.normalize import NormalizeRequest, apply_normalize, plan_normalize
from mdl.cachemgr.remove import (
    Policy,
    apply_prune,
    apply_remove,
    plan_prune,
    plan_remove,
    undo_last,
)
from mdl.cachemgr.scan.folder import MAX_ENTRIES, scan_folder
from mdl.cachemgr.verify.verify import Verifier
from mdl.cli.entry import run
from mdl.errors import DiskError
from mdl.settings import Settings
from mdl.store.cache_index import CacheIndex
from tests.cachemgr.builder import A, B, CacheBuilder, etag, manifest

SECRET = b"nobody should ever see or touch this"
EVERYTHING = Policy(max_size=0)


def outside(built: CacheBuilder) -> Path:
    path = built.root.parent / "outside"
    path.mkdir(exist_ok=True)
    (path / "secret").write_bytes(SECRET)
    return path


def link_out_of_a_snapshot(built: CacheBuilder, folder: Path) -> None:
    (folder / "snapshots" / A / "nowhere").symlink_to(outside(built) / "nothing")
    (folder / "snapshots" / A / "out").symlink_to(outside(built) / "secret")
    (folder / "snapshots" / A / "out-folder").symlink_to(outside(built))


def link_out_of_blobs(built: CacheBuilder, folder: Path) -> None:
    (folder / "blobs" / etag(SECRET)).symlink_to(outside(built) / "secret")


def blobs_are_elsewhere(built: CacheBuilder, folder: Path) -> None:
    (folder / "blobs").rename(outside(built) / "blobs")
    (folder / "blobs").symlink_to(outside(built) / "blobs")


def snapshots_are_elsewhere(built: CacheBuilder, folder: Path) -> None:
    shutil.rmtree(folder / "snapshots")
    (folder / "snapshots").symlink_to(outside(built))


def a_snapshot_is_elsewhere(built: CacheBuilder, folder: Path) -> None:
    (folder / "snapshots" / B).symlink_to(outside(built))


def a_loop(built: CacheBuilder, folder: Path) -> None:
    (folder / "snapshots" / A / "self").symlink_to(".")
    (folder / "snapshots" / A / "one").symlink_to("two")
    (folder / "snapshots" / A / "two").symlink_to("one")


def fifos_and_sockets(built: CacheBuilder, folder: Path) -> None:
    """Opening one of these would wait for ever."""
    os.mkfifo(folder / "refs" / "fifo")
    os.mkfifo(folder / "blobs" / etag(b"fifo"))
    os.mkfifo(folder / "snapshots" / A / "fifo")
    (folder / "trees").mkdir()
    os.mkfifo(folder / "trees" / f"{A}.json")
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(folder / "blobs")
        try:
            made.bind("socket")
        finally:
            os.chdir(here)


def odd_names(built: CacheBuilder, folder: Path) -> None:
    """Names with a newline, an escape sequence, and bytes that are no UTF-8."""
    for name in (b"two\nlines", b"\x1b[31mred", b"\xff\xfe not utf-8"):
        where = os.fsencode(folder / "snapshots" / A) + b"/" + name
        os.symlink(os.fsencode(f"../../blobs/{etag(b'w')}"), where)
        os.mkdir(os.fsencode(built.root) + b"/models--o--" + name)
        with open(os.fsencode(folder / "refs") + b"/" + name, "wb") as ref:
            ref.write(A.encode())
        with open(os.fsencode(built.root) + b"/stranger " + name, "wb"):
            pass


def a_blob_is_a_folder(built: CacheBuilder, folder: Path) -> None:
    blob = folder / "blobs" / etag(b"w")
    blob.unlink()
    blob.mkdir()
    (blob / "inside").write_bytes(b"1")


def a_ref_of_a_gigabyte(built: CacheBuilder, folder: Path) -> None:
    with open(folder / "refs" / "large", "wb") as ref:
        ref.truncate(10**9)


def a_ref_that_is_a_path(built: CacheBuilder, folder: Path) -> None:
    outside(built)
    (folder / "refs" / "evil").write_text("../../../outside")
    (folder / "refs" / "binary").write_bytes(b"\xff\x00")


def a_tree_that_climbs(built: CacheBuilder, folder: Path) -> None:
    outside(built)
    (folder / "trees").mkdir()
    entry = {"size": 1, "blob_id": "../../../outside/secret"}
    listing = {"format_version": 1, "files": {"../../../../outside/secret": entry, "w": entry}}
    (folder / "trees" / f"{A}.json").write_text(json.dumps(listing))


def deep_folders(built: CacheBuilder, folder: Path) -> None:
    path = folder / "snapshots" / A
    for _ in range(60):
        path = path / "d"
    path.mkdir(parents=True)


def files_where_folders_belong(built: CacheBuilder, folder: Path) -> None:
    (built.root / "models--a--file").write_text("no folder")
    (folder / "snapshots" / "file").write_text("no folder")
    broken = built.root / "models--o--broken"
    broken.mkdir()
    for name in ("blobs", "snapshots", "refs", "trees", ".no_exist"):
        (broken / name).write_text("no folder")


def aliases_that_mislead(built: CacheBuilder, folder: Path) -> None:
    (built.root / "models--o--away").symlink_to(outside(built))
    (built.root / "models--o--gone").symlink_to("models--o--nothing")
    (built.root / "models--o--self").symlink_to("models--o--self")
    (built.root / "models--o--root").symlink_to(".")
    (built.root / "models--o--link-to-alias").symlink_to("models--o--away")


def a_false_shared_store(built: CacheBuilder, folder: Path) -> None:
    """Without the marker it is nobody's store, and what links into it is not followed."""
    store = built.root / "blobs" / "ab"
    store.mkdir(parents=True)
    (store / ("ab" * 32)).write_bytes(SECRET)
    (folder / "blobs" / etag(b"x")).symlink_to(f"../../blobs/ab/{'ab' * 32}")


def a_manifest_that_climbs(built: CacheBuilder, folder: Path) -> None:
    payload = built.share("o/n", b"shared")
    manifest_file = payload.with_name(f"{payload.name}.refs")
    manifest_file.write_text(f"../outside/secret\n/etc/passwd\n{manifest_file.read_text()}")


TREES: list[Callable[[CacheBuilder, Path], None]] = [
    link_out_of_a_snapshot,
    link_out_of_blobs,
    blobs_are_elsewhere,
    snapshots_are_elsewhere,
    a_snapshot_is_elsewhere,
    a_loop,
    fifos_and_sockets,
    odd_names,
    a_blob_is_a_folder,
    a_ref_of_a_gigabyte,
    a_ref_that_is_a_path,
    a_tree_that_climbs,
    deep_folders,
    files_where_folders_belong,
    aliases_that_mislead,
    a_false_shared_store,
    a_manifest_that_climbs,
]


@pytest.mark.parametrize("spoil", TREES, ids=lambda spoil: spoil.__name__)
def test_reported_and_never_changed(
    spoil: Callable[[CacheBuilder, Path], None],
    built: CacheBuilder,
    cache: Cache,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built.revision("o/n", A, {"w": b"w"}, refs=("main",))
    built.revision("O/N", A, {"w": b"w"}, refs=("main",))
    built.revision("o/good", A, {"w": b"good"}, refs=("main",))
    spoil(built, built.folder("o/n"))
    away = outside(built)
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in away.rglob("*"))

    monkeypatch.setenv("HF_HUB_CACHE", str(built.root))
    monkeypatch.setenv("MDL_HOME", str(settings.home))
    for text in ("ls", "ls -r --format csv", "du", "show o/n", "trash ls", "ls --json",
                 "prune --dry-run --json"):  # fmt: skip
        command = text.split()
        assert run(["cache", *command]) == 0, command
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert "\x1b" not in printed.out.encode("utf-8", "replace").decode()
        if "--json" in command:
            json.loads(printed.out)
    assert {"good"} <= {repo.repo_id.split("/")[1] for repo in cache.list()}

    root = str(built.root)
    folders = [scan_folder(root, s.name, marked=True) for s in cache.survey().summaries]
    Verifier(root, cache.index).run([folder for folder in folders if folder.alias_of is None])
    apply_normalize(
        cache,
        plan_normalize(
            cache, NormalizeRequest("shared", across=True, store=True), lambda kind, name: None
        ),
    )
    apply_prune(cache, plan_prune(cache, EVERYTHING))
    assert run(["cache", "undo"]) == 0
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in away.rglob("*")) == before
    assert (away / "secret").read_bytes() == SECRET


def test_problems_are_named(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"w": b"w"}, refs=("main",))
    folder = built.folder("o/n")
    link_out_of_a_snapshot(built, folder)
    a_blob_is_a_folder(built, folder)
    text = "\n".join(cache.repo("o/n").problems)
    assert "nowhere points to no blob" in text
    assert "out-folder points to no blob" in text
    assert "is not a regular file" in text
    assert "w points to no blob" in text


def test_a_folder_with_too_many_entries_is_not_read_further(
    built: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what cannot be read whole cannot be judged: nothing in it is removed."""
    monkeypatch.setattr("mdl.cachemgr.scan.folder.MAX_ENTRIES", 50)
    built.revision("o/n", A, {str(n): b"%d" % n for n in range(60)})
    (repo,) = cache.list()
    assert "more than 50 entries" in repo.problems[0]
    assert plan_prune(cache, EVERYTHING).remove == ()


def test_a_very_large_folder_does_not_stop_a_listing(built: CacheBuilder, cache: Cache) -> None:
    """Names, not inodes, are what makes a folder large; ext4 allows 65,000 a file."""
    blobs = built.folder("o/n") / "blobs"
    blobs.mkdir(parents=True)
    fd = os.open(blobs, os.O_RDONLY)
    for number in range(MAX_ENTRIES + 100):
        if number % 60_000 == 0:
            first = blobs / str(number)
            first.touch()
        else:
            os.link(first.name, str(number), src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
    (repo,) = cache.list()
    assert f"more than {MAX_ENTRIES} entries" in repo.problems[0]


def test_a_read_only_root_can_be_read(built: CacheBuilder, settings: Settings) -> None:
    """As another user sees it: everything is listed, and changing is refused before it begins."""
    built.revision("o/n", A, {"w": b"w"})
    for folder in (built.root.parent, *built.root.parent.parents):
        if folder != Path("/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder == Path("/tmp"):
            break
    home = settings.home
    index_file = Path(home, "cache", f"{root_id(built.root)}.db")
    owners = CacheIndex(index_file)  # stays open: the pin waits in its write-ahead log
    owners.add_pin(repo_key("model", "o/n"), "", "o/n")
    index_file.parent.chmod(0o755)
    for file in index_file.parent.iterdir():
        file.chmod(0o644)

    def as_somebody_else() -> None:
        os.setgid(65534)
        os.setuid(65534)
        cache = open_cache(Settings(home, built.root))
        assert not cache.index.persistent
        assert cache.repo("o/n").size_on_disk == 1
        assert cache.repo("o/n").pinned, "a pin holds for one who may only read it"
        cache = open_cache(Settings("/nowhere", built.root))
        for act in (
            lambda: apply_prune(cache, plan_prune(cache, Policy(detached=True))),
            lambda: apply_remove(cache, plan_remove(cache, "o/n")),
        ):
            try:
                act()
            except Exception as error:
                assert "denied" in str(error) or "cannot be written" in str(error), error
            else:
                raise AssertionError("it should have been refused")

    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    before = manifest(built.root)
    assert in_child(as_somebody_else) == 0
    assert manifest(built.root) == before


def test_a_folder_of_somebody_else_is_left_alone_and_the_rest_goes(
    built: CacheBuilder, tmp_path: Path
) -> None:
    """One cache for a group: what another user downloaded stays, and is named."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    built.revision("o/theirs", A, {"w": b"w"})
    built.revision("o/mine", A, {"w": b"w"})
    somebody = 65534
    for folder, _, files in os.walk(built.folder("o/mine")):
        os.chown(folder, somebody, somebody)
        for name in files:
            os.chown(os.path.join(folder, name), somebody, somebody, follow_symlinks=False)
    for folder in (built.root, *built.root.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o777)
    home = tmp_path / "home-of-somebody"
    home.mkdir()
    os.chown(home, somebody, somebody)

    def as_somebody_else() -> None:
        os.setgid(somebody)
        os.setuid(somebody)
        cache = open_cache(Settings(home, built.root))
        outcome = apply_prune(cache, plan_prune(cache, EVERYTHING))
        assert outcome.skipped == {"models--o--theirs": "you do not have permission to change it"}
        assert [repo.repo_id for repo in cache.list()] == ["o/theirs"]
        try:
            apply_remove(cache, plan_remove(cache, "o/theirs:w"))
        except DiskError as error:
            assert "permission" in str(error)
        else:
            raise AssertionError("it should have been refused")
        undo_last(cache)
        place = Path(trash_place(cache.root).path)
        assert not list(place.iterdir()), "what was not moved leaves nothing in the trash"

    before = manifest(built.root)
    assert in_child(as_somebody_else) == 0
    assert manifest(built.root) == before


def in_child(function: Callable[[], None]) -> int:
    import traceback
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("call", ["rename_new", "hard_link", "soft_link", "replace", "write_file"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_gives_out_in_the_middle(
    call: str,
    error: int,
    built: CacheBuilder,
    cache: Cache,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One of these changes fails: one clear error, and everything is as it was."""
    built.revision("Org/Name", A, {"w": b"w" * 100, "x": b"x"}, refs=("main",))
    built.revision("org/name", B, {"w": b"w" * 100, "y": b"y"}, refs=("other",))
    before = sorted(str(path) for path in built.root.rglob("*"))
    shown = manifest(built.root)
    real = getattr(fileops, call)
    left = 1 if call == "write_file" else 2

    def fails(*given: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(error, os.strerror(error), str(given[-1]))
        return real(*given)

    monkeypatch.setenv("HF_HUB_CACHE", str(built.root))
    monkeypatch.setenv("MDL_HOME", str(settings.home))
    with monkeypatch.context() as patch:
        patch.setattr(fileops, call, fails)
        normalize = ["cache", "normalize", "--to", "lower", "--yes"]
        remove = ["cache", "prune", "--max-size", "0", "--yes"]
        code = run(remove if call == "rename_new" else normalize)
    printed = capsys.readouterr().err
    assert code == 1
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    assert manifest(built.root) == shown
    assert sorted(str(path) for path in built.root.rglob("*")) == before
    assert cache.index.actions("running", "undoing") == []
    with pytest.raises(Exception, match="nothing to undo"):
        undo_last(cache)
