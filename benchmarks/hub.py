"""`mdl serve --hub` beside the Hub itself, nginx and Olah, with huggingface_hub's own client.

    python -m benchmarks.hub [--size 1024] [--rounds 3] [--olah OLAH_CLI]

Upstream is the loopback Hub in a process of its own; it serves one file of `--size` MiB and a
repository of 100 small files. Each download is a fresh client process with an empty cache, timed
inside around the call. `nginx` (where it is installed) serves the same file from disk to the same
client code that the others get. With `--olah` the `olah-cli` of an environment of its own is asked
too. Prints medians of the rounds, their ratios, and what upstream was asked.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2

from tests.hub import LoopbackHub

NAME, SMALL = "Org/Big", "Org/Small"
FILE = "model.safetensors"
ONE = """
import time, huggingface_hub as hf
start = time.perf_counter()
hf.hf_hub_download({name!r}, "model.safetensors")
print(time.perf_counter() - start)
"""
MANY = """
import time, huggingface_hub as hf
start = time.perf_counter()
hf.snapshot_download("Org/Small")
print(time.perf_counter() - start)
"""


def client(endpoint: str, code: str) -> float:
    """Seconds that a fresh client with an empty cache needs."""
    with tempfile.TemporaryDirectory() as home:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
        env |= {"HF_HOME": home, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
        )
        return float(done.stdout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mdl(upstream: str, home: Path) -> Iterator[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
    env |= {"HF_HOME": str(home / "hf"), "MDL_HOME": str(home / "mdl"), "HF_ENDPOINT": upstream}
    command = [sys.executable, "-m", "mdl", "serve", "--hub", "--port", "0", "--json",
               "--no-request-log"]  # fmt: skip
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"].rstrip("/")
        finally:
            process.terminate()


@contextlib.contextmanager
def olah(program: str, hub: LoopbackHub, home: Path) -> Iterator[str]:
    port = free_port()
    netloc, cdn = (url.partition("://")[2] for url in (hub.endpoint, hub.cdn))
    own = f"127.0.0.1:{port}"
    command = [program, "--port", str(port), "--host", "127.0.0.1", "--repos-path", str(home),
               "--hf-scheme", "http", "--hf-netloc", netloc, "--hf-lfs-netloc", cdn,
               "--mirror-scheme", "http", "--mirror-netloc", own,
               "--mirror-lfs-netloc", own]  # fmt: skip
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield f"http://{own}"
        finally:
            process.terminate()


@contextlib.contextmanager
def nginx(folder: Path, home: Path) -> Iterator[str | None]:
    program = shutil.which("nginx")
    if program is None:
        yield None
        return
    port = free_port()
    config = home / "nginx.conf"
    config.write_text(
        f"daemon off; pid {home}/pid; error_log {home}/error.log; user root; worker_processes 1;"
        "events {} http { access_log off; sendfile on;"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    with subprocess.Popen([program, "-c", str(config), "-p", str(home)]) as process:
        try:
            time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def read(url: str) -> tuple[float, float]:
    """(seconds to the first byte, bytes a second) of a plain GET."""
    start = time.perf_counter()
    first, size = 0.0, 0
    with httpx2.stream("GET", url, timeout=120, follow_redirects=True) as response:
        response.raise_for_status()
        for chunk in response.iter_raw(1 << 20):
            first = first or time.perf_counter() - start
            size += len(chunk)
    return first, size / (time.perf_counter() - start)


async def heads(url: str, seconds: float = 5.0, connections: int = 64) -> float:
    """HEADs a second over that many connections."""
    parts = url.split("/", 3)
    host, _, port = parts[2].partition(":")
    request = f"HEAD /{parts[3]} HTTP/1.1\r\nHost: {parts[2]}\r\n\r\n".encode()
    end = time.perf_counter() + seconds
    count = 0

    async def ask() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head, head
            count += 1
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return count / seconds


def median(measure: Callable[[], float], rounds: int) -> float:
    return statistics.median(measure() for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="MiB of the large file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--olah", help="the olah-cli program")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        big = scratch / "files" / FILE
        big.parent.mkdir()
        with big.open("wb") as file:
            for _ in range(chosen.size):
                file.write(os.urandom(1 << 20))
        hub = stack.enter_context(LoopbackHub())
        hub.add_repo(NAME, files={FILE: big})
        hub.add_repo(SMALL, files={f"{n}.json": f"{n}" * 2000 for n in range(100)})
        compare(stack, chosen, hub, big, scratch)


def compare(
    stack: contextlib.ExitStack, chosen: argparse.Namespace, hub: LoopbackHub, big: Path,
    scratch: Path,
) -> None:  # fmt: skip
    def sent() -> int:
        return hub.count("/cdn/*", "GET")

    def fresh(kind: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=kind, dir=scratch))

    code = ONE.format(name=NAME)
    straight, cold, warm, others = [], [], [], []
    for _ in range(chosen.rounds):
        straight.append(client(hub.endpoint, code))
        with mdl(hub.endpoint, fresh("mdl")) as url:
            before = sent()
            cold.append(client(url, code))
            warm.append(client(url, code))
            assert sent() == before + 1
        if chosen.olah:
            with olah(chosen.olah, hub, fresh("olah")) as url:
                others.append((client(url, code), client(url, code)))
    base = statistics.median(straight)
    through, kept = statistics.median(cold), statistics.median(warm)
    print(f"{chosen.size} MiB straight from the Hub: {base:.2f} s")
    print(f"  through mdl: cold {through:.2f} s ({through / base:.2f} x), warm {kept:.2f} s")
    if others:
        print(f"  Olah: cold {statistics.median(o[0] for o in others):.2f} s, "
              f"warm {statistics.median(o[1] for o in others):.2f} s")  # fmt: skip
    served = stack.enter_context(mdl(hub.endpoint, fresh("mdl")))
    target = f"{NAME}/resolve/main/{FILE}"
    first_straight = read(f"{hub.endpoint}/{target}")[0]
    first = read(f"{served}/{target}")[0]
    print(f"  first byte: {first * 1000:.0f} ms cold, {first_straight * 1000:.0f} ms straight")
    with nginx(big.parent, fresh("nginx")) as front:
        if front is not None:
            own = median(lambda: read(f"{served}/{target}")[1], chosen.rounds)
            other = median(lambda: read(f"{front}/{FILE}")[1], chosen.rounds)
            print(f"  warm GET: {own / 2**20:.0f} MiB/s, nginx {other / 2**20:.0f} MiB/s, "
                  f"{own / other:.2f} of it")  # fmt: skip
    together = stack.enter_context(mdl(hub.endpoint, fresh("mdl")))
    before = sent()
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", "import httpx2, sys\nwith httpx2.stream('GET', sys.argv[1], "
             "timeout=300) as r:\n    n = sum(len(c) for c in r.iter_raw(1 << 20))\nprint(n)",
             f"{together}/{target}"], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]  # fmt: skip
    sizes = {int(each.communicate()[0]) for each in running}
    assert sizes == {big.stat().st_size}
    print(f"  eight at once, cold: {time.perf_counter() - start:.1f} s, "
          f"{sent() - before} download upstream")  # fmt: skip
    before = sent()
    client(served, ONE.format(name=NAME.upper()))
    print(f"  in a second casing: {sent() - before} downloads upstream")
    rate = median(lambda: asyncio.run(heads(f"{served}/{target}")), chosen.rounds)
    print(f"  warm HEAD, 64 connections: {rate:.0f} a second")
    client(served, MANY)
    asked = len(hub.requests)
    many = median(lambda: client(served, MANY), chosen.rounds)
    per = (len(hub.requests) - asked) / chosen.rounds
    direct = median(lambda: client(hub.endpoint, MANY), chosen.rounds)
    print(f"100 small files, warm: {many:.2f} s, {per:.1f} requests upstream; "
          f"straight {direct:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
