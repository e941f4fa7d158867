"""The shapes of the JSON API: they check what comes in and document what goes out.

What goes out is made by `to_json` of the values themselves; these classes describe it.
"""

from typing import Annotated, Any, Literal, Self

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from mdl.errors import UsageError
from mdl.resolver import HIGHEST_RANK, ResolveOptions

Name = Annotated[str, Field(max_length=200, examples=["meta-llama/Llama-3.1-8B-Instruct"])]
Format = Literal[
    "16bit", "bnb-4bit", "8bit", "fp8", "gguf", "awq", "gptq", "w4a16", "w8a16", "w8a8",
    "w4a8", "w4a4", "nvfp4", "mxfp4", "mxfp8", "mxfp6", "mlx", "exl2", "exl3", "hqq",
    "torchao", "auto-round", "quark", "onnx", "openvino", "aqlm", "vptq", "quanto",
    "bitnet", "eetq", "ctranslate2", "coreml", "mlc",
]  # fmt: skip
Weights = Format | Literal["other"]
Preference = Literal["default", "cached", "official"]
Revision = Annotated[str, Field(max_length=255)]


class RequestFields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Response(BaseModel):
    model_config = ConfigDict(extra="allow")


class ResolveFields(RequestFields):
    """The options of `mdl resolve`."""

    format: Annotated[str, Field(max_length=60, examples=["bnb-4bit", "gguf:Q4_K_M"])] = "16bit"
    exact: bool = False
    revision: Revision | None = None
    prefer: Preference | None = None
    fp8_scaling: Literal["block", "row"] = "block"
    variant: Annotated[str, Field(max_length=40)] | None = None
    mmproj: Annotated[str, Field(max_length=40)] | None = None
    any_publisher: bool = False
    runtime: Annotated[Annotated[str, Field(max_length=40)] | None, Field(alias="for")] = None
    fit: Annotated[str, Field(max_length=40, examples=["24GB"])] | None = None
    context: Annotated[int, Field(ge=1, le=100_000_000)] = 8192

    def options(self, prefer: str) -> ResolveOptions:
        """As the resolver takes them; `prefer` is the configured preference.

        Raises:
            UsageError: the format or the revision cannot be one.
        """
        fields = {field: getattr(self, field) for field in ResolveOptions._fields}
        return ResolveOptions(**{**fields, "prefer": self.prefer or prefer})


class ResolveQuery(ResolveFields):
    name: Name
    family: bool = False

    @classmethod
    def of(cls, params: QueryParams) -> Self:
        """A request's query. FastAPI's own reading of it would take as long as all else together.

        Raises:
            RequestValidationError: a field is unknown, missing or wrong.
            UsageError: a field is given twice.
        """
        if len(params.multi_items()) > len(params):
            raise UsageError("A field is given twice.", next="Ask for one name at a time.")
        try:
            return cls.model_validate(dict(params))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error

    @classmethod
    def parameters(cls) -> list[dict[str, Any]]:
        """The fields as OpenAPI describes parameters."""
        schema = cls.model_json_schema()
        return [
            {"name": name, "in": "query", "required": name in schema["required"], "schema": field}
            for name, field in schema["properties"].items()
        ]


class BulkRequest(ResolveFields):
    names: Annotated[list[Name], Field(min_length=1, max_length=1000)]


class LockRequest(ResolveFields):
    names: Annotated[list[Name], Field(min_length=1, max_length=100)]


# A database server takes no NUL in a text.
Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


FileName = Annotated[
    str, Field(max_length=100, pattern=r"^[^/\\\x00-\x1f\x7f]+$", examples=["team.toml"])
]


class MirrorRecord(RequestFields):
    """A row of a catalogue file, as `mdl catalog export` writes it."""

    name: Name
    repo_id: Name
    format: Format | None = None
    weights: Weights | None = None
    variant: Annotated[str, Field(max_length=40)] = ""
    rank: Annotated[int, Field(ge=-HIGHEST_RANK, le=HIGHEST_RANK)] = 0
    relation: Literal["declared", "verified"] = "declared"
    runtimes: Annotated[str, Field(max_length=100)] | None = None


class MirrorToAdd(RequestFields):
    """`mdl catalog add`: `format` and `weights` are inferred from the mirror's name if omitted."""

    name: Name
    mirror: Name
    format: Format | None = None
    weights: Weights | None = None
    rank: Annotated[int, Field(ge=-HIGHEST_RANK, le=HIGHEST_RANK)] = 0
    dry_run: bool = False


class ErrorFields(_Response):
    code: str
    message: str
    why: str
    next: str


class ErrorResponse(_Response):
    error: ErrorFields
    request_id: str | None = None


class StepFields(_Response):
    candidate: str
    verdict: Literal["accepted", "rejected", "noted"]
    reason: str


class CachedFields(_Response):
    complete: bool
    path: str | None
    bytes: int


class FamilyResponse(_Response):
    """What `mdl tree --json` prints."""

    requested: str
    base: str
    members: list[dict[str, Any]]
    requests: dict[str, str | None]


class ResolutionResponse(_Response):
    """What a name gives, and why; `error` is there when it is a refusal."""

    requested: str
    canonical: str
    repo_id: str
    revision: str | None
    commit: str | None
    format: str
    variant: str | None = None
    files: list[dict[str, Any]] | None = None
    substituted: bool
    quantize_on_load: bool
    gated: bool | str | None
    access: str
    publisher: str | None = None
    runtimes: list[str] = []
    source: str
    rule: str
    trace: list[StepFields]
    alternatives: list[str]
    cached: CachedFields | None
    local_mirrors: list[dict[str, Any]]
    weights: str | None
    knowledge_age: float | None
    family: FamilyResponse | None = None
    error: ErrorFields | None = None


class BulkResponse(_Response):
    answers: list[ResolutionResponse | ErrorResponse]


class KnownName(_Response):
    name: str
    cached: bool


class NamesResponse(_Response):
    names: list[KnownName]


class AccessResponse(_Response):
    requested: str
    repo_id: str
    gated: bool | str | None
    access: str
    message: str
    page: str
    ungated_mirrors: list[str]


class HealthResponse(_Response):
    status: str
    version: str


class MirrorFields(_Response):
    name: str
    format: str
    repo_id: str
    weights: str
    variant: str
    rank: int
    relation: str
    source: str
    status: str | None
    status_reason: str | None
    source_version: str | None
    runtimes: str | None


class SourceFields(_Response):
    name: str
    version: str
    origin: str
    sha256: str
    licence: str


class CatalogResponse(_Response):
    """A page of the table; `next` is the following page's `after`, `null` on the last one."""

    sources: list[SourceFields]
    mirrors: list[MirrorFields]
    next: str | None


class NamedResponse(_Response):
    """A name's rows, and why it must not be used, where that is known."""

    name: str
    bad: dict[str, Any] | None
    mirrors: list[MirrorFields]


class AddedResponse(_Response):
    """What `mdl catalog add --json` prints."""

    added: MirrorFields
    dry_run: bool


class RemovedResponse(_Response):
    """What `mdl catalog rm --json` prints."""

    rows: list[MirrorFields]
    removed: int


class ImportedResponse(_Response):
    """What `mdl catalog import --json` prints."""

    source: SourceFields
    rows: int
    bad_mirrors: int
    dry_run: bool


class CacheResponse(_Response):
    root: str | None
    repos: list[dict[str, Any]]
    totals: dict[str, Any]
    version: str


class DownloadFields(_Response):
    """Sizes in bytes, `began` in seconds since 1970; `asked_by` are addresses."""

    repo_id: str
    repo_type: str
    commit: str
    path: str
    size: int
    arrived: int
    bytes_per_second: float
    began: float
    asked_by: list[str]


class DownloadsResponse(_Response):
    downloads: list[DownloadFields]


class PlanResponse(_Response):
    """What the command prints with `--dry-run --json`, and the plan's digest."""

    dry_run: bool
    digest: str


class ActionResponse(_Response):
    """What the command prints with `--yes --json`."""

    dry_run: bool


class VerifyResponse(_Response):
    """What the command prints with `--json`; `error` is there when something is bad."""

    root: str
    checked: int
    skipped: int
    bytes: int
    bad: list[dict[str, Any]]
    error: ErrorFields | None = None
