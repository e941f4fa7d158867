"""Repositories whose tokenizer's files, or other small ones, are other than usual."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as t
from tokenizers import Tokenizer, models

from tests.corpus import building as b
from tests.corpus.shape import shape
from tests.loader import tiny

PIECES = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁a", -1.0), ("b", -2.0), ("▁", -3.0)]


def model_only(folder: Path, **config: object) -> None:
    b.save(folder, t.LlamaForCausalLM, t.LlamaConfig(**{**b.SMALL, **config}), words=False)


@shape("a model without a tokenizer (gguf conversions' base, RL checkpoints)")
def no_tokenizer(folder: Path) -> None:
    model_only(folder)


@shape("tokenizer.json alone")
def tokenizer_file_alone(folder: Path) -> None:
    b.llama(folder)
    (folder / "tokenizer_config.json").unlink()


@shape("openai-community/gpt2: vocab.json and merges.txt")
def vocabulary_and_merges(folder: Path) -> None:
    settings = t.GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    b.save(folder, t.GPT2LMHeadModel, settings)
    b.tokenizer().backend_tokenizer.model.save(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text("{}")


@shape("google-bert/bert-base-uncased: vocab.txt", auto="AutoModelForMaskedLM")
def vocabulary_in_lines(folder: Path) -> None:
    b.bert(folder, t.BertForMaskedLM)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "capital", "of", "is", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))


@shape("vinai/phobert-base: vocab.txt and bpe.codes", auto="AutoModelForMaskedLM")
def bpe_codes(folder: Path) -> None:
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64,
             "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    b.save(folder, t.RobertaForMaskedLM, t.RobertaConfig(**sizes), words=False)
    (folder / "vocab.txt").write_text("a 10\nb 9\nab</w> 8\n")
    (folder / "bpe.codes").write_text("#version: 0.2\na b</w> 8\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')


@shape(
    "Helsinki-NLP/opus-mt-en-de: source.spm, target.spm and vocab.json; no sentencepiece here",
    auto="AutoModelForSeq2SeqLM",
    needs=("source.spm", "target.spm", "vocab.json"),
    says="sentencepiece",
)
def marian(folder: Path) -> None:
    sizes = {"vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "max_position_embeddings": 64, "pad_token_id": 0,
             "decoder_start_token_id": 0, "decoder_vocab_size": 320}  # fmt: skip
    b.save(folder, t.MarianMTModel, t.MarianConfig(**sizes), words=False)
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(sentencepiece_model())
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "</s>": 1, "<unk>": 2}))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')


@shape(
    "microsoft/deberta-v3-base: spm.model and nothing else; no sentencepiece here",
    auto="AutoModelForMaskedLM",
    needs=("spm.model",),
)
def deberta(folder: Path) -> None:
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64,
             "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    b.save(folder, t.DebertaV2ForMaskedLM, t.DebertaV2Config(**sizes), words=False)
    (folder / "spm.model").write_bytes(sentencepiece_model())
    (folder / "tokenizer_config.json").write_text('{"vocab_type": "spm"}')


@shape("meta-llama/Llama-2-7b-hf's first: tokenizer.model alone")
def sentencepiece_alone(folder: Path) -> None:
    model_only(folder)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')


@shape(
    "Qwen/Qwen-7B: qwen.tiktoken, whose class is the repository's own code",
    needs=("qwen.tiktoken",),
    says="trust_remote_code",
)
def tiktoken(folder: Path) -> None:
    model_only(folder)
    (folder / "qwen.tiktoken").write_text("IQ== 0\nIg== 1\n")
    (folder / "tokenization_qwen.py").write_text("raise SystemExit('executed')")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "QWenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
    }))  # fmt: skip


@shape("mistralai/*: tekken.json beside tokenizer.json", needs=("tekken.json",))
def tekken(folder: Path) -> None:
    b.llama(folder)
    (folder / "tekken.json").write_text('{"config": {}, "vocab": []}')


@shape("a tokenizer of a newer tokenizers library", says="NextGen")
def tokenizer_of_tomorrow(folder: Path) -> None:
    b.llama(folder)
    b.edit(folder / "tokenizer.json", model={"type": "NextGen", "vocab": {}})


@shape("a tokenizer class that transformers does not have: the file is taken all the same")
def unknown_tokenizer_class(folder: Path) -> None:
    b.llama(folder)
    b.edit(folder / "tokenizer_config.json", tokenizer_class="Grok9Tokenizer")


@shape("LlamaTokenizer over a byte-level tokenizer.json (deepseek's distilled models)")
def class_of_another_kind(folder: Path) -> None:
    b.llama(folder)
    b.edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")


@shape("HuggingFaceTB/*: extra_special_tokens as a list in tokenizer_config.json")
def extra_tokens_as_a_list(folder: Path) -> None:
    b.llama(folder)
    b.edit(folder / "tokenizer_config.json", extra_special_tokens=["<a>", "<b>"])


@shape("added_tokens.json and special_tokens_map.json of transformers 4")
def added_tokens_of_old(folder: Path) -> None:
    b.llama(folder)
    (folder / "added_tokens.json").write_text('{"<new>": 300}')
    (folder / "special_tokens_map.json").write_text('{"unk_token": "<|pad|>"}')


@shape(
    "google/gemma-3-4b-it: chat_template.jinja, and additional_chat_templates/",
    needs=("additional_chat_templates/tools.jinja",),
)
def templates_in_files(folder: Path) -> None:
    b.llama(folder)
    b.edit(folder / "tokenizer_config.json", chat_template=...)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")


@shape("CohereForAI/*: a list of named templates in tokenizer_config.json")
def templates_in_a_list(folder: Path) -> None:
    b.llama(folder)
    named = [{"name": "default", "template": "{{ messages }}"}, {"name": "rag", "template": "x"}]
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    b.edit(folder / "tokenizer_config.json", chat_template=named)


@shape(
    "Qwen/Qwen2-VL-7B-Instruct's first: chat_template.json beside the processor",
    auto="AutoModelForImageTextToText",
    mdl="loads",
    because="without torchvision the reference has no processor at all",
)
def template_of_a_processor(folder: Path) -> None:
    tiny.save_model("qwen2-vl", folder)
    tiny.add_qwen_processor(folder)
    (folder / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')


@shape("a preprocessor_config.json left in a text model")
def processor_that_is_none(folder: Path) -> None:
    b.llama(folder)
    (folder / "preprocessor_config.json").write_text("{}")


@shape(
    "sentence-transformers/LaBSE: modules.json, 1_Pooling/, 2_Dense/",
    auto="AutoModel",
    needs=(
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ),
)
def sentence_transformer(folder: Path) -> None:
    b.bert(folder, t.BertModel)
    names = ("", "1_Pooling", "2_Dense")
    modules = [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.{path}"}
               for n, path in enumerate(names)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json",
                 "1_Pooling/config.json", "2_Dense/config.json"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    b.write(folder, {"linear.weight": torch.ones(4, 4)}, "2_Dense/model.safetensors")


@shape("sentence-transformers before 2.0: the model is in 0_Transformer/", says="0_Transformer")
def sentence_transformer_of_old(folder: Path) -> None:
    (folder / "0_Transformer").mkdir()
    b.bert(folder / "0_Transformer", t.BertModel)
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "x.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))


@shape("hf download --local-dir: .cache/huggingface/ inside, .gitattributes, README.md")
def local_dir(folder: Path) -> None:
    b.llama(folder)
    for name in (".cache/huggingface/download/model.safetensors.metadata", ".gitattributes",
                 "README.md", "LICENSE"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


@shape("names that are not ASCII, with blanks (Chinese and Japanese publishers)")
def unicode_names(folder: Path) -> None:
    b.llama(folder, shard="40KB")
    b.rename_shards(folder, "model-", "模型 v1-")
    (folder / "使用说明 – été.txt").write_text("text")


@shape("stabilityai/stable-diffusion-xl-base-1.0: model_index.json", says="diffusers", format=None)
def pipeline_in_parts(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    for part in ("unet", "vae"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 64)


@shape("bartowski/*-GGUF: GGUF files and nothing else", says="GGUF", format=None)
def gguf_only(folder: Path) -> None:
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + b"\0" * 60)


@shape(
    "mistralai/Mistral-7B-v0.1's own format: params.json and consolidated.safetensors",
    says="params.json|config.json",
    format=None,
)
def format_of_mistral(folder: Path) -> None:
    (folder / "params.json").write_text('{"dim": 64}')
    b.write(folder, {"tok_embeddings.weight": torch.ones(4, 4)}, "consolidated.safetensors")


@shape("onnx-community/*: config.json and onnx/ alone", says="(?i)onnx", format=None)
def onnx_only(folder: Path) -> None:
    b.llama(folder)
    (folder / b.SINGLE).unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model_q4.onnx").write_bytes(b"x" * 64)


@shape(
    "a repository with a README and nothing else (a branch a bitrate)", says="README", format=None
)
def readme_only(folder: Path) -> None:
    (folder / "README.md").write_text("see the branches")


def sentencepiece_model() -> bytes:
    """A unigram model in SentencePiece's own form, written without that library."""

    def field(number: int, kind: int, body: bytes) -> bytes:
        head = bytes([number << 3 | kind])
        return head + (bytes([len(body)]) if kind == 2 else b"") + body

    import struct

    pieces = b""
    for number, (text, score) in enumerate(PIECES):
        kind = {0: 2, 1: 3, 2: 3}.get(number, 1)  # unknown, control, control, then normal
        body = field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score))
        pieces += field(1, 2, body + field(3, 0, bytes([kind])))
    return pieces + field(2, 2, field(3, 0, b"\1"))


def word_level(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(320)}, unk_token="w0"))
    t.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
