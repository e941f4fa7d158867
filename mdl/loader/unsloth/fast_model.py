"""The call Unsloth's users already have, argument for argument, with their defaults.

Read as facts in Unsloth 2026.10.9 (`unsloth/models/loader.py`): names, order and defaults of the
arguments. What an argument means here is said in `_ACCEPTED`; one that mdl cannot keep is
refused by name where it is set to something else than its default.
"""

from collections.abc import Mapping
from typing import Any

from mdl.errors import UsageError
from mdl.loader.api import load
from mdl.loader.pipeline import Loaded
from mdl.loader.unsloth import training as companions

# Arguments of Unsloth's own engine: their default asks nothing of mdl. Anything else would change
# the model or how it runs, so it is refused rather than ignored. name -> (default, what to do).
_NOT_HERE: Mapping[str, tuple[Any, str]] = {
    "device_map_planner_kwargs": (None, "Give device_map and max_memory."),
    "resize_model_vocab": (None, "Call model.resize_token_embeddings after loading."),
    "float32_mixed_precision": (None, "Pass dtype=torch.float32, or autocast in your trainer."),
    "fast_inference": (False, "mdl loads models for training and plain generation, not vLLM."),
    "float8_kv_cache": (False, "It belongs to vLLM inference."),
    "qat_scheme": (None, "Quantization-aware training is not part of loading."),
    "unsloth_tiled_mlp": (False, "It is a kernel of Unsloth's."),
    "auto_model": (None, "Pass task=, or call mdl.load."),
    "whisper_language": (None, "Speech models are not covered."),
    "whisper_task": (None, "Speech models are not covered."),
    "unsloth_force_compile": (False, "Call torch.compile on the model."),
    "target_parameters": (None, "Pass it to get_peft_model."),
    "on_model_resolved": (None, "The report and the resolution log say what was resolved."),
    "return_logits": (False, "The model returns its logits anyway."),
}
# Accepted with any value: they tune Unsloth's engine and change no weight and no result here.
_WITHOUT_EFFECT = frozenset(
    ("fix_tokenizer", "gpu_memory_utilization", "max_lora_rank", "disable_log_stats", "fullgraph",
     "offload_embedding", "random_state")
)  # fmt: skip


class FastModel:
    """A loader with Unsloth's call. `_task` is what the class is for."""

    _task = "auto"
    get_peft_model = staticmethod(companions.get_peft_model)
    for_inference = staticmethod(companions.for_inference)
    for_training = staticmethod(companions.for_training)
    save_pretrained_merged = staticmethod(companions.save_pretrained_merged)

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

        4-bit is the default, as there. `load_in_8bit`, `load_in_16bit`, `load_in_fp8` and
        `full_finetuning` switch it off. The result carries `.report`.

        Raises:
            UsageError: an argument mdl does not keep, by name, with what to do instead.
            MdlError: as `mdl.load`.
        """
        others |= {
            "device_map_planner_kwargs": device_map_planner_kwargs,
            "resize_model_vocab": resize_model_vocab,
            "fix_tokenizer": fix_tokenizer,
        }
        passed = _sort_out(others)
        wider = load_in_8bit or load_in_16bit or bool(load_in_fp8) or full_finetuning
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


def _sort_out(others: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to pass on; those mdl cannot keep are refused by name."""
    passed = {}
    for name, value in others.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name in _NOT_HERE:
            default, instead = _NOT_HERE[name]
            if value != default:
                raise UsageError(f"mdl does not keep {name}={value!r}.", next=instead)
            continue
        passed[name] = value
    return passed


def _prepare(
    loaded: Loaded, max_seq_length: int | None, checkpointing: bool | str, full: bool
) -> None:
    """What Unsloth's call leaves on the model: its length, and training of all weights if asked."""
    import types

    # Unsloth's users call it on the model itself; PEFT's wrapper passes the look-up on.
    merged = types.MethodType(companions.save_pretrained_merged, loaded.model)
    loaded.model.save_pretrained_merged = merged
    loaded.model.max_seq_length = max_seq_length
    loaded.model.mdl_gradient_checkpointing = checkpointing
    if loaded.report.adapter is not None:  # Unsloth's users go on training it
        companions.for_training(loaded.model, checkpointing)
    if full:
        loaded.model.requires_grad_(True)
        loaded.model.train()
