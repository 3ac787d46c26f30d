"""Step 4, verify: probabilities + footprints + annotations -> a verdict for each building.

The score of a building is the mean probability under its footprint, laid where the photo shows it (`alignment`). Scores
become probabilities by comparing them with those of phantoms (`calibration`), since a model that has learned from
labels of which many are wrong is timid, and 0.5 means nothing to it. A person's annotation always wins, and also tells
what to think of buildings like that one.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from shapely import box

from historymap_lib import alignment, artifacts, evidence, first_look, zonal
from historymap_lib.annotation_store import settled
from historymap_lib.annotations import answers_on
from historymap_lib.building_evidence import NUMBERS, gather
from historymap_lib.errors import PhotoError, SourceError, VerificationError
from historymap_lib.figures import draw_histogram, draw_verdicts
from historymap_lib.footprint_source import load_footprints, source_file
from historymap_lib.imagery import open_photo, photo_files
from historymap_lib.last_layer import BY_PHOTO, FEW, Evidence, fit_last_layer
from historymap_lib.live_verdicts import CaseLayer, layer_file
from historymap_lib.mixture import blocks
from historymap_lib.offsets import known_offsets
from historymap_lib.outline_evidence import OutlineEvidence, trained_file
from historymap_lib.phantoms import make_phantoms
from historymap_lib.reasons import explain_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import geopandas as gpd
    import pandas as pd
    from numpy.typing import NDArray
    from shapely import Polygon

    from historymap_lib.alignment import Offsets
    from historymap_lib.annotations import Annotation
    from historymap_lib.footprints import Footprints
    from historymap_lib.imagery import Photo
    from historymap_lib.project import Project
    from historymap_lib.settings import Verification

FOLDS = 3
"""The town is parted into so many; what is learned on the others is used on each."""
LEAST = 0.01
"""Share of a footprint that must have data for anything to be said of it."""
VERDICTS = ("existed", "not_existed", "unsure", "no_coverage")
CODE = tuple(
    f"historymap_lib.{name}"
    for name in (
        *(
            "verification",
            "alignment",
            "annotations",
            "annotation_store",
            "evidence",
            *("building_evidence", "first_look", "last_layer", "live_verdicts", "mixture", "outline_evidence"),
            "footprints",
            "footprints_osm",
        ),
        *("imagery", "offsets", "outlines", "phantoms", "probability", "reasons", "surroundings", "windows", "zonal"),
    )
)
COLUMNS = [
    "osm_type", "osm_id", "building_id", "name", "verdict", "existed", "probability", "confidence", "coverage",
    "overlap", "reason", "needs_verification", "annotated", "model", "photo", *NUMBERS, "geometry",
]  # fmt: skip


@dataclass(frozen=True)
class Verified:
    """What `verify` made."""

    file: Path
    counts: dict[str, int]
    summary: str


def verify(project: Project, *, quick: bool = False, picture: bool = True) -> Verified:
    """Judge every building of a case; write GeoJSON (EPSG:4326), GeoPackage (CRS of the case) and a picture.

    Args:
        project: the case.
        quick: judge by a first look (`first_look`) in place of the probabilities; the verdicts say that they are one.
        picture: draw the map of verdicts, and how many buildings have which probability.

    Raises:
        HistorymapError: probabilities (or the first look), footprints or annotations are missing or damaged, or do not
            fit together.

    """
    paths = project.paths
    told_by = first_look.file(project) if quick else paths.probability
    if not told_by.exists():
        what = "there was no first look yet; historymap run verify --quick takes it"
        raise VerificationError(f"{told_by}: {what if quick else 'there are no probabilities; run predict first'}")
    judged = settled(project)
    # hashed before they are read: what is clicked meanwhile makes these verdicts out of date
    sources = [told_by, source_file(project), paths.annotations, paths.offsets]
    sources += [] if quick else [trained_file(project)]
    with suppress(PhotoError):
        sources += photo_files(project)
    inputs = artifacts.fingerprints(sources)
    with _photo(project, needed=quick) as photo:
        area = photo.grid.polygon if quick and photo is not None else _area(told_by, project)
        found = load_footprints(project, area)
        print(f"footprints: {found.summary()}")  # noqa: T201 - counts are conserved, and shown
        frame, layer = _judged(project, found.frame, judged, photo, quick=quick)
        frame["photo"] = project.photo_name()
        counts = _count(frame, found)
        metadata = {
            "first_look": quick,
            "counts": counts,
            "rejected": found.rejected.to_dict("records"),
            "photo": project.photo_name(),
            "year": project.photo.year,
            "settings": project.settings("verification"),
            "annotations_without_building": sorted(set(judged) - set(frame["building_id"])),
        }
        _write(frame[COLUMNS], metadata, paths.verified, layer, layer_file(project))
        settings = project.settings("area", "photo", "footprints", "tiles", "verification")
        artifacts.write_manifest(
            paths.verified,
            step="verify",
            inputs=inputs,
            settings=settings,
            parameters={"quick": True} if quick else {},
            code=(*CODE, *first_look.CODE) if quick else CODE,
            counts=counts,
        )
        if picture and photo is not None:
            draw_verdicts(frame, photo, paths.verified.with_suffix(".png"))
    if picture:
        histogram = paths.verified.with_name(f"{paths.verified.stem}_histogram.png")
        draw_histogram(frame, project.verification, histogram)
    text = ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in VERDICTS)
    return Verified(paths.verified, counts, f"{paths.verified}: {f'{first_look.NAME}: ' * quick}{text}")


def _judged(
    project: Project, frame: gpd.GeoDataFrame, judged: dict[str, Annotation], photo: Photo | None, *, quick: bool
) -> tuple[gpd.GeoDataFrame, CaseLayer | None]:
    """Return the buildings with their verdicts and the model that made them, and the last layer if there is one."""
    paths = project.paths
    file = first_look.file(project) if quick else trained_file(project)
    model = first_look.NAME if quick else _model_of(paths.probability, paths.model)
    if not quick and not file.exists():  # predicted by a version that had no footprint network
        found = judge(frame, paths.probability, judged, project.verification, photo, offsets=known_offsets(project))
        return found.assign(model=model), None
    seen = OutlineEvidence.read(file)
    missing = int((seen.of(frame["building_id"].tolist()) < 0).sum())
    if missing:
        raise VerificationError(
            f"{file}: the network has not looked at {missing:,} of the {len(frame):,} buildings, since the footprints "
            f"have changed; run {'verify --quick --force' if quick else 'predict'} again"
        )
    raster = None if quick else paths.probability
    table, layer = weigh(frame, seen, judged, project.verification, raster, photo=photo)
    return decide(frame, table, judged, project.verification).assign(model=model), layer


def weigh(
    frame: gpd.GeoDataFrame,
    seen: OutlineEvidence,
    judged: dict[str, Annotation],
    settings: Verification,
    raster: Path | None,
    *,
    photo: Photo | None = None,
) -> tuple[pd.DataFrame, CaseLayer | None]:
    """Return `probability`, `coverage`, `overlap` and `building_evidence.NUMBERS` of each building; nan without data.

    The last layer, which the probabilities come from, is returned too. With too few buildings to calibrate
    (`last_layer.FEW`) there is none, and what the network says stands as it is.

    Args:
        frame: the footprints, as `footprints.load` gives them.
        seen: what the footprint networks saw of them.
        judged: annotations by building id.
        settings: how much of a building must be on the photo.
        raster: the probabilities, where there are any.
        photo: the open photo, where it is at hand.

    """
    ids = frame["building_id"].tolist()
    known = gather(ids, seen, max(settings.min_coverage, LEAST), raster=raster, photo=photo)
    table = known.table.assign(probability=known.table["fit"])
    kept = None
    if min(len(known.footprints), len(known.phantoms)) >= FEW:
        said = answers_on(frame["building_id"].to_numpy(np.str_), judged)[known.rows]
        layer = fit_last_layer(known.footprints, known.phantoms, known.misfits, said, trust=known.trust)
        kept = CaseLayer.of(np.array(ids, np.str_)[known.rows], layer)
        table.loc[known.rows, "probability"] = kept.layer.probability
    return table, kept


def judge(
    frame: gpd.GeoDataFrame,
    raster: Path,
    judged: dict[str, Annotation],
    settings: Verification,
    photo: Photo | None = None,
    *,
    offsets: Offsets | None = None,
) -> gpd.GeoDataFrame:
    """Return the buildings (in the CRS of the raster) with the columns from `verdict` to `annotated`.

    Args:
        frame: the footprints, as `footprints.load` gives them.
        raster: probabilities, uint8, 0 to 254 for 0 to 1, 255 no data.
        judged: annotations by building id.
        settings: thresholds, and how far footprints may lie off.
        photo: the open photo, whose outlines are looked at too where it is at hand.
        offsets: how far the photo is known to lie from the map; what the probabilities tell of it comes on top.

    """
    said = answers_on(frame["building_id"].to_numpy(np.str_), judged)
    shapes = frame.geometry.to_numpy()
    table = score(shapes if offsets is None else offsets.move(shapes), raster, settings, photo, said)
    return decide(frame, table, judged, settings)


def decide(
    frame: gpd.GeoDataFrame, table: pd.DataFrame, judged: dict[str, Annotation], settings: Verification
) -> gpd.GeoDataFrame:
    """Return the buildings with the columns from `verdict` to `annotated`.

    Args:
        frame: the footprints.
        table: of each, in the same order, `probability`, `coverage` and `overlap` (float, 0 to 1, nan without data),
            and `building_evidence.NUMBERS` as far as they are known.
        judged: annotations by building id.
        settings: thresholds.

    """
    table = table.reindex(columns=["probability", "coverage", "overlap", *NUMBERS])
    frame = frame.reset_index(drop=True).join(table.astype(np.float64).round(4))
    covered = (frame["coverage"] >= settings.min_coverage) & frame["probability"].notna()
    frame["probability"] = frame["probability"].where(covered)
    probability = frame["probability"].to_numpy()
    with np.errstate(invalid="ignore"):
        existed, not_existed = probability >= settings.existed_from, probability <= settings.not_existed_to
    frame["verdict"] = np.select([~covered, existed, not_existed], ["no_coverage", "existed", "not_existed"], "unsure")
    frame["confidence"] = np.where(covered, np.maximum(probability, 1 - probability), 0.0).round(4)
    frame["reason"] = explain_all(frame.assign(shift=np.hypot(frame["shift_east"], frame["shift_north"])))
    frame["annotated"] = frame["building_id"].isin(list(judged))
    for index in frame.index[frame["annotated"]]:
        annotation = judged[frame.loc[index, "building_id"]]
        frame.loc[index, ["verdict", "confidence"]] = annotation.verdict, 1.0 if annotation.existed is not None else 0.0
        frame.loc[index, "reason"] = _said(annotation)
    frame["existed"] = frame["verdict"].map({"existed": True, "not_existed": False}).astype(object)
    frame["existed"] = frame["existed"].where(frame["existed"].notna(), None)
    frame["needs_verification"] = (frame["verdict"] == "unsure") & ~frame["annotated"]
    return frame


def score(
    shapes: NDArray[Any],
    raster: Path,
    settings: Verification,
    photo: Photo | None = None,
    said: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    """Return `mean`, `overlap`, `coverage` and the calibrated `probability` of each shape; nan without data.

    With too few buildings to learn from (see `last_layer.FEW`) the mean stands as it is. `said` is what people say of
    each: 1 it existed, 0 it did not, nan nothing.
    """
    offsets = alignment.estimate(raster, shapes, settings.max_offset)
    with rasterio.open(raster) as dataset:
        phantoms, origin = make_phantoms(shapes, box(*dataset.bounds))
    moved, phantoms = offsets.move(shapes), offsets.move(phantoms)
    table = zonal.footprint_statistics(raster, moved)
    below = zonal.footprint_statistics(raster, phantoms)
    table["probability"] = table["mean"]
    covered, seen = (part["coverage"].to_numpy() >= max(settings.min_coverage, LEAST) for part in (table, below))
    if min(covered.sum(), seen.sum()) >= FEW:
        known = evidence.describe(np.concatenate([moved[covered], phantoms[seen]]), moved, raster, photo)
        fold = blocks(shapely.get_coordinates(shapely.centroid(moved))) % FOLDS
        footprints = _evidence(known[: covered.sum()], moved[covered], fold[covered])
        null = _evidence(known[covered.sum() :], phantoms[seen], fold[origin[seen]])
        layer = fit_last_layer(footprints, null, None, None if said is None else said[covered], trust=BY_PHOTO)
        table.loc[covered, "probability"] = layer.probability
    return table


def _evidence(table: NDArray[np.float64], shapes: NDArray[Any], fold: NDArray[np.int64]) -> Evidence:
    return Evidence(table, np.zeros((len(table), 0)), shapely.get_coordinates(shapely.centroid(shapes)), fold)


def _said(annotation: Annotation) -> str:
    who = f" by {annotation.annotator}" if annotation.annotator else ""
    why = "; ".join(text for text in (annotation.reason, annotation.notes) if text)
    return f"annotated{who}" + (f": {why}" if why else "")


def _count(frame: gpd.GeoDataFrame, found: Footprints) -> dict[str, int]:
    """Return how many buildings became what; their sum is what was read."""
    counts = {name: int((frame["verdict"] == name).sum()) for name in VERDICTS}
    counts |= {name: int(found.counts[name]) for name in ("read", "rejected", "duplicates", "outside")}
    counts["needs_verification"] = int(frame["needs_verification"].sum())
    counts["annotated"] = int(frame["annotated"].sum())
    return counts


def _model_of(raster: Path, model: Path) -> str | None:
    """Return a short name of the model that made the probabilities: the first digits of its hash, as noted then.

    The model that is there now may be a newer one.
    """
    inputs = (artifacts.read_manifest(raster) or {}).get("inputs", {})
    return inputs.get(str(model), "")[:12] or None


def _area(raster: Path, project: Project) -> Polygon:
    """Return the area that the probabilities cover, in the CRS of the case."""
    try:
        with rasterio.open(raster) as dataset:
            crs, bounds = dataset.crs, dataset.bounds
    except rasterio.errors.RasterioError as error:
        raise VerificationError(f"{raster}: cannot be read ({error}); run predict again") from error
    if crs != rasterio.CRS.from_user_input(project.area.crs):
        raise VerificationError(f"{raster}: is in another CRS than area.crs {project.area.crs}; run predict again")
    return box(*bounds)


@contextmanager
def _photo(project: Project, *, needed: bool) -> Iterator[Photo | None]:
    """Yield the open photo, or None where it is neither at hand nor needed: probabilities alone can be judged by."""
    with ExitStack() as stack:
        photo = None
        try:
            photo = stack.enter_context(open_photo(project))
        except (PhotoError, SourceError) as error:
            if needed:
                raise
            print(f"judging by the probabilities alone, and no picture: {error}")  # noqa: T201 - the user should know
        yield photo


def _write(
    frame: gpd.GeoDataFrame, metadata: dict[str, Any], path: Path, layer: CaseLayer | None, beside: Path
) -> None:
    """Write GeoJSON with its metadata, and a GeoPackage beside it; that by way of memory, so a full disk is told.

    The last layer is there (`beside`) before the GeoJSON that it belongs to, and of use only once that is there.
    """
    table = BytesIO()
    plain = frame.assign(existed=frame["existed"].astype("boolean"))
    plain.to_file(table, driver="GPKG", layer="buildings", engine="pyogrio")
    with artifacts.replacing(path.with_suffix(".gpkg")) as partial:
        partial.write_bytes(table.getbuffer())
    content = json.loads(frame.to_crs("EPSG:4326").to_json(drop_id=True))
    content["metadata"] = metadata
    with artifacts.replacing(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        if layer is None:
            beside.unlink(missing_ok=True)
        else:
            layer.write(beside, partial)
