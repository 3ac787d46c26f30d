"""A first look at a case, by the footprint network that comes with the package.

It needs no training. Training and predicting begin with it, so that all look at the same outlines in the same places.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from historymap_lib import artifacts, offsets
from historymap_lib.errors import VerificationError
from historymap_lib.first_look import CODE, file
from historymap_lib.footprint_source import source_file
from historymap_lib.imagery import open_photo, photo_files
from historymap_lib.outline_evidence import OutlineEvidence
from ml import runtime
from ml.checkpoint import OUTLINES, WEIGHTS, footprint_network
from ml.looks import Case, look_at

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.imagery import Photo
    from historymap_lib.project import Project


def look(project: Project, *, force: bool = False) -> Path:
    """Write what the network sees under the footprints of a case, and return the file.

    Args:
        project: the case.
        force: look also where the file is up to date.

    Raises:
        HistorymapError: photo or footprints cannot be used.

    """
    runtime.prepare()
    with open_photo(project) as photo:
        made_from = _made_from(project)
        if force or _known(project, made_from) is None:
            _taken(project, photo, made_from)[1].write(file(project))
    return file(project)


def look_first(project: Project, photo: Photo) -> tuple[Case, OutlineEvidence]:
    """Return the outlines of a case and the first look at them, which is taken and kept unless it is up to date.

    Raises:
        HistorymapError: photo or footprints cannot be used.

    """
    made_from = _made_from(project)
    seen = _known(project, made_from)
    if seen is not None:
        return Case.again(photo, seen), seen
    case, seen = _taken(project, photo, made_from)
    try:
        seen.write(file(project))
    except OSError as error:
        print(f"{file(project)}: cannot be written ({error}); the next step looks again")  # noqa: T201 - the user should know
    return case, seen


def _known(project: Project, made_from: str) -> OutlineEvidence | None:
    """Return the first look of a case if there is one that is up to date."""
    if not file(project).exists():
        return None
    try:
        seen = OutlineEvidence.read(file(project))
    except VerificationError:  # it is damaged, and is taken anew
        return None
    return seen if seen.made_from == made_from else None


def _taken(project: Project, photo: Photo, made_from: str) -> tuple[Case, OutlineEvidence]:
    network = runtime.place(footprint_network(), runtime.device(project.training.device))
    case = Case.of(project, photo, network)
    return case, replace(look_at(case, [network], None), made_from=made_from)


def _made_from(project: Project) -> str:
    """Return as text all that a first look depends on; it lies in its file, so that both change at once."""
    inputs = [*photo_files(project), source_file(project), project.paths.offsets, WEIGHTS / OUTLINES]
    parts = {
        "inputs": artifacts.fingerprints(inputs),
        "aligned": project.paths.offsets.exists() and offsets.up_to_date(project),
        "settings": offsets.depends_on(project) | {"resolution": project.tiles.resolution},
        "code": {module: artifacts.code_fingerprint(module) for module in CODE},
    }
    return json.dumps(parts, sort_keys=True, default=str)
