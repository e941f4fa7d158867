"""The shapes of what is asked of the cache over HTTP: its plans, actions and verifications."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from mdl.service.schemas import RequestFields

# Strict, because false is no size and no duration.
Size = (
    Annotated[str, Field(max_length=40), Strict()] | Annotated[int, Field(ge=0, le=2**60), Strict()]
)
Duration = (
    Annotated[str, Field(max_length=40), Strict()] | Annotated[float, Field(ge=0, le=1e6), Strict()]
)
RepoType = Literal["model", "dataset", "space", "kernel"]
Target = Annotated[str, Field(max_length=1000, examples=["org/name@main"])]


class Prune(RequestFields):
    """`mdl cache prune`: sizes as `200GB` or bytes, durations as `30d` or days.

    Nothing given is the configured policy; `now` erases instead of keeping it in the trash.
    """

    kind: Literal["prune"]
    max_size: Size | None = None
    keep_free: Size | None = None
    older_than: Duration | None = None
    unused_for: Duration | None = None
    detached: bool = False
    incomplete: bool = False
    keep_last: Annotated[int, Field(ge=0, le=10_000)] | None = None
    now: bool = False


class Remove(RequestFields):
    """`mdl cache rm`: exactly these repositories, revisions or files, one or several."""

    kind: Literal["rm"]
    target: Target | Annotated[list[Target], Field(min_length=1, max_length=200)]
    repo_type: RepoType | None = None
    all_casings: bool = False
    now: bool = False


class Normalize(RequestFields):
    """`mdl cache normalize`: one repository, or all without `name`; `to` as configured."""

    kind: Literal["normalize"]
    name: Target | None = None
    repo_type: RepoType | None = None
    to: Literal["shared", "hub", "lower"] | None = None
    across: bool = False
    store: bool = False


class Pin(RequestFields):
    """`mdl cache pin`: `org/name` or `org/name@revision`."""

    kind: Literal["pin"]
    name: Target
    repo_type: RepoType | None = None


class Unpin(RequestFields):
    """`mdl cache unpin`, written as it was pinned."""

    kind: Literal["unpin"]
    name: Target
    repo_type: RepoType | None = None


class Undo(RequestFields):
    """`mdl cache undo`: the last action."""

    kind: Literal["undo"]


class Restore(RequestFields):
    """`mdl cache trash restore`: what one action moved into the trash."""

    kind: Literal["restore"]
    id: Annotated[int, Field(ge=1, le=2**31)]


class Empty(RequestFields):
    """`mdl cache trash empty`: erase for good, all of it or the actions with these numbers."""

    kind: Literal["empty"]
    ids: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(max_length=1000)] = Field(
        default_factory=list
    )
    older_than: Duration | None = None


Plan = Annotated[
    Prune | Remove | Normalize | Pin | Unpin | Undo | Restore | Empty, Field(discriminator="kind")
]


class Action(RequestFields):
    """Carries a plan out if it still is the one whose digest is given."""

    plan: Plan
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Verify(RequestFields):
    """`mdl cache verify`, without repair; `throttle` is bytes a second, as `100MB`."""

    names: Annotated[list[Target], Field(max_length=1000)] = Field(default_factory=list)
    repo_type: RepoType | None = None
    again: bool = False
    throttle: Size | None = None
