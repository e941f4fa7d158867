"""Turning checkpoint files into a model and its tokenizer."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.build.cold_start import import_libraries, prefetch
    from mdl.loader.build.local_copy import (
        PROVENANCE,
        find_mirror,
        in_turn,
        mirror_folder,
        mirror_row,
        read_mirror,
        write_mirror,
    )
    from mdl.loader.build.mmap_build import build_mapped
    from mdl.loader.build.tokenizer import TOKENIZER_FILES, build_tokenizer, check_vocabulary
    from mdl.loader.build.transformers_build import (
        Built,
        check_fp8,
        check_quantized,
        check_remote_code,
        is_own_class,
        model_class,
        model_config,
        nothing_to_quantize,
        quantization_on_load,
    )

__getattr__ = door(
    __name__,
    {
        "cold_start": "import_libraries prefetch",
        "local_copy": (
            "PROVENANCE find_mirror in_turn mirror_folder mirror_row read_mirror write_mirror"
        ),
        "mmap_build": "build_mapped",
        "tokenizer": "TOKENIZER_FILES build_tokenizer check_vocabulary",
        "transformers_build": (
            "Built check_fp8 check_quantized check_remote_code is_own_class "
            "model_class model_config nothing_to_quantize quantization_on_load"
        ),
    },
)
