"""`mdl.load` and `mdl.plan`: from keyword arguments to a checked request."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from mdl.errors import UsageError
from mdl.loader.loaded import Loaded
from mdl.loader.request import (
    LoadRequest,
    Quantization,
    dtype_name,
    from_bnb_config,
    is_loadable,
    named_format,
    one_format,
)

if TYPE_CHECKING:
    from mdl.loader.planning import LoadPlan
    from mdl.loader.progress import Progress


class PassedOn(TypedDict, total=False):
    """Arguments that mdl passes on to transformers' `from_pretrained` unchanged."""

    attn_implementation: Any
    device_mesh: Any
    distributed_config: Any
    experts_implementation: Any
    id2label: Any
    ignore_mismatched_sizes: Any
    key_mapping: Any
    label2id: Any
    max_memory: Any
    num_labels: Any
    offload_buffers: Any
    offload_folder: Any
    output_attentions: Any
    output_hidden_states: Any
    problem_type: Any
    rope_scaling: Any
    tp_plan: Any
    tp_size: Any
    use_cache: Any


class LoadOptions(PassedOn, total=False):
    """The arguments of `mdl.load` and `mdl.plan`, all optional.

    format: the format of the weights, as `mdl.resolve` takes it (`bnb-4bit`, `awq`,
        `gguf:Q4_K_M`); by default the one that the name names (`…-AWQ`, `…-GGUF`), else 16-bit, or
        the floats as they are stored.
    load_in_*: the same for the formats that mdl makes on load.
    base: the model to put an adapter on, if not the one that the adapter names.
    use_exact_model_name: that repository and no other, whatever the catalogue says.
    dtype: a torch dtype or its name; by default the checkpoint's.
    kernels: mdl's kernels to apply: True for those that are right and not slower on this GPU,
        "unchecked" for all on a GPU, False, or their names (anywhere, unchecked).
    task: auto (the class the checkpoint was saved from), text, vision, sequence-classification,
        encoder.
    quantization, quantization_config: how to quantize on load (ours, or a `BitsAndBytesConfig`).
    quantize_once: save a model quantized on load as a local copy for the next time.
    max_seq_length: tokens whose KV cache must fit beside the weights; 2048 by default.
    check_memory: reject what does not fit into memory before downloading its weights.
    allow_dequantize: load fp8 or MXFP4 weights as floats where this machine cannot compute in them.
    any_publisher: take a stored format from publishers who are not on the trust list, too.
    local_files_only: use what is here, and open no socket.
    prefer: `default`, `cached` or `official`; the configuration's by default.
    locked: a lock file; the model must be exactly the one it names.
    """

    format: str | None
    load_in_4bit: bool
    load_in_8bit: bool
    load_in_16bit: bool
    load_in_fp8: bool | str
    use_exact_model_name: bool
    base: str | None
    dtype: Any
    device_map: Any
    revision: str | None
    token: str | bool | None
    kernels: bool | Iterable[str]
    task: str
    quantization: Quantization | None
    quantization_config: Any
    quantize_once: bool
    check_memory: bool
    allow_dequantize: bool
    any_publisher: bool
    max_seq_length: int | None
    trust_remote_code: bool
    allow_pickle: bool
    local_files_only: bool | None
    prefer: str | None
    locked: str | None


PASSED_ON = frozenset(PassedOn.__annotations__)
# Arguments with the same name and meaning in a request.
_SAME = ("base", "revision", "task", "device_map", "max_seq_length", "trust_remote_code",
         "allow_pickle",
         "quantize_once", "check_memory", "allow_dequantize", "any_publisher", "prefer", "locked",
         "token")  # fmt: skip


def load(
    model_name: str, *, progress: "Progress | None" = None, **options: Unpack[LoadOptions]
) -> Loaded:
    """Load a model and its tokenizer (or processor); unpacks into `model, tokenizer`.

    Args:
        model_name: `org/name` in any casing, or a local folder.
        progress: an `mdl.loader.progress.Progress` that shows how far the load is.
        **options: see `LoadOptions`.

    Raises:
        MdlError: the load failed; the error says what happened, why, and what to do next.
    """
    from mdl.loader.pipeline import load_request

    return load_request(make_request(model_name, **options), progress=progress)


def plan(model_name: str, **options: Unpack[LoadOptions]) -> "LoadPlan":
    """Work out what `load` with the same arguments would download, and how much memory it needs.

    Args:
        model_name: `org/name` in any casing, or a local folder.
        **options: see `LoadOptions`.

    Raises:
        MdlError: as `load`.
    """
    from mdl.loader.planning import make_plan

    return make_plan(make_request(model_name, **options))


def make_request(model_name: str, **options: Unpack[LoadOptions]) -> LoadRequest:
    """A checked request from the arguments of `mdl.load`.

    Raises:
        UsageError: unknown, contradictory or invalid arguments, by name.
    """
    given: dict[str, Any] = dict(options)
    _check_names(given)
    _check_texts(model_name, given)
    format = one_format(
        given.get("format"),
        in_4bit=given.get("load_in_4bit", False),
        in_8bit=given.get("load_in_8bit", False),
        in_16bit=given.get("load_in_16bit", False),
        fp8=given.get("load_in_fp8", False),
    )
    quantization = given.get("quantization")
    if given.get("quantization_config") is not None:
        quantization, configured = from_bnb_config(given["quantization_config"])
        format = one_format(format, in_4bit=configured == "bnb-4bit", in_8bit=configured == "8bit")
    _check_quantization(quantization, format)
    fields = {name: given[name] for name in _SAME if name in given}
    if "num_labels" in given and fields.get("task", "auto") == "auto":
        fields["task"] = "sequence-classification"
    kernels = given.get("kernels", True)
    if isinstance(kernels, str) and kernels != "unchecked":
        kernels = (kernels,)
    return LoadRequest(
        name=str(model_name),
        format=format or _named_format(str(model_name), given),
        exact_name=given.get("use_exact_model_name", False),
        dtype=dtype_name(given.get("dtype")),
        quantization=quantization or Quantization(),
        kernels=kernels if isinstance(kernels, bool | str) else tuple(kernels),
        offline=True if given.get("local_files_only") else None,
        extra={k: v for k, v in given.items() if k in PASSED_ON and v is not None},
        **fields,
    )


def _named_format(model_name: str, given: dict[str, Any]) -> str:
    """The format where none is given: a stored one that the name of a repository names."""
    named = named_format(model_name)
    chosen = given.get("use_exact_model_name") or given.get("locked")
    local = Path(model_name).expanduser().exists()
    return "16bit" if chosen or local or not is_loadable(named) else named


def _check_quantization(settings: Any, format: str | None) -> None:
    if settings is None:
        return
    if not isinstance(settings, Quantization):
        raise UsageError(
            f"quantization={settings!r} is not an mdl.loader.Quantization.",
            next="Write Quantization(quant_type='nf4', …), or pass quantization_config.",
        )
    if format != "bnb-4bit":
        raise UsageError(
            "quantization is for 4-bit loads, but load_in_4bit is not set.",
            next="Add load_in_4bit=True, or leave quantization out.",
        )


def _check_texts(model_name: Any, given: dict[str, Any]) -> None:
    if not isinstance(model_name, (str, os.PathLike)):
        raise UsageError(
            f"{model_name!r} is not a model name.", next="Write org/name, or the path of a folder."
        )
    revision, token = given.get("revision"), given.get("token")
    if not (revision is None or isinstance(revision, str)):
        raise UsageError(
            f"revision={revision!r} is not a string.",
            next="Pass a branch, tag or commit, or leave revision out for the main branch.",
        )
    if not (token is None or isinstance(token, (str, bool))):
        raise UsageError(
            "token is neither a string nor a boolean.",
            next="Pass the token itself, True for the configured one, or False for none.",
        )


def _check_names(given: dict[str, Any]) -> None:
    known = sorted(LoadOptions.__annotations__)
    unknown = sorted(set(given) - set(known))
    if unknown:
        similar = [near for name in unknown for near in difflib.get_close_matches(name, known, 1)]
        hint = f"Did you mean {', '.join(similar)}? " if similar else ""
        raise UsageError(
            f"Unknown arguments: {', '.join(unknown)}.",
            why="Ignoring them could load a model other than the one you meant.",
            next=f"{hint}Known: {', '.join(known)}.",
        )
