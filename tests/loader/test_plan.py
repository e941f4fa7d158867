"""Plan first: what a load would fetch and need is known before a byte of weights moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mdl
from mdl.cli import cli
from mdl.cli.output import run
from mdl.errors import LoadError, VerificationError
from mdl.loader import devices, planning
from mdl.loader.devices import Device
from mdl.loader.memory import kv_cache_bytes, quantized_bytes, shape_of
from mdl.loader.planning import check_fits
from tests.hub import LoopbackHub
from tests.loader import tiny

NAME = "Org/Name"
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.mark.parametrize("format", ["16bit", "bnb-4bit"])
@pytest.mark.parametrize("name", sorted(tiny.configurations()))
def test_planned_weights_are_what_is_allocated(
    tiny_model: Callable[..., Path], name: str, format: str
) -> None:
    options: dict[str, Any] = {"load_in_4bit": format == "bnb-4bit"}
    planned = mdl.plan(str(tiny_model(name)), **options)
    loaded = mdl.load(str(tiny_model(name)), **options)
    assert planned.memory.weights == pytest.approx(loaded.report.memory["weights"], rel=0.05)
    assert planned.parameters == loaded.report.parameters["total"]


def test_a_remote_plan_fetches_headers_and_no_weights(
    hub: LoopbackHub, tiny_model: Callable[..., Path]
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    planned = mdl.plan(NAME, load_in_4bit=True)
    weights = [r for r in hub.requests if r.path.startswith("/cdn/")]
    assert weights and all(r.range is not None for r in weights)
    loaded = mdl.load(NAME, load_in_4bit=True)
    assert planned.download_bytes == loaded.report.downloaded > 0
    again = mdl.plan(NAME, load_in_4bit=True)
    assert again.download_bytes == 0 and again.from_mirror
    assert again.memory.weights == planned.memory.weights


def test_a_remote_header_that_claims_petabytes_is_refused(hub: LoopbackHub) -> None:
    lie = (10**15).to_bytes(8, "little") + b"{}"
    hub.add_repo(NAME, files={"config.json": "{}", "model.safetensors": lie})
    with pytest.raises(VerificationError, match="claims 1000000000000000 bytes"):
        mdl.plan(NAME)


def test_too_big_is_said_with_what_would_fit(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Device("cpu", 200_000, 150_000)
    monkeypatch.setattr(planning, "find_devices", lambda device_map: (small,))
    planned = mdl.plan(str(tiny_model("llama")), max_seq_length=16)
    assert not planned.fits and "in 4 bits it would fit" in planned.problems[0]
    with pytest.raises(LoadError, match="does not fit"):
        check_fits(planned)


def test_what_no_device_can_hold_is_refused_before_a_byte_is_fetched(
    hub: LoopbackHub, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    monkeypatch.setattr(devices, "find_devices", lambda device_map: (Device("cpu", 100, 100),))
    with pytest.raises(LoadError, match="does not fit on this machine"):
        mdl.load(NAME)
    assert hub.count("*/resolve/*") == 0


@pytest.mark.parametrize(
    ("asked", "gpus", "rank", "parallel", "expected"),
    [
        (None, 0, None, False, None),
        (None, 1, None, False, {"": 0}),
        (None, 4, None, False, "auto"),
        ("sequential", 4, None, False, "sequential"),
        ("auto", 4, 2, False, {"": 2}),
        ("auto", 0, 1, False, None),
        (None, 4, 2, True, None),
        ({"": "cpu"}, 4, 2, False, {"": "cpu"}),
        ("cuda:1", 4, None, False, "cuda:1"),
    ],
)
def test_where_a_model_goes(
    asked: Any, gpus: int, rank: int | None, parallel: bool, expected: Any
) -> None:
    chosen = devices.choose_device_map(asked, gpus=gpus, local_rank=rank, parallel=parallel)
    assert chosen == expected


def test_the_dry_run_prints_the_plan(tiny_model: Callable[..., Path], capsys: Any) -> None:
    folder = str(tiny_model("llama"))
    assert run(cli, ["load", folder, "--4bit", "--dry-run", "--max-seq-length", "64"]) == 0
    said = capsys.readouterr().out
    assert "would load" in said and "at 64 tokens" in said
    assert run(cli, ["load", folder, "--dry-run", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["fits"] and body["memory"]["weights"] > 0


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("count", [64, 4096, 100_000])
def test_quantized_bytes_are_bitsandbytes_own(count: int, double: bool) -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(count), compress_statistics=double, quant_type="nf4")
    held = packed.numel() + state.absmax.numel() * state.absmax.element_size()
    held += state.code.numel() * 4
    if double:
        held += 4 * (state.state2.absmax.numel() + state.state2.code.numel() + 1)
    assert quantized_bytes(count, double_quant=double) == held


def test_the_kv_cache_is_what_generation_allocates(tiny_model: Callable[..., Path]) -> None:
    model = mdl.load(str(tiny_model("llama"))).model
    with torch.inference_mode():
        cache = model(torch.ones(1, 24, dtype=torch.long), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers
               for t in (layer.keys, layer.values))  # fmt: skip
    shape = shape_of(model.config.to_dict())
    assert shape is not None and kv_cache_bytes(shape, 24) == held


def test_a_sliding_window_bounds_the_kv_cache() -> None:
    config = {**tiny.SMALL, "sliding_window": 8, "layer_types": ["sliding_attention",
                                                                 "full_attention"]}  # fmt: skip
    shape = shape_of(config)
    assert shape is not None and shape.windows == (8, None)
    per_token = 2 * shape.kv_heads * shape.head_size * 2
    assert kv_cache_bytes(shape, 100) == (8 + 100) * per_token
