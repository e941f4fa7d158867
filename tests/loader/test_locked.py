"""A lock file determines what is pulled and loaded, even if the branch has moved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mdl
from mdl.cli.entry import run
from mdl.errors import VerificationError
from tests.hub import LoopbackHub

NAME = "Org/Locked"


@pytest.fixture
def locked(
    hub: LoopbackHub, hub_env: dict[str, str], tiny_model: Callable[..., Path], tmp_path: Path
) -> str:
    """The lock file of a model whose branch has since moved to other weights."""
    folder = tiny_model("llama")
    hub.add_repo(NAME, folder=folder)
    lock = str(tmp_path / "mdl.lock")
    assert run(["lock", NAME, "--exact", "-o", lock]) == 0
    other = {p.name: p for p in folder.iterdir() if p.suffix != ".safetensors"}
    weights = {k: v + 1 for k, v in mdl.load(str(folder)).model.state_dict().items()}
    from safetensors.torch import save

    hub.commit(NAME, {**other, "model.safetensors": save(weights, {"format": "pt"})})
    return lock


def test_the_locked_commit_is_loaded_and_nothing_else(
    locked: str, tiny_model: Callable[..., Path], hub: LoopbackHub
) -> None:
    loaded = mdl.load(NAME.lower(), use_exact_model_name=True, locked=locked)
    expected = mdl.load(str(tiny_model("llama"))).model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.model.state_dict().items())
    assert loaded.report.commit != hub.repos[NAME].head().id
    # With everything in the cache, a pinned commit makes no request.
    before = len(hub.requests)
    mdl.load(NAME, use_exact_model_name=True, locked=locked)
    assert len(hub.requests) == before


def test_files_other_than_the_locked_ones_are_rejected(locked: str) -> None:
    assert run(["pull", NAME, "--exact", "--locked", locked]) == 0
    root = Path(os.environ["HF_HOME"]) / "hub" / "models--Org--Locked"
    (snapshot,) = (root / "snapshots").iterdir()
    blob = root / "blobs" / ("0" * 64)
    blob.write_bytes((snapshot / "config.json").read_bytes())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(Path("../../blobs") / blob.name)
    with pytest.raises(VerificationError, match="is not the file"):
        mdl.load(NAME, use_exact_model_name=True, locked=locked)


def test_a_format_other_than_the_locked_one_is_rejected(locked: str) -> None:
    with pytest.raises(VerificationError, match="is locked"):
        mdl.load(NAME, load_in_4bit=True, locked=locked)
