"""Who may speak, how much, and what they may see."""

import os
import shutil
import time
from pathlib import Path

import pytest

from mdl.errors import ConfigError
from mdl.service.auth import Tokens, parse_tokens
from mdl.service.config import ServiceConfig
from mdl.service.state import Service
from mdl.settings import load_settings
from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, READ, Start, bearer, cached_repo

BOTH = f"read {READ};admin {ADMIN}"


def test_another_address_than_loopback_needs_tokens_and_names(hub_env: dict[str, str]) -> None:
    for config in (
        ServiceConfig(host="0.0.0.0"),
        ServiceConfig(host="::"),
        ServiceConfig(host="192.168.1.5"),
        ServiceConfig(host="0.0.0.0", tokens=BOTH),
    ):
        with pytest.raises(ConfigError):
            Service(load_settings(), config)
    ServiceConfig(host="0.0.0.0", hosts=("mdl.example",)).check(has_tokens=True)


@pytest.mark.parametrize(
    ("path", "role", "status"),
    [
        ("/v1/health", None, 200),
        ("/v1/ready", None, 200),
        ("/v1/cache", None, 401),
        ("/metrics", None, 401),
        ("/", None, 401),
        ("/v1/resolve?name=a/b", None, 401),
        ("/v1/cache", READ, 200),
        ("/metrics", READ, 200),
        ("/v1/history", READ, 403),
        ("/v1/cache/actions", READ, 403),
        ("/v1/cache/actions", ADMIN, 200),
        ("/v1/cache", "wrong-token-0123456789", 401),
    ],
)
def test_each_role_may_do_its_own(
    hub: LoopbackHub, start: Start, path: str, role: str | None, status: int
) -> None:
    client = start(tokens=BOTH)
    answer = client.get(path, headers=bearer(role) if role else {})
    assert answer.status_code == status
    if status == 401:
        assert "Bearer" in answer.headers["www-authenticate"]


def test_plans_and_actions_are_not_for_readers(hub: LoopbackHub, start: Start) -> None:
    client = start(tokens=BOTH)
    rule = {"kind": "prune", "unused_for": "1d"}
    assert client.post("/v1/cache/plans", json=rule, headers=bearer(READ)).status_code == 403
    assert client.post("/v1/cache/plans", json=rule, headers=bearer(ADMIN)).status_code == 200
    act = {"plan": {"kind": "undo"}, "digest": "0" * 16}
    assert client.post("/v1/cache/actions", json=act, headers=bearer(READ)).status_code == 403


def test_without_tokens_loopback_reads_and_looks_at_plans_but_changes_nothing(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    assert client.get("/v1/cache").status_code == 200
    rule = {"kind": "prune", "detached": True}
    assert client.post("/v1/cache/plans", json=rule).status_code == 200
    act = {"plan": rule, "digest": "0" * 16}
    assert client.post("/v1/cache/actions", json=act).status_code == 403
    assert client.post("/v1/cache/verify", json={}).status_code == 403


def test_a_browser_can_give_a_token_as_password(hub: LoopbackHub, start: Start) -> None:
    assert start(tokens=BOTH).get("/", auth=("anyone", READ)).status_code == 200


def test_the_name_of_another_site_is_not_answered(hub: LoopbackHub, start: Start) -> None:
    client = start()
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.", ""):
        assert client.get("/v1/health", headers={"Host": host}).status_code == 421
    for host in ("localhost:8642", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert client.get("/v1/health", headers={"Host": host}).status_code == 200


def test_what_a_web_page_of_another_site_could_post_is_not_taken(
    hub: LoopbackHub, start: Start
) -> None:
    client = start(tokens=BOTH)
    form = {"Content-Type": "text/plain", **bearer(ADMIN)}
    body = '{"kind": "prune", "detached": true}'
    assert client.post("/v1/cache/plans", content=body, headers=form).status_code == 415
    other = {"Content-Type": "application/json", "Origin": "http://evil.example", **bearer(ADMIN)}
    assert client.post("/v1/cache/plans", content=body, headers=other).status_code == 403


def test_a_body_over_the_limit_is_refused_with_or_without_a_length(
    hub: LoopbackHub, start: Start
) -> None:
    client = start(max_body=1000)
    big = b'{"names": ["' + b"a" * 2000 + b'"]}'
    kind = {"Content-Type": "application/json"}
    assert client.post("/v1/resolve", content=big, headers=kind).status_code == 413
    chunks = (big[n : n + 100] for n in range(0, len(big), 100))
    assert client.post("/v1/resolve", content=chunks, headers=kind).status_code == 413


def test_request_ids_are_kept_when_sane_and_made_when_not(hub: LoopbackHub, start: Start) -> None:
    client = start()
    given = client.get("/v1/health", headers={"X-Request-ID": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = client.get("/v1/nothing", headers={"X-Request-ID": 'no spaces, no "quotes"'})
    assert made.json()["request_id"] == made.headers["x-request-id"] != "abc-1"


def test_readers_see_no_path_of_the_servers_disk(hub: LoopbackHub, start: Start) -> None:
    client = start(tokens=BOTH)
    root = client.service.cache.root
    cached_repo(root, "Org/Name", {"config.json": b"{}"})
    for path in ("/v1/cache", "/", "/metrics", "/v1/resolve?name=Org/Name", "/v1/cache/Org/Name"):
        assert str(root.parent) not in client.get(path, headers=bearer(READ)).text
    local = start()  # no tokens: it may look at plans
    names_its_place = {"kind": "normalize", "name": "org/none"}
    refused = local.post("/v1/cache/plans", json=names_its_place)
    assert refused.json()["error"]["message"] == "org/none is not in the cache …."
    shutil.rmtree(root)
    gone = local.post("/v1/cache/plans", json={"kind": "normalize"})
    assert (gone.status_code, gone.json()["notes"]) == (200, ["… does not exist: nothing to do."])
    assert client.get("/v1/cache", headers=bearer(ADMIN)).json()["root"] == str(root)


def test_a_head_is_asked_for_as_a_page_is(hub: LoopbackHub, start: Start) -> None:
    """What balancers and monitors send; the body's absence is the server's doing."""
    client = start()
    for path, status in (("/v1/ready", 200), ("/v1/resolve?name=..", 400), ("/nothing", 404)):
        assert client.head(path).status_code == client.get(path).status_code == status
    counted = client.get("/metrics").text
    assert 'mdl_requests_total{method="HEAD",route="/v1/ready",status="200"} 1.0' in counted


def test_no_caller_makes_up_a_label_of_the_metrics(hub: LoopbackHub, start: Start) -> None:
    client = start()
    for method in ("BREW", "WHEN"):
        assert client.request(method, "/v1/cache", json={}).status_code == 405
    lines = [line for line in client.get("/metrics").text.splitlines() if "405" in line]
    assert [line.partition("{")[2] for line in lines if "mdl_requests_total" in line] == [
        'method="other",route="/v1/cache",status="405"} 2.0'
    ]


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/resolve", b"{names", {}),
        ("/v1/resolve", b"[" * 100_000, {}),
        ("/v1/resolve", b'{"names": ' + b"1" * 5000 + b"}", {}),
        ("/v1/resolve", b"{}", {"Content-Type": "text/plain"}),
        ("/v1/resolve", b"{}", {"Origin": "http://elsewhere.example"}),
        ("/v1/resolve", b"{}", {"X-Hub-Token": "two words"}),
        ("/v1/resolve", b" " * (2 << 20), {}),
        ("/v1/cache/actions", b"{}", {}),
    ],
)
def test_every_refusal_says_what_is_wrong_and_what_to_do(
    hub: LoopbackHub, start: Start, path: str, body: bytes, headers: dict[str, str]
) -> None:
    sent = {"Content-Type": "application/json", **headers}
    refused = start().post(path, content=body, headers=sent)
    assert 400 <= refused.status_code < 500
    error = refused.json()["error"]
    assert error["message"] and error["next"]
    if path == "/v1/resolve" and refused.status_code == 400 and not headers:
        assert "not JSON" in error["message"]
    assert refused.json()["request_id"] == refused.headers["x-request-id"]


def test_what_is_not_there_says_so_with_its_request(hub: LoopbackHub, start: Start) -> None:
    client = start()
    for path in ("/v1/cache/org/none", "/v1/catalog/org/none"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    missing = client.get("/v1/resolve").json()["error"]["message"]
    assert missing == "name is not valid: Field required."


def test_a_broken_database_is_503_without_its_place(
    hub: LoopbackHub, start: Start, tmp_path: Path
) -> None:
    home = tmp_path / "mdl"
    home.mkdir()
    (home / "mdl.db").write_bytes(b"this is no database, it is a sentence of some length" * 50)
    client = start()
    for path in ("/v1/ready", "/v1/resolve?name=a/b"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert str(tmp_path) not in answer.text
    assert client.get("/v1/health").status_code == 200


def test_a_tokens_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# the team\nread {READ}\n")
    file.chmod(0o600)
    tokens = Tokens(file)
    new = "another-token-0123456789"

    def role_after(text: str, token: str) -> str | None:
        file.write_text(text)
        os.utime(file, ns=(time.time_ns(), time.time_ns()))
        tokens._checked = -1e9  # a second has passed
        return tokens.role(f"Bearer {token}")

    assert tokens.role(f"Bearer {READ}") == "read"
    assert role_after(f"admin {new}\n", READ) is None
    assert tokens.role(f"Bearer {new}") == "admin"
    assert role_after("admin\n", new) == "admin"
    file.write_bytes(b"admin \xff\xfe")
    tokens._checked = -1e9
    assert tokens.role(f"Bearer {new}") == "admin"
    file.unlink()
    tokens._checked = -1e9
    assert tokens.role(f"Bearer {new}") == "admin"
    assert role_after(f"read {new}\n", new) == "read"


def test_a_tokens_file_that_cannot_be_used_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every answer asks for the role: what is wrong must not be in the log once a request."""
    file = tmp_path / "tokens"
    file.write_text(f"read {READ}\n")
    tokens = Tokens(file)
    for data in (b"read\n", b"\xff", b""):
        file.write_bytes(data)
        for _ in range(3):
            tokens._checked = -1e9
            assert tokens.role(f"Bearer {READ}") == "read"
    said = [r for r in caplog.records if "cannot be used" in r.message]
    assert len(said) == 3


def test_a_tokens_file_of_another_kind_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        Tokens(file)


@pytest.mark.parametrize("text", ["write abcdefghijklmnopqrst", "read short", "read", "read é" * 9])
def test_tokens_that_are_none_are_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_tokens(text)
    assert "short" not in str(refused.value).replace("too short", "")
    assert "abcdefghijklmnopqrst" not in str(refused.value)


def test_a_certificate_that_is_none_is_refused_before_anything_is_announced(tmp_path: Path) -> None:
    missing, wrong = str(tmp_path / "missing.pem"), tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for certificate, key in ((missing, missing), (str(wrong), str(wrong))):
        with pytest.raises(ConfigError, match="cannot be used for TLS"):
            ServiceConfig(certificate=certificate, key=key).check(has_tokens=False)
    with pytest.raises(ConfigError, match="needs both"):
        ServiceConfig(certificate=missing).check(has_tokens=False)
