"""Which files a model needs, from names and small JSON; the corpus asks transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import transformers

from mdl.errors import LoadError
from mdl.model_files import (
    EXTRA_FILES,
    WeightFiles,
    choose_files,
    choose_weights,
    missing_files,
    subfolders,
)

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLE, ADAPTER = "pytorch_model.bin", "adapter_config.json"


def index(*files: str) -> dict[str, Any]:
    return {"weight_map": {f"tensor{n}": file for n, file in enumerate(files)}}


def chosen(
    names: list[str], contents: Mapping[str, Any] | None = None, **options: Any
) -> WeightFiles:
    texts = {CONFIG: {}, **(contents or {})}
    return choose_weights(names, lambda name: texts[name], **options)


def test_the_single_file_comes_before_any_index() -> None:
    assert chosen([CONFIG, SINGLE, INDEX, PICKLE]).files == (SINGLE,)


def test_the_index_decides_whatever_the_names() -> None:
    names = ["model.safetensors-00002-of-00002.safetensors", "weights/one.safetensors"]
    found = chosen([CONFIG, INDEX, *names, "model-00001-of-00001.safetensors"],
                   {INDEX: index(*reversed(names), names[0])})  # fmt: skip
    assert found == WeightFiles(tuple(sorted(names)), INDEX)


def test_what_an_index_names_and_nobody_uploaded() -> None:
    found = chosen(
        [CONFIG, INDEX, "a.safetensors"], {INDEX: index("a.safetensors", "b.safetensors")}
    )
    assert found.missing == ("b.safetensors",)


@pytest.mark.parametrize("name", ["decoder.safetensors", "./decoder.safetensors"])
def test_the_configuration_comes_first(name: str) -> None:
    found = chosen(
        [CONFIG, SINGLE, "decoder.safetensors"], {CONFIG: {"transformers_weights": name}}
    )
    assert found == WeightFiles(("decoder.safetensors",))


@pytest.mark.parametrize("name", ["x.bin", "../x.safetensors", "/x.safetensors", 7, ["x"], ""])
def test_a_configuration_may_not_name_everything(name: Any) -> None:
    with pytest.raises(LoadError, match="transformers_weights"):
        chosen([CONFIG, SINGLE], {CONFIG: {"transformers_weights": name}})


@pytest.mark.parametrize(
    "file",
    ["../out.safetensors", "/etc/out.safetensors", "a/../../out.safetensors", "a\\..\\out",
     "..", "a\0b"],
)  # fmt: skip
def test_an_index_never_leads_out_of_the_repository(file: str) -> None:
    with pytest.raises(LoadError, match="outside"):
        chosen([CONFIG, INDEX], {INDEX: index("a.safetensors", file)})


@pytest.mark.parametrize(
    "content", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}},
                {"weight_map": {"a": ""}}, [], "text", None],
)  # fmt: skip
def test_an_index_that_is_none(content: Any) -> None:
    with pytest.raises(LoadError, match=r"index\.json"):
        chosen([CONFIG, INDEX], {INDEX: content})


def test_pickles_are_last_and_only_where_they_are_allowed() -> None:
    with pytest.raises(LoadError, match="pickle"):
        chosen([CONFIG, PICKLE])
    assert chosen([CONFIG, PICKLE], pickles=True).files == (PICKLE,)
    listed = {f"{PICKLE}.index.json": index("pytorch_model-1.bin", "pytorch_model-2.bin")}
    found = chosen([CONFIG, *listed, "pytorch_model-1.bin"], listed, pickles=True)
    assert (found.pickled, found.missing) == (True, ("pytorch_model-2.bin",))


def test_a_pickle_named_by_a_safetensors_index_is_a_pickle() -> None:
    """torch.load would read it."""
    with pytest.raises(LoadError, match="pickle"):
        chosen([CONFIG, INDEX, "a.bin"], {INDEX: index("a.bin")})


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.fp16.safetensors"], "variants only: fp16"),
        (["model.fp16-00001-of-00002.safetensors"], "variants only: fp16"),
        (["model-00001-of-00002.safetensors"], "no index"),
        (["weights.pt"], "weights.pt"),
        (["onnx/model.onnx"], "ONNX"),
        (["shard-00000-model-00001-of-00001.safetensors", SINGLE], "distributed"),
        ([], "no weights"),
    ],
)
def test_what_is_there_instead_is_named(names: list[str], said: str) -> None:
    with pytest.raises(LoadError) as refused:
        chosen([CONFIG, *names])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model_index.json", "unet/config.json"], "diffusers"),
        (["a.Q4_K_M.gguf"], "GGUF"),
        (["merged/config.json", "merged/model.safetensors"], "subfolder"),
        (["params.json", "consolidated.00.pth"], "params.json"),
        (["README.md"], "README.md"),
        ([], "nothing"),
    ],
)
def test_a_repository_without_a_model_says_what_it_is(names: list[str], said: str) -> None:
    with pytest.raises(LoadError) as refused:
        choose_files(names, lambda name: {})
    assert said in str(refused.value)


def test_the_small_files_are_those_that_the_reference_opens() -> None:
    needed = ["tokenizer.json", "source.spm", "bpe.codes", "spiece.model", "vocab.txt", "x.jinja",
              "qwen.tiktoken", "prophetnet.tokenizer",
              "additional_chat_templates/tools.jinja"]  # fmt: skip
    left = ["README.md", "original/params.json", "onnx/config.json", "training_args.bin",
            "trainer_state.json", "model.fp16.safetensors", "modeling_x.py"]  # fmt: skip
    found = choose_files([CONFIG, SINGLE, *needed, *left], lambda name: {})
    assert set(found.all) == {CONFIG, SINGLE, *needed}
    with_code = choose_files([CONFIG, SINGLE, *left], lambda name: {}, code=True)
    assert "modeling_x.py" in with_code.all


def test_the_folders_of_a_sentence_transformer_are_needed() -> None:
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense/"}, {"path": 3}, "odd"]
    texts = {CONFIG: {}, "modules.json": modules}
    inner = ["1_Pooling/config.json", "2_Dense/model.safetensors"]
    names = [CONFIG, SINGLE, "modules.json", *inner, "3_Other/config.json"]
    found = choose_files(names, lambda name: texts[name])
    assert set(found.all) == {CONFIG, SINGLE, "modules.json", *inner}


def test_the_extra_files_are_transformers_own() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    with_extra = {
        name for name in CONFIG_MAPPING_NAMES
        if "extra_files:" in _source_of_configuration(name)
    }  # fmt: skip
    assert with_extra <= set(EXTRA_FILES)
    for name in with_extra:
        assert EXTRA_FILES[name] == transformers.CONFIG_MAPPING[name].extra_files
        names = [SINGLE, *EXTRA_FILES[name]]
        assert list(chosen([CONFIG, *names], {CONFIG: {"model_type": name}}).files) == names


def _source_of_configuration(name: str) -> str:
    from pathlib import Path

    from transformers.models.auto.configuration_auto import model_type_to_module_name

    module = model_type_to_module_name(name)
    path = Path(transformers.__file__).parent / "models" / module / f"configuration_{module}.py"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("here", "missing"),
    [
        ([CONFIG], [SINGLE]),
        ([CONFIG, "tokenizer.json", "README.md"], [SINGLE]),
        ([CONFIG, SINGLE], []),
        ([CONFIG, INDEX, "a.safetensors"], ["b.safetensors"]),
        ([CONFIG, INDEX, "a.safetensors", "b.safetensors"], []),
        ([INDEX, "a.safetensors"], []),
        ([CONFIG, PICKLE], []),
        ([CONFIG, "model-Q4_K_M.gguf"], []),
        ([CONFIG, "onnx/model.onnx"], []),
        (["tokenizer.json"], [CONFIG]),
        ([ADAPTER], ["adapter_model.safetensors"]),
        ([ADAPTER, "adapter_model.bin"], []),
        (["data.parquet"], []),
        ([], []),
    ],
)
def test_what_a_snapshot_without_a_listing_lacks(here: list[str], missing: list[str]) -> None:
    texts = {CONFIG: {}, INDEX: index("a.safetensors", "b.safetensors"), ADAPTER: {}}
    assert list(missing_files(here, lambda name: texts[name])) == missing


@pytest.mark.parametrize(
    ("here", "missing"),
    [
        ([CONFIG], ["model.safetensors", "tokenizer.json"]),
        ([CONFIG, "tokenizer.json", SINGLE], []),
        ([], [CONFIG]),
    ],
)
def test_with_a_listing_only_what_the_model_needs_is_missing(
    here: list[str], missing: list[str]
) -> None:
    listed = [CONFIG, SINGLE, "tokenizer.json", "README.md", "onnx/model.onnx"]
    assert list(missing_files(here, lambda name: {}, listed)) == missing


def test_an_adapter_is_recognized_among_other_files() -> None:
    saved = [ADAPTER, "adapter_model.safetensors", "tokenizer.json"]
    names = [*saved, CONFIG, f"checkpoint-9/{ADAPTER}", "run.py"]
    found = choose_files(names, lambda name: {})
    assert found.adapter and found.weights.files == ("adapter_model.safetensors",)
    assert set(found.rest) == {ADAPTER, "tokenizer.json", CONFIG}
    assert not choose_files([*saved, CONFIG, SINGLE], lambda name: {}).adapter


@pytest.mark.parametrize(
    ("names", "said"),
    [([ADAPTER], "but no weights"), ([ADAPTER, "adapter_model.bin"], "pickle")],
)
def test_an_adapter_without_loadable_weights(names: list[str], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        choose_files(names, lambda name: {})


def test_only_folders_that_the_files_name_are_looked_into() -> None:
    texts = {CONFIG: {"transformers_weights": "w/x.safetensors"}, "modules.json": [{"path": "1_P"}],
             INDEX: index("deep/er/a.safetensors", "b.safetensors")}  # fmt: skip
    found = subfolders([CONFIG, "modules.json", INDEX], lambda name: texts[name])
    assert found == ("1_P", "additional_chat_templates", "deep/er", "w")
