"""`mdl.load` and `mdl.plan`: keyword arguments into a request."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mdl.errors import UsageError
from mdl.loader.loading import Loaded, load_request
from mdl.loader.request import (
    LoadRequest,
    Quantization,
    dtype_name,
    from_bnb_config,
    one_format,
)

if TYPE_CHECKING:
    from mdl.loader.planning import LoadPlan

# What transformers' from_pretrained takes and mdl passes on as it is.
PASSED_ON = frozenset(
    ("attn_implementation", "max_memory", "offload_folder", "offload_buffers", "num_labels",
     "id2label", "label2id", "problem_type", "rope_scaling", "use_cache", "tp_plan", "tp_size",
     "device_mesh", "distributed_config", "ignore_mismatched_sizes", "key_mapping",
     "experts_implementation", "output_attentions", "output_hidden_states")
)  # fmt: skip


def load(model_name: str, **options: Any) -> Loaded:
    """Load a model and its tokenizer (or processor); unpacks into `model, tokenizer`.

    Args:
        model_name: `org/name` in any casing, or a local folder.
        **options: as for `make_request`, and `progress`, an `mdl.loader.progress.Progress`.

    Raises:
        MdlError: each refusal with what happened, why, and what to do next.
    """
    progress = options.pop("progress", None)
    return load_request(make_request(model_name, **options), progress=progress)


def plan(model_name: str, *, max_seq_length: int | None = None, **options: Any) -> "LoadPlan":
    """What `load` with the same arguments would fetch and need, before it does.

    Raises:
        MdlError: as `load`.
    """
    from mdl.loader.planning import make_plan

    return make_plan(make_request(model_name, max_seq_length=max_seq_length, **options))


def make_request(
    model_name: str,
    *,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    load_in_16bit: bool = False,
    load_in_fp8: bool | str = False,
    use_exact_model_name: bool = False,
    dtype: Any = None,
    device_map: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    kernels: bool | Iterable[str] = True,
    task: str = "auto",
    quantization: Quantization | None = None,
    quantization_config: Any = None,
    quantize_once: bool = True,
    max_seq_length: int | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    local_files_only: bool | None = None,
    prefer: str | None = None,
    locked: str | None = None,
    **extra: Any,
) -> LoadRequest:
    """A checked request from the arguments of `mdl.load`.

    Args:
        load_in_*: how the weights are wanted; none of them is 16-bit, or the float that is there.
        use_exact_model_name: that repository and no other, whatever the catalogue knows.
        dtype: a torch dtype or its name; None keeps the checkpoint's.
        kernels: put mdl's kernels in on CUDA: all, none, or those named.
        task: auto (the checkpoint's own class), text, vision, sequence-classification, encoder.
        quantization, quantization_config: settings on load (ours, or a `BitsAndBytesConfig`).
        quantize_once: keep what was quantized on load as a local mirror for the next time.
        local_files_only: answer from what is here, without a socket.
        prefer: `default`, `cached` or `official`; the configuration's when left out.
        locked: a lock file; what is loaded must be exactly what it says.
        **extra: further arguments of transformers' `from_pretrained` (see PASSED_ON).

    Raises:
        UsageError: contradictory or unknown arguments, by name.
    """
    _refuse_unknown(extra)
    wanted = one_format(
        in_4bit=load_in_4bit, in_8bit=load_in_8bit, in_16bit=load_in_16bit, fp8=load_in_fp8
    )
    if quantization_config is not None:
        quantization, asked = from_bnb_config(quantization_config)
        wanted = asked or wanted
    classifies = "num_labels" in extra and task == "auto"
    return LoadRequest(
        name=str(model_name),
        format=wanted,
        exact_name=use_exact_model_name,
        revision=revision,
        dtype=dtype_name(dtype),
        quantization=quantization or Quantization(),
        task="sequence-classification" if classifies else task,
        device_map=device_map,
        max_seq_length=max_seq_length,
        kernels=kernels if isinstance(kernels, bool) else tuple(kernels),
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        quantize_once=quantize_once,
        offline=True if local_files_only else None,
        prefer=prefer,
        locked=locked,
        token=token,
        extra=_frozen(extra),
    )


def _refuse_unknown(extra: Mapping[str, Any]) -> None:
    unknown = sorted(set(extra) - PASSED_ON)
    if unknown:
        raise UsageError(
            f"Unknown arguments: {', '.join(unknown)}.",
            why="An argument that is swallowed changes nothing and says nothing.",
            next=f"Known besides mdl's own: {', '.join(sorted(PASSED_ON))}.",
        )


def _frozen(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if value is not None}
