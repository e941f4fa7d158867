"""Bringing files into the cache: resumed, checked, in huggingface_hub's own layout and locks."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.fill.blob import WITHHELD, BlobFill, Fetched, Place, blob_place
    from mdl.cachemgr.fill.http import open_file
    from mdl.cachemgr.fill.snapshot import (
        SnapshotFile,
        add_file,
        known_missing,
        local_file,
        read_ref,
        record_missing,
        write_listing,
        write_ref,
    )

__getattr__ = door(
    __name__,
    {
        "blob": "WITHHELD BlobFill Fetched Place blob_place",
        "http": "open_file",
        "snapshot": (
            "SnapshotFile add_file known_missing local_file read_ref record_missing "
            "write_listing write_ref"
        ),
    },
)
