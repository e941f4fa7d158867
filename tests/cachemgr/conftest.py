"""A cache root under construction, and the cache manager that looks at it."""

from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.settings import Settings
from tests.cachemgr.builder import CacheBuilder


@pytest.fixture
def built(tmp_path: Path) -> CacheBuilder:
    return CacheBuilder(tmp_path / "hf" / "hub")


@pytest.fixture
def settings(tmp_path: Path, built: CacheBuilder) -> Settings:
    return Settings(home=tmp_path / "mdl", cache_root=built.root)


@pytest.fixture
def cache(settings: Settings) -> Cache:
    return open_cache(settings)
