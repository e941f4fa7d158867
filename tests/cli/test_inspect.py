"""`mdl inspect`: of a name, a folder, and a description."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.hub import LoopbackHub

FIELDS = {"format", "variants", "bits_per_weight", "evidence", "contradictions", "also", "runtimes"}
AWQ = json.dumps({"quantization_config": {"quant_method": "awq", "bits": 4}})


@pytest.fixture(autouse=True)
def published(hub: LoopbackHub) -> None:
    hub.add_repo("Org/Model-GGUF", files={"m-Q4_K_M.gguf": b"GGUF", "m-Q8_0.gguf": b"GGUF",
                                          "mmproj-F16.gguf": b"GGUF"})  # fmt: skip
    hub.add_repo("Org/Model-GPTQ", files={"config.json": AWQ, "model.safetensors": b"w"})
    hub.add_repo(
        "Org/Model-NVFP4",
        files={"config.json": "{}", "model.safetensors": b"w",
               "hf_quant_config.json": '{"quantization": {"quant_algo": "NVFP4"}}'},
    )  # fmt: skip


@pytest.mark.straight
def test_a_name_costs_a_listing_and_at_most_two_small_files(mdl: Run, hub: LoopbackHub) -> None:
    for name, format, most in (
        ("Org/Model-GGUF", "gguf", 1),
        ("Org/Model-GPTQ", "awq", 2),
        ("Org/Model-NVFP4", "nvfp4", 3),
    ):
        hub.clear_requests()
        ran = mdl("inspect", name, "--json")
        assert (ran.code, ran.json["format"]) == (0, format)
        assert set(ran.json) >= FIELDS
        redirects = hub.count("/api/resolve-cache/*")
        assert len(hub.requests) - redirects == most


def test_text_says_what_shows_it_and_what_speaks_against_it(mdl: Run) -> None:
    out = mdl("inspect", "Org/Model-GPTQ").out
    assert out.startswith("Org/Model-GPTQ: awq, 4 bits a weight")
    assert "because  config.json: quantization_config: quant_method is awq" in out
    assert "but      the name says gptq, the weights are awq" in out
    out = mdl("inspect", "Org/Model-GGUF").out
    assert "Q4_K_M" in out and "mmproj F16" in out


def test_a_folder_is_looked_at_without_a_socket(mdl: Run, tmp_path: Path, hub: LoopbackHub) -> None:
    (tmp_path / "config.json").write_text(AWQ)
    (tmp_path / "model.safetensors").write_bytes(b"")
    ran = mdl("inspect", str(tmp_path), "--json")
    assert (ran.code, ran.json["format"], hub.requests) == (0, "awq", [])


def test_a_description_is_judged_without_disk_or_network(mdl: Run, hub: LoopbackHub) -> None:
    body = {"name": "Org/M", "files": [{"path": "m-Q4_K_M.gguf", "size": None}], "tags": ["gguf"]}
    ran = mdl("inspect", "--from-json", "-", "--json", stdin=json.dumps(body))
    assert (ran.code, ran.json["variants"], hub.requests) == (0, ["Q4_K_M"], [])


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["Org/Nothing"], 4), (["Org/Model-GGUF", "--offline"], 5), ([], 2),
        (["--from-json", "-"], 2), (["x", "--from-json", "-"], 2),
    ],
)  # fmt: skip
def test_refusals(mdl: Run, args: list[str], code: int) -> None:
    assert mdl("inspect", *args, stdin="nothing").code == code
