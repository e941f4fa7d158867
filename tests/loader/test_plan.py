"""A plan shows what a load would download and need, before any weights are downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mdl
from mdl.cli.entry import run
from mdl.errors import LoadError, UsageError, VerificationError
from mdl.formats import ModelShape, kv_cache_bytes, shape_of
from mdl.loader import devices
from mdl.loader.devices import Device
from mdl.loader.planning.fit import MemoryNeed, what_would_fit
from mdl.loader.planning.memory import quantized_bytes
from mdl.settings import load_settings
from tests.hub import LoopbackHub
from tests.loader import tiny

NAME = "Org/Name"
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.mark.parametrize("format", ["16bit", "bnb-4bit", "8bit"])
@pytest.mark.parametrize("name", sorted(tiny.configurations()))
def test_planned_weights_are_what_is_allocated(
    tiny_model: Callable[..., Path], name: str, format: str
) -> None:
    options: dict[str, Any] = {
        "load_in_4bit": format == "bnb-4bit",
        "load_in_8bit": format == "8bit",
    }
    planned = mdl.plan(str(tiny_model(name)), **options)
    loaded = mdl.load(str(tiny_model(name)), **options)
    assert planned.memory.weights == pytest.approx(loaded.report.memory["weights"], rel=0.05)
    assert planned.parameters == loaded.report.parameters["total"]


def test_a_remote_plan_downloads_headers_but_no_weights(
    hub: LoopbackHub, tiny_model: Callable[..., Path]
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    planned = mdl.plan(NAME, load_in_4bit=True)
    weights = [r for r in hub.requests if r.path.startswith("/cdn/")]
    assert weights and all(r.range is not None for r in weights)
    loaded = mdl.load(NAME, load_in_4bit=True)
    assert planned.download_bytes == loaded.report.downloaded > 0
    again = mdl.plan(NAME, load_in_4bit=True)
    assert again.download_bytes == 0 and again.from_local_copy
    assert again.memory.weights == planned.memory.weights


def test_a_remote_header_that_claims_petabytes_is_rejected(hub: LoopbackHub) -> None:
    lie = (10**15).to_bytes(8, "little") + b"{}"
    hub.add_repo(NAME, files={"config.json": "{}", "model.safetensors": lie})
    with pytest.raises(VerificationError, match="claims 1000000000000000 bytes"):
        mdl.plan(NAME)


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`free_memory(n)` leaves n bytes of memory, like a container's limit."""

    def leave(count: int) -> None:
        monkeypatch.setattr(devices, "container_memory", lambda: count)

    return leave


def test_a_model_that_does_not_fit_is_rejected_before_downloading_weights(
    hub: LoopbackHub, tiny_model: Callable[..., Path], free_memory: Callable[[int], None]
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    free_memory(150_000)
    with pytest.raises(
        LoadError, match=r"needs 754\.4 KB, but only 150\.0 KB are free on cpu"
    ) as raised:
        mdl.load(NAME)
    assert raised.value.details["memory"]["kv_cache"] == 2 * 2 * 2 * 16 * 2048 * 2
    assert all(r.range is not None for r in hub.requests if r.path.startswith("/cdn/"))
    assert not list(Path(load_settings().cache_root).rglob("*.safetensors"))
    assert mdl.load(NAME, check_memory=False).report.downloaded > 0


@pytest.mark.parametrize(
    ("free", "tokens", "ways"),
    [
        (310_000, 2048, ["max_seq_length=256"]),
        (200_000, 16, ["4-bit weights"]),
        (50_000, 16, ["a device with"]),
    ],
)
def test_what_would_fit_does_fit(
    tiny_model: Callable[..., Path],
    free_memory: Callable[[int], None],
    free: int,
    tokens: int,
    ways: list[str],
) -> None:
    free_memory(free)
    name = str(tiny_model("llama"))
    with pytest.raises(LoadError, match="does not fit") as raised:
        mdl.load(name, max_seq_length=tokens)
    assert all(way in raised.value.next for way in ways)
    if "max_seq_length=256" in ways:
        assert mdl.load(name, max_seq_length=256).model is not None
    if "4-bit weights" in ways:
        assert mdl.load(name, max_seq_length=tokens, load_in_4bit=True).model is not None


def test_the_command_line_says_it_as_json_and_goes_on_when_told(
    tiny_model: Callable[..., Path], free_memory: Callable[[int], None], capsys: Any
) -> None:
    free_memory(150_000)
    name = str(tiny_model("llama"))
    for options in ([], ["--dry-run"]):
        assert run(["load", name, "--json", *options]) == 1
        body = json.loads(capsys.readouterr().out)
        assert not body["fits"] and body["memory_short"] > 0
        assert "does not fit" in body["error"]["message"]
        assert "--no-memory-check" in body["error"]["next"]
        assert run(["load", name, "--json", "--no-memory-check", *options]) == 0
        capsys.readouterr()
    assert run(["load", name, "--dry-run"]) == 1
    output = capsys.readouterr()
    assert "too small" in output.out and output.err.startswith("error: ")


GB = 10**9
NEED = MemoryNeed(
    8 * GB, 3 * GB, ModelShape(32, 4096, 14336, 32, 8, 128, 128256, (None,) * 32), 8192, 2
)


@pytest.mark.parametrize(
    ("free", "others", "expected"),
    [
        (7 * GB, [], ["4-bit"]),
        (2 * GB, [], []),
        (9 * GB, [], ["max_seq_length=7424", "4-bit"]),
        (2 * GB, [Device("cpu", 64 * GB, 32 * GB)], ["device_map='cpu'"]),
        (2 * GB, [Device("cpu", 64 * GB, 4 * GB)], []),
    ],
)
def test_alternatives_that_fit(free: int, others: list[Device], expected: list[str]) -> None:
    found = what_would_fit(NEED, free, others)
    assert len(found) == len(expected)
    assert all(way.startswith(start) for way, start in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("device_map", "gpus", "packed", "expected"),
    [
        (None, 0, False, ("cpu",)),
        ({"": 1}, 2, False, ("cuda:1",)),
        ("auto", 2, False, ("cuda:0", "cuda:1", "cpu")),
        ("auto", 2, True, ("cuda:0", "cuda:1")),
        ("auto", 0, True, ("cpu",)),
        ("cuda", 1, False, ("cuda:0",)),
        ({"model": 0, "lm_head": "cpu"}, 1, False, ("cpu", "cuda:0")),
        ({"model": 0, "lm_head": "disk"}, 1, False, None),
        (torch.device("cuda:1"), 2, False, ("cuda:1",)),
        ("mps", 0, False, None),
    ],
)
def test_the_devices_a_load_may_fill(
    device_map: Any, gpus: int, packed: bool, expected: tuple[str, ...] | None
) -> None:
    assert devices.filled_devices(device_map, gpus=gpus, packed=packed) == expected


def test_a_missing_device_is_one_clear_error(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="has no device cuda:7"):
        mdl.load(str(tiny_model("llama")), device_map="cuda:7")


def test_max_memory_is_respected(tiny_model: Callable[..., Path]) -> None:
    name = str(tiny_model("llama"))
    assert mdl.plan(name, max_memory={"cpu": "1GB"}).fits
    assert not mdl.plan(name, max_memory={"cpu": "100KB"}).fits


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert devices.container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert devices.container_memory(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.container_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("requested", "gpus", "rank", "parallel", "expected"),
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
def test_the_choice_of_a_device_map(
    requested: Any, gpus: int, rank: int | None, parallel: bool, expected: Any
) -> None:
    chosen = devices.choose_device_map(requested, gpus=gpus, local_rank=rank, parallel=parallel)
    assert chosen == expected


def test_the_dry_run_prints_the_plan(tiny_model: Callable[..., Path], capsys: Any) -> None:
    folder = str(tiny_model("llama"))
    assert run(["load", folder, "--4bit", "--dry-run", "--max-seq-length", "64"]) == 0
    output = capsys.readouterr().out
    assert "would load" in output and "at 64 tokens" in output
    assert run(["load", folder, "--dry-run", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["fits"] and body["memory"]["weights"] > 0


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("count", [64, 4096, 100_000])
def test_quantized_bytes_match_bitsandbytes(count: int, double: bool) -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(count), compress_statistics=double, quant_type="nf4")
    held = packed.numel() + state.absmax.numel() * state.absmax.element_size()
    held += state.code.numel() * 4
    if double:
        held += 4 * (state.state2.absmax.numel() + state.state2.code.numel() + 1)
    assert quantized_bytes(count, double_quant=double) == held


def test_the_kv_cache_matches_what_generation_allocates(tiny_model: Callable[..., Path]) -> None:
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
