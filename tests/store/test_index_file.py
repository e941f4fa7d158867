"""The file of a cache's index when it is damaged, full or held: one clear error, nothing lost."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdl.errors import BusyError, StoreError
from mdl.store.cache_index import CacheIndex, FolderRow

RUBBISH = b"this is no database" * 1000


@pytest.fixture
def index(tmp_path: Path) -> CacheIndex:
    made = CacheIndex(tmp_path / "index.db")
    made.add_pin("model/o/n", "", "o/n")
    return made


def fill(index: CacheIndex) -> None:
    """Let SQLite find no room for one page more, as on a disk that is full."""
    (pages,) = index._db.execute("PRAGMA page_count").fetchone()
    index._db.execute(f"PRAGMA max_page_count = {pages}")


MUCH = [FolderRow("models--o--n", "[]", "x" * 100_000)]
WRITES: list[Callable[[CacheIndex], object]] = [
    lambda index: index.put_folders(MUCH),
    lambda index: index.begin_action("rm", "all", {"trash": "x" * 100_000}, []),
    lambda index: index.add_pin("model/o/n", "x" * 100_000, "o/n"),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_is_reported_and_the_index_survives(
    index: CacheIndex, write: Callable[[CacheIndex], object]
) -> None:
    fill(index)
    with pytest.raises(StoreError, match="cannot be used") as refused:
        write(index)
    assert "full" in refused.value.why
    assert "space" in refused.value.next
    assert [pin[0] for pin in index.pins()] == ["model/o/n"]
    assert index.actions() == []
    assert index.remove_pin("model/o/n", ""), "a later change is not in the broken-off one"


def in_another_process(path: Path, code: str) -> str:
    program = (
        f"from mdl.store.cache_index import CacheIndex; index = CacheIndex(Path({str(path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; {program}; {code}; index.close()"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_opening_an_index_twice_keeps_the_first_ones_locks(index: CacheIndex) -> None:
    """Closing any descriptor of a file ends all the locks a process has on it (POSIX).

    Another process that closes then takes itself for the last, and removes the log under us.
    """
    second = CacheIndex(index.path)
    in_another_process(index.path, "index.pins()")
    index.add_pin("model/o/later", "", "o/later")
    assert in_another_process(index.path, "print(len(index.pins()))") == "2"
    second.close()
    in_another_process(index.path, "index.add_pin('model/o/third', '', 'o/third')")
    assert len(index.pins()) == 3


def test_copying_an_unusable_index_keeps_its_locks(
    index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def no_room(target: str, **options: Any) -> sqlite3.Connection:
        if target == str(index.path):
            raise sqlite3.OperationalError("disk I/O error")
        return connect(target, **options)

    monkeypatch.setattr(sqlite3, "connect", no_room)
    copy = CacheIndex(index.path)
    assert not copy.persistent and len(copy.pins()) == 1
    monkeypatch.undo()
    in_another_process(index.path, "index.pins()")
    index.add_pin("model/o/later", "", "o/later")
    assert in_another_process(index.path, "print(len(index.pins()))") == "2"


def test_a_file_that_another_process_writes_to_is_busy(index: CacheIndex) -> None:
    index._db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(index.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="another process"):
        index.record_use("model/o/n", "a" * 40, 1.0)
    other.close()
    index.record_use("model/o/n", "a" * 40, 1.0)


def test_damage_found_later_says_what_to_do(index: CacheIndex) -> None:
    path = index.path
    index.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)  # opening reads the first page only
    path.write_bytes(content)
    damaged = CacheIndex(path)
    for use in (damaged.pins, damaged.folders, damaged.drop_view, damaged.actions):
        with pytest.raises(StoreError, match="cannot be used") as refused:
            use()
        assert "Move the file away" in refused.value.next
    assert path.read_bytes() == content


def test_a_damaged_file_is_set_aside_with_its_log(index: CacheIndex) -> None:
    """Another process has it open; SQLite would delete a log that stands beside a new database."""
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.add_pin("model/o/later", "", "o/later")
    log = Path(f"{index.path}-wal").read_bytes()
    assert b"model/o/later" in log
    index.path.write_bytes(RUBBISH)
    again = CacheIndex(index.path)
    assert again.set_aside is not None
    assert again.set_aside.read_bytes() == RUBBISH
    assert Path(f"{again.set_aside}-wal").read_bytes() == log
    again.add_pin("model/o/new", "", "o/new")
    index.close()
    assert [pin[0] for pin in CacheIndex(index.path).pins()] == ["model/o/new"]
