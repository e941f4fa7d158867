"""Which files of a repository a model needs, from their names alone.

Weights are safetensors. Pickles can run code when they are read, so they are rejected unless the
caller allows them.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from mdl.errors import LoadError
from mdl.formats import ADAPTER, is_adapter

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Configuration, tokenizer, processor and chat template files, whatever they are called.
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.jsonl")
_NOT_SMALL = ("*.index.json", "*.safetensors*", "training_args*", "trainer_state.json")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files a model, or an adapter, consists of: its weight files, and all the others."""

    weights: tuple[str, ...]
    rest: tuple[str, ...]
    pickled: bool = False
    adapter: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.rest, *self.weights)


def choose_files(
    paths: Iterable[str], *, allow_pickle: bool = False, remote_code: bool = False
) -> CheckpointFiles:
    """Choose the files to download and read.

    Args:
        paths: all files of the commit, relative to the repository.
        allow_pickle: use `pytorch_model.bin` if there are no safetensors.
        remote_code: include the repository's Python files.

    Raises:
        LoadError: neither a model nor an adapter, only GGUF files, or only pickles and these are
            not allowed.
    """
    have = sorted(set(paths))
    top = [path for path in have if "/" not in path]
    rest = [path for path in have if _is_small(path) or (remote_code and path.endswith(".py"))]
    if is_adapter(top):
        return _adapter_files(top, rest, allow_pickle=allow_pickle)
    if "config.json" not in top:
        raise _not_a_model(have)
    shards = [path for path in top if _SHARD.fullmatch(path)]
    if INDEX in top and shards:
        return CheckpointFiles(tuple(shards), (*rest, INDEX))
    if SINGLE in top:
        return CheckpointFiles((SINGLE,), tuple(rest))
    pickles = [path for path in top if _PICKLE.fullmatch(path)]
    if pickles and allow_pickle:
        index = [PICKLE_INDEX] if PICKLE_INDEX in top else []
        return CheckpointFiles(tuple(pickles), (*rest, *index), pickled=True)
    raise _no_weights(top, pickles)


def _is_small(path: str) -> bool:
    parts = PurePosixPath(path).parts
    # `original/`, `onnx/` and the like hold the same model in other formats.
    if len(parts) > 1 and parts[0] != "additional_chat_templates":
        return False
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in _NOT_SMALL):
        return False
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in _SMALL)


def _adapter_files(top: list[str], rest: list[str], *, allow_pickle: bool) -> CheckpointFiles:
    if ADAPTER_WEIGHTS in top:
        return CheckpointFiles((ADAPTER_WEIGHTS,), tuple(rest), adapter=True)
    if PICKLED_ADAPTER not in top:
        raise LoadError(
            f"The adapter has {ADAPTER} but no weights.",
            why=f"It has neither {ADAPTER_WEIGHTS} nor {PICKLED_ADAPTER}.",
            next="Save the adapter again, or load the base model that its configuration names.",
        )
    if not allow_pickle:
        raise LoadError(
            "The adapter is a Python pickle, which can run arbitrary code when it is read.",
            next="If you trust its author, pass allow_pickle=True (`mdl load --allow-pickle`).",
        )
    return CheckpointFiles((PICKLED_ADAPTER,), tuple(rest), pickled=True, adapter=True)


def _not_a_model(have: list[str]) -> LoadError:
    if any(path.endswith(".gguf") for path in have):
        return LoadError(
            "The repository has GGUF files only.",
            why="GGUF is for llama.cpp; there is no config.json and no safetensors file.",
            next="Load the original repository; `mdl resolve` shows it if it is known.",
        )
    shown = ", ".join(have[:5]) or "nothing"
    return LoadError(
        "The repository is not a model that transformers can load.",
        why=f"It has no config.json. It contains {shown}{', …' if len(have) > 5 else ''}.",
        next="Check the name; datasets and diffusion pipelines need other libraries.",
    )


def _no_weights(top: list[str], pickles: list[str]) -> LoadError:
    if pickles or any(path.endswith(PICKLES) for path in top):
        return LoadError(
            "The weights are Python pickles, which can run arbitrary code when they are read.",
            why="The repository has no safetensors file.",
            next="Look for a safetensors revision (often refs/pr/…), or, if you trust the author, "
            "pass allow_pickle=True (`mdl load --allow-pickle`).",
        )
    return LoadError(
        "The repository has a configuration but no weights.",
        why="It has neither model.safetensors nor a full set of shards with an index.",
        next="Load a repository that has weights, or another revision.",
    )
