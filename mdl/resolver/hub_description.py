"""A repository on the Hub described for recognition, in at most three requests."""

from typing import TYPE_CHECKING

from mdl.resolver.formats import (
    GGUF_HEAD,
    SIDE_FILES,
    Description,
    File,
    Format,
    description_from_json,
    find_tables,
    read_gguf_head,
    recognize,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

    from mdl.resolver.hub_api import HubApi


def format_on_hub(hub: "HubApi", repo_id: str, revision: str | None = None) -> Format:
    """Recognise a repository from its listing, its `config.json` and one more small read.

    Raises:
        NoAccessError: the repository cannot be seen.
        BusyError, OfflineError: the Hub is overloaded, or does not answer.
    """
    info = hub.listing(repo_id, revision)
    description = describe_listing(info)
    paths = {file.path for file in description.files}
    commit = info.sha or revision
    if "config.json" in paths and not _is_only_gguf(description):
        text = hub.first_bytes(info.id, "config.json", commit)
        if text is not None:
            read = description_from_json({"config": text.decode("utf-8", "replace")})
            description = description._replace(config=read.config)
    return recognize(_with_one_more(hub, info.id, commit, description))


def describe_listing(info: "ModelInfo") -> Description:
    """What the Hub's own answer tells: names, sizes, tags, and the core of `config.json`."""
    tags = list(info.tags or ()) + ([info.library_name] if info.library_name else [])
    config = info.config if isinstance(info.config, dict) else None
    quantized = bool(config and config.get("quantization_config"))
    return Description(
        name=info.id,
        files=tuple(File(file.rfilename, file.size) for file in info.siblings or ()),
        # Without a quantization the Hub's extract may have left it out.
        config=config if quantized else None,
        tags=tuple(tags),
    )


def _is_only_gguf(description: Description) -> bool:
    endings = {file.path.rpartition(".")[2].lower() for file in description.files}
    return "gguf" in endings and not endings & {"safetensors", "bin", "pt", "pth"}


def _with_one_more(
    hub: "HubApi", repo_id: str, commit: str | None, description: Description
) -> Description:
    """The description with the file that decides where `config.json` does not."""
    found = recognize(description)
    if found.format == "gguf" and found.variants and found.bits_per_weight is None:
        path = found.variants[0].files[0].path
        head = read_gguf_head(hub.first_bytes(repo_id, path, commit, GGUF_HEAD) or b"")
        return description._replace(gguf={path: head}) if head else description
    if not any(find_tables(description.config or {})):
        present = {file.path for file in description.files}
        side = next((name for name in SIDE_FILES if name in present), None)
        data = hub.first_bytes(repo_id, side, commit) if side else None
        if side and data is not None:
            return description._replace(other_files={side: data.decode("utf-8", "replace")})
    return description
