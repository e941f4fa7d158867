"""Builds caches in huggingface_hub's layout, with real content, and compares what is in them."""

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

A, B, C = "a" * 40, "b" * 40, "c" * 40
DAY = 86400.0


def etag(data: bytes, *, lfs: bool = True) -> str:
    """The Hub's name for content: sha256 for LFS files, git's blob sha1 for small ones."""
    if lfs:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class CacheBuilder:
    """A cache root under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, repo_id: str, kind: str = "models") -> Path:
        return self.root / "--".join([kind, *repo_id.split("/")])

    def revision(
        self,
        repo_id: str,
        commit: str,
        files: Mapping[str, bytes],
        *,
        refs: tuple[str, ...] = (),
        kind: str = "models",
        tree: Mapping[str, bytes] | None = None,
        age: float = 0.0,
    ) -> Path:
        """Add a snapshot; `tree` writes a listing too, `age` (seconds) dates its blobs back."""
        folder = self.folder(repo_id, kind)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            self.blob(folder, data, age)
            self.pointer(snapshot, name, etag(data))
        for ref in refs:
            path = folder / "refs" / ref
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(commit)
        if tree is not None:
            self.tree(folder, commit, tree)
        return snapshot

    def blob(self, folder: Path, data: bytes, age: float = 0.0) -> Path:
        path = folder / "blobs" / etag(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(data)
            then = path.stat().st_mtime - age
            os.utime(path, (then, then))
        return path

    def pointer(self, snapshot: Path, name: str, blob: str) -> None:
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        target = snapshot.parent.parent / "blobs" / blob
        path.symlink_to(os.path.relpath(target, path.parent))

    def tree(self, folder: Path, commit: str, files: Mapping[str, bytes]) -> None:
        listing = {
            name: {"size": len(data), "blob_id": etag(data, lfs=False), "lfs_sha256": etag(data),
                   "lfs_size": len(data)}
            for name, data in files.items()
        }  # fmt: skip
        path = folder / "trees" / f"{commit}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"format_version": 1, "files": listing}))

    def incomplete(self, repo_id: str, data: bytes, *, age: float = 0.0) -> Path:
        path = self.folder(repo_id) / "blobs" / f"{etag(data)}.{secrets.token_hex(4)}.incomplete"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2])
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        return path

    def lock_file(self, repo_id: str, data: bytes) -> Path:
        path = self.root / ".locks" / self.folder(repo_id).name / f"{etag(data)}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o664)
        return path

    @contextmanager
    def downloading(self, repo_id: str, data: bytes) -> Iterator[None]:
        """Hold the lock a download of this content holds."""
        with self.lock_file(repo_id, data).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def share(self, repo_id: str, data: bytes) -> Path:
        """Put content into the shared store and make a repository's blob a link to it."""
        store = self.root / "blobs"
        xet = hashlib.sha256(b"xet" + data).hexdigest()
        payload = store / xet[:2] / xet
        payload.parent.mkdir(parents=True, exist_ok=True)
        (store / ".huggingface-shared-blobs").write_text("1\n")
        if not payload.exists():
            payload.write_bytes(data)
        link = self.folder(repo_id) / "blobs" / etag(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        with (payload.parent / f"{xet}.refs").open("a") as manifest:
            manifest.write(f"{link.relative_to(self.root)}\n")
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(payload, link.parent))
        return payload


def manifest(root: Path) -> dict[str, str]:
    """What every snapshot shows: `folder/commit/path` → sha256 of the content behind it."""
    shown = {}
    for snapshot in sorted(root.glob("*--*/snapshots/*")):
        for folder, _, files in os.walk(snapshot):
            for name in files:
                path = Path(folder, name)
                where = str(path.relative_to(root))
                content = path.read_bytes() if path.is_file() else b"<nothing>"
                shown[where] = hashlib.sha256(content).hexdigest()
    return shown


def disk_use(root: Path) -> int:
    """Bytes of content below a folder, each inode once: what mdl must count to."""
    inodes = {}
    for folder, _, files in os.walk(root):
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            if not os.path.islink(os.path.join(folder, name)):
                inodes[status.st_dev, status.st_ino] = status.st_size
    return sum(inodes.values())


def settle(root: Path) -> None:
    """Wait until the folders' stamps are older than one tick of the file system's clock."""
    newest = max(os.lstat(folder).st_ctime for folder, _, _ in os.walk(root))
    while time.time() < newest + 0.06:
        time.sleep(0.01)
