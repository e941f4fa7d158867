"""What a model needs beside transformers is known before a byte of its weights is downloaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import mdl
from mdl.errors import LoadError
from tests.corpus.files import sentencepiece_model
from tests.hub import LoopbackHub
from tests.loader import tiny

NAME = "Org/Name"
WEIGHTS = "model.safetensors"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the packages in question is there, whatever this environment has."""
    real = importlib.util.find_spec
    absent = ("sentencepiece", "tiktoken", "flash_attn", "kernels")
    monkeypatch.setattr(
        "mdl.loader.build.packages.find_spec",
        lambda name: None if name in absent else real(name),
    )
    for name in ("is_flash_attn_2_available", "is_kernels_available"):
        monkeypatch.setattr(transformers.utils, name, lambda: False)


def put(hub: LoopbackHub, folder: Path, **config: Any) -> None:
    tiny.save_model("llama", folder)
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **config}))
    hub.add_repo(NAME, folder=folder)


def refused(hub: LoopbackHub, **arguments: Any) -> LoadError:
    with pytest.raises(LoadError) as caught:
        mdl.load(NAME, **arguments)
    assert not [request for request in hub.requests if WEIGHTS in str(request)]
    return caught.value


@pytest.mark.usefixtures("hub_env", "bare")
@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ({}, {"attn_implementation": "flash_attention_2"}),
        ({"attn_implementation": "flash_attention_2"}, {}),
        ({"_attn_implementation": "flash_attention_2"}, {}),
        ({"_attn_implementation": "flash_attention_2"}, {"attn_implementation": "sdpa"}),
    ],
)
def test_flash_attention_that_is_missing(
    hub: LoopbackHub, tmp_path: Path, config: dict[str, str], arguments: dict[str, str]
) -> None:
    put(hub, tmp_path / "model", **config)
    error = refused(hub, **arguments)
    assert "flash-attn is not installed" in str(error.why)
    assert "pip install flash-attn" in str(error.next)
    with pytest.raises(ImportError, match="FlashAttention2"):  # the reference
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", **arguments)


@pytest.mark.usefixtures("hub_env", "bare")
def test_another_implementation_outranks_that_of_the_configuration(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    put(hub, tmp_path / "model", attn_implementation="flash_attention_2")
    loaded = mdl.load(NAME, attn_implementation="sdpa")
    assert loaded.model.config._attn_implementation == "sdpa"
    assert [request for request in hub.requests if WEIGHTS in str(request)]


@pytest.mark.usefixtures("hub_env", "bare")
@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_a_tokenizer_that_only_sentencepiece_reads(
    hub: LoopbackHub, tmp_path: Path, name: str
) -> None:
    folder = tiny.save_model("llama", tmp_path / "model")
    (folder / "tokenizer.json").rename(folder / name)
    (folder / name).write_bytes(sentencepiece_model())
    hub.add_repo(NAME, folder=folder)
    assert "pip install sentencepiece" in str(refused(hub).next)
