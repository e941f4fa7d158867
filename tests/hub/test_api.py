"""Model information, listings and trees as the real client reads them from the loopback Hub."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save

from tests.hub import LoopbackHub

BASE = "Meta/Llama-X"


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    """A base model and three quantized derivatives, behind the anonymous client."""
    weights = save({"w": torch.zeros(2, 3, dtype=torch.bfloat16)})
    card = {"license": "apache-2.0", "pipeline_tag": "text-generation"}
    files = {"config.json": '{"model_type": "llama"}', "model.safetensors": weights}
    hub.add_repo(BASE, files=files, card=card, gated="manual", downloads=9)
    derived = {"base_model": BASE, "base_model_relation": "quantized"}
    for rank, name in enumerate(("a/X-bnb-4bit", "b/X-GGUF", "c/X-awq")):
        extension = "gguf" if name.endswith("GGUF") else "safetensors"
        hub.add_repo(name, files={f"m.{extension}": b"1"}, card=derived, downloads=rank)
    return HfApi(endpoint=hub.endpoint, token=False)


def test_model_info_is_public_even_when_gated(api: HfApi, hub: LoopbackHub) -> None:
    info = api.model_info(BASE, files_metadata=True)
    assert (info.id, info.gated, info.private, info.pipeline_tag) == (
        BASE, "manual", False, "text-generation")  # fmt: skip
    assert info.sha == hub.repos[BASE].head().id
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    assert sizes["config.json"] == 23
    assert info.safetensors is not None and info.safetensors.total == 6
    assert {"llama", "safetensors", "license:apache-2.0"} <= set(info.tags or [])


def test_expand_returns_only_what_was_asked(api: HfApi) -> None:
    info = api.model_info("a/X-bnb-4bit", expand=["baseModels", "sha"])
    assert info.base_models == {"relation": "quantized", "models": [{"id": BASE}]}
    assert info.sha and info.tags is None


def test_the_model_tree_filter_is_anded(api: HfApi) -> None:
    tree = f"base_model:quantized:{BASE}"
    found = [m.id for m in api.list_models(filter=tree, sort="downloads")]
    assert found == ["c/X-awq", "b/X-GGUF", "a/X-bnb-4bit"]
    assert [m.id for m in api.list_models(filter=[tree, "gguf"])] == ["b/X-GGUF"]


def test_listed_rows_carry_no_sha_unless_expanded(api: HfApi) -> None:
    row = next(iter(api.list_models(author="a")))
    assert (row.sha, row.gated, row.siblings) == (None, None, None)
    row = next(iter(api.list_models(search="llama", expand=["gated", "sha"])))
    assert row.gated == "manual" and row.sha


def test_listings_and_trees_are_paged_by_link(api: HfApi, hub: LoopbackHub) -> None:
    hub.page_size = 2
    assert len(list(api.list_models())) == 4
    assert hub.count("/api/models") == 2
    hub.commit("a/X-bnb-4bit", {f"d{n}/f.txt": str(n) for n in range(5)})
    paths = [row.path for row in api.list_repo_tree("a/X-bnb-4bit", recursive=True)]
    assert paths == sorted([f"d{n}" for n in range(5)] + [f"d{n}/f.txt" for n in range(5)])
    assert hub.count("/api/models/a/X-bnb-4bit/tree/main") == 5


def test_trees_and_paths_info_know_folders(api: HfApi, hub: LoopbackHub) -> None:
    hub.commit("c/X-awq", {"a/b/one.bin": b"1", "a/two.txt": "2", "top.txt": "3"})
    assert [r.path for r in api.list_repo_tree("c/X-awq")] == ["a", "top.txt"]
    assert [r.path for r in api.list_repo_tree("c/X-awq", "a")] == ["a/b", "a/two.txt"]
    file, folder = api.get_paths_info("c/X-awq", ["a/b/one.bin", "a", "absent"])
    assert file.path == "a/b/one.bin" and folder.path == "a"
    assert getattr(file, "lfs", None) is not None


def test_whoami(api: HfApi, hub: LoopbackHub) -> None:
    hub.add_user("hf_alice", "alice")
    assert api.whoami(token="hf_alice")["name"] == "alice"


def test_served_as_a_process(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "tests.hub", "--port-file", str(port_file)]
    command += ["--repo", f"Org/Name={tmp_path / 'model'}", "--gated", "Org/Name=auto"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 20
            while not port_file.exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.02)
            info = HfApi(endpoint=port_file.read_text(), token=False).model_info("Org/Name")
            assert (info.id, info.gated) == ("Org/Name", "auto")
        finally:
            process.terminate()
        assert process.wait(10) == 0
