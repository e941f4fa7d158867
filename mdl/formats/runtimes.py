"""Which runtime loads which format, and what transformers needs for it."""

import functools
from collections.abc import Mapping

RUNTIMES = (
    "transformers", "unsloth", "vllm", "sglang", "llama.cpp", "ollama", "mlx", "exllama",
    "onnxruntime",
)  # fmt: skip

# Format → what loads it as it is stored.
LOADS: Mapping[str, tuple[str, ...]] = {
    "16bit": ("transformers", "unsloth", "vllm", "sglang", "mlx"),
    "bnb-4bit": ("transformers", "unsloth", "vllm"),
    "bnb-8bit": ("transformers", "unsloth", "vllm"),
    "gguf": ("llama.cpp", "ollama", "vllm", "transformers"),
    "awq": ("transformers", "vllm", "sglang", "mlx"),
    "gptq": ("transformers", "vllm", "sglang", "mlx"),
    "w4a16": ("transformers", "vllm", "sglang", "mlx"),
    "w8a16": ("transformers", "vllm", "sglang"),
    "w8a8": ("transformers", "vllm", "sglang"),
    "w4a8": ("transformers", "vllm", "sglang"),
    "w4a4": ("transformers", "vllm"),
    "fp8": ("transformers", "vllm", "sglang"),
    "nvfp4": ("transformers", "vllm", "sglang", "mlx"),
    "mxfp4": ("transformers", "vllm", "sglang", "mlx"),
    "mxfp8": ("transformers", "vllm", "sglang"),
    "mxfp6": ("transformers", "vllm"),
    "mlx": ("mlx",),
    "exl2": ("exllama",),
    "exl3": ("exllama",),
    "hqq": ("transformers", "vllm"),
    "torchao": ("transformers", "vllm"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "auto-round": ("transformers", "vllm", "sglang"),
    "quark": ("transformers", "vllm", "sglang"),
    "quanto": ("transformers",),
    "aqlm": ("transformers",),
    "vptq": ("transformers",),
    "spqr": ("transformers",),
    "higgs": ("transformers",),
    "fp_quant": ("transformers", "vllm"),
    "sinq": ("transformers",),
    "bitnet": ("transformers",),
    "eetq": ("transformers",),
    "metal": ("transformers",),
    "bitblas": ("vllm",),
    "qqq": ("vllm", "sglang"),
    "adapter": ("transformers", "unsloth", "vllm", "sglang"),
    "ctranslate2": ("ctranslate2",),
    "coreml": ("coreml",),
    "tflite": ("litert",),
    "executorch": ("executorch",),
    "mlc": ("mlc",),
    "llamafile": ("llamafile",),
    "tensorrt": ("tensorrt",),
    "nemo": ("nemo",),
}
# Where the library that wrote the weights decides: these warn and load them as if they were not
# quantized, or refuse.
NOT_IN: Mapping[str, tuple[str, ...]] = {
    "modelopt": ("transformers",),
    "modelopt_fp4": ("transformers",),
    "modelopt_fp8": ("transformers",),
    "fbgemm_fp8": ("sglang",),
}
# Only some of these formats' methods are read by mlx-lm; the others' nvfp4 and mxfp4 are not.
_MLX_METHODS = ("modelopt", "compressed-tensors", "mxfp4", "nvfp4", "awq", "gptq", "")


@functools.cache
def runtimes_of(format: str | None, method: str = "") -> tuple[str, ...]:
    """What loads a format whose weights a library's `method` wrote, the table's order."""
    refused = NOT_IN.get(method, ())
    found = (name for name in LOADS.get(format or "", ()) if name not in refused)
    mlx = method in _MLX_METHODS or format == "mlx"
    return tuple(name for name in found if name != "mlx" or mlx)
