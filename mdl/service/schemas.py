"""The shapes of the JSON API, for its OpenAPI document and for checking what comes in.

Answers are made by `to_json` of the values themselves; these classes describe them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(max_length=200, examples=["meta-llama/Llama-3.1-8B-Instruct"])]
Format = Literal["16bit", "bnb-4bit", "8bit", "fp8"]
Preference = Literal["default", "cached", "official"]
Revision = Annotated[str, Field(max_length=255)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class WishFields(_Request):
    wish: Format = "16bit"
    exact: bool = False
    revision: Revision | None = None
    prefer: Preference | None = None
    fp8_scaling: Literal["block", "row"] = "block"


class BulkRequest(WishFields):
    names: Annotated[list[Name], Field(min_length=1, max_length=1000)]


class LockRequest(WishFields):
    names: Annotated[list[Name], Field(min_length=1, max_length=100)]


class PruneFields(_Request):
    """Sizes as `200GB` or bytes, durations as `30d` or days; nothing given is the configuration."""

    kind: Literal["prune"] = "prune"
    max_size: str | int | None = None
    keep_free: str | int | None = None
    older_than: str | float | None = None
    unused_for: str | float | None = None
    detached: bool = False
    incomplete: bool = False
    keep_last: Annotated[int, Field(ge=0, le=10_000)] | None = None


class PlanRequest(PruneFields):
    pass


class PruneAction(PruneFields):
    """Carries a plan out if it still is the plan whose digest is given."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class UndoAction(_Request):
    kind: Literal["undo"]
    id: Annotated[int, Field(ge=1, le=2**31)]


class ErrorFields(_Answer):
    code: str
    message: str
    why: str
    next: str


class ErrorAnswer(_Answer):
    error: ErrorFields
    request_id: str | None = None


class StepFields(_Answer):
    candidate: str
    verdict: Literal["accepted", "rejected", "noted"]
    reason: str


class CachedFields(_Answer):
    complete: bool
    path: str | None
    bytes: int


class ResolutionAnswer(_Answer):
    """What a name gives, and why; `error` is there when it is a refusal."""

    requested: str
    canonical: str
    repo_id: str
    revision: str | None
    commit: str | None
    format: str
    substituted: bool
    quantize_on_load: bool
    gated: bool | str | None
    access: str
    source: str
    rule: str
    trace: list[StepFields]
    alternatives: list[str]
    cached: CachedFields | None
    local_mirrors: list[dict[str, Any]]
    weights: str | None
    knowledge_age: float | None
    error: ErrorFields | None = None


class BulkAnswer(_Answer):
    answers: list[ResolutionAnswer | ErrorAnswer]


class AccessAnswer(_Answer):
    requested: str
    repo_id: str
    gated: bool | str | None
    access: str
    message: str
    page: str
    ungated_mirrors: list[str]


class HealthAnswer(_Answer):
    status: str
    version: str


class CacheAnswer(_Answer):
    root: str | None
    repos: list[dict[str, Any]]
    totals: dict[str, Any]
    version: str


class PlanAnswer(_Answer):
    keep: list[dict[str, Any]]
    remove: list[dict[str, Any]]
    freed: int
    short: int
    digest: str


class ActionAnswer(_Answer):
    action_id: int | None
    freed: int
    skipped: dict[str, str]
