"""What is being downloaded: which file, how far, how fast and for whom, for those who may know."""

import random
import time

import httpx2
import pytest

from mdl.hub_server.download import Speed
from tests.hub import LoopbackHub
from tests.hub_server.conftest import Serve
from tests.service.conftest import ADMIN, READ, bearer

BIG = random.Random(3).randbytes(3_000_000)
PATH = "Org/Model/resolve/main/model.safetensors"


def test_a_download_is_listed_while_it_runs_for_those_who_may_know(
    hub: LoopbackHub, between: Serve
) -> None:
    hub.add_repo("Org/Model", files={"model.safetensors": BIG})
    fault = hub.fault("/cdn/*", hold_at=2_000_000)
    here = between(MDL_SERVE_TOKENS=f"admin {ADMIN};read {READ}")

    def ask(path: str, token: str = ADMIN) -> httpx2.Response:
        return httpx2.get(f"{here.url}{path}", headers=bearer(token), timeout=20)

    def listed() -> list[dict[str, object]]:
        found: list[dict[str, object]] = ask("/v1/hub/downloads").json()["downloads"]
        return found

    assert listed() == []
    assert "Nothing at the moment" in ask("/").text
    with httpx2.stream("GET", f"{here.url}/{PATH}", timeout=20) as response:
        chunks = response.iter_bytes(1_000_000)
        next(chunks)
        (one,) = listed()
        assert (one["repo_id"], one["path"]) == ("Org/Model", "model.safetensors")
        assert one["commit"] == hub.repos["Org/Model"].head().id
        assert one["size"] == len(BIG)
        assert one["asked_by"] == ["127.0.0.1"]
        assert isinstance(one["arrived"], int) and 1_000_000 <= one["arrived"] < len(BIG)
        assert isinstance(one["bytes_per_second"], float) and one["bytes_per_second"] > 0
        assert f'<progress max="{len(BIG)}"' in ask("/page/downloads").text
        for path in ("/v1/hub/downloads", "/page/downloads"):
            assert ask(path, READ).status_code == 403
        assert 'id="downloads"' not in ask("/", READ).text
        fault.release()
        assert b"".join(chunks) == BIG[1_000_000:]
    deadline = time.monotonic() + 10
    while listed():
        assert time.monotonic() < deadline


def test_a_speed_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    speed = Speed()
    for _ in range(40):
        now += 0.5
        speed.add(1000)
    assert 1600 <= speed.now() <= 2000
    now += 60
    assert speed.now() == 0
