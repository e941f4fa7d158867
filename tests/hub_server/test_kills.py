"""Killed at each write and at random, in every casing, under maintenance: the cache stays right."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.hub import LoopbackHub
from tests.hub.hub import free_port
from tests.hub_server.conftest import Serve

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
FILES = {
    "config.json": b"{}",
    "sub/tokens.txt": b"a\nb\n",
    "w.safetensors": random.Random(1).randbytes(700_000),
    "v.safetensors": random.Random(2).randbytes(300_000),
}
CASINGS = ("Org/Model", "org/model", "ORG/MODEL")
MAINTENANCE = (
    ["cache", "prune", "--incomplete", "--max-size", "400KB", "--yes"],
    ["cache", "normalize", "--yes"],
    ["cache", "normalize", "--to", "hub", "--yes"],
    ["cache", "verify", "--again", "--yes"],
)


def load(url: str, repo: str) -> dict[str, bytes]:
    """A client that asks for the tree, then for each file, as the real one does."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        rows = client.get(f"/api/models/{repo}/tree/main?recursive=true").raise_for_status().json()
        names = [row["path"] for row in rows if row["type"] == "file"]
        return {
            name: client.get(f"/{repo}/resolve/main/{name}").raise_for_status().content
            for name in names
        }


def wrong_in(cache: Path) -> list[str]:
    """What the cache shows that is not as the Hub has it."""
    found = []
    for blob in cache.glob("models--*/blobs/*"):
        if len(blob.name) in (40, 64):
            data = blob.read_bytes()
            right = (
                hashlib.sha256(data)
                if len(blob.name) == 64
                else hashlib.sha1(b"blob %d\0" % len(data) + data)
            )
            if right.hexdigest() != blob.name:
                found.append(str(blob))
    for link in cache.glob("models--*/snapshots/*/**/*"):
        name = link.relative_to(link.parents[len(link.relative_to(cache).parts) - 4]).as_posix()
        if not link.is_dir() and link.read_bytes() != FILES[name]:
            found.append(str(link))
    return found


def everyone(url: str, number: int = 8) -> list[dict[str, bytes] | Exception]:
    """What that many clients in several casings get at once."""

    def one(n: int) -> dict[str, bytes] | Exception:
        try:
            return load(url, CASINGS[n % 3])
        except httpx2.HTTPError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def test_killed_at_each_write_while_eight_clients_load(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    at = 0
    survived = False
    while not survived:
        at += 1
        here = between(PYTHONPATH=f"{HERE / 'killed'}:{Path.cwd()}", MDL_TEST_KILL_AT=str(at))
        got = everyone(here.url)
        assert all(each == FILES for each in got if isinstance(each, dict)), at
        survived = here.process.process.poll() is None
        here.process.process.kill()
        here.process.process.communicate()
        assert wrong_in(here.cache) == [], at
        here.env.pop("MDL_TEST_KILL_AT")
        here.start()
        assert everyone(here.url) == [FILES] * 8, at
        assert wrong_in(here.cache) == [], at
        assert len(list(here.cache.glob("models--*"))) == 1, at
        here.process.process.kill()
        here.process.process.communicate()
        shutil.rmtree(here.home)
    assert at > 20, "there are that many writes"


def test_replicas_killed_at_random_while_real_clients_load(
    hub: LoopbackHub, between: Serve
) -> None:
    """Two on one cache, killed by turns; each client tries again as a user would."""
    hub.add_repo("Org/Model", files={**FILES, "w.safetensors": BIG})
    ports = [free_port(), free_port()]
    one = between("--port", str(ports[0]))
    two = between("--port", str(ports[1]), home="second", HF_HOME=one.env["HF_HOME"])
    hub.fault("/cdn/*", pause=0.02, times=None)
    ended = threading.Event()

    def client(n: int) -> object:
        for _ in range(20):
            here = (one, two)[n % 2]
            found = here.download(f"c{n}", CASINGS[n % 3], "w.safetensors")
            if isinstance(found[0], int):
                return found
        return found

    def killing() -> None:
        while not ended.wait(random.Random(at := time.time()).uniform(0.5, 2.0)) and at:
            for here, port in ((one, ports[0]), (two, ports[1])):
                here.process.process.send_signal(signal.SIGKILL)
                here.process.process.communicate()
                here.start("--port", str(port))

    killer = threading.Thread(target=killing)
    killer.start()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client, range(8)))
    ended.set()
    killer.join()
    assert found == [[len(BIG), hashlib.sha256(BIG).hexdigest()]] * 8
    blob = one.cache / "models--Org--Model" / "blobs" / hashlib.sha256(BIG).hexdigest()
    assert blob.read_bytes() == BIG


BIG = random.Random(4).randbytes(40_000_000)
SNAPSHOT = """
import hashlib, pathlib
folder = pathlib.Path(hf.snapshot_download({repo!r}, revision={revision!r}))
print(json.dumps({{p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
                   for p in sorted(folder.rglob('*')) if p.is_file()}}))
"""


def test_24_clients_in_three_casings_while_the_cache_is_maintained(
    hub: LoopbackHub, between: Serve
) -> None:
    tags = {}
    hub.add_repo("Org/Model", files={"README.md": "first"})
    for n in range(4):
        files = {"name.txt": b"v%d" % n, "w.safetensors": bytes([n]) * 300_000,
                 "same.safetensors": b"s" * 100_000}  # fmt: skip
        hub.tag("Org/Model", f"v{n}", hub.commit("Org/Model", files))
        tags[f"v{n}"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    here = between()
    ended = threading.Event()
    codes: list[tuple[str, int, str]] = []

    def maintain(command: list[str]) -> None:
        while not ended.is_set():
            done = subprocess.run(
                [sys.executable, "-m", "mdl", *command], env=here.env, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            codes.append((command[1], done.returncode, done.stderr))

    maintaining = [threading.Thread(target=maintain, args=(each,)) for each in MAINTENANCE]
    for thread in maintaining:
        thread.start()

    def client(n: int) -> list[tuple[str, object]]:
        wanted = [f"v{(n + k) % 4}" for k in range(2)]
        return [
            (tag, here.client(f"c{n}", SNAPSHOT.format(repo=CASINGS[n % 3], revision=tag)))
            for tag in wanted
        ]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(client, range(24)))
    ended.set()
    for thread in maintaining:
        thread.join()
    for results in found:
        for tag, result in results:
            assert result == tags[tag]
    assert {code for _, code, _ in codes} <= {0, 7}, json.dumps(codes)  # 7: busy
    assert {name for name, code, _ in codes if code == 0} == {"prune", "normalize", "verify"}
    assert all(
        not path.is_symlink() or path.exists()
        for path in here.cache.glob("models--*/snapshots/*/*")
    )
