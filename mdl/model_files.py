"""Which files of a repository its model needs: transformers' own choice, from names and JSON.

The weights are those of `transformers.modeling_utils._get_resolved_checkpoint_files`: the file or
index that config.json names as `transformers_weights`, else `model.safetensors`, else the shards
that its index names, whatever they are called, else `pytorch_model.bin` or its shards. What is not
needed is not read and not downloaded, and its absence is not damage. All who ask about a model's
files ask here: the loader, pull, verify, and the cache for what is complete.
"""

import contextlib
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from mdl.errors import LoadError, MdlError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER_WEIGHTS, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Weights beside the checkpoint that transformers reads too: `extra_files` of a configuration.
EXTRA_FILES = {"jev": ("head.safetensors", "readout.safetensors")}
# Configuration, tokenizer, processor and template files.
_SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".jsonl", ".spm", ".codes", ".vocab",
          ".tokenizer")  # fmt: skip
_NOT_SMALL = re.compile(r".*\.index\.json|.*\.safetensors.*|training_args.*|trainer_state\.json")
_TEMPLATES = "additional_chat_templates"
# What other programs keep weights in.
_OTHER_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".onnx_data", ".h5", ".msgpack", ".ot",
                  ".tflite", ".mlmodel", ".mlpackage", ".xml", ".bin", ".pt", ".pth", ".ckpt",
                  ".npz")  # fmt: skip
_BY_RANK = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_VARIANT = re.compile(r"(?:model|pytorch_model)\.([\w-]+?)(?:-\d+-of-\d+)?\.(?:safetensors|bin)")

# What the JSON in a file of the repository says, by the file's name.
ReadJson = Callable[[str], Any]


class WeightFiles(NamedTuple):
    """The files that hold a model's weights, in the order they are read: a tensor that is in two
    of them is the later one's.

    `named_by` is the index that names them, empty where none does. `missing` are those of them that
    the repository does not have.
    """

    files: tuple[str, ...]
    named_by: str = ""
    missing: tuple[str, ...] = ()

    @property
    def pickled(self) -> bool:
        return any(not name.lower().endswith((".safetensors", ".gguf")) for name in self.files)


class ModelFiles(NamedTuple):
    """Everything a model, or an adapter, needs of its repository.

    `beside` are the files of sentence-transformers' modules, which a load of the model leaves.
    """

    weights: WeightFiles
    rest: tuple[str, ...]
    adapter: bool = False
    beside: tuple[str, ...] = ()

    @property
    def pickled(self) -> bool:
        return self.weights.pickled

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.read, *self.beside)

    @property
    def read(self) -> tuple[str, ...]:
        return (*self.rest, *self.weights.files)


def choose_files(
    names: Collection[str], read: ReadJson, *, pickles: bool = False, code: bool = False
) -> ModelFiles:
    """The files that a model, or an adapter, needs.

    Args:
        names: the files of the repository, as paths in it.
        pickles: take pickles where there are no safetensors.
        code: take the repository's Python files too.

    Raises:
        LoadError: neither model nor adapter, or without weights that can be loaded.
        MdlError: as `read`.
    """
    names = frozenset(names)
    rest = sorted(name for name in names if _is_small(name) or (code and name.endswith(".py")))
    if is_adapter(names):
        return ModelFiles(_adapter_weights(names, pickles=pickles), tuple(rest), adapter=True)
    if CONFIG not in names:
        raise not_a_model(names)
    weights = choose_weights(names, read, pickles=pickles)
    if weights.named_by in names:
        rest.append(weights.named_by)
    beside = _of_modules(names, read("modules.json")) if "modules.json" in names else []
    known = {*rest, *weights.files}
    beside = [name for name in beside if name not in known]
    return ModelFiles(weights, tuple(dict.fromkeys(rest)), beside=tuple(beside))


def subfolders(names: Collection[str], read: ReadJson) -> tuple[str, ...]:
    """The folders in which files of a model can be, from those at the top of its repository."""
    found = {_TEMPLATES}
    if "modules.json" in names:
        found.update(_module_folders(read("modules.json")))
    explicit = _object(read(CONFIG), CONFIG).get("transformers_weights") if CONFIG in names else ""
    paths = [explicit] if isinstance(explicit, str) else []
    for name in {INDEX, PICKLE_INDEX, *paths} & set(names):
        if name.endswith(".index.json"):
            with contextlib.suppress(LoadError):  # another file may be chosen
                paths += shards_of(_object(read(name), name), name)
    found.update(posixpath.dirname(path) for path in paths if "/" in path and ".." not in path)
    return tuple(sorted(found - {""}))


def missing_files(
    here: Collection[str], read: ReadJson, listed: Collection[str] | None = None
) -> tuple[str, ...]:
    """The files that a model repository lacks to be loaded, as far as what is here tells.

    Args:
        here: the files that are here.
        read: of these alone.
        listed: all files of the repository, where they are known.
    """
    here = frozenset(here)
    names = frozenset(listed) if listed is not None else here
    needed = {CONFIG, "modules.json", *(() if SINGLE in names else (INDEX,))} & names
    if needed - here:  # what the others are is not known without them
        return tuple(sorted(needed - here))
    if CONFIG not in names and ADAPTER not in names:
        return _missing_without_config(here, names, listed is not None)
    try:
        files = choose_files(names, read, pickles=True)
    except MdlError:
        if listed is not None:
            return tuple(sorted(names - here))
        others = any(name.lower().endswith(_OTHER_WEIGHTS) for name in here)
        return () if others else (ADAPTER_WEIGHTS if ADAPTER in here else SINGLE,)
    return tuple(sorted({*files.all, *files.weights.missing} - here))


def _missing_without_config(
    here: frozenset[str], names: frozenset[str], listed: bool
) -> tuple[str, ...]:
    if listed:
        return tuple(sorted(names - here))
    small = here and all(_is_small(name) for name in here)
    return (CONFIG,) if small else ()


def choose_weights(names: Collection[str], read: ReadJson, *, pickles: bool = False) -> WeightFiles:
    """The weight files of a model repository that has these files.

    Args:
        names: the files of the repository, as paths in it.
        pickles: take pickles where there are no safetensors.

    Raises:
        LoadError: no weights that can be loaded, with what is there instead.
        MdlError: as `read`.
    """
    config = _object(read(CONFIG), CONFIG)
    explicit = config.get("transformers_weights")
    extra = tuple(n for n in EXTRA_FILES.get(str(config.get("model_type")), ()) if n in names)
    if any(_BY_RANK.fullmatch(name) for name in names):
        raise _divided_by_rank()
    if explicit is not None:
        explicit = _checked_explicit(explicit)
        chosen = _from(explicit, names, read)
    elif SINGLE in names:
        chosen = WeightFiles((SINGLE,))
    elif INDEX in names:
        chosen = _from(INDEX, names, read)
    elif pickles and PICKLE in names:
        chosen = WeightFiles((PICKLE,))
    elif pickles and PICKLE_INDEX in names:
        chosen = _from(PICKLE_INDEX, names, read)
    else:
        raise no_weights(names)
    if chosen.pickled and not pickles:
        raise _pickled(chosen.files[0])
    return chosen._replace(files=(*chosen.files, *extra, *_adapter_beside(names, pickles)))


def is_adapter(names: Collection[str]) -> bool:
    """Whether these are the files of an adapter, which needs a base model of another name."""
    return ADAPTER in names and not any(n in names for n in (SINGLE, INDEX, PICKLE, PICKLE_INDEX))


def adapter_base(config: Any) -> str:
    """The base model that an adapter's configuration names, empty where it names none."""
    base = config.get("base_model_name_or_path") if isinstance(config, Mapping) else None
    return base if isinstance(base, str) else ""


def _adapter_beside(names: Collection[str], pickles: bool) -> tuple[str, ...]:
    """The weights of an adapter that is in the same folder as a whole model."""
    if ADAPTER not in names:
        return ()
    chosen = (ADAPTER_WEIGHTS, *((PICKLED_ADAPTER,) if pickles else ()))
    return tuple(name for name in chosen if name in names)[:1]


def _adapter_weights(names: Collection[str], *, pickles: bool) -> WeightFiles:
    if ADAPTER_WEIGHTS in names:
        return WeightFiles((ADAPTER_WEIGHTS,))
    if PICKLED_ADAPTER not in names:
        raise LoadError(
            f"The adapter has {ADAPTER} but no weights.",
            why=f"It has neither {ADAPTER_WEIGHTS} nor {PICKLED_ADAPTER}.",
            next="Save the adapter again, or load the base model that its configuration names.",
        )
    if not pickles:
        raise LoadError(
            "The adapter is a Python pickle, which can run arbitrary code when it is read.",
            why=f"The repository has {PICKLED_ADAPTER} and no {ADAPTER_WEIGHTS}.",
            next="If you trust its author, pass allow_pickle=True (`mdl load --allow-pickle`).",
        )
    return WeightFiles((PICKLED_ADAPTER,))


def may_belong(name: str) -> bool:
    """Whether a file of this name may be one of a model's, whatever else lies beside it."""
    return name.endswith(_OTHER_WEIGHTS) or _is_small(name)


def _is_small(name: str) -> bool:
    if not name.endswith(_SMALL):
        return False
    folder, slash, _ = name.partition("/")
    # `original/`, `onnx/` and the like hold other forms of the same model.
    return not (slash and folder != _TEMPLATES) and not _NOT_SMALL.fullmatch(name)


def _of_modules(names: Iterable[str], modules: Any) -> list[str]:
    """The files of the folders that sentence-transformers' modules.json names."""
    folders = tuple(f"{folder}/" for folder in _module_folders(modules))
    return sorted(name for name in names if folders and name.startswith(folders))


def _module_folders(modules: Any) -> list[str]:
    listed = modules if isinstance(modules, list) else []
    paths = [module.get("path") for module in listed if isinstance(module, Mapping)]
    return [_inside(path, "modules.json") for path in paths
            if isinstance(path, str) and path.strip("./")]  # fmt: skip


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise LoadError(
            f"{name} is not a JSON object.",
            why=f"It is {type(value).__name__} to JSON.",
            next="Load another revision, or ask the author to upload it again.",
        )
    return value


def shards_of(index: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The files that an index names, sorted, as paths in the repository.

    Raises:
        LoadError: it has no weight map, or one that leads out of the repository.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise _bad_index(name, "It has no weight_map.")
    if not all(isinstance(file, str) and file for file in weight_map.values()):
        raise _bad_index(name, "Its weight_map has values that are not file names.")
    return tuple(sorted({_inside(file, name) for file in weight_map.values()}))


def _from(name: str, names: Collection[str], read: ReadJson) -> WeightFiles:
    """One file, or the shards of an index, and which of them are not there."""
    if not name.endswith(".index.json"):
        return WeightFiles((name,), missing=() if name in names else (name,))
    if name not in names:
        return WeightFiles((), name, (name,))
    files = shards_of(_object(read(name), name), name)
    return WeightFiles(files, name, tuple(file for file in files if file not in names))


def _inside(path: str, where: str) -> str:
    clean = posixpath.normpath(path)
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise LoadError(
            f"{where} names a file outside the repository: {path!r}.",
            why="A repository's weights are its own files.",
            next="Do not load it. Ask its author to name files of the repository.",
        )
    return clean


def _checked_explicit(name: Any) -> str:
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise LoadError(
            f"config.json names {name!r} as its weights (transformers_weights).",
            why="transformers takes a safetensors file or the index of some there, nothing else.",
            next="Remove that line from config.json, or name a safetensors file in it.",
        )
    return _inside(name, "config.json (transformers_weights)")


def _bad_index(name: str, why: str) -> LoadError:
    return LoadError(
        f"{name} is not an index of weight files.",
        why=why,
        next="Load another revision, or ask the author to upload the index again.",
    )


def _divided_by_rank() -> LoadError:
    return LoadError(
        "The weights are a distributed checkpoint, a file a rank (shard-…-model-….safetensors).",
        why="They are parts of tensors; transformers puts them together on as many processes.",
        next="Merge them with transformers' consolidate_safetensors_files, and load the result.",
    )


def _pickled(name: str) -> LoadError:
    return LoadError(
        "The weights are Python pickles, which can run arbitrary code when they are read.",
        why=f"{name} is one, and the repository has no safetensors file in its place.",
        next="Look for a safetensors revision (often refs/pr/…), or, if you trust the author, "
        "pass allow_pickle=True (`mdl load --allow-pickle`).",
    )


def no_weights(names: Collection[str]) -> LoadError:
    """The refusal of a repository that has config.json and no weights to load."""
    top = sorted(name for name in names if "/" not in name)
    if found := [name for name in top if name in (PICKLE, PICKLE_INDEX)]:
        return _pickled(found[0])
    if variants := sorted({m[1] for name in top if (m := _VARIANT.fullmatch(name))}):
        return LoadError(
            f"The repository has its weights in variants only: {', '.join(variants)}.",
            why=f"There is no {SINGLE}; mdl loads no variant in its place.",
            next=f"Load it with transformers (variant={variants[0]!r}) and save it once, or copy "
            "the folder and rename the files.",
        )
    if shards := [name for name in top if re.search(r"-\d+-of-\d+\.safetensors$", name)]:
        return LoadError(
            f"The repository has {len(shards)} weight files and no index that names them.",
            why=f"There is neither {SINGLE} nor {INDEX}.",
            next="Ask the author for the index, or load another revision.",
        )
    if found := [name for name in top if name.endswith(PICKLES)]:
        return LoadError(
            f"The repository has no safetensors file. It has {_some(found)}.",
            why=f"transformers reads {SINGLE}, its shards, and {PICKLE}; these are other files.",
            next="Load another revision, or convert them as the model's page says.",
        )
    return LoadError(
        "The repository has a configuration but no weights.",
        why=f"It has neither {SINGLE} nor {INDEX}. {_what_else(names)}".strip(),
        next="Load a repository that has weights, or another revision.",
    )


def not_a_model(names: Collection[str]) -> LoadError:
    """The refusal of a repository without config.json."""
    inner = sorted(name for name in names if name.count("/") == 1 and name.endswith("/" + CONFIG))
    folders = [name.partition("/")[0] for name in inner]
    if "model_index.json" in names:
        return LoadError(
            "The repository is a pipeline in parts (model_index.json).",
            why="Its models are in folders, each for a part of the work.",
            next="Load it with diffusers: DiffusionPipeline.from_pretrained.",
        )
    if any(name.lower().endswith(".gguf") for name in names):
        return LoadError(
            "The repository has GGUF files only.",
            why="There is no config.json and no safetensors file.",
            next="Ask for one of its variants: --gguf, --format gguf:Q8_0 (format=), NAME:Q8_0.",
        )
    if folders:
        return LoadError(
            f"The model is in a subfolder of the repository: {_some(folders)}.",
            why="There is no config.json beside it at the top.",
            next=f"Download it and load that folder: `hf download NAME --include '{folders[0]}/*' "
            f"--local-dir DIR`, then DIR/{folders[0]}.",
        )
    if "params.json" in names:
        return LoadError(
            "The repository has a model in its publisher's own layout (params.json).",
            why="transformers needs config.json, which it does not have.",
            next="Load the repository with transformers' files, often the same name with -hf.",
        )
    return LoadError(
        "The repository is not a model that transformers can load.",
        why=f"It has no config.json. It contains {_some(sorted(names)) or 'nothing'}.",
        next="Check the name; datasets and diffusion pipelines need other libraries.",
    )


def _what_else(names: Collection[str]) -> str:
    kinds = {"ONNX": ".onnx", "GGUF": ".gguf", "TensorFlow": ".h5", "Flax": ".msgpack"}
    found = [kind for kind, end in kinds.items() if any(n.lower().endswith(end) for n in names)]
    return f"It has {' and '.join(found)} files, for other programs." if found else ""


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
