"""Repair: download again, through huggingface_hub, what is bad or missing.

The bad file is kept in the trash until its replacement is there, and is put back if there is none:
a failed repair leaves everything as it was.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdl.cachemgr.journal import (
    Op,
    drop_empty,
    make_place,
    perform_or_leave,
    revert_all,
    trash_place,
)
from mdl.cachemgr.layout import parse_folder
from mdl.cachemgr.remove import payload_ops
from mdl.cachemgr.scan import scan_folder, store_is_marked
from mdl.cachemgr.verify.verify import BadFile
from mdl.errors import OfflineError
from mdl.hub_http import http_library

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache


class Repaired(NamedTuple):
    """`failed` lists (file, why) of everything that is still bad."""

    fixed: int
    failed: tuple[tuple[BadFile, str], ...]


def repair_cache(cache: "Cache", found: Sequence[BadFile]) -> Repaired:
    """Download again what a verification found bad.

    Raises:
        OfflineError: mdl is offline; nothing was changed.
        BusyError: another mdl process is changing this root.
    """
    if cache.settings.offline:
        raise OfflineError(
            "Repairing needs the Hub, and mdl is offline.",
            next="Unset HF_HUB_OFFLINE, or run without --repair.",
        )
    fixed = 0
    failed: list[tuple[BadFile, str]] = []
    root = os.fspath(cache.root)
    with cache.exclusive() as index:
        staging = make_place(trash_place(cache.root))
        action = index.begin_action("repair", f"{len(found)} files", {"trash": staging}, [])
        for number, bad in enumerate(found):
            linked = scan_folder(root, bad.folder, marked=store_is_marked(root)).linked
            if linked:
                failed.append((bad, f"a link in its folder leads to {linked}: mend it there"))
                continue
            ops = _aside(root, os.path.join(staging, str(number)), bad)
            index.add_operations(action, ops)
            why = perform_or_leave(ops) or _fetch(cache, bad)
            if why:
                revert_all(ops)
                failed.append((bad, why))
            else:
                fixed += 1
        index.set_action(action, "done" if fixed else "reverted", f"{fixed} files")
        drop_empty(staging)
    return Repaired(fixed, tuple(failed))


def _aside(root: str, staging: str, bad: BadFile) -> list[Op]:
    """Move what is bad out of the way: the pointers if these are wrong, else the blob."""
    base = os.path.join(root, bad.folder)
    places = []
    if bad.blob is None or "listing names" in bad.problem:
        places = [f"snapshots/{commit}/{path}" for commit, path in bad.files]
    elif bad.blob.startswith("snapshots/"):
        places = [bad.blob]
    else:
        places = [f"blobs/{bad.blob}"]
    ops: list[Op] = [
        {"op": "move", "from": os.path.join(base, place),
         "to": os.path.join(staging, bad.folder, place)}
        for place in places
        if os.path.lexists(os.path.join(base, place))
    ]  # fmt: skip
    if bad.blob is not None and os.path.islink(os.path.join(base, "blobs", bad.blob)):
        folder = scan_folder(root, bad.folder, marked=store_is_marked(root))
        blob = folder.blobs.get(bad.blob)
        if blob is not None and blob.inode[0] == "shared":
            ops += payload_ops(root, staging, [blob.inode[1]])
    return ops


def _fetch(cache: "Cache", bad: BadFile) -> str:
    """Download the files again in this folder's own spelling; return why not, or `''`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    parsed = parse_folder(bad.folder)
    if parsed is None or not bad.files:
        return "no snapshot names it, so there is nothing to download: prune it with --detached"
    repo_type, repo_id = parsed
    try:
        for commit, path in bad.files:
            hf_hub_download(
                repo_id,
                path,
                repo_type=repo_type,
                revision=commit,
                cache_dir=cache.root,
                endpoint=cache.settings.endpoint,
                token=cache.settings.token or False,
            )
    except (HfHubHTTPError, http_library().HTTPError, OSError, ValueError) as error:
        return str(error).strip().split("\n")[0] or type(error).__name__
    return ""
