"""The commands as a user types them: output, exit codes, questions, and what they import."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdl.cachemgr import open_cache
from mdl.cachemgr.remove import apply_remove, plan_remove
from mdl.cli.cache.group import COMMANDS
from mdl.cli.entry import run
from mdl.settings import load_settings
from tests.cachemgr.builder import DAY, A, B, CacheBuilder, disk_use, settle

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mdl(
    built: CacheBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Type:
    """Type a command; exit code, standard output, standard error."""
    monkeypatch.setenv("HF_HUB_CACHE", str(built.root))
    monkeypatch.setenv("MDL_HOME", str(tmp_path / "mdl"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def typed(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["cache", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return typed


@pytest.fixture
def filled(built: CacheBuilder) -> CacheBuilder:
    built.revision("Org/Big", A, {"w": b"w" * 3000}, refs=("main",), age=10 * DAY)
    built.revision("org/big", A, {"w": b"w" * 3000}, refs=("main",), age=10 * DAY)
    built.revision("o/small", A, {"w": b"1"}, refs=("main", "v1"))
    built.revision("o/small", B, {"w": b"2"})
    built.revision("d/set", A, {"data.csv": b"1,2"}, refs=("main",), kind="datasets")
    built.revision("o/broken", A, {"w": b"3"}, refs=("main",))
    next((built.folder("o/broken") / "blobs").iterdir()).unlink()
    return built


class Terminal(io.StringIO):
    """What somebody types when asked."""

    def isatty(self) -> bool:
        return True


def names(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[1:] if "/" in line.split(" ")[0]]


def test_ls(filled: CacheBuilder, mdl: Type) -> None:
    code, out, _ = mdl("ls")
    assert code == 0
    assert names(out) == ["dataset/d/set", "model/o/broken", "model/o/small", "model/Org/Big"]
    assert "2 spellings" in out
    assert "1 problem" in out
    assert "4 repositories, 5 revisions" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-f", "size>1KB"], ["model/Org/Big"]),
        (["-f", "type=dataset"], ["dataset/d/set"]),
        (["-f", "modified>7d"], ["model/Org/Big"]),
        (["-f", "accessed<7d", "--sort", "name:desc"], ["model/o/small", "dataset/d/set"]),
        (["-f", "refs=v*"], ["model/o/small"]),
        (["-f", "state=broken"], ["model/o/broken"]),
        (["-f", "name=ORG/*"], ["model/Org/Big"]),
        (["--sort", "size", "--limit", "2"], ["model/Org/Big", "dataset/d/set"]),
        (["--sort", "size:asc", "--limit", "1"], ["model/o/broken"]),
        (["--limit", "0"], []),
    ],
)  # fmt: skip
def test_filters_and_orders(
    filled: CacheBuilder, mdl: Type, words: list[str], expected: list[str]
) -> None:
    assert names(mdl("ls", *words)[1]) == expected


@pytest.mark.parametrize(
    "words", [["-f", "size"], ["-f", "size>much"], ["-f", "refs>main"], ["--sort", "colour"]]
)
def test_bad_filters_are_usage_errors(filled: CacheBuilder, mdl: Type, words: list[str]) -> None:
    code, _, err = mdl("ls", *words)
    assert code == 2
    assert err.startswith("error: ")


def test_ls_json_is_what_was_promised(filled: CacheBuilder, mdl: Type) -> None:
    shown = json.loads(mdl("ls", "--json")[1])
    assert shown["root"] == str(filled.root)
    repo = next(repo for repo in shown["repos"] if repo["repo_id"] == "Org/Big")
    assert repo["spellings"] == ["Org/Big", "org/big"]
    assert (repo["size_on_disk"], repo["logical_size"], repo["reclaimable"]) == (6000, 6000, 6000)
    assert repo["revisions"][0].items() >= {"commit": A, "refs": ["main"], "size": 3000,
                                            "files": 1, "state": "complete"}.items()  # fmt: skip
    assert {"repo_type", "last_used", "pinned", "problems"} <= repo.keys()
    content = disk_use(filled.root) - 6 * len(A)
    assert (
        shown["totals"]["size_on_disk"]
        == content
        == sum(repo["size_on_disk"] for repo in shown["repos"])
    )


def test_quiet_csv_and_revisions(filled: CacheBuilder, mdl: Type) -> None:
    assert mdl("ls", "-q", "-f", "type=dataset")[1] == "dataset/d/set\n"
    assert mdl("ls", "-q", "-r", "-f", "name=o/small")[1].split() == [B, A]
    rows = list(csv.DictReader(io.StringIO(mdl("ls", "--format", "csv")[1])))
    assert [row["repo_id"] for row in rows] == ["d/set", "o/broken", "o/small", "Org/Big"]
    assert rows[3]["spellings"] == "Org/Big org/big"


def test_show(filled: CacheBuilder, mdl: Type) -> None:
    code, out, _ = mdl("show", "ORG/BIG")
    assert code == 0
    assert "spellings  Org/Big, org/big" in out
    details = json.loads(mdl("show", "o/broken", "--json")[1])
    assert details["revisions"][0]["files"][0]["state"] == "broken"
    assert "points to no blob" in details["problems"][0]
    assert mdl("show", "o/nothing")[0] == 3


def test_du_draws(filled: CacheBuilder, mdl: Type, tmp_path: Path) -> None:
    code, out, err = mdl("du", "--plot", str(tmp_path / "t.svg"))
    assert (code, err) == (0, f"Wrote {tmp_path / 't.svg'}: 4 repositories, 6.0 KB.\n")
    shares = [line.split() for line in out.splitlines() if "%" in line]
    assert [share[:2] for share in shares[:2]] == [["type", "model"], ["type", "dataset"]]
    assert sum(int(share[-1][:-1]) for share in shares if share[0] == "type") == 100
    assert out.splitlines()[1].split()[0] == "model/Org/Big"
    svg = (tmp_path / "t.svg").read_text()
    assert "<title>Org/Big, 6.0 KB" in svg
    assert ">4 repositories, 6.0 KB in /" in svg
    assert f">{time.strftime('%Y-%m-%d')}</text>" in svg
    assert ">this month 6.0 KB</text>" in svg, "the legend"
    mdl("du", "--plot", str(tmp_path / "t.png"))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert mdl("du", "--plot", str(tmp_path / "t.gif"))[0] == 2


def test_prune_shows_asks_and_does(
    filled: CacheBuilder, mdl: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = mdl("prune", "--dry-run")
    assert code == 0
    assert "detached: no ref points to it" in out
    code, _, err = mdl("prune")
    assert code == 2, "without a terminal nothing is changed unasked"
    assert "--yes" in err
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, err = mdl("prune")
    assert (code, "nothing was changed" in err) == (1, True)
    assert "to the trash?" in err and "to the trash?" not in out


def test_prune_json_is_what_was_promised(filled: CacheBuilder, mdl: Type) -> None:
    planned = json.loads(mdl("prune", "--dry-run", "--json")[1])
    done = json.loads(mdl("prune", "--yes", "--json")[1])
    for shown in (planned, done):
        (removed,) = shown["remove"]
        assert removed.items() >= {"repo_id": "o/small", "commit": B, "bytes": 1}.items()
        assert removed["reason"]
        assert shown["freed"] == 1
        assert all({"repo_id", "commit", "reason"} <= kept.keys() for kept in shown["keep"])
    assert json.loads(mdl("prune", "--yes", "--json")[1])["remove"] == []


def test_prune_now_leaves_nothing_in_the_trash(filled: CacheBuilder, mdl: Type) -> None:
    mdl("prune", "--yes", "--now")
    assert mdl("trash", "ls")[1] == "The trash is empty.\n"


def test_the_configuration_is_the_default_policy(
    filled: CacheBuilder, mdl: Type, tmp_path: Path
) -> None:
    (tmp_path / "mdl").mkdir(exist_ok=True)
    (tmp_path / "mdl" / "config.toml").write_text('[cache]\nolder_than = "7d"\n')
    planned = json.loads(mdl("prune", "--dry-run", "--json")[1])
    assert {removed["repo_id"] for removed in planned["remove"]} == {"Org/Big"}


def test_pins(filled: CacheBuilder, mdl: Type) -> None:
    mdl("pin", f"o/small@{B}")
    assert json.loads(mdl("prune", "--dry-run", "--json")[1])["remove"] == []
    assert "o/small" in mdl("pin")[1]
    assert mdl("unpin", f"O/SMALL@{B}")[0] == 0
    assert mdl("unpin", "o/small")[0] == 3
    assert mdl("pin", f"o/small@{B[:12]}")[2] == ""
    assert mdl("rm", f"o/small@{B}", "--yes")[0] == 2
    assert (
        mdl("pin", "o/smal", "--dry-run")[2]
        == "note: o/smal is not in the cache yet; the pin will apply once it is.\n"
    )
    assert (
        mdl("pin", "o/small@v9")[2]
        == "note: o/small@v9 is not in the cache yet; the pin will apply once it is.\n"
    )
    assert mdl("pin", "../../etc")[0] == 2


def test_rm_trash_and_undo(filled: CacheBuilder, mdl: Type) -> None:
    assert "Moves 3 B to the trash" in mdl("rm", "dataset/d/set", "--dry-run")[1]
    assert mdl("rm", "ORG/BIG", "--yes")[0] == 2
    assert mdl("rm", "o/nothing", "--yes")[0] == 3
    assert mdl("rm", "org/big", "--yes")[0] == 0
    assert not filled.folder("org/big").exists()
    entry = json.loads(mdl("trash", "ls", "--json")[1])["entries"][0]
    assert (entry["kind"], entry["bytes"]) == ("rm", 3000)
    assert mdl("undo", "--dry-run")[1].startswith("Would revert rm")
    assert mdl("undo")[0] == 0
    assert filled.folder("org/big").exists()
    assert mdl("undo")[0] == 3
    mdl("rm", "o/small", "--yes")
    assert mdl("trash", "restore", "2")[0] == 0
    mdl("rm", "o/small", "--yes")
    assert "Would free" in mdl("trash", "empty", "--dry-run")[1]
    assert json.loads(mdl("trash", "empty", "--yes", "--json")[1])["freed"] == 2


def test_what_comes_into_the_trash_after_the_question_stays(
    filled: CacheBuilder, mdl: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon prunes while somebody reads how much would be erased."""
    mdl("rm", "o/small", "--yes")

    def answer_late(question: str, *, yes: bool) -> None:
        assert "2 B for good" in question
        cache = open_cache(load_settings())
        apply_remove(cache, plan_remove(cache, "dataset/d/set"))

    monkeypatch.setattr("mdl.cli.cache.keep.confirm", answer_late)
    assert mdl("trash", "empty")[1] == "Freed 2 B.\n"
    (kept,) = json.loads(mdl("trash", "ls", "--json")[1])["entries"]
    assert kept["bytes"] == 3


def test_normalize(filled: CacheBuilder, mdl: Type) -> None:
    planned = json.loads(mdl("normalize", "--dry-run", "--json")[1])
    assert planned["saved"] == 3000
    assert mdl("normalize", "--type", "dataset", "--yes")[1] == "Nothing to normalize.\n"
    done = json.loads(mdl("normalize", "--yes", "--json")[1])
    assert (done["saved"], done["done"]) == (3000, ["Org/Big"])
    assert mdl("normalize")[1] == "Nothing to normalize.\n"
    code, out, _ = mdl("normalize", "--to", "hub", "--yes", "org/big")
    assert code == 0
    assert "not known" in out, "offline nobody knows the Hub's spelling"
    assert mdl("normalize", "--to", "lower", "--yes", "Org/BIG")[0] == 0
    assert filled.folder("Org/Big").is_symlink()


def test_verify(filled: CacheBuilder, mdl: Type) -> None:
    code, out, _ = mdl("verify")
    assert code == 6
    assert "points to no blob" in out
    shown = json.loads(mdl("verify", "o/small", "--json")[1])
    assert shown["bad"] == []
    assert mdl("verify", "o/small")[0] == 0
    assert json.loads(mdl("verify", "--repair", "--dry-run", "--json")[1])["repaired"] == 0
    bad = json.loads(mdl("verify", "--json")[1])
    assert bad["error"]["code"] == "verification_failed"
    assert mdl("verify", "--repair")[0] == 5
    code, _, err = mdl("verify")
    assert err.splitlines() == [
        "error: 1 file is damaged or missing.",
        "  next: `mdl cache verify --repair` downloads them again.",
    ]
    code, _, err = mdl("verify", "--throttle", "0")
    assert (code, "A throttle of 0" in err) == (2, True)


def test_a_filtered_listing_totals_what_it_lists(filled: CacheBuilder, mdl: Type) -> None:
    assert "1 row listed, 6.0 KB" in mdl("ls", "-f", "name=org/*")[1]
    assert "2 rows listed, 6.0 KB" in mdl("ls", "--sort", "size", "--limit", "2")[1]
    assert "listed" not in mdl("ls")[1]


def test_several_pins_are_set_and_removed_together(filled: CacheBuilder, mdl: Type) -> None:
    mdl("pin", "o/small@v1", "dataset/d/set")
    assert len(json.loads(mdl("pin", "--json")[1])["pins"]) == 2
    assert mdl("unpin", "o/small@v1", "o/broken")[0] == 3
    assert len(json.loads(mdl("pin", "--json")[1])["pins"]) == 2, "all or none"
    assert mdl("unpin", "o/small@v1", "dataset/d/set")[0] == 0
    assert json.loads(mdl("pin", "--json")[1])["pins"] == []


def test_what_is_listed_can_be_removed(filled: CacheBuilder, mdl: Type) -> None:
    """`mdl cache ls -q -f 'accessed>1y' | xargs mdl cache rm --yes`"""
    listed = mdl("ls", "-q", "-f", "size<10B")[1].split()
    assert len(listed) == 3
    assert mdl("rm", *listed, "--yes")[0] == 0
    assert mdl("ls", "-q")[1].split() == ["model/Org/Big"]


def test_another_root(filled: CacheBuilder, mdl: Type, tmp_path: Path) -> None:
    other = CacheBuilder(tmp_path / "other")
    other.revision("o/there", A, {"w": b"1"})
    assert names(mdl("ls", "--cache-dir", str(other.root))[1]) == ["model/o/there"]
    assert mdl("ls", "--cache-dir", str(tmp_path / "nowhere"))[0] == 3


def test_quiet_is_one_line_each_whatever_the_names(filled: CacheBuilder, mdl: Type) -> None:
    """`ls -q | xargs mdl cache rm` must not be told another repository's name."""
    (filled.root / "models--o--x\nmodel--o--small" / "snapshots" / "\nmain").mkdir(parents=True)
    listed = mdl("ls", "-q")[1].splitlines()
    assert listed.count("model/o/small") == 1
    assert r"model/o/x\nmodel/o/small" in listed
    assert "main" not in mdl("ls", "-q", "-r")[1].splitlines()


def test_a_refusal_in_json(filled: CacheBuilder, mdl: Type) -> None:
    code, out, _ = mdl("rm", "o/nothing", "--json")
    assert code == 3
    assert json.loads(out)["error"]["code"] == "not_found"


def test_an_interrupted_action_is_told(
    filled: CacheBuilder, mdl: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr("mdl.cachemgr.remove.execute.perform_or_leave", cut)
        patch.setattr("mdl.cachemgr.remove.execute.revert_all", lambda ops: None)
        patch.setattr("mdl.store.cache_index.CacheIndex.set_action", lambda *_, **__: None)
        mdl("rm", "o/small", "--yes")
    assert "An interrupted rm was reverted" in mdl("ls")[2]
    assert mdl("ls")[2] == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, mdl: Type) -> None:
    code, out, _ = mdl(command, "--help")
    assert code == 0
    assert "Usage:" in out


@pytest.mark.parametrize("option", [[], ["--json"], ["-q"]])
def test_listing_imports_nothing_heavy(
    filled: CacheBuilder, tmp_path: Path, option: list[str]
) -> None:
    """Most of these take longer to import than the listing takes to print."""
    settle(filled.root)
    code = (
        "import sys\n"
        "from mdl.cli.entry import run\n"
        "run(sys.argv[1:])\n"
        "print(' '.join(sys.modules), file=sys.stderr)\n"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(filled.root), "MDL_HOME": str(tmp_path / "mdl")}
    for _ in range(2):  # the second finds everything in the index
        done = subprocess.run(
            [sys.executable, "-c", code, "cache", "ls", *option],
            env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
    modules = set(done.stderr.split())
    heavy = {"huggingface_hub", "sqlalchemy", "torch", "transformers", "watchdog", "tomllib",
             "hashlib", "ctypes", "subprocess", "shutil", "tempfile", "asyncio", "dataclasses",
             "mdl.cachemgr.scan.folder", "mdl.cachemgr.index.breakdown",
             "mdl.cachemgr.index.rescan", "mdl.cachemgr.journal.journal",
             "mdl.cachemgr.remove", "mdl.cachemgr.normalize", "mdl.cachemgr.verify",
             "mdl.cachemgr.daemon", "mdl.cli.cache.change", "mdl.resolver",
             "mdl.loader"}  # fmt: skip
    assert modules & heavy == set()


def test_a_broken_configuration_is_one_message(mdl: Type, filled: CacheBuilder) -> None:
    mdl("ls")
    Path(os.environ["MDL_HOME"], "config.toml").write_text("server = 5")
    code, out, err = mdl("ls")
    assert (code, out) == (2, "")
    assert "server is 5" in err


def test_an_interrupt_is_one_line(
    mdl: Type, filled: CacheBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mdl.cli.cache.options.load_settings", interrupt)
    code, out, err = mdl("ls")
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted: nothing that was there before is lost"


def test_rebuild_sees_what_the_stamps_do_not(mdl: Type, filled: CacheBuilder) -> None:
    """A file that changed in place moves no folder's stamp; pins outlive the rebuild."""
    settle(filled.root)
    mdl("pin", "o/small")
    before = json.loads(mdl("ls", "--json")[1])
    (blob,) = (filled.folder("d/set", "datasets") / "blobs").iterdir()
    with blob.open("ab") as file:
        file.write(b"more" * 100)
    assert json.loads(mdl("ls", "--json")[1])["totals"] == before["totals"]
    after = json.loads(mdl("ls", "--json", "--rebuild")[1])
    assert after["totals"]["size_on_disk"] == before["totals"]["size_on_disk"] + 400
    assert [repo["pinned"] for repo in after["repos"] if repo["repo_id"] == "o/small"] == [True]
