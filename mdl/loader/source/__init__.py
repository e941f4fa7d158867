"""Finding a model on this machine or on the Hub, and downloading it."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.source.download import (
        RESERVE,
        Download,
        HubAccess,
        check_space,
        existing,
        fetch_small,
        hub_errors,
        plan_download,
        read_range,
        repair,
        storage_folder,
        too_full,
    )
    from mdl.loader.source.locate import (
        LocatedModel,
        answer,
        fetch_adapter,
        fetch_model,
        is_whole_adapter,
    )

__getattr__ = door(
    __name__,
    {
        "download": (
            "Download HubAccess RESERVE check_space existing fetch_small hub_errors "
            "plan_download read_range repair storage_folder too_full"
        ),
        "locate": "LocatedModel answer fetch_adapter fetch_model is_whole_adapter",
    },
)
