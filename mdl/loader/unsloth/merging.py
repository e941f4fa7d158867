"""Saving a trained model whole: its adapters merged into 16-bit weights."""

import tempfile
import types
from pathlib import Path
from typing import Any

from mdl.errors import UsageError
from mdl.loader.unsloth.modes import restore_packing

METHODS = {
    "merged_16bit": "the merged weights",
    "16bit": "the merged weights",
    "lora": "the adapters alone",
}
# Unsloth's arguments that tune how it saves; ignored here.
_WITHOUT_EFFECT = frozenset(
    ("is_main_process", "save_function", "save_peft_format", "temporary_location",
     "maximum_memory_usage", "use_temp_dir", "datasets", "calibration_dataset",
     "num_calibration_samples", "max_seq_length", "install_missing_dependencies")
)  # fmt: skip
# Arguments that have one meaning here.
_FIXED = {"safe_serialization": True, "state_dict": None, "variant": None, "tags": None}


def save_pretrained_merged(
    model: Any,
    save_directory: str | Path,
    tokenizer: Any = None,
    save_method: str = "merged_16bit",
    push_to_hub: bool = False,
    token: str | bool | None = None,
    *,
    dtype: Any = None,
    max_shard_size: str = "5GB",
    **others: Any,
) -> Path:
    """Save the model with its adapters merged into 16-bit weights; the model is unchanged.

    4-bit weights are dequantized; the sum is computed in float32 and rounded once.

    Args:
        save_method: `merged_16bit`, or `lora` for the adapters alone.
        push_to_hub: upload the folder too; its name (or `repo_id`) is the repository's.
        dtype: the dtype to save in; by default the model's compute dtype.
        **others: Unsloth's other arguments; those that would change the result are rejected.

    Raises:
        UsageError: an unknown `save_method` or argument.
        MdlError: the upload failed; the folder is complete.
    """
    upload = _upload_options(others)
    _check_method(save_method)
    folder = Path(save_directory)
    _save(model, folder, tokenizer, save_method, dtype, max_shard_size)
    if push_to_hub:
        repo_id = upload.pop("repo_id", None) or folder.name
        _upload(folder, repo_id, token, upload)
    return folder


def push_to_hub_merged(
    model: Any,
    repo_id: str,
    tokenizer: Any = None,
    save_method: str = "merged_16bit",
    *,
    token: str | bool | None = None,
    dtype: Any = None,
    max_shard_size: str = "5GB",
    **others: Any,
) -> str:
    """Upload what `save_pretrained_merged` saves to a repository, created if need be.

    Args:
        **others: `private`, `revision`, `create_pr`, `commit_message`, `commit_description`, as
            huggingface_hub takes them, and Unsloth's.

    Returns:
        The address of the commit (of the pull request, with `create_pr`).

    Raises:
        UsageError, MdlError: as `save_pretrained_merged`.
    """
    upload = _upload_options(others)
    _check_method(save_method)
    with tempfile.TemporaryDirectory(prefix="mdl-merged-") as scratch:
        _save(model, Path(scratch), tokenizer, save_method, dtype, max_shard_size)
        return _upload(Path(scratch), repo_id, token, upload)


def save_pretrained_gguf(model: Any, *args: Any, **others: Any) -> None:
    """Not part of mdl: llama.cpp converts the merged folder.

    Raises:
        UsageError: always, with the two commands that do it.
    """
    raise UsageError(
        "mdl does not write GGUF files.",
        why="llama.cpp's own converter does, from the merged folder.",
        next='model.save_pretrained_merged("merged", tokenizer), then, in a checkout of llama.cpp: '
        "python convert_hf_to_gguf.py merged --outtype q8_0 (or f16).",
    )


def _upload_options(others: dict[str, Any]) -> dict[str, Any]:
    """The arguments for the upload.

    Raises:
        UsageError: an argument is unknown, or has a value that would change what is saved.
    """
    names = ("repo_id", "private", "revision", "create_pr", "commit_message", "commit_description")
    for name, value in others.items():
        if name in _FIXED and value != _FIXED[name]:
            raise UsageError(f"mdl does not support {name}={value!r}.", next=f"Leave out {name}.")
    unknown = sorted(set(others) - set(names) - set(_FIXED) - _WITHOUT_EFFECT)
    if unknown:
        raise UsageError(
            f"Unknown arguments: {', '.join(unknown)}.", next=f"Known: {', '.join(names)}."
        )
    return {name: others[name] for name in names if others.get(name) is not None}


def _check_method(save_method: str) -> None:
    if save_method not in METHODS:
        raise UsageError(
            f"Unknown save_method={save_method!r}.",
            why="mdl saves 16-bit weights; merging into 4-bit weights would round them again.",
            next="Use "
            + ", ".join(f"{name} ({what})" for name, what in METHODS.items() if name != "16bit")
            + ".",
        )


def _upload(folder: Path, repo_id: str, token: Any, options: dict[str, Any]) -> str:
    from huggingface_hub import HfApi

    from mdl.hub_http import hub_errors
    from mdl.settings import load_settings

    settings = load_settings()
    api = HfApi(endpoint=settings.endpoint, token=settings.token_for(token) or False)
    private = options.pop("private", None)
    with hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))


def _save(
    model: Any, folder: Path, tokenizer: Any, save_method: str, dtype: Any, max_shard_size: str
) -> None:
    if save_method == "lora":
        if not hasattr(model, "peft_config"):
            raise UsageError(
                "The model has no adapters to save.", next="Use save_method='merged_16bit'."
            )
        model.save_pretrained(folder)
    else:
        _save_merged(model, folder, dtype, max_shard_size)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _save_merged(model: Any, folder: Path, dtype: Any, max_shard_size: str) -> None:
    import torch
    from transformers import GenerationConfig

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Not `base.dtype`: adapters are float32 whatever dtype the model was loaded in.
    named = str(base.config.dtype or "bfloat16").removeprefix("torch.")
    dtype = dtype or getattr(torch, named)
    state = merged_state(base, dtype)
    config = base.config.__class__.from_dict(
        {k: v for k, v in base.config.to_dict().items() if k != "quantization_config"}
    )
    config.dtype, config.use_cache = dtype, True
    if _trained_apart(base, state):
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    with torch.device("meta"):
        empty = type(base)(config).to(dtype)
    empty._weight_conversions = getattr(base, "_weight_conversions", None)
    empty.name_or_path = config.name_or_path = base.name_or_path
    if isinstance(getattr(base, "generation_config", None), GenerationConfig):
        empty.generation_config = base.generation_config
    empty.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)


def _trained_apart(base: Any, state: dict[str, Any]) -> bool:
    """Whether tied embeddings and output head were trained to different weights."""
    import torch

    tied = getattr(base, "all_tied_weights_keys", {})
    return any(
        not torch.equal(state[name], state[source])
        for name, source in tied.items()
        if name in state and source in state
    )


def merged_state(base: Any, dtype: Any) -> dict[str, Any]:
    """The base model's state dict, with the adapters merged in."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    restore_packing(base)
    state: dict[str, Any] = {}
    for path, module in base.named_modules(remove_duplicate=False):
        if "base_layer" in path:
            continue  # merged with the adapter around it
        if isinstance(module, LoraLayer):
            state |= {f"{path}.{n}": t for n, t in _merged_tensors(module, dtype).items()}
        elif isinstance(module, ModulesToSaveWrapper):
            kept = module.modules_to_save[module.active_adapters[0]]
            state |= {f"{path}.{n}": t for n, t in _own_tensors(kept, dtype).items()}
        elif not any(part in path for part in ("lora_", "modules_to_save", "original_module")):
            state |= {
                f"{path}.{n}" if path else n: t for n, t in _own_tensors(module, dtype).items()
            }
    return state


def _own_tensors(module: Any, dtype: Any) -> dict[str, Any]:
    """A module's own parameters and persistent buffers, dequantized, in `dtype`."""
    found = {name: _plain(p, dtype) for name, p in module.named_parameters(recurse=False)}
    hidden = module._non_persistent_buffers_set
    buffers = module.named_buffers(recurse=False)
    return found | {name: buffer.detach() for name, buffer in buffers if name not in hidden}


def _plain(parameter: Any, dtype: Any) -> Any:
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(parameter.data, state).to(dtype)
    return parameter.detach() if parameter.dtype == dtype else parameter.detach().to(dtype)


def _merged_tensors(layer: Any, dtype: Any) -> dict[str, Any]:
    """The tensors of an adapted module; for experts, adapters of several parameters are nested."""
    import torch
    from peft.tuners.lora import LoraLayer

    base = layer.get_base_layer()
    tensors = _own_tensors(base, dtype)
    while isinstance(layer, LoraLayer):
        name = getattr(layer, "parameter_name", "weight")
        merged = _plain(getattr(base, name), torch.float32)
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A or adapter in getattr(layer, "lora_embedding_A", {}):
                merged = merged + layer.get_delta_weight(adapter).float()
        tensors[name] = merged.to(dtype)
        layer = layer.base_layer
    return tensors


def bind_saving(model: Any) -> None:
    """Make the saving functions methods of a model, as Unsloth's users call them."""
    for function in (save_pretrained_merged, push_to_hub_merged, save_pretrained_gguf):
        setattr(model, function.__name__, types.MethodType(function, model))
    model.push_to_hub_gguf = model.save_pretrained_gguf
