"""A repository on the Hub described for recognition, in at most three requests."""

from typing import TYPE_CHECKING

from mdl.errors import NoAccessError
from mdl.formats import (
    GGUF_HEAD,
    SIDE_FILES,
    Description,
    File,
    Format,
    catalogue_format,
    description_from_json,
    find_tables,
    read_gguf_head,
    recognize,
)
from mdl.resolver.refusals import not_to_be_had
from mdl.resolver.stored import Listing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from huggingface_hub import ModelInfo

    from mdl.resolver.hub_api import HubApi


# Libraries whose formats differ by more than the Hub's extract of `config.json` tells.
_LOOK_CLOSER = ("compressed-tensors", "modelopt", "quark", "torchao", "fp8")


def format_on_hub(hub: "HubApi", repo_id: str, revision: str | None = None) -> Format:
    """Recognise a repository from its listing, its `config.json` and one more small read.

    Raises:
        NoAccessError: the repository cannot be seen.
        BusyError, OfflineError: the Hub is overloaded, or does not respond.
    """
    facts, info = hub.listing(repo_id, revision)
    if info is None and facts.state == "no_revision":
        raise not_to_be_had(facts, repo_id, repo_id, revision)
    if info is None:
        raise NoAccessError(
            f"{repo_id} does not exist, or is not visible to this token.",
            why=facts.message,
            next=f"Check the spelling; `mdl access {repo_id}` shows who may read it.",
        )
    description = describe_listing(info)
    if not _is_only_gguf(description):
        description = _with_config(hub, info, revision, description)
    return recognize(_with_one_more(hub, info.id, info.sha or revision, description))


def list_repository(
    hub: "HubApi",
    repo_id: str,
    revision: str | None = None,
    format: str | None = None,
    seen: Listing | None = None,
    *,
    deep: bool = False,
) -> Listing:
    """A repository's facts and format: one request, or two where its configuration decides.

    Args:
        format: the one asked for; of another one nothing more is read.
        seen: its row of the model tree, where that is known: only what that lacks is asked for.
        deep: read `config.json` too, for the size of the KV cache.

    Raises:
        BusyError, OfflineError: the Hub is overloaded, or does not respond.
    """
    if seen is not None and seen.format.method in _LOOK_CLOSER and revision is None:
        config = _read_config(hub, seen.repo_id, seen.info.commit)
        if config is not None:
            live = seen.info._replace(live=True)
            description = seen.description._replace(config=config)
            return Listing(live, recognize(description), True, seen.downloads, description)
    facts, info = hub.listing(repo_id, revision)
    if info is None:
        return Listing(facts, Format(None))
    description = describe_listing(info)
    found = recognize(description)
    names = {catalogue_format(found.format or ""), *(other.format for other in found.others)}
    look_closer = format is not None and found.method in _LOOK_CLOSER and format != "gguf"
    if look_closer or (deep and not _is_only_gguf(description)):
        description = _with_config(hub, info, revision, description)
        found = recognize(description)
    elif found.format in ("exl2", "exl3") and format in (None, *names):
        description = description._replace(branches=hub.branches(info.id))
        found = recognize(description)
    return Listing(facts, found, True, info.downloads or 0, description)


def _with_config(
    hub: "HubApi", info: "ModelInfo", revision: str | None, description: Description
) -> Description:
    if "config.json" not in {file.path for file in description.files}:
        return description
    config = _read_config(hub, info.id, info.sha or revision)
    return description if config is None else description._replace(config=config)


def _read_config(hub: "HubApi", repo_id: str, commit: str | None) -> "Mapping[str, Any] | None":
    text = hub.first_bytes(repo_id, "config.json", commit)
    if text is None:
        return None
    return description_from_json({"config": text.decode("utf-8", "replace")}).config


def describe_listing(info: "ModelInfo") -> Description:
    """What the Hub's own response says: names, sizes, tags, and the core of `config.json`."""
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
