"""Vision-language models: the text part gets every kernel, and pictures come out the same."""

import pytest
import torch

import mdl.kernels as kernels
from tests.kernels.models import SIZES

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
IMAGE, START, END = 150, 151, 152
VISION = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "num_heads": 4,
        "intermediate_size": 48,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    },
}
PREFIX = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}


def tiny(family):
    """A vision-language model with 14 x 14 patches, the same weights at every call."""
    config = getattr(transformers, f"{PREFIX[family]}Config")(
        text_config={**SIZES, "rope_parameters": ROPE},
        vision_config={**VISION[family], "patch_size": 14, "spatial_merge_size": 2},
        image_token_id=IMAGE,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{PREFIX[family]}ForConditionalGeneration")(config).eval()


def picture():
    """One picture of 4 x 4 patches, which merge into four tokens."""
    make = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, START, IMAGE, IMAGE, IMAGE, IMAGE, END, 6, 7]])
    return {
        "input_ids": ids,
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(16, 3 * 2 * 14 * 14, generator=make),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


@pytest.mark.parametrize("family", VISION)
def test_the_same_logits_and_gradients_for_a_picture(family):
    plain, fast = tiny(family), tiny(family)
    applied = kernels.apply(fast)
    assert {"rms_norm", "rope", "glu"} <= set(applied.counts)
    left = {(one.kind, one.operation) for one in applied.left}
    assert ("VisionAttention" in {kind for kind, _ in left}) == (family == "qwen2_vl")
    found = []
    for model in (plain, fast):
        labels = picture()["input_ids"].clone()
        output = model(**picture(), labels=labels)
        output.loss.backward()
        grads = [one.grad for one in model.parameters() if one.grad is not None]
        found.append((output.logits.detach(), grads))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_layer_norm_of_the_vision_tower_is_swapped():
    assert kernels.apply(tiny("qwen2_vl"), only="layer_norm").counts == {"layer_norm": 5}
