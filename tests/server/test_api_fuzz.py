"""Whatever is asked of the HTTP interface, the answer is one of those that its OpenAPI document describes."""

from __future__ import annotations

import pytest
from api_fixtures import API, MANY, held, offered
from hypothesis import HealthCheck, Phase, settings
from server_fixtures import TOKEN

from historymap_lib.server.openapi import build

schemathesis = pytest.importorskip("schemathesis", reason="there is no schemathesis; pip install schemathesis")

EACH = 80
"""Requests of each kind a call."""
BEYOND = ("bbox", "config")
"""What has rules that no JSON schema can tell: west lies west of east; there is such a file."""
asked: list[int] = []


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    with offered(folder, MANY) as (case, server), held(case, folder / "go"):
        case.paths.models.mkdir(parents=True)
        case.paths.model.touch()  # what is queued never runs; it must only look as if it could
        one = {"annotations": [{"osm_id": 2, "existed": True}]}
        assert server.ask("POST", f"{API}annotations", one).status == 200
        yield case, server


schema = schemathesis.openapi.from_dict(build("/"))


@schema.parametrize()
@settings(
    max_examples=EACH, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_no_answer_is_outside_the_document(case, town):
    address = f"{town[1].url}/{API}"
    answer = case.call(base_url=address, headers={"Authorization": f"token {TOKEN}"})
    asked.append(answer.status_code)
    excluded = [schemathesis.checks.ignored_auth]
    if answer.status_code == 400 and answer.json()["field"] in BEYOND:
        excluded.append(schemathesis.checks.positive_data_acceptance)
    case.validate_response(answer, excluded_checks=excluded)


def test_so_much_was_asked_and_the_server_is_well(town):
    _, server = town
    assert len(asked) > 1000
    assert {200, 202, 400, 404} <= set(asked)
    assert server.get(f"{API}health").status == 200
    assert server.get(f"{API}openapi.json").json == build("/")
    assert "Traceback" not in server.log.read_text(encoding="utf-8", errors="replace")
