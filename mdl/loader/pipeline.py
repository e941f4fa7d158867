"""The one call: resolve, find, fetch, build, tell."""

import copy
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mdl.loader.adapter import attach_adapter, find_adapter
from mdl.loader.build import (
    Built,
    build_tokenizer,
    check_fp8,
    check_remote_code,
    check_vocabulary,
    import_libraries,
    prefetch,
)
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.model_stats import measure_model
from mdl.loader.planning import check_memory
from mdl.loader.progress import Progress, progress_for
from mdl.loader.quantize_once import build_once
from mdl.loader.report import PhaseTimer, Report, file_records, fingerprint
from mdl.loader.request import LoadRequest
from mdl.loader.source import LocatedModel, fetch_model
from mdl.settings import Settings, load_settings

log = logging.getLogger("mdl")


@dataclass(frozen=True)
class Loaded:
    """A loaded model; unpacks into `model, tokenizer`.

    `tokenizer` is the processor of a vision model, and None where the repository has none.
    """

    model: Any
    tokenizer: Any
    report: Report

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return (self.model, self.tokenizer)[index]


def load_request(
    request: LoadRequest, settings: Settings | None = None, progress: Progress | None = None
) -> Loaded:
    """Load what a request asks for.

    Raises:
        MdlError: each refusal with its reason; nothing half-made stays behind.
    """
    settings = settings or load_settings()
    asked = request
    progress = progress or progress_for(f"load {request.name}")
    clock = PhaseTimer(progress.phase)
    with clock("resolve"):
        request, found, adapter = find_adapter(request, settings, progress=progress)
    if found.source.checkpoint is not None:
        prefetch(found.source.checkpoint)
    with clock("import"):
        import_libraries(found.source.checkpoint, request)
    with clock("check"):
        check_fp8(request, on_load=found.resolution.quantize_on_load)
        check_memory(found, request)
    with clock("fetch"):
        checkpoint = fetch_model(found, request, progress)
    if found.source.checkpoint is None:  # until now, nobody could know which classes it needs
        with clock("import"):
            import_libraries(checkpoint, request)
    check_remote_code(checkpoint, request)
    made = build_once(found, checkpoint, request, clock)
    built, found, checkpoint = made.built, made.found, made.checkpoint
    with clock("tokenizer"):
        config = _config_by_name(built, checkpoint, found)
        tokenizer = build_tokenizer(checkpoint.folder, request, config)
        check_vocabulary(built.model, tokenizer)
    with clock("kernels"):
        kernels = _apply_kernels(built.model, request)
    _name_for_saving(built.model, found)
    _note_use(found)
    report = _report(request, found, checkpoint, built)
    report = replace(
        report,
        kernels=kernels,
        mirror=made.mirror,
        warnings=(*_warnings(built, checkpoint), *made.warnings),
        seconds={phase: round(spent, 4) for phase, spent in clock.seconds.items()},
    )
    loaded = Loaded(built.model, tokenizer, report)
    if adapter is not None:
        loaded = attach_adapter(loaded, adapter, asked)
    _announce(loaded.report)
    loaded.model.mdl_report = loaded.report
    return loaded


def _apply_kernels(model: Any, request: LoadRequest) -> tuple[str, ...]:
    """Put kernels in: those named on any device, all of them only where there is a gain (CUDA)."""
    if not request.kernels or (request.kernels is True and not _on_cuda(model)):
        return ()
    from mdl import kernels

    only = request.kernels if isinstance(request.kernels, tuple) else None
    applied = kernels.apply(model, only=only)
    return tuple(f"{count} x {name}" for name, count in sorted(applied.counts.items()))


def _on_cuda(model: Any) -> bool:
    import torch

    return torch.cuda.is_available() and any(weight.is_cuda for weight in model.parameters())


def _warnings(built: Built, checkpoint: Checkpoint) -> Iterator[str]:
    stored = checkpoint.stored_format
    if stored is not None and getattr(built.model.config, "quantization_config", None) is None:
        yield f"the weights are stored in {stored} and were dequantized to {built.model.dtype}"
    if built.new_parameters:
        yield f"weights that are new: {_count(built.new_parameters)}"
    if built.unused_tensors:
        yield f"tensors of the checkpoint that are not used: {_count(built.unused_tensors)}"


def _count(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)}, such as {names[0]}"


def _note_use(found: LocatedModel) -> None:
    """Tell the cache manager that these bytes were used: what is used is pruned last."""
    from mdl.cachemgr import open_cache

    if found.source.commit is not None and not found.source.mirror:
        open_cache(found.settings).record_use(found.source.repo_id, found.source.commit)


def _name_for_saving(model: Any, found: LocatedModel) -> None:
    """What the user saves names the canonical model, not the mirror or a path of this machine."""
    if found.resolution.is_local:
        return
    model.config.name_or_path = found.resolution.canonical
    model.name_or_path = found.resolution.canonical


def _config_by_name(built: Built, checkpoint: Checkpoint, found: LocatedModel) -> Any:
    """The model's configuration under the name of the repository its files come from.

    transformers takes another tokenizer class for some repositories, by their names; in a
    snapshot's folder it would not know them. None where the model was given another configuration
    than that of the folder (the text half of a vision model).
    """
    config = copy.copy(built.model.config)
    if config.model_type != checkpoint.config.get("model_type"):
        return None
    config.name_or_path = found.source.repo_id
    return config


def _report(
    request: LoadRequest, found: LocatedModel, checkpoint: Checkpoint, built: Built
) -> Report:
    model = built.model
    held = measure_model(model)
    quantization = getattr(model.config, "quantization_config", None)
    return Report(
        requested=request.to_json(),
        resolution=found.resolution.to_json(),
        folder=str(checkpoint.folder),
        commit=found.source.commit,
        files=file_records(checkpoint),
        fingerprint=fingerprint(checkpoint),
        config_sha256=_config_hash(checkpoint.config),
        model_class=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=_plain(quantization),
        quantized_on_load=built.quantized_here,
        mirror=None,
        parameters=held.parameters,
        memory={"weights": held.bytes},
        devices=held.devices,
        kernels=(),
        loaded_by=built.path,
        note=built.note,
        remote_code=request.trust_remote_code,
        pickles=checkpoint.files.pickled,
        new_parameters=built.new_parameters,
        unused_tensors=built.unused_tensors,
        downloaded=found.source.bytes_to_fetch,
        seconds={},
        versions=dict(library_versions()),
    )


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a load gives."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("mdl", "torch", "transformers", "bitsandbytes", "huggingface_hub", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _plain(quantization: Any) -> Any:
    """A model's quantization settings, an object of transformers' or a table, in JSON's types."""
    if quantization is None:
        return None
    table = quantization if isinstance(quantization, Mapping) else quantization.to_dict()
    return json.loads(json.dumps(table, default=str))


def _announce(report: Report) -> None:
    for name, value in report.lines():
        log.info("%-12s %s", name, value)
    for text in report.warnings:
        log.warning("%s: %s", report.repo_id, text)
