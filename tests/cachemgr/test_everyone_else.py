"""After mdl has pruned, normalized and undone, huggingface_hub and transformers still work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.normalize import (
    NormalizeRequest,
    apply_normalize,
    hub_spelling,
    plan_normalize,
)
from mdl.cachemgr.remove import Policy, apply_prune, plan_prune, undo_last
from mdl.settings import Settings
from tests.cachemgr.builder import CacheBuilder, manifest
from tests.hub import LoopbackHub

CASINGS = ("Org/Tiny-Name", "org/tiny-name", "ORG/Tiny-name")
CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 16,
    "architectures": ["LlamaForCausalLM"],
}


@pytest.fixture
def online(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    built: CacheBuilder,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Cache:
    """Three casings downloaded for real: one whole, one before the last commit, one file."""
    # Nobody else is downloading here, so nobody is waited for.
    monkeypatch.setattr("mdl.cachemgr.journal.locks.QUIET_SECONDS", 0.0)
    hub.add_repo("Org/Tiny-Name", files={"config.json": json.dumps({**CONFIG, "old": 1}),
                                         "w.safetensors": b"w" * 5000})  # fmt: skip
    fetch = {"cache_dir": built.root, "endpoint": hub.endpoint, "token": False}
    snapshot_download(CASINGS[1], **fetch)
    hub.commit("Org/Tiny-Name", {"config.json": json.dumps(CONFIG), "w.safetensors": b"w" * 5000})
    snapshot_download(CASINGS[0], **fetch)
    hf_hub_download(CASINGS[2], "config.json", **fetch)
    snapshot_download(CASINGS[1], **fetch)
    return open_cache(Settings(settings.home, built.root, endpoint=hub.endpoint))


def normalized(cache: Cache, to: str) -> None:
    outcome = apply_normalize(
        cache, plan_normalize(cache, NormalizeRequest(to), hub_spelling(cache))
    )
    assert outcome.skipped == {}


def pruned(cache: Cache) -> None:
    outcome = apply_prune(cache, plan_prune(cache, Policy(detached=True, incomplete=True)))
    assert outcome.skipped == {}


STORIES = {
    "pruned": lambda cache: pruned(cache),
    "shared": lambda cache: normalized(cache, "shared"),
    "hub": lambda cache: normalized(cache, "hub"),
    "lower": lambda cache: normalized(cache, "lower"),
    "all of it": lambda cache: (normalized(cache, "shared"), normalized(cache, "hub"),
                                pruned(cache), normalized(cache, "lower")),
    "undone": lambda cache: (normalized(cache, "hub"), undo_last(cache),
                             normalized(cache, "shared")),
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_look_ups_give_right_answers_for_every_casing(
    story: str, online: Cache, built: CacheBuilder, hub: LoopbackHub
) -> None:
    STORIES[story](online)
    casings = CASINGS if story != "pruned" else CASINGS[:2]
    hub.clear_requests()
    for casing in casings:
        found = Path(snapshot_download(casing, cache_dir=built.root, local_files_only=True))
        assert json.loads((found / "config.json").read_text()) == CONFIG
        assert (found / "w.safetensors").stat().st_size == 5000
    assert hub.requests == []
    info = scan_cache_dir(built.root)
    assert info.warnings == []
    # And online again: nothing is fetched twice, nothing breaks.
    for casing in CASINGS:
        snapshot_download(casing, cache_dir=built.root, endpoint=hub.endpoint, token=False)
    assert hub.count("*w.safetensors*", method="GET") <= (1 if story == "pruned" else 0)


@pytest.mark.parametrize("to", ["shared", "hub", "lower"])
def test_a_new_commit_is_downloaded_through_any_casing(
    to: str, online: Cache, built: CacheBuilder, hub: LoopbackHub
) -> None:
    normalized(online, to)
    for number, casing in enumerate(CASINGS):
        hub.commit("Org/Tiny-Name", {"config.json": json.dumps({"number": number})})
        found = snapshot_download(casing, cache_dir=built.root, endpoint=hub.endpoint, token=False)
        assert json.loads(Path(found, "config.json").read_text()) == {"number": number}
    assert not [problem for repo in online.list() for problem in repo.problems]


def hf(built: CacheBuilder, hub: LoopbackHub, *command: str) -> str:
    """The `hf` command, as a process."""
    env = {**os.environ, "HF_HUB_CACHE": str(built.root), "HF_ENDPOINT": hub.endpoint}
    done = subprocess.run(
        [Path(sys.executable).parent / "hf", "cache", *command],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("to", ["shared", "hub"])
def test_hf_cache_commands(to: str, online: Cache, built: CacheBuilder, hub: LoopbackHub) -> None:
    """`hf cache prune` takes what has no ref, and nothing that a ref still shows."""
    normalized(online, to)
    listed = hf(built, hub, "ls")
    assert all(f"model/{casing}" in listed for casing in CASINGS)
    hf(built, hub, "verify", "Org/Tiny-Name")
    before = manifest(built.root)
    hf(built, hub, "prune", "--yes")
    head = hub.repos["Org/Tiny-Name"].head().id
    kept = {path: content for path, content in before.items() if head in path}
    assert manifest(built.root).items() >= kept.items()
    for casing in CASINGS:
        snapshot_download(casing, cache_dir=built.root, local_files_only=True)


def test_hf_cache_rm_of_a_shared_casing_leaves_the_others(
    online: Cache, built: CacheBuilder, hub: LoopbackHub
) -> None:
    normalized(online, "shared")
    hf(built, hub, "rm", f"model/{CASINGS[0]}", "--yes")
    left = [casing for casing in CASINGS if built.folder(casing).exists()]
    assert len(left) == 2, "hf takes one of the casings, not always the one it was told"
    for casing in left:
        found = snapshot_download(casing, cache_dir=built.root, local_files_only=True)
        assert Path(found, "w.safetensors").read_bytes() == b"w" * 5000


def test_transformers_loads_offline(online: Cache, built: CacheBuilder, tmp_path: Path) -> None:
    """One process, three copies of the cache, each normalized another way."""
    roots = []
    for to in ("shared", "hub", "lower"):
        roots.append(tmp_path / to / "hub")
        shutil.copytree(built.root, roots[-1], symlinks=True)
        normalized(open_cache(online.settings, roots[-1]), to)
    code = (
        "import json, sys\n"
        "from transformers import AutoConfig\n"
        "roots, names = json.loads(sys.argv[1])\n"
        "for root in roots:\n"
        "    for name in names:\n"
        "        assert AutoConfig.from_pretrained(name, cache_dir=root).hidden_size == 8\n"
    )
    given = json.dumps([[str(root) for root in roots], CASINGS])
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, given], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_alias_whose_folder_hf_removed_is_healed(
    online: Cache, built: CacheBuilder, hub: LoopbackHub
) -> None:
    """A dangling alias makes every download of its spelling fail; mdl's next change removes it."""
    normalized(online, "hub")
    shutil.rmtree(built.folder(CASINGS[0]))
    assert "a link out of this cache" in online.list()[0].problems[0]
    built.revision("o/other", "f" * 40, {"w": b"1"})
    pruned(online)
    found = snapshot_download(CASINGS[1], cache_dir=built.root, endpoint=hub.endpoint, token=False)
    assert json.loads(Path(found, "config.json").read_text()) == CONFIG
