"""A load, step by step: locate, import, check, fetch, build, finish. Each step feeds the next."""

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mdl.formatting import human_size
from mdl.loader.adapter import attach_adapter
from mdl.loader.build import (
    Built,
    build_tokenizer,
    check_attention,
    check_quantization,
    check_remote_code,
    check_tokenizer_package,
    check_vocabulary,
    class_note,
    has_tokenizer,
    import_libraries,
    prefetch,
    why_dequantized,
)
from mdl.loader.checkpoint import config_hash, file_records, fingerprint, quantization_name
from mdl.loader.loaded import Loaded
from mdl.loader.model_stats import measure_model
from mdl.loader.planning import check_fits, empty_model
from mdl.loader.progress import PhaseTimer, Progress, progress_for
from mdl.loader.quantize_once import build_once
from mdl.loader.report import Report
from mdl.loader.request import LoadRequest
from mdl.loader.source import FetchedModel, LocatedModel, fetch_model, locate_model
from mdl.settings import Settings
from mdl.version import installed_versions

# Libraries that determine what a load gives.
LIBRARIES = ("mdl", "torch", "transformers", "bitsandbytes", "huggingface_hub", "safetensors")
log = logging.getLogger("mdl")


def load_request(
    request: LoadRequest, settings: Settings | None = None, progress: Progress | None = None
) -> Loaded:
    """Load what a request asks for.

    Raises:
        MdlError: the load failed; nothing half-finished is left behind.
    """
    progress = progress or progress_for(f"load {request.name}")
    clock = PhaseTimer(progress)
    with clock("resolve"):
        located = locate_model(request, settings, progress=progress)
    if located.checkpoint is not None:
        prefetch(located.checkpoint)
    with clock("import"):
        import_libraries(located.checkpoint)
    with clock("check"):
        check_quantization(located.config, request)
        _check_packages(located)
        check_fits(located)
    with clock("fetch"):
        fetched = fetch_model(located, progress)
    with clock("import"):  # its classes, if its configuration was not known until now
        import_libraries(fetched.checkpoint)
    check_quantization(located.config, request, fetched.checkpoint)
    check_remote_code(fetched.checkpoint)
    found: list[tuple[Any, str]] = []

    def check_tokenizer(built: Built) -> None:
        with clock("tokenizer"):
            tokenizer = _tokenizer(located, built)
            # An adapter may add tokens, and rows for them.
            beyond = "" if located.adapter else check_vocabulary(built.model, tokenizer)
        found.append((tokenizer, beyond))

    built = build_once(fetched, clock, check_tokenizer)
    return _finish(fetched, built, *found[0], clock, progress)


def _check_packages(located: LocatedModel) -> None:
    """Reject what needs a package that is missing, before anything is downloaded."""
    if not located.is_adapter:
        check_attention(located.config, located.request.extra.get("attn_implementation"))
        if located.adapter is None:  # which may have its own
            check_tokenizer_package(located.files)


def _finish(
    fetched: FetchedModel,
    built: Built,
    tokenizer: Any,
    beyond: str,
    clock: PhaseTimer,
    progress: Progress,
) -> Loaded:
    """Add the kernels, adapter and report to a built model; `beyond` is a warning, or empty."""
    located, model = fetched.located, built.model
    with clock("kernels"):
        kernels, warnings = _apply_kernels(model, located, progress)
    _name_for_saving(model, located)
    _record_use(fetched, built)
    report = _report(located, built)
    if located.adapter is not None:
        saved_with_it = tokenizer if has_tokenizer(located.adapter.folder) else None
        model = attach_adapter(model, located.adapter, saved_with_it)
        report = replace(report, adapter=located.adapter.with_hash())
        beyond = check_vocabulary(model, tokenizer)
    if beyond:
        report = replace(report, warnings=(*report.warnings, beyond))
    seconds = {phase: round(spent, 4) for phase, spent in clock.seconds.items()}
    warnings = (*report.warnings, *warnings)
    report = replace(report, kernels=kernels, warnings=warnings, seconds=seconds)
    _log(report)
    model.mdl_report = report
    return Loaded(model, tokenizer, report)


def _tokenizer(located: LocatedModel, built: Built) -> Any:
    """The tokenizer saved with the adapter, if there is one, else the model's."""
    request, adapter = located.request, located.adapter
    folder = None if adapter is None else adapter.folder
    config = copy.copy(built.model.config)
    config.name_or_path = located.repo_id  # by which transformers recognizes some tokenizers
    if folder is not None and has_tokenizer(folder):
        return build_tokenizer(folder, request, config)
    # The text half of a vision model has another configuration than its folder.
    same = config.model_type == built.checkpoint.config.get("model_type")
    checkpoint = built.checkpoint
    return build_tokenizer(
        checkpoint.folder, request, config if same else None, checkpoint.gguf_file
    )


def _apply_kernels(
    model: Any, located: LocatedModel, progress: Progress
) -> tuple[tuple[Mapping[str, Any], ...], tuple[str, ...]]:
    """Apply the kernels named on any device, or on CUDA those that are right and not slower there.

    Returns the report of each operation, and warnings.
    """
    wanted = located.request.kernels
    if not wanted or (isinstance(wanted, bool | str) and not _on_cuda(model)):
        return (), ()
    from mdl import kernels

    if wanted is True:
        checked = kernels.apply_checked(model, located.settings.home, progress.phase)
        return tuple(one.to_json() for one in checked.operations), checked.warnings
    applied = kernels.apply(model, only=wanted if isinstance(wanted, tuple) else None)
    return tuple(one.to_json() for one in kernels.report_operations(applied) if one.modules_in), ()


def _on_cuda(model: Any) -> bool:
    import torch

    return torch.cuda.is_available() and any(weight.is_cuda for weight in model.parameters())


def _name_for_saving(model: Any, located: LocatedModel) -> None:
    """Have what the user saves name the canonical model, not a mirror or a path of this machine."""
    if not located.resolution.is_local:
        model.config.name_or_path = model.name_or_path = located.resolution.canonical


def _record_use(fetched: FetchedModel, built: Built) -> None:
    """Tell the cache manager that the snapshot was used, so that it is pruned last."""
    from mdl.cachemgr import open_cache

    located = fetched.located
    read_here = built.checkpoint is fetched.checkpoint and not located.is_local_copy
    if located.commit is not None and read_here:
        open_cache(located.settings).record_use(located.repo_id, located.commit)


def _report(located: LocatedModel, built: Built) -> Report:
    model, checkpoint = built.model, built.checkpoint
    packed = checkpoint.quantization is not None and _is_packed(model)
    stats = measure_model(model, empty_model(checkpoint) if packed else None)
    return Report(
        requested=located.original_request.to_json(),
        resolution=located.resolution.to_json(),
        folder=str(checkpoint.folder),
        commit=located.commit,
        files=file_records(checkpoint),
        fingerprint=fingerprint(checkpoint),
        config_sha256=config_hash(checkpoint.config),
        model_class=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=_plain(getattr(model.config, "quantization_config", None)),
        quantized_on_load=built.quantized_on_load,
        local_copy=built.local_copy,
        parameters=stats.parameters,
        memory={"weights": stats.bytes},
        devices=stats.devices,
        kernels=(),
        loaded_by=built.loaded_by,
        note=built.note,
        remote_code=checkpoint.request.trust_remote_code,
        pickles=checkpoint.files.pickled,
        new_parameters=built.new_parameters,
        unused_tensors=built.unused_tensors,
        downloaded=located.bytes_to_download,
        seconds={},
        versions=dict(installed_versions(*LIBRARIES)),
        warnings=tuple(_warnings(built, stats.bytes)),
    )


def _is_packed(model: Any) -> bool:
    """Whether the model's weights are quantized otherwise than by bitsandbytes."""
    settings = getattr(model.config, "quantization_config", None)
    return settings is not None and getattr(settings, "quant_method", None) != "bitsandbytes"


def _plain(quantization: Any) -> Any:
    """A model's quantization settings, an object of transformers or a table, in JSON's types."""
    if quantization is None:
        return None
    table = quantization if isinstance(quantization, Mapping) else quantization.to_dict()
    return json.loads(json.dumps(table, default=str))


def _warnings(built: Built, in_memory: int) -> Iterator[str]:
    checkpoint = built.checkpoint
    claimed, stored = checkpoint.claimed_quantization, checkpoint.stored_format
    if claimed is not None and stored is None:
        yield (f"config.json claims that the weights are quantized ({quantization_name(claimed)}), "
               f"but they are {checkpoint.stored_dtype or 'floats'}")  # fmt: skip
    if note := class_note(checkpoint, built.model):
        yield note
    if stored is not None and getattr(built.model.config, "quantization_config", None) is None:
        yield (f"the weights are stored in {stored} ({human_size(checkpoint.stored_bytes)}) and "
               f"were dequantized to {checkpoint.dtype} ({human_size(in_memory)})")  # fmt: skip
    elif reason := why_dequantized(checkpoint):
        yield f"{reason}: `mdl load --dry-run` counts them as {checkpoint.dtype}"
    if built.new_parameters:
        yield f"new weights, not in the checkpoint: {_count(built.new_parameters)}"
    if built.unused_tensors:
        yield f"unused tensors of the checkpoint: {_count(built.unused_tensors)}"
    yield from built.warnings


def _count(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)}, such as {names[0]}"


def _log(report: Report) -> None:
    for name, value in report.lines():
        log.info("%-12s %s", name, value)
    for text in report.warnings:
        log.warning("%s: %s", report.repo_id, text)
