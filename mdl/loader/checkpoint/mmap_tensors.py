"""A checkpoint's tensors as torch views of the memory-mapped files: pages are read when used."""

from typing import Any

from mdl.loader.checkpoint.checkpoint import Checkpoint

# torch's names for the dtypes (https://github.com/huggingface/safetensors#format).
TORCH_NAMES = {
    "F4": "float4_e2m1fn_x2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "I16": "int16", "U16": "uint16",
    "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32",
    "C64": "complex64", "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip


def unmappable_dtypes(checkpoint: Checkpoint) -> set[str]:
    """The dtypes of the checkpoint that torch has no name for."""
    return {tensor.dtype for tensor in checkpoint.tensors.values()} - set(TORCH_NAMES)


def map_tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """All tensors of the checkpoint by name, on the CPU, in their stored dtype and shape.

    The mapping is private: writing to a tensor changes this process's copy of the page, never the
    file. The headers are already parsed and checked; having the safetensors library read them
    again would take longer than the mapping itself.
    """
    import torch

    tensors: dict[str, Any] = {}
    for name, header in checkpoint.headers.items():
        path = checkpoint.folder / name
        size = path.stat().st_size
        pages = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        data = size - (header.tensors[-1].end if header.tensors else 0)
        for tensor in header.tensors:
            view = pages[data + tensor.start : data + tensor.end]
            dtype = getattr(torch, TORCH_NAMES[tensor.dtype])
            if view.storage_offset() % dtype.itemsize:  # an unaligned view must be copied
                view = view.clone()
            shape = list(tensor.shape)
            if tensor.dtype == "F4":  # torch counts pairs
                shape[-1] //= 2
            tensors[tensor.name] = view.view(dtype).view(shape)
    return tensors
