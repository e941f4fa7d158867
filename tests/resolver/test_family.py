"""`mdl tree`: a model's family from any of its members."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mdl.errors import MdlError
from mdl.resolver import Resolver, family
from mdl.store import MirrorRow
from tests.cli.conftest import Run, mdl  # noqa: F401 # the fixture
from tests.hub import LoopbackHub

BASE = "Maker/Model-8B"
QUANTIZED = {"base_model": BASE, "base_model_relation": "quantized"}
AWQ = '{"quantization_config": {"quant_method": "awq", "bits": 4}}'


@pytest.fixture(autouse=True)
def published(hub: LoopbackHub) -> None:
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w" * 90}, gated="auto")
    hub.add_repo(
        "bartowski/Model-8B-GGUF", card=QUANTIZED,
        files={"config.json": "{}", "M-Q4_K_M.gguf": b"GGUF", "M-Q8_0.gguf": b"GGUF"},
    )  # fmt: skip
    hub.add_repo(
        "Nobody/Model-8B-AWQ", files={"config.json": AWQ, "model.safetensors": b"w"}, card=QUANTIZED
    )


def rows(resolver: Resolver) -> None:
    resolver.catalog.add(
        [
            MirrorRow(BASE, "16bit", "unsloth/Model-8B", "16bit", "ungated", 0, "declared", "user"),
            MirrorRow(
                BASE, "bnb-4bit", "unsloth/Model-8B-bnb-4bit", "bnb-4bit", "plain", 0, "declared",
                "user",
            ),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "requests"), [(BASE, 2), ("bartowski/Model-8B-GGUF", 3), ("Nobody/Model-8B-AWQ", 3)]
)
def test_the_family_is_the_same_from_any_member(
    online: Callable[..., Resolver], hub: LoopbackHub, name: str, requests: int
) -> None:
    resolver = online()
    rows(resolver)
    found = family(resolver, name)
    assert len(hub.requests) == requests
    assert found.base == BASE
    assert [(m.role, m.format, m.repo_id) for m in found.members] == [
        ("publisher", "16bit", BASE),
        ("float copy", "16bit", "unsloth/Model-8B"),
        ("quantized", "awq", "Nobody/Model-8B-AWQ"),
        ("quantized", "bnb-4bit", "unsloth/Model-8B-bnb-4bit"),
        ("quantized", "gguf", "bartowski/Model-8B-GGUF"),
    ]
    by_format = {member.format: member for member in found.members}
    assert [name for name, _ in by_format["gguf"].variants] == ["Q4_K_M", "Q8_0"]
    assert "trust list" in by_format["awq"].against
    assert (found.members[0].gated, found.members[0].access) == ("auto", "no_token")
    assert found.members[0].size == 90 or name != BASE
    assert found.requests["gguf"] == "bartowski/Model-8B-GGUF"
    assert found.requests["bnb-4bit"] == "unsloth/Model-8B-bnb-4bit"
    assert found.requests["16bit"] == "unsloth/Model-8B"
    assert found.requests["awq"] is None
    assert found.requests["8bit"] == "unsloth/Model-8B", "the gated base is not for this caller"


def test_the_family_is_known_offline_afterwards(
    online: Callable[..., Resolver], hub: LoopbackHub
) -> None:
    before = family(online(), BASE)
    hub.clear_requests()
    after = family(online(offline=True), BASE)
    assert after.members == before.members
    assert hub.requests == []
    assert family(online(), BASE).members == before.members
    assert len(hub.requests) == 1, "the tree is read once a day"
    with pytest.raises(MdlError) as caught:
        family(online(offline=True), "Never/Heard")
    assert caught.value.exit_code == 5


def test_private_mirrors_are_not_remembered_for_others(
    online: Callable[..., Resolver], hub: LoopbackHub
) -> None:
    hub.add_user("hf_maker_token", "Maker")
    hub.add_repo("Maker/Secret-GGUF", files={"M-Q8_0.gguf": b"GGUF"}, card=QUANTIZED, private=True)
    family(online(token="hf_maker_token"), BASE)
    found = family(online(offline=True), BASE)
    assert "Maker/Secret-GGUF" not in [member.repo_id for member in found.members]


def test_the_command(mdl: Run) -> None:  # noqa: F811 # the fixture
    ran = mdl("tree", BASE)
    assert ran.code == 0
    assert "bartowski/Model-8B-GGUF" in ran.out
    assert "→ bartowski/Model-8B-GGUF" in ran.out
    body = mdl("tree", BASE, "--json").json
    assert set(body) == {"requested", "base", "members", "requests"}
    assert mdl("tree", "Maker/Nothing").code == 3
    assert mdl("tree", str(Path.cwd())).code == 2


def test_sizes_that_the_tree_does_not_have_follow_from_the_weights(
    online: Callable[..., Resolver], hub: LoopbackHub
) -> None:
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w" * 16_000})
    by_format = {member.format: member for member in family(online(), BASE).members}
    assert by_format["16bit"].about is None  # its size is known
    assert by_format["gguf"].about == (4890, 8500)
    assert by_format["gguf"].size_text == "about 4.9 KB–8.5 KB"


def test_a_resolution_comes_with_its_family(mdl: Run, tmp_path: Path) -> None:  # noqa: F811
    mdl("resolve", BASE, "--gguf")
    assert mdl("resolve", BASE, "--gguf", "--json", "--family").json["family"] == (
        mdl("tree", BASE, "--json").json
    )
    refused = mdl("resolve", BASE, "--awq", "--json", "--family")
    assert (refused.code, refused.json["family"]["requests"]["awq"]) == (3, None)
    assert "→ bartowski/Model-8B-GGUF" in mdl("resolve", BASE, "--family").out
    assert mdl("resolve", "Maker/Nothing", "--family", "--json").json["family"] is None
    (tmp_path / "config.json").write_text("{}")
    assert mdl("resolve", str(tmp_path), "--family", "--json").json["family"] is None
    assert "family" not in mdl("resolve", BASE, "--json").json


def test_the_family_is_known_when_the_hub_goes_down(
    online: Callable[..., Resolver], hub: LoopbackHub
) -> None:
    before = family(online(), BASE)
    hub.fault(cut_at=0, reset=True, times=None)
    assert [m.repo_id for m in family(online(), BASE).members] == [
        member.repo_id for member in before.members
    ]
