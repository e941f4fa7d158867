"""Where a model's files are: in a local copy, in the cache or on the Hub; and downloading them."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.source.download import (
        Download,
        HubAccess,
        download_gguf_header,
        plan_download,
        read_remote_header,
        remote_tensor_names,
    )
    from mdl.loader.source.fetch import fetch_model
    from mdl.loader.source.local_copy import (
        is_complete,
        local_copy_folder,
        local_copy_row,
        locked,
        read_local_copy,
        write_local_copy,
    )
    from mdl.loader.source.locate import locate_model
    from mdl.loader.source.located import Adapter, FetchedModel, LocatedModel
    from mdl.loader.source.selected import Selection, pull_files
    from mdl.loader.source.transfer import download_again, download_small_files

__getattr__ = door(
    __name__,
    {
        "download": (
            "Download HubAccess download_gguf_header plan_download read_remote_header "
            "remote_tensor_names"
        ),
        "fetch": "fetch_model",
        "local_copy": (
            "is_complete local_copy_folder local_copy_row locked read_local_copy write_local_copy"
        ),
        "locate": "locate_model",
        "located": "Adapter FetchedModel LocatedModel",
        "selected": "Selection pull_files",
        "transfer": "download_again download_small_files",
    },
)
