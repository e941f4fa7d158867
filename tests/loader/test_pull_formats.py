"""`mdl pull` of stored formats: exactly a variant's files, and the path that a runtime wants."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import mdl
from mdl.cli.entry import run
from tests.hub import LoopbackHub

BASE = "Maker/Model-8B"
GGUF = "unsloth/Model-8B-GGUF"
QUANTIZED = {"base_model": BASE, "base_model_relation": "quantized"}
PARTS = [f"Q8_0/M-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
AWQ = '{"quantization_config": {"quant_method": "awq", "bits": 4}}'


@pytest.fixture(autouse=True)
def served(hub: LoopbackHub, hub_env: dict[str, str]) -> LoopbackHub:
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w"})
    hub.add_repo(
        "unsloth/Model-8B-GGUF",
        files={
            "M-Q4_K_M.gguf": b"GGUF" + bytes(400),
            **{path: b"GGUF" + bytes(500) for path in PARTS},
            "mmproj-F16.gguf": b"GGUF" + bytes(60),
            "README.md": "-", "config.json": "{}",
        },
        lfs=["M-Q4_K_M.gguf", *PARTS],
        card=QUANTIZED,
    )  # fmt: skip
    hub.add_repo(
        "unsloth/Model-8B-AWQ",
        files={
            "config.json": AWQ, "model.safetensors": b"w" * 50, "tokenizer.json": "{}",
            "original/x.pth": b"p", "picture.png": b"p",
        },
        card=QUANTIZED,
    )  # fmt: skip
    return hub


def pull(capsys: Any, *arguments: str) -> tuple[int, Any]:
    code = run(["pull", *arguments])
    return code, capsys.readouterr()


def cached_files(repo_id: str) -> list[str]:
    root = Path(os.environ["HF_HOME"]) / f"hub/models--{repo_id.replace('/', '--')}/snapshots"
    return sorted(p.relative_to(root).as_posix().partition("/")[2]
                  for p in root.rglob("*") if not p.is_dir())  # fmt: skip


def test_quiet_prints_the_first_file_and_nothing_else_is_downloaded(capsys: Any) -> None:
    code, out = pull(capsys, BASE, "--format", "gguf:q8_0", "-q", "--no-progress")
    assert code == 0
    path = Path(out.out.removesuffix("\n"))
    assert path.as_posix().endswith(PARTS[0])
    assert path.read_bytes().startswith(b"GGUF")
    assert cached_files("unsloth/Model-8B-GGUF") == [*PARTS, "mmproj-F16.gguf"]


def test_other_formats_print_the_folder_with_what_they_need(capsys: Any) -> None:
    code, out = pull(capsys, BASE, "--awq", "-q")
    assert code == 0
    folder = Path(out.out.strip())
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_a_variant_behind_the_name_and_again_offline(capsys: Any, hub: LoopbackHub) -> None:
    first = pull(capsys, "hf.co/unsloth/Model-8B-GGUF:Q4_K_M", "--mmproj", "none", "-q")
    hub.clear_requests()
    again = pull(capsys, f"{BASE.lower()}:q4_k_m", "--mmproj", "none", "-q", "--offline")
    assert first[0] == again[0] == 0 or again[1].err
    ours = pull(capsys, "unsloth/Model-8B-GGUF:q4_k_m", "--mmproj", "none", "-q", "--offline")
    assert (ours[0], ours[1].out) == (0, first[1].out)
    assert hub.requests == []


def test_offline_what_is_not_here_is_refused(capsys: Any) -> None:
    assert pull(capsys, "unsloth/Model-8B-GGUF:Q4_K_M", "--offline", "-q")[0] == 5


def test_a_dry_run_shows_the_size_and_downloads_nothing(capsys: Any, hub: LoopbackHub) -> None:
    code, out = pull(capsys, BASE, "--gguf", "--dry-run", "--json")
    body = json.loads(out.out)
    assert (code, body["done"], body["bytes"], body["format"]) == (0, False, 468, "gguf:Q4_K_M")
    assert hub.count("*/resolve/*") == 0


def test_several_names_print_a_path_each(capsys: Any) -> None:
    code, out = pull(capsys, "unsloth/Model-8B-GGUF:Q4_K_M", f"{BASE}:Q8_0", "-q")
    assert (code, len(out.out.splitlines())) == (0, 2)


def test_patterns_and_a_folder_of_your_own(capsys: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    code, out = pull(
        capsys, "unsloth/Model-8B-AWQ", "--include", "*.json", "--include", "*.png",
        "--exclude", "tok*", "--local-dir", str(folder), "-q",
    )  # fmt: skip
    assert (code, out.out.strip()) == (0, str(folder))
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["config.json", "picture.png"]
    assert cached_files("unsloth/Model-8B-AWQ") == []
    assert pull(capsys, BASE, "--include", "*.xyz")[0] == 3


def test_a_name_that_names_its_format_is_pulled_as_it_is_stored(capsys: Any) -> None:
    code, out = pull(capsys, "unsloth/Model-8B-GGUF", "-q")
    assert (code, Path(out.out.strip()).name) == (0, "M-Q4_K_M.gguf")


def test_a_local_dir_takes_a_variant(capsys: Any, tmp_path: Path) -> None:
    code, out = pull(capsys, BASE, "--gguf", "--local-dir", str(tmp_path / "here"), "-q")
    assert (code, out.out.strip()) == (0, str(tmp_path / "here/M-Q4_K_M.gguf"))


def test_a_token_of_its_own_is_used(capsys: Any, hub: LoopbackHub) -> None:
    hub.add_user("hf_mine", "me")
    hub.add_repo("Me/Gated-GGUF", files={"m-Q4_K_M.gguf": b"GGUF"}, gated="manual")
    hub.set_access("Me/Gated-GGUF", "hf_mine", "granted")
    assert pull(capsys, "Me/Gated-GGUF", "--gguf")[0] == 4
    assert pull(capsys, "Me/Gated-GGUF", "--gguf", "--token", "hf_mine", "-q")[0] == 0


def test_python_pulls_the_same(hub: LoopbackHub) -> None:
    pulled = mdl.pull(BASE, format="gguf:Q4_K_M", mmproj="none")
    assert pulled.path is not None
    assert (pulled.path.name, pulled.files) == ("M-Q4_K_M.gguf", ("M-Q4_K_M.gguf",))
    assert pulled.downloaded == ("M-Q4_K_M.gguf",)
    assert mdl.pull(BASE, format="gguf:Q4_K_M", mmproj="none").downloaded == ()


def test_mdl_load_says_what_to_do_with_a_format_it_does_not_load(capsys: Any) -> None:
    assert run(["load", BASE, "--mlx"]) == 2
    assert "mdl pull" in capsys.readouterr().err


def test_a_lock_pins_the_variant_and_its_files(capsys: Any, tmp_path: Path) -> None:
    lock = tmp_path / "mdl.lock"
    assert run(["lock", f"{BASE}:q8_0", "-o", str(lock)]) == 0
    assert 'format = "gguf:Q8_0"' in lock.read_text()
    assert "Q4_K_M" not in lock.read_text()
    capsys.readouterr()
    for asked in (["--gguf"], ["--format", "gguf:q8_0"]):
        code, out = pull(capsys, BASE, *asked, "--locked", str(lock), "-q")
        assert (code, Path(out.out.strip()).name) == (0, Path(PARTS[0]).name)
    assert pull(capsys, BASE, "--format", "gguf:Q4_K_M", "--locked", str(lock))[0] == 6
    assert pull(capsys, BASE, "--gguf", "--locked", str(lock), "--offline", "-q")[0] == 0


@pytest.mark.parametrize("locked_as", [[f"{GGUF}:Q8_0"], [GGUF, "--format", "gguf:Q8_0"]])
def test_a_locked_variant_is_found_however_it_is_asked_for(
    capsys: Any, tmp_path: Path, locked_as: list[str]
) -> None:
    lock = ["--locked", str(tmp_path / "mdl.lock")]
    assert run(["lock", *locked_as, "-o", lock[1]]) == 0
    page = f"https://huggingface.co/{GGUF}:Q8_0"
    for asked in ([f"{GGUF}:Q8_0"], [f"{GGUF.lower()}:q8_0"], [page], [GGUF, "--gguf"],
                  [GGUF, "--format", "gguf:q8_0"], [f"{GGUF}:Q8_0", "--gguf"]):  # fmt: skip
        assert run(["resolve", *asked, *lock, "--json"]) == 0, asked
    capsys.readouterr()
    assert pull(capsys, f"{GGUF}:Q8_0", *lock, "-q")[0] == 0
    for other in ([f"{GGUF}:Q4_K_M"], [GGUF, "--format", "gguf:Q4_K_M"]):
        code, out = pull(capsys, *other, *lock)
        assert code == 6 and "as gguf:Q8_0, not as" in out.err and "Q4_K_M" in out.err
    code, out = pull(capsys, f"{BASE}:Q8_0", *lock)
    assert code == 3 and f"mdl lock {BASE}:Q8_0 -o" in out.err
    for twice in ([f"{GGUF}:Q8_0", "--format", "gguf:Q4_K_M"], [f"{GGUF}:Q8_0", "--16bit"]):
        code, out = pull(capsys, *twice, *lock)
        assert code == 2 and "one format at a time" in out.err
