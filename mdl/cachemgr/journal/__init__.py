"""Changing a cache safely: small operations, journalled first, through the trash, under locks."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.journal.aliases import aliases_of, remove_dangling_aliases
    from mdl.cachemgr.journal.fileops import make_folder, remove_folder
    from mdl.cachemgr.journal.journal import (
        OF_ONE_FOLDER,
        Op,
        drop_empty,
        erase,
        finish_emptying,
        perform_all,
        perform_or_leave,
        recover,
        revert_all,
        undo_action,
    )
    from mdl.cachemgr.journal.locks import (
        QUIET_SECONDS,
        DownloadLocks,
        busy_folders,
        last_written,
        root_mutex,
        wait_until_quiet,
    )
    from mdl.cachemgr.journal.open_files import list_open_files, open_revisions
    from mdl.cachemgr.journal.shared_blobs import MANIFEST, payload_path, references, still_linked
    from mdl.cachemgr.journal.trash import (
        TrashEntry,
        count_trash,
        list_entries,
        make_place,
        trash_place,
    )

__getattr__ = door(
    __name__,
    {
        "aliases": "aliases_of remove_dangling_aliases",
        "fileops": "make_folder remove_folder",
        "journal": (
            "OF_ONE_FOLDER Op drop_empty erase finish_emptying perform_all "
            "perform_or_leave recover revert_all undo_action"
        ),
        "locks": (
            "DownloadLocks QUIET_SECONDS busy_folders last_written root_mutex wait_until_quiet"
        ),
        "open_files": "list_open_files open_revisions",
        "shared_blobs": "MANIFEST payload_path references still_linked",
        "trash": "TrashEntry count_trash list_entries make_place trash_place",
    },
)
