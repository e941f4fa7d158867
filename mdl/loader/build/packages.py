"""Packages that a model needs beside transformers, known before its weights are downloaded."""

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

from mdl.errors import LoadError
from mdl.loader.build.tokenizer import TOKENIZER_FILES

_FLASH = "flash_attention_"
# Where one of these is there, transformers does not read the SentencePiece model.
_READ_WITHOUT = ("tokenizer.json", "tekken.json")
_SENTENCEPIECE = ("spiece.model", "spm.model", "source.spm", "sentencepiece.bpe.model",
                  "sentencepiece.model")  # fmt: skip


def check_attention(config: Mapping[str, Any], requested: Any) -> None:
    """Reject flash-attention where transformers could not use it.

    Args:
        config: what is in config.json; transformers obeys an implementation named there.
        requested: the caller's `attn_implementation`, or `None`.

    Raises:
        LoadError: its package or its device is missing.
    """
    name = config.get("_attn_implementation") or requested or config.get("attn_implementation")
    if not isinstance(name, str) or not name.startswith(_FLASH):
        return
    from transformers import utils

    version = name.removeprefix(_FLASH)
    is_available = getattr(utils, f"is_flash_attn_{version}_available", None)
    # The package `kernels` fetches it from the Hub.
    if is_available is None or is_available() or utils.is_kernels_available():
        return
    by_config = "" if name == requested else " (config.json names it)"
    installed = find_spec("flash_attn") is not None
    raise LoadError(
        f"{name} cannot be used here{by_config}.",
        why="It needs a GPU that it supports." if installed else "flash-attn is not installed.",
        next='Pass attn_implementation="sdpa", or pip install flash-attn on a machine with a GPU.'
        if name == requested or "_attn_implementation" not in config
        else "pip install flash-attn on a machine with a GPU, or take the line "
        "_attn_implementation out of config.json: it outranks what is passed.",
    )


def check_tokenizer_package(files: Collection[str]) -> None:
    """Reject a tokenizer that exists only as a SentencePiece model, where nothing here reads that.

    Args:
        files: the model's files, as paths in its repository.

    Raises:
        LoadError: sentencepiece is missing.
    """
    if not any(name in files for name in TOKENIZER_FILES):
        return  # none is built
    if find_spec("sentencepiece") is not None or any(name in files for name in _READ_WITHOUT):
        return
    found = next((name for name in _SENTENCEPIECE if name in files), None)
    # Some of this name are tiktoken's.
    if found is None and "tokenizer.model" in files and find_spec("tiktoken") is None:
        found = "tokenizer.model"
    if found is not None:
        raise LoadError(
            f"The tokenizer needs a package that is not installed: there is only {found}.",
            why="transformers reads a SentencePiece model with sentencepiece.",
            next="pip install sentencepiece protobuf",
        )
