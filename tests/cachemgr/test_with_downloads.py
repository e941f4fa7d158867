"""Real huggingface_hub downloads, in processes of their own, while mdl works in the same cache."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.normalize import NormalizeRequest, apply_normalize, plan_normalize
from mdl.cachemgr.remove import Policy, apply_prune, plan_prune
from mdl.cachemgr.scan.folder import scan_folder
from mdl.cachemgr.verify.verify import Verifier
from mdl.settings import Settings
from tests.cachemgr.builder import CacheBuilder
from tests.hub import LoopbackHub

CASINGS = ("Org/Name", "org/name", "ORG/NAME", "Org/name")
TAGS = 6
DOWNLOADER = """
import hashlib, json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
casing, revisions, check = sys.argv[1], sys.argv[2].split(","), sys.argv[3] == "check"
for revision in revisions:
    folder = Path(snapshot_download(casing, revision=revision, token=False, max_workers=2))
    if check:
        assert (folder / "name.txt").read_text() == revision, (casing, revision)
        content = (folder / "w.safetensors").read_bytes()
        assert content == revision.encode() * 20000, (casing, revision, len(content))
"""


@pytest.fixture
def online(
    hub: LoopbackHub, hub_env: dict[str, str], built: CacheBuilder, settings: Settings
) -> Iterator[tuple[Cache, dict[str, str]]]:
    cache = open_cache(Settings(settings.home, built.root, endpoint=hub.endpoint))
    yield cache, {**hub_env, "HF_HUB_CACHE": str(built.root)}


def start(
    env: dict[str, str], casing: str, revisions: list[str], check: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DOWNLOADER, casing, ",".join(revisions), check],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )


def verified(cache: Cache) -> list[str]:
    root = str(cache.root)
    folders = [scan_folder(root, s.name, marked=False) for s in cache.survey().summaries]
    real = [folder for folder in folders if folder.alias_of is None]
    report = Verifier(root, cache.index, workers=1).run(real)
    return [bad.problem for bad in report.bad if "hashes to" in bad.problem]


def test_eight_downloads_in_all_casings_while_mdl_works(
    hub: LoopbackHub, online: tuple[Cache, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, env = online
    # Shorter than in life, so that mdl finds more gaps to act in.
    monkeypatch.setattr("mdl.cachemgr.journal.locks.QUIET_SECONDS", 0.2)
    hub.add_repo("Org/Name", files={"README.md": "first"})
    for number in range(TAGS):
        tag = f"v{number}"
        files = {"name.txt": tag, "w.safetensors": tag.encode() * 20000,
                 "same.safetensors": b"s" * 50_000}  # fmt: skip
        hub.tag("Org/Name", tag, hub.commit("Org/Name", files))
    tags = [f"v{number}" for number in range(TAGS)]
    children = [
        start(env, CASINGS[n % 4], tags[n % TAGS :] + tags[: n % TAGS], "check") for n in range(6)
    ]
    # Two that ask by commit, again and again: no ref names those, so prune takes them meanwhile.
    unnamed = [hub.commit("Org/Name", {"w.safetensors": bytes([n]) * 20000}) for n in range(4)]
    children += [start(env, casing, unnamed * 3, "no check") for casing in CASINGS[:2]]
    wrong: list[str] = []
    actions = 0
    while any(child.poll() is None for child in children):
        for act in (
            lambda: (
                apply_prune(
                    cache, plan_prune(cache, Policy(detached=True, incomplete=True))
                ).action_id
            ),
            lambda: (
                apply_normalize(
                    cache,
                    plan_normalize(cache, NormalizeRequest("shared"), lambda kind, name: None),
                ).action_id
            ),
            lambda: (
                apply_normalize(
                    cache,
                    plan_normalize(cache, NormalizeRequest("hub"), lambda kind, name: "Org/Name"),
                ).action_id
            ),
            lambda: wrong.extend(verified(cache)),
        ):
            actions += act() is not None
    errors = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0] * 8, "\n".join(errors)
    assert wrong == []
    assert verified(cache) == []
    print(f"{actions} actions took place meanwhile")
