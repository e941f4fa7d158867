"""The best format for a runtime on a machine, and the largest that fits."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdl.errors import MdlError, UsageError
from mdl.formats import shape_of
from mdl.resolver import Cached, Resolution, ResolveOptions, Resolver
from mdl.resolver.stored import hardware
from mdl.resolver.stored.hardware import Hardware
from mdl.resolver.stored.runtime import memory_needed, preferred, runtime_named
from tests.hub import LoopbackHub

BASE = "Maker/Model-8B"
QUANTIZED = {"base_model": BASE, "base_model_relation": "quantized"}
AWQ = '{"quantization_config": {"quant_method": "awq", "bits": 4}}'
FP8 = '{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}'
LINUX = Hardware("Linux", "x86_64", memory=64 << 30)
HOPPER = LINUX._replace(capability=(9, 0), gpu_memory=80 << 30)
TURING = LINUX._replace(capability=(7, 5), gpu_memory=16 << 30)
MAC = Hardware("Darwin", "arm64", memory=32 << 30)
MB = 1_000_000


def gguf_head(**numbers: int) -> bytes:
    body = b""
    fields: dict[str, Any] = {"general.architecture": "llama"}
    fields |= {f"llama.{key.replace('__', '.')}": value for key, value in numbers.items()}
    for key, value in fields.items():
        body += struct.pack("<Q", len(key)) + key.encode()
        if isinstance(value, int):
            body += struct.pack("<II", 4, value)
        else:
            body += struct.pack("<IQ", 8, len(value)) + value.encode()
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + body


HEAD = gguf_head(block_count=32, attention__head_count=32, attention__head_count_kv=8,
                 attention__key_length=128)  # fmt: skip


@pytest.fixture(autouse=True)
def published(hub: LoopbackHub) -> None:
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w" * MB})
    hub.add_repo(
        "unsloth/Model-8B-GGUF", card=QUANTIZED,
        files={
            "M-Q8_0.gguf": HEAD + bytes(4 * MB), "M-Q4_K_M.gguf": HEAD + bytes(2 * MB),
            "M-Q2_K.gguf": HEAD + bytes(MB),
        },
    )  # fmt: skip
    for name, config in (("RedHatAI/Model-8B-FP8", FP8), ("hugging-quants/Model-8B-AWQ", AWQ)):
        files = {"config.json": config, "model.safetensors": b"w"}
        hub.add_repo(name, files=files, card=QUANTIZED)


@pytest.fixture
def on(
    monkeypatch: pytest.MonkeyPatch, online: Callable[..., Resolver]
) -> Callable[..., Resolution]:
    def resolve(machine: Hardware, name: str, runtime: str | None, **options: Any) -> Resolution:
        monkeypatch.setattr(hardware, "this_machine", lambda: machine)
        return online().resolve(name, ResolveOptions(runtime=runtime, **options))

    return resolve


@pytest.mark.parametrize(
    ("machine", "runtime", "repo_id", "format"),
    [
        (HOPPER, "vllm", "RedHatAI/Model-8B-FP8", "fp8"),
        (HOPPER, "sglang", "RedHatAI/Model-8B-FP8", "fp8"),
        (TURING, "vLLM", "hugging-quants/Model-8B-AWQ", "awq"),
        (LINUX, "vllm", BASE, "16bit"),
        (LINUX, "llama.cpp", "unsloth/Model-8B-GGUF", "gguf"),
        (LINUX, "ollama", "unsloth/Model-8B-GGUF", "gguf"),
        (MAC, "mlx", BASE, "16bit"),
        (LINUX, "transformers", BASE, "16bit"),
    ],
)
def test_the_best_format_for_a_runtime_here(
    on: Callable[..., Resolution], machine: Hardware, runtime: str, repo_id: str, format: str
) -> None:
    found = on(machine, BASE, runtime).checked()
    assert (found.repo_id, found.format) == (repo_id, format)


def test_an_unknown_name_costs_three_requests(
    on: Callable[..., Resolution], hub: LoopbackHub
) -> None:
    on(HOPPER, BASE, "llama.cpp").checked()
    assert len(hub.requests) == 3


def test_a_quantized_repository_that_was_named_is_kept(on: Callable[..., Resolution]) -> None:
    found = on(HOPPER, "hugging-quants/Model-8B-AWQ", "vllm").checked()
    assert (found.repo_id, found.substituted) == ("hugging-quants/Model-8B-AWQ", False)


@pytest.mark.parametrize(
    ("machine", "runtime", "words"),
    [
        (LINUX, "mlx", "Apple silicon"), (LINUX, "exllama", "CUDA"), (MAC, "unsloth", "GPU"),
        (HOPPER, "exllama", "exl3"),
    ],
)  # fmt: skip
def test_where_none_runs_the_reason_is_given(
    on: Callable[..., Resolution], machine: Hardware, runtime: str, words: str
) -> None:
    with pytest.raises(MdlError) as caught:
        on(machine, BASE, runtime).checked()
    assert caught.value.exit_code == 3
    assert words in str(caught.value)


def test_the_largest_variant_that_fits_is_taken_with_every_size(
    on: Callable[..., Resolution],
) -> None:
    cache = 2 * 32 * 8 * 128 * 2 * 1000
    room = (512 << 20) + cache + 3 * MB
    found = on(LINUX, BASE, None, format="gguf", fit=room, context=1000).checked()
    assert found.variant == "Q4_K_M"
    reasons = [step.reason for step in found.trace]
    assert any(r.startswith("Q8_0 needs") and "more than" in r for r in reasons)
    assert on(LINUX, BASE, None, format="gguf", fit="64GB").checked().variant == "Q8_0"
    assert on(LINUX, BASE, None, format="gguf", fit="auto").checked().variant == "Q8_0"
    with pytest.raises(MdlError, match="fits"):
        on(LINUX, BASE, None, format="gguf", fit="10MB").checked()


def test_for_a_runtime_what_loses_least_and_fits(on: Callable[..., Resolution]) -> None:
    assert on(HOPPER, BASE, "vllm", fit="auto").checked().format == "16bit"
    found = on(HOPPER, BASE, "vllm", fit=(512 << 20) + 100_000).checked()
    assert (found.format, found.repo_id) == ("fp8", "RedHatAI/Model-8B-FP8")


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": "winamp"}, {"runtime": "vllm", "format": "gguf"}, {"fit": "24GB"},
        {"format": "bnb-4bit", "fit": "auto"}, {"format": "gguf", "fit": "much"},
    ],
)  # fmt: skip
def test_wrong_requests_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ResolveOptions(**options)


def test_the_tables() -> None:
    assert runtime_named("llama-cpp") == "llama.cpp"
    assert preferred("vllm", HOPPER)[0] == "fp8"
    assert preferred("vllm", HOPPER, largest=True)[0] == "16bit"
    shape = shape_of({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64})
    assert memory_needed(1000, shape, 100) == 1050 + 2 * 2 * 4 * 16 * 2 * 100 + (512 << 20)


def test_what_fits_is_known_offline_from_the_header_in_the_cache(
    online: Callable[..., Resolver], tmp_path: Path
) -> None:
    online().resolve(BASE, ResolveOptions("gguf")).checked()

    def cached(repo_id: str, revision: str | None) -> Cached | None:
        there = repo_id.lower() == "unsloth/model-8b-gguf" and (tmp_path / "M-Q8_0.gguf").exists()
        return Cached(True, str(tmp_path), 1, "c" * 40, repo_id) if there else None

    options = ResolveOptions("gguf", fit="600MB", context=1000)
    blind = online(offline=True, cached=cached).resolve(BASE, options).checked()
    assert blind.variant == "Q8_0"
    assert any("KV cache, whose size is not known" in step.reason for step in blind.trace)
    (tmp_path / "M-Q8_0.gguf").write_bytes(HEAD)
    seen = online(offline=True, cached=cached).resolve(BASE, options)
    assert seen.error is not None
    assert any(s.reason.startswith("Q2_K needs 66") for s in seen.trace), seen.trace
