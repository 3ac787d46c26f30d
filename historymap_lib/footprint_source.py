"""Today's buildings of a case, from whatever source its settings name.

What comes from a server is kept beside the case as a snapshot, and used until somebody asks for a fresh one: so a case
gives the same tomorrow.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock
from pyproj import Transformer

from historymap_lib import artifacts, footprints, overpass
from historymap_lib.errors import FootprintsError
from historymap_lib.http import Client, Unusable, text_of
from historymap_lib.imagery import area_of
from historymap_lib.settings import FileFootprints, OverpassFootprints

if TYPE_CHECKING:
    from pathlib import Path

    from shapely import Polygon

    from historymap_lib.http import Answer
    from historymap_lib.project import Project

Bounds = tuple[float, float, float, float]
STEP = "footprints"
CODE = ("historymap_lib.overpass",)
AROUND = 100.0
"""Metres around the area that are asked for, so that the area may be moved a little."""


def load_footprints(project: Project, area: Polygon | None = None) -> footprints.Footprints:
    """Read today's buildings of a case, those that touch `area` (in its CRS) where one is given.

    Raises:
        FootprintsError: they cannot be read, or none lies in the area.
        SourceError: a server does not give them.
    """
    path = source_file(project)
    found = read(project, path, area)
    if found.frame.empty:
        raise FootprintsError(
            f"{path}: none of the {found.counts['read']} buildings lies in the area of the photo; "
            f"photo and footprints must overlap, and area.bounds in {project.file} must lie on both"
        )
    return found


def read(project: Project, path: Path, area: Polygon | None = None) -> footprints.Footprints:
    """Read a file as the settings of a case say.

    Raises:
        FootprintsError: it cannot be read.
    """
    source = project.footprints
    layer, id_field = (source.layer, source.id_field) if isinstance(source, FileFootprints) else (None, None)
    return footprints.load(path, crs=project.crs, area=area, layer=layer, id_field=id_field)


def source_file(project: Project) -> Path:
    """Return the file that the buildings are read from, after fetching a snapshot where there is none for the area.

    Raises:
        FootprintsError: there is no building in the area.
        SourceError: a server does not give them.
    """
    path = project.footprint_file
    if project.footprints.is_remote:
        with locked(path):
            if not serves(project, path):
                fetch(project, path)
    return path


def locked(path: Path) -> FileLock:
    """Return a lock: one process at a time fetches a snapshot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))


def serves(project: Project, path: Path) -> bool:
    """Say whether a snapshot is there, from this source, and covers the area."""
    told = artifacts.read_manifest(path)
    if told is None or not path.exists() or told.get("size") != path.stat().st_size:
        return False
    if told.get("settings") != project.settings("footprints"):
        return False
    if isinstance(project.footprints, FileFootprints):
        return True
    wanted, there = _bounds(project), told.get("bounds") or [0, 0, 0, 0]
    return bool(there[0] <= wanted[0] and there[1] <= wanted[1] and wanted[2] <= there[2] and wanted[3] <= there[3])


def fetch(project: Project, path: Path) -> None:
    """Bring a fresh snapshot from the server; the old one stays where that cannot be done.

    Raises:
        FootprintsError: there is no building in the area, or what came cannot be read.
        SourceError: the server does not give them.
    """
    source = project.footprints
    print(f"footprints: asking {urlsplit(source.path).hostname} for today's buildings")  # noqa: T201 - it takes a while
    with artifacts.replacing(path) as partial:
        told: dict[str, Any]
        if isinstance(source, OverpassFootprints):
            bounds = _bounds(project, AROUND)
            found = overpass.fetch(source, bounds, project.file)
            found.write(partial)
            told = {"bounds": bounds, "snapshot": min(found.dates), "server": found.server}
        else:
            client = Client(source.access, project.file)
            answer = client.ask(source.path, check=_no_page, into=partial)
            told = {"snapshot": _date(answer), "server": source.path}
            _check(project, partial)
        size = partial.stat().st_size
    settings = project.settings("footprints")
    artifacts.write_manifest(path, step=STEP, inputs=[], settings=settings, parameters={}, code=CODE, size=size, **told)


def _date(answer: Answer) -> str:
    """Return when a file was changed last (ISO 8601, UTC), or nothing where the server does not say."""
    try:
        return parsedate_to_datetime(answer.headers.get("Last-Modified", "")).isoformat()
    except ValueError:
        return ""


def _no_page(answer: Answer) -> None:
    """Refuse a web page: a login, say, or a list of files."""
    if answer.type == "text/html" or answer.body[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise Unusable(f"gives a web page where a file was asked for: {text_of(answer.body)}")
    if not answer.body:
        raise Unusable("gives an empty file", again=True)


def _check(project: Project, path: Path) -> None:
    """Read a file that has come, as far as the area goes: better an error now than a snapshot that is none."""
    try:
        read(project, path, area_of(project))
    except FootprintsError as error:
        source = project.footprints.path
        raise FootprintsError(str(error).replace(str(path), source)) from None


def _bounds(project: Project, around: float = 0.0) -> Bounds:
    """Return the area with so many metres around it, in degrees."""
    west, south, east, north = area_of(project).bounds
    to_degrees = Transformer.from_crs(project.crs, "EPSG:4326", always_xy=True)
    found = to_degrees.transform_bounds(west - around, south - around, east + around, north + around)
    return float(found[0]), float(found[1]), float(found[2]), float(found[3])
