"""Who gets what: each caller's own access, allowed networks and accounts, locks, offline."""

import httpx2
import pytest

from mdl.errors import ConfigError
from mdl.hub_server import HubConfig
from tests.hub import LoopbackHub, free_port
from tests.hub_server.conftest import Between, Serve

GRANTED, OTHER = "hf_granted0000000000000000000000000000", "hf_other00000000000000000000000000000"
SECRET = b"secret weights" * 1000


@pytest.fixture
def gated(hub: LoopbackHub) -> LoopbackHub:
    hub.add_user(GRANTED, "alice")
    hub.add_user(OTHER, "bob")
    access = {GRANTED: "granted"}
    hub.add_repo("Org/Gated", files={"w.bin": SECRET}, gated="manual", access=access)
    hub.add_repo("Org/Private", files={"w.bin": SECRET}, private=True, access=access)
    hub.add_repo("Org/Open", files={"w.bin": b"open"})
    return hub


def get(here: Between, path: str, token: str | None = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.get(f"{here.url}/{path}", headers=headers, timeout=60)


@pytest.mark.parametrize("repo", ["Org/Gated", "Org/Private"])
def test_cached_bytes_go_to_nobody_who_may_not_read_them(
    gated: LoopbackHub, between: Serve, repo: str
) -> None:
    here = between()
    assert here.download("a", repo, "w.bin", GRANTED)[0] == len(SECRET)
    for token in (None, OTHER, "hf_unknown"):
        refused = get(here, f"{repo}/resolve/main/w.bin", token)
        assert refused.status_code in (401, 403, 404)
        assert SECRET not in refused.content
        by_commit = gated.repos[repo].head().id
        again = get(here, f"{repo.lower()}/resolve/{by_commit}/w.bin", token)
        assert again.status_code in (401, 403, 404)
    assert get(here, f"{repo}/resolve/main/w.bin", GRANTED).content == SECRET


@pytest.mark.parametrize(
    ("repo", "token", "wanted"),
    [
        ("Org/Gated", None, "GatedRepoError"),
        ("Org/Gated", OTHER, "GatedRepoError"),
        ("Org/Private", None, "RepositoryNotFoundError"),
        ("Org/Private", OTHER, "RepositoryNotFoundError"),
        ("Org/Nowhere", OTHER, "RepositoryNotFoundError"),
        ("Org/Nowhere", None, "RepositoryNotFoundError"),
    ],
)
def test_the_client_raises_what_it_raises_at_the_hub(
    gated: LoopbackHub, between: Serve, repo: str, token: str | None, wanted: str
) -> None:
    here = between()
    through = here.download("a", repo, "w.bin", token)
    here.url = gated.endpoint
    straight = here.download("b", repo, "w.bin", token)
    assert through[0] == straight[0] == wanted


def test_the_hubs_own_words_reach_the_user(gated: LoopbackHub, between: Serve) -> None:
    _, text = between().download("a", "Org/Gated", "w.bin", OTHER)
    assert "not in the authorized list" in text


def test_access_that_was_granted_is_not_asked_for_at_each_file(
    gated: LoopbackHub, between: Serve
) -> None:
    here = between()
    for _ in range(5):
        assert get(here, "Org/Gated/resolve/main/w.bin", GRANTED).content == SECRET
    assert gated.count("*/auth-check") == 1


def test_the_services_own_token_opens_nothing(gated: LoopbackHub, between: Serve) -> None:
    here = between(HF_TOKEN=GRANTED)
    assert get(here, "Org/Gated/resolve/main/w.bin").status_code == 401
    assert {request.who for request in gated.requests} == {"anonymous"}


def test_without_the_hub_what_was_public_is_served(gated: LoopbackHub, between: Serve) -> None:
    here = between()
    assert get(here, "Org/Open/resolve/main/w.bin").content == b"open"
    here.process.stop()
    here.start("--offline")
    assert get(here, "Org/Open/resolve/main/w.bin").content == b"open"
    assert here.client("b", "print(json.dumps(hf.model_info('org/open').id))") == "Org/Open"
    assert get(here, "Org/Open/resolve/main/other.bin").status_code == 503


@pytest.mark.parametrize(("hours", "status"), [("0h", 503), ("24h", 200)])
def test_without_the_hub_known_access_holds_as_long_as_the_operator_says(
    gated: LoopbackHub, between: Serve, hours: str, status: int
) -> None:
    here = between()
    assert get(here, "Org/Gated/resolve/main/w.bin", GRANTED).content == SECRET
    here.process.stop()
    here.start("--offline", "--offline-access", hours)
    assert get(here, "Org/Gated/resolve/main/w.bin", GRANTED).status_code == status
    assert get(here, "Org/Gated/resolve/main/w.bin", OTHER).status_code == 503
    assert get(here, "Org/Gated/resolve/main/w.bin").status_code == 503


def test_a_hub_that_went_away_is_an_outage_not_a_refusal(
    gated: LoopbackHub, between: Serve
) -> None:
    here = between()
    assert get(here, "Org/Open/resolve/main/w.bin").content == b"open"
    gated.fault("*", status=503, times=None)
    here.process.stop()
    here.start()
    assert get(here, "Org/Open/resolve/main/w.bin").content == b"open"
    assert get(here, "Org/Gated/resolve/main/w.bin", GRANTED).status_code == 503


def test_a_lock_in_force(gated: LoopbackHub, between: Serve, hub: LoopbackHub) -> None:
    first = hub.repos["Org/Open"].head().id
    hub.commit("Org/Open", {"w.bin": b"newer"})
    here = between()
    here.home.mkdir(exist_ok=True)
    lock = here.home / "mdl.lock"
    lock.write_text(
        'version = 1\nmdl = "0"\n[[model]]\nrequested = "Org/Open"\nformat = "any"\n'
        f'canonical = "Org/Open"\nrepo_id = "Org/Open"\ncommit = "{first}"\nsubstituted = false\n'
        'quantize_on_load = false\nsource = "hub"\ncatalogue = ""\n[model.files]\n'
    )
    here.process.stop()
    here.start("--locked", str(lock))
    assert here.client("a", "print(json.dumps(hf.model_info('Org/Open').sha))") == first
    assert get(here, "Org/Open/resolve/main/w.bin").content == b"open"
    kind, text = here.download("b", "Org/Gated", "w.bin")
    assert "is not in mdl.lock" in text, kind
    assert "is locked at" in here.download("b", "Org/Open", "w.bin", revision="v2")[1]


def test_what_writes_and_what_is_unknown_is_refused_with_a_sentence(between: Serve) -> None:
    here = between()
    created = here.client("a", "hf.create_repo('Org/New', token='hf_x')")
    assert "serves the Hub for reading" in created[1]
    answer = get(here, "api/agents")
    assert answer.status_code == 404
    assert answer.headers["x-error-message"]


def test_on_another_address_it_must_be_said_who_may_use_it() -> None:
    with pytest.raises(ConfigError, match="to whom"):
        HubConfig().check(on_loopback=False)
    HubConfig(allow=("10.0.0.0/8", "my-org")).check(on_loopback=False)


def test_xet_is_not_offered_at_any_depth() -> None:
    from mdl.hub_server.responses import without_xet

    small = {"path": "a", "size": 5, "xetHash": "x" * 64, "lfs": {"oid": "b", "xetHash": "y"}}
    large = {"path": "b", "size": 60 * 10**9, "xetHash": "x" * 64}
    assert without_xet([{"rows": [small, large], "xetEnabled": True}]) == [
        {"rows": [{"path": "a", "size": 5, "lfs": {"oid": "b"}}, large]}
    ]


def test_a_service_that_is_its_own_hub_says_so(hub: LoopbackHub, between: Serve) -> None:
    port = str(free_port())
    here = between("--port", port, HF_ENDPOINT=f"http://localhost:{port}")
    for path in ("Org/Open/resolve/main/w.bin", "api/models/Org/Open"):
        answer = get(here, path)
        assert answer.status_code in (503, 508)
        assert "has itself as its Hub" in answer.headers["x-error-message"]
