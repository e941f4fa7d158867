"""Resolving over HTTP: the same object as the command's, the caller's own access."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdl.resolver.types import ResolveOptions
from mdl.service.resolving.resolver_pool import Caller
from mdl.settings import load_settings
from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, READ, Start, bearer, cached_repo


def add_models(hub: LoopbackHub) -> None:
    hub.add_user("hf_alice_token", "alice")
    hub.add_repo("Org/Open", files={"config.json": "{}", "model.safetensors": b"x"})
    hub.add_repo("Org/Gated", files={"config.json": "{}"}, gated="manual",
                 access={"hf_alice_token": "granted"})  # fmt: skip
    hub.add_repo("alice/Secret", files={"config.json": "{}"}, private=True)
    hub.add_repo("alice/Both", files={"config.json": "{}"}, private=True, gated="auto",
                 access={"hf_alice_token": "granted"})  # fmt: skip


def test_a_name_in_any_casing_gives_the_object_of_the_command(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    answer = start().get("/v1/resolve?name=org/OPEN").json()
    printed = subprocess.run(
        [sys.executable, "-m", "mdl", "resolve", "org/OPEN", "--json"],
        capture_output=True, check=True, env=dict(os.environ),
    ).stdout  # fmt: skip
    shown = json.loads(printed)
    # How long ago the Hub was asked is the one thing that may differ.
    assert {**answer, "knowledge_age": 0} == {**shown, "knowledge_age": 0}
    assert answer["repo_id"] == "Org/Open"


def test_a_family_is_the_commands_object_without_the_servers_paths(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    made = {"base_model": "Org/Open", "base_model_relation": "quantized"}
    hub.add_repo("bartowski/Open-GGUF", files={"O-Q4_K_M.gguf": b"GGUF"}, card=made)
    cached_repo(Path(load_settings().cache_root), "Org/Open", {"config.json": b"{}"})
    client = start(tokens=f"admin {ADMIN}\nread {READ}")
    client.headers.update(bearer(READ))
    found = client.get("/v1/tree?name=bartowski/open-gguf").json()
    assert found["requests"]["gguf"] == "bartowski/Open-GGUF"
    by_name = {member["repo_id"]: member for member in found["members"]}
    assert by_name["bartowski/Open-GGUF"]["variants"][0]["variant"] == "Q4_K_M"
    assert by_name["Org/Open"]["cached"]["path"] is None
    tree = client.get("/v1/tree?name=bartowski/open-gguf", headers=bearer(ADMIN)).json()
    assert any(member["cached"] and member["cached"]["path"] for member in tree["members"])
    answer = client.get("/v1/resolve?name=org/open&format=gguf&family=true").json()
    assert answer["family"]["base"] == "Org/Open"
    assert client.get("/v1/tree?name=Org/Nothing").status_code == 404
    assert client.get("/v1/resolve?name=Org/Nothing&family=true").json()["family"] is None
    text = client.get("/?name=org/open&format=awq").text
    assert "a request takes bartowski/Open-GGUF" in text
    assert "not available as awq" in text


def test_a_substitution_says_so_and_is_in_the_resolution_log(
    hub: LoopbackHub, start: Start
) -> None:
    name, mirror = "unsloth/Llama-3.2-1B-Instruct", "unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit"
    for repo in (name, mirror):
        hub.add_repo(repo, files={"config.json": "{}"})
    client = start(tokens=f"admin {ADMIN}")
    asked = f"/v1/resolve?name={name}&format=bnb-4bit"
    answer = client.get(asked, headers=bearer(ADMIN)).json()
    assert (answer["substituted"], answer["repo_id"]) == (True, mirror)
    assert answer["trace"]
    client.service.resolver.flush_log()
    (row,) = client.get("/v1/history", headers=bearer(ADMIN)).json()["history"]
    assert (row["requested"], row["repo_id"], row["purpose"]) == (name, mirror, "service")


def test_a_command_that_ends_takes_nothing_from_the_service_beside_it(start: Start) -> None:
    def show() -> int:
        command = [sys.executable, "-m", "mdl", "catalog", "show", "me/new"]
        return subprocess.run(command, env=dict(os.environ), capture_output=True).returncode

    client = start(tokens=f"admin {ADMIN}")
    assert client.get("/v1/catalog", headers=bearer(ADMIN)).status_code == 200
    assert show() == 3
    row = {"name": "me/new", "mirror": "me/new-bnb-4bit"}
    added = client.post("/v1/catalog", json=row, headers=bearer(ADMIN))
    assert added.status_code == 200, added.text
    assert show() == 0


def test_what_a_read_only_database_cannot_log_is_not_kept_in_memory(
    hub: LoopbackHub, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdl.service.state._FLUSH_EVERY", 3600.0)
    name = "unsloth/Llama-3.2-1B-Instruct"
    quantized = '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}'
    hub.add_repo(name, files={"config.json": "{}"})
    hub.add_repo(f"{name}-unsloth-bnb-4bit", files={"config.json": quantized})
    answers = start().service.resolver
    asyncio.run(answers.resolve(name, ResolveOptions("bnb-4bit"), Caller("read")))
    assert answers._log._waiting
    answers.catalog().database.writable = False
    answers.flush_log()
    assert not answers._log._waiting


def test_many_names_come_back_in_their_order_each_with_its_own_error(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    names = ["Org/Open", "../etc/passwd", "org/open", "Org/Nothing"]
    answers = start().post("/v1/resolve", json={"names": names}).json()["answers"]
    assert [a.get("repo_id") for a in answers[:3]] == ["Org/Open", None, "Org/Open"]
    assert answers[1]["error"]["code"] == "name_refused"
    assert answers[3]["error"]["code"] == "not_found"


def test_a_refusal_has_the_status_of_its_error(hub: LoopbackHub, start: Start) -> None:
    add_models(hub)
    client = start()
    assert client.get("/v1/resolve?name=../../etc").status_code == 400
    assert client.get("/v1/resolve?name=Org/Nothing").status_code == 404
    assert client.get("/v1/resolve?name=Org/Gated&exact=1").status_code == 403
    assert client.get("/v1/resolve?name=Org/Open&format=nonsense").status_code == 400
    assert client.get("/v1/resolve?name=Org/Open&fp8_scaling=column").status_code == 400
    assert client.get("/v1/resolve?name=Org/Open&colour=red").status_code == 400
    assert client.get("/v1/resolve").status_code == 400


def test_access_is_the_callers_not_the_servers_nor_the_caller_before(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    os.environ["HF_TOKEN"] = "hf_alice_token"  # the server's own; hub_env restores it
    try:
        client = start()
    finally:
        del os.environ["HF_TOKEN"]
    mine = {"X-Hub-Token": "hf_alice_token"}
    anonymous = client.get("/v1/access?name=Org/Gated").json()
    assert anonymous["access"] == "no_token"
    assert client.get("/v1/access?name=Org/Gated", headers=mine).json()["access"] == "granted"
    exact = "/v1/resolve?name=Org/Gated&exact=true"
    assert client.get(exact, headers=mine).json()["access"] == "granted"
    assert client.get(exact).json()["error"]["code"] == "no_access"


def test_what_one_callers_token_sees_in_private_nobody_else_hears_of(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    client = start()
    mine = {"X-Hub-Token": "hf_alice_token"}
    for name in ("alice/Secret", "alice/Both"):
        asked = f"/v1/resolve?name={name}"
        assert client.get(asked, headers=mine).json()["access"] == "granted"
        assert client.service.resolver.catalog().about(name.lower()).repository is None
        assert client.get(asked).status_code == 404


def test_where_a_private_repository_moved_to_nobody_else_hears(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    hub.rename("alice/Secret", "alice/Hidden")
    client = start()
    asked, mine = "/v1/resolve?name=alice/Secret", {"X-Hub-Token": "hf_alice_token"}
    assert client.get(asked, headers=mine).json()["repo_id"] == "alice/Hidden"
    for name in ("alice/secret", "alice/hidden"):
        assert client.service.resolver.catalog().about(name).repository is None
    assert "Hidden" not in client.get(asked).text


def test_the_hub_token_is_nowhere_in_the_database_or_the_metrics(
    hub: LoopbackHub, start: Start
) -> None:
    add_models(hub)
    client = start()
    client.get("/v1/access?name=Org/Gated", headers={"X-Hub-Token": "hf_alice_token"})
    text = client.get("/metrics").text
    for path in Path(client.service.settings.home).rglob("*"):
        if path.is_file():
            assert b"hf_alice_token" not in path.read_bytes(), path
    assert "hf_alice_token" not in text


def test_a_dead_hub_is_found_out_once_and_the_catalogue_answers(
    hub: LoopbackHub, start: Start
) -> None:
    hub.fault("/api/*", status=503, times=1000)
    client = start()
    first = client.get("/v1/resolve?name=unsloth/Llama-3.2-1B-Instruct").json()
    for n in range(2):
        client.get(f"/v1/resolve?name=Org/Other-{n}")
    asked = hub.count("/api/*")
    second = client.get("/v1/resolve?name=unsloth/Llama-3.2-1B-Instruct").json()
    assert first["repo_id"] == second["repo_id"]
    assert hub.count("/api/*") == asked


def test_what_is_cached_is_told_but_not_where(hub: LoopbackHub, start: Start) -> None:
    add_models(hub)
    client = start()
    commit = hub.repos["Org/Open"].head().id
    files = {"model.safetensors": b"12345"}
    cached_repo(client.service.cache.root, "org/open", files, commit)
    client.service.cache.forget()
    client.get("/v1/cache")
    found = client.get("/v1/resolve?name=Org/Open").json()["cached"]
    assert found == {"complete": True, "path": None, "bytes": 5}


def test_a_lock_file_comes_back_as_text(hub: LoopbackHub, start: Start) -> None:
    add_models(hub)
    answer = start().post("/v1/lock", json={"names": ["Org/Open"]})
    assert answer.status_code == 200
    assert 'repo_id = "Org/Open"' in answer.text
    assert "sha256:" in answer.text or "sha1:" in answer.text
