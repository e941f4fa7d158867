"""What goes wrong upstream, on the disk and with access: no wrong byte, and none to the wrong."""

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from mdl.hub_server.exchange import response_head
from tests.hub import LoopbackHub
from tests.hub_server.conftest import Between, Serve
from tests.hub_server.test_files import BIG, CLIENT, FILES, PATH, SHA, WHOLE, downloads

BLOB = f"models--Org--Model/blobs/{SHA}"
HUGE = random.Random(3).randbytes(24_000_000)


def metric(here: Between, name: str) -> float:
    lines = CLIENT.get(f"{here.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_wrong_bytes_upstream_are_wrong_nowhere_else(hub: LoopbackHub, between: Serve) -> None:
    """Clients keep what they have and go on from there: they are made to start anew."""
    hub.add_repo("Org/Model", files={"model.safetensors": HUGE})
    hub.fault("/cdn/*", wrong_at=100)
    here = between()
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: here.download(name, "Org/Model", "model.safetensors"), "ab")
        assert list(found) == [[len(HUGE), hashlib.sha256(HUGE).hexdigest()]] * 2
    assert metric(here, "mdl_hub_failures_total") == 1


def test_wrong_bytes_straight_from_upstream_end_in_a_broken_connection(
    hub: LoopbackHub, between: Serve
) -> None:
    """A cache that cannot be written to: what passes it by is hashed on its way all the same."""
    hub.add_repo("Org/Model", files=FILES)
    hub.fault("/cdn/*", wrong_at=100, times=None)
    here = between()
    here.cache.mkdir(parents=True, exist_ok=True)
    (here.cache / "models--Org--Model").write_text("in the way")
    with pytest.raises(httpx2.RemoteProtocolError):
        CLIENT.get(f"{here.url}/{PATH}")


@pytest.mark.slow
@pytest.mark.parametrize("claimed", [len(BIG) - 1000, len(BIG) + 1000])
def test_a_wrong_size_is_an_error_never_a_file(
    hub: LoopbackHub, between: Serve, claimed: int
) -> None:
    hub.add_repo("Org/Model", files=FILES)
    hub.fault("*/resolve/*/model.safetensors", claimed=claimed, times=None)
    here = between()
    with pytest.raises(httpx2.RemoteProtocolError):
        CLIENT.get(f"{here.url}/{PATH}")
    assert not (here.cache / BLOB).exists()
    hub.clear_faults()
    assert CLIENT.get(f"{here.url}/{PATH}").content == BIG


def test_an_address_that_has_expired_is_asked_for_again(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    hub.fault("/cdn/*", cut_at=5_000_000)
    hub.fault("/cdn/*", status=403, times=2)
    here = between()
    assert CLIENT.get(f"{here.url}/{PATH}").content == BIG
    assert len(downloads(hub)) == 4
    assert (here.cache / BLOB).read_bytes() == BIG


def test_a_glance_at_a_file_downloads_no_more_of_it(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between()
    url = f"{here.url}/{PATH}"
    assert int(CLIENT.head(url).headers["content-length"]) == len(BIG)
    for asked, part in (
        ("0-7", BIG[:8]),
        ("-8", BIG[-8:]),
        ("4000000-4999999", BIG[4000000:5000000]),
    ):
        answer = CLIENT.get(url, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, part)
    assert metric(here, "mdl_hub_fills_total") == 0
    assert CLIENT.get(url).content == BIG


@pytest.mark.slow
def test_a_failure_before_the_first_byte_is_said(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    hub.fault("/cdn/*", status=500, times=None)
    kind, text = between().download("a", "Org/Model", "model.safetensors")
    assert kind == "HfHubHTTPError"
    assert "the Hub answers 500" in text


def test_control_characters_of_upstream_are_not_sent() -> None:
    """uvicorn refuses to."""
    head = response_head(403, [("x-error-message", "\x1b[2Jwide \u2603")])
    assert head["headers"] == [(b"x-error-message", b"[2Jwide ?")]


def test_access_that_ends_between_two_files(hub: LoopbackHub, between: Serve) -> None:
    alice, bob = ("hf_alice" + "0" * 30, "hf_bob" + "0" * 30)
    for token, name in ((alice, "alice"), (bob, "bob")):
        hub.add_user(token, name)
    files = {"a.bin": b"a" * 100_000, "b.bin": b"b" * 100_000}
    access = {alice: "granted", bob: "granted"}
    hub.add_repo("Org/Gated", files=files, gated="manual", access=access)
    here = between()

    def get(token: str, name: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return CLIENT.get(f"{here.url}/Org/Gated/resolve/main/{name}", headers=headers)

    assert get(alice, "a.bin").content == files["a.bin"]
    hub.set_access("Org/Gated", alice, "rejected")
    refused = get(alice, "b.bin")
    assert (refused.status_code, refused.headers["x-error-code"]) == (403, "GatedRepo")
    assert get(alice, "a.bin").status_code == 403, "what is here is refused from now on too"
    assert [get(bob, name).content for name in files] == list(files.values())
    assert get(alice, "b.bin").status_code == 403


def test_who_hangs_up_is_sent_nothing_more(hub: LoopbackHub, between: Serve) -> None:
    big = bytes(40_000_000)
    hub.add_repo("Org/Model", files={"model.safetensors": big})
    here = between()
    assert len(CLIENT.get(f"{here.url}/{PATH}").content) == len(big)
    with CLIENT.stream("GET", f"{here.url}/{PATH}") as response:
        next(response.iter_raw(1000))
    here.process.stop()  # it waits for requests that are running
    lines = [line for line in here.log() if line["route"].startswith("/{repo}")]
    assert [line["from"] for line in lines] == ["hub", "cache"]
    assert lines[0]["bytes"] == len(big)
    assert lines[1]["bytes"] < len(big) / 2
    assert {line["repo"] for line in lines} == {"Org/Model"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a file system: root, and a kernel that lets it")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(hub: LoopbackHub, between: Serve, small_disk: Path) -> None:
    hub.add_repo("Org/Model", files=FILES)
    here = between(HF_HOME=str(small_disk), MDL_HOME=str(small_disk / "mdl"))
    for name in "ab":
        assert here.download(name, "Org/Model", "model.safetensors") == WHOLE
    assert not (here.cache / BLOB).exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    asked = len(downloads(hub))
    assert here.download("c", "Org/Model", "model.safetensors") == WHOLE
    assert (here.cache / BLOB).read_bytes() == BIG
    first = downloads(hub)[asked]
    assert first is not None, "what had arrived was kept"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["/api/*", "*/resolve/*", "/cdn/*"])
def test_nobody_waits_thirty_seconds_for_a_byte(
    hub: LoopbackHub, between: Serve, where: str
) -> None:
    """llama.cpp gives up then. Upstream sends nothing at all, or nothing more."""
    hub.add_repo("Org/Model", files=FILES)
    here = between()
    fault = (
        hub.fault(where, hold_at=2_000_000, times=None)
        if where == "/cdn/*"
        else hub.fault(where, latency=120.0, times=None)
    )
    waits, last = [], time.monotonic()
    try:
        with CLIENT.stream("GET", f"{here.url}/{PATH}") as response:
            waits.append(time.monotonic() - last)
            for _ in response.iter_raw():
                waits.append(time.monotonic() - last)
                last = time.monotonic()
            assert response.status_code >= 500
    except httpx2.RemoteProtocolError:
        pass
    waits.append(time.monotonic() - last)
    fault.release()
    assert max(waits) < 29


@pytest.mark.slow
def test_a_download_that_stalls_is_gone_round(hub: LoopbackHub, between: Serve) -> None:
    hub.add_repo("Org/Model", files=FILES)
    fault = hub.fault("/cdn/*", hold_at=6_000_000)
    here = between()
    start = time.monotonic()
    assert CLIENT.get(f"{here.url}/{PATH}").content == BIG
    assert time.monotonic() - start < 20
    assert not fault.released.is_set()


@pytest.mark.slow
def test_who_reads_along_with_a_replica_whose_bytes_are_wrong_is_not_given_the_rest(
    hub: LoopbackHub, between: Serve
) -> None:
    hub.add_repo("Org/Model", files=FILES)
    fault = hub.fault("/cdn/*", wrong_at=100, hold_at=6_000_000)
    one = between()
    two = between(home="second", HF_HOME=one.env["HF_HOME"])
    with (
        CLIENT.stream("GET", f"{one.url}/{PATH}") as first,
        CLIENT.stream("GET", f"{two.url}/{PATH}") as second,
    ):
        chunks = second.iter_raw(1_000_000)
        begun = next(chunks)
        assert begun[:1000] != BIG[:1000]
        fault.release()
        for rest in (first.iter_raw(), chunks):
            with pytest.raises(httpx2.RemoteProtocolError):
                b"".join(rest)
    answer = CLIENT.get(f"{two.url}/{PATH}", headers={"Range": f"bytes={len(begun)}-"})
    assert (answer.status_code, answer.content) == (200, BIG)
