"""GGUF through transformers: the same bits as its own `gguf_file`, said to be dequantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import mdl
from mdl.cli.entry import run
from mdl.errors import LoadError, NotFoundError, UsageError
from tests.hub import LoopbackHub
from tests.loader import stored

BASE, NAME = "Maker/Model", "Maker/Model-GGUF"
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's folder with two variants, one of them in a subfolder."""
    made = tmp_path_factory.mktemp("gguf")
    stored.write_gguf(made / "M-Q8_0.gguf")
    stored.write_gguf(made / "Q4_0/M-Q4_0.gguf", "Q4_0")
    return made


@pytest.fixture
def served(hub: LoopbackHub, folder: Path) -> LoopbackHub:
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w"})
    hub.add_repo(
        NAME,
        files={str(path.relative_to(folder)): path for path in folder.rglob("*.gguf")},
        lfs=["M-Q8_0.gguf", "Q4_0/M-Q4_0.gguf"],
        card={"base_model": BASE, "base_model_relation": "quantized"},
    )
    return hub


def same(model: Any, folder: Path, name: str) -> bool:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name)
    ours, reference = model.state_dict(), theirs.state_dict()
    return ours.keys() == reference.keys() and all(
        torch.equal(ours[key], tensor) and ours[key].dtype == tensor.dtype
        for key, tensor in reference.items()
    )


@pytest.mark.parametrize(
    ("name", "options", "file"),
    [
        (f"{NAME}:q8_0", {}, "M-Q8_0.gguf"),
        (BASE, {"format": "gguf:Q4_0"}, "Q4_0/M-Q4_0.gguf"),
        (NAME, {"dtype": "bfloat16"}, "M-Q8_0.gguf"),
    ],
)
def test_a_variant_is_loaded_and_nothing_else_downloaded(
    name: str, options: dict[str, Any], file: str, served: LoopbackHub, folder: Path
) -> None:
    planned = mdl.plan(name, **options)
    assert planned.download_files == (file,)
    assert planned.dequantized is not None and planned.dequantized.allowed
    assert not list(Path(planned.cache_root).rglob("*.gguf"))
    loaded = mdl.load(name, **options)
    report = loaded.report
    assert [(each.path, each.hash is not None) for each in report.files] == [(file, True)]
    assert report.memory["weights"] - planned.memory.weights < 1000
    assert report.resolution["variant"] == planned.format.partition(":")[2]
    assert any("stored in gguf (" in text for text in report.warnings)
    assert report.quantization is None and report.parameters["quantized"] == 0
    if "dtype" not in options:
        assert same(loaded.model, folder, file)
    else:
        assert loaded.model.dtype == torch.bfloat16 and planned.dtype == "bfloat16"
    words = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    assert words("The capital").input_ids == loaded.tokenizer("The capital").input_ids
    served.clear_requests()
    assert mdl.load(name, local_files_only=True, **options).report.files == report.files
    assert served.requests == []


def test_it_can_be_saved_and_verified(folder: Path, tmp_path: Path) -> None:
    loaded = mdl.load(str(folder), format="gguf:q4_0")
    assert mdl.verify(loaded.report.save(tmp_path / "report.json")).problems == ()
    loaded.model.save_pretrained(tmp_path / "saved")
    again = mdl.load(str(tmp_path / "saved")).model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in loaded.model.state_dict().items())


def test_the_command_says_that_it_dequantizes(served: LoopbackHub, capsys: Any) -> None:
    assert run(["load", BASE, "--gguf", "--dry-run"]) == 0
    assert "dequantized  from" in capsys.readouterr().out
    assert run(["load", BASE, "--gguf", "--prompt", "Hello", "--max-new-tokens", "1"]) == 0
    out = capsys.readouterr().out
    assert "gguf:Q8_0, float32" in out and "were dequantized to float32" in out
    assert run(["load", BASE, "--fit", "24GB"]) == 2
    assert "not loaded with --fit" in capsys.readouterr().err


def test_split_files_are_refused_before_the_download(hub: LoopbackHub, folder: Path) -> None:
    parts = [f"M-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    hub.add_repo(NAME, files=dict.fromkeys(parts, folder / "M-Q8_0.gguf"), lfs=parts)
    with pytest.raises(LoadError, match="one of 2 files") as error:
        mdl.load(f"{NAME}:Q8_0")
    assert "llama-gguf-split --merge" in error.value.next


def test_an_architecture_that_transformers_lacks_is_refused_before_the_download(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.add_repo(NAME, files={"M-Q8_0.gguf": stored.write_gguf(tmp_path / "m.gguf",
                                                              architecture="plm")})  # fmt: skip
    for call in (mdl.plan, mdl.load):
        with pytest.raises(LoadError, match="does not read M-Q8_0.gguf.*architecture plm"):
            call(NAME)
    assert mdl.where(NAME).state == "absent"


def test_the_package_to_install_is_named(
    served: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.utils, "is_gguf_available", lambda: False)
    for name in (NAME, str(folder)):
        with pytest.raises(LoadError, match="gguf need a package") as error:
            mdl.load(name)
        assert error.value.next.startswith("pip install gguf")
    assert mdl.where(NAME).state == "absent"


def test_a_folder_says_which_variants_it_has(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="no GGUF variant Q5_K_M") as error:
        mdl.load(str(folder), format="gguf:Q5_K_M")
    assert "Q8_0" in error.value.why and "Q4_0" in error.value.why
    with pytest.raises(NotFoundError, match="There is no folder") as error:
        mdl.load(str(folder / "M-Q8_0.gguf"))
    assert "the folder it is in" in error.value.next
    with pytest.raises(UsageError, match="is gguf and cannot become bnb-4bit"):
        mdl.load(str(folder), load_in_4bit=True)


# -- verify --------------------------------------------------------------------------------------


def problems(path: Path) -> str:
    return " ".join(mdl.verify(path).problems)


def test_a_whole_file_passes_and_damage_is_found(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "M-Q8_0.gguf").read_bytes()
    assert mdl.verify(folder).problems == ()
    path = tmp_path / "M-Q8_0.gguf"
    for data, said in (
        (whole[:-100], "its tensors end at byte"),
        (whole[:5000], "ends inside its header"),
        (b"", "is empty"),
        (b"PK" + whole, "does not begin with GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ):
        path.write_bytes(data)
        assert said.lower() in problems(path).lower(), said
        assert problems(tmp_path) == problems(path)


def test_a_snapshots_hash_is_compared(served: LoopbackHub) -> None:
    pulled = mdl.pull(NAME, format="gguf:Q8_0")
    assert pulled.path is not None
    assert "M-Q8_0.gguf" in mdl.verify(pulled.path).checked
    blob = pulled.path.resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    assert "does not match the hash" in problems(pulled.path)
    assert "does not match the hash" in problems(pulled.path.parent)


def test_a_split_model_needs_all_its_files(tmp_path: Path) -> None:
    names = [f"M-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    first, second = (
        stored.write_gguf(tmp_path / name, no=number, count=2) for number, name in enumerate(names)
    )
    assert any("2 files" in text for text in mdl.verify(first).checked)
    second.unlink()
    assert "file 2 of 2 is missing" in problems(tmp_path)
    first.rename(tmp_path / "M-Q8_0-00001-of-00003.gguf")
    assert "one of 2 files by its header, not of 3" in problems(tmp_path)
    assert run(["verify", str(tmp_path), "--json"]) == 6


def test_a_report_notices_a_changed_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m/M-Q8_0.gguf"
    stored.write_gguf(path)
    report = mdl.load(str(path.parent)).report.save(tmp_path / "report.json")
    path.write_bytes(path.read_bytes()[:-32])
    assert "damaged" in problems(report)
    assert json.loads(report.read_text())["files"][0]["path"] == "M-Q8_0.gguf"
