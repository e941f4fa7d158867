"""Adding LoRA adapters: what to adapt, by Unsloth's arguments; PEFT decides what fits."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mdl.errors import UsageError
from mdl.loader.unsloth.merging import bind_saving
from mdl.loader.unsloth.modes import for_training

log = logging.getLogger("mdl")

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")
LANGUAGE_TARGETS = (*ATTENTION_TARGETS, *MLP_TARGETS)
VISION_PARTS = ("visual", "vision_tower", "vision_model", "vision_encoder", "multi_modal_projector")
AUDIO_PARTS = ("audio_tower", "audio_model", "audio_encoder", "embed_audio")
# Arguments of Unsloth's get_peft_model that tune its engine; ignored here.
_WITHOUT_EFFECT = frozenset(("max_seq_length", "temporary_location"))
_PEFT = frozenset(
    ("target_parameters", "rank_pattern", "alpha_pattern", "use_dora", "ensure_weight_tying",
     "trainable_token_indices", "exclude_modules", "loftq_config")
)  # fmt: skip


def get_peft_model(
    model: Any,
    r: int = 16,
    target_modules: Iterable[str] | str | None = None,
    lora_alpha: int = 16,
    lora_dropout: float = 0.0,
    bias: str = "none",
    *,
    use_gradient_checkpointing: bool | str | None = None,
    random_state: int = 3407,
    modules_to_save: Iterable[str] | None = None,
    task_type: str | None = None,
    finetune_vision_layers: bool = True,
    finetune_language_layers: bool = True,
    finetune_attention_modules: bool = True,
    finetune_mlp_modules: bool = True,
    finetune_audio_layers: bool = False,
    layers_to_transform: Any = None,
    layers_pattern: Any = None,
    use_rslora: bool = False,
    init_lora_weights: Any = True,
    **others: Any,
) -> Any:
    """Add LoRA adapters to a loaded model (Hu et al. 2021, arXiv:2106.09685), ready to train.

    A model loaded with `full_finetuning=True` is returned without adapters: it is trained whole.

    Args:
        target_modules: names of linear layers; None: those selected by the `finetune_*` arguments,
            by default all but audio layers. Embeddings and output head, if named, are trained
            whole instead of with LoRA.
        use_gradient_checkpointing: None uses the value passed to the load.
        **others: further arguments of `peft.LoraConfig`, such as `use_dora` and `loftq_config`.

    Raises:
        UsageError: an unknown argument, a model that already has adapters, layers that do not
            exist, `finetune_*` arguments that select none, or what PEFT rejects.
    """
    if use_gradient_checkpointing is None:
        use_gradient_checkpointing = getattr(model, "mdl_gradient_checkpointing", False)
    if getattr(model, "mdl_full_finetuning", False):
        log.warning("get_peft_model adds no adapters: full_finetuning=True trains every weight.")
        return for_training(model, use_gradient_checkpointing)
    _check_arguments(model, r, others)
    switches = {
        "vision": finetune_vision_layers,
        "language": finetune_language_layers,
        "attention": finetune_attention_modules,
        "mlp": finetune_mlp_modules,
        "audio": finetune_audio_layers,
    }
    options: dict[str, Any] = {
        "r": r,
        "lora_alpha": lora_alpha,
        "lora_dropout": lora_dropout,
        "bias": bias,
        "layers_to_transform": layers_to_transform,
        "layers_pattern": layers_pattern,
        "use_rslora": use_rslora,
        "init_lora_weights": init_lora_weights,
        "task_type": task_type or _task_type(model),
        **{k: v for k, v in others.items() if k in _PEFT and v not in (None, {})},
    }
    options |= _targets(model, target_modules, modules_to_save, switches, options)
    wrapped = _wrap(model, options, random_state)
    bind_saving(wrapped)
    return for_training(wrapped, use_gradient_checkpointing)


def _check_arguments(model: Any, r: Any, others: Mapping[str, Any]) -> None:
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
    if others.get("loftq_config") and getattr(model, "is_quantized", False):
        raise UsageError(
            "loftq_config is for a model that is not quantized yet.",
            why="LoftQ chooses the adapters and the quantized weights together.",
            next="Load the model with load_in_4bit=False, or leave loftq_config out.",
        )


def _wrap(model: Any, options: Mapping[str, Any], random_state: int) -> Any:
    """PEFT's model, with its own objections as ours.

    Raises:
        UsageError: PEFT rejects the options, or a requested module does not exist.
    """
    import warnings

    import peft
    import torch

    requested = options["target_modules"]
    with (
        _restored_on_error(model),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        # PEFT uses a deprecated property of transformers; the caller cannot change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        # Nor the patterns that PEFT makes for experts, and then misses among the modules.
        warnings.filterwarnings("ignore", message=r".*_pattern keys .*\['\.\*\\\\\.gate_up_proj'\]")
        torch.manual_seed(random_state)
        try:
            wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
        except (ValueError, TypeError, ImportError, NotImplementedError) as error:
            raise UsageError(
                "PEFT cannot add these adapters.",
                why=(str(error).strip() or type(error).__name__).splitlines()[0],
                next=f"Layers with weights: {', '.join(_layers_with_weights(model))}.",
            ) from error
        if not isinstance(requested, str):
            _check_reached(wrapped, requested)
    return wrapped


def _check_reached(wrapped: Any, requested: Iterable[str]) -> None:
    """Warn about usual names that this model does not have; reject others, which are mistakes.

    PEFT skips names that match nothing, as long as one matches.

    Raises:
        UsageError: a name matches no layer and is not one of the usual seven.
    """
    # PEFT removes the names that it maps to parameters (of experts) from its own configuration.
    left = wrapped.peft_config[wrapped.active_adapter].target_modules or ()
    reached = wrapped.targeted_module_names
    absent = [
        name for name in requested
        if name in left and not any(each == name or each.endswith(f".{name}") for each in reached)
    ]  # fmt: skip
    if not absent:
        return
    base = wrapped.get_base_model()
    if set(absent) - set(LANGUAGE_TARGETS):
        raise UsageError(
            f"The model has no modules named {', '.join(absent)}.",
            next=f"Layers with weights: {', '.join(_layers_with_weights(base))}.",
        )
    advice = ""
    experts = sorted({".".join(name.split(".")[-2:]) for name in _expert_weights(base)})
    if experts and set(absent) & set(MLP_TARGETS):
        advice = f" Its experts get no adapter; for one, pass target_parameters={experts}."
    log.warning("The model has no modules named %s.%s", ", ".join(absent), advice)


@contextlib.contextmanager
def _restored_on_error(model: Any) -> Iterator[None]:
    """Remove what PEFT added if it fails halfway, or if its result is rejected."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for path, module in list(model.named_modules()):
            parent, _, name = path.rpartition(".")
            if isinstance(module, BaseTunerLayer):
                setattr(model.get_submodule(parent), name, module.get_base_layer())
            elif isinstance(module, ModulesToSaveWrapper):
                setattr(model.get_submodule(parent), name, module.original_module)
        if hasattr(model, "peft_config"):
            del model.peft_config
        for parameter, before in trainable:
            parameter.requires_grad_(before)
        raise


def _targets(
    model: Any,
    requested: Iterable[str] | str | None,
    whole: Iterable[str] | None,
    switches: Mapping[str, bool],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What to adapt and what to train whole, as arguments of `peft.LoraConfig`.

    Raises:
        UsageError: nothing is selected.
    """
    saved = list(whole or ())
    found: dict[str, Any] = {"target_modules": requested}
    if requested is None:
        found = _selected(model, switches)
    elif not isinstance(requested, str):  # a string is a pattern, or all-linear
        names = list(dict.fromkeys(requested))
        if not names and not options.get("target_parameters"):
            raise UsageError(
                "target_modules is empty.",
                next=f"Layers with weights: {', '.join(_layers_with_weights(model))}.",
            )
        moved = [name for name in names if name in _vocabulary_modules(model)]
        saved += [name for name in moved if name not in saved]
        found["target_modules"] = [name for name in names if name not in moved]
        if moved and _is_tied(model) and "ensure_weight_tying" not in options:
            found["ensure_weight_tying"] = True
            inputs = _vocabulary_modules(model)[0]
            saved = [inputs, *(name for name in saved if name not in _vocabulary_modules(model))]
    return {**found, "modules_to_save": saved or None}


def _selected(model: Any, switches: Mapping[str, bool]) -> dict[str, Any]:
    """The layers that the `finetune_*` arguments select; by short names if these are all."""
    import torch

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    chosen = [name for name in linear if _is_on(name, switches)]
    experts = [name for name in _expert_weights(model) if _is_on(name, switches)]
    if not chosen and not experts:
        raise UsageError(
            "The finetune_* arguments select no linear layer.",
            why=f"They are {', '.join(f'{k}={v}' for k, v in switches.items())}.",
            next="Leave one of them on, or pass target_modules.",
        )
    ends = {name.rsplit(".", 1)[-1] for name in linear}
    if chosen == linear and ends <= set(LANGUAGE_TARGETS):
        # PEFT maps the names of single experts' layers to the stacked weights of all.
        return {"target_modules": sorted(ends | set(MLP_TARGETS if experts else ()))}
    return {"target_modules": chosen, "target_parameters": experts or None}


def _vocabulary_modules(model: Any) -> tuple[str, ...]:
    """The short names of the input embeddings and the output head."""
    ends = []
    for get in ("get_input_embeddings", "get_output_embeddings"):
        found = getattr(model, get)() if hasattr(model, get) else None
        ends += [name.rsplit(".", 1)[-1] for name, m in model.named_modules() if m is found][:1]
    return tuple(ends)


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _expert_weights(model: Any) -> list[str]:
    """The stacked weights of a mixture's experts, which are parameters without a module each."""
    return [name for name, parameter in model.named_parameters()
            if parameter.ndim == 3 and ".experts." in name]  # fmt: skip


def _layers_with_weights(model: Any) -> list[str]:
    return sorted(
        {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if hasattr(m, "weight")}
    )


def _is_on(name: str, switches: Mapping[str, bool]) -> bool:
    """Whether the `finetune_*` arguments select a layer."""
    part = "language"
    if any(word in name for word in VISION_PARTS):
        part = "vision"
    elif any(word in name for word in AUDIO_PARTS):
        part = "audio"
    kind = "attention" if "attn" in name or "attention" in name else "mlp"
    return switches[part] and switches[kind]


def _task_type(model: Any) -> str | None:
    """PEFT's name for the model's task."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if model.can_generate() else "FEATURE_EXTRACTION"
