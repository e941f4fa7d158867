"""The resolver's values: requests, facts and resolutions.

Named tuples, because defining a dataclass costs six times as much: five of them took a tenth of
the time of `mdl resolve`.
"""

import time
from typing import Any, NamedTuple, Protocol

from mdl.errors import ConfigError, MdlError, UsageError, error_from_json
from mdl.formats import File
from mdl.resolver.names import Name, parse_revision
from mdl.settings import PREFERENCES, parse_size
from mdl.store import LOADABLE_FORMATS, RepositoryRow

# Access states in which bytes may be fetched.
READABLE = ("open", "granted")
FP8_SCALINGS = ("block", "row")


class _ResolveOptions(NamedTuple):
    format: str = "16bit"
    exact: bool = False
    revision: str | None = None
    prefer: str = "default"
    fp8_scaling: str = "block"
    variant: str | None = None
    mmproj: str | None = None
    any_publisher: bool = False
    runtime: str | None = None
    fit: int | str | None = None
    context: int = 8192


class ResolveOptions(_ResolveOptions):
    """What to resolve a name to.

    Attributes:
        format: `16bit` (`None` too), `bnb-4bit`, `8bit`, `fp8`, or one that is taken as it is
            stored, with its variant behind a colon: `gguf:Q4_K_M`, `awq`, `mlx:4bit`.
        exact: the named repository and no other; a quantized format is then made on load.
        revision: a branch, tag or commit of the *named* repository.
        prefer: `default`, `cached` (what is in the cache) or `official` (the publisher's own).
        fp8_scaling: `block` or `row`.
        variant: that of a stored format, where `format` does not name it.
        mmproj: the precision of a vision projector beside a GGUF model; `none` leaves it out.
        any_publisher: take a stored format from publishers who are not on the trust list, too.
        runtime: what is to run it: the best format that it loads on this machine.
        fit: bytes (`24GB`) that weights, KV cache and working memory may take, or `auto` for this
            machine's; the largest variant that fits is taken.
        context: tokens of KV cache that have to fit.
    """

    __slots__ = ()

    def __new__(
        cls,
        format: str | None = "16bit",
        exact: bool = False,
        revision: str | None = None,
        prefer: str = "default",
        fp8_scaling: str = "block",
        variant: str | None = None,
        mmproj: str | None = None,
        any_publisher: bool = False,
        runtime: str | None = None,
        fit: int | str | None = None,
        context: int = 8192,
    ) -> "ResolveOptions":
        if format is None:
            format = "16bit"
        if format not in LOADABLE_FORMATS:
            from mdl.formats import parse_format

            format, named = parse_format(format)
            variant = named or variant
            if format == "fp8" and variant in FP8_SCALINGS:
                fp8_scaling, variant = variant, None
        if prefer not in PREFERENCES:
            raise UsageError(
                f"Unknown preference {prefer!r}.", next=f"Use {', '.join(PREFERENCES)}."
            )
        if fp8_scaling not in FP8_SCALINGS:
            raise UsageError(
                f"Unknown fp8 scaling {fp8_scaling!r}.", next=f"Use {', '.join(FP8_SCALINGS)}."
            )
        parse_revision(revision)
        if runtime is not None:
            from mdl.resolver.stored import runtime_named

            runtime = runtime_named(runtime)
            if format != "16bit" or variant is not None:
                raise UsageError(
                    "Ask for a format or for a runtime, not for both.",
                    next=f"Leave out {format} to get the best that {runtime} loads here.",
                )
        if fit is not None and fit != "auto":
            try:
                fit = parse_size(fit)
            except ConfigError as error:
                raise UsageError(error.message, next=error.next) from error
        if fit is not None and runtime is None and format in LOADABLE_FORMATS:
            raise UsageError(
                "What is to fit needs a format with variants, or a runtime.",
                next="Add --gguf, or --for and the runtime; `mdl load --dry-run` plans a load.",
            )
        return super().__new__(
            cls, format, exact, revision, prefer, fp8_scaling, variant, mmproj, any_publisher,
            runtime, fit, context,
        )  # fmt: skip

    @property
    def is_stored(self) -> bool:
        """Whether the format is taken as it is stored, and nothing is converted on load."""
        return (
            self.variant is not None
            or self.runtime is not None
            or self.format not in LOADABLE_FORMATS
        )

    @property
    def label(self) -> str:
        """The format as a resolution shows it: an exact name without a format is `exact`."""
        return "exact" if self.exact and self.format == "16bit" else self.format


class ResolveRequest(NamedTuple):
    """A checked name and its options, whether the Hub may be asked, and what is to load it."""

    name: Name
    options: ResolveOptions
    online: bool
    renamed_from: str | None = None
    runtime: str = "transformers"  # mdl's own loader


class RepoInfo(NamedTuple):
    """What is known of one repository.

    `live` means that the Hub was just asked; otherwise `age` is in seconds. `access` is one of
    open, granted, no_token, bad_token, not_requested, pending, rejected, unknown.
    """

    repo_id: str
    state: str  # ok, missing, disabled, no_revision
    gated: str | None = None  # "false", "auto", "manual"
    format: str | None = None
    base_model: str | None = None
    commit: str | None = None
    access: str = "unknown"
    message: str = ""
    live: bool = False
    age: float = 0.0
    revisions: tuple[str, ...] = ()  # its branches and tags, where it lacks the one asked for

    @property
    def is_private(self) -> bool:
        """Private, and visible to this token alone: never written to the database."""
        return self.access == "granted"

    @classmethod
    def from_row(cls, row: RepositoryRow, access: str, message: str) -> "RepoInfo":
        """A row of the catalogue, with this token's access and the Hub's words about it."""
        return cls(
            repo_id=row.renamed_to or row.repo_id,
            state=row.state,
            gated=row.gated,
            format=row.format,
            base_model=row.base_model,
            commit=row.commit,
            access=access,
            message=message,
            age=max(0.0, time.time() - row.checked_at),
        )

    def to_row(self, *, commit: bool = True) -> RepositoryRow:
        """As the catalogue keeps it; `commit` only of the default branch."""
        return RepositoryRow(
            repo_id=self.repo_id,
            state=self.state,
            gated=self.gated,
            format=self.format,
            base_model=self.base_model,
            commit=self.commit if commit else None,
            licence=None,
            checked_at=time.time(),
        )


class Access(NamedTuple):
    """Who may read a repository, as one token sees it; its fields are `mdl access --json`'s.

    `gated` is `False`, `auto`, `manual` or `None` for unknown, `access` a state as of `RepoInfo`,
    `message` the Hub's own words, `ungated_mirrors` other repositories with the same weights.
    """

    requested: str
    repo_id: str
    gated: bool | str | None
    access: str
    message: str
    page: str
    ungated_mirrors: tuple[str, ...]

    @property
    def denied(self) -> bool:
        return self.access not in (*READABLE, "unknown")

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "ungated_mirrors": list(self.ungated_mirrors)}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Access":
        """Raises: KeyError, TypeError: it is not what `to_json` gives."""
        fields = {name: body[name] for name in cls._fields}
        return cls(**{**fields, "ungated_mirrors": tuple(fields["ungated_mirrors"])})


class Cached(NamedTuple):
    """What the cache has of a repository, in whatever casing."""

    complete: bool
    path: str | None
    bytes: int
    commit: str | None
    repo_id: str


class CacheView(Protocol):
    """How the resolver looks up what is in the cache."""

    def __call__(self, repo_id: str, revision: str | None) -> Cached | None: ...

    def revisions(self, repo_id: str, but: str | None) -> tuple[str, ...]:
        """What is here of a repository but this revision: refs, then commits, newest first."""


class MissingFact(NamedTuple):
    """A fact that the rules need to go on."""

    what: str  # "facts" or "access"
    repo_id: str


class Redirect(NamedTuple):
    """The Hub redirects the name to another one: decide again for that."""

    repo_id: str


class TraceStep(NamedTuple):
    """One line of the trace: a candidate, the verdict on it, and why."""

    candidate: str
    verdict: str  # accepted, rejected, noted
    reason: str


class Resolution(NamedTuple):
    """What a name resolves to, and why; `error` is set if it was refused.

    `repo_id` is the repository (or folder) to load, `commit` its commit where known,
    `quantize_on_load` whether its weights still have to be converted to `format`. `files` are the
    ones to take of a format that is some of a repository's files, the one to open first.
    """

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
    trace: tuple[TraceStep, ...]
    alternatives: tuple[str, ...]
    cached: Cached | None
    local_mirrors: tuple[dict[str, Any], ...] = ()
    weights: str | None = None
    source_version: str | None = None
    knowledge_age: float | None = None
    error: MdlError | None = None
    variant: str | None = None
    files: tuple[File, ...] | None = None
    publisher: str | None = None
    runtimes: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        return self.rule == "local"

    @property
    def label(self) -> str:
        """The format with its variant: `gguf:Q4_K_M`."""
        return self.format if self.variant is None else f"{self.format}:{self.variant}"

    def to_json(self) -> dict[str, Any]:
        """The object of `mdl resolve --json` and of the HTTP API."""
        body: dict[str, Any] = {
            "requested": self.requested,
            "canonical": self.canonical,
            "repo_id": self.repo_id,
            "revision": self.revision,
            "commit": self.commit,
            "format": self.format,
            "variant": self.variant,
            "files": None if self.files is None else [file._asdict() for file in self.files],
            "substituted": self.substituted,
            "quantize_on_load": self.quantize_on_load,
            "gated": self.gated,
            "access": self.access,
            "publisher": self.publisher,
            "runtimes": list(self.runtimes),
            "source": self.source,
            "source_version": self.source_version,
            "rule": self.rule,
            "trace": [step._asdict() for step in self.trace],
            "alternatives": list(self.alternatives),
            "cached": None,
            "local_mirrors": list(self.local_mirrors),
            "weights": self.weights,
            "knowledge_age": self.knowledge_age,
        }
        if self.cached is not None:
            body["cached"] = {
                "complete": self.cached.complete,
                "path": self.cached.path,
                "bytes": self.cached.bytes,
            }
        if self.error is not None:
            body["error"] = self.error.to_json()
        return body

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Resolution":
        """The resolution behind a `to_json` object; unknown fields are ignored.

        Raises:
            KeyError, TypeError, ValueError: the object is no resolution.
        """
        cached, error = body["cached"], body.get("error")
        return cls(
            requested=str(body["requested"]),
            canonical=str(body["canonical"]),
            repo_id=str(body["repo_id"]),
            revision=body["revision"],
            commit=body["commit"],
            format=str(body["format"]),
            substituted=bool(body["substituted"]),
            quantize_on_load=bool(body["quantize_on_load"]),
            gated=body["gated"],
            access=str(body["access"]),
            source=str(body["source"]),
            source_version=body.get("source_version"),
            rule=str(body["rule"]),
            trace=tuple(
                TraceStep(s["candidate"], s["verdict"], s["reason"]) for s in body["trace"]
            ),
            alternatives=tuple(body["alternatives"]),
            cached=None
            if cached is None
            else Cached(
                bool(cached["complete"]), cached["path"], int(cached["bytes"]), body["commit"],
                str(body["repo_id"]),
            ),
            local_mirrors=tuple(body["local_mirrors"]),
            weights=body["weights"],
            knowledge_age=body["knowledge_age"],
            error=None if error is None else error_from_json(error),
            variant=body.get("variant"),
            files=None
            if body.get("files") is None
            else tuple(File(file["path"], file["size"]) for file in body["files"]),
            publisher=body.get("publisher"),
            runtimes=tuple(body.get("runtimes") or ()),
        )  # fmt: skip

    def checked(self) -> "Resolution":
        """This resolution, or its refusal raised."""
        if self.error is not None:
            raise self.error
        return self
