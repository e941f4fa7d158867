"""Parts that builders put repositories together from: tiny models, tokenizers, edited JSON."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers as t
from safetensors.torch import load_file, save_file

from tests.loader import tiny

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9960\n".format("4" * 64)


def save(
    folder: Path, model: type, config: Any, *, seed: int = 1, dtype: torch.dtype = torch.bfloat16,
    shard: str | None = None, words: bool = True,
) -> None:  # fmt: skip
    """A model with random weights; `shard` is the largest size of a file, `words` a tokenizer."""
    torch.manual_seed(seed)
    made = model(config).to(dtype)
    made.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    if words:
        tokenizer().save_pretrained(folder)


def llama(folder: Path, *, seed: int = 1, shard: str | None = None, **config: Any) -> None:
    save(folder, t.LlamaForCausalLM, t.LlamaConfig(**{**SMALL, **config}), seed=seed, shard=shard)


def bert(folder: Path, kind: type, **config: Any) -> None:
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64,
             "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    save(folder, kind, t.BertConfig(**{**sizes, **config}))


def other_llama(folder: Path, name: str, *, seed: int = 2, shard: str | None = None) -> None:
    """Put the weight files of another model, named so or matching it, into the folder."""
    with tempfile.TemporaryDirectory() as scratch:
        llama(Path(scratch), seed=seed, shard=shard)
        for path in Path(scratch).glob(name):
            (folder / path.name).write_bytes(path.read_bytes())


@functools.cache
def tokenizer() -> Any:
    return tiny.tokenizer()


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON object; `...` takes one away."""
    table = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in table.items() if value is not ...}))


def config(folder: Path, **changes: Any) -> None:
    edit(folder / "config.json", **changes)


def tensors(folder: Path, name: str = SINGLE) -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def write(folder: Path, found: dict[str, torch.Tensor], name: str = SINGLE) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    save_file(found, folder / name, {"format": "pt"})


def rename_shards(folder: Path, before: str, after: str) -> None:
    """Rename the shards, and in the index."""
    index = folder / INDEX
    index.write_text(index.read_text().replace(f'"{before}', f'"{after}'))
    for path in folder.glob(f"{before}*.safetensors"):
        target = folder / path.name.replace(before, after, 1)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def pickle(folder: Path, name: str = "pytorch_model.bin", *, seed: int | None = None) -> None:
    """The weights as a pickle: those of `model.safetensors`, or other ones."""
    found = tensors(folder)
    if seed is not None:
        found = {key: torch.full_like(value, float(seed)) for key, value in found.items()}
    torch.save(found, folder / name)


def bnb(folder: Path, **settings: Any) -> None:
    """Say in `config.json` that the weights are bitsandbytes 4-bit."""
    config(folder, quantization_config={
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_use_double_quant": True, **settings,
    })  # fmt: skip
