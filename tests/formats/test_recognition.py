"""Recognising is a pure function of evidence: claims decide nothing that evidence decides."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl.errors import UsageError
from mdl.formats import (
    Description,
    File,
    Format,
    describe_folder,
    description_from_json,
    read_gguf_head,
    recognize,
    variant_key,
)
from mdl.formats.claims import TAGS, WIDE_TAGS
from mdl.formats.gguf_types import BITS, FILE_TYPES, type_in

AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "zero_point": True}}
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256,
}  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
WORDS = """
    quant_method bits group_size config_groups weights num_bits quant_algo quantized_layers
    quant_type default quant_config global_quant_config layer_quant_config weight format targets
    load_in_4bit llm_int8_skip_modules expert_dtype store_dtype config_for_layers vector_lens
    num_centroids mode
"""
KEYS = st.sampled_from(WORDS.split())
tables = st.recursive(
    anything | st.sampled_from(["compressed-tensors", "modelopt", "quark", "torchao", "hqq", "fp8",
                                "bitsandbytes", "vptq", "exl2", "aqlm", "awq"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


def of(*paths: str | tuple[str, int], config: Any = None, **fields: Any) -> Format:
    files = tuple(File(path) if isinstance(path, str) else File(*path) for path in paths)
    return recognize(Description(files=files, config=config, **fields))


@given(table=tables, side=anything, name=st.text(max_size=30), tags=st.lists(st.text(max_size=8)))
def test_no_configuration_is_too_odd(table: Any, side: Any, name: str, tags: list[str]) -> None:
    found = recognize(
        Description(
            name, (File("model.safetensors", 1), File("hf_quant_config.json")),
            {"quantization_config": table, "text_config": table}, {"hf_quant_config.json": side},
            tuple(tags),
        )
    )  # fmt: skip
    assert found.format
    json.dumps(found.to_json(), allow_nan=False)


@given(
    name=st.sampled_from(
        ["Org/Model-GPTQ", "Org/Model-FP8", "mlx-community/Model-4bit", "Model-GGUF"]
    ),
    tags=st.lists(st.sampled_from([*TAGS, *WIDE_TAGS]), max_size=4),
)
def test_evidence_beats_every_claim(name: str, tags: list[str]) -> None:
    claimed = of("config.json", "model.safetensors", config=AWQ, name=name, tags=tuple(tags))
    assert claimed.format == "awq"
    assert claimed.contradictions


@given(paths=st.lists(st.text(alphabet="abQ48KM_-.0F16/guf", min_size=1, max_size=24), max_size=8))
def test_no_file_name_is_too_odd(paths: list[str]) -> None:
    listed = [path + ending for path in paths for ending in ("", ".gguf")]
    found = of(*listed)
    assert found == of(*reversed(listed))
    assert len({variant.name for variant in found.variants}) == len(found.variants)


@given(
    stem=st.from_regex(r"[A-Za-z]{1,8}(-[0-9]B)?", fullmatch=True),
    name=st.sampled_from(sorted(BITS)),
)
def test_each_type_is_read_off_a_name_in_any_casing(stem: str, name: str) -> None:
    for written in (name, name.lower()):
        assert type_in(f"{stem}-{written}") == name
        assert type_in(f"{stem}.{written}") == name


def test_the_types_of_headers_are_types() -> None:
    assert set(FILE_TYPES.values()) <= set(BITS)


@pytest.mark.parametrize(
    ("stem", "found"),
    [
        ("Model-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("model-ud-iq3_xxs", "UD-IQ3_XXS"),
        ("Model.i1-IQ2_M", "IQ2_M"),
        ("Model-bf16-fixed-Q5_K_M-imat", "Q5_K_M"),
        ("Model-55IQ2_XXS-34Q2_K-07Q8_0-03F16", "IQ2_XXS"),
        ("Model-fp16", "F16"),
        ("Model-q4-k-m", "Q4_K_M"),
        ("ModelQ4_K_M", "Q4_K_M"),
        ("Model-IQ4_KSS", "IQ4_KSS"),
        ("Model-Q4_0_8_8", "Q4_0_8_8"),
        ("Qwen2-0_5B-Instruct", None),
        ("Model-v1_0", None),
    ],
)
def test_the_type_in_a_name(stem: str, found: str | None) -> None:
    assert type_in(stem) == found


def test_a_variant_is_found_however_it_is_written() -> None:
    gguf = of("Model-UD-Q4_K_XL.gguf", "Model-Q8_0.gguf")
    assert gguf.variant("ud-q4_k_xl") == gguf.variant("UD-Q4_K_XL") is not None
    assert gguf.variant("Q4_K_M") is None
    assert variant_key("4_25") == variant_key("4.25bpw") == variant_key("4.25")
    assert variant_key("4.0") == variant_key("4")


@pytest.mark.parametrize(
    ("size", "format"), [(16_060_556_376, "16bit"), (5_700_000_000, "bnb-4bit")]
)
def test_the_size_says_whether_a_configuration_is_a_leftover(size: int, format: str) -> None:
    bnb = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    found = of("config.json", ("model.safetensors", size), config=LLAMA_8B | bnb)
    assert found.format == format
    assert bool(found.contradictions) == (format == "16bit")


def test_the_size_stands_behind_a_claim_or_does_not() -> None:
    for size, format in ((4_700_000_000, "awq"), (16_100_000_000, "16bit")):
        found = of(("model.safetensors", size), config=LLAMA_8B, name="Org/Llama-8B-AWQ")
        assert found.format == format


def test_an_imatrix_is_no_model_and_a_model_made_with_one_is() -> None:
    beside = of(("Model-Q4_K_M.gguf", 5_000_000_000), ("Model-imatrix.gguf", 5_000_000))
    assert [variant.name for variant in beside.variants] == ["Q4_K_M"]
    assert of("imatrix.gguf").format is None
    alone = of(("Model-imatrix.gguf", 80_000_000_000))
    assert (alone.format, len(alone.variants)) == ("gguf", 1)


def test_a_draft_head_alone_is_taken_with_a_warning() -> None:
    found = of("eagle3-Model-Q8_0.gguf", name="Org/Model-EAGLE3-GGUF")
    assert (found.format, [v.name for v in found.variants]) == ("gguf", ["Q8_0"])
    assert "draft head" in found.contradictions[0]


def test_what_else_a_repository_holds_keeps_its_variants() -> None:
    found = of("config.json", "model.safetensors", "m-Q4_K_M.gguf", config={"model_type": "llama"})
    other = found.of("gguf")
    assert found.format == "16bit" and other is not None
    assert other.variant("q4_k_m") is not None


# -- folders and headers ---------------------------------------------------------------------


def gguf_bytes(**metadata: str | int) -> bytes:
    """A GGUF header with these keys (`general_type` for `general.type`)."""
    body = b""
    for key, value in metadata.items():
        name = key.replace("_", ".", 1).encode()
        body += struct.pack("<Q", len(name)) + name
        if isinstance(value, int):
            body += struct.pack("<II", 4, value)
        else:
            body += struct.pack("<IQ", 8, len(value)) + value.encode()
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + body


def test_a_header_gives_the_type_that_no_name_does(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(
        gguf_bytes(general_architecture="llama", general_file_type=15)
    )
    found = recognize(describe_folder(tmp_path))
    assert [variant.name for variant in found.variants] == ["Q4_K_M"]
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(general_type="adapter"))
    assert recognize(describe_folder(tmp_path)).format == "adapter"


@given(cut=st.integers(0, 120), noise=st.binary(max_size=40))
def test_no_header_is_too_short_or_too_odd(cut: int, noise: bytes) -> None:
    whole = gguf_bytes(general_architecture="llama", general_file_type=7)
    read_gguf_head(whole[:cut] + noise)
    read_gguf_head(noise)


def test_headers_of_safetensors_beat_the_configuration(tmp_path: Path) -> None:
    header = json.dumps(
        {"model.norm.weight": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}
    )
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(16)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps(AWQ))
    found = recognize(describe_folder(tmp_path))
    assert found.format == "16bit"
    assert "awq" in found.contradictions[0]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 20, struct.pack("<Q", 5) + b"{nope"])
def test_a_damaged_header_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    (tmp_path / "config.json").write_text(json.dumps(AWQ))
    assert recognize(describe_folder(tmp_path)).format == "awq"


@pytest.mark.parametrize(
    "body", [[], {"files": 3}, {"files": [3]}, {"config": [1]}, {"files": [{}]}]
)
def test_what_is_no_description_is_refused(body: Any) -> None:
    with pytest.raises(UsageError, match="description"):
        description_from_json(body)


def test_a_name_that_claims_no_weights_at_all_is_read() -> None:
    files = (File("config.json", 2), File("model.safetensors", 1000))
    found = recognize(Description(name="Org/Model-0B", files=files, config={}))
    assert found is not None


def test_a_tag_of_files_beside_the_weights_says_nothing_of_these() -> None:
    files = (File("config.json"), File("model.safetensors"), File("onnx/model_q4.onnx"))
    found = recognize(Description(name="o/n", files=files, tags=("onnx",)))
    assert (found.format, found.also) == ("16bit", ("onnx",))
