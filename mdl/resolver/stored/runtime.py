"""Which formats to prefer for a runtime on a machine, and what fits its memory. Pure functions."""

from collections.abc import Mapping

from mdl.errors import MdlError, NotFoundError, UsageError
from mdl.formats import RUNTIMES, ModelShape, kv_cache_bytes, named_weights
from mdl.resolver.stored.hardware import Hardware

_ALIASES = {
    "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp", "llama_cpp": "llama.cpp",
    "lmstudio": "llama.cpp", "exllamav2": "exllama", "exllamav3": "exllama", "mlx-lm": "mlx",
    "onnx": "onnxruntime", "hf": "transformers",
}  # fmt: skip
# By least compute capability: what is fastest there without losing more than it must, first.
_SERVERS = (
    ((10, 0), ("nvfp4", "fp8", "mxfp4", "w4a16", "awq", "gptq", "16bit")),
    ((8, 9), ("fp8", "w4a16", "awq", "gptq", "w8a8", "mxfp4", "16bit")),
    ((8, 0), ("w4a16", "awq", "gptq", "w8a8", "16bit")),
    ((7, 5), ("awq", "gptq", "w4a16", "16bit")),
)
# What a format needs of a GPU, where a runtime loads it at all.
_LEAST: Mapping[str, tuple[int, int]] = {
    "nvfp4": (8, 0), "fp8": (8, 0), "mxfp4": (7, 5), "mxfp8": (10, 0), "w8a8": (7, 5),
    "w4a16": (7, 5), "awq": (7, 5), "gptq": (6, 0), "exl2": (7, 0), "exl3": (8, 0),
    "bnb-4bit": (6, 0),
}  # fmt: skip
_ON_CPU = ("16bit", "gguf", "onnx", "openvino", "w8a8", "awq", "bnb-4bit", "mlx", "torchao")
# Bits of a weight as it is stored, to try what loses least first.
_BITS = {
    "16bit": 16.0, "8bit": 8.5, "fp8": 8.1, "w8a8": 8.1, "mxfp8": 8.2, "gguf": 4.9, "mlx": 4.5,
    "w4a16": 4.3, "awq": 4.3, "gptq": 4.3, "nvfp4": 4.5, "mxfp4": 4.3, "bnb-4bit": 4.5,
}  # fmt: skip
# Working memory beside weights and cache: activations and a runtime's own buffers.
_FIXED, _SHARE = 512 << 20, 0.05


def runtime_named(text: str) -> str:
    """The runtime that people call by this name.

    Raises:
        UsageError: there is none.
    """
    name = _ALIASES.get(text.strip().lower(), text.strip().lower())
    if name not in RUNTIMES:
        raise UsageError(f"Unknown runtime {text!r}.", next=f"Use one of {', '.join(RUNTIMES)}.")
    return name


def preferred(runtime: str, hardware: Hardware, *, largest: bool = False) -> tuple[str, ...]:
    """The formats to look for, best first.

    Args:
        largest: the one that loses least first, for `--fit`.

    Raises:
        NotFoundError: the runtime does not run on this machine.
    """
    if runtime in ("llama.cpp", "ollama"):
        return ("gguf",)
    if runtime == "onnxruntime":
        return ("onnx",)
    if runtime == "mlx":
        if not hardware.is_apple:
            raise _cannot(runtime, "it runs on Apple silicon only", hardware)
        return ("16bit", "mlx") if largest else ("mlx", "16bit")
    capability = hardware.capability
    if runtime == "exllama":
        if capability is None:
            raise _cannot(runtime, "it needs a CUDA GPU", hardware)
        return ("exl3", "exl2") if capability >= _LEAST["exl3"] else ("exl2",)
    if runtime == "unsloth":
        if capability is None:
            raise _cannot(runtime, "it needs a GPU", hardware)
        return ("16bit", "bnb-4bit") if largest else ("bnb-4bit", "16bit")
    if runtime == "transformers":
        return ("16bit", "bnb-4bit")
    formats: tuple[str, ...] = ("16bit",)
    for least, order in _SERVERS:
        if capability is not None and capability >= least:
            formats = order
            break
    if largest:
        return tuple(sorted(formats, key=lambda name: -_BITS.get(name, 4.3)))
    return formats


def unsupported(format: str, hardware: Hardware) -> str | None:
    """Why this machine does not run a format that the runtime loads; `None` where it does."""
    if hardware.capability is None:
        if format in _ON_CPU or hardware.is_apple:
            return None
        return f"{format} needs a CUDA GPU, and this machine has none"
    least = _LEAST.get(format)
    if least is None or hardware.capability >= least:
        return None
    return f"{format} needs compute capability {least[0]}.{least[1]}; this is {hardware.text}"


def bytes_by_name(name: str, format: str) -> int | None:
    """About how large weights are by the number in a model's name; `None` where it has none."""
    weights = named_weights(name.rpartition("/")[2])
    return about_bytes(weights, format) if weights else None


def about_bytes(weights: float, format: str, bits: float | None = None) -> int:
    """About how large so many weights are; `bits` are a variant's, where that is known."""
    stored = bits if format == "gguf" else _BITS.get(format, bits)
    return int(weights * (stored or _BITS.get(format, 4.5)) / 8)


def memory_needed(weights: int, shape: ModelShape | None, context: int) -> int:
    """Bytes that a model takes in a runtime: weights, KV cache (16-bit), working memory."""
    cache = 0 if shape is None else kv_cache_bytes(shape, context)
    return int(weights * (1 + _SHARE)) + cache + _FIXED


def _cannot(runtime: str, why: str, hardware: Hardware) -> MdlError:
    return NotFoundError(
        f"{runtime} does not run on this machine.",
        why=f"{why}; this is {hardware.text} ({hardware.system} {hardware.machine})",
        next="Ask for a format by name to download it for another machine: --format mlx.",
    )
