"""huggingface_hub's record of the files of one revision: `trees/<commit>.json`."""

import json
import os
from typing import NamedTuple

from mdl.cachemgr.scan.stamps import read_small

MAX_BYTES = 64 * 2**20


class ListedFile(NamedTuple):
    """One file as the Hub has it.

    Attributes:
        hash: what the Hub names the content by: sha256 for LFS files, else git's blob sha1.
        xet_hash: what the shared store names it by, where it is stored as Xet chunks.
    """

    size: int
    hash: str
    xet_hash: str | None


def read_tree_listing(root: str, folder: str, commit: str) -> dict[str, ListedFile] | None:
    """File path → the file; `None` where there is no usable listing."""
    try:
        data = read_small(os.path.join(root, folder, "trees", f"{commit}.json"), MAX_BYTES)
        listing = json.loads(data) if data else None
        if not isinstance(listing, dict) or listing.get("format_version") != 1:
            return None
        return {
            str(path): ListedFile(
                int(entry["size"]),
                str(entry.get("lfs_sha256") or entry["blob_id"]),
                entry.get("xet_hash"),
            )
            for path, entry in listing["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
