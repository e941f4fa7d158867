"""The tokenizer of a text model or the processor of a vision model, from its folder."""

import logging
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.loader.build.transformers_build import (
    PROCESSOR_FILES,
    quiet_transformers,
    transformers_errors,
)
from mdl.loader.checkpoint import read_json
from mdl.loader.request import LoadRequest

log = logging.getLogger("mdl")

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt",
    "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


def build_tokenizer(
    folder: Path, request: LoadRequest, config: Any = None, gguf: str | None = None
) -> Any:
    """The processor of a vision model, else the tokenizer, else None if there are no files.

    Args:
        config: the model's configuration with its repository's name, by which transformers
            recognizes some tokenizers; None reads the folder's.
        gguf: the GGUF file that has the tokenizer in it.

    Raises:
        LoadError: the files cannot be read.
    """
    import transformers

    options = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    with transformers_errors(folder), quiet_transformers():
        if gguf is not None:
            return transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf, **options)
        if any((folder / name).exists() for name in PROCESSOR_FILES) and request.task != "text":
            if _needs_torchvision(folder):
                return _without_video(folder, options)
            return transformers.AutoProcessor.from_pretrained(folder, **options)
        if has_tokenizer(folder):
            _check_tokenizer_kind(folder)
            return transformers.AutoTokenizer.from_pretrained(folder, config=config, **options)
    if request.task == "vision":
        raise LoadError(
            "The repository has no image processor.",
            why=f"It has neither {' nor '.join(PROCESSOR_FILES)}.",
            next="Load it with FastLanguageModel, or load the vision model it was made from.",
        )
    return None


def has_tokenizer(folder: Path | None) -> bool:
    return folder is not None and any((folder / name).exists() for name in TOKENIZER_FILES)


def _check_tokenizer_kind(folder: Path) -> None:
    """Reject a tokenizer.json of a kind that the installed tokenizers library lacks.

    Raises:
        LoadError: it lacks that kind.
    """
    import tokenizers

    path = folder / "tokenizer.json"
    if not path.exists():
        return
    model = read_json(path).get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if isinstance(kind, str) and not hasattr(tokenizers.models, kind):
        raise LoadError(
            f"The tokenizer in {folder} is of the kind {kind}, which tokenizers "
            f"{tokenizers.__version__} lacks.",
            why="tokenizer.json was written by a newer version.",
            next="Upgrade tokenizers and transformers.",
        )


def _processor_class(folder: Path) -> str | None:
    for name in (*PROCESSOR_FILES, "tokenizer_config.json"):
        if (folder / name).exists() and (found := read_json(folder / name).get("processor_class")):
            return str(found)
    return None


def _needs_torchvision(folder: Path) -> bool:
    """Whether the processor has a video part, for which transformers needs torchvision."""
    import transformers
    from transformers.utils import is_torchvision_available

    kind: Any = getattr(transformers, _processor_class(folder) or "", None)
    if is_torchvision_available() or not hasattr(kind, "get_attributes"):
        return False
    return "video_processor" in kind.get_attributes()


def _without_video(folder: Path, options: dict[str, Any]) -> Any:
    """The processor without its video part; saving it keeps the video settings.

    Without torchvision transformers rejects the whole processor, though only videos need it.
    """
    import transformers

    log.warning(
        "torchvision is not installed: the processor accepts images and text, but no videos."
    )
    kind = getattr(transformers, str(_processor_class(folder)))
    video = _video_settings(folder)

    def get_attributes(cls: type) -> list[str]:
        return [name for name in kind.get_attributes() if name != "video_processor"]

    def to_dict(self: Any) -> dict[str, Any]:
        return {**kind.to_dict(self), "video_processor": video}

    methods = {"get_attributes": classmethod(get_attributes), "to_dict": to_dict}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    template = folder / "chat_template.jinja"
    return type(kind.__name__, (kind,), methods)(
        image_processor=transformers.AutoImageProcessor.from_pretrained(folder, **options),
        tokenizer=tokenizer,
        chat_template=template.read_text() if template.exists() else tokenizer.chat_template,
    )


def _video_settings(folder: Path) -> dict[str, Any]:
    """The settings of the video part, from the files that transformers reads them from."""
    for name in ("processor_config.json", "video_preprocessor_config.json", PROCESSOR_FILES[0]):
        if (folder / name).exists():
            table = read_json(folder / name)
            if name != "processor_config.json":
                return table
            if "video_processor" in table:
                return dict(table["video_processor"])
    return {}


def check_vocabulary(model: Any, tokenizer: Any) -> str:
    """Compare a tokenizer's ids with the model's embeddings.

    Returns:
        What to warn of: added tokens without an embedding; empty if there are none.

    Raises:
        LoadError: other tokens than added ones have ids outside the embedding matrix.
    """
    tokens = getattr(tokenizer, "tokenizer", tokenizer)
    if not hasattr(tokens, "get_vocab") or not hasattr(model, "get_input_embeddings"):
        return ""
    embeddings = model.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)
    if rows is None:
        return ""
    beyond = {token: n for token, n in tokens.get_vocab().items() if n >= rows}
    added = tokens.get_added_vocab() if beyond else {}
    if not beyond.keys() <= added.keys():
        raise LoadError(
            f"The tokenizer has ids up to {max(beyond.values())}, but the model has {rows} "
            "embeddings.",
            why="The tokenizer belongs to another model, or the configuration is wrong.",
            next="Check the repository, or load it exactly and resize the embeddings.",
        )
    if not beyond:
        return ""
    names = sorted(beyond, key=lambda token: beyond[token])
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return (f"the model has no embedding for {', '.join(names[:3])}{more} (it has {rows} rows); do "
            "not use them in a text")  # fmt: skip
