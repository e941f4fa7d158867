"""Real disks with a limit: a full one, one that ignores case, one without links, one in layers.

They are made in a file and mounted, which takes root (and, for two of them, a FUSE driver):
without, these tests are skipped and say so.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cachemgr.builder import DAY, A, B, CacheBuilder, manifest
from tests.cachemgr.test_kill_points import populate

Run = subprocess.CompletedProcess[str]
_MAKE = {
    # Blocks of a page each, as on disks of any real size: SQLite maps its -shm file, and a page
    # with room for only a part of it would end the process with SIGBUS.
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "400", "-b", "4096"],
    "exfat": ["mkfs.exfat"],
    "ntfs": ["mkfs.ntfs", "-q", "-F"],
}
# exFAT has no links and keeps the case it was given; this NTFS driver has links.
_MOUNT = {
    "ext4": ["mount"],
    "exfat": ["mount.exfat-fuse"],
    "ntfs": ["lowntfs-3g", "-o", "ignore_case"],
}


@contextlib.contextmanager
def disk(kind: str, folder: Path, megabytes: int) -> Iterator[Path]:
    """A small disk of this kind, mounted below `folder`."""
    needed = [_MAKE[kind][0], _MOUNT[kind][0], "losetup", "umount"]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if os.name != "posix" or os.geteuid() != 0 or missing:
        pytest.skip(f"mounting {kind} takes root and {', '.join(needed)}")
    image, place = folder / f"{kind}.img", folder / kind
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes * 2**20)
    device = ""
    try:
        subprocess.run([*_MAKE[kind], image], check=True, capture_output=True)
        found = subprocess.run(
            ["losetup", "-f", "--show", image], check=True, capture_output=True, text=True
        )
        device = found.stdout.strip()
        subprocess.run([*_MOUNT[kind], device, place], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        if device:
            subprocess.run(["losetup", "-d", device], check=False)
        pytest.skip(f"{kind} cannot be mounted here: {error.stderr!r}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        subprocess.run(["losetup", "-d", device], check=False)


def fill(place: Path) -> Path:
    """Write until not one byte more fits."""
    path = place / "filler"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (2**16, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, bytes(size))
    finally:
        os.close(fd)
    assert shutil.disk_usage(place).free == 0
    return path


class Machine:
    """`mdl cache` as a process, on one root."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.env = {
            **os.environ,
            "HF_HUB_CACHE": str(root),
            "MDL_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *args: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "mdl", "cache", *args],
            env=self.env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        assert "Unexpected error" not in done.stderr, done.stderr
        return done


CHANGES = [
    ("prune", "--older-than", "0d"),
    ("rm", "Org/Name", "--all-casings"),
    ("normalize", "--to", "shared"),
    ("normalize", "--to", "lower"),
    ("normalize", "--across"),
    ("pin", "Org/Name"),
    ("verify",),
    ("trash", "empty"),
]


@pytest.mark.parametrize("home", ["on it", "elsewhere"])
def test_a_full_disk_costs_nothing(tmp_path: Path, home: str) -> None:
    """Every change either is done, and can be taken back, or says that there is no room."""
    with disk("ext4", tmp_path, 8) as place:
        root = place / "hub"
        populate(root)
        machine = Machine(root, (place if home == "on it" else tmp_path) / "mdl")
        assert machine.run("ls").returncode == 0
        before = manifest(root)
        failures = 0
        for change in CHANGES:
            filler = fill(place)
            done = machine.run(*change, "--yes") if change != ("verify",) else machine.run(*change)
            listed = machine.run("ls", "--json")
            assert listed.returncode in (0, 1), (change, listed.stderr)
            if done.returncode:
                failures += 1
                assert done.returncode in (1, 6), (change, done.stderr)
                if done.returncode == 1:
                    assert "space" in done.stderr or "room" in done.stderr, (change, done.stderr)
            filler.unlink()
            if not done.returncode and change[0] in ("prune", "rm", "normalize"):
                machine.run("undo", "--yes")
            assert manifest(root) == before, change
        assert machine.run("ls").returncode == 0
        if home == "on it":
            assert failures  # or the disk was never full


def test_a_full_disk_can_still_be_pruned(tmp_path: Path) -> None:
    """mdl's own files on the disk that is full: their reserve gives way to the journal."""
    with disk("ext4", tmp_path, 48) as place:
        root = place / "hub"
        populate(root)
        before = manifest(root)
        machine = Machine(root, place / "mdl")
        assert machine.run("ls").returncode == 0
        filler = fill(place)
        done = machine.run("prune", "--older-than", "0d", "--yes")
        assert done.returncode == 0, done.stderr
        assert manifest(root) != before
        assert machine.run("trash", "empty", "--yes").returncode == 0
        assert shutil.disk_usage(place).free > 0
        filler.unlink()
        populate(root)
        assert machine.run("rm", "Org/Name", "--all-casings", "--yes").returncode == 0
        assert list((place / "mdl" / "cache").glob("*.reserve"))


EXFAT = pytest.mark.system("mkfs.exfat", "mount.exfat-fuse")
NTFS = pytest.mark.system("mkfs.ntfs", "lowntfs-3g")


@pytest.mark.parametrize(
    "kind", [pytest.param("exfat", marks=EXFAT), pytest.param("ntfs", marks=NTFS)]
)
def test_a_disk_that_ignores_case(tmp_path: Path, kind: str) -> None:
    """Every casing finds the one folder already; everything but joining works."""
    with disk(kind, tmp_path, 32) as place:
        root = place / "hub"
        machine = Machine(root, tmp_path / "mdl")
        for repo_id, commit in (("Org/Name", A), ("Org/Other", B)):
            _copied(root, repo_id, commit)
        before = manifest(root)
        for to in ("shared", "hub", "lower"):
            done = machine.run("normalize", "--to", to, "--yes")
            assert done.returncode == 0, done.stderr
            assert "ignores case" in done.stdout
        # Only the joining of a folding request is left; exFAT cannot do that either, and says so.
        done = machine.run("normalize", "--to", "lower", "--across", "--yes")
        assert "ignores case" in done.stdout
        assert done.returncode == 0, done.stderr
        assert manifest(root) == before
        assert machine.run("show", "oRG/nAME").returncode == 0
        assert machine.run("verify").returncode == 0
        for change in (("rm", "org/other"), ("prune", "--older-than", "0d")):
            done = machine.run(*change, "--yes")
            assert done.returncode == 0, done.stderr
            assert manifest(root) != before
            assert machine.run("undo", "--yes").returncode == 0
            assert manifest(root) == before
        assert machine.run("rm", "ORG/other", "--yes").returncode == 0
        assert machine.run("trash", "empty", "--yes").returncode == 0
        assert [path for path in before if "ther" not in path] == list(manifest(root))


@EXFAT
def test_a_disk_without_links_says_what_it_cannot(tmp_path: Path) -> None:
    with disk("exfat", tmp_path, 32) as place:
        root = place / "hub"
        machine = Machine(root, tmp_path / "mdl")
        same = b"the same bytes" * 100
        for repo_id in ("Org/One", "Org/Two"):
            folder = root / f"models--{repo_id.replace('/', '--')}"
            CacheBuilder(root).blob(folder, same, DAY)
        before = {path: path.read_bytes() for path in root.rglob("blobs/*")}
        done = machine.run("normalize", "--across", "--yes")
        assert done.returncode == 1
        assert "does not support links" in done.stderr
        assert "HF_HUB_CACHE" in done.stderr
        assert {path: path.read_bytes() for path in root.rglob("blobs/*")} == before
        assert machine.run("trash", "ls").stdout == "The trash is empty.\n"
        assert not list((place / ".").glob(".mdl-trash-*/*"))


@contextlib.contextmanager
def mounted(kind: str, options: str, place: Path) -> Iterator[None]:
    """Something mounted that needs no device; to bind, `kind` is the folder."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip(f"mounting {kind} takes Linux and root")
    place.mkdir()
    command = ["mount", *([] if "bind" in options else ["-t", kind]), kind, place, "-o", options]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr!r}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_a_containers_image_brought_is_left_alone(tmp_path: Path) -> None:
    """Removing it would free nothing and cannot be one rename; what came later goes."""
    disk, place = tmp_path / "disk", tmp_path / "merged"
    with mounted("tmpfs", "size=64m", disk):
        for layer in ("below", "above", "work"):
            (disk / layer).mkdir()
        populate(disk / "below" / "hub")
        layers = f"lowerdir={disk}/below,upperdir={disk}/above,workdir={disk}/work"
        with mounted("overlay", layers, place):
            root = place / "hub"
            brought = manifest(root)
            CacheBuilder(root).revision("Org/Later", A, {"w": b"later"}, refs=("main",))
            machine = Machine(root, tmp_path / "mdl")
            before = manifest(root)
            done = machine.run("prune", "--older-than", "0d", "--yes")
            assert done.returncode == 0, done.stderr
            assert "left alone: models--Org--Name: it is on another disk than" in done.stdout
            assert manifest(root) == brought
            assert machine.run("undo", "--yes").returncode == 0
            assert manifest(root) == before
            done = machine.run("rm", "o/gone", "--all-casings", "--yes")
            assert done.returncode == 1
            assert "would free nothing" in done.stderr
            done = machine.run("normalize", "--to", "lower", "--yes")
            assert "left alone: org/name: it is on another disk than" in done.stdout
            assert (root / "models--Org--Later").is_symlink()  # the one above was folded
            assert before.items() <= manifest(root).items()
            assert machine.run("undo", "--yes").returncode == 0
            assert manifest(root) == before


def test_a_folder_from_elsewhere_is_left_alone_and_the_rest_goes(tmp_path: Path) -> None:
    """A model mounted into a container's cache."""
    root = tmp_path / "hub"
    populate(root)
    built = CacheBuilder(root)
    built.revision("o/mounted", A, {"w": b"elsewhere"}, refs=("main",))
    built.revision("O/Mounted", B, {"w": b"here"}, refs=("v1",))
    away, place = tmp_path / "away", built.folder("o/mounted")
    place.rename(away)
    machine = Machine(root, tmp_path / "mdl")
    with mounted(str(away), "bind", place):
        before = manifest(root)
        done = machine.run("prune", "--older-than", "0d", "--yes")
        assert (done.returncode, done.stderr) == (0, "")
        assert "left alone: models--o--mounted: something is mounted on it" in done.stdout
        assert [path.name for path in root.glob("models--*")] == ["models--o--mounted"]
        assert machine.run("undo").returncode == 0
        for target, reason in (("o/mounted", "mounted on it"), ("o/mounted:w", "another disk")):
            done = machine.run("rm", target, "--yes")
            assert done.returncode == 1
            assert f"{target} was left alone" in done.stderr
            assert reason in done.stderr
        done = machine.run("normalize", "--yes")
        assert "left alone: O/Mounted: it is on another disk" in done.stdout
        assert machine.run("undo").returncode == 0
        assert manifest(root) == before
        assert machine.run("trash", "ls").stdout == "The trash is empty.\n"
        assert not list(tmp_path.glob(".mdl-trash-*/*"))


def _copied(root: Path, repo_id: str, commit: str) -> None:
    """A repository as huggingface_hub stores it where there are no links: copies."""
    folder = root / f"models--{repo_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_bytes(b"{}")
    (snapshot / "weights").write_bytes(repo_id.encode() * 500)
