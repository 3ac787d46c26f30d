"""The calls of the HTTP interface: one table of what can be asked, and a function each that answers.

The functions know nothing of HTTP but the status that an answer has; they run in threads, since they read files.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any

import jupyter_server

from historymap_lib import __version__, verdicts
from historymap_lib.annotation_store import AnnotationStore, as_annotation
from historymap_lib.errors import HistorymapError, SettingsError
from historymap_lib.jobs import Jobs, logs
from historymap_lib.jobs.queue import NotStartedError
from historymap_lib.jobs.store import UNFINISHED
from historymap_lib.project import load
from historymap_lib.server import messages
from historymap_lib.server.api import RequestError, as_refusal
from historymap_lib.status import read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel

    from historymap_lib.annotation_store import Imported
    from historymap_lib.jobs import Job
    from historymap_lib.jobs.store import Record
    from historymap_lib.project import Project
    from historymap_lib.server.api import HistorymapApi
    from historymap_lib.status import Item

GEOJSON = "application/geo+json"
PIECE = 200
"""Verdicts that are sent at once."""
KINDS = ("way", "relation", "node")
"""What a building may be in OpenStreetMap."""


@dataclass(frozen=True)
class Request:
    """What is asked: by whom, of which case, with what."""

    api: HistorymapApi
    who: str
    query: Any
    body: Any = None
    job: int = 0

    @property
    def project(self) -> Project:
        """The case."""
        return self.api.project()

    @property
    def jobs(self) -> Jobs:
        """Its jobs."""
        return Jobs(self.project, self.who)

    def tidy(self, stored: list[Record], told: list[Record]) -> None:
        """Have a worker tidy up where one has left jobs that run, as after the machine was started anew."""
        if any(now.ended and not record.ended for record, now in zip(stored, told, strict=False)):
            self.api.wake(self.jobs)


@dataclass(frozen=True)
class Call:
    """A call.

    Attributes:
        method: of HTTP.
        path: below `<base_url>/historymap/api/`; `{job}` is the number of a job.
        name: that of the method of the client.
        help: what it does.
        run: the function that answers: with what is sent as JSON, or with pieces of text as they come.
        answer: what it answers with.
        query, body: what it takes.
        status: of the answer.
        body_optional: whether no body means no annotations.
        at_once: whether it reads no file, and so needs no thread.
        media_type: of the answer.
        fails: further statuses that it may have, beside 400 and 403, and 422 and 503 where it reads files.

    """

    method: str
    path: str
    name: str
    help: str
    run: Callable[[Request], BaseModel | Iterator[str]]
    answer: type[BaseModel]
    query: type[messages.Query] = messages.Query
    body: type[BaseModel] | None = None
    status: int = HTTPStatus.OK
    body_optional: bool = False
    at_once: bool = False
    media_type: str = "application/json"
    fails: tuple[int, ...] = ()


def health(_: Request) -> messages.Health:
    """Say that the server lives; no file is read."""
    versions = {"historymap": __version__, "jupyter_server": jupyter_server.__version__}
    return messages.Health(versions=versions | {"python": platform.python_version()})


def status(request: Request) -> messages.StatusTold:
    """Tell where the case stands."""
    found = read_status(request.project)
    items = {item.name: item for item in found.items}
    verified = items["verdicts"]
    counts = {name: count for name, count in verified.facts.items() if type(count) is int}
    return messages.StatusTold.model_validate(
        found.as_dict()
        | {
            "training_tiles": _count(items["training tiles"], "tiles"),
            "corrected_tiles": _count(items["corrected tiles"], "tiles"),
            "model": {"exists": items["model"].exists, "metrics": items["model"].facts},
            "verification": counts if verified.exists and counts else None,
            "annotations": _count(items["annotations"], "annotations"),
            "not_applied": _count(items["annotations"], "waiting"),
            "current_job": found.current,
        }
    )


def generate_training(request: Request) -> messages.Submitted:
    """Queue generate-training."""
    return _submit(request, "generate-training")


def train(request: Request) -> messages.Submitted:
    """Queue train, perhaps of another configuration of the project."""
    project = request.project
    if request.query.config is not None:
        project = _configuration(project, request.query.config)
    return _submit(request, "train", project)


def predict(request: Request) -> messages.Submitted:
    """Queue predict."""
    return _submit(request, "predict")


def verify(request: Request) -> messages.Submitted:
    """Queue verify."""
    return _submit(request, "verify")


def jobs(request: Request) -> messages.JobPage:
    """Return the jobs of all cases that share the store, the newest first."""
    query, found = request.query, request.jobs
    wanted: list[tuple[str, Any]] = [("id < ?", query.before)] if query.before is not None else []
    wanted += [("state = ?", query.state)] if query.state is not None else []
    condition = " AND ".join(["1", *(part for part, _ in wanted)])
    records = found.store.find(condition, *(value for _, value in wanted), order="id DESC", limit=query.limit + 1)
    told = [found.files.told(record) for record in records[: query.limit]]
    request.tidy(records, told)
    shown = [_told(record) for record in told if query.state in (None, record.state)]
    return messages.JobPage(jobs=shown, next=told[-1].id if len(records) > query.limit else None)


def job(request: Request) -> messages.JobTold:
    """Return all that is known of a job."""
    found = request.jobs
    record = found.store.get(request.job)
    told = found.files.told(record)
    request.tidy([record], [told])
    return _told(told)


def job_log(request: Request) -> messages.LogPage:
    """Return a part of what a job printed."""
    found = request.jobs.get(request.job)
    record = found.jobs.store.get(found.id)  # before the log, so that of an ended job all is read
    size = found.log_path.stat().st_size if found.log_path.exists() else 0
    offset = min(request.query.offset, size)
    chunk = logs.read(found.log_path, offset, request.query.limit)
    complete = record.ended and size - offset < request.query.limit
    return messages.LogPage(
        job_id=found.id, state=_state(record), offset=offset, text=chunk.text, live=chunk.live, next=chunk.offset,
        complete=complete,
    )  # fmt: skip


def cancel_job(request: Request) -> messages.JobTold:
    """Cancel a job; it may take a moment until it has ended."""
    return _told(request.jobs.get(request.job).cancel())


def retry_job(request: Request) -> messages.Submitted:
    """Queue a job again, as a new one."""
    found = request.jobs.get(request.job)
    with request.api.submission():
        return _queued(lambda: [found.retry()])[0]


def read_annotations(request: Request) -> messages.AnnotationsTold:
    """Return what people have judged, in the exchange format."""
    store = AnnotationStore.of(request.project)
    changed = store.changed.isoformat(timespec="milliseconds")  # before reading: what comes meanwhile is told next time
    held = [as_annotation(event) for event in store.get().values()]
    return messages.AnnotationsTold(annotations=held, updated_at=changed)


def save_annotations(request: Request) -> messages.Saved:
    """Save annotations without applying them."""
    _refuse_unknown(request.project, request.body)
    return messages.Saved.model_validate(_save(request.project, request.body))


def apply_annotations(request: Request) -> messages.Applied:
    """Save annotations, then queue what makes them count."""
    project, query = request.project, request.query
    _refuse_unknown(project, request.body)
    found, reject = Jobs(project, request.who), query.if_busy == "reject"
    busy = [record for record in map(found.files.told, found.store.of(*UNFINISHED)) if not record.ended]
    if reject and busy:
        said = f"job {busy[0].id} ({busy[0].name}) is {busy[0].state}, and nothing was saved; send it again later"
        raise RequestError(HTTPStatus.CONFLICT, said)
    chain = ["apply-annotations", *(["train", "predict"] if query.retrain else []), "verify"]
    if not query.retrain and not project.paths.probability.exists() and "predict" not in found.coming():
        chain.remove("verify")  # there is nothing yet to judge by
    with request.api.submission():
        saved = _save(project, request.body)
        try:
            queued = _queued(lambda: found.submit_all(chain, force=query.force, if_idle=reject))
        except HistorymapError as error:
            refusal = as_refusal(error)
            raise RequestError(refusal.status, f"the annotations are saved, but {error}", wait=refusal.wait) from error
    return messages.Applied.model_validate(saved | {"jobs": queued} | queued[0].model_dump())


def read_verdicts(request: Request) -> Iterator[str]:
    """Yield a FeatureCollection in pieces."""
    query: messages.VerdictsQuery = request.query
    table = verdicts.table(request.project)
    found = verdicts.features(table, bbox=query.area, verdict=query.verdict, after=query.after)
    piece = list(islice(found, min(PIECE, query.limit)))  # before a word is said: what cannot be read is no answer
    begin, left, last = '{"type": "FeatureCollection", "features": [', query.limit, query.after
    while piece:
        left, last = left - len(piece), piece[-1][0]
        yield begin + ",\n".join(json.dumps(feature, ensure_ascii=False) for _, feature in piece)
        begin, piece = ",\n", list(islice(found, min(PIECE, left)))
    more = left == 0 and next(found, None) is not None
    yield f'{begin if left == query.limit else ""}], "next": {last if more else "null"}}}\n'


def _submit(request: Request, step: str, project: Project | None = None) -> messages.Submitted:
    query: messages.Submission = request.query
    found = Jobs(project or request.project, request.who)
    chain, reject = [(step, query.parameters())], query.if_busy == "reject"
    with request.api.submission():
        return _queued(lambda: found.submit_all(chain, force=query.force, if_idle=reject))[0]


def _queued(submit: Callable[[], list[Job]]) -> list[messages.Submitted]:
    """Queue jobs, and tell what became of them; those for which no worker starts are queued all the same."""
    said = None
    try:
        queued = submit()
    except NotStartedError as error:
        queued, said = error.jobs, str(error)
    return [_submitted(job.record, said) for job in queued]


def _submitted(record: Record, said: str | None) -> messages.Submitted:
    state = "queued" if record.state == "pending" else record.state
    said = said or f"{record.name} is {state}; historymap/api/jobs/{record.id}/log shows what it does"
    return messages.Submitted(job_id=record.id, name=record.name, status=_state(record), message=said)


def _count(item: Item, name: str) -> int:
    """Return a number that a manifest should hold, or 0."""
    found = item.facts.get(name)
    return found if isinstance(found, int) else 0


def _state(record: Record) -> Any:
    """Return the state, which pydantic compares with those there are."""
    return record.state


def _told(record: Record) -> messages.JobTold:
    return messages.JobTold.model_validate(record.as_dict())


def _configuration(project: Project, named: str) -> Project:
    """Return the case of another YAML of the project, whose jobs are kept in the same place.

    Raises:
        RequestError: there is none of this name, or it lies elsewhere, or leads elsewhere.

    """
    root = project.paths.root.resolve()
    wrong = RequestError(
        HTTPStatus.BAD_REQUEST,
        f"{named!r} is no settings file of the project; give a path below its folder, such as ml/config_1937.yaml",
        field="config",
    )
    if "\0" in named or not named.endswith((".yaml", ".yml")):
        raise wrong
    try:
        file = (root / named).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            raise wrong
        other = load(file)
    except SettingsError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, str(error), field="config") from error
    except (OSError, RuntimeError, ValueError):  # a name too long, links that go round
        raise wrong from None
    if other.paths.jobs.resolve() != project.paths.jobs.resolve():
        said = f"{named} keeps its jobs elsewhere ({other.paths.jobs}); serve it by a server of its own"
        raise RequestError(HTTPStatus.BAD_REQUEST, said, field="config")
    return other


def _refuse_unknown(project: Project, body: messages.Annotations) -> None:
    """Raise RequestError where a building is none of the case; before it has verdicts nobody can tell.

    One that was taken then is known, so that what was read can be sent back, and corrected.
    """
    if not verdicts.has_any(project):
        return
    known = verdicts.building_ids(project)
    if all(entry.building_id in known for entry in body.annotations):
        return
    known |= AnnotationStore.of(project).get().keys()
    for index, entry in enumerate(body.annotations):
        if entry.building_id not in known:
            others = [name for kind in KINDS if (name := f"{kind}/{entry.osm_id}") in known]
            said = f"{entry.building_id} is no building of the case, and nothing was saved; "
            said += f"give the osm_type of {others[0]}" if others else "correct it"
            raise RequestError(HTTPStatus.NOT_FOUND, said, field=f"annotations.{index}.osm_id")


def _save(project: Project, body: messages.Annotations) -> dict[str, int]:
    store = AnnotationStore.of(project)
    done: Imported = store.absorb(body.annotations, said_now=True)
    total = sum(store.counts().values())
    return {"saved": done.new, "known": done.known, "total": total, "not_applied": store.pending()}


def _submits(name: str, text: str, run: Callable[[Request], BaseModel], query: type[messages.Query]) -> Call:
    return Call(
        "POST", name, name.replace("-", "_"), text, run, messages.Submitted, query, status=HTTPStatus.ACCEPTED,
        fails=QUEUES,
    )  # fmt: skip


OF_A_JOB = (HTTPStatus.NOT_FOUND,)
CHANGES_A_JOB = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
TAKES_A_BODY = (HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
QUEUES = (HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.TOO_MANY_REQUESTS)
CALLS = (
    Call("GET", "health", "health", "whether the server lives", health, messages.Health, at_once=True),
    Call("GET", "status", "status", "what there is, how good and how old, and what comes next", status,
         messages.StatusTold),
    _submits("generate-training", "queue: cut training tiles", generate_training, messages.Generating),
    _submits("train", "queue: train the model", train, messages.TrainingQuery),
    _submits("predict", "queue: predict the probability of building", predict, messages.Submission),
    _submits("verify", "queue: judge all buildings", verify, messages.Verifying),
    Call("POST", "apply-annotations", "apply_annotations", "save annotations, then queue what makes them count",
         apply_annotations, messages.Applied, messages.Applying, messages.Annotations, HTTPStatus.ACCEPTED,
         body_optional=True, fails=(*QUEUES, *TAKES_A_BODY)),
    Call("GET", "jobs", "jobs", "jobs, the newest first", jobs, messages.JobPage, messages.JobsQuery),
    Call("GET", "jobs/{job}", "job", "one job", job, messages.JobTold, fails=OF_A_JOB),
    Call("GET", "jobs/{job}/log", "log", "what a job printed, in pages", job_log, messages.LogPage,
         messages.LogQuery, fails=OF_A_JOB),
    Call("POST", "jobs/{job}/cancel", "cancel", "end a job, or take it out of the queue", cancel_job,
         messages.JobTold, status=HTTPStatus.ACCEPTED, fails=CHANGES_A_JOB),
    Call("POST", "jobs/{job}/retry", "retry", "queue a job that has ended again", retry_job,
         messages.Submitted, status=HTTPStatus.ACCEPTED, fails=(*CHANGES_A_JOB, *QUEUES)),
    Call("GET", "annotations", "annotations", "what people have judged", read_annotations, messages.AnnotationsTold),
    Call("POST", "annotations", "save_annotations", "save annotations without applying them", save_annotations,
         messages.Saved, body=messages.Annotations, fails=TAKES_A_BODY),
    Call("GET", "verdicts", "verdicts", "verdicts as GeoJSON, in pages", read_verdicts, messages.VerdictPage,
         messages.VerdictsQuery, media_type=GEOJSON),
)  # fmt: skip
"""All that can be asked, beside the logs by WebSocket."""
