"""What the loopback Hub stores: files, commits, repositories, and their JSON forms.

Nothing here speaks HTTP. Ids are derived as git and Git LFS derive them, so that a client that
checks them (huggingface_hub, `mdl cache verify`) finds them right: a small file is named by its
git blob SHA-1, a large one by its SHA-256, a commit by a SHA-1 over its files and its parent.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import yaml

# The default .gitattributes of a Hub repository sends these to LFS, and anything over 10 MB.
LFS_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack", ".model",
     ".pkl", ".pickle", ".npz", ".tflite", ".zip", ".parquet")
)  # fmt: skip
LFS_SIZE = 10_000_000
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Blob:
    """One file's content (in memory, or on disk for a large one) and its hashes."""

    source: bytes | Path
    size: int
    git_sha1: str
    sha256: str
    lfs: bool

    @property
    def etag(self) -> str:
        """The name the client gives the file in its cache."""
        return self.sha256 if self.lfs else self.git_sha1

    @property
    def pointer(self) -> bytes:
        """The LFS pointer that git itself stores for this file."""
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.sha256}\nsize {self.size}\n"
        ).encode()

    @property
    def oid(self) -> str:
        """The git object id shown by the tree API: of the pointer for an LFS file."""
        return git_blob_sha1(self.pointer) if self.lfs else self.git_sha1

    def open(self) -> BinaryIO:
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        return self.source.open("rb")


def git_blob_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def make_blob(source: bytes | str | Path, name: str, lfs: bool | None = None) -> Blob:
    """Hash `source` (a str is text) and decide, as git attributes would, whether it is LFS."""
    if isinstance(source, str):
        source = source.encode()
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    sha1, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            sha1.update(chunk)
            sha256.update(chunk)
    if lfs is None:
        lfs = PurePosixPath(name).suffix in LFS_SUFFIXES or size > LFS_SIZE
    return Blob(source, size, sha1.hexdigest(), sha256.hexdigest(), lfs)


def folder_files(folder: Path) -> dict[str, bytes | str | Path]:
    """The files under `folder` as repository paths, hidden ones left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


@dataclass(frozen=True)
class Commit:
    id: str
    files: Mapping[str, Blob]
    parent: str | None
    date: str
    title: str


@dataclass
class Repo:
    """One model repository: commits, refs, who may read it, what the Hub says about it."""

    id: str
    gated: bool | str = False
    private: bool = False
    disabled: bool = False
    extra_tags: tuple[str, ...] = ()
    downloads: int = 0
    likes: int = 0
    access: dict[str, str] = field(default_factory=dict)  # token -> granted|pending|rejected|reset
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # full ref name -> commit id

    def commit(self, files: Mapping[str, Blob], ref: str, title: str) -> Commit:
        """Add a commit holding exactly `files` to `ref` (a branch name or a full ref)."""
        full = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
        parent = self.refs.get(full)
        listing = "\n".join(f"{path} {blob.oid}" for path, blob in sorted(files.items()))
        text = f"{self.id}\n{parent}\n{title}\n{listing}"
        # Dates only need to be stable and in order: one day a commit.
        date = (EPOCH + timedelta(days=len(self.commits))).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), dict(files), parent, date, title)
        self.commits[made.id] = made
        self.refs[full] = made.id
        return made

    def find(self, revision: str) -> Commit | None:
        """The commit a branch, tag, full ref, commit id or (7+ digits) short id names."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if revision in self.commits:
            return self.commits[revision]
        short = [c for c in self.commits.values() if c.id.startswith(revision)]
        return short[0] if len(revision) >= 7 and len(short) == 1 else None

    def head(self) -> Commit:
        return self.commits[self.refs["refs/heads/main"]]


def card_data(commit: Commit) -> dict[str, Any]:
    """The YAML front matter of README.md, as the Hub reads it."""
    if "README.md" not in commit.files:
        return {}
    with commit.files["README.md"].open() as stream:
        text = stream.read().decode(errors="replace")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    loaded = yaml.safe_load(text[4 : text.index("\n---", 4) + 1])
    return loaded if isinstance(loaded, dict) else {}


def base_models(card: Mapping[str, Any]) -> list[str]:
    named = card.get("base_model") or []
    return [named] if isinstance(named, str) else list(named)


def model_config(commit: Commit) -> dict[str, Any]:
    """The part of config.json that the Hub shows."""
    if "config.json" not in commit.files:
        return {}
    with commit.files["config.json"].open() as stream:
        try:
            config = json.load(stream)
        except ValueError:
            return {}
    shown = ("architectures", "model_type", "quantization_config", "auto_map")
    return {key: config[key] for key in shown if key in config}


def repo_tags(repo: Repo, commit: Commit) -> list[str]:
    """The tags the Hub would compute from the card and the files, then the given ones."""
    card, config = card_data(commit), model_config(commit)
    tags = [card["library_name"]] if "library_name" in card else []
    suffixes = {PurePosixPath(path).suffix for path in commit.files}
    tags += [tag for tag in ("safetensors", "gguf", "onnx") if f".{tag}" in suffixes]
    tags += [config["model_type"]] if "model_type" in config else []
    tags += list(card.get("tags", []))
    for base in base_models(card):
        tags.append(f"base_model:{base}")
        if relation := card.get("base_model_relation"):
            tags.append(f"base_model:{relation}:{base}")
    if quantization := config.get("quantization_config"):
        bits = {"load_in_4bit": "4-bit", "load_in_8bit": "8-bit"}
        tags += [tag for key, tag in bits.items() if quantization.get(key)]
        tags += [str(quantization.get("quant_method", ""))]
    if "license" in card:
        tags.append(f"license:{card['license']}")
    return list(dict.fromkeys([*tags, *repo.extra_tags, "region:us"]))


def safetensors_counts(commit: Commit) -> dict[str, Any] | None:
    """Parameter counts by dtype from the safetensors headers, as `expand=safetensors` shows."""
    counts: dict[str, int] = {}
    for path, blob in commit.files.items():
        if not path.endswith(".safetensors"):
            continue
        with blob.open() as stream:
            try:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > blob.size:  # no safetensors: not read as a whole to find that out
                    return None
                header = json.loads(stream.read(length))
            except (ValueError, struct.error):
                return None
        for name, entry in header.items():
            if name != "__metadata__":
                size = 1
                for extent in entry["shape"]:
                    size *= extent
                counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + size
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def model_fields(repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Everything the Hub can say of a model; the server picks what the request asked for."""
    card = card_data(commit)
    relation = card.get("base_model_relation")
    linked = [{"id": base} for base in base_models(card)]
    return {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0] if "/" in repo.id else None,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": min(c.date for c in repo.commits.values()),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "likes": repo.likes,
        "trendingScore": 0,
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "tags": repo_tags(repo, commit),
        "config": model_config(commit),
        "cardData": card,
        "baseModels": {"relation": relation, "models": linked} if linked else None,
        "safetensors": safetensors_counts(commit),
        "usedStorage": sum(blob.size for blob in commit.files.values()),
        "siblings": [sibling(path, blob, blobs) for path, blob in sorted(commit.files.items())],
        "spaces": [],
    }


def sibling(path: str, blob: Blob, details: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": path}
    if details:
        row |= {"size": blob.size, "blobId": blob.oid}
        if blob.lfs:
            pointer = {"pointerSize": len(blob.pointer)}
            row["lfs"] = {"sha256": blob.sha256, "size": blob.size, **pointer}
    return row


def tree_rows(
    commit: Commit, under: str = "", *, recursive: bool = False, expand: bool = False
) -> list[dict[str, Any]]:
    """Rows of the tree API below the folder `under`, folders included."""
    prefix = f"{under.strip('/')}/" if under.strip("/") else ""
    inside = [path for path in sorted(commit.files) if path.startswith(prefix)]
    rows = {path: file_row(path, commit, expand) for path in inside}
    for path in inside:
        for parent in PurePosixPath(path).parents:
            if f"{parent}/".startswith(prefix) and str(parent) not in (".", prefix.rstrip("/")):
                rows[str(parent)] = folder_row(str(parent), commit)
    if not recursive:
        rows = {path: row for path, row in rows.items() if "/" not in path[len(prefix) :]}
    return [rows[path] for path in sorted(rows)]


def file_row(path: str, commit: Commit, expand: bool = False) -> dict[str, Any]:
    blob = commit.files[path]
    row: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.lfs:
        row["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if expand:
        row["lastCommit"] = {"id": commit.id, "title": commit.title, "date": commit.date}
        row["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return row


def folder_row(path: str, commit: Commit) -> dict[str, Any]:
    inside: Iterable[str] = (
        f"{name} {blob.oid}"
        for name, blob in sorted(commit.files.items())
        if name.startswith(f"{path}/")
    )
    oid = hashlib.sha1("\n".join(inside).encode()).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}
