"""The OpenAPI document, and inputs made from it: none of them makes a server error."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from mdl.service.schemas import MirrorFields, SourceFields
from mdl.store.rows import CatalogSource, MirrorRow
from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, Process, Start, bearer, cached_repo

# An event stream has no end that could be waited for.
ENDLESS = "/v1/events"


def test_every_route_of_the_issue_is_documented(hub: LoopbackHub, start: Start) -> None:
    document = start().get("/openapi.json").json()
    assert {
        "/v1/resolve", "/v1/tree", "/v1/access",
        "/v1/catalog", "/v1/lock", "/v1/cache", "/v1/cache/plans",
        "/v1/cache/actions", "/v1/health", "/v1/ready", "/v1/events", "/v1/catalog/import",
    } <= set(document["paths"])  # fmt: skip


def test_the_document_says_how_callers_authenticate(hub: LoopbackHub, start: Start) -> None:
    document = start().get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"].values()
    assert {scheme["scheme"] for scheme in schemes} == {"bearer", "basic"}
    for path, method in (
        ("resolve", "get"),
        ("resolve", "post"),
        ("access", "get"),
        ("lock", "post"),
    ):
        parameters = document["paths"][f"/v1/{path}"][method]["parameters"]
        assert "X-Hub-Token" in [each["name"] for each in parameters]


def test_the_documents_rows_are_the_catalogues() -> None:
    assert tuple(MirrorFields.model_fields) == MirrorRow._fields
    assert tuple(SourceFields.model_fields) == CatalogSource._fields


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_input_makes_a_server_error(hub: LoopbackHub, start: Start) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    client = start(tokens=f"admin {ADMIN}")
    document = client.get("/openapi.json", headers=bearer(ADMIN)).json()
    del document["paths"][ENDLESS]
    operations = [
        found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()
    ]
    statuses: set[int] = set()
    for operation in operations:

        @settings(
            max_examples=12, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def attack(case: schemathesis.Case) -> None:
            body = case.body if isinstance(case.body, (dict, list, str, int, float)) else None
            answer = client.request(
                case.method, case.formatted_path, params=case.query or {}, json=body,
                headers=bearer(ADMIN),
            )  # fmt: skip
            statuses.add(answer.status_code)
            assert answer.status_code < 500, (case.method, case.path, case.query, body, answer.text)

        attack()
    assert {200, 400, 404} <= statuses


@pytest.mark.slow
def test_three_minutes_of_schemathesis_find_nothing(
    hub: LoopbackHub, serve: Callable[..., Process], tmp_path: Path
) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    for name in ("Org/Name", "org/name"):
        cached_repo(tmp_path / "hf" / "hub", name, {"model.bin": b"x" * 4000})
    service = serve("--hub", MDL_SERVE_TOKENS=f"admin {ADMIN}")
    found = subprocess.run(
        [str(Path(sys.executable).parent / "schemathesis"), "run", f"{service.url}/openapi.json",
         "--header", f"Authorization: Bearer {ADMIN}", "--exclude-path", ENDLESS, "--no-color",
         # What a name or a size is, no schema says; a name's rows of one source are deleted alone.
         "--exclude-checks", "positive_data_acceptance,use_after_free",
         "--max-time", "180", "--request-timeout", "40", "--continue-on-failure"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    assert service.stop()[0] == 0


def test_an_address_is_its_own_routes_alone(hub: LoopbackHub, start: Start) -> None:
    client = start(tokens=f"admin {ADMIN}")
    assert client.post("/v1/health", headers=bearer(ADMIN)).status_code == 405
    for path in ("/v1/cache/plans", "/v1/cache/verify", "/v1/catalog/import"):
        for method in ("GET", "DELETE", "TRACE", "PUT", "OPTIONS"):
            answer = client.request(method, path, headers=bearer(ADMIN))
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_false_is_no_size_and_a_throttle_of_nothing_harms_no_later_verification(
    hub: LoopbackHub, start: Start
) -> None:
    client = start(tokens=f"admin {ADMIN}")
    cached_repo(client.service.cache.root, "Org/Name", {"model.bin": b"x"})  # type: ignore[attr-defined]

    def verify(throttle: object) -> int:
        return client.post(
            "/v1/cache/verify", json={"throttle": throttle, "again": True}, headers=bearer(ADMIN)
        ).status_code

    for wrong in (False, 0, "0", "9" * 400, 10**400, -1):
        assert verify(wrong) == 400
    assert verify(None) == 200
    plan = {"kind": "prune", "older_than": "9" * 30}
    assert client.post("/v1/cache/plans", json=plan, headers=bearer(ADMIN)).status_code == 400
