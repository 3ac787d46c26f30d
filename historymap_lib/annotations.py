"""What people have judged, in the exchange format: one judgement a building, the latest wins.

    {"annotations": [{"osm_id": 123456, "existed": true, "notes": "Verified"}], "updated_at": "..."}

`existed: null` is *unsure*. `osm_type` (without it a way), `annotator`, `created_at` and `reason` are optional on
reading and always written. A file is never written over what it cannot read.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from historymap_lib import artifacts
from historymap_lib.errors import AnnotationsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

REPLACED = "another building stood here"
"""The `reason` of a building that did not exist, though the photo shows one: another, which it has replaced."""


class Annotation(BaseModel):
    """A judgement of one building by a person."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    osm_id: int = Field(gt=0, lt=2**63)
    existed: bool | None
    osm_type: Literal["node", "way", "relation"] = "way"
    notes: str = ""
    annotator: str = ""
    created_at: str = ""
    reason: str = ""

    @field_validator("created_at")
    @classmethod
    def _a_time(cls, value: str) -> str:
        if value:
            try:
                time = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("should be a time as ISO 8601, such as 2026-05-17T12:00:00Z") from None
            try:
                time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
            except OverflowError:
                raise ValueError("is a time beyond the years 1 to 9999") from None
        return value

    @property
    def when(self) -> datetime | None:
        """The time of the judgement, in UTC where it does not say; None where it has none."""
        if not self.created_at:
            return None
        time = datetime.fromisoformat(self.created_at)
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    @property
    def building_id(self) -> str:
        """`way/123`."""
        return f"{self.osm_type}/{self.osm_id}"

    @property
    def replaced(self) -> bool:
        """Whether the person said that another building stood here."""
        return self.existed is False and self.reason == REPLACED

    @property
    def verdict(self) -> str:
        """The verdict that the person gave: existed, not_existed or unsure."""
        return {True: "existed", False: "not_existed", None: "unsure"}[self.existed]


def read(path: Path, *, missing_ok: bool = False) -> dict[str, Annotation]:
    """Return the annotations of a file by building id; where a building comes twice, the later one.

    Raises:
        AnnotationsError: the file is missing (unless that is fine), is no JSON, or an entry is wrong.
    """
    if not path.exists():
        if missing_ok:
            return {}
        raise AnnotationsError(f"{path}: there is no such file of annotations; name it with --annotations")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnnotationsError(f"{path}: is no JSON ({error}); correct it or bring back a copy") from error
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise AnnotationsError(f'{path}: holds no list "annotations"; write {{"annotations": [...]}}')
    return merge([_parse(path, index, entry) for index, entry in enumerate(entries)])


def merge(annotations: Iterable[Annotation]) -> dict[str, Annotation]:
    """Return the latest annotation of each building; without times, or with equal ones, the last in order."""
    latest: dict[str, Annotation] = {}
    for annotation in annotations:
        before = latest.get(annotation.building_id)
        if before is None or before.when is None or annotation.when is None or annotation.when >= before.when:
            latest[annotation.building_id] = annotation
    return latest


def answers_on(building_ids: NDArray[np.str_], judged: dict[str, Annotation]) -> NDArray[np.float64]:
    """Return what people say of each building (n, float64): 1 if it existed, 0 if not, nan if nobody says."""
    answers = (judged[name].existed if name in judged else None for name in building_ids.tolist())
    return np.array([np.nan if answer is None else float(answer) for answer in answers], np.float64)


def save(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write annotations, whole or not at all, with every optional field filled in."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entries = [item.model_dump() | {"created_at": item.created_at or now} for item in annotations]
    artifacts.write_json(path, {"annotations": entries, "updated_at": now})


def add(path: Path, annotations: Iterable[Annotation]) -> dict[str, Annotation]:
    """Add annotations to a file and return all that it holds then; adding the same again changes nothing."""
    known = read(path, missing_ok=True)
    merged = merge([*known.values(), *(a for a in annotations if not _same(known.get(a.building_id), a))])
    if merged != known:
        save(path, merged.values())
    return read(path, missing_ok=True)


def _same(known: Annotation | None, new: Annotation) -> bool:
    """Say whether `new` says nothing that is not known, its time left aside where it has none."""
    if known is None:
        return False
    return known == (new if new.created_at else new.model_copy(update={"created_at": known.created_at}))


def _parse(path: Path, index: int, entry: Any) -> Annotation:
    if isinstance(entry, dict):
        entry = {key: value for key, value in entry.items() if value is not None or key == "existed"}
    try:
        return Annotation.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "entry"
        raise AnnotationsError(
            f"{path}: annotation {index + 1}, {key}: {first['msg'].lower()} (is {first['input']!r}); correct it"
        ) from error
