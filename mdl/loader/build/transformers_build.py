"""From a checked checkpoint folder to a model and tokenizer, through transformers.

Only local files are read: the folder is a snapshot, so no request leaves the machine.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl.errors import LoadError, UsageError
from mdl.loader.checkpoint import Checkpoint, read_json
from mdl.loader.devices import device_map_of, has_fp8
from mdl.loader.request import LoadRequest
from mdl.resolver import is_commit

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


@dataclass
class Built:
    """A model in memory, how it was built, and the parameters its checkpoint did not hold."""

    model: Any
    path: str
    note: str = ""
    new_parameters: tuple[str, ...] = ()
    unused_tensors: tuple[str, ...] = ()
    quantized_here: bool = field(default=False)


def model_class(checkpoint: Checkpoint, request: LoadRequest) -> tuple[type, bool]:
    """The transformers class to build, and whether the checkpoint was saved from that class.

    Raises:
        LoadError: the architecture is unknown to the installed transformers, or has no form for
            the task.
    """
    import transformers

    if request.task != "auto":
        _check_task(checkpoint, request.task)
        return getattr(transformers, AUTO_CLASSES[request.task]), False
    named = checkpoint.config.get("architectures") or []
    for name in named:
        found = getattr(transformers, name, None)
        if isinstance(found, type):
            return found, True
    if checkpoint.config.get("auto_map"):
        if not request.trust_remote_code:
            raise LoadError(
                "The model needs Python code from its repository, and that is switched off.",
                why=f"transformers {transformers.__version__} has no class "
                f"{', '.join(named) or 'for it'}; config.json names code of its own (auto_map).",
                next="Read that code first. Then pass trust_remote_code=True with a revision= pin.",
            )
        return transformers.AutoModelForCausalLM, False
    if not named:
        return transformers.AutoModel, False
    raise LoadError(
        f"transformers {transformers.__version__} does not know {', '.join(named)}.",
        why="config.json names an architecture that is not in the installed library.",
        next="Upgrade transformers, or load another model.",
    )


def task_classes(checkpoint: Checkpoint, task: str) -> tuple[str, ...]:
    """The names of the classes that transformers has for the checkpoint's model type and a task."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, _TASK_TABLES[task]).get(checkpoint.config.get("model_type"), ())
    return (found,) if isinstance(found, str) else tuple(found)


def is_own_class(checkpoint: Checkpoint, request: LoadRequest) -> bool:
    """Whether the class to build is the very one that the checkpoint was saved from."""
    if request.task == "auto":
        return model_class(checkpoint, request)[1]
    named = checkpoint.config.get("architectures") or [None]
    return named[0] in task_classes(checkpoint, request.task)


def _check_task(checkpoint: Checkpoint, task: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = checkpoint.config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES or checkpoint.config.get("auto_map"):
        return  # a class of the user's own or of the repository's: the auto class knows
    if task_classes(checkpoint, task):
        return
    forms = ", ".join(other for other in _TASK_TABLES if task_classes(checkpoint, other))
    raise LoadError(
        f"There is no {task} form of {kind} models.",
        why=f"{AUTO_CLASSES[task]} of transformers {transformers.__version__} has none.",
        next=f"There are: {forms}. Leave task out for the class the checkpoint was saved from "
        "(FastVisionModel asks for vision, text_only=True for text).",
    )


def check_remote_code(checkpoint: Checkpoint, request: LoadRequest) -> None:
    """Allow a repository's own Python for one commit only, not for whatever comes tomorrow.

    Raises:
        LoadError: the files name code, it is allowed, and the revision is not pinned to a commit.
    """
    downloaded = checkpoint.folder.parent.name == "snapshots"
    if not request.trust_remote_code or not downloaded or is_commit(request.revision):
        return
    if request.locked is not None:
        return
    for name in ("config.json", "tokenizer_config.json", *PROCESSOR_FILES):
        path = checkpoint.folder / name
        if path.exists() and read_json(path).get("auto_map"):
            raise LoadError(
                "Remote code is allowed for one commit, and none is named.",
                why=f"{name} names Python code of the repository (auto_map), which its owner can "
                "change at any time.",
                next=f"Read the code in {checkpoint.folder}, then pass "
                f"revision={checkpoint.folder.name!r}.",
            )


def model_config(checkpoint: Checkpoint, request: LoadRequest) -> Any:
    """The transformers configuration object of the folder.

    Raises:
        LoadError: transformers cannot read it.
    """
    import transformers

    with refused_as_load_error(checkpoint.folder):
        return transformers.AutoConfig.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=request.trust_remote_code
        )


def build_with_transformers(checkpoint: Checkpoint, request: LoadRequest) -> Built:
    """transformers' own load of the folder: exact, prequantized, or quantizing as it reads.

    Raises:
        LoadError: a shape, key or setting that does not fit the checkpoint.
    """
    kind, saved_from = model_class(checkpoint, request)
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
    here = quantization_on_load(checkpoint, request)
    if here is not None:
        options["quantization_config"] = here
    with refused_as_load_error(checkpoint.folder), quiet_transformers():
        model, info = kind.from_pretrained(checkpoint.folder, **options)  # type: ignore[attr-defined] # an auto or model class
    built = Built(
        model,
        "transformers",
        new_parameters=tuple(sorted(info["missing_keys"])),
        unused_tensors=tuple(sorted(info["unexpected_keys"])),
        quantized_here=here is not None,
    )
    if built.new_parameters and saved_from:
        raise missing_weights(checkpoint, built.new_parameters)
    return built


def missing_weights(checkpoint: Checkpoint, names: tuple[str, ...]) -> LoadError:
    """The refusal of a checkpoint that lacks weights of the very class it was saved from."""
    return LoadError(
        f"The checkpoint lacks {len(names)} weights of its own architecture.",
        why=f"For instance {', '.join(names[:3])}; they would be random numbers.",
        next="Check the repository's files and revision; or name a task to get a new head.",
        details={"folder": str(checkpoint.folder), "missing": list(names[:50])},
    )


def quantization_on_load(checkpoint: Checkpoint, request: LoadRequest) -> Any:
    """The transformers quantization configuration to apply while loading, or None.

    Raises:
        UsageError: the checkpoint is already quantized in another way than the one asked for.
    """
    if request.format == "16bit":
        return None
    stored = checkpoint.stored_format
    if stored == request.format:
        return None
    if stored is not None:
        raise UsageError(
            f"The checkpoint is already quantized ({stored}): it cannot become {request.format}.",
            next="Load it as it is (exact), or name its float repository.",
        )
    import transformers

    if request.wants_4bit:
        dtype = request.dtype or checkpoint.dtype or "float32"
        table = request.quantization.to_config(dtype)
        table.pop("quant_method")
        return transformers.BitsAndBytesConfig(**table)
    if request.format == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.FineGrainedFP8Config()


def check_quantized(built: Built, request: LoadRequest) -> None:
    """Refuse 4 or 8 bits where none of the model's layers can have them.

    Raises:
        LoadError: no weight is quantized.
    """
    from mdl.loader.model_stats import measure_model

    if (
        request.format in ("bnb-4bit", "8bit")
        and not measure_model(built.model).parameters["quantized"]
    ):
        raise nothing_to_quantize(built.model, request)


def nothing_to_quantize(model: Any, request: LoadRequest) -> LoadError:
    """The refusal of a format that no layer can have."""
    bits = "4" if request.wants_4bit else "8"
    return LoadError(
        f"No layer of {type(model).__name__} can be quantized to {bits} bits.",
        why="It has no linear layer, or all of them are to be left out.",
        next="Load it in 16 bits: without load_in_4bit or load_in_8bit (--4bit, --8bit).",
    )


def check_fp8(request: LoadRequest, *, on_load: bool) -> None:
    """Refuse to quantize to fp8 where nothing can: before a byte of weights is fetched.

    Raises:
        LoadError: fp8 is asked for, the weights are not stored so, and no GPU here has it.
    """
    if request.format == "fp8" and on_load and not has_fp8():
        raise LoadError(
            f"{request.name} cannot be quantized to fp8 here.",
            why="transformers quantizes to fp8 on GPUs of compute capability 8.9 and above only.",
            next="Ask for 8-bit or 4-bit weights, for the 16-bit ones, or name a repository that "
            "is stored in fp8: without such a GPU it is dequantized to 16 bits.",
        )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers' own: mdl shows one of its own, and none in logs."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


@contextlib.contextmanager
def refused_as_load_error(folder: Path) -> Iterator[None]:
    """Whatever transformers refuses becomes one clear error; the cause stays attached."""
    try:
        yield
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError) as error:
        if type(error).__module__.startswith("torch") and "OutOfMemory" in type(error).__name__:
            raise LoadError(
                "The device has too little memory for the model.",
                why=str(error).splitlines()[0],
                next="See what fits: `mdl load NAME --dry-run`; 4-bit needs about a quarter.",
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LoadError(
            f"transformers cannot build the model in {folder}.",
            why=f"{type(error).__name__}: {first}",
            next="Check the files with `mdl verify`, and the architecture in config.json.",
        ) from error
