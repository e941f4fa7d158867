"""A token is known by a keyed fingerprint, the same for all who share a home."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mdl.resolver.token_fingerprint import fingerprint


def test_the_key_is_created_once_and_private(tmp_path: Path) -> None:
    first = fingerprint("hf_a", str(tmp_path / "mdl"))
    assert first == fingerprint("hf_a", str(tmp_path / "mdl"))
    assert first != fingerprint("hf_b", str(tmp_path / "mdl"))
    assert first != fingerprint("hf_a", str(tmp_path / "other"))
    (key,) = (tmp_path / "mdl").iterdir()
    assert key.stat().st_mode & 0o077 == 0


def test_concurrent_threads_agree_on_the_key(tmp_path: Path) -> None:
    """As many callers of a service that just started do."""
    start = threading.Barrier(8)

    def ask(home: Path) -> str:
        start.wait()
        return fingerprint("hf_a", str(home))

    with ThreadPoolExecutor(8) as threads:
        for n in range(50):
            home = tmp_path / str(n)
            found = set(threads.map(ask, [home] * 8))
            assert found == {fingerprint("hf_a", str(home))}
            assert [path.name for path in home.iterdir()] == ["fingerprint.key"]


def test_an_unwritable_home_does_not_prevent_a_resolution(tmp_path: Path) -> None:
    """Then the key is this process's: what is found out is asked anew by the next one."""
    home = tmp_path / "file"
    home.write_text("")
    assert fingerprint("hf_a", str(home)) == fingerprint("hf_a", str(home)) != "anonymous"


def test_a_token_of_undecodable_bytes_has_a_fingerprint(tmp_path: Path) -> None:
    assert fingerprint("hf_\udcff", str(tmp_path)) != fingerprint("hf_\udcfe", str(tmp_path))
