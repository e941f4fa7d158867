"""What docs/deploy.md shows is what runs: its proxy configuration and its unit are checked here."""

import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hub import LoopbackHub
from tests.service.conftest import Process

Serve = Callable[..., Process]
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", DEPLOY.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.system("nginx")
def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a",
         "-keyout", tmp_path / "mdl.key", "-out", tmp_path / "mdl.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    text = block("nginx").replace("/etc/ssl/", f"{tmp_path}/").replace("listen 443", "listen 18443")
    path = tmp_path / "nginx.conf"
    path.write_text(
        f"pid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\nhttp {{\n{text}}}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-c", path, "-p", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr.replace('the "user" directive', "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    from mdl.cachemgr.daemon.units import systemd_unit
    from mdl.settings import Settings

    # What a unit starts must be there: a stand-in for the documented place.
    program = tmp_path / "mdl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    template = block("ini").replace("/opt/mdl/bin/mdl", str(program))
    (tmp_path / "mdl@.service").write_text(template)
    settings = Settings(home=tmp_path / "my home", cache_root=tmp_path / "100% hub")
    (tmp_path / "mdl-daemon.service").write_text(systemd_unit(settings))
    for name in ("mdl@8642.service", "mdl-daemon.service"):
        if name == "mdl@8642.service":
            (tmp_path / name).symlink_to("mdl@.service")
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", tmp_path / name],
            capture_output=True, text=True,
        )  # fmt: skip
        assert str(tmp_path) not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


def status_of(port: int) -> int:
    """The answer's status, 0 for none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/v1/resolve?name=Org/Open")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def test_a_replica_killed_under_load_fails_no_request_that_is_asked_again(
    hub: LoopbackHub, serve: Serve
) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    replicas = [serve(), serve()]
    for replica in replicas:  # both know the name, and their databases are made
        assert status_of(replica.port) == 200
    end = time.monotonic() + 3

    def ask(n: int) -> list[int]:
        """Statuses of one client that asks the other replica when one does not answer."""
        statuses, at = [], n
        while time.monotonic() < end:
            for _ in range(2):
                status = status_of(replicas[at % 2].port)
                if status:
                    break
                at += 1
            statuses.append(status)
        return statuses

    with ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(ask, n) for n in range(8)]
        time.sleep(1)  # not waiting for anything: choosing the moment
        replicas[0].process.kill()
        found = [status for client in clients for status in client.result()]
    assert set(found) == {200}
    assert len(found) > 50
