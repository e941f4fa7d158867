"""Real architectures, small enough to build in milliseconds, with a real tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

TEXT = "The capital of France is Paris. A model answers what it was asked. " * 20
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|image_pad|>", "<|video_pad|>",
           "<|vision_start|>", "<|vision_end|>"]  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
VISION_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}


def configurations() -> dict[str, tuple[type, Any]]:
    """Name → (class, configuration) of the architectures under test."""
    t = transformers
    bert = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
    gemma = {**SMALL, "head_dim": 16, "sliding_window": 32}
    gemma_vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    qwen_vl = {"text_config": {**SMALL, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}},
        "vision_config": VISION, "image_token_id": 3, "video_token_id": 4,
        "vision_start_token_id": 5, "vision_end_token_id": 6}  # fmt: skip
    vision_25 = {"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2,
                 "intermediate_size": 64, "fullatt_block_indexes": [1]}  # fmt: skip
    return {
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(**SMALL)),
        "llama-tied": (t.LlamaForCausalLM, t.LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**SMALL)),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**SMALL, head_dim=16)),
        "mistral": (t.MistralForCausalLM, t.MistralConfig(**SMALL)),
        "phi3": (t.Phi3ForCausalLM, t.Phi3Config(**SMALL)),
        "gemma3-text": (t.Gemma3ForCausalLM, t.Gemma3TextConfig(**gemma)),
        "gemma3": (
            t.Gemma3ForConditionalGeneration,
            t.Gemma3Config(text_config=gemma, vision_config=gemma_vision, mm_tokens_per_image=4,
                           image_token_index=3, boi_token_index=5, eoi_token_index=6),
        ),
        "qwen2-vl": (t.Qwen2VLForConditionalGeneration, t.Qwen2VLConfig(**qwen_vl)),
        "qwen2.5-vl": (
            t.Qwen2_5_VLForConditionalGeneration,
            t.Qwen2_5_VLConfig(**{**qwen_vl, "vision_config": vision_25}),
        ),
        "mllama": (t.MllamaForConditionalGeneration, _mllama()),
        "mixtral": (
            t.MixtralForCausalLM,
            t.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
        ),
        "qwen3-moe": (
            t.Qwen3MoeForCausalLM,
            t.Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, head_dim=16,
                             moe_intermediate_size=32),
        ),
        "bert": (t.BertForMaskedLM, t.BertConfig(**bert)),
        "bert-encoder": (t.BertModel, t.BertConfig(**bert)),
        "llama-classifier": (
            t.LlamaForSequenceClassification,
            t.LlamaConfig(**SMALL, num_labels=3),
        ),
    }  # fmt: skip


def _mllama() -> Any:
    text = {**SMALL, "num_hidden_layers": 3, "cross_attention_layers": [1], "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0}}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_global_layers": 1, "attention_heads": 2, "image_size": 28, "patch_size": 14,
              "max_num_tiles": 2, "intermediate_layers_indices": [0], "vision_output_dim": 64,
              "supported_aspect_ratios": [[1, 1], [1, 2]]}  # fmt: skip
    return transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=3)


def save_model(name: str, folder: Path, **saving: Any) -> Path:
    """Save a model of the architecture in bfloat16 with random weights and a tokenizer."""
    kind, config = configurations()[name]
    torch.manual_seed(7)
    model = kind(config).to(torch.bfloat16)
    model.save_pretrained(folder, **saving)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 300 tokens with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([TEXT], trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    made.chat_template = TEMPLATE
    return made


def add_qwen_processor(folder: Path) -> None:
    """Add the processor files of a Qwen2-VL repository, as they are on the Hub."""
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 784, "max_pixels": 3136, "patch_size": 14, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def save_fp8_model(folder: Path) -> dict[str, torch.Tensor]:
    """Save a Llama whose linear layers are stored in fp8, with a float32 scale per 128 x 128 block.

    Returns the dequantized weights of those layers, in bfloat16.
    """
    sizes = {**SMALL, "hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    stored, meant = {}, {}
    for name, weight in model.state_dict().items():
        stored[name] = weight
        if name.endswith("_proj.weight"):
            rows, columns = weight.shape
            blocks = weight.float().reshape(rows // 128, 128, columns // 128, 128)
            scale = blocks.abs().amax((1, 3), keepdim=True) / 448  # the largest float8_e4m3fn
            small = (blocks / scale).to(torch.float8_e4m3fn)
            stored[name] = small.reshape(rows, columns)
            stored[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()
            meant[name] = (small.float() * scale).reshape(rows, columns).to(torch.bfloat16)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return meant
