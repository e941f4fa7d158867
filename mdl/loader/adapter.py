"""Attach a saved adapter to its loaded base model."""

import warnings
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.loader.checkpoint import read_json
from mdl.loader.source import Adapter
from mdl.model_files import ADAPTER


def attach_adapter(base: Any, adapter: Adapter, tokenizer: Any = None) -> Any:
    """The model with the adapter attached, ready to train or to generate.

    Args:
        tokenizer: the one saved with the adapter. If it has more tokens than the model has
            embeddings, these are resized, as PEFT does.

    Raises:
        LoadError: the adapter does not fit the model, or needs a newer PEFT.
    """
    assert adapter.folder is not None
    _check_type(adapter.folder)
    try:
        _resize(base, tokenizer)
        return _attach(base, adapter.folder)
    except Exception as error:
        raise LoadError(
            f"The adapter in {adapter.folder} does not fit {adapter.base}.",
            why=f"{type(error).__name__}: {error}",
            next="Load it with the model and revision it was trained on.",
        ) from error


def _check_type(folder: Path) -> None:
    """Reject an adapter of a type that the installed PEFT lacks.

    Raises:
        LoadError: it lacks the type, or the configuration names none.
    """
    import peft

    kind = read_json(folder / ADAPTER).get("peft_type")
    if kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    raise LoadError(
        f"The adapter in {folder} has the peft_type {kind!r}, which PEFT {peft.__version__} lacks.",
        why=f"{ADAPTER} was written by another version of PEFT.",
        next="Upgrade peft, or save the adapter again.",
    )


def _resize(base: Any, tokenizer: Any) -> None:
    if tokenizer is None or not hasattr(base, "get_input_embeddings"):
        return
    if len(tokenizer) > base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(len(tokenizer))


def _attach(base: Any, folder: Path) -> Any:
    """Attach the adapter and check that each of its tensors has a place.

    Raises:
        ValueError, RuntimeError: the adapter was made for another model.
    """
    import peft

    # PEFT cannot continue to train a prompt.
    trainable = not peft.PeftConfig.from_pretrained(str(folder)).is_prompt_learning
    with warnings.catch_warnings():
        # PEFT only warns about missing tensors; they are an error, raised below.
        warnings.filterwarnings("ignore", message=".*Found missing adapter keys")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT's own
        model = peft.PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
    # Only load_adapter returns the missing and unexpected names. A prompt is not among the modules,
    # and modules saved whole are in the file under two names.
    found = model.load_adapter(str(folder), model.active_adapter, is_trainable=trainable)
    surplus = [name for name in found.unexpected_keys if ".modules_to_save." not in name]
    for names, what in (
        (found.missing_keys, "tensors that the model needs are not in the adapter"),
        (surplus if trainable else [], "tensors of the adapter have no place in the model"),
    ):
        if names:
            raise ValueError(f"{len(names)} {what}, such as {names[0]}.")
    model.eval()
    return model
