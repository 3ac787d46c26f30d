"""The HTTP interface, asked by a real second process: who may, what each call answers, what is refused and how."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise

import pytest
from api_fixtures import API, BUILDINGS, MANY, bring_back, held, judged_town, logged_in, offered
from case_fixtures import change
from job_fixtures import PATIENCE, TRUE, end_all, hold, quick, said, until
from server_fixtures import TOKEN, serve
from shapely import box, from_geojson

from historymap_lib import __version__, verdicts
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.annotations import Annotation
from historymap_lib.jobs import Jobs
from historymap_lib.server.calls import CALLS
from historymap_lib.server.messages import Problem

BASE = "/deep/base/"
ONE = {"annotations": [{"osm_id": 2, "existed": True, "notes": "Verified"}]}
TAKES = {call.name: ONE for call in CALLS if call.body is not None}
CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with offered(tmp_path_factory.mktemp("town"), MANY, base=BASE) as found:
        found[0].paths.models.mkdir(parents=True)
        found[0].paths.model.touch()  # it is not going to predict
        yield found


@pytest.fixture(scope="module")
def server(town):
    return town[1]


@pytest.fixture(scope="module")
def case(town):
    return town[0]


PRINTS = "print('one'); print('two'); print('drei \\u00fc', end='')"


@pytest.fixture(scope="module")
def over(case):
    """A job that ended before the queue was held."""
    job = Jobs(case).submit_command("three lines", quick(PRINTS))
    job.wait(PATIENCE)
    return job


@pytest.fixture
def ended(case):
    """The latest job."""
    job = Jobs(case).submit_command("three lines", quick(PRINTS))
    job.wait(PATIENCE)
    return job


@pytest.fixture
def busy(case, over, tmp_path):
    with held(case, tmp_path / "go") as job:
        yield job


def path_of(call, job=1):
    return API + call.path.format(job=job)


def refused(answer, status, text, field=None):
    """See that an answer is a refusal that says why."""
    assert (answer.status, answer.kind) == (status, "application/json")
    told = Problem.model_validate(answer.json)
    assert text in told.message
    assert told.field == field
    assert "Traceback" not in told.message
    return told


# ------------------------------------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
@pytest.mark.parametrize("token", [None, "guess"])
def test_without_login_every_call_is_forbidden(server, case, call, token):
    before = [record.id for record in Jobs(case).recent(100)], AnnotationStore.of(case).events()
    answer = server.ask(call.method, path_of(call), TAKES.get(call.name), token=token)
    refused(answer, 403, "give the token of the server")
    assert ([record.id for record in Jobs(case).recent(100)], AnnotationStore.of(case).events()) == before


@pytest.mark.parametrize("path", [f"{API}openapi.json", API, f"{API}nothing", f"{API}logs", "metrics", "api/status"])
def test_without_login_all_else_is_forbidden_too(server, path):
    assert server.get(path, token=None).status in (302, 403)
    assert server.get(path, token="guess").status in (302, 403)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_with_the_token_every_call_answers_as_it_says(server, busy, over, call):
    number = busy.id if call.name == "cancel" else over.id
    answer = server.ask(call.method, path_of(call, number), TAKES.get(call.name))
    assert (answer.status, answer.kind) == (call.status, call.media_type)
    call.answer.model_validate(answer.json)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_with_a_cookie_what_changes_something_needs_xsrf_as_well(server, busy, over, call):
    browser = logged_in(server)
    number = busy.id if call.name == "cancel" else over.id
    address, body = f"{server.url}/{path_of(call, number)}", TAKES.get(call.name)
    bare = browser.request(call.method, address, json=body, timeout=PATIENCE)
    assert bare.status_code == (call.status if call.method == "GET" else 403)
    headers = {"X-XSRFToken": browser.cookies["_xsrf"]}
    assert (
        browser.request(call.method, address, json=body, headers=headers, timeout=PATIENCE).status_code == call.status
    )


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_page_of_another_server_is_refused_what_the_browser_of_a_person_may(server, over, call):
    browser = logged_in(server)
    headers = {"Origin": "https://evil.example", "X-XSRFToken": browser.cookies["_xsrf"]}
    answer = browser.request(
        call.method, f"{server.url}/{path_of(call, over.id)}", json=TAKES.get(call.name), headers=headers,
        timeout=PATIENCE,
    )  # fmt: skip
    assert answer.status_code == 403
    assert not answer.headers.get("Access-Control-Allow-Origin")


def test_whoever_calls_the_server_by_another_name_is_told_what_allows_it(server):
    answer = server.get(f"{API}health", Host="maps.example.org")
    refused(answer, 403, "not known as maps.example.org; its owner may set ServerApp.local_hostnames")


def test_logs_without_a_websocket_are_told_where_pages_are(server):
    refused(server.get(f"{API}logs"), 426, "jobs/ID/log gives pages")


def test_what_is_asked_for_is_in_the_log_of_the_server(server, busy):
    server.ask("POST", f"{API}verify?force=true&token={TOKEN}", token=None)
    said = server.log.read_text()
    assert "historymap: verify, asked by somebody with the token at 127.0.0.1" in said


def test_a_method_that_is_not_taken_is_told_which_are(server):
    for method, path, allowed in (("POST", "health", "GET"), ("GET", "verify", "POST"), ("DELETE", "jobs/1", "GET"),
                                  ("PUT", "annotations", "GET, POST")):  # fmt: skip
        answer = server.ask(method, API + path)
        refused(answer, 405, f"takes {allowed} only")
        assert answer.headers["Allow"] == allowed
        refused(server.ask(method, API + path, token=None), 403, "you are not logged in")


@pytest.mark.parametrize("body", [b"epochs=1&force=true", {"epochs": 1}, b"{bad"], ids=str)
def test_parameters_in_a_body_are_not_left_out_in_silence(server, case, busy, body):
    before = len(Jobs(case).waiting())
    refused(server.ask("POST", f"{API}train", body), 400, "what it takes stands in the address", "the body")
    assert len(Jobs(case).waiting()) == before
    assert server.ask("POST", f"{API}verify", {}).status == 202


@pytest.mark.parametrize("path", ["", "nothing", "jobs/1/nothing", "jobs/", "health/"])
def test_where_there_is_no_call_the_document_is_named(server, path):
    refused(server.get(API + path), 404, "openapi.json")


# ------------------------------------------------------------------------------------------------- what calls answer


def test_health_names_the_versions(server):
    told = server.get(f"{API}health").json
    assert told["status"] == "ok"
    assert told["versions"]["historymap"] == __version__


def test_status_tells_where_the_case_stands(server, case, ended):
    told = server.get(f"{API}status").json
    counts = json.loads(case.paths.verified.read_text())["metadata"]["counts"]
    assert told["case"] == "town"
    assert (told["training_tiles"], told["corrected_tiles"]) == (2, 0)
    assert told["model"] == {"exists": True, "metrics": {}}
    assert told["verification"] == counts
    assert told["annotations"] == len(AnnotationStore.of(case).get())
    assert told["jobs"][0]["id"] == ended.id
    assert 1 <= len(told["jobs"]) <= 10


def test_a_manifest_that_is_odd_is_no_trouble(own):
    case, server = own
    manifest = case.paths.training / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tiles": "many"}))
    assert server.get(f"{API}status").json["training_tiles"] == 0


def test_the_current_job_is_told(server, busy):
    assert server.get(f"{API}status").json["current_job"]["id"] == busy.id


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("generate-training", {}),
        ("generate-training?tiles=3", {"tiles": 3}),
        ("generate-training?tiles=3&force=true", {"tiles": 3, "force": True}),
        ("train", {}),
        ("train?epochs=7&resume=true", {"epochs": 7, "resume": True}),
        ("verify?quick=true", {"quick": True}),
    ],
)
def test_what_is_queued_is_what_was_asked_for(server, case, busy, path, parameters):
    told = server.ask("POST", API + path).json
    record = Jobs(case).get(told["job_id"]).record
    assert (record.name, record.parameters, record.state) == (path.partition("?")[0], parameters, "pending")
    assert (told["name"], told["status"]) == (record.name, "pending")
    assert f"jobs/{record.id}/log" in told["message"]
    assert record.submitted_by == "somebody with the token at 127.0.0.1"


def test_a_step_runs_and_its_log_is_read_in_pages(server, case):
    told = server.ask("POST", f"{API}generate-training?tiles=1&force=true").json
    number = told["job_id"]
    until(lambda: server.get(f"{API}jobs/{number}").json["state"] == "completed")
    text, offset, pages = "", 0, 0
    while True:
        page = server.get(f"{API}jobs/{number}/log?offset={offset}&limit=1024").json
        text, pages = text + page["text"], pages + 1
        assert page["offset"] == offset
        if page["complete"]:
            break
        assert page["next"] > offset
        offset = page["next"]
    assert text + page["live"] == Jobs(case).get(number).log()
    assert "generate-training: 1 tiles" in text
    server.ask("POST", f"{API}generate-training?tiles=2&force=true")
    until(lambda: not Jobs(case).unfinished())


def test_a_bar_that_was_cleared_is_the_last_page_too(server, case):
    job = Jobs(case).submit_command("bar", quick("print('one'); print('9 of 9', end='\\r')"))
    job.wait(PATIENCE)
    page = server.get(f"{API}jobs/{job.id}/log").json
    assert (page["text"], page["live"], page["complete"]) == ("one\n", "9 of 9", True)


def test_a_line_without_end_is_the_last_page(server, ended):
    page = server.get(f"{API}jobs/{ended.id}/log").json
    assert (page["text"], page["live"], page["complete"]) == ("one\ntwo\n", "drei ü", True)
    beyond = server.get(f"{API}jobs/{ended.id}/log?offset=999999").json
    assert (beyond["text"], beyond["complete"]) == ("", True)


def test_jobs_come_in_pages(server, case, ended):
    for _ in range(3):
        Jobs(case).submit_command("more", TRUE).wait(PATIENCE)
    seen, before = [], ""
    while True:
        page = server.get(f"{API}jobs?limit=2{before}").json
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert seen == [record.id for record in Jobs(case).recent(10_000)]
    assert {job["state"] for job in server.get(f"{API}jobs?state=completed").json["jobs"]} == {"completed"}


def test_a_job_is_cancelled_and_run_again(server, busy, case):
    number = server.ask("POST", f"{API}verify?force=true").json["job_id"]
    told = server.ask("POST", f"{API}jobs/{number}/cancel").json
    assert told["state"] == "cancelled"
    assert "127.0.0.1" in told["error"]
    refused(server.ask("POST", f"{API}jobs/{number}/cancel"), 409, "there is nothing to cancel")
    again = server.ask("POST", f"{API}jobs/{number}/retry").json
    assert again["job_id"] > number
    assert Jobs(case).get(again["job_id"]).record.parameters == {"force": True}
    refused(server.ask("POST", f"{API}jobs/{again['job_id']}/retry"), 409, "can be retried when it has ended")


# ------------------------------------------------------------------------------------------------------- annotations


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    with offered(tmp_path_factory.mktemp("own"), MANY) as found:
        yield found


@pytest.fixture
def own(second):
    """A case to change, with its server; as it was at first for each test."""
    case, server = second
    end_all(case)
    return bring_back(case.paths.root), server


def test_annotations_are_saved_known_read_and_applied(own):
    _, server = own
    first = server.ask("POST", f"{API}annotations", ONE).json
    assert first == {"saved": 1, "known": 0, "total": 1, "not_applied": 1}
    assert server.ask("POST", f"{API}annotations", ONE).json == first | {"saved": 0, "known": 1}
    (held_now,) = server.get(f"{API}annotations").json["annotations"]
    assert (held_now["osm_type"], held_now["osm_id"], held_now["existed"]) == ("way", 2, True)
    assert held_now["created_at"]
    Annotation.model_validate(held_now)
    changed = {"annotations": [{"osm_id": 2, "existed": False}, {"osm_id": 3, "existed": None, "notes": None}]}
    told = server.ask("POST", f"{API}apply-annotations", changed).json
    assert [job["name"] for job in told["jobs"]] == ["apply-annotations", "verify"]
    assert (told["saved"], told["total"], told["job_id"]) == (2, 2, told["jobs"][0]["job_id"])
    until(lambda: server.get(f"{API}jobs/{told['jobs'][-1]['job_id']}").json["state"] == "completed")
    features = server.get(f"{API}verdicts").json["features"]
    judged = {f["properties"]["osm_id"]: f["properties"]["verdict"] for f in features if f["properties"]["annotated"]}
    assert judged == {2: "not_existed", 3: "unsure"}
    status = server.get(f"{API}status").json
    assert (status["annotations"], status["not_applied"]) == (2, 0)
    assert status["corrected_tiles"] > 0


def test_a_change_of_mind_and_back_counts(own):
    case, server = own
    for existed in (True, False, True):
        server.ask("POST", f"{API}annotations", {"annotations": [{"osm_id": 2, "existed": existed}]})
    assert AnnotationStore.of(case).holding("way/2").verdict == "existed"


def test_to_train_anew_all_that_follows_is_queued(server, case, busy):
    told = server.ask("POST", f"{API}apply-annotations?retrain=true", ONE).json
    assert [job["name"] for job in told["jobs"]] == ["apply-annotations", "train", "predict", "verify"]
    records = [Jobs(case).get(job["job_id"]).record for job in told["jobs"]]
    assert [record.after for record in records] == [None, *(record.id for record in records[:-1])]


def test_without_probabilities_applying_does_not_wait_for_a_verify_that_cannot_be(own):
    case, server = own
    case.paths.probability.unlink()
    told = server.ask("POST", f"{API}apply-annotations", ONE).json
    assert [job["name"] for job in told["jobs"]] == ["apply-annotations"]


def test_what_cannot_be_applied_is_saved_and_both_are_told(own):
    case, server = own
    shutil.rmtree(case.paths.training)
    refused(server.ask("POST", f"{API}apply-annotations", ONE), 422, "the annotations are saved, but apply-annotations")
    assert AnnotationStore.of(case).holding("way/2").verdict == "existed"


def test_an_unknown_building_is_named_and_nothing_saved(server, case):
    before = AnnotationStore.of(case).events()
    body = {"annotations": [{"osm_id": 4, "existed": True}, {"osm_type": "relation", "osm_id": 4, "existed": True}]}
    for path in ("annotations", "apply-annotations"):
        answer = server.ask("POST", API + path, body)
        refused(answer, 404, "relation/4 is no building of the case, and nothing was saved; give the osm_type of way/4",
                "annotations.1.osm_id")  # fmt: skip
    assert AnnotationStore.of(case).events() == before


def test_what_was_taken_before_there_were_verdicts_can_be_sent_back_and_corrected(own):
    case, server = own
    AnnotationStore.of(case).save(Judgement("way/123456", "existed", "ann"))
    told = server.get(f"{API}annotations").json
    assert server.ask("POST", f"{API}annotations", told).json["known"] == 1
    changed = {"annotations": [{"osm_id": 123456, "existed": False}]}
    assert server.ask("POST", f"{API}annotations", changed).json["saved"] == 1
    refused(server.ask("POST", f"{API}annotations", {"annotations": [{"osm_id": 99, "existed": True}]}), 404, "way/99",
            "annotations.0.osm_id")  # fmt: skip


def test_when_annotations_were_changed_is_told_and_reading_changes_nothing(own):
    case, server = own
    AnnotationStore.of(case).save(Judgement("way/2", "existed", "ann"))
    first = server.get(f"{API}annotations").json["updated_at"]
    time.sleep(1.1)
    assert server.get(f"{API}annotations").json["updated_at"] == first
    AnnotationStore.of(case).save(Judgement("way/3", "existed", "ann"))
    assert server.get(f"{API}annotations").json["updated_at"] > first


def test_without_a_body_what_was_saved_before_is_applied(own):
    case, server = own
    AnnotationStore.of(case).save(Judgement("way/2", "existed", "ann"))
    answer = server.ask("POST", f"{API}apply-annotations")
    assert (answer.status, answer.json["saved"], answer.json["name"]) == (202, 0, "apply-annotations")


# ---------------------------------------------------------------------------------------------------------- verdicts


def test_verdicts_come_in_pages_as_geojson(server, case):
    whole = json.loads(case.paths.verified.read_text())["features"]
    seen, after = [], 0
    while after is not None:
        page = server.get(f"{API}verdicts?limit=7&after={after}").json
        assert page["type"] == "FeatureCollection"
        seen, after = seen + page["features"], page["next"]
    assert [f["properties"]["building_id"] for f in seen] == [f["properties"]["building_id"] for f in whole]
    assert len(seen) == len(BUILDINGS)


def test_verdicts_of_an_area_and_of_a_kind(server, case):
    found = [feature for _, feature in verdicts.features(verdicts.table(case))]
    west, south, east, north = from_geojson(json.dumps(found[5]["geometry"])).bounds
    expected = [f["properties"]["building_id"] for f in found if f["properties"]["verdict"] == "existed"
                and from_geojson(json.dumps(f["geometry"])).intersects(box(west, south, east, north))]  # fmt: skip
    page = server.get(f"{API}verdicts?bbox={west},{south},{east},{north}&verdict=existed").json
    assert [f["properties"]["building_id"] for f in page["features"]] == expected
    assert page["next"] is None
    assert server.get(f"{API}verdicts?bbox=-10,-10,-9,-9").json == {
        "type": "FeatureCollection", "features": [], "next": None,
    }  # fmt: skip


def test_without_verdicts_it_is_told_what_makes_them(own):
    case, server = own
    case.paths.verified.with_suffix(".gpkg").unlink()
    refused(server.get(f"{API}verdicts"), 422, "there are no verdicts yet; run verify first")


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "path", "text", "field"),
    [
        ("POST", "generate-training?tiles=0", "greater than or equal to 1", "tiles"),
        ("POST", "generate-training?tiles=-1", "should be a whole number, in digits", "tiles"),
        ("POST", "generate-training?tiles=many", "tiles is 'many'", "tiles"),
        ("POST", "generate-training?tiles=", "should be a whole number", "tiles"),
        ("POST", "generate-training?tiles=1&tiles=2", "given twice", "tiles"),
        ("POST", "generate-training?tile=1", "tile is no parameter of this call", "tile"),
        ("POST", "generate-training?output=/etc", "output is no parameter of this call", "output"),
        ("POST", "verify?force=yes", "should be true or false", "force"),
        ("POST", "verify?if_busy=wait", "should be 'queue' or 'reject'", "if_busy"),
        ("GET", "jobs?limit=0", "greater than or equal to 1", "limit"),
        ("GET", "jobs?state=odd", "should be", "state"),
        ("GET", "jobs/1/log?offset=-5", "whole number", "offset"),
        ("GET", "verdicts?bbox=1,2,3", "four numbers", "bbox"),
        ("GET", "verdicts?bbox=2,1,1,2", "from west to east", "bbox"),
        ("GET", "verdicts?bbox=nan,0,1,1", "four numbers", "bbox"),
        ("GET", "verdicts?bbox=-200,0,1,1", "within -180,-90,180,90", "bbox"),
        ("GET", "verdicts?bbox=0,-91,1,1", "within -180,-90,180,90", "bbox"),
        ("GET", "verdicts?bbox=0,0,1,90.1", "within -180,-90,180,90", "bbox"),
        ("GET", "verdicts?verdict=gone", "should be 'existed'", "verdict"),
        ("GET", "verdicts?limit=1e9", "whole number", "limit"),
    ],
)
def test_what_is_wrong_in_an_address_is_named(server, method, path, text, field):
    refused(server.ask(method, API + path), 400, text, field)


@pytest.mark.parametrize(
    ("body", "text", "field"),
    [
        (b" ", "is no JSON", "the body"),
        (b"{", "is no JSON", "the body"),
        (b"\xff\xfe{}", "is no JSON", "the body"),
        ([], "should be an object", "the body"),
        ({}, "annotations is missing in the body", "annotations"),
        ({"annotations": 5}, "should be a valid array", "annotations"),
        ({"annotations": [5]}, "should be an object", "annotations.0"),
        ({"annotations": [{"existed": True}]}, "annotations.0.osm_id is missing", "annotations.0.osm_id"),
        ({"annotations": [{"osm_id": 1}]}, "annotations.0.existed is missing", "annotations.0.existed"),
        ({"annotations": [{"osm_id": "1", "existed": True}]}, "is '1', but it should be", "annotations.0.osm_id"),
        ({"annotations": [{"osm_id": 2**63, "existed": True}]}, "less than", "annotations.0.osm_id"),
        ({"annotations": [{"osm_id": 1, "existed": "yes"}]}, "should be a valid boolean", "annotations.0.existed"),
        (
            {"annotations": [{"osm_id": 1, "existed": True, "created_at": "0001-01-01T00:00+14:00"}]},
            "beyond the years",
            "annotations.0.created_at",
        ),
        (
            {"annotations": [{"osm_id": 1, "existed": True, "created_at": "yesterday"}]},
            "is 'yesterday', but it should be a time as ISO 8601, such as 2026-05-17T12:00:00Z",
            "annotations.0.created_at",
        ),
        ({"annotations": [{"osm_id": 1, "existed": True, "note": "x"}]}, "openapi.json", "annotations.0.note"),
        (
            {"annotations": [{"osm_id": 1, "existed": True, "osm_type": "star"}]},
            "should be 'node'",
            "annotations.0.osm_type",
        ),
    ],
)
@pytest.mark.parametrize("path", ["annotations", "apply-annotations"])
def test_what_is_wrong_in_a_body_is_named(server, case, path, body, text, field):
    before = AnnotationStore.of(case).events()
    refused(server.ask("POST", API + path, body), 400, text, field)
    assert AnnotationStore.of(case).events() == before


@pytest.mark.parametrize("number", ["999999", "0", "-1", "x", "1.5", "9" * 30])
def test_an_unknown_job_is_told(server, number):
    for method, end in (("GET", ""), ("GET", "/log"), ("POST", "/cancel"), ("POST", "/retry")):
        refused(server.ask(method, f"{API}jobs/{number}{end}"), 404, f"there is no job {number[:60]}")


def test_a_busy_queue_queues_or_rejects_as_asked(server, case, busy):
    assert server.ask("POST", f"{API}verify").status == 202
    count, events = len(Jobs(case).waiting()), AnnotationStore.of(case).events()
    for path in ("generate-training", "train", "verify"):
        refused(server.ask("POST", f"{API}{path}?if_busy=reject"), 409, f"job {busy.id} (held) is running")
    refused(server.ask("POST", f"{API}apply-annotations?if_busy=reject", ONE), 409, "nothing was saved")
    assert len(Jobs(case).waiting()) == count
    assert AnnotationStore.of(case).events() == events


def test_of_many_at_once_that_would_not_wait_one_is_taken(own):
    case, server = own
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: server.ask("POST", f"{API}apply-annotations?if_busy=reject", ONE), range(6)))
    assert {answer.status for answer in answers} == {202, 409}
    records = Jobs(case).recent(100)
    chains = sorted(record.id for record in records if record.name == "apply-annotations")
    assert len(chains) == sum(answer.status == 202 for answer in answers)
    for before, after in pairwise(chains):  # on a slow machine one may come when all is done
        assert Jobs(case).get(after - 1).record.finished <= Jobs(case).get(after).record.created, before


def test_a_job_whose_worker_is_gone_for_good_is_no_busy_one_and_can_be_run_again(own):
    case, server = own
    jobs = Jobs(case)
    lost = jobs.submit_command("lost", hold(case.paths.root / "never"))
    said(lost, "on")
    end_all(case)  # as when the machine is started anew
    assert jobs.store.get(lost.id).state == "running"
    told = server.ask("POST", f"{API}verify?if_busy=reject")
    assert told.status == 202
    assert server.ask("POST", f"{API}jobs/{lost.id}/retry").status == 202
    until(lambda: server.get(f"{API}jobs?state=crashed").json["jobs"])
    assert jobs.store.get(lost.id).state == "crashed"


def test_to_look_at_a_job_that_was_lost_has_it_tidied_up(own):
    case, server = own
    jobs = Jobs(case)
    lost = jobs.submit_command("lost", hold(case.paths.root / "never"))
    said(lost, "on")
    end_all(case)
    assert server.get(f"{API}jobs?state=running").json["jobs"] == []
    assert server.get(f"{API}jobs/{lost.id}").json["state"] == "crashed"
    until(lambda: jobs.store.get(lost.id).state == "crashed")


def test_an_idle_queue_takes_what_would_not_wait(server, case):
    until(lambda: not Jobs(case).unfinished())
    told = server.ask("POST", f"{API}verify?if_busy=reject")
    assert told.status == 202
    until(lambda: not Jobs(case).unfinished())


def test_a_step_that_lacks_what_it_needs_says_what_to_run(own):
    case, server = own
    refused(server.ask("POST", f"{API}predict"), 422, "predict needs what train makes")
    case.resolve("photo.tif").unlink()
    refused(server.ask("POST", f"{API}generate-training"), 422, "there is no such photo")


def test_a_body_that_is_too_large_is_refused_and_not_kept(tmp_path):
    with offered(tmp_path, "--HistorymapApi.largest_body=100000") as (case, server):
        body = {"annotations": [{"osm_id": 2, "existed": True, "notes": "x" * 200_000}]}
        refused(server.ask("POST", f"{API}annotations", body), 413, "more than 100000 bytes")
        refused(server.ask("POST", f"{API}verify", b"x" * 50_000_000), 413, "more than 100000 bytes")
        assert server.ask("POST", f"{API}annotations", ONE).status == 200
        assert len(AnnotationStore.of(case).events()) == 1


def test_too_many_jobs_a_minute_are_told_when_to_come_again(tmp_path):
    with offered(tmp_path, "--HistorymapApi.submissions_per_minute=2") as (case, server), held(case, tmp_path / "go"):
        assert [server.ask("POST", f"{API}verify").status for _ in range(2)] == [202, 202]
        for path, body in (("verify", None), ("apply-annotations", ONE)):
            answer = server.ask("POST", API + path, body)
            refused(answer, 429, "2 jobs a minute are taken")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert len(Jobs(case).waiting()) == 2
        assert AnnotationStore.of(case).events() == []
        assert server.ask("POST", f"{API}annotations", ONE).status == 200  # to save is no job


def test_what_queues_no_job_is_not_counted(tmp_path):
    with offered(tmp_path, "--HistorymapApi.submissions_per_minute=1") as (case, server), held(case, tmp_path / "go"):
        kept = case.paths.probability.rename(tmp_path / "kept")
        refused(server.ask("POST", f"{API}verify"), 422, "run predict first")
        kept.rename(case.paths.probability)
        assert server.ask("POST", f"{API}verify").status == 202
        assert server.ask("POST", f"{API}verify").status == 429


def test_settings_that_break_are_told_until_they_are_put_right(own):
    case, server = own
    text = case.file.read_text()
    case.file.write_text(text.replace("tiles:", "tils:"))
    answer = server.get(f"{API}status")
    refused(answer, 503, "did you mean tiles?")
    assert int(answer.headers["Retry-After"]) > 0
    assert server.get(f"{API}health").status == 200
    case.file.write_text(text)
    assert server.get(f"{API}status").status == 200


def test_a_store_that_is_no_store_is_told(own):
    case, server = own
    Jobs(case)
    jobs_db = case.paths.jobs / "jobs.db"
    for left in case.paths.jobs.glob("jobs.db*"):
        left.unlink()
    jobs_db.write_bytes(b"no database " * 1000)
    answer = server.ask("POST", f"{API}verify")
    refused(answer, 503, "is no store of jobs")


# -------------------------------------------------------------------------------------------- other configurations


def test_another_configuration_of_the_project_is_trained(server, case, busy):
    other = case.file.with_name("other.yaml")
    other.write_text(case.file.read_text().replace("count: 2", "count: 1"))
    told = server.ask("POST", f"{API}train?config=other.yaml").json
    assert Jobs(case).get(told["job_id"]).record.config == str(other)


def test_configurations_elsewhere_are_refused(server, case, tmp_path):
    outside = tmp_path / "outside.yaml"
    outside.write_text(case.file.read_text())
    (case.paths.root / "link.yaml").symlink_to(outside)
    (case.paths.root / "notes.txt").write_text(case.file.read_text())
    (case.paths.root / "round.yaml").symlink_to(case.paths.root / "round.yaml")
    (case.paths.root / "folder.yaml").mkdir()
    count = len(Jobs(case).recent(1000))
    for name in (str(outside), f"../{outside.name}", "link.yaml", "notes.txt", "round.yaml", "folder.yaml", "none.yaml",
                 "/etc/passwd", "%00.yaml", "~/x.yaml", "$HOME/x.yaml", "a" * 400 + ".yaml"):  # fmt: skip
        answer = server.ask("POST", f"{API}train?config={name}")
        refused(answer, 400, "is no settings file of the project", "config")
    for name, text in (("broken.yaml", "tiles: ["), ("misspelt.yaml", "tils: 3")):
        (case.paths.root / name).write_text(text)
        refused(server.ask("POST", f"{API}train?config={name}"), 400, name, "config")
    shutil.copy(case.file, case.paths.root / "away.yaml")
    change(case.paths.root / "away.yaml", "paths", jobs=str(tmp_path))
    refused(server.ask("POST", f"{API}train?config=away.yaml"), 400, "keeps its jobs elsewhere", "config")
    assert len(Jobs(case).recent(1000)) == count


# ------------------------------------------------------------------------------------------------------------- metrics


def figures(server):
    text = server.get("metrics").body.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("historymap_")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_are_those_of_the_stores(own):
    case, server = own
    before = figures(server)
    assert before['historymap_jobs{state="completed",step="verify"}'] == 0
    assert before['historymap_annotations{verdict="existed"}'] == 0
    counts = json.loads(case.paths.verified.read_text())["metadata"]["counts"]
    for name in ("existed", "not_existed", "unsure", "no_coverage"):
        assert before[f'historymap_verdicts{{verdict="{name}"}}'] == counts[name]
    server.ask("POST", f"{API}annotations", ONE)
    number = server.ask("POST", f"{API}verify?force=true").json["job_id"]
    record = Jobs(case).get(number).wait(PATIENCE)
    Jobs(case).submit_command("fails", quick("raise SystemExit(1)")).wait(PATIENCE)
    with held(case, case.paths.root / "go"):
        server.ask("POST", f"{API}verify")
        # a scrape waits for nothing: figures may be those of the one before
        until(lambda: figures(server)["historymap_queue_length"] == 1)
        after = figures(server)
    assert after['historymap_jobs{state="completed",step="verify"}'] == 1
    assert after['historymap_jobs{state="failed",step="command"}'] == 1
    assert after['historymap_jobs{state="running",step="command"}'] == 1
    assert after["historymap_queue_length"] == after['historymap_jobs{state="pending",step="verify"}'] == 1
    assert after['historymap_job_seconds_count{step="verify"}'] == 1
    assert after['historymap_job_seconds_sum{step="verify"}'] == pytest.approx(record.finished - record.started)
    assert after['historymap_annotations{verdict="existed"}'] == 1
    assert after["historymap_tiles_served_total"] == 0


def test_metrics_do_not_wait_for_a_store_that_somebody_keeps(own):
    case, server = own
    figures(server)
    Jobs(case)
    with sqlite3.connect(case.paths.jobs / "jobs.db", isolation_level=None) as keeper:
        keeper.execute("PRAGMA locking_mode = EXCLUSIVE")
        keeper.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        assert "historymap_queue_length" in figures(server)
        assert time.monotonic() - start < 10
        keeper.execute("ROLLBACK")
    keeper.close()


def test_health_answers_while_others_wait_for_a_store_that_somebody_keeps(own):
    case, server = own
    Jobs(case)
    with closing(sqlite3.connect(case.paths.jobs / "jobs.db", isolation_level=None)) as keeper:
        keeper.execute("PRAGMA locking_mode = EXCLUSIVE")
        keeper.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(10) as pool:
            waiting = [pool.submit(server.ask, "POST", f"{API}verify") for _ in range(10)]
            time.sleep(1)
            assert server.get(f"{API}health").status == 200
            assert server.get(f"{API}annotations").status == 200  # and so do those who only look, elsewhere
            assert not any(one.done() for one in waiting)
            keeper.execute("ROLLBACK")
            keeper.close()
            assert {one.result().status for one in waiting} == {202}


def test_broken_settings_do_not_break_metrics(own):
    case, server = own
    assert "historymap_queue_length" in figures(server)
    case.file.write_text("")
    answer = server.get("metrics")
    assert answer.status == 200
    assert b"python_info" in answer.body
    assert b"historymap_queue_length" not in answer.body  # rather than old ones


# ------------------------------------------------------------------------------------------- as the older manual has it


@pytest.mark.skipif(CURL is None, reason="there is no curl; apt-get install curl")
def test_the_calls_of_the_older_client_with_plain_curl(tmp_path):
    with judged_town(tmp_path) as case, serve(case.file) as server, held(case, tmp_path / "go"):

        def curl(*words):
            done = subprocess.run(
                [CURL, "--silent", "--show-error", "--header", f"Authorization: token {TOKEN}", *words],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            return json.loads(done.stdout)

        at = f"{server.url}/{API}"
        data = ("-H", "Content-Type: application/json", "-d", json.dumps(ONE))
        assert curl(f"{at}health")["status"] == "ok"
        assert curl(f"{at}status")["training_tiles"] == 2
        assert curl("-X", "POST", f"{at}generate-training?tiles=100")["name"] == "generate-training"
        (case.paths.root / "ml").mkdir()
        shutil.copy(case.file, case.paths.root / "ml" / "config_1937.yaml")
        change(case.paths.root / "ml" / "config_1937.yaml", "paths", root="..")
        assert curl("-X", "POST", f"{at}train?config=ml/config_1937.yaml")["name"] == "train"
        assert curl("-X", "POST", f"{at}verify")["name"] == "verify"
        assert curl("-X", "POST", f"{at}annotations", *data)["saved"] == 1
        assert curl(f"{at}annotations")["annotations"][0]["osm_id"] == 2
        assert curl("-X", "POST", f"{at}apply-annotations", *data)["name"] == "apply-annotations"
        names = [job["name"] for job in curl(f"{at}jobs")["jobs"]]
        assert names == ["verify", "apply-annotations", "verify", "train", "generate-training", "held"]
