"""The rules, on values alone: no database, no Hub, no disk."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl.errors import NameRefusedError, NoAccessError, NotFoundError, UsageError
from mdl.resolver.names import parse_name
from mdl.resolver.rules import decide
from mdl.resolver.types import (
    Cached,
    MissingFact,
    Redirect,
    RepoInfo,
    Resolution,
    ResolveOptions,
    ResolveRequest,
)
from mdl.store.rows import LOADABLE_FORMATS, BadMirror, LocalMirror, MirrorRow, NameRecord

NAME = "Maker/Model-7B"
DYNAMIC = MirrorRow(NAME, "bnb-4bit", "fast/Model-7B-dyn-bnb-4bit", "bnb-4bit", "dynamic", 0,
                    "declared", "packaged")  # fmt: skip
PLAIN = DYNAMIC._replace(repo_id="fast/Model-7B-bnb-4bit", variant="plain", rank=1)
OPEN = MirrorRow(NAME, "16bit", "fast/Model-7B", "16bit", "ungated", 0, "declared", "packaged")
BLOCK = MirrorRow(NAME, "fp8", "fast/Model-7B-FP8", "fp8", "block", 0, "declared", "packaged")
ROW = BLOCK._replace(repo_id="fast/Model-7B-FP8-Dynamic", variant="row", rank=1)
ALL = (DYNAMIC, PLAIN, OPEN, BLOCK, ROW)


def known(*rows: MirrorRow, bad: dict[str, BadMirror] | None = None, **fields: Any) -> NameRecord:
    found = tuple((row, (bad or {}).get(row.repo_id), None) for row in rows)
    return NameRecord(**{"repository": None, "bad": None, "quantized": None, "spelling": NAME,
                        "mirrors": found, "local": (), **fields})  # fmt: skip


def ask(
    options: ResolveOptions,
    knowledge: NameRecord,
    facts: tuple[RepoInfo, ...] = (),
    *,
    name: str = NAME,
    online: bool = False,
    here: tuple[str, ...] = (),
) -> Resolution | MissingFact | Redirect:
    def cached(repo_id: str, revision: str | None) -> Cached | None:
        return Cached(True, "/cache", 1, "c" * 40, repo_id) if repo_id in here else None

    request = ResolveRequest(parse_name(name, allow_local=False), options, online)
    return decide(request, knowledge, {f.repo_id.lower(): f for f in facts}, cached)


def answered(*args: Any, **fields: Any) -> Resolution:
    outcome = ask(*args, **fields)
    assert isinstance(outcome, Resolution)
    return outcome


def seen(repo_id: str, **fields: Any) -> RepoInfo:
    return RepoInfo(**{"repo_id": repo_id, "state": "ok", "gated": "false", "commit": "d" * 40,
                    "live": True, **fields})  # fmt: skip


def test_four_bit_prefers_the_dynamic_mirror_then_the_plain_one() -> None:
    assert answered(ResolveOptions("bnb-4bit"), known(*ALL)).repo_id == DYNAMIC.repo_id
    dead = DYNAMIC._replace(status="dead", status_reason="404")
    answer = answered(ResolveOptions("bnb-4bit"), known(dead, PLAIN))
    assert answer.repo_id == PLAIN.repo_id
    assert [(s.candidate, s.verdict) for s in answer.trace] == [
        (DYNAMIC.repo_id, "rejected"),
        (PLAIN.repo_id, "accepted"),
    ]


def test_a_mirror_that_another_runtime_loads_is_taken_last_and_says_so() -> None:
    marked = DYNAMIC._replace(runtimes="unsloth")
    four = ResolveOptions("bnb-4bit")
    found = answered(four, known(marked, PLAIN))
    assert (found.repo_id, found.runtimes) == (PLAIN.repo_id, ())
    assert "runs in unsloth" in found.trace[0].reason
    found = answered(four, known(marked, OPEN))
    assert (found.repo_id, found.quantize_on_load) == (NAME, True)
    published = OPEN._replace(weights="mxfp4")
    found = answered(four, known(marked, published, quantized="mxfp4"))
    assert (found.repo_id, found.runtimes) == (marked.repo_id, ("unsloth",))
    own = parse_name(NAME, allow_local=False)
    request = ResolveRequest(own, four, False, runtime="unsloth")
    outcome = decide(request, known(marked, PLAIN), {}, lambda *_: None)
    assert isinstance(outcome, Resolution)
    assert (outcome.repo_id, outcome.runtimes) == (marked.repo_id, ("unsloth",))


def test_weights_published_in_mxfp4_are_what_16_bit_means_and_not_converted() -> None:
    copy = OPEN._replace(weights="mxfp4")
    knowledge = known(copy, quantized="mxfp4")
    assert answered(ResolveOptions(), knowledge, (seen(NAME),)).repo_id == NAME
    assert answered(ResolveOptions(), knowledge).weights == "mxfp4"
    refused = answered(ResolveOptions("bnb-4bit"), knowledge)
    assert "mxfp4" in str(refused.error and refused.error.why)


def test_without_a_mirror_it_is_quantized_on_load_and_the_trace_says_so() -> None:
    answer = answered(ResolveOptions("bnb-4bit"), known())
    assert (answer.repo_id, answer.quantize_on_load, answer.substituted) == (NAME, True, False)
    assert "on load" in answer.trace[-1].reason


def test_cached_describes_the_resolved_commit() -> None:
    """Of a branch that moved on, what is here is not what a load would take."""
    old, new = "c" * 40, "d" * 40

    def cached(repo_id: str, revision: str | None) -> Cached | None:
        return Cached(True, "/cache", 1, old, repo_id) if revision in (None, "main", old) else None

    facts = {NAME.lower(): seen(NAME, commit=new)}
    request = ResolveRequest(parse_name(NAME, allow_local=False), ResolveOptions(), True)
    moved = decide(request, known(), facts, cached)
    assert isinstance(moved, Resolution)
    assert (moved.commit, moved.cached) == (new, None)
    # Whoever prefers what is here gets that, and its commit.
    prefer = request._replace(options=ResolveOptions(prefer="cached"))
    kept = decide(prefer, known(), facts, cached)
    assert isinstance(kept, Resolution) and kept.cached is not None
    assert (kept.commit, kept.cached.commit) == (old, old)
    # Fetched by its commit alone, with no branch that names it, it is here all the same.
    facts = {NAME.lower(): seen(NAME, commit=old)}
    pinned = decide(request, known(), facts, lambda r, v: cached(r, v) if v == old else None)
    assert isinstance(pinned, Resolution) and pinned.cached is not None


def test_a_local_copy_of_this_commit_is_named() -> None:
    made = LocalMirror("/q/1", NAME, "d" * 40, "bnb-4bit", "s", 1.0)
    about = known(local=(made, made._replace(path="/q/2", commit="e" * 40)))
    answer = answered(ResolveOptions("bnb-4bit"), about, (seen(NAME),), online=True)
    assert [m["path"] for m in answer.local_mirrors] == ["/q/1"]
    assert ("/q/1", "noted") in [(s.candidate, s.verdict) for s in answer.trace]
    assert answered(ResolveOptions("8bit"), about, (seen(NAME),), online=True).local_mirrors == ()


def test_a_bad_mirror_gives_way_to_its_replacement() -> None:
    bad = BadMirror(DYNAMIC.repo_id, "fast/Model-7B", "16bit", "too big", "packaged")
    answer = answered(ResolveOptions("bnb-4bit"), known(DYNAMIC, PLAIN, bad={DYNAMIC.repo_id: bad}))
    assert (answer.repo_id, answer.quantize_on_load) == ("fast/Model-7B", True)
    assert "too big" in answer.trace[0].reason


def test_a_4_bit_repository_resolves_to_itself() -> None:
    name = PLAIN.repo_id
    back = MirrorRow(name, "16bit", "fast/Model-7B", "16bit", "float", 0, "declared", "packaged")
    other = DYNAMIC._replace(name=name)
    about = known(other, back, quantized="bnb-4bit", spelling=name)
    answer = answered(ResolveOptions("bnb-4bit"), about, name=name)
    assert (answer.repo_id, answer.substituted) == (name, False)
    assert answered(ResolveOptions("16bit"), about, name=name).repo_id == "fast/Model-7B"
    # 4-bit weights cannot become fp8: the float repository can.
    fp8 = answered(ResolveOptions("fp8"), about, name=name)
    assert (fp8.repo_id, fp8.quantize_on_load) == ("fast/Model-7B", True)


@pytest.mark.parametrize(("gated", "expected"), [("false", NAME), ("manual", OPEN.repo_id)])
def test_16_bit_leaves_a_repository_only_when_it_is_gated(gated: str, expected: str) -> None:
    facts = (seen(NAME, gated=gated), seen(OPEN.repo_id))
    assert answered(ResolveOptions(), known(*ALL), facts, online=True).repo_id == expected


def test_official_is_taken_where_access_is_granted_and_only_there() -> None:
    options = ResolveOptions("bnb-4bit", prefer="official")
    granted = answered(options, known(*ALL), (seen(NAME, gated="manual", access="granted"),),
                       online=True)  # fmt: skip
    assert (granted.repo_id, granted.quantize_on_load) == (NAME, True)
    pending = (seen(NAME, gated="manual", access="pending"), seen(DYNAMIC.repo_id))
    assert answered(options, known(*ALL), pending, online=True).repo_id == DYNAMIC.repo_id


def test_prefer_cached_beats_a_better_mirror_that_is_not_cached() -> None:
    options = ResolveOptions("bnb-4bit", prefer="cached")
    assert answered(options, known(*ALL), here=(PLAIN.repo_id,)).repo_id == PLAIN.repo_id
    assert answered(options, known(*ALL)).repo_id == DYNAMIC.repo_id


@pytest.mark.parametrize(("scaling", "expected"), [("block", BLOCK), ("row", ROW)])
def test_fp8_by_its_scaling(scaling: str, expected: MirrorRow) -> None:
    answer = answered(ResolveOptions("fp8", fp8_scaling=scaling), known(*ALL))
    assert answer.repo_id == expected.repo_id


@pytest.mark.parametrize(
    "wrong", [{"format": "2bit"}, {"prefer": "best"}, {"fp8_scaling": "column"}, {"revision": ".."}]
)
def test_invalid_options_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises((UsageError, NameRefusedError), match="not a|Unknown"):
        ResolveOptions(**wrong)


def test_a_persons_own_row_beats_the_catalogue() -> None:
    own = PLAIN._replace(repo_id="me/mine-bnb-4bit", source="user")
    answer = answered(ResolveOptions("bnb-4bit"), known(own, DYNAMIC))
    assert (answer.repo_id, answer.rule, answer.source) == ("me/mine-bnb-4bit", "override", "user")


def test_a_persons_own_row_beats_even_the_repository_itself() -> None:
    own = OPEN._replace(repo_id="me/fork", source="user")
    facts = (seen(NAME, gated="false"), seen("me/fork"))
    assert answered(ResolveOptions(), known(own, OPEN), facts, online=True).repo_id == "me/fork"


def test_exact_gated_without_access_stops_and_names_page_and_mirrors() -> None:
    facts = (seen(NAME, gated="manual", access="no_token"), seen(OPEN.repo_id))
    answer = answered(ResolveOptions(exact=True), known(*ALL), facts, online=True)
    assert isinstance(answer.error, NoAccessError)
    assert answer.error.exit_code == 4
    assert OPEN.repo_id in answer.error.next
    assert NAME in answer.error.next
    assert answer.alternatives


@pytest.mark.parametrize(
    ("options", "right"),
    [(ResolveOptions(exact=True), OPEN), (ResolveOptions("fp8", exact=True), BLOCK)],
    ids=["16bit", "fp8"],
)
def test_the_ungated_mirrors_named_are_there_and_right_for_the_format(
    options: ResolveOptions, right: MirrorRow
) -> None:
    gated = seen(NAME, gated="manual", access="no_token")
    rows = (*ALL, OPEN._replace(repo_id="Maker/Model-7B-hf", variant="official"))
    first = ask(options, known(*rows), (gated,), online=True)
    assert isinstance(first, MissingFact) and first.what == "facts", "whether it is there is asked"
    there = [seen(row.repo_id) for row in ALL]
    refused = answered(options, known(*rows), (gated, *there), online=True).error
    assert refused is not None
    named = refused.next.partition("Ungated mirrors: ")[2].rstrip(".").split(", ")
    assert named == [row.repo_id for row in ALL if row.format == right.format]
    for gone in ({"state": "missing"}, {"gated": "auto", "access": "no_token"}):
        there = [seen(row.repo_id, **gone) for row in ALL]
        refused = answered(options, known(*rows), (gated, *there), online=True).error
        assert refused is not None and "Ungated" not in refused.next


def test_a_revision_is_never_dropped_by_a_substitution() -> None:
    answer = answered(ResolveOptions("bnb-4bit", revision="v1"), known(*ALL))
    assert isinstance(answer.error, UsageError)
    assert "--exact" in answer.error.next
    kept = answered(ResolveOptions("bnb-4bit", exact=True, revision="v1"), known(*ALL))
    assert (kept.repo_id, kept.revision, kept.quantize_on_load) == (NAME, "v1", True)


def test_a_missing_repository_still_resolves_to_its_mirror() -> None:
    gone = RepoInfo(NAME, "missing", message="404", live=True)
    answer = answered(
        ResolveOptions("bnb-4bit"), known(*ALL), (gone, seen(DYNAMIC.repo_id)), online=True
    )
    assert answer.repo_id == DYNAMIC.repo_id
    exact = answered(ResolveOptions(exact=True), known(*ALL), (gone,), online=True)
    assert isinstance(exact.error, NotFoundError)


def test_a_rename_to_another_owner_is_shown_and_rejected_with_exact() -> None:
    moved = RepoInfo("Other/Model-7B", "ok", gated="false", live=True)
    facts = {NAME.lower(): moved}
    for options in (ResolveOptions(), ResolveOptions(exact=True)):
        request = ResolveRequest(parse_name(NAME, allow_local=False), options, True)
        outcome = decide(request, known(), facts, lambda repo_id, revision: None)
        if options.exact:
            assert isinstance(outcome, Resolution)
            assert outcome.error is not None
            assert "Other/Model-7B" in outcome.error.message
        else:
            assert outcome == Redirect("Other/Model-7B")
    followed = ResolveRequest(
        parse_name("Other/Model-7B", allow_local=False), ResolveOptions(), True, NAME
    )
    about = known(spelling=None)
    answer = decide(followed, about, {"other/model-7b": moved}, lambda repo_id, revision: None)
    assert isinstance(answer, Resolution)
    assert answer.substituted
    assert answer.requested == NAME
    assert "another owner" in answer.trace[0].reason


def test_only_missing_facts_are_requested() -> None:
    # A 4-bit mirror in the catalogue needs one fact, the mirror's own; a 16-bit request the gating.
    assert ask(ResolveOptions("bnb-4bit"), known(*ALL), online=True) == MissingFact(
        "facts", DYNAMIC.repo_id
    )
    assert ask(ResolveOptions(), known(*ALL), online=True) == MissingFact("facts", NAME)
    gated = (seen(NAME, gated="auto"),)
    assert ask(ResolveOptions(exact=True), known(*ALL), gated, online=True) == MissingFact(
        "access", NAME
    )


@pytest.mark.parametrize("exact", [True, False])
def test_a_cached_commit_needs_no_request(exact: bool) -> None:
    options = ResolveOptions(exact=exact, revision="c" * 40)
    answer = answered(options, known(*ALL), online=True, here=(NAME,))
    assert (answer.repo_id, answer.commit) == (NAME, "c" * 40)


def test_a_readable_gated_repository_keeps_its_revision() -> None:
    options = ResolveOptions(revision="v1")
    granted = (seen(NAME, gated="manual", access="granted"),)
    assert answered(options, known(*ALL), granted, online=True).repo_id == NAME
    denied = (seen(NAME, gated="manual", access="pending"), seen(OPEN.repo_id))
    assert isinstance(answered(options, known(*ALL), denied, online=True).error, UsageError)


ROWS = st.lists(st.sampled_from(ALL), unique=True, max_size=5)
GATING = st.sampled_from(["false", "auto", "manual", None])
ACCESS = st.sampled_from(["open", "granted", "no_token", "pending", "rejected", "unknown"])


@given(ROWS, st.sampled_from(LOADABLE_FORMATS), GATING, ACCESS)
def test_exact_never_substitutes(
    rows: list[MirrorRow], format: str, gated: str | None, access: str
) -> None:
    facts = (seen(NAME, gated=gated, access=access),)
    answer = answered(ResolveOptions(format, exact=True), known(*rows), facts)
    assert answer.repo_id == NAME
    assert not answer.substituted


@given(ROWS, st.sampled_from(LOADABLE_FORMATS), GATING)
def test_a_resolved_name_resolves_to_itself(
    rows: list[MirrorRow], format: str, gated: str | None
) -> None:
    facts = (seen(NAME, gated=gated, access="granted"),)
    first = answered(ResolveOptions(format), known(*rows), facts)
    if first.error is not None or not first.substituted:
        return
    quantized = None if first.weights == "16bit" else first.weights
    about = known(quantized=quantized, spelling=first.repo_id)
    again = answered(ResolveOptions(format), about, name=first.repo_id)
    assert again.repo_id == first.repo_id


@given(ROWS, st.sampled_from(LOADABLE_FORMATS), st.sampled_from([str.lower, str.upper, str.title]))
def test_casing_never_changes_the_resolution(rows: list[MirrorRow], format: str, case: Any) -> None:
    plain = answered(ResolveOptions(format), known(*rows))
    other = answered(ResolveOptions(format), known(*rows), name=case(NAME))
    assert (plain.repo_id, plain.canonical) == (other.repo_id, other.canonical)


@given(ROWS, st.sampled_from(LOADABLE_FORMATS), GATING)
def test_a_substitution_always_leaves_a_reason(
    rows: list[MirrorRow], format: str, gated: str | None
) -> None:
    answer = answered(
        ResolveOptions(format), known(*rows), (seen(NAME, gated=gated, access="unknown"),)
    )
    if answer.substituted:
        assert answer.trace[-1].verdict == "accepted"
        assert answer.trace[-1].candidate == answer.repo_id
        assert answer.trace[-1].reason


@pytest.mark.parametrize(
    "options",
    [ResolveOptions(), ResolveOptions("bnb-4bit"), ResolveOptions("bnb-4bit", exact=True)],
    ids=str,
)
def test_an_adapter_resolves_to_itself_not_to_its_base(options: ResolveOptions) -> None:
    name = "me/Model-bnb-4bit-lora"
    own = seen(name, format="adapter", base_model=NAME)
    answer = answered(options, known(spelling=name), (own,), name=name, online=True)
    assert (answer.repo_id, answer.weights) == (name, "adapter")
    assert not (answer.substituted or answer.quantize_on_load)


def test_a_mirror_that_turns_out_to_be_an_adapter_is_rejected() -> None:
    facts = (seen(DYNAMIC.repo_id, format="adapter"), seen(PLAIN.repo_id, format="bnb-4bit"))
    answer = answered(ResolveOptions("bnb-4bit"), known(*ALL), facts, online=True)
    assert answer.repo_id == PLAIN.repo_id
    assert "it is an adapter, not a model" in [step.reason for step in answer.trace]
