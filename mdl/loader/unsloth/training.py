"""What people call after loading: adding adapters, switching modes, saving merged weights.

Arguments as in Unsloth's functions of the same names; PEFT and transformers do the work.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdl.errors import UsageError

LANGUAGE_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VISION_PARTS = ("visual", "vision_tower", "vision_model", "vision_encoder", "multi_modal_projector")
# Arguments of Unsloth's get_peft_model that tune its engine; ignored here.
_WITHOUT_EFFECT = frozenset(("max_seq_length", "temporary_location", "loftq_config"))
_PEFT = frozenset(
    ("target_parameters", "rank_pattern", "alpha_pattern", "use_dora", "ensure_weight_tying",
     "trainable_token_indices", "exclude_modules")
)  # fmt: skip


def get_peft_model(
    model: Any,
    r: int = 16,
    target_modules: Iterable[str] | str | None = None,
    lora_alpha: int = 16,
    lora_dropout: float = 0.0,
    bias: str = "none",
    *,
    layers_to_transform: Any = None,
    layers_pattern: Any = None,
    use_gradient_checkpointing: bool | str | None = None,
    random_state: int = 3407,
    use_rslora: bool = False,
    modules_to_save: Iterable[str] | None = None,
    init_lora_weights: Any = True,
    task_type: str | None = None,
    finetune_vision_layers: bool = True,
    finetune_language_layers: bool = True,
    finetune_attention_modules: bool = True,
    finetune_mlp_modules: bool = True,
    **others: Any,
) -> Any:
    """Add LoRA adapters to a loaded model (Hu et al. 2021, arXiv:2106.09685), ready to train.

    Args:
        target_modules: names of linear layers; None: those selected by the four `finetune_*`
            arguments, all by default.
        use_gradient_checkpointing: None uses the value passed to the load.

    Raises:
        UsageError: an unknown argument, a model that already has adapters, layers that do not
            exist, or `finetune_*` arguments that select none.
    """
    import peft
    import torch

    if hasattr(model, "peft_config"):
        raise UsageError(
            "The model already has adapters.",
            next="model.add_adapter adds more; model.unload() removes them.",
        )
    if type(r) is not int or r < 1:
        raise UsageError(f"r={r!r} is not a rank.", next="Pass a positive integer, such as 16.")
    unknown = sorted(set(others) - _WITHOUT_EFFECT - _PEFT)
    if unknown:
        raise UsageError(
            f"Unknown arguments of get_peft_model: {', '.join(unknown)}.",
            next="Check the spelling; see peft.LoraConfig.",
        )
    switches = {
        "vision": finetune_vision_layers,
        "language": finetune_language_layers,
        "attention": finetune_attention_modules,
        "mlp": finetune_mlp_modules,
    }
    targets = _targets(model, target_modules, switches)
    config = peft.LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        bias=bias,
        target_modules=targets,
        layers_to_transform=layers_to_transform,
        layers_pattern=layers_pattern,
        use_rslora=use_rslora,
        modules_to_save=list(modules_to_save) if modules_to_save else None,
        init_lora_weights=init_lora_weights,
        task_type=task_type or _task_type(model),
        **{key: value for key, value in others.items() if key in _PEFT},
    )
    if use_gradient_checkpointing is None:
        use_gradient_checkpointing = getattr(model, "mdl_gradient_checkpointing", False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT uses a deprecated property of transformers; the caller cannot change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", append=False)
        torch.manual_seed(random_state)
        wrapped = peft.get_peft_model(model, config)
    return for_training(wrapped, use_gradient_checkpointing)


def for_training(model: Any, use_gradient_checkpointing: bool | str | None = True) -> Any:
    """Training mode: dropout on, KV cache off, checkpointing as requested. Returns the model."""
    model.train()
    model.config.use_cache = False
    if use_gradient_checkpointing and getattr(model, "supports_gradient_checkpointing", True):
        _checkpointing(model, "enable")({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def for_inference(model: Any) -> Any:
    """Inference mode: dropout and checkpointing off, KV cache on. Returns the model."""
    model.eval()
    model.config.use_cache = True
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        _checkpointing(model, "disable")()
    return model


def _checkpointing(model: Any, what: str) -> Any:
    """transformers' method to enable or disable it, whose name depends on the version."""
    newer = getattr(model, f"activation_checkpointing_{what}", None)
    return newer or getattr(model, f"gradient_checkpointing_{what}")


def save_pretrained_merged(
    model: Any,
    save_directory: str | Path,
    tokenizer: Any = None,
    save_method: str = "merged_16bit",
    dtype: Any = None,
    max_shard_size: str = "5GB",
) -> Path:
    """Save the model with its adapters merged into 16-bit weights; the model is unchanged.

    4-bit weights are dequantized; the sum is computed in float32 and rounded once.

    Args:
        dtype: the dtype to save in; by default the model's compute dtype.

    Raises:
        UsageError: a `save_method` other than merged_16bit.
    """
    import torch
    from transformers import GenerationConfig

    if save_method not in ("merged_16bit", "16bit"):
        raise UsageError(
            f"Unknown save_method={save_method!r}.",
            next="Use merged_16bit; model.save_pretrained saves the adapters alone.",
        )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Not `base.dtype`: adapters are float32 whatever dtype the model was loaded in.
    named = str(base.config.dtype or "bfloat16").removeprefix("torch.")
    dtype = dtype or getattr(torch, named)
    target = Path(save_directory)
    config = base.config.__class__.from_dict(
        {k: v for k, v in base.config.to_dict().items() if k != "quantization_config"}
    )
    config.dtype, config.use_cache = dtype, True
    with torch.device("meta"):
        empty = type(base)(config).to(dtype)
    empty._weight_conversions = getattr(base, "_weight_conversions", None)
    empty.name_or_path = config.name_or_path = base.name_or_path
    if isinstance(getattr(base, "generation_config", None), GenerationConfig):
        empty.generation_config = base.generation_config
    empty.save_pretrained(
        target, state_dict=dict(merged_state(base, dtype)), max_shard_size=max_shard_size
    )
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    return target


def merged_state(base: Any, dtype: Any) -> Iterable[tuple[str, Any]]:
    """The base model's state dict, with the adapters merged in."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    # On some CPUs bitsandbytes repacks 4-bit weights in the first forward pass; state_dict() undoes
    # that.
    base.state_dict()
    state: dict[str, Any] = {}
    for path, module in base.named_modules(remove_duplicate=False):
        if isinstance(module, LoraLayer):
            plain = _own_tensors(module.get_base_layer(), dtype)
            plain["weight"] = _merged_weight(module, dtype)
            state |= {f"{path}.{name}": tensor for name, tensor in plain.items()}
        elif isinstance(module, ModulesToSaveWrapper):
            kept = module.modules_to_save[module.active_adapters[0]]
            state |= {f"{path}.{n}": t for n, t in _own_tensors(kept, dtype).items()}
        elif not any(part in path for part in ("base_layer", "lora_", "modules_to_save",
                                               "original_module")):  # fmt: skip
            state |= {
                f"{path}.{n}" if path else n: t for n, t in _own_tensors(module, dtype).items()
            }
    return state.items()


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


def _merged_weight(layer: Any, dtype: Any) -> Any:
    import torch

    merged = _plain(layer.get_base_layer().weight, torch.float32)
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A or adapter in getattr(layer, "lora_embedding_A", {}):
            merged = merged + layer.get_delta_weight(adapter).float()
    return merged.to(dtype)


def _targets(
    model: Any, requested: Iterable[str] | str | None, switches: Mapping[str, bool]
) -> list[str] | str:
    """The linear layers to adapt, by full name if the switches select some of them."""
    import torch

    if isinstance(requested, str):  # a pattern, or all-linear
        return requested
    if requested is not None:
        return _existing(model, list(requested))
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    chosen = [name for name in linear if _is_on(name, switches)]
    if not chosen:
        raise UsageError(
            "The finetune_* arguments select no linear layer.",
            why=f"They are {', '.join(f'{k}={v}' for k, v in switches.items())}.",
            next="Leave one of them on, or pass target_modules.",
        )
    ends = {name.rsplit(".", 1)[-1] for name in linear}
    if chosen == linear and ends <= set(LANGUAGE_TARGETS):
        return sorted(ends)
    return chosen


def _existing(model: Any, requested: list[str]) -> list[str]:
    """The requested names; PEFT would silently skip those that do not exist.

    Raises:
        UsageError: the model lacks one of them, or there are none.
    """
    names = [name for name, _ in model.named_modules()]
    absent = [r for r in requested if not any(n == r or n.endswith(f".{r}") for n in names)]
    if absent or not requested:
        ends = {name.rsplit(".", 1)[-1] for name, module in model.named_modules()
                if hasattr(module, "weight")}  # fmt: skip
        raise UsageError(
            f"The model has no modules named {', '.join(absent)}."
            if absent
            else "target_modules is empty.",
            next=f"Its layers with weights are {', '.join(sorted(ends))}.",
        )
    return requested


def _is_on(name: str, switches: Mapping[str, bool]) -> bool:
    """Whether the `finetune_*` arguments select a layer."""
    part = "vision" if any(word in name for word in VISION_PARTS) else "language"
    kind = "attention" if "attn" in name or "attention" in name else "mlp"
    return switches[part] and switches[kind]


def _task_type(model: Any) -> str | None:
    """PEFT's name for the model's task."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if model.can_generate() else "FEATURE_EXTRACTION"
