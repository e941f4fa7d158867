"""The files below any folder that a user may name."""

from pathlib import Path

import pytest

from mdl import folders


def test_the_nearest_come_first_and_the_deepest_not_at_all(tmp_path: Path) -> None:
    for name in ("a/b/c/d/e/too-deep", "a/b/c/d/deep", "a/near", "top", ".git/hooks"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(".")
    found = list(folders.files_below(tmp_path))
    assert sorted(found[:2]) == ["dangling", "top"]
    assert found[2:] == ["a/near", "a/b/c/d/deep"]


def test_of_very_many_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "file").touch()
    assert len(list(folders.files_below(tmp_path))) == 20
    monkeypatch.setattr(folders, "_MOST", 30)
    assert len(list(folders.files_below(tmp_path))) == 10
