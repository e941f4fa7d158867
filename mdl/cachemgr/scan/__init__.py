"""Reading a cache root from the disk into values. Nothing here writes."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.scan.content import chunks, same_content
    from mdl.cachemgr.scan.folder import scan_folder
    from mdl.cachemgr.scan.model import Blob, Folder, Snapshot, content_path
    from mdl.cachemgr.scan.parallel import in_processes
    from mdl.cachemgr.scan.stamps import change_stamp, read_small, store_is_marked, trustworthy
    from mdl.cachemgr.scan.tree_listing import ListedFile, read_tree_listing

__getattr__ = door(
    __name__,
    {
        "content": "chunks same_content",
        "folder": "scan_folder",
        "model": "Blob Folder Snapshot content_path",
        "parallel": "in_processes",
        "stamps": "change_stamp read_small trustworthy store_is_marked",
        "tree_listing": "ListedFile read_tree_listing",
    },
)
