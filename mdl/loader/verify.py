"""Is what was loaded still what is on the disk? Hashes recomputed, configurations compared."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import MdlError, NotFoundError, UsageError, VerificationError
from mdl.loader.checkpoint import Checkpoint, read_checkpoint, read_json
from mdl.loader.report import (
    Report,
    blob_hash,
    file_records,
    fingerprint,
    git_hash_of,
    sha256_of,
)
from mdl.loader.request import LoadRequest
from mdl.loader.source import LocatedModel
from mdl.settings import Settings, StrPath, load_settings


@dataclass(frozen=True)
class Verification:
    """What was checked and found right, and what is not what it should be."""

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
        """Raises: VerificationError: something is not what it should be."""
        if self.problems:
            raise VerificationError(
                f"{self.target}: {len(self.problems)} of "
                f"{len(self.problems) + len(self.checked)} checks failed.",
                why="; ".join(self.problems[:3]),
                next="`mdl pull NAME --repair` fetches damaged files of the cache again.",
                details=self.to_json(),
            )


def verify_target(target: StrPath, settings: Settings | None = None) -> Verification:
    """Check a snapshot or model folder, the report of a load (.json), or a lock file.

    Args:
        target: the folder or file; every file of the model it names is read and hashed.
        settings: other settings than the environment's.

    Returns:
        What was checked and found right, and every problem; `raise_problems()` raises them.

    Raises:
        NotFoundError: there is no such file or folder.
        UsageError: the file is neither a report nor a lock file.
    """
    target = Path(target)
    if target.is_dir():
        return verify_folder(target)
    if not target.exists():
        raise NotFoundError(
            f"There is no {target}.", next="Give a report, a lock file or a snapshot folder."
        )
    if target.suffix == ".json":
        return verify_report(read_report(target))
    return verify_lock(target, settings or load_settings())


def read_report(path: Path) -> Report:
    """The report in a file.

    Raises:
        UsageError: the file is no report of a load.
    """
    try:
        return Report.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(
            f"{path} is no report that `mdl load --report` wrote.",
            why=f"{type(error).__name__}: {error}",
            next="Give a report, a lock file or a snapshot folder.",
        ) from error


def verify_folder(folder: Path) -> Verification:
    """Read every file of a snapshot: structure, headers, and hashes where the cache knows them."""
    checked, problems = [], []
    try:
        checkpoint = read_checkpoint(folder, allow_pickle=True)
    except MdlError as error:
        return Verification(str(folder), (), (f"{error.message} {error.why}".strip(),))
    for name in checkpoint.files.all:
        expected = blob_hash(folder / name)
        if expected is None:
            checked.append(f"{name} (no recorded hash)")
        elif file_hash(folder / name, expected) == expected:
            checked.append(name)
        else:
            problems.append(f"{name} is not the file its hash names")
    return Verification(str(folder), tuple(checked), tuple(problems))


def verify_lock(path: Path, settings: Settings) -> Verification:
    """Compare the files of every locked commit that is here with the hashes the lock holds.

    Raises:
        UsageError, NotFoundError: the file is no lock file.
    """
    from mdl.cachemgr import open_cache
    from mdl.resolver import read_lock

    checked: list[str] = []
    problems: list[str] = []
    for entry in read_lock(path):
        placed = open_cache(settings).placement(entry.repo_id, entry.commit)
        named = f"{entry.repo_id} @ {entry.commit[:12]}"
        if placed.path is None:
            problems.append(f"{named} is not here; `mdl pull` brings it")
            continue
        for name, locked in sorted(entry.files.items()):
            file, expected = placed.path / name, locked.partition(":")[2]
            if not file.exists():
                continue  # the lock lists the whole repository, a pull brings what a model needs
            good = file_hash(file, expected) == expected
            (checked if good else problems).append(f"{named}: {name}")
    return Verification(str(path), tuple(checked), tuple(problems))


def verify_report(report: Report) -> Verification:
    """Compare a report with the folder it names, as it is now."""
    folder = Path(report.folder)
    if not folder.is_dir():
        gone = f"{folder} is gone; `mdl pull {report.repo_id} --revision {report.commit}` brings it"
        return Verification(report.repo_id, (), (gone,))
    try:
        checkpoint = read_checkpoint(
            folder, allow_pickle=report.pickles, remote_code=report.remote_code
        )
    except MdlError as error:
        return Verification(report.repo_id, (), (f"{error.message} {error.why}".strip(),))
    outcome = [*_compare(report, checkpoint), *_compare_adapter(report)]
    return Verification(
        report.repo_id,
        tuple(text for good, text in outcome if good),
        tuple(text for good, text in outcome if not good),
    )


def _compare(report: Report, checkpoint: Checkpoint) -> Iterator[tuple[bool, str]]:
    """(still as reported, what) for every file, the configuration and the weights."""
    now = {record.path: record for record in file_records(checkpoint)}
    for record in report.files:
        if record.path not in now:
            yield False, f"{record.path} is gone"
            continue
        same_size = now[record.path].size == record.size
        path = checkpoint.folder / record.path
        if not same_size:
            yield False, f"{record.path} has {now[record.path].size} bytes, not {record.size}"
        elif record.hash is None:
            yield True, f"{record.path}: size"
        else:
            good = file_hash(path, record.hash) == record.hash
            yield good, f"{record.path}: {'hash' if good else 'its hash is another'}"
    extra = sorted(set(now) - {record.path for record in report.files})
    if extra:
        yield False, f"files that were not there: {', '.join(extra)}"
    text = json.dumps(read_json(checkpoint.folder / "config.json"), sort_keys=True)
    config = hashlib.sha256(text.encode()).hexdigest()
    yield config == report.config_sha256, "config.json as it was loaded"
    if report.fingerprint is not None:
        yield fingerprint(checkpoint) == report.fingerprint, "fingerprint of the weights"
    if not report.quantized_on_load and report.quantization and checkpoint.quantization:
        stored = checkpoint.quantization.get("bnb_4bit_quant_type")
        same = stored == report.quantization.get("bnb_4bit_quant_type")
        yield same, "quantization of the checkpoint"


def _compare_adapter(report: Report) -> Iterator[tuple[bool, str]]:
    if report.adapter is not None:
        path = Path(report.adapter["folder"], report.adapter["weights"])
        expected = report.adapter["sha256"]
        if not path.exists():
            yield False, f"{path} is gone"
        else:
            yield file_hash(path, expected) == expected, f"the adapter's {path.name}"


def file_hash(path: Path, like: str) -> str:
    """The hash of a file in the form of `like`: SHA-256 (64 digits) or git's blob SHA-1 (40)."""
    return sha256_of(path) if len(like) == 64 else git_hash_of(path)


def repair_snapshot(found: LocatedModel, request: LoadRequest) -> list[str]:
    """Check the hash of every file that is here and fetch those again that are damaged.

    Raises:
        UsageError: a local folder, which cannot be fetched again.
        MdlError: as a download.
    """
    from mdl.loader.source import plan_download, repair, storage_folder

    if found.source.commit is None or found.source.mirror:
        raise UsageError(
            f"{found.source.repo_id} was not downloaded, so it cannot be fetched again.",
            next="Repair works on repositories of the Hub.",
        )
    download = plan_download(
        found.hub,
        found.source.repo_id,
        found.source.commit,
        allow_pickle=request.allow_pickle,
        remote_code=request.trust_remote_code,
    )
    root = storage_folder(found.settings.cache_root, download.repo_id)
    snapshot = root / "snapshots" / download.commit
    damaged = [
        file.path
        for file in download.files
        if (snapshot / file.path).exists()
        and file_hash(snapshot / file.path, file.etag) != file.etag
    ]
    repair(found.hub, download, damaged)
    return damaged
