"""Kernels in whole models: the same logits, loss and gradients, and everything can be undone."""

import copy
import pickle
from unittest.mock import ANY

import pytest
import torch

import mdl.kernels as kernels
from mdl.errors import UsageError
from tests.kernels.models import FAMILIES, batch, logits, quantized, step, tiny, with_lora

pytest.importorskip("transformers")
# transformers, bitsandbytes and PEFT warn about things these tests do not touch.
pytestmark = pytest.mark.filterwarnings("ignore")

EXPECTED = {"rms_norm", "add_rms_norm", "rope", "glu", "cross_entropy"}


def assert_same_step(one, other):
    """Losses and gradients to float32's precision."""
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(grad, other[1][name], rtol=2e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_stay(family):
    plain, fast = tiny(family), tiny(family)
    applied = kernels.apply(fast)
    assert set(applied.counts) == EXPECTED
    assert not applied.left
    assert torch.equal(logits(fast), logits(plain))
    assert_same_step(step(fast), step(plain))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bfloat16_logits_are_bit_equal_on_the_references(family):
    plain, fast = tiny(family, torch.bfloat16), tiny(family, torch.bfloat16)
    kernels.apply(fast)
    assert torch.equal(logits(fast), logits(plain))


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_remove_restores_exactly(family):
    model = tiny(family)
    before = {name: type(module) for name, module in model.named_modules()}
    count = sum(kernels.apply(model).counts.values())
    assert kernels.remove(model) == count
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert kernels.remove(model) == 0


def test_state_dict_keys_and_names_stay():
    plain, fast = tiny("llama"), tiny("llama")
    kernels.apply(fast)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert type(fast).__name__ == "LlamaForCausalLM"
    assert isinstance(fast, type(plain))


def test_only_and_skip():
    assert set(kernels.apply(tiny("llama"), only="rms_norm").counts) == {"rms_norm"}
    assert set(kernels.apply(tiny("llama"), skip=["rope", "glu"]).counts) == {
        "rms_norm",
        "add_rms_norm",
        "cross_entropy",
    }
    with pytest.raises(UsageError, match="'norm'"):
        kernels.apply(tiny("llama"), only=["norm"])
    with pytest.raises(UsageError, match="both given"):
        kernels.apply(tiny("llama"), only=["rope"], skip=["glu"])


def test_what_was_left_has_a_reason():
    model = tiny("llama")
    model.model.layers[0].mlp.act_fn = torch.nn.ReLU()
    applied = kernels.apply(model, skip="rope")
    reasons = {one["why"]: one["count"] for one in applied.to_json()["left"]}
    assert reasons == {"not asked for": 2, "its activation is ReLU": 1}
    assert "left 1 x LlamaMLP (glu): its activation is ReLU" in str(applied)


def test_applying_twice_adds_what_was_missing():
    model = tiny("llama")
    first = kernels.apply(model, only="rope")
    second = kernels.apply(model)
    assert set(first.counts) == {"rope"}
    assert set(second.counts) == EXPECTED


def test_a_subclass_of_a_known_type_is_left_alone():
    model = tiny("llama")

    class Mine(type(model.model.norm)):
        def forward(self, x):
            return x

    model.model.norm.__class__ = Mine
    kernels.apply(model)
    assert type(model.model.norm) is Mine


def test_deepcopy_and_pickle():
    model = tiny("llama")
    kernels.apply(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other), logits(model))
        assert type(other) is type(model)
        assert kernels.remove(other)


def test_gradient_checkpointing():
    plain, fast = tiny("llama"), tiny("llama")
    kernels.apply(fast)
    fast.gradient_checkpointing_enable()
    assert_same_step(step(fast), step(plain))


def test_generate_and_save(tmp_path):
    import transformers

    plain, fast = tiny("llama"), tiny("llama")
    kernels.apply(fast)
    ids = batch()["input_ids"]
    wanted = plain.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(fast.generate(ids, max_new_tokens=4, do_sample=False), wanted)
    fast.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.architectures == ["LlamaForCausalLM"]
    assert torch.equal(logits(again), logits(plain))


def test_compiles_without_graph_breaks():
    model = tiny("llama")
    kernels.apply(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(logits(compiled), logits(model))


def test_a_training_step_compiles():
    model, eager = tiny("llama"), tiny("llama")
    kernels.apply(model)
    kernels.apply(eager)
    model.forward = torch.compile(model.forward, backend="aot_eager")
    assert_same_step(step(model), step(eager))


def test_accelerate_hooks_run_the_kernels():
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = tiny("llama")
    wanted = logits(model)
    norm = model.model.norm
    add_hook_to_module(norm, ModelHook())
    kernels.apply(model)
    assert norm._old_forward.__func__ is type(norm).forward
    assert torch.equal(logits(model), wanted)
    kernels.remove(model)
    assert norm._old_forward.__func__ is type(norm).forward


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [({"num_items_in_batch": torch.tensor(5)}, "summed"), ({"logits_to_keep": 4}, "kept")],
)
def test_loss_arguments_of_the_trainer(kwargs, why):
    plain, fast = tiny("llama").train(), tiny("llama").train()
    kernels.apply(fast)
    given = batch()
    if why == "kept":
        given["labels"] = given["labels"][:, -4:]
    torch.testing.assert_close(fast(**given, **kwargs).loss, plain(**given, **kwargs).loss)


def test_logits_exist_outside_training():
    """In training the loss never makes them; an evaluation loop gets them as always."""
    model = tiny("llama")
    kernels.apply(model)
    assert model(**batch()).logits is not None
    model.train()
    assert model(**batch()).logits is None


def test_a_custom_loss_function_is_kept():
    model = tiny("llama")
    kernels.apply(model)
    model.loss_function = lambda *args, **kwargs: torch.tensor(7.0)
    assert model.train()(**batch()).loss == 7.0


class TestFourBit:
    """Linear4bit, with and without PEFT's LoRA on top."""

    def test_same_step_and_logits(self):
        plain, fast = quantized(tiny("llama")), quantized(tiny("llama"))
        applied = kernels.apply(fast)
        assert applied.counts["linear_4bit"] == 14
        assert_same_step(step(fast), step(plain))
        exact = logits(fast)
        # In eval mode on some CPUs bitsandbytes repacks its weight and rounds its scales.
        torch.testing.assert_close(exact, logits(plain), rtol=0.1, atol=0.1)
        assert torch.equal(logits(fast), exact)

    @pytest.mark.parametrize("first", ["apply", "peft"])
    def test_before_and_after_peft(self, first):
        plain = with_lora(quantized(tiny("llama")))
        fast = quantized(tiny("llama"))
        if first == "apply":
            kernels.apply(fast)
        fast = with_lora(fast)
        applied = kernels.apply(fast)
        assert applied.counts["linear_4bit"] == applied.counts["lora_4bit"] == 14
        assert_same_step(step(fast), step(plain))

    def test_dropout_is_the_same_dropout(self):
        plain, fast = (with_lora(quantized(tiny("llama")), lora_dropout=0.3) for _ in range(2))
        kernels.apply(fast)
        torch.manual_seed(5)
        ours = step(fast)
        torch.manual_seed(5)
        assert_same_step(ours, step(plain))

    def test_two_adapters_are_left_to_peft(self):
        model = with_lora(quantized(tiny("llama")))
        model.add_adapter("second", model.peft_config["default"])
        model.base_model.set_adapter(["default", "second"])
        applied = kernels.apply(model)
        assert "lora_4bit" not in applied.counts
        assert any("several" in one.why for one in applied.left)

    def test_switching_adapters_off_after_apply(self):
        model = with_lora(quantized(tiny("llama")))
        kernels.apply(model)
        with model.disable_adapter():
            off = logits(model)
        assert not torch.equal(off, logits(model))
        bare = quantized(tiny("llama"))
        kernels.apply(bare)
        assert torch.equal(off, logits(bare))

    def test_state_dict_and_deepcopy_keep_the_quantization(self):
        plain, fast = quantized(tiny("llama")), quantized(tiny("llama"))
        kernels.apply(fast)
        logits(fast)
        kept, wanted = fast.state_dict(), plain.state_dict()
        assert kept.keys() == wanted.keys()
        assert all(torch.equal(kept[name], wanted[name]) for name in wanted)
        assert torch.equal(logits(copy.deepcopy(fast)), logits(fast))

    def test_a_whole_quantized_base_is_saved_and_read_again(self, tmp_path):
        """As transformers quantizes and saves it, with the kernels in: every bit of it."""
        import transformers
        from safetensors.torch import load_file

        tiny("llama", torch.bfloat16).save_pretrained(tmp_path / "float")
        how = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        load = transformers.AutoModelForCausalLM.from_pretrained
        plain, fast = (load(tmp_path / "float", quantization_config=how) for _ in range(2))
        assert kernels.apply(fast).counts["linear_4bit"] == 14
        wanted = logits(fast)
        fast.save_pretrained(tmp_path / "ours")
        plain.save_pretrained(tmp_path / "theirs")
        ours, theirs = (
            load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        again = load(tmp_path / "ours")
        assert again.config.to_dict() == {**fast.config.to_dict(), "_name_or_path": ANY}
        kernels.apply(again)
        assert torch.equal(logits(again), wanted)

    def test_compiles_without_graph_breaks(self):
        model = quantized(tiny("llama", num_hidden_layers=1))
        kernels.apply(model)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.equal(logits(compiled), logits(model))

    def test_a_lora_training_step_compiles(self):
        model = with_lora(quantized(tiny("llama", num_hidden_layers=1)))
        kernels.apply(model)
        eager = step(model)
        layer = model.get_submodule("base_model.model.model.layers.0.mlp")
        layer.forward = torch.compile(layer.forward, backend="aot_eager", fullgraph=True)
        assert_same_step(step(model), eager)

    def test_a_weight_that_is_not_quantized_yet_is_left(self):
        import bitsandbytes

        model = torch.nn.Sequential(bitsandbytes.nn.Linear4bit(64, 64))
        (left,) = kernels.apply(model).left
        assert "not quantized" in left.why

    def test_remove(self):
        model = with_lora(quantized(tiny("llama")))
        before = {name: type(module) for name, module in model.named_modules()}
        kernels.apply(model)
        kernels.remove(model)
        assert {name: type(module) for name, module in model.named_modules()} == before
