"""Repositories whose weight files are laid out otherwise than one expects."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import save_file

from tests.corpus import building as b
from tests.corpus.shape import shape

LIST_SHARDS = "10KB"  # about nine shards of the tiny Llama
PICKLES = {"allow_pickle": True}


@shape("HuggingFaceTB/SmolLM2-135M: one file")
def one_file(folder: Path) -> None:
    b.llama(folder)


@shape("Qwen/Qwen2.5-7B-Instruct: shards and their index")
def shards(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)


@shape("transformers' save_pretrained of a model just above max_shard_size's remainder")
def one_shard_with_an_index(folder: Path) -> None:
    b.llama(folder)
    name = "model-00001-of-00001.safetensors"
    names = dict.fromkeys(b.tensors(folder), name)
    (folder / b.SINGLE).rename(folder / name)
    (folder / b.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@shape("Qwen/Qwen3.5-27B: model.safetensors-00001-of-00014.safetensors")
def shards_named_after_the_single_file(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.rename_shards(folder, "model-", "model.safetensors-")


@shape("mistralai/Mistral-Large-Instruct-2411, InfiniTensor/InfiniLM#467: consolidated-* shards")
def shards_with_a_name_of_their_own(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.rename_shards(folder, "model-", "consolidated-")


@shape("transformers get_checkpoint_shard_files: joins whatever path the index names")
def shards_in_a_folder(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.rename_shards(folder, "model-", "weights/model-")


@shape("mlx-vlm#1329: a file of other weights beside shards")
def single_file_and_shards(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.other_llama(folder, b.SINGLE)


@shape("Neph0s/CoSER#3 and mlx-vlm#1827: shards of an older upload beside a good index")
def stale_shards(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.other_llama(folder, "model-*-of-*.safetensors", shard="20KB")


@shape("sglang#32279: an index that names files which are not there", says="model-00002-of")
def missing_shard(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    next(folder.glob("model-00002-of-*")).unlink()


@shape("Neph0s/CoSER#3: shards without any index", says="model.safetensors.index.json")
def shards_without_an_index(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    (folder / b.INDEX).unlink()


@shape(
    "turboderp/Llama-3-8B-exl2: output.safetensors, an index that names the base's shards",
    says="model-00001-of-00004.safetensors",
)
def index_of_the_base(folder: Path) -> None:
    b.llama(folder)
    (folder / b.SINGLE).rename(folder / "output.safetensors")
    names = dict.fromkeys(
        b.tensors(folder, "output.safetensors"), "model-00001-of-00004.safetensors"
    )
    (folder / b.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@shape("transformers load_pretrained_model reads whole shards: tensors the index forgot count")
def tensor_the_index_forgot(folder: Path) -> None:
    b.llama(folder, shard="40KB")
    index = json.loads((folder / b.INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (folder / b.INDEX).write_text(json.dumps(index))


@shape("mergekit's first releases: a tensor in two shards; transformers takes the last")
def tensor_in_two_shards(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    names = json.loads((folder / b.INDEX).read_text())["weight_map"]
    last, key = max(names.values()), "model.embed_tokens.weight"
    assert names[key] != last
    b.write(folder, {**b.tensors(folder, last), key: torch.ones(320, 64).bfloat16()}, last)


@shape(
    "transformers.modeling_utils: an index that names a tensor which its shard lacks",
    mdl="refuses",
    because="the weight would be random numbers",
    says="model.norm.weight",
)
def tensor_that_is_not_there(folder: Path) -> None:
    b.llama(folder, shard="40KB")
    names = json.loads((folder / b.INDEX).read_text())["weight_map"]
    file = names["model.norm.weight"]
    kept = {k: v for k, v in b.tensors(folder, file).items() if k != "model.norm.weight"}
    b.write(folder, kept, file)


@shape(
    "hand-written indices: no metadata",
    mdl="loads",
    because="the weight_map says all; the reference stumbles with a KeyError",
)
def index_without_metadata(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.edit(folder / b.INDEX, metadata=...)


@shape("an index that is cut short (an upload that broke off)", says="index.json")
def broken_index(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    (folder / b.INDEX).write_text((folder / b.INDEX).read_text()[:100])


@shape(
    "transformers joins the paths of an index: one that leads out of the folder",
    mdl="refuses",
    because="names from outside never become paths",
    says="outside",
)
def index_that_leads_out(folder: Path) -> None:
    b.llama(folder / "m")
    for path in (folder / "m").iterdir():
        path.rename(folder / path.name)
    (folder / "m").rmdir()
    (folder.parent / "elsewhere.safetensors").write_bytes((folder / b.SINGLE).read_bytes())
    names = dict.fromkeys(b.tensors(folder), "../elsewhere.safetensors")
    (folder / b.SINGLE).unlink()
    (folder / b.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@shape("transformers _get_resolved_checkpoint_files: config.transformers_weights names the file")
def file_that_the_config_names(folder: Path) -> None:
    b.llama(folder)
    (folder / b.SINGLE).rename(folder / "decoder.safetensors")
    b.config(folder, transformers_weights="decoder.safetensors")
    b.other_llama(folder, b.SINGLE)


@shape("transformers _get_resolved_checkpoint_files: config.transformers_weights names an index")
def index_that_the_config_names(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    b.rename_shards(folder, "model-", "decoder-")
    (folder / b.INDEX).rename(folder / "decoder.safetensors.index.json")
    b.config(folder, transformers_weights="decoder.safetensors.index.json")


@shape("transformers: 'must reference a file inside the model directory'", says="outside")
def config_names_a_file_outside(folder: Path) -> None:
    b.llama(folder)
    b.config(folder, transformers_weights="../model.safetensors")


@shape("transformers: 'neither a safetensors file … nor a safetensors index'", says="consolidated")
def config_names_a_pickle(folder: Path) -> None:
    b.llama(folder)
    b.config(folder, transformers_weights="consolidated.00.pth")


@shape(
    "transformers: config.transformers_weights names a file that was not uploaded",
    says=r"decoder\.safetensors",
)
def config_names_a_missing_file(folder: Path) -> None:
    b.llama(folder)
    b.config(folder, transformers_weights="decoder.safetensors")


@shape("mistralai/Mistral-7B-Instruct-v0.3: consolidated.safetensors beside the shards")
def consolidated_beside_shards(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    save_file({"tok_embeddings.weight": torch.ones(8, 8)}, folder / "consolidated.safetensors")
    (folder / "params.json").write_text("{}")


@shape("meta-llama/Llama-3.1-8B: original/consolidated.00.pth, and onnx/ of other repositories")
def other_forms_in_folders(folder: Path) -> None:
    b.llama(folder)
    for name in ("original/consolidated.00.pth", "original/params.json", "onnx/model_q4.onnx",
                 "openvino/openvino_model.bin", "metal/model.bin"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 4096)


@shape("openai-community/gpt2: tf_model.h5, flax_model.msgpack, rust_model.ot, a pickle too")
def four_frameworks(folder: Path) -> None:
    b.llama(folder)
    b.pickle(folder, seed=3)
    for name in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "64.tflite"):
        (folder / name).write_bytes(b"x" * 4096)


@shape("Trainer's output_dir: checkpoint-500/, optimizer.pt, training_args.bin, rng_state.pth")
def what_training_left(folder: Path) -> None:
    b.llama(folder)
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "scheduler.pt",
                 "trainer_state.json", "checkpoint-500/model.safetensors",
                 "checkpoint-500/config.json"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}" if name.endswith("json") else b"x" * 4096)


@shape(
    "microsoft/deberta-v3-base's kind: a pickle and nothing else",
    mdl="refuses",
    because="pickles run code; they have to be allowed",
    says="allow_pickle",
)
def pickle_only(folder: Path) -> None:
    b.llama(folder)
    b.pickle(folder)
    (folder / b.SINGLE).unlink()


@shape("bigscience/bloom-560m before its conversion: a pickle, allowed", options=PICKLES)
def pickle_allowed(folder: Path) -> None:
    pickle_only(folder)


@shape("tiiuae/falcon-7b: pickled shards", options=PICKLES)
def pickled_shards(folder: Path) -> None:
    b.llama(folder)
    names = {key: f"pytorch_model-{number % 2 + 1:05}-of-00002.bin"
             for number, key in enumerate(sorted(b.tensors(folder)))}  # fmt: skip
    for file in sorted(set(names.values())):
        held = {k: v for k, v in b.tensors(folder).items() if names[k] == file}
        torch.save(held, folder / file)
    (folder / b.SINGLE).unlink()
    index = json.dumps({"metadata": {}, "weight_map": names})
    (folder / "pytorch_model.bin.index.json").write_text(index)


@shape("transformers takes the safetensors where both are, pickles allowed or not", options=PICKLES)
def safetensors_and_pickle(folder: Path) -> None:
    b.llama(folder)
    b.pickle(folder, seed=3)


@shape(
    "cyberagent/open-calm: a pickle beside an old *.safetensors of another name", options=PICKLES
)
def pickle_and_a_stranger(folder: Path) -> None:
    pickle_only(folder)
    save_file({"x": torch.ones(2)}, folder / "adapter.safetensors")


@shape("stabilityai/* and openai/whisper-*: model.fp16.safetensors (variant)", says="variant")
def variant_only(folder: Path) -> None:
    b.llama(folder)
    (folder / b.SINGLE).rename(folder / "model.fp16.safetensors")


@shape("openai/whisper-large-v3: model.fp32-* beside the shards of model.safetensors")
def variant_beside(folder: Path) -> None:
    b.llama(folder)
    b.other_llama(folder / "..", b.SINGLE)
    (folder / ".." / b.SINGLE).rename(folder / "model.fp32.safetensors")


@shape("unsloth's and axolotl's merged/ folders: the model is in a folder below", says="subfolder")
def model_in_a_folder(folder: Path) -> None:
    (folder / "merged").mkdir()
    b.llama(folder / "merged")


@shape("git clone without LFS: transformers#27923, OmniParser#34", says="git lfs pull")
def lfs_pointer(folder: Path) -> None:
    b.llama(folder)
    (folder / b.SINGLE).write_text(b.POINTER)


@shape("git clone without LFS: the tokenizer's file is a pointer too", says="git lfs pull")
def lfs_pointer_as_tokenizer(folder: Path) -> None:
    b.llama(folder)
    (folder / "tokenizer.json").write_text(b.POINTER)


@shape("git clone without LFS: one shard of several", says="git lfs pull")
def lfs_pointer_as_shard(folder: Path) -> None:
    b.llama(folder, shard=LIST_SHARDS)
    next(folder.glob("model-00003-of-*")).write_text(b.POINTER)


@shape("safetensors 0.8: F4 beside bfloat16 (nvidia/*-NVFP4's kind)")
def four_bit_floats(folder: Path) -> None:
    b.llama(folder)
    extra = torch.zeros(4, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    b.write(folder, {**b.tensors(folder), "model.extra": extra})


@shape("safetensors 0.8: AMD's F8_E4M3FNUZ (amd/*-FP8-KV's kind)")
def amd_floats(folder: Path) -> None:
    b.llama(folder)
    extra = torch.zeros(4, 8).to(torch.float8_e4m3fnuz)
    b.write(folder, {**b.tensors(folder), "model.extra": extra})


@shape("safetensors' format: tensors without elements, scalars, complex numbers")
def odd_tensors(folder: Path) -> None:
    b.llama(folder)
    odd = {"a": torch.zeros(0, 4), "b": torch.tensor(1.0), "c": torch.zeros(2, dtype=torch.cfloat)}
    b.write(folder, {**b.tensors(folder), **odd})


@shape("torch's save_file without metadata (axolotl's merges): no format in the header")
def header_without_metadata(folder: Path) -> None:
    b.llama(folder)
    save_file(b.tensors(folder), folder / b.SINGLE)


@shape("candle and mistral.rs write their headers with other metadata")
def header_of_another_library(folder: Path) -> None:
    b.llama(folder)
    save_file(b.tensors(folder), folder / b.SINGLE, {"format": "np", "made by": "candle"})


@shape("first Llama checkpoints: rotary_emb.inv_freq among the tensors")
def tensors_of_older_versions(folder: Path) -> None:
    b.llama(folder)
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    b.write(folder, {**b.tensors(folder), **old})


@shape("pruned models (princeton-nlp/Sheared-LLaMA): weights of layers that config.json dropped")
def weights_of_dropped_layers(folder: Path) -> None:
    b.llama(folder, num_hidden_layers=2)
    b.config(folder, num_hidden_layers=1, layer_types=...)


@shape("Qwen/Qwen2.5-0.5B: tied embeddings, no lm_head in the file")
def tied(folder: Path) -> None:
    b.llama(folder, tie_word_embeddings=True)


@shape("fine-tunes of tied models that saved lm_head all the same")
def tied_and_saved(folder: Path) -> None:
    b.llama(folder, tie_word_embeddings=True)
    found = b.tensors(folder)
    b.write(folder, {**found, "lm_head.weight": found["model.embed_tokens.weight"].clone()})


@shape("transformers 5 ties no more where both differ: a tied config and a trained head")
def tied_and_different(folder: Path) -> None:
    b.llama(folder, tie_word_embeddings=True)
    b.write(folder, {**b.tensors(folder), "lm_head.weight": torch.ones(320, 64).bfloat16()})


@shape(
    "tied weights whose config.json says that they are not",
    mdl="refuses",
    because="the head would be random numbers",
    says="lm_head",
)
def head_that_is_not_there(folder: Path) -> None:
    b.llama(folder, tie_word_embeddings=True)
    b.config(folder, tie_word_embeddings=False)


@shape(
    "FSDP's and DDP's state dicts: every name begins with module.",
    mdl="refuses",
    because="all weights would be random numbers",
    says="module",
)
def wrapped_names(folder: Path) -> None:
    b.llama(folder)
    b.write(folder, {f"module.{key}": value for key, value in b.tensors(folder).items()})


@shape("openai-community/gpt2: names without transformer., and the masks of old versions")
def gpt2(folder: Path) -> None:
    settings = t.GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    b.save(folder, t.GPT2LMHeadModel, settings, dtype=torch.float32)
    found = {k.removeprefix("transformer."): v for k, v in b.tensors(folder).items()}
    b.write(folder, {**found, "h.0.attn.bias": torch.ones(1, 1, 64, 64)})


@shape("google-bert/bert-base-uncased: LayerNorm.gamma and beta", auto="AutoModelForMaskedLM")
def bert_of_old(folder: Path) -> None:
    b.bert(folder, t.BertForMaskedLM)
    found = {key.replace("LayerNorm.weight", "LayerNorm.gamma")
             .replace("LayerNorm.bias", "LayerNorm.beta"): value
             for key, value in b.tensors(folder).items()}  # fmt: skip
    b.write(folder, found)


@shape("mistralai/Mixtral-8x7B-v0.1: a tensor an expert, merged as it is read")
def experts_one_by_one(folder: Path) -> None:
    settings = t.MixtralConfig(**b.SMALL, num_local_experts=2, num_experts_per_tok=1)
    b.save(folder, t.MixtralForCausalLM, settings)
