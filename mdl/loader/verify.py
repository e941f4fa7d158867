"""Check that what was loaded is still what is on the disk: recompute hashes, compare configs."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import MdlError, NotFoundError, UsageError, VerificationError
from mdl.loader.checkpoint import (
    Checkpoint,
    check_hash,
    config_hash,
    file_records,
    files_in,
    fingerprint,
    has_hash,
    open_checkpoint,
    read_checkpoint,
)
from mdl.loader.report import Report
from mdl.loader.request import LoadRequest
from mdl.loader.source import LocatedModel, download_again, plan_download
from mdl.loader.verify_gguf import check_gguf, gguf_names, with_siblings
from mdl.observe import FolderLoad, Load, OpenedFile, RunReport, read_run_report
from mdl.settings import Settings, StrPath, load_settings

_TAKEN = (
    "Give a report, a lock file, a GGUF file or a snapshot folder; "
    "`mdl cache verify NAME` checks a repository of the cache."
)
_LARGEST_TEXT = 64 << 20  # bytes of a lock file


@dataclass(frozen=True)
class Verification:
    """What passed, and every problem."""

    target: str
    checked: tuple[str, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "ok": not self.problems,
            "checked": list(self.checked),
            "problems": list(self.problems),
        }

    def raise_problems(self) -> None:
        """Raises: VerificationError: a check failed."""
        if self.problems:
            raise VerificationError(
                f"{self.target}: {len(self.problems)} of "
                f"{len(self.problems) + len(self.checked)} checks failed.",
                why="; ".join(self.problems[:3]),
                next="`mdl pull NAME --repair` downloads damaged files of the cache again.",
                details=self.to_json(),
            )


def verify_target(target: StrPath, settings: Settings | None = None) -> Verification:
    """Check a snapshot or model folder, a GGUF file, the report of a load (.json), or a lock file.

    Args:
        target: the folder or file; every file of the model it names is read and hashed.
        settings: other settings than the environment's.

    Returns:
        What passed, and every problem; `raise_problems()` raises them.

    Raises:
        NotFoundError: there is no such file or folder.
        UsageError: the file is neither a report nor a lock file.
    """
    target = Path(target)
    if target.is_dir():
        return verify_folder(target)
    if not target.exists():
        raise NotFoundError(f"{target} does not exist.", next=_TAKEN)
    if not target.is_file():
        raise UsageError(f"{target} is not a file.", next=_TAKEN)
    if target.suffix.lower() == ".gguf":
        return verify_gguf(target.parent, with_siblings(target))
    if target.suffix == ".json":
        body = _read_body(target)
        if "loads" in body:
            return verify_run(str(target), read_run_report(body, str(target)))
        return verify_report(_report_from(body, target))
    if target.stat().st_size > _LARGEST_TEXT:
        raise UsageError(
            f"{target} is neither a lock file nor a GGUF file: it is too large.",
            next=f"{_TAKEN} A safetensors file is checked with its folder.",
        )
    return verify_lock(target, settings or load_settings())


def read_report(path: Path) -> Report:
    """The report in a file.

    Raises:
        UsageError: the file is not the report of a load.
    """
    return _report_from(_read_body(path), path)


def _read_body(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise ValueError("it is too large")
        body = json.loads(path.read_text())
        if not isinstance(body, dict):
            raise TypeError(f"a {type(body).__name__}, not an object")
    except (ValueError, TypeError, OSError) as error:
        raise _not_a_report(path, error) from error
    return body


def _report_from(body: dict[str, Any], path: Path) -> Report:
    try:
        return Report.from_json(body)
    except (ValueError, KeyError, TypeError) as error:
        raise _not_a_report(path, error) from error


def _not_a_report(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is not a report written by `mdl load --report` or `mdl run --report`.",
        why=f"{type(error).__name__}: {error}",
        next=_TAKEN,
    )


def verify_run(target: str, run: RunReport) -> Verification:
    """Check what a run opened: is it what was expected, and is it on the disk unchanged?"""
    problems = [f"expected {each.name}: {each.reason}" for each in run.expected if not each.ok]
    problems += [f"{each.name} was not expected: {each.reason}" for each in run.unexpected]
    if run.verdict == "unsure":
        problems += run.unseen
    checked = [f"expected {each.name}" for each in run.expected if each.ok]
    opened_models: list[Load | FolderLoad] = [*run.loads, *run.folders]
    for model in opened_models:
        for opened in model.files:
            good, text = _compare_opened(Path(model.path, opened.path), opened)
            (checked if good else problems).append(f"{model.name}: {text}")
    return Verification(target, tuple(checked), tuple(problems))


def _compare_opened(path: Path, opened: OpenedFile) -> tuple[bool, str]:
    if not path.is_file():
        return False, f"{opened.path} is gone"
    size = path.stat().st_size
    if size != opened.size:
        return False, f"{opened.path} has {size} bytes, not {opened.size}"
    if opened.hash is None or len(opened.hash) not in (40, 64):
        return True, f"{opened.path} (size only: no recorded hash)"
    if not has_hash(path, opened.hash):
        return False, f"{opened.path} has another hash"
    return True, opened.path


def verify_folder(folder: Path) -> Verification:
    """Read every file of a snapshot: structure, headers, and hashes if it is in the cache."""
    if names := gguf_names(folder):
        found = verify_gguf(folder, names)
        if not (folder / "config.json").exists():
            return found
        other = _verify_model(folder)
        return Verification(
            str(folder), other.checked + found.checked, other.problems + found.problems
        )
    return _verify_model(folder)


def verify_gguf(folder: Path, names: Iterable[str]) -> Verification:
    """Read and hash GGUF files: headers, extents of tensors, numbers of split files."""
    return _of_checks(str(folder), check_gguf(folder, names))


def _verify_model(folder: Path) -> Verification:
    request = LoadRequest(str(folder), allow_pickle=True)
    try:
        files = files_in(folder, request)
        if not files.adapter:
            files = read_checkpoint(folder, request).files
    except MdlError as error:
        return Verification(str(folder), (), (f"{error.message} {error.why}".strip(),))
    return _of_checks(str(folder), (check_hash(folder, name) for name in files.all))


def _of_checks(target: str, checks: Iterable[tuple[bool, str]]) -> Verification:
    done = list(checks)
    return Verification(
        target,
        tuple(text for passed, text in done if passed),
        tuple(text for passed, text in done if not passed),
    )


def verify_lock(path: Path, settings: Settings) -> Verification:
    """Compare the files of every locked commit that is in the cache with the locked hashes.

    Raises:
        UsageError, NotFoundError: the file is not a lock file.
    """
    from mdl.cachemgr import open_cache
    from mdl.resolver import read_lock

    checked: list[str] = []
    problems: list[str] = []
    for entry in read_lock(path):
        placed = open_cache(settings).placement(entry.repo_id, entry.commit)
        title = f"{entry.repo_id} @ {entry.commit[:12]}"
        if placed.path is None:
            problems.append(f"{title} is not in the cache; `mdl pull` downloads it")
            continue
        for name, locked in sorted(entry.files.items()):
            file = placed.path / name
            if file.exists():  # the lock has the whole repository; a pull, what a model needs
                matches = has_hash(file, locked.partition(":")[2])
                (checked if matches else problems).append(f"{title}: {name}")
    return Verification(str(path), tuple(checked), tuple(problems))


def verify_report(report: Report) -> Verification:
    """Compare a report with the folder it names, as it is now."""
    folder = Path(report.folder)
    if not folder.is_dir():
        pull = f"mdl pull {report.repo_id} --revision {report.commit}"
        return Verification(report.repo_id, (), (f"{folder} is gone; `{pull}` downloads it",))
    request = LoadRequest(
        str(folder), allow_pickle=report.pickles, trust_remote_code=report.remote_code
    )
    gguf = next((file.path for file in report.files if file.path.lower().endswith(".gguf")), None)
    try:
        checkpoint = open_checkpoint(folder, request, gguf)
    except MdlError as error:
        return Verification(report.repo_id, (), (f"{error.message} {error.why}".strip(),))
    return _of_checks(report.repo_id, [*_compare(report, checkpoint), *_compare_adapter(report)])


def _compare(report: Report, checkpoint: Checkpoint) -> Iterator[tuple[bool, str]]:
    """(passed, what was checked) for every file, the configuration and the weights."""
    now = {record.path: record for record in file_records(checkpoint)}
    for record in report.files:
        if record.path not in now:
            yield False, f"{record.path} is gone"
        elif now[record.path].size != record.size:
            yield False, f"{record.path} has {now[record.path].size} bytes, not {record.size}"
        elif record.hash is None:
            yield True, f"{record.path}: size"
        else:
            matches = has_hash(checkpoint.folder / record.path, record.hash)
            yield matches, f"{record.path}: {'hash' if matches else 'its hash has changed'}"
    extra = sorted(set(now) - {record.path for record in report.files})
    if extra:
        yield False, f"new files: {', '.join(extra)}"
    yield config_hash(checkpoint.config) == report.config_sha256, "config.json as it was loaded"
    if report.fingerprint is not None:
        yield fingerprint(checkpoint) == report.fingerprint, "fingerprint of the weights"
    if not report.quantized_on_load and report.quantization and checkpoint.quantization:
        stored = checkpoint.quantization.get("bnb_4bit_quant_type")
        same = stored == report.quantization.get("bnb_4bit_quant_type")
        yield same, "quantization of the checkpoint"


def _compare_adapter(report: Report) -> Iterator[tuple[bool, str]]:
    if report.adapter is not None:
        path = Path(report.adapter["folder"], report.adapter["weights"])
        if not path.exists():
            yield False, f"{path} is gone"
        else:
            yield has_hash(path, report.adapter["sha256"]), f"the adapter's {path.name}"


def repair_snapshot(located: LocatedModel) -> list[str]:
    """Check the hash of every file that is here; download damaged ones again and return them.

    Raises:
        UsageError: the model is a local folder or a local copy, so it was not downloaded.
        MdlError: the download failed.
    """
    if located.commit is None or located.is_local_copy:
        raise UsageError(
            f"{located.repo_id} was not downloaded, so it cannot be downloaded again.",
            next="Only repositories of the Hub can be repaired.",
        )
    hub = located.hub
    download = plan_download(hub, located.repo_id, located.commit, located.request)
    snapshot = hub.folder_of(download.repo_id) / "snapshots" / download.commit
    damaged = [
        file.path
        for file in download.files
        if (snapshot / file.path).exists() and not has_hash(snapshot / file.path, file.etag)
    ]
    download_again(hub, download, damaged)
    return damaged
