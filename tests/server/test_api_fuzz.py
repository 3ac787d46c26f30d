"""Whatever is asked of the HTTP interface, the answer is one of those that its OpenAPI document describes."""

from __future__ import annotations

import pytest
from api_fixtures import API, MANY, held, offered
from hypothesis import HealthCheck, Phase, settings
from server_fixtures import TOKEN

schemathesis = pytest.importorskip("schemathesis", reason="there is no schemathesis; pip install schemathesis")

EACH = 80
"""Requests of each kind a call."""
asked: list[int] = []


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    with offered(folder, MANY) as (case, server), held(case, folder / "go"):
        yield case, server


@pytest.fixture(scope="module")
def document(town):
    server = town[1]
    headers = {"Authorization": f"token {TOKEN}"}
    return schemathesis.openapi.from_url(f"{server.url}/{API}openapi.json", headers=headers)


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(
    max_examples=EACH, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_no_answer_is_outside_the_document(case):
    answer = case.call(headers={"Authorization": f"token {TOKEN}"})
    asked.append(answer.status_code)
    case.validate_response(answer, excluded_checks=[schemathesis.checks.ignored_auth])


def test_so_much_was_asked_and_the_server_is_well(town):
    _, server = town
    assert len(asked) > 1000
    assert {200, 202, 400, 404} <= set(asked)
    assert server.get(f"{API}health").status == 200
    assert "Traceback" not in server.log.read_text(encoding="utf-8", errors="replace")
