"""A first look at a case, by the footprint network that comes with the package.

It needs no training, and is where training and predicting begin: with the same outlines, where this network sees them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from historymap_lib import artifacts
from historymap_lib.errors import VerificationError
from historymap_lib.first_look import NAME, file
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

NETWORKS = ("chips", "first_look", "footprint_network", "footprint_training", "looks", "registration")
LIBRARY = (
    *("alignment", "footprints", "imagery", "misfits", "offsets", "outline_evidence", "phantoms", "shift_field"),
    "surroundings",
)
CODE = (*(f"ml.{name}" for name in NETWORKS), *(f"historymap_lib.{name}" for name in LIBRARY))


def look(project: Project) -> Path:
    """Write what the network sees under the footprints of a case unless that is up to date, and return the file.

    Raises:
        HistorymapError: photo or footprints cannot be used.

    """
    runtime.prepare()
    with open_photo(project) as photo:
        look_first(project, photo)
    return file(project)


def look_first(project: Project, photo: Photo) -> tuple[Case, OutlineEvidence]:
    """Return the outlines of a case and the first look at them, which is taken now unless it is up to date.

    Raises:
        HistorymapError: photo or footprints cannot be used.

    """
    path, made_from = file(project), _made_from(project)
    code = {module: artifacts.code_fingerprint(module) for module in CODE}
    known = artifacts.read_manifest(path) or {}
    if all(known.get(name) == value for name, value in (made_from | {"code": code}).items()):
        try:
            seen = OutlineEvidence.read(path)
        except VerificationError:
            pass  # it is missing or damaged, and is taken anew
        else:
            return Case.again(photo, seen), seen
    network = runtime.place(footprint_network(), runtime.device(project.training.device))
    case = Case.of(project, photo, network)
    seen = look_at(case, [network], None)
    seen.write(path)
    artifacts.write_manifest(path, step=NAME, code=CODE, parameters={}, **made_from)
    return case, seen


def _made_from(project: Project) -> dict[str, Any]:
    inputs = [*photo_files(project), source_file(project), project.paths.offsets, WEIGHTS / OUTLINES]
    return {
        "inputs": artifacts.fingerprints(inputs),
        "settings": project.settings("area", "photo", "footprints", "tiles"),
    }
