"""The catalogue's rows as values. A `key` is a repository name in lower case."""

from typing import NamedTuple

# Formats that mdl makes on load, those taken only as they are stored, and all that weights have.
LOADABLE_FORMATS = ("16bit", "bnb-4bit", "8bit", "fp8")
STORED_FORMATS = (
    "gguf", "awq", "gptq", "w4a16", "w8a16", "w8a8", "w4a8", "w4a4", "nvfp4", "mxfp4", "mxfp8",
    "mxfp6", "mlx", "exl2", "exl3", "hqq", "torchao", "auto-round", "quark", "onnx", "openvino",
    "aqlm", "vptq", "quanto", "bitnet", "eetq", "ctranslate2", "coreml", "mlc",
)  # fmt: skip
FORMATS = (*LOADABLE_FORMATS, *STORED_FORMATS, "other")

USER = "user"  # the source of the user's own rows, which no import touches
PACKAGED = "packaged"  # the source of the rows in the wheel


class BadMirror(NamedTuple):
    """A mirror that must not be used, what to use instead, and why."""

    repo_id: str
    replacement: str
    replacement_format: str
    reason: str
    source: str


class MirrorRow(NamedTuple):
    """`repo_id` is what to load for `name` in `format`; its weights are `weights`.

    `weights` is `format`, or `16bit` where they are quantized on load. `variant` tells mirrors of
    the same format apart: `dynamic` and `plain` 4-bit, `block` and `row` scaled fp8, `ungated` and
    `official` 16-bit. `relation` is `declared` or `verified`;
    `status` what `mdl catalog check` found (`ok`, `dead`, `renamed`, `mismatch`) or `None`;
    `runtimes` names what loads it, separated by spaces, where that is not all that loads `weights`.
    """

    name: str
    format: str
    repo_id: str
    weights: str
    variant: str
    rank: int
    relation: str
    source: str
    status: str | None = None
    status_reason: str | None = None
    source_version: str | None = None
    runtimes: str | None = None

    @property
    def loads_in(self) -> tuple[str, ...]:
        return tuple((self.runtimes or "").split())


class RepositoryRow(NamedTuple):
    """What the Hub last said of a repository, `checked_at` seconds since 1970.

    `state` is `ok`, `missing` (or private; the Hub does not say which) or `disabled`; `gated` is
    `false`, `auto`, `manual` or `None` for unknown; `format` one of FORMATS, `adapter` or `None`.
    """

    repo_id: str
    state: str
    gated: str | None
    format: str | None
    base_model: str | None
    commit: str | None
    licence: str | None
    checked_at: float
    renamed_to: str | None = None


class CatalogSource(NamedTuple):
    """Where rows came from: edition, place, hash of what was read, and licence."""

    name: str
    version: str
    origin: str
    sha256: str
    licence: str


class LocalMirror(NamedTuple):
    """A quantized checkpoint that mdl wrote from `repo_id` at `commit`.

    `settings` is the loader's digest of the quantization settings.
    """

    path: str
    repo_id: str
    commit: str
    format: str
    settings: str
    created_at: float


# Each mirror of a name, why it must not be used, and what the Hub said of it.
Mirrors = tuple[tuple[MirrorRow, BadMirror | None, RepositoryRow | None], ...]


class NameRecord(NamedTuple):
    """All that the catalogue has about one name."""

    repository: RepositoryRow | None
    bad: BadMirror | None
    quantized: str | None  # its format, if rows name this repository as a quantized mirror
    spelling: str | None  # the name as rows spell it
    mirrors: Mirrors
    local: tuple[LocalMirror, ...]
    runtimes: tuple[str, ...] = ()  # what loads the named repository, where its rows say so
