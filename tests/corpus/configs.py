"""Repositories whose config.json is odd: its class, its numbers, its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as t

from tests.corpus import building as b
from tests.corpus.shape import shape
from tests.loader import tiny


def llama_with(folder: Path, **changes: Any) -> None:
    b.llama(folder)
    b.config(folder, **changes)


# Which class


@shape("transformers#40750: FSDPLlamaForCausalLM in architectures")
def architecture_of_fsdp(folder: Path) -> None:
    llama_with(folder, architectures=["FSDPLlamaForCausalLM"])


@shape("hand-edited: architectures as a text")
def architecture_as_text(folder: Path) -> None:
    llama_with(folder, architectures="LlamaForCausalLM")


@shape("vllm#38818: architectures null")
def architecture_null(folder: Path) -> None:
    llama_with(folder, architectures=None)


@shape("trl#7006: architectures absent")
def architecture_absent(folder: Path) -> None:
    llama_with(folder, architectures=...)


@shape("LlamaFactory#9709: architectures []")
def architecture_empty(folder: Path) -> None:
    llama_with(folder, architectures=[])


@shape("yuhuili/EAGLE3-*: a class of another library on a known model_type")
def architecture_of_another_library(folder: Path) -> None:
    llama_with(folder, architectures=["LlamaForCausalLMEagle3"])


@shape("unsloth's early exports: two classes in architectures")
def two_architectures(folder: Path) -> None:
    llama_with(folder, architectures=["PeftModelForCausalLM", "LlamaForCausalLM"])


@shape("an encoder whose config.json names no class", auto="AutoModel")
def encoder_without_architecture(folder: Path) -> None:
    b.bert(folder, t.BertModel)
    b.config(folder, architectures=None)


@shape("a masked language model whose config.json names no class", auto="AutoModelForMaskedLM")
def masked_without_architecture(folder: Path) -> None:
    b.bert(folder, t.BertForMaskedLM)
    b.config(folder, architectures=None)


@shape("a vision model whose config.json names no class", auto="AutoModelForImageTextToText")
def vision_without_architecture(folder: Path) -> None:
    tiny.save_model("gemma3", folder)
    b.config(folder, architectures=None)


@shape("a headless Llama (LlamaModel), as embedding models are", auto="AutoModel")
def headless(folder: Path) -> None:
    b.save(folder, t.LlamaModel, t.LlamaConfig(**b.SMALL))


@shape("reward models: LlamaForSequenceClassification", auto="AutoModelForSequenceClassification")
def classifier(folder: Path) -> None:
    b.save(folder, t.LlamaForSequenceClassification, t.LlamaConfig(**b.SMALL, num_labels=3))


@shape("google-t5/t5-small: an encoder and a decoder", auto="AutoModelForSeq2SeqLM")
def t5(folder: Path) -> None:
    sizes = {"vocab_size": 320, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1,
             "num_heads": 2, "decoder_start_token_id": 0}  # fmt: skip
    b.save(folder, t.T5ForConditionalGeneration, t.T5Config(**sizes))


@shape("facebook/bart-base: final_logits_bias is a buffer", auto="AutoModelForSeq2SeqLM")
def bart(folder: Path) -> None:
    sizes = {"vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "max_position_embeddings": 64}  # fmt: skip
    b.save(folder, t.BartForConditionalGeneration, t.BartConfig(**sizes))


@shape("google/vit-base-patch16-224: an image classifier", auto="AutoModelForImageClassification")
def vit(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    b.save(folder, t.ViTForImageClassification, t.ViTConfig(**sizes), words=False)
    t.ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)


@shape(
    "google-bert/bert-base-uncased's first years: no model_type, but a class",
    auto="AutoModelForMaskedLM",
    says="model_type",
)
def no_model_type_bert(folder: Path) -> None:
    b.bert(folder, t.BertForMaskedLM)
    b.config(folder, model_type=...)


@shape("no model_type, and a name that tells nothing", says="model_type")
def no_kind(folder: Path) -> None:
    llama_with(folder, model_type=...)


@shape("a model_type that only a newer transformers knows", says="(?i)upgrade")
def newer_model(folder: Path) -> None:
    llama_with(folder, model_type="nextgen5", architectures=["NextGen5ForCausalLM"])


@shape("microsoft/Phi-3-mini-4k-instruct: auto_map beside a class that transformers has")
def code_that_is_not_needed(folder: Path) -> None:
    llama_with(folder, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    (folder / "modeling_x.py").write_text("raise SystemExit('executed')")


@shape("tiiuae/falcon-7b's first year: auto_map alone", says="trust_remote_code")
def code_that_is_needed(folder: Path) -> None:
    auto_map = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    llama_with(folder, model_type="x", architectures=["X"], auto_map=auto_map)


# Which numbers


@shape(
    "google/gemma-3-1b-it, llama.cpp#12876, transformers#37011: <image_soft_token>",
    says="<image_soft_token>",
)
def one_token_beyond(folder: Path) -> None:
    b.llama(folder)
    words = tiny.tokenizer()
    words.add_tokens([f"<unused{n}>" for n in range(320 - len(words))])
    words.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    words.save_pretrained(folder)


@shape(
    "google/gemma-3-1b-it in 4 bits",
    says="<image_soft_token>",
    options={"load_in_4bit": True},
    theirs={"quantization_config": "nf4"},
)
def one_token_beyond_in_4bit(folder: Path) -> None:
    one_token_beyond(folder)


@shape(
    "a tokenizer of another model",
    mdl="refuses",
    because="most ids have no embedding",
    says="embeddings",
)
def tokenizer_of_another_model(folder: Path) -> None:
    b.llama(folder, vocab_size=64)


@shape("Qwen/Qwen2.5-7B: more rows than tokens")
def more_rows_than_tokens(folder: Path) -> None:
    b.llama(folder, vocab_size=512)


@shape(
    "google/gemma-3n-E2B-it: intermediate_size is a list, which this class refuses",
    says="intermediate_size",
)
def list_of_sizes(folder: Path) -> None:
    llama_with(folder, intermediate_size=[64])


@shape("configs written by hand: numbers in quotes", says="hidden_size")
def number_in_quotes(folder: Path) -> None:
    llama_with(folder, hidden_size="64")


@shape("configs that lie: a hidden size of another model")
def another_hidden_size(folder: Path) -> None:
    llama_with(folder, hidden_size=128, head_dim=32)


@shape("configs with an activation that transformers does not have", says="swish_of_mine")
def unknown_activation(folder: Path) -> None:
    llama_with(folder, hidden_act="swish_of_mine")


@shape("meta-llama/Llama-2's RoPE scaling: rope_scaling {type, factor}")
def rope_of_old(folder: Path) -> None:
    llama_with(folder, rope_parameters=..., rope_theta=10000.0,
               rope_scaling={"type": "linear", "factor": 2.0})  # fmt: skip


@shape("longrope of a newer library: an unknown rope_type", says="rope")
def rope_of_tomorrow(folder: Path) -> None:
    llama_with(folder, rope_parameters={"rope_type": "hyper", "rope_theta": 1e4, "factor": 2.0})


@shape("sliding_window 0, layer_types null (converted Mistral and Qwen2 configs)")
def odd_windows(folder: Path) -> None:
    settings = t.MistralConfig(**b.SMALL)
    b.save(folder, t.MistralForCausalLM, settings)
    b.config(folder, sliding_window=None, layer_types=None)


@shape("eos_token_id is a list (meta-llama/Llama-3.1-8B-Instruct), pad_token_id -1")
def lists_of_ids(folder: Path) -> None:
    llama_with(folder, eos_token_id=[2, 3], pad_token_id=-1)


# Which dtype


@shape("transformers 4: torch_dtype")
def torch_dtype(folder: Path) -> None:
    llama_with(folder, dtype=..., torch_dtype="bfloat16")


@shape("float32 weights under a config that says bfloat16 (full fine-tunes)")
def wider_than_said(folder: Path) -> None:
    b.save(folder, t.LlamaForCausalLM, t.LlamaConfig(**b.SMALL), dtype=torch.float32)
    b.config(folder, dtype="bfloat16")


@shape("no dtype in config.json, float16 weights")
def dtype_by_the_weights(folder: Path) -> None:
    b.save(folder, t.LlamaForCausalLM, t.LlamaConfig(**b.SMALL), dtype=torch.float16)
    b.config(folder, dtype=...)


@shape("no dtype in config.json, norms in float32: the first tensor tells")
def dtype_by_the_first(folder: Path) -> None:
    llama_with(folder, dtype=...)
    found = b.tensors(folder)
    b.write(folder, {k: v.float() if "norm" in k else v for k, v in found.items()})


@shape("a dtype that torch does not have", says="float99")
def no_such_dtype(folder: Path) -> None:
    llama_with(folder, dtype="float99")


@shape("dtype 'torch.bfloat16' (configs written with str())")
def dtype_with_its_module(folder: Path) -> None:
    llama_with(folder, dtype="torch.bfloat16")


@shape("dtype null")
def dtype_null(folder: Path) -> None:
    llama_with(folder, dtype=None)


# Which JSON


@shape("Windows editors: a byte order mark in config.json", says="config.json")
def byte_order_mark(folder: Path) -> None:
    b.llama(folder)
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())


@shape("json.dump of numpy: NaN and Infinity in config.json")
def not_a_number(folder: Path) -> None:
    b.llama(folder)
    text = (folder / "config.json").read_text().rstrip().rstrip("}")
    (folder / "config.json").write_text(text + ', "note": NaN, "limit": Infinity}')


@shape("hand-edited: a comma too many", says="config.json")
def comma_too_many(folder: Path) -> None:
    b.llama(folder)
    text = (folder / "config.json").read_text().rstrip().rstrip("}")
    (folder / "config.json").write_text(text + ",}")


@shape("config.json {} (transformers' own models of nothing)", says="model_type")
def empty_config(folder: Path) -> None:
    b.llama(folder)
    (folder / "config.json").write_text("{}")


@shape("config.json is a list", says="config.json")
def list_as_config(folder: Path) -> None:
    b.llama(folder)
    (folder / "config.json").write_text("[]")


@shape("generation settings that do not go together (meta-llama/Llama-2-7b-chat-hf's first)")
def generation_at_odds(folder: Path) -> None:
    b.llama(folder)
    b.edit(folder / "generation_config.json", do_sample=False, temperature=0.1, top_p=0.9)


@shape("generation_config.json is no JSON; transformers goes on without it", says="generation")
def broken_generation(folder: Path) -> None:
    b.llama(folder)
    (folder / "generation_config.json").write_text("nonsense")


@shape("a repository without generation_config.json: the model's own settings")
def no_generation(folder: Path) -> None:
    b.llama(folder)
    (folder / "generation_config.json").unlink()
    assert json.loads((folder / "config.json").read_text())["bos_token_id"] == 1
