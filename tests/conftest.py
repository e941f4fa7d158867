"""Fixtures every test folder shares: a running loopback Hub and a clean environment for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub

# Set here, before any test imports it: huggingface_hub reads its constants once, at import.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub with nothing in it. An error inside its own threads fails the test."""
    with LoopbackHub() as running:
        yield running
    assert running.errors == []


@pytest.fixture
def hub_env(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The environment of a fresh machine whose Hub is `hub`: set here, and to give to processes.

    Inside this process huggingface_hub was imported earlier, so calls of its functions need
    `endpoint=`, `cache_dir=` and `token=` of their own.
    """
    for name in list(os.environ):
        if name.startswith(("HF_", "MDL_", "HUGGING_FACE", "TRANSFORMERS_")):
            monkeypatch.delenv(name)
    ours = {
        "HF_HOME": str(tmp_path / "hf"),
        "MDL_HOME": str(tmp_path / "mdl"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    yield dict(os.environ)
