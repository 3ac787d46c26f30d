"""Step 5, apply-annotations: annotations + training tiles -> corrected tiles, then `verify` again.

Every tile that an annotated building touches is written anew below `paths.corrected`, with all that is known of it; the
originals stay as they are, and `train` takes the corrected tile in place of its original. *existed* draws the footprint
into the mask; *not existed* takes it out, but not the ground that it shares with a neighbour which stands; *unsure*
makes it ignored. Without photo no pixel is ever labelled. The corrected tiles are always made from the originals, so
applying twice, or after a change of mind, gives what the annotations say now.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.transform import from_bounds
from shapely import STRtree, box

from historymap_lib import artifacts, first_look
from historymap_lib.annotation_store import add as add_annotations
from historymap_lib.annotation_store import settled, store_path
from historymap_lib.annotations import read as read_annotations
from historymap_lib.errors import AnnotationsError, TrainingDataError
from historymap_lib.footprint_source import load_footprints
from historymap_lib.offsets import placed
from historymap_lib.progress import track
from historymap_lib.training_data import (
    IGNORE,
    PARTS,
    draw_sheet,
    read_metadata,
    read_tile,
    refuse_foreign,
    write_raster,
)
from historymap_lib.verification import Verified, verify
from historymap_lib.windows import burn

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd

    from historymap_lib.annotations import Annotation
    from historymap_lib.project import Project

STEP = "apply-annotations"
CODE = tuple(
    f"historymap_lib.{name}"
    for name in ("corrections", "annotations", "annotation_store", "footprints", "footprints_osm", "offsets", "windows")
)


@dataclass(frozen=True)
class Applied:
    """What `apply` made."""

    folder: Path
    tiles: list[str]
    unknown: list[str]
    verified: Verified | None
    summary: str


def apply(
    project: Project, *, file: Path | None = None, output: Path | None = None, again: bool = True, picture: bool = True
) -> Applied:
    """Correct the training tiles by all annotations of a case, then verify again.

    Args:
        project: the case.
        file: annotations to add to those of the case first (`paths.annotations`), where they are kept.
        output: where the corrected tiles go, instead of `paths.corrected`.
        again: verify afterwards, if there are probabilities to do it with, or else a first look.
        picture: draw the corrected tiles and the map of verdicts.

    Raises:
        HistorymapError: annotations, footprints or tiles are missing or damaged, or there is no annotation.

    """
    paths = project.paths
    folder = (output or paths.corrected).resolve()
    refuse_foreign(folder, STEP)
    tiles = read_metadata(paths.training)
    if not tiles:
        raise TrainingDataError(f"{paths.training}: holds no training tiles; run generate-training first")
    judged = _gather(project, file)
    bounds = np.array([tile["bounds"] for tile in tiles])
    area = box(*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0))
    frame = placed(project, load_footprints(project, area).frame)
    known = set(frame["building_id"]) & set(judged)
    _correct(project, folder, tiles, frame, judged)
    done = [item["tile"] for item in read_metadata(folder)]
    if picture:
        draw_sheet(folder)
    unknown = sorted(set(judged) - known)
    verified = _verified(project, picture=picture) if again else None
    text = f"{len(judged)} annotations corrected {len(done)} of {len(tiles)} tiles in {folder}"
    if unknown:
        text += f"; {len(unknown)} name no building of the tiles' area: {', '.join(unknown[:3])}"
    return Applied(folder, done, unknown, verified, text)


def _verified(project: Project, *, picture: bool) -> Verified | None:
    """Judge all buildings anew by what there is to do it with."""
    if project.paths.probability.exists():
        return verify(project, picture=picture)
    return verify(project, quick=True, picture=picture) if first_look.file(project).exists() else None


def _gather(project: Project, file: Path | None) -> dict[str, Annotation]:
    """Return all annotations of the case, after adding those of `file` to them."""
    known = project.paths.annotations
    if file is not None and file.resolve() != known.resolve():
        if entries := read_annotations(file):
            return add_annotations(project, entries.values())
    elif store_path(project).exists():
        return settled(project)  # none at all, if all were undone
    elif entries := read_annotations(known):
        return entries
    raise AnnotationsError(f"{file or known}: holds no annotation; judge a building first")


def _correct(
    project: Project, folder: Path, tiles: list[dict[str, Any]], frame: gpd.GeoDataFrame, judged: dict[str, Annotation]
) -> None:
    """Write the corrected tiles to `folder`, replacing it as a whole."""
    tree = STRtree(frame.geometry.to_numpy())
    with artifacts.replacing_folder(folder) as partial:
        for part in PARTS:
            (partial / part).mkdir()
        corrected = 0
        for tile in track(tiles, "corrections", unit="tile"):
            inside = frame.iloc[np.sort(tree.query(box(*tile["bounds"]), predicate="intersects"))]
            touched = inside.geometry[inside["building_id"].isin(list(judged))]
            if any(_overlaps(shape, tile["bounds"]) for shape in touched):
                _correct_tile(project.paths.training, partial, tile, inside, judged)
                corrected += 1
        artifacts.write_manifest(
            partial,
            step=STEP,
            inputs=[
                project.paths.training,
                project.paths.annotations,
                project.footprint_file,
                project.paths.offsets,
            ],
            settings=project.settings("footprints"),
            parameters={},
            code=CODE,
            tiles=corrected,
        )


def _overlaps(shape: Any, bounds: list[float]) -> bool:
    """Say whether a footprint covers ground of a tile; a common edge is none."""
    return bool(shape.intersection(box(*bounds)).area > 0)


def _correct_tile(
    source: Path, target: Path, tile: dict[str, Any], inside: gpd.GeoDataFrame, judged: dict[str, Annotation]
) -> None:
    """Write one corrected tile: image and building index as they were, mask and metadata corrected."""
    name = tile["tile"]
    image, mask = read_tile(source, name, "images", "masks")
    # the photo shows another building there, whose outline nobody knows: nothing to learn from, one way or the other
    labels = {key: "unsure" if value.replaced else value.verdict for key, value in judged.items()}
    verdicts = inside["building_id"].map(labels).fillna("")
    corrected = correct_mask(mask, image > 0, inside.geometry.to_numpy(), verdicts.to_numpy(), tile["bounds"])
    for part in ("images", "buildings"):
        shutil.copy2(source / part / f"{name}.tif", target / part)
    write_raster(target / "masks" / f"{name}.tif", corrected, tile["bounds"], tile["crs"])
    changed = {
        "annotated": {item: judged[item].verdict for item in inside["building_id"] if item in judged},
        "changed_pixels": int((corrected != mask).sum()),
    }
    text = json.dumps(tile | changed, indent=2)
    (target / "metadata" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def correct_mask(
    mask: np.ndarray, on_photo: np.ndarray, shapes: np.ndarray, verdicts: np.ndarray, bounds: list[float]
) -> np.ndarray:
    """Return the mask (uint8: 0, 1, 255) with the verdicts drawn in.

    Args:
        mask: the original (height x width, uint8).
        on_photo: where the photo has data (bool, the same shape); elsewhere nothing is labelled.
        shapes: all footprints that touch the tile, also those nobody has judged (shapely, CRS of `bounds`).
        verdicts: existed, not_existed, unsure or "" of each.
        bounds: west, south, east, north of the tile.

    """
    height, width = mask.shape
    west, south, east, north = bounds
    transform = from_bounds(west, south, east, north, width, height)

    def drawn(which: np.ndarray) -> np.ndarray:
        return burn(shapes[which], None, mask.shape, transform, np.uint8) > 0

    standing = drawn(verdicts == "") & (mask != 0)
    corrected = mask.copy()
    corrected[drawn(verdicts == "not_existed") & ~standing] = 0
    corrected[drawn(verdicts == "unsure") & ~standing] = IGNORE
    corrected[drawn(verdicts == "existed")] = 1
    corrected[~on_photo] = IGNORE
    return corrected
