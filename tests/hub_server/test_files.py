"""Files through mdl: the same bytes, one copy, one upstream download, whatever goes wrong."""

import hashlib
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.hub import LoopbackHub
from tests.hub_server.conftest import Serve

BIG = random.Random(1).randbytes(12_000_000)
FILES = {"config.json": "{}", "model.safetensors": BIG, "sub/tokens.txt": "a\nb\n"}
SHA = hashlib.sha256(BIG).hexdigest()
WHOLE = [len(BIG), SHA]
PATH = "Org/Model/resolve/main/model.safetensors"
CLIENT = httpx2.Client(timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))
SNAPSHOT = """
import pathlib
folder = pathlib.Path(hf.snapshot_download('Org/Model'))
files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())
print(json.dumps([folder.name, files, (folder / 'model.safetensors').stat().st_size]))
"""


def downloads(hub: LoopbackHub) -> list[str | None]:
    """The Range of each upstream download of a large file."""
    return [r.range for r in hub.requests if r.method == "GET" and "/cdn/" in r.path]


def test_a_snapshot_is_the_one_the_hub_has(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    commit = hub.repos["Org/Model"].head().id
    here = between()
    assert here.client("a", SNAPSHOT) == [commit, sorted(FILES), len(BIG)]
    kept = here.cache / "models--Org--Model"
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_symlink()}
    assert names == {f"snapshots/{commit}/{name}" for name in FILES}
    assert (kept / "refs" / "main").read_text() == commit
    assert (kept / "trees" / f"{commit}.json").exists()
    assert (kept / "blobs" / SHA).read_bytes() == BIG
    # What mdl keeps is a cache of huggingface_hub's: offline, its own client finds everything.
    code = "import huggingface_hub as hf; hf.snapshot_download('Org/Model', local_files_only=True)"
    subprocess.run([sys.executable, "-c", code], env=here.env, check=True)


def test_the_second_client_costs_no_upstream_byte(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between()
    first = here.client("a", SNAPSHOT)
    before = len(hub.requests)
    assert here.client("b", SNAPSHOT) == first
    assert len(hub.requests) - before <= 1
    assert len(downloads(hub)) == 1


@pytest.mark.parametrize("spelling", ["org/model", "ORG/MODEL"])
def test_any_casing_is_one_copy(hub: LoopbackHub, between: Serve, spelling: str) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between()
    for name, repo in (("a", spelling), ("b", "Org/Model")):
        assert here.download(name, repo, "model.safetensors") == WHOLE
    assert len(downloads(hub)) == 1
    assert [p.name for p in here.cache.glob("models--*")] == ["models--Org--Model"]


def test_a_renamed_repository_is_one_copy(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/New", files=FILES)
    hub.rename("Org/Old", "Org/New")
    here = between()
    assert here.download("a", "Org/Old", "model.safetensors") == WHOLE
    assert [p.name for p in here.cache.glob("models--*")] == ["models--Org--New"]


def test_many_readers_of_a_cold_file_are_one_download(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between()

    def read(number: int) -> object:
        return here.download(f"c{number}", "Org/Model", "model.safetensors")

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == [WHOLE] * 6
    assert len(downloads(hub)) == 1


def test_the_first_bytes_go_out_while_the_rest_is_coming(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    fault = hub.fault("/cdn/*", hold_at=6_000_000)
    url = f"{between().url}/{PATH}"
    with CLIENT.stream("GET", url) as response:
        chunks = response.iter_bytes(1_000_000)
        got = b"".join(next(chunks) for _ in range(5))
        assert got == BIG[:5_000_000]
        assert not fault.released.is_set()
        fault.release()
        assert got + b"".join(chunks) == BIG


def test_a_range_that_is_far_ahead_is_fetched_not_waited_for(
    hub: LoopbackHub, between: Serve
) -> None:
    data = random.Random(2).randbytes(40_000_000)
    hub.add_repo("Org/Model", files={"model.safetensors": data})
    fault = hub.fault("/cdn/*", hold_at=2_000_000)
    url = f"{between().url}/{PATH}"
    with CLIENT.stream("GET", url) as response:
        next(response.iter_bytes(1_000_000))
        part = CLIENT.get(url, headers={"Range": "bytes=39000000-39000999"})
        assert part.content == data[39_000_000:39_001_000]
        assert not fault.released.is_set()
        fault.release()


def test_ranges_and_etags(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    url = f"{between().url}/{PATH}"
    whole = CLIENT.get(url)
    assert whole.content == BIG
    assert whole.headers["etag"] == f'"{SHA}"'
    part = CLIENT.get(url, headers={"Range": "bytes=-10"})
    assert (part.status_code, part.content) == (206, BIG[-10:])
    assert CLIENT.get(url, headers={"Range": f"bytes={len(BIG)}-"}).status_code == 416
    assert CLIENT.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = CLIENT.head(url)
    assert int(head.headers["content-length"]) == len(BIG)
    assert head.headers["x-repo-commit"] == hub.repos["Org/Model"].head().id


@pytest.mark.parametrize("reset", [False, True])
def test_an_upstream_that_breaks_off_is_resumed(
    hub: LoopbackHub, between: Serve, reset: bool
) -> None:
    hub.add_repo("Org/Model", files=FILES)
    hub.fault("/cdn/*", cut_at=5_000_000, reset=reset, times=2)
    assert between().download("a", "Org/Model", "model.safetensors") == WHOLE
    ranges = downloads(hub)
    assert len(ranges) == 3
    assert ranges[0] is None
    assert all(ranges[1:])


def test_wrong_content_never_gets_its_name(hub: LoopbackHub, between: Serve) -> None:
    repo = hub.add_repo("Org/Model", files=FILES)
    wrong = bytearray(BIG)
    wrong[-1] ^= 1
    object.__setattr__(repo.head().files["model.safetensors"], "source", bytes(wrong))
    here = between()
    response = CLIENT.stream("GET", f"{here.url}/{PATH}")
    with response as body, pytest.raises(httpx2.RemoteProtocolError):
        body.read()
    assert not (here.cache / "models--Org--Model" / "blobs" / SHA).exists()
    assert list(here.cache.glob("models--Org--Model/snapshots/*/model.safetensors")) == []


def test_killed_while_it_fills_it_goes_on_where_it_was(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    fault = hub.fault("/cdn/*", hold_at=6_000_000)
    here = between()
    with CLIENT.stream("GET", f"{here.url}/{PATH}") as response:
        next(response.iter_bytes(4_000_000))
        here.process.process.kill()
        here.process.process.communicate()
    fault.release()
    here.start()
    assert here.download("a", "Org/Model", "model.safetensors") == WHOLE
    last = downloads(hub)[-1]
    assert last is not None
    assert int(last.removeprefix("bytes=").rstrip("-")) >= 4_000_000


def test_two_replicas_on_one_cache_download_once(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    fault = hub.fault("/cdn/*", hold_at=6_000_000)
    one = between()
    two = between(home="second", HF_HOME=one.env["HF_HOME"])
    done: list[bytes] = []

    def read() -> None:
        done.append(CLIENT.get(f"{one.url}/{PATH}").content)

    reading = threading.Thread(target=read)
    reading.start()
    assert fault.reached.wait(20)
    with CLIENT.stream("GET", f"{two.url}/{PATH}") as response:
        chunks = response.iter_bytes(1_000_000)
        got = next(chunks)
        fault.release()
        got += b"".join(chunks)
    reading.join(30)
    assert [got] == done == [BIG]
    assert len(downloads(hub)) == 1


def test_a_replica_takes_over_where_another_was_killed(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    fault = hub.fault("/cdn/*", hold_at=6_000_000)
    one = between()
    two = between(home="second", HF_HOME=one.env["HF_HOME"])
    with CLIENT.stream("GET", f"{one.url}/{PATH}") as first:
        next(first.iter_bytes(1_000_000))
        assert fault.reached.wait(20)
        with CLIENT.stream("GET", f"{two.url}/{PATH}") as response:
            chunks = response.iter_bytes(1_000_000)
            got = next(chunks)
            one.process.process.kill()
            one.process.process.communicate()
            got += b"".join(chunks)
    fault.release()
    assert got == BIG


def test_a_cache_that_cannot_be_written_is_passed_by(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between()
    here.cache.mkdir(parents=True, exist_ok=True)
    (here.cache / "models--Org--Model").write_text("in the way")
    assert here.download("a", "Org/Model", "model.safetensors") == WHOLE


def test_a_missing_file_is_remembered(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between()
    kind, text = here.download("a", "Org/Model", "nothing.txt")
    assert kind.endswith("EntryNotFoundError"), text
    commit = hub.repos["Org/Model"].head().id
    for cache in (here.cache, here.home / "clients" / "a" / "hub"):
        assert (cache / "models--Org--Model" / ".no_exist" / commit / "nothing.txt").exists()
