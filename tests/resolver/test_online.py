"""Names against a Hub on a socket, through the real client."""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from mdl.errors import BusyError, NotFoundError, OfflineError
from mdl.resolver import HubApi, ResolveOptions, Resolver
from mdl.settings import Settings
from tests.hub import LoopbackHub
from tests.hub.faults import rate_limited
from tests.resolver.conftest import BNB

GATED = "meta-llama/Llama-3.1-8B-Instruct"
MIRROR = "unsloth/Llama-3.1-8B-Instruct"
DYNAMIC = "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit"
Make = Callable[..., Resolver]


@pytest.fixture
def llama(hub: LoopbackHub) -> LoopbackHub:
    """The gated repository, its two mirrors, and people in every state of access."""
    states = {"hf_in": "granted", "hf_wait": "pending", "hf_no": "rejected"}
    for token in (*states, "hf_new"):
        hub.add_user(token, token)
    hub.add_repo(GATED, files={"config.json": "{}"}, gated="manual", access=states)
    hub.add_repo(MIRROR, files={"config.json": '{"model_type": "llama"}'})
    hub.add_repo(DYNAMIC, files={"config.json": BNB})
    return hub


@pytest.mark.parametrize(
    ("token", "access"),
    [
        (None, "no_token"),
        ("hf_made_up", "bad_token"),
        ("hf_new", "not_requested"),
        ("hf_wait", "pending"),
        ("hf_no", "rejected"),
        ("hf_in", "granted"),
    ],
)
def test_every_state_of_access_has_its_name(
    llama: LoopbackHub, online: Make, token: str | None, access: str
) -> None:
    answer = online(token).resolve(GATED.lower(), ResolveOptions(exact=True))
    assert (answer.access, answer.gated, answer.canonical) == (access, "manual", GATED)
    if access == "granted":
        assert answer.checked().repo_id == GATED
    else:
        assert answer.error is not None
        assert answer.error.exit_code == 4
        assert MIRROR in answer.error.next


def test_a_4_bit_request_costs_one_call(llama: LoopbackHub, online: Make) -> None:
    answer = online().resolve(GATED.upper(), ResolveOptions("bnb-4bit"))
    assert (answer.repo_id, answer.gated, answer.access) == (DYNAMIC, False, "open")
    assert answer.commit == llama.repos[DYNAMIC].head().id
    assert len(llama.requests) == 1


def test_a_denial_is_forgotten_when_the_token_changes(llama: LoopbackHub, online: Make) -> None:
    assert online("hf_wait").resolve(GATED, ResolveOptions(exact=True)).error is not None
    assert online("hf_in").resolve(GATED, ResolveOptions(exact=True)).error is None
    # And remembered for the first one: no second auth-check.
    asked = [r for r in llama.requests if r.path.endswith("auth-check")]
    assert online("hf_wait").resolve(GATED, ResolveOptions(exact=True)).access == "pending"
    assert [r for r in llama.requests if r.path.endswith("auth-check")] == asked


def test_a_bad_token_does_not_stop_public_repositories(
    llama: LoopbackHub, online: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mdl"):
        answer = online("hf_made_up").resolve(MIRROR, ResolveOptions())
    assert answer.checked().repo_id == MIRROR
    assert "does not accept the token" in caplog.text


def test_text_that_cannot_be_a_token_is_a_bad_token(
    llama: LoopbackHub, online: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """No header can carry it: it must not look like a Hub that does not answer."""
    resolver = online("hf_tök\tén")
    with caplog.at_level(logging.WARNING, "mdl"):
        assert resolver.resolve(MIRROR, ResolveOptions()).checked().repo_id == MIRROR
    assert caplog.text.count("does not accept the token") == 1
    assert resolver.resolve(GATED, ResolveOptions(exact=True)).access == "bad_token"


@pytest.mark.parametrize("page", [b"<html>Welcome</html>", b"{}", b"[]", b'{"id": 5}'])
def test_a_sign_in_page_is_not_a_hub(tmp_path: Path, page: bytes) -> None:
    """What a hotel's network, or another program there, answers to everything: 200 and a page."""

    class SignIn(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), SignIn) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        settings = Settings(tmp_path, tmp_path, f"http://127.0.0.1:{server.server_port}")
        resolver = Resolver(settings)
        with pytest.raises(OfflineError, match="is not a Hub") as caught:
            resolver.access("org/name")
        known = resolver.resolve(GATED, ResolveOptions("bnb-4bit"))
        resolver.close()
        server.shutdown()
        thread.join()
    assert "sign-in" in caught.value.next
    assert known.checked().source == "packaged", "what is known here still answers"


def test_the_token_is_never_stored(
    llama: LoopbackHub, online: Make, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = online("hf_wait")
    with caplog.at_level(logging.DEBUG):
        answer = resolver.resolve(GATED, ResolveOptions(exact=True))
    database = Path(resolver.settings.database_path)
    held = b"".join(p.read_bytes() for p in database.parent.iterdir() if p.is_file())
    assert b"hf_wait" not in held.replace(b"hf_wait's", b"")
    assert "hf_wait" not in caplog.text
    assert "hf_wait" not in repr(resolver.settings) + str(answer.error) + repr(answer)


def test_wrong_case_becomes_the_hubs_spelling_without_a_substitution(
    hub: LoopbackHub, online: Make
) -> None:
    hub.add_repo("SomeOrg/SomeModel", files={"config.json": "{}"})
    answer = online().resolve("someorg/SOMEMODEL", ResolveOptions(exact=True))
    assert (answer.canonical, answer.repo_id) == ("SomeOrg/SomeModel", "SomeOrg/SomeModel")
    assert not answer.substituted
    assert online().resolve("SOMEORG/somemodel").repo_id == "SomeOrg/SomeModel"


def test_a_renamed_repository_is_followed_and_remembered(hub: LoopbackHub, online: Make) -> None:
    hub.add_repo("Org/New", files={"config.json": "{}"})
    hub.rename("Org/Old", "Org/New")
    answer = online().resolve("Org/Old", ResolveOptions(exact=True))
    assert (answer.repo_id, answer.substituted) == ("Org/New", False)
    assert "renamed" in answer.trace[0].reason
    # Offline, the rename is still known.
    assert online(offline=True).resolve("org/old", ResolveOptions(exact=True)).repo_id == "Org/New"


def test_a_rename_to_another_owner_is_announced_and_never_exact(
    hub: LoopbackHub, online: Make
) -> None:
    hub.add_repo("Buyer/Model", files={"config.json": "{}"})
    hub.rename("Seller/Model", "Buyer/Model")
    answer = online().resolve("Seller/Model", ResolveOptions())
    assert (answer.repo_id, answer.substituted) == ("Buyer/Model", True)
    exact = online().resolve("Seller/Model", ResolveOptions(exact=True))
    assert isinstance(exact.error, NotFoundError)
    assert "Buyer/Model" in exact.error.next


def test_a_name_from_before_owners_is_a_rename(hub: LoopbackHub, online: Make) -> None:
    hub.add_repo("openai-community/gpt2", files={"config.json": "{}"})
    hub.rename("gpt2", "openai-community/gpt2")
    answer = online().resolve("gpt2", ResolveOptions(exact=True)).checked()
    assert (answer.repo_id, answer.substituted) == ("openai-community/gpt2", False)


def test_missing_private_and_disabled(hub: LoopbackHub, online: Make) -> None:
    hub.add_user("hf_own", "own")
    hub.add_repo(
        "own/secret", files={"config.json": "{}"}, private=True, access={"hf_own": "granted"}
    )
    hub.add_repo("org/off", files={"config.json": "{}"}, disabled=True)
    for name in ("own/secret", "org/nothing"):
        answer = online().resolve(name, ResolveOptions(exact=True))
        assert isinstance(answer.error, NotFoundError)
        assert "private" in answer.error.why
    assert online().resolve("org/off").error is not None
    assert "disabled" in str(online().resolve("org/off").error)


def test_a_private_repository_is_never_stored(hub: LoopbackHub, online: Make) -> None:
    hub.add_user("hf_own", "own")
    hub.add_repo(
        "own/secret", files={"config.json": "{}"}, private=True, access={"hf_own": "granted"}
    )
    resolver = online("hf_own")
    assert resolver.resolve("own/secret", ResolveOptions(exact=True)).access == "granted"
    assert resolver.catalog.about("own/secret").repository is None


def test_an_unknown_name_gets_its_nearest_names(hub: LoopbackHub, online: Make) -> None:
    answer = online().resolve("meta-lama/Llama-3.1-8B-Instruct")
    assert answer.error is not None
    assert answer.error.exit_code == 3
    assert answer.error.details["suggestions"][0] == GATED


def test_a_4_bit_repository_is_known_by_its_config_not_its_name(
    hub: LoopbackHub, online: Make
) -> None:
    hub.add_repo("org/plain-name", files={"config.json": BNB})
    answer = online().resolve("org/plain-name", ResolveOptions("bnb-4bit"))
    assert (answer.quantize_on_load, answer.weights) == (False, "bnb-4bit")
    assert online().resolve("org/plain-name", ResolveOptions("16bit")).error is not None


def test_a_dead_mirror_gives_way_to_the_next(llama: LoopbackHub, online: Make) -> None:
    del llama.repos[DYNAMIC]
    plain = "unsloth/Llama-3.1-8B-Instruct-bnb-4bit"
    llama.add_repo(plain, files={"config.json": BNB})
    answer = online().resolve(GATED, ResolveOptions("bnb-4bit"))
    assert answer.repo_id == plain
    assert answer.trace[0].candidate == DYNAMIC
    assert answer.trace[0].verdict == "rejected"


def test_a_revision_is_checked(hub: LoopbackHub, online: Make) -> None:
    repo = hub.add_repo("org/model", files={"config.json": '{"model_type": "llama"}'})
    first = repo.head().id
    hub.commit("org/model", {"config.json": '{"a": 1}'})
    assert online().resolve("org/model", ResolveOptions(exact=True, revision=first)).commit == first
    assert online().resolve("org/model", ResolveOptions(exact=True)).commit == repo.head().id
    hub.tag("org/model", "v1.0", first)
    hub.add_repo("org/model-v2", files={"config.json": "{}"})
    online().resolve("org/model-v2")
    for options in (ResolveOptions(exact=True), ResolveOptions("gguf")):
        missing = online().resolve("org/model", options._replace(revision="v1"))
        assert missing.error is not None
        assert "no revision 'v1'" in missing.error.message
        assert missing.error.next == "Did you mean v1.0? It has main, v1.0."


def test_the_wait_for_a_rate_limit_is_bounded(hub: LoopbackHub, online: Make) -> None:
    hub.add_repo("org/model", files={"config.json": '{"model_type": "llama"}'})
    hub.fault(path="/api/models/*", status=429, headers={"Retry-After": "1"}, times=1)
    assert online().resolve("org/model").repo_id == "org/model"
    hub.fault(path="/api/models/*", status=429, headers={"Retry-After": "3000"}, times=5)
    with pytest.raises(BusyError, match="rate limit"):
        online().resolve("org/model")


@pytest.mark.straight
@pytest.mark.parametrize("path", ["*/auth-check", "/api/models", "*/tree/*", "/api/whoami-v2"])
def test_no_call_waits_longer_than_it_may(hub: LoopbackHub, path: str) -> None:
    """Neither where the Hub holds its response back, nor where it limits the rate for long."""
    hub.add_user("hf_in", "in")
    repo = hub.add_repo("org/model", files={"config.json": "{}"}, gated="auto")
    calls: dict[str, Callable[[HubApi], object]] = {
        "*/auth-check": lambda api: api.access("org/model"),
        "/api/models": lambda api: list(api.by_author("org")),
        "*/tree/*": lambda api: api.file_hashes("org/model", repo.head().id),
        "/api/whoami-v2": lambda api: api.whoami(),
    }
    held = hub.fault(path=path, latency=60.0, times=None)
    with pytest.raises(OfflineError, match="does not answer"):
        calls[path](HubApi(hub.endpoint, "hf_in", timeout=0.2))
    held.times = held.hits
    held.release()
    hub.fault(path=path, status=429, headers=rate_limited(3000), times=None)
    with pytest.raises(BusyError, match="rate limit") as refused:
        calls[path](HubApi(hub.endpoint, "hf_in"))
    assert "3000 s" in refused.value.why
    limited = [request for request in hub.requests if request.status == 429]
    assert len(limited) == 1, "the client's own retries are off"


@pytest.mark.straight
def test_bounds_hold_for_calls_of_ours_alone(hub: LoopbackHub) -> None:
    hub.add_repo("org/model", files={"config.json": "{}"})
    assert HubApi(hub.endpoint, None, timeout=0.2).facts("org/model").state == "ok"
    hub.fault(path="/api/models/*", latency=0.5)
    assert HfApi(hub.endpoint, token=False).model_info("org/model").id == "org/model"


def test_a_transient_error_is_retried_and_a_dead_hub_falls_back_to_local_data(
    hub: LoopbackHub, online: Make, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add_repo("org/model", files={"config.json": '{"model_type": "llama"}'})
    hub.fault(path="/api/models/*", status=503, times=1)
    assert online().resolve("org/model").commit is not None
    hub.fault(path="/api/models/*", status=503, times=None)
    resolver = online()
    with caplog.at_level(logging.WARNING, "mdl"):
        answer = resolver.resolve("org/model")
    assert answer.commit is not None, "the database still knows it"
    assert answer.knowledge_age is not None
    assert "Using local data" in caplog.text
    for other in ("org/second", "org/third"):
        resolver.resolve(other)
    before = len(hub.requests)
    resolver.resolve("org/model")
    assert len(hub.requests) == before, "a Hub that fails on several names is not asked again"


def test_many_names_cost_few_requests(hub: LoopbackHub, online: Make) -> None:
    names = [f"Org/Model-{i}" for i in range(500)]
    for name in names:
        hub.add_repo(name, files={"config.json": "{}"})
    answers = list(online().resolve_many([n.lower() for n in names], ResolveOptions(exact=True)))
    assert [a.repo_id for a in answers if not isinstance(a, Exception)] == names
    assert len(hub.requests) <= 5


def test_a_used_resolution_is_logged(
    llama: LoopbackHub, online: Make, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = online()
    answer = resolver.resolve(GATED, ResolveOptions("bnb-4bit"))
    with caplog.at_level(logging.WARNING, "mdl"):
        resolver.record(answer, "load")
    assert DYNAMIC in caplog.text
    (row,) = resolver.catalog.history(GATED.upper())
    assert (row["requested"], row["repo_id"], row["purpose"]) == (GATED, DYNAMIC, "load")
    assert row["substituted"] is True
    json.dumps(row)


def test_an_unwritable_database_does_not_prevent_a_resolution(
    llama: LoopbackHub, online: Make, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = online()
    with closing(sqlite3.connect(resolver.settings.database_path)) as other, other:
        # Nothing more fits, as on a full disk: SQLite's own limit says it.
        pages = other.execute("PRAGMA page_count").fetchone()[0]
    resolver.catalog.database.rows(f"PRAGMA max_page_count = {pages}")
    with caplog.at_level(logging.WARNING, "mdl"):
        for n in range(3000):
            if "not recorded" in caplog.text:
                break
            answer = resolver.resolve(GATED, ResolveOptions("bnb-4bit"))
            resolver.record(answer, f"load {n} " + "x" * 2000)
    assert answer.repo_id == DYNAMIC
    assert "not recorded" in caplog.text


def test_a_read_only_database_still_works(llama: LoopbackHub, online: Make) -> None:
    resolver = online()
    path = Path(resolver.settings.database_path)
    resolver.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=DELETE").close()
    resolver = online()
    resolver.catalog.database.writable = False
    assert resolver.resolve(GATED, ResolveOptions("bnb-4bit")).repo_id == DYNAMIC


def test_what_is_not_known_is_not_claimed(hub: LoopbackHub, online: Make) -> None:
    """A repository without a config may hold anything."""
    hub.add_repo("org/notes", files={"README.md": "hello"})
    hub.add_repo("org/model", files={"config.json": '{"model_type": "llama"}'})
    said = [
        online().resolve(name, ResolveOptions()).trace[-1].reason
        for name in ("org/notes", "org/model")
    ]
    assert "nothing says" in said[0]
    assert "weights are 16-bit" in said[1]


@pytest.mark.parametrize("typed", ["{endpoint}/{name}", "{name}/", "models--{folder}"])
def test_a_pasted_address_is_understood_and_noted(
    hub: LoopbackHub, online: Make, typed: str
) -> None:
    hub.add_repo("Org/Pasted", files={"config.json": '{"model_type": "llama"}'})
    name = typed.format(endpoint=hub.endpoint, name="Org/Pasted", folder="Org--Pasted")
    answer = online().resolve(name).checked()
    assert (answer.repo_id, answer.requested) == ("Org/Pasted", "Org/Pasted")
    assert answer.trace[0].verdict == "noted" and name in answer.trace[0].reason


def test_the_longest_name_the_hub_allows(hub: LoopbackHub, online: Make) -> None:
    name = f"{'o' * 96}/{'n' * 96}"
    hub.add_repo(name, files={"config.json": '{"model_type": "llama"}'})
    assert online().resolve(name).checked().repo_id == name
