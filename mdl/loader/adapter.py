"""Attach a saved adapter to its loaded base model."""

import warnings
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.loader.source import Adapter


def attach_adapter(base: Any, adapter: Adapter) -> Any:
    """The model with the adapter attached, ready to train or to generate.

    Raises:
        LoadError: the adapter does not fit the model.
    """
    assert adapter.folder is not None
    try:
        return _attach(base, adapter.folder)
    except (ValueError, RuntimeError) as error:
        raise LoadError(
            f"The adapter in {adapter.folder} does not fit {adapter.base}.",
            why=str(error).splitlines()[0],
            next="Load it with the model and revision it was trained on.",
        ) from error


def _attach(base: Any, folder: Path) -> Any:
    """Attach the adapter and check that each of its tensors has a place.

    Raises:
        ValueError, RuntimeError: the adapter was made for another model.
    """
    import peft

    with warnings.catch_warnings():
        # PEFT only warns about missing tensors; they are an error, raised below.
        warnings.filterwarnings("ignore", message=".*Found missing adapter keys")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT's own
        model = peft.PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    # Only load_adapter returns the missing and unexpected names.
    found = model.load_adapter(str(folder), model.active_adapter, is_trainable=True)
    for names, what in (
        (found.missing_keys, "tensors that the model needs are not in the adapter"),
        (found.unexpected_keys, "tensors of the adapter have no place in the model"),
    ):
        if names:
            raise ValueError(f"{len(names)} {what}, such as {names[0]}.")
    return model
