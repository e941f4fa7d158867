"""A resolver on a database of its own, and rows to put into it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdl.resolver import Cached, Resolver
from mdl.settings import Settings
from tests.hub import LoopbackHub

BNB = '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}'


class OneCached:
    """A cache of one repository; `cached` is `None` where no ref leads to one of its commits."""

    def __init__(self, repo_id: str, cached: Cached | None, *commits: str) -> None:
        self._key, self._cached, self._commits = repo_id.lower(), cached, commits

    def __call__(self, repo_id: str, revision: str | None) -> Cached | None:
        return self._cached if repo_id.lower() == self._key else None

    def revisions(self, repo_id: str, but: str | None) -> tuple[str, ...]:
        return self._commits if repo_id.lower() == self._key else ()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """No Hub: what a test needs of one it adds with `dataclasses.replace`."""
    return Settings(home=tmp_path / "mdl", cache_root=tmp_path / "hub", offline=True)


@pytest.fixture
def online(hub: LoopbackHub, tmp_path: Path) -> Iterator[Callable[..., Resolver]]:
    """Make resolvers that ask the loopback Hub; each call may bring another token or cache."""
    made: list[Resolver] = []

    def make(token: str | None = None, **fields: Any) -> Resolver:
        settings = Settings(
            home=tmp_path / "mdl",
            cache_root=tmp_path / "hub",
            endpoint=hub.endpoint,
            token=token,
            **{k: v for k, v in fields.items() if k != "cached"},
        )
        made.append(Resolver(settings, fields.get("cached")))
        return made[-1]

    yield make
    for resolver in made:
        resolver.close()
