"""What goes over HTTP, as pydantic models: they check what comes in, and the OpenAPI document is made of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema

from historymap_lib.annotations import Annotation

LARGEST = 2**53 - 1
"""The largest whole number that every reader of JSON knows exactly."""
PAGE, LARGEST_PAGE = 1000, 100_000
"""Verdicts in an answer, if nothing else is asked for, and at most."""
LOG_PAGE = 1 << 20
"""Bytes of a log in an answer, at most."""

StepName = Literal["generate-training", "train", "predict", "verify", "apply-annotations"]
BOX = r"^-?[0-9]{1,3}(\.[0-9]{1,20})?(,-?[0-9]{1,3}(\.[0-9]{1,20})?){3}$"
State = Literal["pending", "running", "cancelling", "cancelled", "completed", "failed", "crashed"]
Verdict = Literal["existed", "not_existed", "unsure", "no_coverage"]


def _whole(value: Any) -> Any:
    """Refuse what Python takes for a number and the schema does not: signs, blanks, underscores, other digits."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,20}", value):
        raise ValueError("should be a whole number, in digits")
    return value


def _truth(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise ValueError("should be true or false")
        return value == "true"
    return value


Whole = BeforeValidator(_whole)
Number = Annotated[int, Field(ge=1, le=LARGEST), Whole]
Natural = Annotated[int, Field(ge=0, le=LARGEST), Whole]
Truth = Annotated[bool, BeforeValidator(_truth)]


class Query(BaseModel):
    """The parameters of an address; unknown ones are refused, since a misspelt one would be left out in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Submission(Query):
    """What every job can be asked with."""

    if_busy: Literal["queue", "reject"] = Field(
        "queue", description="what to do while a job is queued or running: queue behind it, or answer 409"
    )
    force: Truth = Field(default=False, description="run it even if what it makes is up to date")

    def parameters(self) -> dict[str, Any]:
        """Return those of the step that were given."""
        return {
            name: value
            for name, value in self
            if name not in Submission.model_fields and name not in ("config", "retrain") and value is not None
        }


class Generating(Submission):
    """The parameters of generate-training."""

    tiles: Number | None = Field(
        default=None,
        description="how many tiles, the most useful first (default: tiles.count of the settings, 50 unless set)",
    )


class TrainingQuery(Submission):
    """The parameters of train."""

    config: str | None = Field(
        None, max_length=500, description="another YAML of the project, such as ml/config_1937.yaml (default: the case)"
    )
    epochs: Number | None = Field(default=None, description="how many epochs")
    resume: Truth | None = Field(default=None, description="go on where a training was cut off")


class Verifying(Submission):
    """The parameters of verify."""

    quick: Truth | None = Field(
        default=None, description="a first look before any training, by the weights that come with the package"
    )


class Applying(Submission):
    """The parameters of apply-annotations."""

    retrain: Truth = Field(default=False, description="train, predict and judge anew with the corrected tiles")


class JobsQuery(Query):
    """Which jobs, the newest first."""

    limit: Annotated[int, Field(ge=1, le=1000), Whole] = Field(default=10, description="at most so many")
    before: Number | None = Field(default=None, description="only those before this number")
    state: State | None = Field(default=None, description="only those in this state")


class LogQuery(Query):
    """Which part of a log."""

    offset: Natural = Field(default=0, description="byte from which on to read")
    limit: Annotated[int, Field(ge=1024, le=LOG_PAGE), Whole] = Field(
        default=LOG_PAGE, description="bytes to read at most"
    )


def _box(value: str) -> str:
    if not re.fullmatch(BOX.strip("^$"), value):
        raise ValueError("should be four numbers: west,south,east,north in degrees")
    west, south, east, north = map(float, value.split(","))
    if west > east or south > north:
        raise ValueError("should go from west to east and from south to north")
    if west < -180 or south < -90 or east > 180 or north > 90:  # noqa: PLR2004 - degrees
        raise ValueError("should lie within -180,-90,180,90")
    return value


Box = Annotated[
    str,
    BeforeValidator(_box),
    WithJsonSchema({"type": "string", "pattern": BOX, "examples": ["10.38,63.42,10.44,63.44"]}),
]


class VerdictsQuery(Query):
    """Which verdicts."""

    bbox: Box | None = Field(
        None, description="only buildings that touch west,south,east,north, in degrees (EPSG:4326)"
    )
    verdict: Verdict | None = Field(default=None, description="only those of this verdict")
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE), Whole] = Field(default=PAGE, description="at most so many")
    after: Natural = Field(default=0, description="only those after this number in the file; see `next`")

    @property
    def area(self) -> tuple[float, float, float, float] | None:
        """The box as numbers."""
        if self.bbox is None:
            return None
        west, south, east, north = map(float, self.bbox.split(","))
        return west, south, east, north


def _given(value: Any) -> Any:
    """Take null for not given, as when a file is read."""
    return "" if value is None else value


def _integer(value: Any) -> Any:
    """Take 5.0 for 5, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


TEXT = {"type": ["string", "null"], "default": ""}
Text = Annotated[str, BeforeValidator(_given), WithJsonSchema(TEXT)]
Time = Annotated[
    str,
    BeforeValidator(_given),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"enum": ["", None]}], "default": ""}),
]
OsmType = Annotated[
    Literal["node", "way", "relation"],
    BeforeValidator(lambda value: "way" if value is None else value),
    WithJsonSchema({"enum": ["node", "way", "relation", None], "default": "way"}),
]


class AnnotationSent(Annotation):
    """A judgement of one building by a person; `existed` is null for *unsure*."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    osm_id: Annotated[int, Field(gt=0, lt=2**63), BeforeValidator(_integer)]
    osm_type: OsmType = "way"
    notes: Text = ""
    annotator: Text = ""
    created_at: Time = ""
    reason: Text = ""


class Annotations(BaseModel):
    """The exchange format of annotations."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    annotations: Annotated[list[AnnotationSent], FailFast()]
    updated_at: str | None = None


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class Problem(Answer):
    """What is wrong, where, and what to do."""

    message: str
    field: str | None = Field(default=None, description="what is wrong, such as tiles or annotations.0.osm_id")


class Health(Answer):
    """The server lives."""

    status: Literal["ok"] = "ok"
    versions: dict[str, str]


class JobTold(Answer):
    """A job. Times are ISO 8601."""

    id: int
    name: str = Field(description="the step, or what a command was called")
    state: State
    config: str
    case_name: str
    command: list[str]
    folder: str
    parameters: dict[str, Any]
    result: str | None = Field(description="what must be there when it has completed")
    after: int | None = Field(description="the job that must have completed before it starts")
    submitted_by: str
    cancelled_by: str | None
    created: str
    started: str | None
    finished: str | None
    duration: str
    exit_code: int | None
    error: str | None
    progress: dict[str, Any] = Field(description="`done`, `total`, `unit`, `message`, as far as known")


class Submitted(Answer):
    """A job that was queued."""

    job_id: int
    name: str
    status: State
    message: str


class Saved(Answer):
    """What became of annotations that were sent."""

    saved: int = Field(description="how many say something new")
    known: int = Field(description="how many say what was known already")
    total: int = Field(description="buildings that are judged now")
    not_applied: int = Field(description="changes that apply-annotations has not seen yet")


class Applied(Saved, Submitted):
    """The same, with the first of the jobs, and all of them."""

    jobs: list[Submitted]


class JobPage(Answer):
    """Jobs, the newest first."""

    jobs: list[JobTold]
    next: int | None = Field(description="`before` of the page that follows; null where there is none")


class LogPage(Answer):
    """A part of a log: finished lines, and the line that is being written."""

    job_id: int
    state: State
    offset: int
    text: str
    live: str = Field(description="as it shows now; it comes again, finished, with a later page")
    next: int = Field(description="`offset` of the page that follows")
    complete: bool = Field(description="the job has ended, and this is the last page")


class ItemTold(Answer):
    """One thing that a step makes, or that people bring."""

    name: str
    path: str
    step: str | None
    exists: bool
    made_at: str | None
    text: str
    facts: dict[str, Any]
    outdated: str | None
    size: int = Field(description="bytes on the disk")


class ModelTold(Answer):
    """The model."""

    exists: bool
    metrics: dict[str, Any]


class StatusTold(Answer):
    """Where a case stands."""

    case: str
    training_tiles: int
    corrected_tiles: int
    model: ModelTold
    verification: dict[str, int] | None = Field(description="how many buildings became what; null before verify")
    annotations: int = Field(description="buildings that people have judged")
    not_applied: int = Field(description="changes of annotations that apply-annotations has not seen yet")
    current_job: JobTold | None
    jobs: list[JobTold] = Field(description="the last ten")
    items: list[ItemTold]
    due: StepName | None = Field(description="the step that comes next")
    next: str
    size: int
    odd: list[str] = Field(description="what could not be read")


class AnnotationsTold(Answer):
    """The exchange format, as it is read."""

    annotations: list[Annotation]
    updated_at: str


class FeatureTold(Answer):
    """A building and its verdict."""

    type: Literal["Feature"]
    geometry: dict[str, Any]
    properties: dict[str, Any]


class VerdictPage(Answer):
    """A FeatureCollection (EPSG:4326)."""

    type: Literal["FeatureCollection"]
    features: list[FeatureTold]
    next: int | None = Field(description="`after` of the page that follows; null where there is none")


class Job(BaseModel):
    """The number of a job in an address."""

    job: Number = Field(description="the number of a job")
