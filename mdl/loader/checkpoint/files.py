"""Which files of a repository a model needs: decided from their names alone.

Weights are safetensors. Pickles are code in disguise: they are chosen only where the caller says
so, and refused with the reason otherwise.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from mdl.errors import LoadError
from mdl.resolver import ADAPTER, is_adapter

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Configuration, tokenizer, processor and chat template files, wherever a model keeps them.
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.jsonl")
_NOT_SMALL = ("*.index.json", "*.safetensors*", "training_args*", "trainer_state.json")


@dataclass(frozen=True)
class Needed:
    """The files to have: `weights` (shards, or one file), the index if sharded, and the rest.

    `adapter` says that they are an adapter's, which goes on a model of another name.
    """

    weights: tuple[str, ...]
    rest: tuple[str, ...]
    pickled: bool = False
    adapter: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.rest, *self.weights)


def choose_files(
    paths: Iterable[str], *, allow_pickle: bool = False, remote_code: bool = False
) -> Needed:
    """Choose what to download and read from a repository's file names.

    Args:
        paths: every file of the commit, repository-relative.
        allow_pickle: take `pytorch_model.bin` where there are no safetensors.
        remote_code: the repository's Python files are wanted too.

    Raises:
        LoadError: neither model nor adapter, GGUF only, or pickles only and not allowed.
    """
    have = sorted(set(paths))
    top = [path for path in have if "/" not in path]
    rest = [path for path in have if _is_small(path) or (remote_code and path.endswith(".py"))]
    if is_adapter(top):
        return _adapter_files(top, rest, allow_pickle=allow_pickle)
    if "config.json" not in top:
        raise _no_model(have)
    shards = [path for path in top if _SHARD.fullmatch(path)]
    if INDEX in top and shards:
        return Needed(tuple(shards), (*rest, INDEX))
    if SINGLE in top:
        return Needed((SINGLE,), tuple(rest))
    pickles = [path for path in top if _PICKLE.fullmatch(path)]
    if pickles and allow_pickle:
        index = [PICKLE_INDEX] if PICKLE_INDEX in top else []
        return Needed(tuple(pickles), (*rest, *index), pickled=True)
    raise _no_weights(top, pickles)


def _is_small(path: str) -> bool:
    parts = PurePosixPath(path).parts
    # `original/`, `onnx/` and the like hold other forms of the same model.
    if len(parts) > 1 and parts[0] != "additional_chat_templates":
        return False
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in _NOT_SMALL):
        return False
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in _SMALL)


def _adapter_files(top: list[str], rest: list[str], *, allow_pickle: bool) -> Needed:
    if ADAPTER_WEIGHTS in top:
        return Needed((ADAPTER_WEIGHTS,), tuple(rest), adapter=True)
    if PICKLED_ADAPTER not in top:
        raise LoadError(
            f"There is {ADAPTER} and no weights of an adapter.",
            why=f"There is neither {ADAPTER_WEIGHTS} nor {PICKLED_ADAPTER}.",
            next="Save the adapter again, or load the base model that its configuration names.",
        )
    if not allow_pickle:
        raise LoadError(
            "The adapter is a Python pickle, which can run any code when read.",
            next="If you trust its author, pass allow_pickle=True (`mdl load --allow-pickle`).",
        )
    return Needed((PICKLED_ADAPTER,), tuple(rest), pickled=True, adapter=True)


def _no_model(have: list[str]) -> LoadError:
    if any(path.endswith(".gguf") for path in have):
        return LoadError(
            "The repository holds GGUF files only.",
            why="GGUF is made for llama.cpp; there is no config.json and no safetensors file.",
            next="Name the original repository: `mdl resolve` shows it where it is known.",
        )
    shown = ", ".join(have[:5]) or "nothing"
    return LoadError(
        "The repository is not a model that transformers can load.",
        why=f"It has no config.json. It holds {shown}{', …' if len(have) > 5 else ''}.",
        next="Check the name; a dataset or a pipeline in parts is loaded by other libraries.",
    )


def _no_weights(top: list[str], pickles: list[str]) -> LoadError:
    if pickles or any(path.endswith(PICKLES) for path in top):
        return LoadError(
            "The weights are stored as Python pickles, which can run any code when read.",
            why="There is no safetensors file in the repository.",
            next="Look for a safetensors revision (often refs/pr/…), or, if you trust the author, "
            "pass allow_pickle=True (`mdl load --allow-pickle`).",
        )
    return LoadError(
        "The repository has a configuration and no weights.",
        why="There is neither model.safetensors nor a complete set of shards with its index.",
        next="Name a repository with weights, or another revision.",
    )
