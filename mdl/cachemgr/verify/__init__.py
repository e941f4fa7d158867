"""Checking content against its names, and downloading again what is damaged."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.verify.repair import repair_cache
    from mdl.cachemgr.verify.verify import (
        Verifier,
        VerifyReport,
        hash_file,
        select_folders,
        verification_error,
    )

__getattr__ = door(
    __name__,
    {
        "repair": "repair_cache",
        "verify": "Verifier VerifyReport hash_file select_folders verification_error",
    },
)
