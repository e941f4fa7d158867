"""What a name claims of its weights, in the catalogue's words."""

import pytest

from mdl.formats import claimed_format
from mdl.formats.claims import _ANY_MARK, _patterns


def test_every_claim_is_found_by_the_search_before_it() -> None:
    words = "gguf bnb-4bit nf4 bnb-8bit awq gptq auto-round exl2 exl3 hqq torchao aqlm vptq quanto"
    words += " eetq mlx onnx openvino ov ct2 coreml mlc nvfp4 mxfp4 mxfp8 fp4 fp8 f8 float8_e4m3"
    words += " w8a8 w4a16 w8a16 w4a8 int4 w8 4bit 8-bit q4 q8 bf16 f32 svdq qlora ggml bnb ao"
    for word in words.split():
        assert any(pattern.search(word) for pattern, _, _ in _patterns()), word
        assert _ANY_MARK.search(word), word


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", None),
        ("unsloth/Llama-3.1-8B-unsloth-bnb-4bit", "bnb-4bit"),
        ("Maker/Model-bnb-8bit", "8bit"),
        ("Maker/Model-AWQ", "awq"),
        ("mlx-community/Model-4bit", "mlx"),
        ("Maker/Model-4bit", "other"),
        ("Maker/Movie-Aorta", None),
    ],
)
def test_a_claim_is_read_off_a_name(name: str, found: str | None) -> None:
    assert claimed_format(name) == found
