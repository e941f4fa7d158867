"""The residual add fused with the norm after it: the layer's numbers, and everyone who looks in."""

import copy

import pytest
import torch

import mdl.kernels as kernels
from mdl.kernels.ops import norm
from tests.kernels.models import FAMILIES, batch, logits, step, tiny, with_lora

transformers = pytest.importorskip("transformers")
# transformers and PEFT warn about things these tests do not touch.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def added(monkeypatch):
    """How many norms were given a residual to add."""
    seen, real = [], norm.rms_forward

    def counting(x, residual, *rest):
        if residual is not None:
            seen.append(x.shape)
        return real(x, residual, *rest)

    monkeypatch.setattr(norm, "rms_forward", counting)
    return seen


def fused(family="llama", **more):
    """A tiny model with this operation alone."""
    model = tiny(family, **more)
    applied = kernels.apply(model, only="add_rms_norm")
    assert applied.counts == {"add_rms_norm": 2}
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_one_add_of_each_layer_is_fused_and_the_logits_stay(family, added):
    assert torch.equal(logits(fused(family)), logits(tiny(family)))
    assert len(added) == 2


@pytest.mark.parametrize("family", ["phi3", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_in_training(family, dtype):
    """Phi-3 drops out what it adds; Gemma normalises it first."""
    more = {"resid_pdrop": 0.3} if family == "phi3" else {}
    found = []
    for model in (tiny(family, dtype, **more), fused(family, dtype=dtype, **more)):
        torch.manual_seed(5)
        found.append(step(model))
    near = 1e-5 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(found[1][0], found[0][0], rtol=near, atol=near)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=near * 20, atol=near)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_the_layer(reentrant, added):
    plain, fast = tiny("llama"), fused()
    wanted = step(plain)
    fast.gradient_checkpointing_enable({"use_reentrant": reentrant})
    fast.enable_input_require_grads()
    loss, grads = step(fast)
    assert len(added) == 4  # each layer twice
    torch.testing.assert_close(loss, wanted[0])
    for name, grad in wanted[1].items():
        torch.testing.assert_close(grads[name], grad, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("after", [True, False])
def test_before_and_after_peft(after, added):
    plain = with_lora(tiny("llama"))
    fast = with_lora(tiny("llama")) if after else tiny("llama")
    kernels.apply(fast, only="add_rms_norm")
    fast = fast if after else with_lora(fast)
    wanted, ours = step(plain), step(fast)
    assert len(added) == 2
    torch.testing.assert_close(ours[0], wanted[0])
    for name, grad in wanted[1].items():
        torch.testing.assert_close(ours[1][name], grad, rtol=2e-4, atol=2e-6)


def test_hidden_states_and_attentions_are_recorded():
    how = {"output_hidden_states": True, "output_attentions": True}
    ids = batch()["input_ids"]
    found = []
    for model in (tiny("llama"), fused()):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            found.append(model(input_ids=ids, **how))
    for name in ("hidden_states", "attentions"):
        assert len(found[0][name]) == len(found[1][name]) > 0
        assert all(map(torch.equal, found[0][name], found[1][name]))


def test_arguments_by_place_are_as_by_name_and_one_too_many_is_refused(added):
    plain, fast = tiny("llama"), fused()
    hidden = torch.randn(1, 5, plain.config.hidden_size)
    places = torch.arange(5)[None]
    tables = plain.model.rotary_emb(hidden, places)
    given = (None, places, None, False, tables)
    wanted = plain.model.layers[0](hidden, *given)
    assert torch.equal(fast.model.layers[0](hidden, *given), wanted)
    assert len(added) == 1
    for model in (plain, fast):
        with pytest.raises(TypeError, match="positional"):
            model.model.layers[0](hidden, *given, "one more")


@pytest.mark.parametrize("operation", ["rope", "add_rms_norm"])
def test_a_renamed_keyword_is_still_understood(operation):
    """transformers 5.24 calls `past_key_values` `cache`, and its layers take both."""
    model = tiny("llama")
    kernels.apply(model, only=operation)
    hidden = torch.randn(1, 5, model.config.hidden_size)
    tables = model.model.rotary_emb(hidden, torch.arange(5)[None])
    layer = model.model.layers[0]
    for module in (layer, layer.self_attn):
        cache = transformers.DynamicCache(config=model.config)
        module(hidden, position_embeddings=tables, attention_mask=None, past_key_values=cache)
        assert cache.get_seq_length() == 5


def test_a_hook_on_the_norm_is_called(added):
    """Then the layer runs transformers' code; the other layer is fused as before."""
    model, seen = fused(), []
    model.model.layers[0].post_attention_layernorm.register_forward_hook(
        lambda module, given, made: seen.append(made)
    )
    assert torch.equal(logits(model), logits(tiny("llama")))
    assert len(seen) == len(added) == 1


def test_a_norm_of_another_type_is_said_and_kept():
    model = tiny("llama")
    layer = model.model.layers[1]
    layer.post_attention_layernorm = torch.nn.Identity()
    applied = kernels.apply(model, only="add_rms_norm")
    assert applied.counts == {"add_rms_norm": 1}
    assert "its norm is a Identity" in str(applied)
    late = fused()
    late.model.layers[1].post_attention_layernorm = torch.nn.Identity()
    assert torch.equal(logits(late), logits(model))


def test_generation_deepcopy_and_undo():
    plain, fast = tiny("qwen2"), fused("qwen2")
    ids = batch()["input_ids"]
    how = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(copy.deepcopy(fast).generate(ids, **how), plain.generate(ids, **how))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert kernels.remove(fast) == 2
    assert type(fast.model.layers[0]) is type(plain.model.layers[0])


def test_compiles_without_graph_breaks():
    model = fused()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(logits(compiled), logits(model))


def test_summands_of_two_dtypes_are_added_as_torch_does():
    """Under autocast a branch is bfloat16 and the residual float32."""
    x, residual = torch.randn(3, 40).bfloat16(), torch.randn(3, 40)
    y, total = kernels.add_rms_norm(x, residual, torch.ones(40))
    assert torch.equal(total, x + residual)
    assert torch.equal(y, kernels.rms_norm(x + residual, torch.ones(40)))
