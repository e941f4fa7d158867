"""`mdl catalog …`: rows in and out, the Hub's tree, and the check of the mirrors."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.hub import LoopbackHub
from tests.resolver.conftest import BNB

MAPPER = """
__INT_TO_FLOAT_MAPPER = {
    "unsloth/new-7b-unsloth-bnb-4bit": (
        "unsloth/new-7b", "Maker/New-7B", "unsloth/new-7b-bnb-4bit",
    ),
    "unsloth/dict-7b-bnb-4bit": {
        "8": ("Maker/Dict-7B-FP8", "unsloth/dict-7b-FP8", "unsloth/dict-7b-FP8-Dynamic"),
        "16": ("unsloth/dict-7b", "Maker/Dict-7B"),
    },
}
raise SystemExit("a mapping must never be executed")
"""
LOADER = """
BAD_MAPPINGS = {
    "unsloth/New-7b-unsloth-bnb-4bit".lower(): "unsloth/new-7b-bnb-4bit",  # far too big
}
"""


def test_unsloths_table_is_parsed_and_never_executed(mdl: Run, tmp_path: Path) -> None:
    (tmp_path / "mapper.py").write_text(MAPPER)
    (tmp_path / "loader_utils.py").write_text(LOADER)
    mapper = str(tmp_path / "mapper.py")
    dry = mdl("catalog", "import", "unsloth", "--mapper", mapper, "--dry-run", "--json")
    assert (dry.code, dry.json["bad_mirrors"], dry.json["dry_run"]) == (0, 1, True)
    assert mdl("catalog", "ls", "new-7b").out.count("unsloth/new-7b") == 0
    assert mdl("catalog", "import", "unsloth", "--mapper", mapper).code == 0
    answer = mdl("resolve", "maker/new-7b", "--4bit", "--offline", "--json").json
    assert answer["repo_id"] == "unsloth/new-7b-bnb-4bit"
    assert "far too big" in answer["trace"][0]["reason"]
    fp8 = mdl("resolve", "maker/dict-7b", "--fp8", "--fp8-scaling", "row", "--offline", "--json")
    assert fp8.json["repo_id"] == "unsloth/dict-7b-FP8-Dynamic"


@pytest.mark.parametrize(
    "text", ["x = 1", "def f(:", "__INT_TO_FLOAT_MAPPER = {'a': open('/etc/passwd')}", "\0"]
)
def test_a_file_without_a_table_changes_nothing(mdl: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "mapper.py").write_text(text)
    ran = mdl("catalog", "import", "unsloth", "--mapper", str(tmp_path / "mapper.py"))
    assert ran.code == 2
    assert "error:" in ran.err


def test_own_rows_win_until_removed(mdl: Run) -> None:
    name = "meta-llama/Llama-3.1-8B-Instruct"
    assert mdl("catalog", "add", name, "me/mine-bnb-4bit").code == 0
    answer = mdl("resolve", name, "--4bit", "--offline", "--json").json
    assert (answer["repo_id"], answer["source"]) == ("me/mine-bnb-4bit", "user")
    assert mdl("catalog", "rm", name).code == 2, "nobody is there to be asked"
    assert mdl("catalog", "rm", name, "--yes").code == 0
    assert mdl("catalog", "rm", name, "--yes").code == 3
    assert mdl("resolve", name, "--4bit", "--offline", "--json").json["source"] == "packaged"
    assert mdl("catalog", "add", name, name).code == 2
    assert mdl("catalog", "add", name, "../../x").code == 2


def test_a_name_known_only_as_a_bad_mirror_is_shown(mdl: Run) -> None:
    name = "unsloth/Qwen3-30B-A3B-Base-unsloth-bnb-4bit"
    shown = mdl("catalog", "show", name.lower())
    assert shown.code == 0 and shown.out.startswith(f"{name}\n  known bad: ")
    assert mdl("catalog", "show", "nobody/nothing").code == 3


@pytest.mark.parametrize("kind", ["toml", "json", "csv"])
def test_an_export_can_be_imported(mdl: Run, tmp_path: Path, kind: str) -> None:
    name = 'Org/With "quotes"'
    assert mdl("catalog", "add", "Org/Name", "me/mine-bnb-4bit", "--rank", "3").code == 0
    path = tmp_path / f"rows.{kind}"
    assert mdl("catalog", "export", "--source", "user", "-o", str(path)).code == 0
    ran = mdl("catalog", "import", str(path), "--json")
    assert (ran.code, ran.json["rows"]) == (0, 1), name
    shown = mdl("catalog", "show", "org/name", "--json").json
    assert {m["source"] for m in shown["mirrors"]} == {"user", f"file:rows.{kind}"}
    assert {m["rank"] for m in shown["mirrors"]} == {3}


@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        ("toml", "[[mirrors]]\nname = 'a/b'\n", "row 1: no repo_id"),
        (
            "json",
            '{"mirrors": [{"name": "a/b", "repo_id": "c/d", "evil": 1}]}',
            "unknown fields evil",
        ),
        ("json", "{", "is not valid JSON"),
        ("csv", "name,repo_id,rank\na/b,c/d-bnb-4bit,first\n", "is not a rank"),
        ("toml", "[[mirrors]]\nname = 'a/b'\nrepo_id = '../x'\n", "not a model name"),
        ("txt", "hello", "not a kind of catalogue file"),
    ],
)
def test_a_wrong_file_is_rejected_whole_and_names_the_row(
    mdl: Run, tmp_path: Path, suffix: str, text: str, words: str
) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_text(text)
    ran = mdl("catalog", "import", str(path))
    assert (ran.code, words in ran.err) == (2, True), ran.err


def test_the_hubs_tree_is_imported_and_claims_stay_claims(mdl: Run, hub: LoopbackHub) -> None:
    base = "Maker/Tree-1B"
    card = {"base_model": base, "base_model_relation": "quantized"}
    hub.add_repo(base, files={"config.json": "{}"})
    hub.add_repo("x/tree-proved", files={"config.json": BNB}, card=card, downloads=5)
    hub.add_repo("x/tree-bnb-4bit", files={"a.txt": "b"}, card=card, downloads=9)
    hub.add_repo("x/tree-GGUF", files={"m.gguf": b"x"}, card=card)
    ran = mdl("catalog", "sync", base.lower(), "--json")
    (tree,) = ran.json["synced"]
    assert tree["name"] == base
    assert [(m["repo_id"], m["relation"]) for m in tree["mirrors"]] == [
        ("x/tree-bnb-4bit", "declared"),
        ("x/tree-proved", "verified"),
        ("x/tree-GGUF", "verified"),
    ]
    ran = mdl("catalog", "sync", base, "--format", "GGUF", "--dry-run", "--json")
    assert [m["repo_id"] for m in ran.json["synced"][0]["mirrors"]] == ["x/tree-GGUF"]
    assert mdl("resolve", base, "--4bit", "--json").json["source"] == "hub-tree"


def test_a_check_marks_dead_renamed_and_mismatched_rows(mdl: Run, hub: LoopbackHub) -> None:
    for mirror in ("x/fine-bnb-4bit", "x/gone-bnb-4bit", "x/old-bnb-4bit", "x/Model-bnb-4bit"):
        mdl("catalog", "add", "Maker/Model", mirror)
    hub.add_repo("Maker/Model", files={"config.json": "{}"})
    hub.add_repo("x/fine-bnb-4bit", files={"config.json": BNB}, card={"base_model": "Maker/Model"})
    hub.add_repo("x/new-bnb-4bit", files={"config.json": BNB})
    hub.rename("x/old-bnb-4bit", "x/new-bnb-4bit")
    hub.add_repo("x/Model-bnb-4bit", files={"config.json": BNB},
                 card={"base_model": "Maker/Model-Instruct"})  # fmt: skip
    ran = mdl("catalog", "check", "--source", "user", "--json")
    assert {(f["repo_id"], f["status"]) for f in ran.json["wrong"]} == {
        ("x/gone-bnb-4bit", "dead"),
        ("x/old-bnb-4bit", "renamed"),
        ("x/Model-bnb-4bit", "mismatch"),
    }
    answer = mdl("resolve", "Maker/Model", "--4bit", "--offline", "--json").json
    assert answer["repo_id"] == "x/fine-bnb-4bit"


def test_a_check_names_what_loads_experts_that_are_packed_one_by_one(
    mdl: Run, hub: LoopbackHub, tmp_path: Path
) -> None:
    config = {**json.loads(BNB), "model_type": "gpt_oss"}
    part = "experts.gate_up_projs.0.weight.absmax"
    index = {"weight_map": {"lm_head.weight": "a", f"model.layers.0.mlp.{part}": "a"}}
    files = {"config.json": json.dumps(config), "a": b"w"}
    shards = {**files, "model.safetensors.index.json": json.dumps(index)}
    base = "Maker/Mixture"
    card = {"base_model": base, "base_model_relation": "quantized"}
    hub.add_repo(base, files={"config.json": "{}"})
    hub.add_repo("x/apart-bnb-4bit", files=shards, card=card)
    del index["weight_map"][f"model.layers.0.mlp.{part}"]
    hub.add_repo(
        "x/whole-bnb-4bit", files={**shards, "model.safetensors.index.json": json.dumps(index)}
    )
    for mirror in ("x/apart-bnb-4bit", "x/whole-bnb-4bit"):
        mdl("catalog", "add", "Other/Mixture", mirror)
    assert mdl("catalog", "check", "--source", "user", "--json").json["wrong"] == []
    rows = mdl("catalog", "show", "Other/Mixture", "--json").json["mirrors"]
    assert {row["repo_id"]: row["runtimes"] for row in rows} == {
        "x/apart-bnb-4bit": "unsloth", "x/whole-bnb-4bit": None,
    }  # fmt: skip
    (tree,) = mdl("catalog", "sync", base, "--json").json["synced"]
    assert [row["runtimes"] for row in tree["mirrors"]] == ["unsloth"]
    found = mdl("resolve", base, "--4bit", "--json").json
    assert (found["repo_id"], found["quantize_on_load"]) == (base, True)
    own = mdl("resolve", "x/apart-bnb-4bit", "--4bit")
    assert "runs in unsloth" in own.out
    for suffix in ("toml", "json", "csv"):
        file = tmp_path / f"rows.{suffix}"
        mdl("catalog", "export", "--source", "user", "-o", str(file))
        assert mdl("catalog", "import", str(file), "--yes").code == 0
        found = mdl("catalog", "ls", "--source", f"file:{file.name}", "--json").json["mirrors"]
        assert sorted(row["runtimes"] or "" for row in found) == ["", "unsloth"]
    file.write_text("name,repo_id,runtimes\nOrg/A,x/b,winamp\n")
    assert "'winamp' is not a runtime" in mdl("catalog", "import", str(file)).err


def test_an_export_is_json_with_json(mdl: Run, tmp_path: Path) -> None:
    assert mdl("catalog", "add", "Org/Own", "me/own-bnb-4bit", "--yes").code == 0
    printed = mdl("catalog", "export", "--source", "user", "--json").json
    assert [row["repo_id"] for row in printed["mirrors"]] == ["me/own-bnb-4bit"]
    file = tmp_path / "own.toml"
    written = mdl("catalog", "export", "--source", "user", "-o", str(file), "--json").json
    assert written == {"rows": 1, "output": str(file)}
    refused = mdl("catalog", "export", "--format", "csv", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "usage")
