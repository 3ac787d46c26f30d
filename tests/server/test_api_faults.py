"""The HTTP interface on bad days: a disk that is full, with and without a way out."""

from __future__ import annotations

import pytest
from api_fixtures import API, MANY, held, offered
from job_fixtures import small_disk, until
from server_fixtures import TOKEN

from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.client import Client, RefusedError
from historymap_lib.jobs import Jobs

TRIES = 300
"""Requests that are enough to use up what room is left within the files of a store."""


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with small_disk(tmp_path_factory.mktemp("small") / "disk", "8m") as disk, offered(disk / "town", MANY) as found:
        yield found


def fill(case):
    """Take all the room there is on the disk of a case; return the file that does."""
    path = case.paths.root / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return path
    raise AssertionError("the disk has no end")


def judgement(number):
    return {"annotations": [{"osm_id": 1 + number % 30, "existed": bool(number % 2), "notes": f"said {number}" * 20}]}


def later(answer):
    """See that an answer says that there is no room, and when to ask again."""
    assert (answer.status, answer.kind) == (503, "application/json")
    assert int(answer.headers["Retry-After"]) > 0
    said = answer.json["message"]
    assert any(word in said for word in ("make room", "full", "No space left"))
    assert "Traceback" not in said


def test_annotations_on_a_full_disk_are_refused_until_there_is_room_and_none_that_was_taken_is_lost(town):
    case, server = town
    taken, number = [], 0

    def send():
        nonlocal number
        number += 1
        answer = server.ask("POST", f"{API}annotations", judgement(number))
        if answer.status == 200:
            taken.append(judgement(number)["annotations"][0]["notes"])
        return answer

    for _ in ("there is no store yet", "there is one"):
        ballast = fill(case)
        later(next(answer for answer in (send() for _ in range(TRIES)) if answer.status != 200))
        assert server.get(f"{API}health").status == 200
        ballast.unlink()
        assert send().status == 200
    assert [event.notes for event in AnnotationStore.of(case).events()] == taken


def test_jobs_on_a_full_disk_are_refused_until_there_is_room_and_the_client_is_told(town, tmp_path):
    case, server = town
    with held(case, tmp_path / "go"), Client(server.url, TOKEN) as client:
        ballast, queued = fill(case), []
        with pytest.raises(RefusedError, match=r"make room|full|No space left") as refused:
            queued.extend(client.verify()["job_id"] for _ in range(TRIES))
        assert refused.value.status == 503
        assert server.get(f"{API}health").status == 200
        assert server.get("metrics").status == 200
        ballast.unlink()
        queued.append(client.verify()["job_id"])
        assert [record.id for record in Jobs(case).waiting()] == queued
    until(lambda: not Jobs(case).unfinished())
