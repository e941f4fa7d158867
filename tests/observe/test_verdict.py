"""Expectations and lock files against what was opened, decided without a run."""

import pytest

from mdl.errors import UsageError
from mdl.observe.expectation import parse_expectation
from mdl.observe.report import (
    FolderLoad,
    KnownMirror,
    Load,
    OpenedFile,
    RunReport,
    read_run_report,
)
from mdl.observe.verdict import check, check_locked, error_of, verdict_of
from mdl.resolver import LockEntry
from tests.observe.conftest import COMMIT, MIRROR, MODEL, OTHER

ANY = Load(
    repo_id=MODEL,
    repo_type="model",
    commit=COMMIT,
    spelling=MODEL,
    path="/cache/snapshot",
    same_in=(),
    refs=("main",),
    format="16bit",
    weights=True,
    files=(OpenedFile("model.safetensors", 10, "a" * 64, 1.0, ("inotify",)),),
    bytes=10,
    first_opened=1.0,
    process=None,
    gated=None,
    mirror_of=(),
)
KNOWN = KnownMirror(MODEL, "bnb-4bit", "dynamic", "declared", "packaged", "2026.10.9")
MIRRORED = ANY._replace(repo_id=MIRROR, spelling=MIRROR, format="bnb-4bit", mirror_of=(KNOWN,))
TOKENIZER = ANY._replace(weights=False, format=None)
FOLDER = FolderLoad("/models/mine", "16bit", True, ANY.files, 10, 1.0, None)


def _report(*texts: str, loads: tuple[Load, ...] = (), unseen: tuple[str, ...] = ()) -> RunReport:
    expected, unexpected = check([parse_expectation(text) for text in texts], loads, ())
    return RunReport(
        ("python", "train.py"), "/home", 1.0, 41.0, 0, None, loads, (), (), (), (), unseen, (),
        expected, unexpected, verdict_of(expected, unexpected, all_seen=not unseen),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "load", "met"),
    [
        (MODEL, ANY, True),
        (MODEL.upper(), ANY, True),
        (f"{MODEL}=exact", ANY, True),
        (f"{MODEL}=16bit", ANY, True),
        (f"{MODEL}=bnb-4bit", ANY, False),
        (f"{MODEL}@main", ANY, True),
        (f"{MODEL}@{COMMIT[:7]}", ANY, True),
        (f"{MODEL}@{COMMIT[:6]}", ANY, False),
        (f"{MODEL}=exact@v1", ANY, False),
        (f"{MODEL}@{OTHER}", ANY._replace(same_in=(OTHER,)), True),
        (MODEL, ANY._replace(spelling=MODEL.lower(), repo_id=MODEL), True),
        (MODEL, TOKENIZER, False),
        (MODEL, MIRRORED, False),
        (f"{MODEL}=exact", MIRRORED, False),
        (f"{MODEL}=bnb-4bit", MIRRORED, True),
        (f"{MODEL}=fp8", MIRRORED, False),
        (f"{MODEL}=bnb-4bit@main", MIRRORED, False),
        (MIRROR, MIRRORED, True),
        ("org/other", ANY, False),
    ],
)
def test_an_expectation(expected: str, load: Load, met: bool) -> None:
    outcome, unexpected = check([parse_expectation(expected)], [load], ())
    assert outcome[0].ok is met
    assert bool(outcome[0].reason) is (not met or (load is MIRRORED and expected != MIRROR))
    assert bool(unexpected) is (not met and load.weights)


def test_a_variant_is_read_from_the_files_name() -> None:
    gguf = ANY._replace(
        format="gguf", files=(OpenedFile("Model-Q4_K_M.gguf", 1, None, 1.0, ("inotify",)),)
    )
    outcomes = [
        check([parse_expectation(f"{MODEL}=gguf:{variant}")], [gguf], ())[0][0].ok
        for variant in ("q4_k_m", "Q8_0")
    ]
    assert outcomes == [True, False]


def test_every_other_model_is_unexpected_but_not_its_tokenizer_alone() -> None:
    expectations = [parse_expectation(MODEL)]
    other = ANY._replace(repo_id="org/other", spelling="org/other")
    _, unexpected = check(expectations, [ANY, other], [FOLDER])
    assert [each.name for each in unexpected] == ["org/other", FOLDER.path]
    assert check(expectations, [ANY, other._replace(weights=False)], ())[1] == ()


def test_a_folder_is_expected_by_its_path(tmp_path: object) -> None:
    folder = FOLDER._replace(path=str(tmp_path))
    assert check([parse_expectation(str(tmp_path))], [], [folder])[1] == ()


@pytest.mark.parametrize(
    "text", ["", "=exact", "org/model=", "org/model=nonsense", "a/b/c", "@main"]
)
def test_what_cannot_be_expected(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_expectation(text)
    assert caught.value.next


LOCKED = LockEntry(
    requested=MODEL,
    canonical=MODEL,
    repo_id=MODEL,
    commit=COMMIT,
    format="16bit",
    substituted=False,
    quantize_on_load=False,
    source="hub",
    catalogue="",
    gated=False,
    upstream_commit=None,
    files={"model.safetensors": f"sha256:{'a' * 64}"},
)


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (ANY, ""),
        (ANY._replace(commit=OTHER, same_in=(COMMIT,)), ""),
        (ANY._replace(commit=OTHER), "opened at 222222222222, but mdl.lock has 111111111111"),
        (MIRRORED, "mdl.lock does not name it"),
        (ANY._replace(files=(OpenedFile("model.safetensors", 1, "b" * 64, 1.0, ()),)),
         "its file model.safetensors is not the one in mdl.lock"),
        (ANY._replace(files=(OpenedFile("other.bin", 1, "b" * 64, 1.0, ()),)),
         "mdl.lock does not name its file other.bin"),
        (ANY._replace(repo_id="org/data", spelling="org/data", repo_type="dataset"), ""),
    ],
)  # fmt: skip
def test_a_lock_file(load: Load, reason: str) -> None:
    found = check_locked([LOCKED], [load], (), "mdl.lock")
    assert [each.reason for each in found] == ([reason] if reason else [])


def test_the_error_says_what_was_opened_instead_and_what_to_do() -> None:
    error = error_of(_report(f"{MODEL}=exact", loads=(MIRRORED,)))
    assert error is not None
    assert error.exit_code == 6
    assert str(error).splitlines() == [
        f"expected {MODEL}, exact; it was not opened.",
        f"  why:  the run opened {MIRROR}, a bnb-4bit mirror of it"
        " (catalogue: packaged 2026.10.9, dynamic)",
        f"  next: Pass use_exact_model_name=True, or expect {MODEL}=bnb-4bit.",
    ]


def test_what_may_have_been_missed_is_not_called_right() -> None:
    error = error_of(_report(MODEL, loads=(ANY,), unseen=("The system dropped events.",)))
    assert error is not None
    assert error.why == "The system dropped events"


def test_a_report_survives_its_json() -> None:
    report = _report(MODEL, loads=(ANY, MIRRORED))._replace(folders=(FOLDER,))
    assert read_run_report(report.to_json(), "report.json") == report


def test_the_summary_fits_the_reader() -> None:
    report = _report(loads=(MIRRORED, TOKENIZER))
    assert report.summary() == [
        "mdl run: python train.py opened 1 model in 41 s",
        f"  {MIRROR} @ 1111111 · bnb-4bit · 10 B · model.safetensors · a mirror of {MODEL}",
        f"  {MODEL} @ 1111111 · no weights · 10 B · model.safetensors",
    ]
