"""Check the catalogue's mirrors against the Hub, and import mirrors from its model tree."""

import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, NamedTuple

from mdl.errors import MdlError, NotFoundError
from mdl.formats import find_apart, may_be_apart
from mdl.model_files import INDEX, SINGLE
from mdl.resolver.names import parse_name
from mdl.resolver.stored import list_row, tree_rows
from mdl.resolver.types import RepoInfo
from mdl.store import MirrorRow

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from mdl.resolver.hub_api import HubApi

_NAMES = 1_000_000  # bytes of an index or header: the names of some layers


class CheckedMirror(NamedTuple):
    """A row and its status: `ok`, `dead`, `renamed` or `mismatch`."""

    name: str
    repo_id: str
    status: str
    reason: str
    runtimes: str | None = None  # what loads it: empty for all that do its format; not looked at


def sync_mirrors(
    hub: "HubApi", name: str, formats: Collection[str] = ()
) -> tuple[str, list[MirrorRow]]:
    """The Hub's spelling of `name`, and the rows that its model tree gives for it.

    Args:
        formats: those to take; all of them by default.

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
    found = {info.id: info for info in hub.quantized_of(facts.repo_id)}
    listed = [list_row(info) for info in found.values()]
    rows = [
        row._replace(runtimes=_runtimes_on_hub(hub, found[row.repo_id]) or None)
        for row in tree_rows(facts.repo_id, listed, trusted_only=False)
        if not formats or row.format in formats
    ]
    return facts.repo_id, rows


def _runtimes_on_hub(hub: "HubApi", info: "ModelInfo | None") -> str | None:
    """What loads a repository, as in `CheckedMirror`: a request for the names of its tensors, if
    it is a mixture of experts packed by bitsandbytes."""
    config = info.config if info is not None else None
    if info is None or not config or not may_be_apart(config):
        return None
    files = {file.rfilename for file in info.siblings or ()}
    head = hub.first_bytes(info.id, INDEX if INDEX in files else SINGLE, info.sha, _NAMES)
    if head is None:
        return None
    # Names in quotes: the beginning of an index, or of the header of a single file.
    names = (name.decode(errors="replace") for name in re.findall(rb'"([^"]+)"', head))
    apart = find_apart(config, names)
    return "" if apart is None else " ".join(apart.runtimes)


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
            pool.submit(_look_at, hub, claims[0].repo_id): claims
            for claims in by_repository.values()
        }
        for future in as_completed(asked):
            facts, runtimes = future.result()
            yield [judge(row, facts)._replace(runtimes=runtimes) for row in asked[future]]
    except MdlError:
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _look_at(hub: "HubApi", repo_id: str) -> tuple[RepoInfo, str | None]:
    facts, info = hub.listing(repo_id, sizes=False)
    return facts, _runtimes_on_hub(hub, info)


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
