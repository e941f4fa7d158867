"""A LoRA branch on a 4-bit base: every rank, both directions, and what PEFT does with it after."""

import copy

import pytest
import torch

import mdl.kernels as kernels
from mdl.errors import UsageError
from tests.kernels.models import logits, quantized, step, tiny, with_lora
from tests.kernels.weights import packed_weight, rows


def plainly(x, dense, lora, bias, dropped):
    source = x if dropped is None else dropped
    return x @ dense.T + bias + lora.scaling * (source @ lora.a.T) @ lora.b.T


@pytest.mark.parametrize("rank", [1, 8, 64, 256])
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("count", [6, 80])  # the branch is added to the base, and the other way
def test_result_and_every_gradient(rank, dropout, count):
    weight = packed_weight(40, 72)  # blocks span rows
    dense = kernels.dequantize_4bit(weight)
    found = []
    for fused in (True, False):
        x = rows(count, 72).view(2, -1, 72).requires_grad_()
        bias = rows(1, 40)[0].requires_grad_()
        a, b = rows(rank, 72, seed=1).requires_grad_(), rows(40, rank, seed=2).requires_grad_()
        mask = (torch.arange(72) % 3 > 0) * 1.5
        lora, dropped = kernels.Lora(a, b, 2 / rank), x * mask if dropout else None
        if fused:
            made = kernels.lora_linear_4bit(x, weight, lora, bias, dropped=dropped)
        else:
            made = plainly(x, dense, lora, bias, dropped)
        made.square().sum().backward()
        found.append([made, *(one.grad for one in (x, a, b, bias))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # Dynamo
@pytest.mark.parametrize("count", [6, 80])
def test_compiles_without_graph_breaks(count):
    weight, x = packed_weight(40, 64), rows(count, 64).requires_grad_()
    a, b = rows(8, 64, seed=1).requires_grad_(), rows(40, 8, seed=2).requires_grad_()

    def step(x):
        return kernels.lora_linear_4bit(x, weight, kernels.Lora(a, b, 0.5)).square().sum()

    eager = torch.autograd.grad(step(x), (x, a, b))
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(x), (x, a, b)), eager, strict=True):
        assert torch.equal(ours, theirs)


def test_many_rows_are_rounded_once():
    """In bfloat16 nearer to the exact sum than with the base rounded first, as PEFT has it."""
    weight, x = packed_weight(40, 64, torch.bfloat16), rows(200, 64, torch.bfloat16)
    a, b = rows(8, 64, torch.bfloat16, seed=1), rows(40, 8, torch.bfloat16, seed=2)
    lora = kernels.Lora(a, b, 1 / 64)
    dense = kernels.dequantize_4bit(weight)
    exact = plainly(*(one.double() for one in (x, dense)), lora_of(lora, torch.float64), 0, None)
    theirs = x @ dense.T + (x @ a.T) @ b.T * lora.scaling
    ours = kernels.lora_linear_4bit(x, weight, lora)
    off, theirs_off = ((one.double() - exact).square().mean() for one in (ours, theirs))
    assert off < theirs_off


def lora_of(lora, dtype):
    return kernels.Lora(lora.a.to(dtype), lora.b.to(dtype), lora.scaling)


def test_adapters_in_float32_on_a_bfloat16_base():
    weight = packed_weight(40, 64, torch.bfloat16)
    a, b = rows(8, 64).requires_grad_(), rows(40, 8, seed=1).requires_grad_()
    x = rows(5, 64, torch.bfloat16).requires_grad_()
    made = kernels.lora_linear_4bit(x, weight, kernels.Lora(a, b))
    made.sum().backward()
    assert made.dtype == x.grad.dtype == torch.bfloat16
    assert a.grad.dtype == b.grad.dtype == torch.float32


def test_adapters_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="do not fit"):
        kernels.lora_linear_4bit(
            rows(5, 64), packed_weight(40, 64), kernels.Lora(rows(8, 64), rows(64, 8))
        )


@pytest.mark.filterwarnings("ignore")  # PEFT and bitsandbytes, on things not tested here
class TestWithPeft:
    """Models as PEFT trains, merges and saves them, with and without the kernels."""

    @pytest.fixture(autouse=True)
    def needs(self):
        pytest.importorskip("peft")
        pytest.importorskip("bitsandbytes")

    def pair(self, **more):
        plain, fast = (with_lora(quantized(tiny("llama", **more))) for _ in range(2))
        kernels.apply(fast)
        return plain, fast

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_gradient_checkpointing(self, reentrant):
        plain, fast = self.pair()
        wanted = step(plain)
        fast.gradient_checkpointing_enable({"use_reentrant": reentrant})
        fast.enable_input_require_grads()
        loss, grads = step(fast)
        torch.testing.assert_close(loss, wanted[0], rtol=1e-5, atol=1e-6)
        for name, grad in wanted[1].items():
            torch.testing.assert_close(grads[name], grad, rtol=2e-4, atol=2e-6, msg=name)

    def test_merging(self):
        """The merged model is the one PEFT makes without the kernels, weight for weight."""
        plain, fast = self.pair(num_hidden_layers=1)
        kept, wanted = (one.merge_and_unload().state_dict() for one in (fast, plain))
        assert kept.keys() == wanted.keys()
        assert all(torch.equal(kept[name], wanted[name]) for name in wanted)

    def test_the_saved_adapter(self, tmp_path):
        import peft

        _, fast = self.pair(num_hidden_layers=1)
        fast.save_pretrained(tmp_path)
        base = quantized(tiny("llama", num_hidden_layers=1))
        again = peft.PeftModel.from_pretrained(base, tmp_path)
        kernels.apply(again)
        assert torch.equal(logits(again), logits(fast))

    def test_adapters_added_after_apply_are_refused_politely(self):
        """The swapped layer runs PEFT's own code as long as two adapters are active."""
        plain, fast = self.pair(num_hidden_layers=1)
        for model in (plain, fast):
            torch.manual_seed(3)
            model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
            for name, parameter in model.named_parameters():
                if "second" in name:
                    torch.nn.init.normal_(parameter, std=0.05)
            model.base_model.set_adapter(["default", "second"])
        torch.testing.assert_close(step(fast)[0], step(plain)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32])
def test_any_storage_dtype(storage):
    """QLoRA under FSDP keeps the packed bytes as bfloat16."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    dense = rows(48, 64)
    layer = bitsandbytes.nn.Linear4bit(
        64, 48, bias=False, quant_type="nf4", quant_storage=storage, compute_dtype=torch.float32
    )
    layer.load_state_dict({"weight": dense})
    layer = layer.to("cpu")
    assert layer.weight.dtype == storage
    model = torch.nn.Sequential(layer)
    assert kernels.apply(model).counts == {"linear_4bit": 1}
    exact = kernels.dequantize_4bit(kernels.quantize_4bit(dense))
    x = rows(3, 64).requires_grad_()
    made = model(x)
    torch.testing.assert_close(made, x @ exact.T)
    (grad,) = torch.autograd.grad(made.sum(), x)
    torch.testing.assert_close(grad, exact.sum(0).expand(3, -1))
