"""How mdl says to install more of it: from where it came, never from a name on an index."""

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import mdl
from mdl.version import install_command

GIT = {"url": "https://example.org/mdl", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}}
REQUIRES = [
    "click>=8.2",
    "torch>=2.11; extra == 'load'",
    "triton>=3.6; (sys_platform == 'linux') and extra == 'kernels'",
    'pillow>=11; extra == "load"',
]


class Metadata:
    """An installed distribution, with or without a record of its source."""

    def __init__(self, source: dict[str, Any] | None) -> None:
        self.requires = REQUIRES
        self._source = source

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return json.dumps(self._source) if self._source is not None else None


def advice(
    monkeypatch: pytest.MonkeyPatch, source: dict[str, Any] | None, extra: str = "load"
) -> str:
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Metadata(source))
    return install_command(extra)


def test_a_clone_is_installed_from_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "my mdl"
    folder.mkdir()
    url = folder.as_uri()
    assert advice(monkeypatch, {"url": url, "dir_info": {}}) == f'pip install "{folder}[load]"'
    editable = {"url": url, "dir_info": {"editable": True}}
    assert advice(monkeypatch, editable) == f'pip install -e "{folder}[load]"'


def test_a_repository_is_installed_from_at_the_same_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f'pip install "mdl[load] @ git+https://example.org/mdl@{"0" * 40}"'
    assert advice(monkeypatch, GIT) == expected


def test_without_a_source_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdl.version._checkout", lambda: None)
    gone = {"url": "file:///gone/mdl-0.2.0-py3-none-any.whl", "archive_info": {}}
    for source in (None, gone):
        assert advice(monkeypatch, source) == 'pip install "torch>=2.11" "pillow>=11"'
        assert advice(monkeypatch, source, "kernels") == 'pip install "triton>=3.6"'


def test_a_checkout_that_was_never_installed_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    root = Path(mdl.__file__).parents[1]
    assert install_command("service") == f'pip install -e "{root}[service]"'


def test_no_message_advises_a_name_that_may_be_anothers() -> None:
    bare = re.compile(r"pip install\s+[\"']?mdl\b(?!\* @)")
    root = Path(mdl.__file__).parents[1]
    pages = [*root.glob("mdl/**/*.py"), *root.glob("docs/*.md"), root / "README.md"]
    assert [str(page) for page in pages if bare.search(page.read_text())] == []
