"""Today's buildings of a case, from whatever source its settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from historymap_lib import footprints
from historymap_lib.errors import FootprintsError

if TYPE_CHECKING:
    from shapely import Polygon

    from historymap_lib.project import Project


def load_footprints(project: Project, area: Polygon | None = None) -> footprints.Footprints:
    """Read today's buildings of a case, those that touch `area` (in its CRS) where one is given.

    Raises:
        FootprintsError: they cannot be read, or none lies in the area.
    """
    source = project.footprints
    if source.source != "file":
        raise FootprintsError(
            f"{project.file}: footprints.source {source.source} cannot be read by this version; "
            "save the buildings as GeoJSON, GeoPackage or .osm.pbf and name it with source: file and path"
        )
    path = project.resolve(source.path)
    found = footprints.load(path, crs=project.crs, area=area, layer=source.layer, id_field=source.id_field)
    if found.frame.empty:
        raise FootprintsError(
            f"{path}: none of the {found.counts['read']} buildings lies in the area of the photo; "
            f"photo and footprints must overlap, and area.bounds in {project.file} must lie on both"
        )
    return found
