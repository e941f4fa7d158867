"""One repository, file by file: what `mdl cache show` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl.cachemgr.index.snapshot_formats import recognize_snapshot
from mdl.cachemgr.scan import Folder, Snapshot
from mdl.cachemgr.types import CachedRepo
from mdl.formats import catalogue_format


def describe(root: Path, repo: CachedRepo, folders: Sequence[Folder]) -> dict[str, Any]:
    """`CachedRepo.to_json` with the variants and files of every revision, and the folders
    behind it."""
    by_spelling = {folder.repo_id: folder for folder in folders}
    details = repo.to_json()
    for revision in details["revisions"]:
        folder = by_spelling.get(revision["spelling"])
        snapshot = _snapshot(folder, revision["commit"])
        revision["files_total"] = revision["files"]
        revision["files"] = _files(folder, snapshot) if folder and snapshot else []
        revision["variants"] = _variants(str(root), folder, snapshot) if folder and snapshot else []
        revision["missing"] = list(snapshot.missing) if snapshot else []
    details["folders"] = [
        {
            "name": folder.name,
            "alias_of": folder.alias_of,
            "linked": folder.linked or None,
            "refs": folder.refs,
            "blobs": len(folder.blobs),
            "incomplete": [
                {"name": part.name, "size": part.size, "modified": part.mtime}
                for part in folder.incomplete
            ],
            "no_exist": folder.no_exist,
        }
        for folder in folders
    ]
    return details


def _snapshot(folder: Folder | None, commit: str) -> Snapshot | None:
    if folder is None:
        return None
    return next((s for s in folder.snapshots if s.commit == commit), None)


def _variants(root: str, folder: Folder, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What can be removed on its own: the variants that are files of a snapshot."""
    found = recognize_snapshot(root, folder, snapshot)
    named = [(catalogue_format(each.format or ""), each.variants)
             for each in (found, *found.others)]  # fmt: skip
    return [
        {
            "format": format,
            "variant": variant.name,
            "size": variant.size,
            "files": [file.path for file in variant.files],
        }
        for format, variants in (*named, ("mmproj", found.projectors))
        for variant in variants
        if variant.files
    ]


def _files(folder: Folder, snapshot: Snapshot) -> list[dict[str, Any]]:
    files = []
    for pointer in sorted(snapshot.pointers, key=lambda pointer: pointer.path):
        blob = folder.blobs.get(pointer.blob) if pointer.blob is not None else None
        kind = "" if blob is None else blob.inode[0]
        shared = blob is not None and (kind == "shared" or blob.links > 1)
        state = "broken" if blob is None else "shared" if shared else ""
        state = "outside" if kind == "outside" else state
        files.append(
            {
                "path": pointer.path,
                "size": blob.size if blob else None,
                "blob": pointer.blob,
                "state": state,
            }
        )
    return files
