"""Vision-language models: text and pictures come out the same, and the training loss is fused."""

import importlib

import pytest
import torch

import mdl.kernels as kernels
from tests.kernels.models import SIZES

transformers = pytest.importorskip("transformers")
# `mdl.kernels.ops.rope` is the function of that name.
rope_module = importlib.import_module("mdl.kernels.ops.rope")
pytestmark = pytest.mark.filterwarnings("ignore")

IMAGE, START, END = 150, 151, 152
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
QWEN = {
    "text_config": {**SIZES, "rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}},
    "image_token_id": IMAGE,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
PATCHES = {"patch_size": 14, "spatial_merge_size": 2, "depth": 2, "num_heads": 4}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MLLAMA_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_global_layers": 1,
    "attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 64,
    "intermediate_layers_indices": [0],
    "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]],
}
MODELS = {
    "Qwen2VL": {
        **QWEN,
        "vision_config": {**PATCHES, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    },
    "Qwen2_5_VL": {
        **QWEN,
        "vision_config": {
            **PATCHES,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 48,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
    },
    "Gemma3": {
        "text_config": {**SIZES, "head_dim": 16, "query_pre_attn_scalar": 16},
        "vision_config": TOWER,
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE,
        "boi_token_index": START,
        "eoi_token_index": END,
    },
    "Mistral3": {
        "text_config": {"model_type": "mistral", **SIZES},
        "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 16},
        "image_token_index": IMAGE,
        "spatial_merge_size": 1,
    },
    "Mllama": {
        "text_config": {**SIZES, "cross_attention_layers": [1], "rope_parameters": ROPE},
        "vision_config": MLLAMA_TOWER,
        "image_token_index": IMAGE,
    },
    "Llava": {
        "text_config": {"model_type": "llama", **SIZES},
        "vision_config": {"model_type": "clip_vision_model", **TOWER},
        "image_token_index": IMAGE,
    },
}


def tiny(family, dtype=torch.float32):
    """A vision-language model with 14 x 14 patches, the same weights at every call."""
    config = getattr(transformers, f"{family}Config")(**MODELS[family])
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    for parameter in model.parameters():
        if not parameter.any():  # zeros would hide the picture
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).eval()


def picture(family, dtype=torch.float32):
    """A picture that becomes four tokens among five others."""
    make = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, START, IMAGE, IMAGE, IMAGE, IMAGE, END, 6, 7]])
    pixels = torch.randn(1, 3, 28, 28, generator=make).to(dtype)
    more = {}
    if family.startswith("Qwen"):  # 4 x 4 patches, merged by fours
        pixels = torch.randn(16, 3 * 2 * 14 * 14, generator=make).to(dtype)
        kinds = (ids == IMAGE).int()
        more = {"mm_token_type_ids": kinds, "image_grid_thw": torch.tensor([[1, 4, 4]])}
    if family == "Gemma3":
        more = {"token_type_ids": (ids == IMAGE).int()}
    if family == "Mistral3":
        more = {"image_sizes": torch.tensor([[28, 28]])}
    if family == "Mllama":
        ids = torch.where(ids == IMAGE, 8, ids)
        ids[0, 2] = IMAGE
        pixels = pixels[None, None]
        one = torch.ones(1, 1, dtype=torch.int64)
        seen = torch.ones(1, 9, 1, 1, dtype=torch.int64)
        more = {
            "aspect_ratio_ids": one,
            "aspect_ratio_mask": one[None],
            "cross_attention_mask": seen,
        }
    return {"input_ids": ids, "pixel_values": pixels, **more}


def training_step(model, given):
    """Output and all gradients, in training mode."""
    labels = given["input_ids"].clone()
    labels[labels == IMAGE] = -100
    output = model.train()(**given, labels=labels)
    output.loss.backward()
    grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return output, grads


@pytest.mark.parametrize("family", MODELS)
def test_the_same_logits_for_a_picture(family):
    plain, fast = tiny(family), tiny(family)
    applied = kernels.apply(fast)
    assert {"rms_norm", "rope", "glu", "cross_entropy"} <= set(applied.counts)
    with torch.no_grad():
        wanted, ours = (model(**picture(family)).logits for model in (plain, fast))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", MODELS)
def test_the_training_loss_is_fused(family):
    """Same loss and gradients without logits, in the family's own output type."""
    plain, fast = tiny(family), tiny(family)
    kernels.apply(fast)
    (wanted, grads), (ours, found) = (training_step(m, picture(family)) for m in (plain, fast))
    assert ours.logits is None
    assert type(ours) is type(wanted)
    torch.testing.assert_close(ours.loss, wanted.loss, rtol=1e-5, atol=1e-5)
    assert found.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, rtol=3e-4, atol=2e-5, msg=name)
    if "image_hidden_states" in wanted:
        assert torch.equal(ours.image_hidden_states, wanted.image_hidden_states)


def test_pictures_reach_the_loss():
    """Another picture, another loss: the fused forward passes every argument on."""
    model = tiny("Gemma3")
    kernels.apply(model)
    given = picture("Gemma3")
    first = training_step(model, given)[0].loss
    given["pixel_values"] = given["pixel_values"] + 1
    assert training_step(model, given)[0].loss != first


def test_a_tuple_when_asked_for():
    plain, fast = tiny("Qwen2VL").train(), tiny("Qwen2VL").train()
    kernels.apply(fast)
    given = picture("Qwen2VL")
    wanted, ours = (
        model(**given, labels=given["input_ids"], return_dict=False) for model in (plain, fast)
    )
    assert isinstance(ours, tuple)
    torch.testing.assert_close(ours[0], wanted[0])


def test_a_head_with_a_hook_keeps_its_own_loss():
    """Whoever offloads or watches the head must see it called."""
    model, seen = tiny("Qwen2VL"), []
    kernels.apply(model)
    model.lm_head.register_forward_hook(lambda module, given, made: seen.append(made))
    assert training_step(model, picture("Qwen2VL"))[0].logits is not None
    assert len(seen) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Qwen2VL", "Qwen2_5_VL"])
def test_the_vision_towers_rotation(family, dtype, monkeypatch):
    """Rotated in float32, rounded once: the towers' features are bit-equal, in both dtypes."""
    plain, fast = tiny(family, dtype), tiny(family, dtype)
    counts = kernels.apply(fast, only="rope").counts
    assert counts == {"rope": 4}  # two layers of text, two of vision
    seen, real = [], rope_module.rotate
    monkeypatch.setattr(
        rope_module, "rotate", lambda *given: seen.append(given[0].shape) or real(*given)
    )
    found = []
    for model in (plain, fast):
        given = picture(family, dtype)
        pixels = given["pixel_values"].requires_grad_()
        features = model.model.visual(pixels, given["image_grid_thw"]).last_hidden_state
        (grad,) = torch.autograd.grad(features.float().sum(), pixels)
        found.append((features, grad))
    assert len(seen) == 4  # forward and backward of two layers
    assert torch.equal(found[0][0], found[1][0])
    near = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found[1][1], found[0][1], rtol=near, atol=near)


def test_pixtrals_layers_and_rotation(monkeypatch):
    """The tower and its text model: one layer of vision, two of text, and nothing left."""
    plain, fast = tiny("Mistral3"), tiny("Mistral3")
    applied = kernels.apply(fast)
    assert (applied.counts["add_rms_norm"], applied.counts["rope"], applied.left) == (3, 3, ())
    seen, real = [], rope_module.rotate
    monkeypatch.setattr(
        rope_module, "rotate", lambda *given: seen.append(given[0].shape) or real(*given)
    )
    (wanted, grads), (ours, found) = (training_step(m, picture("Mistral3")) for m in (plain, fast))
    assert len(seen) == 6  # forward and backward of three layers
    torch.testing.assert_close(ours.loss, wanted.loss)
    tower = [name for name in grads if "vision_tower" in name]
    assert tower
    for name in tower:
        torch.testing.assert_close(found[name], grads[name], rtol=3e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_vision_without_a_picture(dtype):
    """Its text model by itself: self-attention layers alone, and the loss is fused."""
    config = transformers.MllamaConfig(**MODELS["Mllama"]).text_config
    found = []
    for swap in (False, True):
        torch.manual_seed(0)
        model = transformers.MllamaForCausalLM(config).to(dtype).train()
        if swap:
            assert kernels.apply(model).counts["add_rms_norm"] == 1  # the other layer is cross
            assert kernels.apply(model).counts["cross_entropy"] == 1
        ids = torch.arange(5, 14)[None]
        made = model(input_ids=ids, labels=ids)
        made.loss.backward()
        assert (made.logits is None) == swap
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((made.loss, grads))
    near = 1e-5 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(found[1][0], found[0][0], rtol=near, atol=near)
    assert found[1][1].keys() == found[0][1].keys()
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=near * 20, atol=near, msg=name)


def test_layer_norm_of_the_vision_tower_is_swapped():
    assert kernels.apply(tiny("Qwen2VL"), only="layer_norm").counts == {"layer_norm": 5}


def test_remove_restores_every_module():
    model = tiny("Mistral3")
    before = {name: type(module) for name, module in model.named_modules()}
    kernels.apply(model)
    kernels.remove(model)
    assert {name: type(module) for name, module in model.named_modules()} == before
