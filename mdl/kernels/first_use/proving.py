"""Find out, once for a device and its versions, which kernels are right and not slower."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock
import torch

from mdl.kernels.first_use.checking import WORKER, examine_all
from mdl.kernels.first_use.record import (
    Record,
    folder_in,
    identity_of,
    read_file,
    read_record,
    write_record,
)
from mdl.kernels.first_use.verdict import Limits
from mdl.kernels.swap import Need

_IN_THIS_PROCESS: dict[tuple[Path, str], Record] = {}
"""Records by folder and file name: a folder that cannot be written is measured for once."""


def prove(
    needs: Sequence[Need],
    device: torch.device,
    home: str | os.PathLike[str],
    progress: Callable[[str], None] = lambda text: None,
    *,
    limits: Limits | None = None,
    anew: bool = False,
    worker: Sequence[str] = WORKER,
) -> Record:
    """The record of a device with a finding for each need, from the file or examined now.

    Of several processes one examines; the others wait for it and read the file.

    Args:
        home: where `kernels/` with the records is, `$MDL_HOME`.
        progress: given one line for each need that is examined.
        anew: examine all needs, known or not.
        worker: the command of the checking process.
    """
    limits, identity, folder = limits or Limits(), identity_of(device), folder_in(home)
    key = (folder, identity.file_name)
    record = _IN_THIS_PROCESS.get(key)
    if anew or record is None or _missing(record, needs):
        record = read_record(folder, identity)
    if anew or _missing(record, needs):
        with _alone(folder / f"{identity.file_name}.lock", limits, progress) as alone:
            if not anew:  # another process may have examined them meanwhile
                record = read_record(folder, identity)
            missing = list(needs) if anew else _missing(record, needs)
            if missing and alone:
                found = examine_all(missing, str(device), limits, progress, worker)
                record = record.with_findings(found)
                write_record(folder, record)
                _IN_THIS_PROCESS[key] = record
                passing = {one.need: one for one in found if not one.lasting}
                return Record(identity, {**record.findings, **passing})
    _IN_THIS_PROCESS[key] = record
    return record


def _missing(record: Record, needs: Sequence[Need]) -> list[Need]:
    return [need for need in needs if need not in record.findings]


@contextlib.contextmanager
def _alone(path: Path, limits: Limits, progress: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock; False where another process holds it longer than its checks may take.

    Without a lock, and True, where the folder cannot be written.
    """
    lock = filelock.FileLock(path)
    alone = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress("waiting for another process that checks the kernels")
            lock.acquire(timeout=limits.total + limits.start)
    except filelock.Timeout:
        alone = False
    except OSError:
        pass
    try:
        yield alone
    finally:
        lock.release()


def records_in(home: str | os.PathLike[str]) -> list[Record]:
    """All records that are kept, of whatever device and versions."""
    found = map(read_file, sorted(folder_in(home).glob("*.json")))
    return [record for record in found if record is not None]
