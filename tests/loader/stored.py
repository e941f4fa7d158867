"""Tiny models in formats that mdl loads as they are stored, quantized by their own libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.loader import tiny

GROUP = 32


def float_llama() -> Any:
    torch.manual_seed(11)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.SMALL)).to(torch.bfloat16)


def check_same(ours: Any, theirs: Any) -> None:
    """Two models have the same tensors, bit for bit, those inside torchao's included."""
    found, meant = dict(_tensors(ours)), dict(_tensors(theirs))
    assert found.keys() == meant.keys()
    for name, tensor in meant.items():
        assert tensor.dtype == found[name].dtype, name
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in model.state_dict().items():
        if hasattr(tensor, "__tensor_flatten__"):
            for inner in tensor.__tensor_flatten__()[0]:
                yield f"{name}.{inner}", getattr(tensor, inner)
        else:
            yield name, tensor


def save_w4a16(folder: Path) -> None:
    """compressed-tensors: int4 in groups, packed."""
    _save_compressed(folder, "pack-quantized", num_bits=4, type="int", group_size=GROUP)


def save_fp8_dynamic(folder: Path) -> None:
    """compressed-tensors: fp8 with a scale a row."""
    _save_compressed(folder, "float-quantized", num_bits=8, type="float")


def _save_compressed(folder: Path, layout: str, **weights: Any) -> None:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    grouped = "group_size" in weights
    how = QuantizationArgs(strategy="group" if grouped else "channel", symmetric=True, **weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=how, format=layout)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status="frozen",
        format=layout,
    )  # fmt: skip
    model = float_llama()
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            rows = module.weight.data.unflatten(1, (-1, GROUP if grouped else module.in_features))
            scale, _ = calculate_qparams(rows.amin(-1), rows.amax(-1), how)
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    tiny.tokenizer().save_pretrained(folder)


def save_mxfp4(folder: Path) -> None:
    """gpt-oss: experts as MXFP4 blocks and scales."""
    sizes = {**tiny.SMALL, "intermediate_size": 64, "head_dim": 16, "sliding_window": 16}
    config = transformers.GptOssConfig(
        **sizes, num_local_experts=4, num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(5)
    model = transformers.GptOssForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    stored = {}
    for name, weight in model.state_dict().items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, columns, rows = weight.shape
            shape = (experts, rows, columns // 32)
            stored[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
            stored[f"{name}_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8)
        else:
            stored[name] = weight
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    claim(folder, quant_method="mxfp4", modules_to_not_convert=["lm_head"])
    tiny.tokenizer().save_pretrained(folder)


def claim(folder: Path, **table: Any) -> None:
    """Have config.json say that the weights are quantized so."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": table}))


def write_gguf(path: Path, kind: str = "Q8_0", architecture: str = "llama", **split: int) -> Path:
    """A Llama of the tiny sizes with its tokenizer; `split` adds `split.…` entries."""
    import gguf
    from gguf.quants import quantize

    sizes, words = tiny.SMALL, tiny.tokenizer()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(sizes["max_position_embeddings"])
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(sizes["vocab_size"])
    writer.add_file_type(int(gguf.LlamaFileType[f"MOSTLY_{kind}"]))
    for name, value in split.items():
        writer.add_uint16(f"split.{name}", value)
    _add_tokens(writer, words, sizes["vocab_size"])
    tensors = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, sizes["num_hidden_layers"])
    for name, weight in float_llama().float().state_dict().items():
        stem, _, end = name.rpartition(".")
        values, stored = weight.numpy(), gguf.GGMLQuantizationType[kind]
        wide = values.ndim == 1
        writer.add_tensor(
            f"{tensors.get_name(stem)}.{end}",
            values if wide else quantize(values, stored),
            raw_dtype=None if wide else stored,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokens(writer: Any, words: Any, size: int) -> None:
    import gguf

    model = json.loads(words.backend_tokenizer.to_str())["model"]
    by_id = {token_id: token for token, token_id in words.get_vocab().items()}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id.get(i, f"<|unused{i}|>") for i in range(size)])
    writer.add_token_types(
        [int(kinds.CONTROL if by_id.get(i, "<|").startswith("<|") else kinds.NORMAL)
         for i in range(size)]
    )  # fmt: skip
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tiny.TEMPLATE)
