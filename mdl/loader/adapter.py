"""An adapter that training saved: found by its folder or its repository, put on its base model."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.errors import LoadError
from mdl.loader.build import TOKENIZER_FILES, build_tokenizer, check_vocabulary
from mdl.loader.checkpoint import ADAPTER_WEIGHTS, PICKLED_ADAPTER, Needed, read_json
from mdl.loader.progress import Progress
from mdl.loader.report import sha256_of
from mdl.loader.request import LoadRequest
from mdl.loader.source import LocatedModel, answer, fetch_adapter, fetch_small, is_whole_adapter
from mdl.resolver import ADAPTER
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.loader.pipeline import Loaded


class Adapter(NamedTuple):
    """A saved PEFT adapter.

    `base` and `revision` are those of the model it was trained on. `origin` is what the adapter's
    own name led to, None for a folder; `folder` is None where nothing of it was fetched.
    """

    folder: Path | None
    base: str
    revision: str | None
    origin: LocatedModel | None = None

    def to_json(self) -> dict[str, Any]:
        """As a plan keeps it: where it is, and what of it is still to be fetched, in bytes."""
        table: dict[str, Any] = {"folder": None if self.folder is None else str(self.folder)}
        if self.origin is not None:
            source = self.origin.source
            table |= {"repo_id": source.repo_id, "commit": source.commit,
                      "download_bytes": source.bytes_to_fetch}  # fmt: skip
        return table

    def with_hash(self) -> dict[str, Any]:
        """As a report keeps it: with the SHA-256 of its weights, which are read for it."""
        assert self.folder is not None
        weights = next(
            self.folder / name
            for name in (ADAPTER_WEIGHTS, PICKLED_ADAPTER)
            if (self.folder / name).exists()
        )
        return {**self.to_json(), "weights": weights.name, "sha256": sha256_of(weights)}


class Found(NamedTuple):
    """Where a request leads: the request for the model itself, its answer, and the adapter that
    goes on it, where the name was an adapter's."""

    request: LoadRequest
    answer: LocatedModel
    adapter: Adapter | None


def find_adapter(
    request: LoadRequest,
    settings: Settings,
    *,
    purpose: str = "load",
    fetch: bool = True,
    progress: Progress | None = None,
) -> Found:
    """Resolve a request; an adapter's leads to its base, in the format requested.

    Args:
        purpose: what the resolution log says the answer was for.
        fetch: bring an adapter that is not here; else only its configuration is looked at.

    Raises:
        MdlError: as the resolver refuses, or what is named is neither a model nor an adapter.
    """
    adapter = _in_folder(request)
    if adapter is None:
        found = answer(request, settings, purpose=purpose)
        if not found.source.is_adapter:
            return Found(request, found, None)
        if fetch:
            folder = fetch_adapter(found, request, progress)
            adapter = _read(folder, None, found)
        else:
            adapter = _look_at(found)
    on_base = replace(request, name=adapter.base, revision=adapter.revision)
    if _in_folder(on_base) is None:
        found = answer(on_base, settings, purpose=purpose)
        if not found.source.is_adapter:
            return Found(on_base, found, adapter)
    raise LoadError(
        f"{request.name} is an adapter on an adapter, {adapter.base}.",
        next=f"Load {adapter.base}, merge it into its model, save that, and name it as the base in "
        f"{ADAPTER}.",
    )


def _in_folder(request: LoadRequest) -> Adapter | None:
    """The adapter in the folder that is named; None where it is no folder or not an adapter's.

    Raises:
        LoadError: it names no base model, or its weights are missing or pickled.
    """
    folder = Path(request.name).expanduser()
    try:
        if not (folder / ADAPTER).is_file():
            return None
    except OSError:  # a name no file system takes; the resolver says why it is no model's
        return None
    if not is_whole_adapter(folder, request):
        return None
    return _read(folder, request.revision, None)


def _look_at(found: LocatedModel) -> Adapter:
    """An adapter by its configuration alone: nothing is kept."""
    source = found.source
    if source.adapter is not None:
        return _read(source.adapter, None, found)
    assert source.download is not None
    small = replace(source.download, needed=Needed((), (ADAPTER,)))
    with tempfile.TemporaryDirectory(prefix="mdl-plan-") as scratch:
        seen = _read(fetch_small(found.hub, small, Path(scratch)), None, found)
    return seen._replace(folder=None)


def _read(folder: Path, revision: str | None, origin: LocatedModel | None) -> Adapter:
    table = read_json(folder / ADAPTER)
    base = table.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise LoadError(
            f"The adapter in {folder} names no base model.",
            why=f"base_model_name_or_path in {ADAPTER} is {base!r}.",
            next="Write the model's name there, as org/name.",
        )
    return Adapter(folder, base, revision or table.get("revision") or None, origin)


def attach_adapter(loaded: "Loaded", adapter: Adapter, request: LoadRequest) -> "Loaded":
    """The loaded base model with the adapter on it, ready to train on or to generate.

    The tokenizer is the one beside the adapter, where training saved one.

    Raises:
        LoadError: the adapter does not fit the model.
    """
    folder = adapter.folder
    assert folder is not None
    try:
        model = _fitted(loaded.model, folder)
    except (ValueError, RuntimeError) as error:
        raise LoadError(
            f"The adapter in {folder} does not fit {adapter.base}.",
            why=str(error).splitlines()[0],
            next="Load the model it was trained on, at the revision it was trained on.",
        ) from error
    tokenizer = loaded.tokenizer
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        tokenizer = build_tokenizer(folder, request, loaded.model.config)
        check_vocabulary(loaded.model, tokenizer)
    report = replace(loaded.report, requested=request.to_json(), adapter=adapter.with_hash())
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
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT's own
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
