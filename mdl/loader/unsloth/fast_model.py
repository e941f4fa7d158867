"""`FastLanguageModel.from_pretrained` with Unsloth's arguments and defaults.

Names, order and defaults are those of Unsloth 2026.10.9 (`unsloth/models/loader.py`). An argument
that mdl does not support is rejected by name, unless it has its default value.
"""

from collections.abc import Mapping
from typing import Any

from mdl.errors import UsageError
from mdl.loader.api import load
from mdl.loader.loaded import Loaded
from mdl.loader.unsloth.lora import get_peft_model
from mdl.loader.unsloth.merging import (
    bind_saving,
    push_to_hub_merged,
    save_pretrained_gguf,
    save_pretrained_merged,
)
from mdl.loader.unsloth.modes import for_inference, for_training, remember_scales

SPEECH = (
    "Load speech models with transformers.AutoModelForSpeechSeq2Seq.from_pretrained(path), "
    "path=mdl.pull(name).path."
)
# Arguments of Unsloth's own engine: any value but the default would change the model or how it
# runs, so it is rejected rather than ignored. Name → (default, what to do instead).
_UNSUPPORTED: Mapping[str, tuple[Any, str]] = {
    "device_map_planner_kwargs": (None, "Pass device_map and max_memory."),
    "resize_model_vocab": (None, "Call model.resize_token_embeddings after loading."),
    "float32_mixed_precision": (None, "Pass dtype=torch.float32, or autocast in your trainer."),
    "fast_inference": (
        False,
        "Generate with vLLM itself: vllm.LLM(model=str(mdl.pull(name).path)). GRPO without vLLM: "
        "leave fast_inference out, and use_vllm=False in the trainer's configuration.",
    ),
    "float8_kv_cache": (False, "It is for vLLM inference."),
    "qat_scheme": (
        None,
        "For quantization-aware training, prepare the loaded model with torchao.quantization.qat.",
    ),
    "unsloth_tiled_mlp": (False, "It is one of Unsloth's kernels."),
    "whisper_language": (None, SPEECH),
    "whisper_task": (None, SPEECH),
    "target_parameters": (None, "Pass it to get_peft_model."),
    "on_model_resolved": (None, "The report and the resolution log show what was resolved."),
    "return_logits": (False, "The model always returns its logits."),
}
# Accepted and ignored: they tune Unsloth's engine, and affect neither weights nor results here.
_WITHOUT_EFFECT = frozenset(
    ("fix_tokenizer", "gpu_memory_utilization", "max_lora_rank", "disable_log_stats", "fullgraph",
     "offload_embedding", "random_state", "unsloth_force_compile")
)  # fmt: skip


class FastModel:
    """Loads with Unsloth's arguments. `_task` is the task of the class."""

    _task = "auto"
    get_peft_model = staticmethod(get_peft_model)
    for_inference = staticmethod(for_inference)
    for_training = staticmethod(for_training)
    save_pretrained_merged = staticmethod(save_pretrained_merged)
    push_to_hub_merged = staticmethod(push_to_hub_merged)
    save_pretrained_gguf = staticmethod(save_pretrained_gguf)

    @classmethod
    def from_pretrained(
        cls,
        model_name: str = "unsloth/Llama-3.2-1B-Instruct",
        max_seq_length: int | None = 2048,
        dtype: Any = None,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        load_in_16bit: bool = False,
        full_finetuning: bool = False,
        token: str | bool | None = None,
        device_map: Any = "sequential",
        device_map_planner_kwargs: Any = None,
        rope_scaling: Any = None,
        fix_tokenizer: bool = True,
        trust_remote_code: bool = False,
        use_gradient_checkpointing: bool | str = "unsloth",
        resize_model_vocab: int | None = None,
        revision: str | None = None,
        *,
        use_exact_model_name: bool = False,
        load_in_fp8: bool | str = False,
        text_only: bool = False,
        **others: Any,
    ) -> Loaded:
        """Load a model as Unsloth's call of the same name does; returns `model, tokenizer`.

        4-bit is the default, as in Unsloth; `load_in_8bit`, `load_in_16bit`, `load_in_fp8`,
        `full_finetuning` and mdl's `format` turn it off. The result has a `.report`.

        Raises:
            UsageError: an argument that mdl does not support, with what to do instead.
            MdlError: as `mdl.load`.
        """
        others |= {
            "device_map_planner_kwargs": device_map_planner_kwargs,
            "resize_model_vocab": resize_model_vocab,
            "fix_tokenizer": fix_tokenizer,
        }
        dtype = others.pop("torch_dtype", None) if dtype is None else dtype
        if (auto_model := others.pop("auto_model", None)) is not None:
            others.setdefault("task", _task_of(auto_model))
        passed = _supported(others)
        wider = load_in_8bit or load_in_16bit or bool(load_in_fp8) or full_finetuning
        wider = wider or passed.get("format") is not None
        loaded = load(
            model_name,
            load_in_4bit=load_in_4bit and not wider,
            load_in_8bit=load_in_8bit,
            load_in_16bit=load_in_16bit or full_finetuning,
            load_in_fp8=load_in_fp8,
            use_exact_model_name=use_exact_model_name,
            dtype=dtype,
            device_map=device_map,
            revision=revision,
            token=token,
            task="text" if text_only else passed.pop("task", cls._task),
            max_seq_length=max_seq_length,
            trust_remote_code=trust_remote_code,
            rope_scaling=rope_scaling,
            **passed,
        )
        _prepare(loaded, max_seq_length, use_gradient_checkpointing, full_finetuning)
        return loaded


class FastLanguageModel(FastModel):
    """Unsloth's `FastLanguageModel`: text models with their tokenizers."""


class FastVisionModel(FastModel):
    """Unsloth's `FastVisionModel`: vision-language models with their processors."""

    _task = "vision"


def _supported(others: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to pass on.

    Raises:
        UsageError: one of the others is not supported.
    """
    passed = {}
    for name, value in others.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name in _UNSUPPORTED:
            default, instead = _UNSUPPORTED[name]
            if value != default:
                raise UsageError(f"mdl does not support {name}={value!r}.", next=instead)
            continue
        passed[name] = value
    return passed


def _task_of(auto_model: Any) -> str:
    """The task that a transformers auto class stands for.

    Raises:
        UsageError: mdl has no task for it.
    """
    from mdl.loader.build import AUTO_CLASSES

    name = getattr(auto_model, "__name__", str(auto_model))
    tasks = {each: task for task, each in AUTO_CLASSES.items()}
    if name not in tasks:
        raise UsageError(
            f"mdl does not load models as {name}.",
            next=f"Pass one of {', '.join(tasks)}, or load mdl.pull(name).path with {name}.",
        )
    return tasks[name]


def _prepare(
    loaded: Loaded, max_seq_length: int | None, checkpointing: bool | str, full: bool
) -> None:
    """Set on the model what Unsloth's call sets, and its training mode if requested."""
    model = loaded.model
    bind_saving(model)
    remember_scales(model)
    model.max_seq_length = max_seq_length
    model.mdl_gradient_checkpointing = checkpointing
    model.mdl_full_finetuning = full
    model.fast_generate = _fast_generate
    if loaded.report.adapter is not None:  # Unsloth's users continue training it
        for_training(model, checkpointing)
    if full:
        model.requires_grad_(True)
        model.train()


def _fast_generate(*args: Any, **others: Any) -> None:
    """Raises: UsageError: always; mdl has no vLLM engine beside the model."""
    raise UsageError(
        "fast_generate is vLLM's generation, which mdl does not do.",
        next="Call model.generate(…); or save_pretrained_merged, then vllm.LLM(model=folder).",
    )
