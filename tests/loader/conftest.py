"""Tiny models of real architectures, and the real SmolLM2 for tests that need language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers

from tests.loader import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("llama")` is a folder with that architecture, created once per session."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tiny.save_model(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real SmolLM2-135M-Instruct."""
    from demo.smollm2 import make

    return make()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hide transformers' progress bars."""
    transformers.utils.logging.disable_progress_bar()
    yield
