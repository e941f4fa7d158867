"""Did the run open what was meant? Pure functions from loads and expectations to a verdict."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mdl.errors import MdlError, VerificationError
from mdl.observe.expectation import Expectation
from mdl.observe.report import (
    MET,
    UNMET,
    UNSURE,
    Expected,
    FolderLoad,
    KnownMirror,
    Load,
    RunReport,
    Unexpected,
)

if TYPE_CHECKING:
    from mdl.resolver import LockEntry


def check(
    expectations: Sequence[Expectation], loads: Iterable[Load], folders: Iterable[FolderLoad]
) -> tuple[tuple[Expected, ...], tuple[Unexpected, ...]]:
    """Hold loads against expectations: each has to be met, and no other weights be opened."""
    opened: list[Load | FolderLoad] = [
        *(load for load in loads if load.repo_type == "model"),
        *folders,
    ]
    expected = tuple(_expected(each, opened) for each in expectations)
    unexpected = tuple(
        Unexpected(load.name, _why_unexpected(load, expectations))
        for load in opened
        if load.weights and not any(each.met_by(load) for each in expectations)
    )
    return expected, unexpected


def _expected(expectation: Expectation, opened: Sequence[Load | FolderLoad]) -> Expected:
    met = [load for load in opened if expectation.met_by(load)]
    if met:
        where = "" if expectation.is_itself(met[0]) else f"its mirror {met[0].name} was opened"
        return Expected(expectation.shown, True, where)
    itself = [load for load in opened if expectation.is_itself(load)]
    for load in itself:
        if load.weights:
            return Expected(expectation.shown, False, expectation.against(load))
    mirrors = [
        _mirror_words(load, mirror)
        for load in opened
        if load.weights and (mirror := expectation.mirror(load)) is not None
    ]
    if mirrors:
        reason = f"the run opened {mirrors[0]}"
    elif itself:
        reason = "files of it were opened, but no weights"
    else:
        reason = "the run opened nothing of it"
    return Expected(expectation.shown, False, reason)


def _mirror_words(load: Load | FolderLoad, mirror: KnownMirror) -> str:
    """`NAME, a bnb-4bit mirror of it (catalogue: packaged 2026.10.9, dynamic)`."""
    source = " ".join(filter(None, [mirror.source, mirror.source_version]))
    known = ", ".join(filter(None, [source, mirror.variant]))
    return f"{load.name}, a {load.format or mirror.format} mirror of it (catalogue: {known})"


def _why_unexpected(load: Load | FolderLoad, expectations: Sequence[Expectation]) -> str:
    for each in expectations:
        if each.mirror(load) is not None:
            return f"it is a mirror of {each.name.text}; {each.against(load)}"
        if each.is_itself(load):
            return each.against(load)
    return "no expectation names it"


def check_locked(
    entries: "Sequence[LockEntry]", loads: Iterable[Load], folders: Iterable[FolderLoad], where: str
) -> tuple[Unexpected, ...]:
    """What was opened and a lock file does not name: repositories, commits, files, contents."""
    found = []
    for load in loads:
        reason = "" if load.repo_type != "model" else _against_lock(load, entries, where)
        if reason:
            found.append(Unexpected(load.name, reason))
    found += [
        Unexpected(each.path, f"it is a folder, which {where} does not name")
        for each in folders
        if each.weights
    ]
    return tuple(found)


def _against_lock(load: Load, entries: "Sequence[LockEntry]", where: str) -> str:
    named = [
        e for e in entries if e.repo_id.lower() in (load.repo_id.lower(), load.spelling.lower())
    ]
    if not named:
        return f"{where} does not name it"
    commits = [commit for commit in (load.commit, *load.same_in) if commit]
    entry = next((e for e in named if e.commit in commits), None)
    if entry is None:
        commit = load.commit[:12] if load.commit else "an unknown commit"
        return f"opened at {commit}, but {where} has {named[0].commit[:12]}"
    for file in load.files:
        locked = entry.files.get(file.path)
        if locked is None:
            return f"{where} does not name its file {file.path}"
        if file.hash is not None and locked.partition(":")[2] != file.hash:
            return f"its file {file.path} is not the one in {where}"
    return ""


def verdict_of(
    expected: Sequence[Expected], unexpected: Sequence[Unexpected], *, all_seen: bool
) -> str:
    """`met`, `unmet`, or `unsure` where something may have been missed."""
    if unexpected or not all(each.ok for each in expected):
        return UNMET
    return MET if all_seen else UNSURE


def error_of(report: RunReport) -> MdlError | None:
    """The error that a verdict ends with; `None` where everything was as expected."""
    if report.verdict in (None, MET):
        return None
    missing = [each for each in report.expected if not each.ok]
    if report.verdict == UNSURE:
        return VerificationError(
            "It cannot be said that the run opened only what was expected.",
            why=report.unseen[0].rstrip("."),
            next="Mend that and run it again; what was seen is as expected.",
        )
    if missing:
        first = missing[0]
        message = f"expected {first.name}; it was not opened."
        why = first.reason
    else:
        message = f"{report.unexpected[0].name} was opened and is not expected."
        why = report.unexpected[0].reason
    more = [*missing, *(each for each in report.unexpected if each.name not in why)]
    others = len(more) - 1
    if others > 0:
        why += f" ({others} more in the report)"
    return VerificationError(message, why=why, next=_advice(report))


def _advice(report: RunReport) -> str:
    expected = {each.name.partition(",")[0].lower() for each in report.expected if not each.ok}
    for load in report.loads:
        names = [each.name for each in load.mirror_of if each.name.lower() in expected]
        if names and load.weights:
            name = f"{names[0]}={load.format}"
            if load.repo_id.lower().startswith("unsloth/"):
                return f"Pass use_exact_model_name=True, or expect {name}."
            return f"Name {names[0]} itself in the program, or expect {name}."
    names = [each.name for each in report.unexpected[:3]]
    if names:
        return f"Expect {', '.join(names)} too, or change what the program loads."
    return "Check the names that the program loads, or what is expected of it."
