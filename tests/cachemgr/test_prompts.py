"""What a prompt says is what happens: for every command that asks, and for every way it has."""

import contextlib
import io
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from mdl.cli.entry import run
from mdl.cli.group import cli
from tests.cachemgr.builder import DAY, A, B, CacheBuilder, manifest
from tests.hub import LoopbackHub


class State(NamedTuple):
    """Bytes in the cache, bytes only in its trash, and the names of the repository folders."""

    cache: int
    trash: int
    folders: tuple[str, ...]


class Case(NamedTuple):
    """A command, what it asks, and whether what it did is what it asked."""

    command: tuple[str, ...]
    question: str
    done: Callable[[State, State], bool]
    setup: tuple[str, ...] = ()


def moved(size: int) -> Callable[[State, State], bool]:
    return lambda before, after: (
        after.cache == before.cache - size and after.trash == before.trash + size
    )


def erased(size: int) -> Callable[[State, State], bool]:
    return lambda before, after: after.cache == before.cache - size and after.trash == before.trash


CASES = [
    Case(("cache", "prune"), "Move 2.0 KB to the trash?", moved(2000)),
    Case(("cache", "prune", "--now"), "Erase 2.0 KB for good?", erased(2000)),
    Case(("cache", "rm", "o/two@main"), "Move 1.0 KB to the trash?", moved(1000)),
    Case(("cache", "rm", "o/two", "d/set"), "Move 3.5 KB to the trash?", moved(3500)),
    Case(("cache", "rm", "o/two", "--now"), "Erase 3.0 KB for good?", erased(3000)),
    Case(
        ("cache", "rm", "o/two"),
        "Move 3.0 KB to the trash, and erase 500 B that has been in the trash for 7 days?",
        lambda before, after: (after.cache, after.trash) == (before.cache - 3000, 3000),
        ("cache rm d/set --yes", "wait 8 days"),
    ),
    Case(
        ("cache", "rm", "o/two"),
        "Erase 3.0 KB for good?",
        erased(3000),
        ("configure trash_days = 0",),
    ),
    Case(
        ("cache", "normalize"),
        "Store equal files of 1 repository only once, saving 4.0 KB at once?",
        lambda before, after: after == before._replace(cache=before.cache - 4000),
    ),
    Case(
        ("cache", "normalize", "--to", "lower"),
        "Keep 1 repository in one folder each, named in lower case, saving 4.0 KB at once?",
        lambda before, after: after.cache == before.cache - 4000
        and after.folders == tuple(n for n in before.folders if n != "models--Org--Name"),
    ),
    Case(
        ("cache", "trash", "empty"),
        "Erase 500 B for good?",
        lambda before, after: after == before._replace(trash=0),
        ("cache rm d/set --yes",),
    ),
]  # fmt: skip


class FileCase(NamedTuple):
    """A command that changes files or rows: what it asks, and what is then gone, other or new."""

    command: str
    question: str
    changed: tuple[str, ...]
    setup: tuple[str, ...] = ()


UNIT = ".config/systemd/user/mdl-daemon.service"
WANTS = ".config/systemd/user/default.target.wants/mdl-daemon.service"
FILE_CASES = [
    FileCase("lock Org/Name -o {home}/mdl.lock", "Overwrite {home}/mdl.lock?", ("mdl.lock",)),
    FileCase(
        "catalog rm Maker/Model",
        "Remove 2 rows?",
        ("row Maker/Model a/m-bnb-4bit", "row Maker/Model b/m-bnb-4bit"),
        ("catalog add Maker/Model a/m-bnb-4bit", "catalog add Maker/Model b/m-bnb-4bit --rank 1",
         "catalog add Maker/Other a/o-bnb-4bit"),
    ),
    FileCase(
        "catalog rm Maker/Model b/m-bnb-4bit",
        "Remove 1 row?",
        ("row Maker/Model b/m-bnb-4bit",),
        ("catalog add Maker/Model a/m-bnb-4bit", "catalog add Maker/Model b/m-bnb-4bit --rank 1"),
    ),
    FileCase(
        "completion install --shell bash",
        "Write completion into {home}/.bashrc?",
        (".bashrc",),
    ),
    FileCase("daemon install --systemd", f"Replace {{home}}/{UNIT}?", (UNIT,)),
    FileCase(
        "daemon uninstall --systemd", f"Remove {{home}}/{UNIT} and {{home}}/{WANTS}?", (UNIT, WANTS)
    ),
]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root(built: CacheBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HF_HUB_CACHE", str(built.root))
    monkeypatch.setenv("MDL_HOME", str(tmp_path / "mdl"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("Org/Name", "org/name"):
        built.revision(name, A, {"w": b"w" * 4000}, refs=("main",), age=DAY)
    built.revision("o/two", A, {"w": b"1" * 1000}, refs=("main",), age=DAY)
    built.revision("o/two", B, {"w": b"2" * 2000}, age=DAY)
    built.revision("d/set", A, {"data.csv": b"3" * 500}, refs=("main",), kind="datasets", age=DAY)
    yield built.root


def state(root: Path) -> State:
    def content(*places: Path) -> int:
        inodes = {
            status.st_ino: status.st_size
            for place in places
            for path in place.rglob("*")
            if path.is_file() and not path.is_symlink() and path.parent.name != "refs"
            for status in [path.stat()]
        }
        return sum(inodes.values())

    cache, both = content(root), content(root, *root.parent.glob(".mdl-trash-*"))
    names = (path.name for path in root.glob("*--*") if not path.is_symlink())
    return State(cache, both - cache, tuple(sorted(names)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.command))
def test_what_is_asked_is_what_is_done(
    case: Case,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for step in case.setup:
        what, _, rest = step.partition(" ")
        if what == "configure":
            (tmp_path / "mdl").mkdir()
            (tmp_path / "mdl" / "config.toml").write_text(f"[cache]\n{rest}\n")
        elif what == "wait":
            (index,) = (tmp_path / "mdl" / "cache").glob("*.db")
            with contextlib.closing(sqlite3.connect(index)) as db, db:
                db.execute("UPDATE action SET finished = finished - 8 * 86400")
        else:
            assert run(step.split()) == 0
    before, files = state(root), manifest(root)
    for typed, asked in (("n\n", 1), ("y\n", 0)):
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        assert run(list(case.command)) == asked
        assert case.question in capsys.readouterr().err
        if asked:
            assert (state(root), manifest(root)) == (before, files)
    assert case.done(before, state(root))


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.question)
def test_what_is_asked_of_files_and_rows_is_what_is_done(
    case: FileCase,
    hub: LoopbackHub,
    hub_env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.add_repo("Org/Name", files={"config.json": "{}"})
    home = tmp_path / "home"
    for name in ("mdl.lock", ".bashrc", UNIT, f"{UNIT}.other", "other.lock"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("before\n")
    (home / WANTS).parent.mkdir()
    (home / WANTS).symlink_to(home / UNIT)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for step in case.setup:
        assert run(step.split()) == 0
    before = files_and_rows(home, capsys)
    for typed, asked in (("n\n", 1), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        assert run(case.command.format(home=home).split()) == asked
        assert case.question.format(home=home) in capsys.readouterr().err
        after = files_and_rows(home, capsys)
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        assert changed == (set() if asked else set(case.changed))


def files_and_rows(home: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The files of a person's folder, and their own rows of the catalogue."""
    capsys.readouterr()
    assert run(["catalog", "ls", "--source", "user", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["mirrors"]
    found = {f"row {row['name']} {row['repo_id']}": json.dumps(row) for row in rows}
    for path in home.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(home))] = f"link to {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(home))] = path.read_text()
    return found


def test_every_command_that_asks_is_held_to_its_prompt() -> None:
    asking = {
        " ".join(path)
        for path, command in all_commands(cli, ())
        if any(param.name == "yes" and param.expose_value for param in command.params)
    }
    words = [" ".join(case.command) for case in CASES] + [case.command for case in FILE_CASES]
    held = {path for path in asking if any(f"{each} ".startswith(f"{path} ") for each in words)}
    assert asking == held


def all_commands(
    group: click.Group, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


def test_a_dry_run_says_what_goes_to_the_trash_and_what_frees_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["prune"], ["rm", "o/two@" + B]):
        run(["cache", *command, "--dry-run"])
        out = capsys.readouterr().out
        assert "Moves 2.0 KB to the trash; `mdl cache trash empty` frees it." in out
        run(["cache", *command, "--dry-run", "--now"])
        assert "Erases 2.0 KB for good." in capsys.readouterr().out


def test_prune_shows_the_summary_first_and_what_is_kept_only_when_asked(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["cache", "prune", "--dry-run"])
    first, _, header, row, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("Removes 1, keeps 3 (--verbose lists them). Moves 2.0 KB")
    assert (header.split(), row.split()[0], rest) == (["REMOVE", "SIZE", "WHY"], "model/o/two", [])
    run(["cache", "prune", "--dry-run", "--verbose"])
    out = capsys.readouterr().out
    assert out.index("model/o/two bbb") < out.index("KEEP") < out.index("dataset/d/set")


def test_choosing_what_prune_removes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prune = ["cache", "prune", "-i", "--older-than", "1h"]
    monkeypatch.setattr("sys.stdin", Terminal("7 9\nnone\n"))
    assert run(prune) == 1
    printed = capsys.readouterr()
    assert "Write numbers from 1 to 4" in printed.err
    rows = [line.split() for line in printed.out.splitlines() if re.match(r" *\d", line)]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    (small,) = [row[0] for row in rows if row[1] == "dataset/d/set"]
    monkeypatch.setattr("sys.stdin", Terminal(f"{small}\ny\n"))
    assert run(prune) == 0
    assert "Move 500 B to the trash?" in capsys.readouterr().err
    assert not (root / "datasets--d--set").exists()
    assert (root / "models--o--two").exists()
    for words in (["--yes"], ["--json"]):
        assert run([*prune, *words]) == 2


def test_several_targets_are_one_action(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = manifest(root)
    assert run(["cache", "rm", "o/two:w", "o/two@main", "d/set", "--yes"]) == 0
    assert run(["cache", "undo"]) == 0
    assert manifest(root) == before
    assert run(["cache", "rm", "o/two", "o/nothing", "--yes"]) == 3
    assert manifest(root) == before


def test_a_name_that_is_not_here_is_answered_with_those_that_resemble_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["show", "o/tow"], ["rm", "o/tow"], ["show", "two"], ["verify", "o/twoo"]):
        assert run(["cache", *command]) == 3
        assert "Did you mean o/two?" in capsys.readouterr().err
    assert run(["cache", "show", "nothing/like-it"]) == 3
    assert "Did you mean" not in capsys.readouterr().err


def test_a_policy_over_months_is_not_one_over_minutes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["prune", "--unused-for", "3m"], ["ls", "-f", "accessed>3m"]):
        assert run(["cache", *command, *(["--dry-run"] if "prune" in command else [])]) == 2
        assert "3mo" in capsys.readouterr().err
    assert run(["cache", "ls", "-q", "-f", "modified<1mo"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
