"""From checkpoint files to a model and its tokenizer."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.build.cold_start import import_libraries, prefetch
    from mdl.loader.build.mmap_build import build_model
    from mdl.loader.build.packages import check_attention, check_tokenizer_package
    from mdl.loader.build.quantizers import FALLBACKS, check_quantization, why_dequantized
    from mdl.loader.build.tokenizer import build_tokenizer, check_vocabulary, has_tokenizer
    from mdl.loader.build.transformers_build import (
        AUTO_CLASSES,
        Built,
        check_quantized,
        check_remote_code,
        class_note,
        is_own_class,
        model_class,
        model_config,
        nothing_to_quantize,
        quantization_on_load,
        quiet_transformers,
    )

__getattr__ = door(
    __name__,
    {
        "cold_start": "import_libraries prefetch",
        "mmap_build": "build_model",
        "packages": "check_attention check_tokenizer_package",
        "quantizers": "FALLBACKS check_quantization why_dequantized",
        "tokenizer": "build_tokenizer check_vocabulary has_tokenizer",
        "transformers_build": (
            "AUTO_CLASSES Built check_quantized check_remote_code class_note is_own_class "
            "model_class model_config nothing_to_quantize quantization_on_load quiet_transformers"
        ),
    },
)
