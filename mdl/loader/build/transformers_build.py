"""Building with transformers' own load, and what it knows about a checkpoint: class and config.

Reads local files only and makes no request.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import LoadError, MdlError, UsageError
from mdl.formats import config_format
from mdl.loader.build.class_by_weights import class_by_weights
from mdl.loader.build.weight_names import CannotMapError
from mdl.loader.checkpoint import GGUF_CONFIG, Checkpoint, read_json
from mdl.loader.devices import device_map_of
from mdl.loader.model_stats import measure_model
from mdl.resolver import is_commit
from mdl.store import LOADABLE_FORMATS

AUTO_CLASSES = {
    "text": "AutoModelForCausalLM",
    "vision": "AutoModelForImageTextToText",
    "sequence-classification": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
}
_TASK_TABLES = {
    "text": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "vision": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "encoder": "MODEL_MAPPING_NAMES",
}
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Built:
    """A model in memory and how it was built.

    `loaded_by` is `mdl` (from mapped weights) or `transformers`; `note` says why, or what was done
    to the tensors. `new_parameters` were not in the checkpoint. `local_copy` is the folder of the
    local copy that was read or saved.
    """

    model: Any
    checkpoint: Checkpoint
    loaded_by: str
    note: str = ""
    new_parameters: tuple[str, ...] = ()
    unused_tensors: tuple[str, ...] = ()
    quantized_on_load: bool = False
    local_copy: str | None = None
    warnings: tuple[str, ...] = ()


def model_class(checkpoint: Checkpoint) -> tuple[type, bool]:
    """The transformers class to build, and whether the checkpoint was saved from that class.

    Raises:
        LoadError: the installed transformers does not know the architecture, or has no class of it
            for the requested task.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    task = checkpoint.request.task
    if task != "auto":
        _check_task(checkpoint, task)
        return getattr(transformers, AUTO_CLASSES[task]), False
    named = class_names(checkpoint)
    other = None
    model_type = _model_type(checkpoint)
    for name in named:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            of_type = getattr(found.config_class, "model_type", model_type)  # type: ignore[attr-defined] # a model class
            if of_type == model_type or model_type not in CONFIG_MAPPING_NAMES:
                return found, True
            other = other or found
    if checkpoint.config.get("auto_map"):
        if not checkpoint.request.trust_remote_code:
            raise LoadError(
                "The model needs Python code from its repository, which is not allowed.",
                why=f"transformers {transformers.__version__} has no class "
                f"{', '.join(named) or 'for it'}; config.json refers to its own (auto_map).",
                next="Read that code; then pass trust_remote_code=True and pin a revision=.",
            )
        return transformers.AutoModelForCausalLM, False
    fitting = None
    if model_type in CONFIG_MAPPING_NAMES:
        fitting = class_by_weights(checkpoint, model_config(checkpoint))
    if fitting is not None:
        return fitting, True
    if other is not None:
        return other, True
    if not named:
        return transformers.AutoModel, False
    raise LoadError(
        f"transformers {transformers.__version__} does not know {', '.join(named)}.",
        why="config.json names an architecture that the installed version lacks.",
        next="Upgrade transformers, or load another model.",
    )


def _model_type(checkpoint: Checkpoint) -> Any:
    """The model type in config.json, or what transformers takes it for."""
    named = checkpoint.config.get("model_type")
    if named == "mistral" and "layer_types" in checkpoint.config:
        return model_config(checkpoint).model_type
    return named


def class_names(checkpoint: Checkpoint) -> list[str]:
    """The classes that config.json names, without the prefix that FSDP adds to them."""
    named = checkpoint.config.get("architectures") or []
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list):
        return []
    return [name.removeprefix("FSDP") for name in named if isinstance(name, str)]


def class_note(checkpoint: Checkpoint, model: Any) -> str:
    """What to say of a class that config.json does not name; empty if it does."""
    named, kind = class_names(checkpoint), type(model).__name__
    if kind in named or checkpoint.request.task != "auto":
        return ""
    return f"config.json names {', '.join(named) or 'no class'}; loaded as {kind}, by its weights"


def task_classes(checkpoint: Checkpoint, task: str) -> tuple[str, ...]:
    """The names of transformers' classes for the checkpoint's model type and a task."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, _TASK_TABLES[task]).get(checkpoint.config.get("model_type"), ())
    return (found,) if isinstance(found, str) else tuple(found)


def is_own_class(checkpoint: Checkpoint) -> bool:
    """Whether the class to build is the one the checkpoint was saved from."""
    task = checkpoint.request.task
    if task == "auto":
        return model_class(checkpoint)[1]
    own = task_classes(checkpoint, task)
    return any(name in own for name in class_names(checkpoint)[:1])


def _check_task(checkpoint: Checkpoint, task: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = checkpoint.config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES or checkpoint.config.get("auto_map"):
        return  # a class of the user or the repository: the auto class decides
    if task_classes(checkpoint, task):
        return
    tasks = ", ".join(other for other in _TASK_TABLES if task_classes(checkpoint, other))
    raise LoadError(
        f"{kind} models do not support the task {task}.",
        why=f"{AUTO_CLASSES[task]} of transformers {transformers.__version__} has no class for "
        "them.",
        next=f"They support: {tasks}. Leave task out for the class the checkpoint was saved from "
        "(FastVisionModel uses vision, text_only=True text).",
    )


def check_remote_code(checkpoint: Checkpoint) -> None:
    """Allow a repository's own Python at a pinned commit only.

    Raises:
        LoadError: the files refer to code, it is allowed, and the revision is not a commit.
    """
    request, folder = checkpoint.request, checkpoint.folder
    downloaded = folder.parent.name == "snapshots"
    pinned = is_commit(request.revision) or request.locked is not None
    if not request.trust_remote_code or not downloaded or pinned:
        return
    for name in ("config.json", "tokenizer_config.json", *PROCESSOR_FILES):
        if (folder / name).exists() and read_json(folder / name).get("auto_map"):
            raise LoadError(
                "Remote code is allowed for a pinned commit only.",
                why=f"{name} refers to Python code in the repository (auto_map), which its owner "
                "can change at any time.",
                next=f"Read the code in {folder}, then pass revision={folder.name!r}.",
            )


def model_config(checkpoint: Checkpoint) -> Any:
    """The transformers configuration object of the folder.

    Raises:
        LoadError: transformers cannot read it.
    """
    import transformers

    if checkpoint.gguf_file is not None:  # reading its header again takes seconds
        table = {key: checkpoint.config[key] for key in {*checkpoint.config} - {*GGUF_CONFIG}}
        with transformers_errors(checkpoint.folder):
            return transformers.AutoConfig.for_model(**table)
    with transformers_errors(checkpoint.folder):
        config = transformers.AutoConfig.from_pretrained(
            checkpoint.folder,
            local_files_only=True,
            trust_remote_code=checkpoint.request.trust_remote_code,
        )
    stored = checkpoint.quantization
    if stored is not None:
        config.quantization_config = dict(stored)  # a nested one too
    elif hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are floats, whatever it claims
    return config


def build_with_transformers(checkpoint: Checkpoint) -> Built:
    """Load the folder with transformers: exact, prequantized, or quantizing on load.

    Raises:
        LoadError: a shape, key or setting does not match the checkpoint.
    """
    request = checkpoint.request
    kind, saved_from = model_class(checkpoint)
    options: dict[str, Any] = {
        "dtype": request.dtype or "auto",
        "local_files_only": True,
        "trust_remote_code": request.trust_remote_code,
        "use_safetensors": not checkpoint.files.pickled,
        "output_loading_info": True,
        **request.extra,
    }
    if (device_map := device_map_of(request)) is not None:
        options["device_map"] = device_map
    on_load = quantization_on_load(checkpoint)
    if on_load is not None:
        options["quantization_config"] = on_load
    if checkpoint.gguf_file is not None:
        options |= _gguf_options(checkpoint)
    with transformers_errors(checkpoint.folder), quiet_transformers():
        if checkpoint.claimed_quantization is not None and checkpoint.quantization is None:
            options["config"] = model_config(checkpoint)
        model, info = kind.from_pretrained(checkpoint.folder, **options)  # type: ignore[attr-defined] # an auto or model class
    built = Built(
        model,
        checkpoint,
        "transformers",
        new_parameters=tuple(sorted(info["missing_keys"])),
        unused_tensors=tuple(sorted(info["unexpected_keys"])),
        quantized_on_load=on_load is not None,
    )
    if built.new_parameters and saved_from:
        raise missing_weights(checkpoint, built.new_parameters, built.unused_tensors)
    return built


def _gguf_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Arguments for a GGUF file: dense, as packed weights would need a kernel of the Hub's."""
    from transformers import GgufConfig

    return {
        "gguf_file": checkpoint.gguf_file,
        "config": model_config(checkpoint),
        "quantization_config": GgufConfig(dequantize=True),
    }


def missing_weights(
    checkpoint: Checkpoint, names: tuple[str, ...], unused: Iterable[str] = ()
) -> LoadError:
    """The error for a checkpoint that lacks weights of the class it was saved from."""
    instead = next(iter(unused), None)
    other = f" The checkpoint has other names instead, such as {instead}." if instead else ""
    return LoadError(
        f"The checkpoint lacks {len(names)} weights of its own architecture.",
        why=f"For example {', '.join(names[:3])}; they would be random numbers.{other}",
        next="Check the repository's files and revision, or pass a task to get a new head.",
        details={"folder": str(checkpoint.folder), "missing": list(names[:50])},
    )


def quantization_on_load(checkpoint: Checkpoint) -> Any:
    """The transformers quantization configuration to apply while loading, or None.

    Raises:
        UsageError: the checkpoint is already quantized differently.
    """
    request, stored = checkpoint.request, checkpoint.stored_format
    if request.format not in LOADABLE_FORMATS or request.format == "16bit":
        return None
    if stored is not None and request.format in (stored, config_format(checkpoint.quantization)):
        return None
    if stored is not None:
        raise UsageError(
            f"The checkpoint is already quantized to {stored}; it cannot be loaded as "
            f"{request.format}.",
            next="Load it as it is (exact), or load its 16-bit repository.",
        )
    import transformers

    if request.wants_4bit:
        table = request.quantization.to_config(checkpoint.dtype)
        table.pop("quant_method")
        return transformers.BitsAndBytesConfig(**table)
    if request.format == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.FineGrainedFP8Config()


def check_quantized(built: Built) -> None:
    """Reject a 4- or 8-bit load that quantized nothing.

    Raises:
        LoadError: no weight is quantized.
    """
    request = built.checkpoint.request
    narrow = request.format in ("bnb-4bit", "8bit")
    if narrow and not measure_model(built.model).parameters["quantized"]:
        raise nothing_to_quantize(built.model, wants_4bit=request.wants_4bit)


def nothing_to_quantize(model: Any, *, wants_4bit: bool) -> LoadError:
    """The error for a model without layers that can be quantized."""
    return LoadError(
        f"No layer of {type(model).__name__} can be quantized to {4 if wants_4bit else 8} bits.",
        why="It has no linear layers, or all of them are skipped.",
        next="Load it in 16 bits: without load_in_4bit or load_in_8bit (--4bit, --8bit).",
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars; mdl shows its own."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


@contextlib.contextmanager
def transformers_errors(folder: Path) -> Iterator[None]:
    """Turn what transformers raises into a `LoadError`, with the original as its cause."""
    try:
        yield
    except (MdlError, CannotMapError):
        raise
    except Exception as error:
        if type(error).__module__.startswith("torch") and "OutOfMemory" in type(error).__name__:
            raise LoadError(
                "The device ran out of memory.",
                why=str(error).splitlines()[0],
                next="`mdl load NAME --dry-run` shows what fits; 4-bit needs about a quarter.",
            ) from error
        missing = isinstance(error, ImportError)
        raise LoadError(
            f"transformers cannot build the model in {folder}.",
            why=f"{type(error).__name__}: {error}".strip(": \n"),
            next="Install the package that it names, and load again."
            if missing
            else "Check the files with `mdl verify`, and the architecture in config.json.",
        ) from error
