"""A folder that training saved: an adapter, and the name of the model it belongs to."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.errors import LoadError
from mdl.loader.checkpoint import read_json
from mdl.loader.files import ADAPTER, no_adapter
from mdl.loader.processor import TOKENIZER_FILES, build_tokenizer, check_vocabulary
from mdl.loader.report import sha256_of
from mdl.loader.request import LoadRequest

if TYPE_CHECKING:
    from mdl.loader.loading import Loaded

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


class Adapter(NamedTuple):
    """A saved PEFT adapter. `base` and `revision` are those of the model it was trained on."""

    folder: Path
    base: str
    revision: str | None
    weights: Path

    def to_json(self) -> dict[str, Any]:
        """As a report keeps it, with the weights' SHA-256."""
        digest = sha256_of(self.weights)
        return {"folder": str(self.folder), "weights": self.weights.name, "sha256": digest}


def on_its_base(request: LoadRequest) -> tuple[LoadRequest, Adapter | None]:
    """The request for the base model where the name is an adapter's folder, and the adapter.

    The wish stays as it is: an adapter trained on 4-bit weights is wanted on 4-bit weights.

    Raises:
        LoadError: the adapter names no base model, or its weights are missing or pickled.
    """
    folder = Path(request.name)
    try:
        if not (folder / ADAPTER).is_file() or (folder / "config.json").exists():
            return request, None
    except OSError:  # a name no file system takes; the resolver says why it is no model's
        return request, None
    table = read_json(folder / ADAPTER)
    base = str(table.get("base_model_name_or_path") or "")
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if not base:
        raise no_adapter(str(folder))
    if weights is None:
        raise LoadError(
            f"{folder} has {ADAPTER} and no weights of an adapter.",
            why=f"There is neither {' nor '.join(_WEIGHTS)}.",
            next=f"Save the adapter again, or load its base model: {base}.",
        )
    if weights.suffix == ".bin" and not request.allow_pickle:
        raise LoadError(
            f"The adapter in {folder} is a Python pickle, which can run any code when read.",
            next="If you trust its author, pass allow_pickle=True (`mdl load --allow-pickle`).",
        )
    revision = request.revision or table.get("revision") or None
    adapter = Adapter(folder, base, revision, weights)
    return replace(request, name=base, revision=revision), adapter


def put_on(loaded: "Loaded", adapter: Adapter, request: LoadRequest) -> "Loaded":
    """The loaded base model with the adapter on it, ready to train on or to generate.

    The tokenizer is the one beside the adapter, where training saved one.

    Raises:
        LoadError: the adapter does not fit the model.
    """
    try:
        model = _fitted(loaded.model, adapter.folder)
    except (ValueError, RuntimeError) as error:
        raise LoadError(
            f"The adapter in {adapter.folder} does not fit {adapter.base}.",
            why=str(error).splitlines()[0],
            next="Load the model it was trained on, at the revision it was trained on.",
        ) from error
    tokenizer = loaded.tokenizer
    if any((adapter.folder / name).exists() for name in TOKENIZER_FILES):
        tokenizer = build_tokenizer(adapter.folder, request, loaded.model.config)
        check_vocabulary(loaded.model, tokenizer)
    report = replace(loaded.report, requested=request.to_json(), adapter=adapter.to_json())
    model.mdl_report = report
    return replace(loaded, model=model, tokenizer=tokenizer, report=report)


def _fitted(base: Any, folder: Path) -> Any:
    """The model with the adapter on it, every tensor of it in its place.

    Raises:
        ValueError, RuntimeError: it is made for another model.
    """
    import warnings

    import peft

    with warnings.catch_warnings():
        # A warning is no answer where half an adapter would be trained on: asked again below.
        warnings.filterwarnings("ignore", message=".*Found missing adapter keys")
        model = peft.PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    # PEFT tells what it left over and what it lacked only to who loads into a model that is there.
    found = model.load_adapter(str(folder), model.active_adapter, is_trainable=True)
    for names, what in (
        (found.missing_keys, "parts of the model that the adapter belongs on are not in it"),
        (found.unexpected_keys, "tensors of it have no place in the model"),
    ):
        if names:
            raise ValueError(f"{len(names)} {what}, as {names[0]}.")
    return model
