"""Check the catalogue's mirrors against the Hub, and import mirrors from its model tree."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, NamedTuple

from mdl.errors import MdlError, NotFoundError
from mdl.resolver.formats import claimed_format, config_format
from mdl.resolver.names import parse_name
from mdl.resolver.types import RepoInfo
from mdl.store import LOADABLE_FORMATS, CatalogSource, MirrorRow

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

    from mdl.resolver.hub_api import HubApi

HUB_TREE = CatalogSource("hub-tree", "", "the Hub's model tree (base_model:quantized)", "", "")
_TAGS = {"4-bit": "bnb-4bit", "8-bit": "8bit", "gguf": "gguf", "awq": "awq", "gptq": "gptq",
         "fp8": "fp8"}  # fmt: skip
# By downloads, and after whatever the packaged catalogue names.
_BEHIND = 50


class CheckedMirror(NamedTuple):
    """A row and its status: `ok`, `dead`, `renamed` or `mismatch`."""

    name: str
    repo_id: str
    status: str
    reason: str


def derived_rows(name: str, listed: "Iterable[ModelInfo]") -> Iterator[MirrorRow]:
    """Catalogue rows for repositories that say they are quantized from `name`, in their order.

    A relation is `verified` when the repository's own `config.json` shows the format it claims by
    its tags or name, `declared` when only the claim is there. Formats mdl cannot load are left out.
    """
    for rank, info in enumerate(listed):
        config = info.config or {}
        shown = config_format(config.get("quantization_config")) if config else None
        claim = next((_TAGS[tag] for tag in info.tags or () if tag in _TAGS), None)
        claim = claim or claimed_format(info.id)
        if shown == "16bit" and claim not in (None, "16bit"):
            shown = None  # a config without quantization cannot vouch for the claim
        found = shown or claim
        if found in LOADABLE_FORMATS and found != "16bit" and info.id.lower() != name.lower():
            relation = "verified" if shown is not None else "declared"
            yield MirrorRow(
                name, found, info.id, found, "", _BEHIND + rank, relation, HUB_TREE.name
            )


def sync_mirrors(hub: "HubApi", name: str) -> tuple[str, list[MirrorRow]]:
    """The Hub's spelling of `name`, and the rows that its model tree gives for it.

    Raises:
        NotFoundError: the repository does not exist, or is not visible to this token.
        OfflineError: the Hub does not respond.
    """
    asked = parse_name(name, allow_local=False).text
    facts = hub.facts(asked)
    if facts.state != "ok":
        raise NotFoundError(
            f"{asked} does not exist, or is not visible to this token.",
            why=facts.message,
            next="Check the spelling and the token.",
        )
    return facts.repo_id, list(derived_rows(facts.repo_id, hub.quantized_of(facts.repo_id)))


def judge(row: MirrorRow, facts: RepoInfo) -> CheckedMirror:
    """What the Hub's facts about a mirror mean for its row."""
    base = facts.base_model
    status, reason = "ok", ""
    if facts.state != "ok":
        status, reason = "dead", facts.message or facts.state
    elif facts.repo_id.lower() != row.repo_id.lower():
        status, reason = "renamed", f"the Hub now calls it {facts.repo_id}"
    elif base and _is_instruct(base) != _is_instruct(row.name) and _same_family(base, row.name):
        status, reason = "mismatch", f"its card says it was made from {base}"
    elif facts.format and facts.format != row.weights:
        status = "mismatch"
        reason = f"its config says {facts.format}, the row says {row.weights}"
    return CheckedMirror(row.name, row.repo_id, status, reason)


def check_mirrors(
    hub: "HubApi", rows: list[MirrorRow], workers: int = 8
) -> Iterator[list[CheckedMirror]]:
    """Check each mirror once, `workers` at a time; yields its rows as a list.

    Raises:
        BusyError: the Hub's rate limit is used up; earlier results remain valid.
        OfflineError: the Hub does not respond.
    """
    by_repository: dict[str, list[MirrorRow]] = {}
    for row in rows:
        by_repository.setdefault(row.repo_id.lower(), []).append(row)
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        asked = {
            pool.submit(hub.facts, claims[0].repo_id): claims for claims in by_repository.values()
        }
        for future in as_completed(asked):
            facts = future.result()
            yield [judge(row, facts) for row in asked[future]]
    except MdlError:
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _is_instruct(name: str) -> bool:
    words = name.lower().replace("_", "-").split("/")[-1].split("-")
    return any(word in ("instruct", "it", "chat", "sft", "dpo") for word in words)


def _same_family(one: str, other: str) -> bool:
    """Whether two names differ in little more than base versus instruct."""

    def stem(name: str) -> str:
        words = name.lower().split("/")[-1].replace("_", "-").split("-")
        drop = {"instruct", "it", "chat", "base", "hf", "sft", "dpo", "meta", "bnb", "4bit",
                "unsloth"}  # fmt: skip
        return "-".join(word for word in words if word not in drop)

    return stem(one) == stem(other)
