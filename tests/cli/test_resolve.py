"""`mdl resolve` and `mdl access` as a person and as a script use them."""

import json
import shutil
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.hub import LoopbackHub
from tests.resolver.conftest import BNB

GATED = "meta-llama/Llama-3.1-8B-Instruct"
DYNAMIC = "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit"
FIELDS = {
    "requested", "canonical", "repo_id", "revision", "commit", "format", "substituted",
    "quantize_on_load", "gated", "access", "source", "trace", "alternatives", "cached",
}  # fmt: skip


@pytest.fixture(autouse=True)
def llama(hub: LoopbackHub) -> None:
    hub.add_user("hf_in", "in")
    hub.add_repo(GATED, files={"config.json": "{}"}, gated="manual", access={"hf_in": "granted"})
    hub.add_repo("unsloth/Llama-3.1-8B-Instruct", files={"config.json": "{}"})
    hub.add_repo(DYNAMIC, files={"config.json": BNB})


def test_json_has_every_promised_field(mdl: Run) -> None:
    ran = mdl("resolve", GATED.lower(), "--4bit", "--json")
    assert ran.code == 0
    assert set(ran.json) >= FIELDS
    assert (ran.json["repo_id"], ran.json["substituted"]) == (DYNAMIC, True)
    assert set(ran.json["trace"][0]) == {"candidate", "verdict", "reason"}


def test_an_error_prints_the_same_object_with_an_error_in_it(mdl: Run) -> None:
    ran = mdl("resolve", GATED, "--exact", "--json")
    assert ran.code == 4
    assert set(ran.json) >= FIELDS
    assert set(ran.json["error"]) >= {"code", "message", "next"}
    assert (ran.json["error"]["code"], ran.json["access"]) == ("no_access", "no_token")
    assert "unsloth/Llama-3.1-8B-Instruct" in ran.json["error"]["next"]
    granted = mdl("resolve", GATED, "--exact", "--json", HF_TOKEN="hf_in")
    assert (granted.code, granted.json["access"]) == (0, "granted")


def test_text_says_what_and_why(mdl: Run) -> None:
    ran = mdl("resolve", GATED, "--4bit")
    assert f"{GATED} → {DYNAMIC}" in ran.out
    assert "the dynamic 4-bit mirror" in ran.out
    assert mdl("resolve", "--history", GATED).out.count(DYNAMIC) == 1


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["org/none"], 3, "does not exist"),
        (["org/../x"], 2, "not a model name"),
        (["./nowhere"], 3, "There is no folder"),
        (["x", "--4bit", "--8bit"], 2, "one format at a time"),
        ([GATED, "--4bit", "--revision", "v1"], 2, "would be lost"),
        ([GATED, "--exact", "--revision", "nope"], 3, "no revision 'nope'"),
        (["someone/unheard-of", "--offline"], 5, "unknown on this machine"),
        ([], 2, "Which name?"),
        (["x", "--locked", "no.lock"], 3, "cannot be read"),
        (["x", "--locked", ""], 2, "the path is empty"),
        (["x", "--frobnicate"], 2, "No such option"),
    ],
)
def test_each_misuse_gets_one_clear_message(
    mdl: Run, args: list[str], code: int, words: str
) -> None:
    text = mdl("resolve", *args)
    assert (text.code, words in text.err) == (code, True), text
    as_json = mdl("resolve", *args, "--json")
    assert as_json.code == code
    assert words in as_json.json["error"]["message"]


def test_a_dead_hub_falls_back_to_local_data(mdl: Run) -> None:
    dead = "http://127.0.0.1:9"
    known = mdl("resolve", GATED, "--4bit", HF_ENDPOINT=dead)
    assert known.code == 0
    assert "does not answer" in known.err
    assert mdl("resolve", "some/unknown", HF_ENDPOINT=dead).code == 5


def test_a_database_from_a_newer_version_is_left_alone(mdl: Run, hub_env: dict[str, str]) -> None:
    assert mdl("resolve", GATED, "--4bit", "--offline").code == 0
    path = Path(hub_env["MDL_HOME"]) / "mdl.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    ran = mdl("resolve", GATED, "--4bit", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "store")
    assert "newer version of mdl" in ran.json["error"]["message"]
    assert "Upgrade mdl" in ran.json["error"]["next"]
    assert path.read_bytes() == before


def test_names_stream_in_and_json_lines_out(mdl: Run, hub: LoopbackHub) -> None:
    lines = f"{GATED}\nbad name\n\n{GATED.upper()}\n"
    ran = mdl("resolve", "--stdin", "--json", "--4bit", stdin=lines)
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert [a.get("repo_id") for a in answers] == [DYNAMIC, None, DYNAMIC]
    assert answers[1]["requested"] == "bad name"
    assert answers[1]["error"]["code"] == "name_refused"
    assert ran.code == 2


def test_access_shows_state_page_and_mirrors(mdl: Run) -> None:
    ran = mdl("access", GATED, "--json")
    assert (ran.code, ran.json["access"], ran.json["gated"]) == (4, "no_token", "manual")
    assert ran.json["page"].endswith(GATED)
    assert "unsloth/Llama-3.1-8B-Instruct" in ran.json["ungated_mirrors"]
    assert ran.json["error"]["code"] == "no_access"
    assert "terms" in ran.json["error"]["next"]
    assert mdl("access", GATED, HF_TOKEN="hf_in").code == 0
    assert mdl("access", "org/none").code == 3


def test_the_plain_text_of_an_auth_check_means_access(mdl: Run, hub: LoopbackHub) -> None:
    """The Hub answers `OK`, which is not JSON."""
    ran = mdl("access", GATED, HF_TOKEN="hf_in")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{GATED}: granted (gated: manual)\n")
    assert hub.count("*/auth-check") == 1


def test_a_quantized_repository_of_unknown_origin_says_what_it_has(
    mdl: Run, hub: LoopbackHub
) -> None:
    gptq = BNB.replace('"bitsandbytes"', '"gptq"').replace('"load_in_4bit": true', '"bits": 4')
    for name, config, way in (
        ("me/packed", BNB, "--4bit"),
        ("me/packed-gptq", gptq, "--format gptq"),
    ):
        hub.add_repo(name, files={"config.json": config, "model.safetensors": b"w"})
        ran = mdl("resolve", name, "--16bit")
        assert ran.code == 3 and "the model it was quantized from is unknown" in ran.err
        assert "its card (base_model)" in ran.err and way in ran.err
        assert mdl("resolve", name, *way.split()).code == 0
        assert mdl("resolve", name, "--16bit", "--exact").code == 0


def test_an_adapter_is_for_the_base_in_its_configuration(
    mdl: Run, hub: LoopbackHub, tmp_path: Path
) -> None:
    config = '{"base_model_name_or_path": "Maker/Right", "peft_type": "LORA"}'
    files = {"adapter_config.json": config, "adapter_model.safetensors": "w"}
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    hub.add_repo("me/lora", folder=tmp_path, card={"base_model": "Maker/Wrong"})
    for name in ("me/lora", str(tmp_path)):
        ran = mdl("resolve", name, "--json")
        assert (ran.code, ran.json["quantize_on_load"]) == (0, False)
        assert ran.json["trace"][-1]["reason"].endswith("of its base model Maker/Right")
    assert "Maker/Right" in mdl("resolve", "me/lora", "--offline").out
    (tmp_path / "adapter_config.json").write_text("{")
    assert "adapter_config.json cannot be read" in mdl("resolve", str(tmp_path)).err


def test_a_lock_holds_until_the_hub_differs(mdl: Run, hub: LoopbackHub, tmp_path: Path) -> None:
    lock = str(tmp_path / "mdl.lock")
    assert mdl("lock", GATED, "--4bit", "-o", lock).code == 0
    first = Path(lock).read_text()
    locked = mdl("resolve", GATED.lower(), "--4bit", "--locked", lock, "--json")
    assert (locked.code, locked.json["rule"], locked.json["repo_id"]) == (0, "locked", DYNAMIC)
    commit = locked.json["commit"]
    # The mirror is made anew under the same name: the lock still answers with its commit.
    hub.commit(DYNAMIC, {"config.json": BNB, "new.txt": "x"})
    assert mdl("resolve", GATED, "--4bit", "--locked", lock, "--json").json["commit"] == commit
    assert Path(lock).read_text() == first
    # The commit is gone, as after a forced push: verification fails.
    hub.repos[DYNAMIC].commits.pop(commit)
    gone = mdl("resolve", GATED, "--4bit", "--locked", lock, "--json")
    assert (gone.code, gone.json["error"]["code"]) == (6, "verification_failed")
    assert mdl("resolve", GATED, "--exact", "--locked", lock).code == 6
    assert mdl("resolve", "org/other", "--locked", lock).code == 3


def test_a_lock_keeps_both_commits_and_every_hash(
    mdl: Run, hub: LoopbackHub, tmp_path: Path
) -> None:
    lock = tmp_path / "mdl.lock"
    assert mdl("lock", GATED, "--4bit", "-o", str(lock)).code == 0
    assert mdl("lock", DYNAMIC, "--exact", "-o", str(lock), "--add").code == 0
    models = tomllib.loads(lock.read_text())["model"]
    assert [m["requested"] for m in models] == [GATED, DYNAMIC]
    assert models[0]["commit"] == hub.repos[DYNAMIC].head().id
    assert models[0]["upstream_commit"] == hub.repos[GATED].head().id
    blob = hub.repos[DYNAMIC].head().files["config.json"]
    assert models[0]["files"] == {"config.json": f"sha1:{blob.git_sha1}"}
    lock.write_text("version = 99\n")
    assert mdl("resolve", GATED, "--locked", str(lock)).code == 2


def test_a_lock_resolves_a_stream(mdl: Run, tmp_path: Path) -> None:
    lock = str(tmp_path / "mdl.lock")
    assert mdl("lock", GATED, GATED.lower(), "--4bit", "-o", lock).out.count("→") == 1
    ran = mdl("resolve", "--stdin", "--locked", lock, "--4bit", stdin=f"org/other\n{GATED}\n")
    first, second = map(json.loads, ran.out.splitlines())
    assert (first["requested"], first["error"]["code"]) == ("org/other", "not_found")
    assert (second["rule"], second["repo_id"]) == ("locked", DYNAMIC)
    assert ran.code == 3


def test_a_lock_is_for_its_own_revision(mdl: Run, tmp_path: Path) -> None:
    lock = str(tmp_path / "mdl.lock")
    assert mdl("lock", DYNAMIC, "-o", lock, "--4bit").code == 0
    locked = ["resolve", DYNAMIC, "--locked", lock, "--4bit"]
    commit = mdl(*locked, "--json").json["commit"]
    assert mdl(*locked, "--revision", commit).code == 0
    other = mdl(*locked, "--revision", "v7")
    assert (other.code, "not at 'v7'" in other.err) == (6, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repo_id", "../../etc"),
        ("requested", "a b"),
        ("commit", "../../passwd"),
        ("commit", "main"),
    ],
)
def test_a_hostile_lock_is_rejected_first(mdl: Run, tmp_path: Path, field: str, value: str) -> None:
    lock = tmp_path / "mdl.lock"
    assert mdl("lock", DYNAMIC, "-o", str(lock), "--4bit").code == 0
    lines = lock.read_text().splitlines()
    changed = [f"{field} = {value!r}" if line.startswith(f"{field} =") else line for line in lines]
    lock.write_text("\n".join(changed))
    ran = mdl("resolve", DYNAMIC, "--locked", str(lock), "--4bit", "--offline")
    assert (ran.code, "cannot be used" in ran.err) == (2, True)


def test_a_lock_keeps_odd_file_names(mdl: Run, hub: LoopbackHub, tmp_path: Path) -> None:
    """JSON writes them in pairs of surrogates, which are no TOML."""
    names = {"config.json": "{}", "😀 é.txt": "x", 'quo"te\\n.txt': "y"}
    hub.add_repo("org/odd", files=names)
    lock = tmp_path / "mdl.lock"
    assert mdl("lock", "org/odd", "-o", str(lock)).code == 0
    (model,) = tomllib.loads(lock.read_text())["model"]
    assert set(model["files"]) >= set(names)
    assert mdl("resolve", "org/odd", "--locked", str(lock)).code == 0


def test_a_lock_that_cannot_be_registered_is_not_written(mdl: Run, tmp_path: Path) -> None:
    """A lock file on record protects what it names; one that is not must not look so."""
    lock, home = tmp_path / "mdl.lock", tmp_path / "home"
    assert mdl("lock", DYNAMIC, "-o", str(lock), MDL_HOME=str(home)).code == 0
    before = lock.read_text()
    shutil.rmtree(home / "cache")
    (home / "cache").write_text("no folder can be made here")
    ran = mdl("lock", GATED, "-o", str(lock), "--4bit", "--yes", MDL_HOME=str(home))
    assert (ran.code, "Nothing was changed" in ran.err) == (1, True)
    assert lock.read_text() == before


@pytest.mark.parametrize("where", ["no/such/folder/mdl.lock", ""])
def test_where_no_lock_can_be_written(mdl: Run, tmp_path: Path, where: str) -> None:
    ran = mdl("lock", DYNAMIC, "-o", str(tmp_path / where) if where else "", "--json")
    assert ran.code in (1, 2)
    assert ran.json["error"]["message"] and ran.json["error"]["next"]
