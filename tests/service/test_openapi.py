"""The OpenAPI document, and inputs made from it: none of them makes a server error."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from mdl.service.schemas import MirrorFields, SourceFields
from mdl.store.rows import CatalogSource, MirrorRow
from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, Start, bearer

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
