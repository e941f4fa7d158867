"""Whole models with random weights: decoding, prefill and a QLoRA step, with our kernels or not."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import mdl.kernels as kernels

_STEPS = 32
"""Decoded tokens a measurement."""


@dataclass(frozen=True)
class Shape:
    """A Llama to build, and what to run through it. config: arguments of LlamaConfig."""

    name: str
    config: dict[str, Any]
    batches: tuple[int, ...]
    prompt: int
    train_tokens: int
    rank: int = 16


LLAMA_8B = Shape(
    "an 8B Llama in NF4, random weights",
    {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    },
    batches=(1, 4, 16),
    prompt=2048,
    train_tokens=2048,
)
TINY = Shape(
    "a tiny Llama in NF4, random weights",
    {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 160,
        "max_position_embeddings": 128,
    },
    batches=(1, 2),
    prompt=8,
    train_tokens=8,
    rank=8,
)

_WHO = ("transformers + bitsandbytes", "ours")
_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def measure_models(
    device: torch.device, shape: Shape, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """Every measurement of one model, first without our kernels, then with them."""
    model = build(device, shape)
    found = {"model": shape.name, **measure_inference(model, device, shape, out_of_time)}
    kernels.remove(model)
    for who, step in measure_training(model, device, shape, out_of_time).items():
        found[who]["qlora_step"] = step
    return found


def measure_inference(
    model: Any, device: torch.device, shape: Shape, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """Prefill and decoding, by who computes; `applied`: the kernels that ours are."""
    found: dict[str, Any] = {}
    for who in _WHO:
        if who == "ours":
            found["applied"] = kernels.apply(model).to_json()
        found[who] = inference(model.eval(), device, shape, out_of_time)
    return found


def measure_training(
    model: Any, device: torch.device, shape: Shape, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """A QLoRA step, by who computes. The model gets the adapter."""
    model = _with_lora(model, shape)
    found: dict[str, Any] = {}
    for who in _WHO:
        if who == "ours":
            kernels.apply(model)
        step = partial(training_step, model, device, shape)
        found[who] = _attempt(step, out_of_time)
    return found


def build(device: torch.device, shape: Shape) -> Any:
    """The model in bfloat16, its projections packed one by one as bitsandbytes layers."""
    import bitsandbytes
    from transformers import LlamaConfig, LlamaForCausalLM

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape.config))
    finally:
        torch.set_default_dtype(default)
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or name == "lm_head":
            continue
        packed, state = kernels.quantize_4bit(module.weight).to_bitsandbytes()
        layer = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
            device="meta",
        )
        layer.weight = bitsandbytes.nn.Params4bit(
            packed, quant_state=state, quant_type="nf4", bnb_quantized=True, module=layer
        )
        layer.quant_state = state
        layer.support_avx512bf16_for_cpu = False  # it would repack the weight in place, with loss
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.is_loaded_in_4bit = True
    return model


def inference(
    model: Any, device: torch.device, shape: Shape, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """Prefill milliseconds, and decoded tokens a second by batch, with and without CUDA graphs."""
    found: dict[str, Any] = {
        "prefill_ms": _attempt(partial(prefill_ms, model, device, shape), out_of_time)
    }
    for batch in shape.batches:
        key = f"decode_tokens_per_second, batch {batch}"
        found[key] = _attempt(partial(decode, model, device, batch), out_of_time)
        if device.type == "cuda":
            found[f"{key}, CUDA graph"] = _attempt(
                partial(decode_graph, model, device, batch), out_of_time
            )
    return found


def _attempt(function: Callable[[], Any], out_of_time: Callable[[], bool]) -> Any:
    if out_of_time():
        return {"skipped": "out of time"}
    try:
        return function()
    except Exception as error:  # a measurement that fails must not lose the others
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ids(model: Any, device: torch.device, batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(3, model.config.vocab_size, (batch, tokens), device=device)


@torch.no_grad()
def prefill_ms(model: Any, device: torch.device, shape: Shape) -> float:
    """Best of three passes over one prompt."""
    ids, best = _ids(model, device, 1, shape.prompt), float("inf")
    for _ in range(4):
        _wait(device)
        started = time.perf_counter()
        model(ids, logits_to_keep=1)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return round(best * 1e3, 3)


@torch.no_grad()
def decode(model: Any, device: torch.device, batch: int) -> float:
    """Tokens a second, one token a call and sequence."""
    cache = model(_ids(model, device, batch, 8), use_cache=True).past_key_values
    token = _ids(model, device, batch, 1)
    for _ in range(3):
        model(token, past_key_values=cache, use_cache=True)
    _wait(device)
    started = time.perf_counter()
    for _ in range(_STEPS):
        model(token, past_key_values=cache, use_cache=True)
    _wait(device)
    return round(batch * _STEPS / (time.perf_counter() - started), 2)


@torch.no_grad()
def decode_graph(model: Any, device: torch.device, batch: int) -> float:
    """The same step captured once in a CUDA graph, over a static cache, and replayed."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=128)
    model(_ids(model, device, batch, 8), past_key_values=cache, use_cache=True)
    token = _ids(model, device, batch, 1)
    place = torch.full((batch, 1), 8, device=device)

    def step() -> torch.Tensor:
        made: torch.Tensor = model(
            token, position_ids=place, past_key_values=cache, use_cache=True
        ).logits
        return made

    make_stream: Any = torch.cuda.Stream
    side = make_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    _wait(device)
    started = time.perf_counter()
    for _ in range(_STEPS):
        graph.replay()
    _wait(device)
    return round(batch * _STEPS / (time.perf_counter() - started), 2)


def _with_lora(model: Any, shape: Shape) -> Any:
    import peft

    config = peft.LoraConfig(
        r=shape.rank, lora_alpha=16, target_modules=list(_LORA_TARGETS), task_type="CAUSAL_LM"
    )
    made = peft.get_peft_model(model, config)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    made.gradient_checkpointing_enable({"use_reentrant": False})
    made.enable_input_require_grads()
    return made


def training_step(model: Any, device: torch.device, shape: Shape) -> dict[str, float]:
    """Best of three steps (forward and gradients), and their peak memory."""
    ids = _ids(model, device, 1, shape.train_tokens)
    model.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    best = float("inf")
    loss = torch.zeros(())
    for _ in range(4):
        _wait(device)
        started = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        _wait(device)
        best = min(best, time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    found = {"ms": round(best * 1e3, 3), "loss": round(float(loss), 4)}
    if device.type == "cuda":
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return found
