"""All that speaks for or against each building of a case, as tables for the last layer and numbers for people.

It joins what the footprint networks saw (`outline_evidence`), and what the picture of probabilities and the outlines in
the photo show (`evidence`), for footprints and for the outlines that certainly fit no building.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from scipy.special import expit

from historymap_lib import evidence, zonal
from historymap_lib.last_layer import BY_NETWORK, BY_POOR_PHOTO, FEW, Evidence, Trust

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.imagery import Photo
    from historymap_lib.outline_evidence import Looks, OutlineEvidence

BLOCK = 120.0
"""Metres: the parts of a town that a last layer learns on and is used on in turn, where nothing else has dealt them."""
NUMBERS = (
    "shift_east", "shift_north", "fit", "probability_under", "contrast", "shadow", "darkness", "texture",
)  # fmt: skip
"""Columns of what people are told of a building beside its probability; see `reasons`."""
LEFT_OPEN = 0.2, 0.8
"""Probabilities between which the network that comes with the package leaves open whether a building fits."""
POOR = 0.37
"""From this share of footprints that it leaves open a photo is poor: 0.29 on a sharp photo, 0.44 on strong film."""
CONTRAST = 4
"""Column of `evidence.describe` with the contrast across the outline."""
OUTWARD = ((6, 7), (9, 10), (12, 13))
"""Columns of `evidence.describe` with the grey outward of the outline, as it goes with the direction of the outline."""


@dataclass(frozen=True)
class Gathered:
    """What is known of a case.

    Attributes:
        table: of each footprint `coverage`, `overlap` and `NUMBERS` (float; nan where not known).
        rows: the footprints of which enough is on the photo to judge them.
        footprints: evidence for those.
        phantoms: the same for outlines where nothing stands.
        misfits: the same for outlines over buildings that they do not fit; None where the evidence cannot tell these.
        trust: what such evidence has been shown not to see.

    """

    table: pd.DataFrame
    rows: NDArray[np.int64]
    footprints: Evidence
    phantoms: Evidence
    misfits: Evidence | None
    trust: Trust


def gather(
    building_ids: list[str],
    seen: OutlineEvidence,
    least_coverage: float,
    *,
    raster: Path | None = None,
    photo: Photo | None = None,
) -> Gathered:
    """Return what is known of the buildings of a case.

    Args:
        building_ids: of the buildings, in their order.
        seen: what the footprint networks saw.
        least_coverage: share of an outline that must be on the photo.
        raster: the probabilities (uint8, 0 to 254 for 0 to 1, 255 no data), where there are any.
        photo: the open photo, whose outlines are looked at too where it is at hand.

    """
    order = seen.of(building_ids)
    groups = [seen.footprints.take(np.maximum(order, 0)), seen.phantoms, seen.misfits]
    coverage = np.where(order >= 0, groups[0].coverage, 0.0)
    rows = np.flatnonzero(coverage >= least_coverage)
    kept = [groups[0].take(rows), *(one.take(np.flatnonzero(one.coverage >= least_coverage)) for one in groups[1:])]
    described = [np.zeros((len(one), 0)) for one in kept]
    under = overlap = np.full(len(rows), np.nan)
    if raster is not None:
        shapes = [one.shapes for one in kept]
        both = evidence.describe(np.concatenate(shapes), shapes[0], raster, photo)
        described = np.split(both, np.cumsum([len(one) for one in kept])[:-1])
        statistics = zonal.footprint_statistics(raster, shapes[0])
        under, overlap = statistics["mean"].to_numpy(), statistics["overlap"].to_numpy()
    fold = _folds(seen)
    host_fold = [fold[order[rows]], fold[kept[1].host], fold[kept[2].host]]
    tables = [_evidence(*one) for one in zip(kept, described, host_fold, strict=True)]
    numbers = {
        "shift_east": seen.shift[order[rows], 0],
        "shift_north": seen.shift[order[rows], 1],
        "fit": expit(kept[0].logits[:, -1]),
        "probability_under": under,
        "contrast": _contrast(described),
        "shadow": _shadow(described),
        "darkness": kept[0].tone[:, 0],
        "texture": kept[0].tone[:, 1],
    }
    table = pd.DataFrame({"coverage": coverage}, index=range(len(building_ids)))
    for name, values in {"overlap": overlap, **numbers}.items():
        table.loc[rows, name] = np.asarray(values, np.float64)
    misfits = tables[2] if len(tables[2]) >= FEW else None
    return Gathered(table, rows, tables[0], tables[1], misfits, _trust(kept[0]))


def _trust(footprints: Looks) -> Trust:
    """Return how far the evidence can be trusted: on a poor photo much of what stood looks as if nothing did."""
    first = expit(footprints.logits[:, 0].astype(np.float64))
    left_open = (first > LEFT_OPEN[0]) & (first < LEFT_OPEN[1])
    return BY_POOR_PHOTO if len(first) and left_open.mean() > POOR else BY_NETWORK


def _folds(seen: OutlineEvidence) -> NDArray[np.int64]:
    """Return the part of the town that each footprint belongs to: its fold, or that of a chequerboard without folds."""
    if len(seen.fold) == 0 or seen.fold.max() >= 0:
        return seen.fold
    x, y = shapely.get_coordinates(shapely.centroid(seen.footprints.shapes)).T
    found: NDArray[np.int64] = ((np.floor(x / BLOCK) + np.floor(y / BLOCK)) % 2).astype(np.int64)
    return found


def _evidence(looks: Looks, described: NDArray[Any], fold: NDArray[np.int64]) -> Evidence:
    place = shapely.get_coordinates(shapely.centroid(looks.shapes)).reshape(-1, 2)
    table = np.concatenate([looks.logits, described], axis=1, dtype=np.float64)
    return Evidence(table, looks.embedding.astype(np.float64), place, fold)


def _contrast(described: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the contrast across each outline, in standard deviations from the usual one of a phantom."""
    if described[0].shape[1] <= CONTRAST or len(described[1]) < FEW:
        return np.full(len(described[0]), np.nan)
    usual = described[1][:, CONTRAST]
    contrast: NDArray[np.float64] = (described[0][:, CONTRAST] - usual.mean()) / max(usual.std(), 1e-9)
    return contrast


def _shadow(described: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return how clearly each has a shadow: the grey outward of it along the light of that day, standardised.

    From which side the light came is the direction in which the grey beside footprints differs on average; beside
    phantoms there is no such difference.
    """
    if described[0].shape[1] <= OUTWARD[-1][-1] or len(described[1]) < FEW:
        return np.full(len(described[0]), np.nan)
    footprints, phantoms = (np.sum([one[:, pair] for pair in OUTWARD], axis=0) for one in described[:2])
    light = footprints.mean(axis=0) - phantoms.mean(axis=0)
    light /= max(float(np.hypot(*light)), 1e-9)
    usual = phantoms @ light
    shadow: NDArray[np.float64] = (footprints @ light - usual.mean()) / max(usual.std(), 1e-9)
    return shadow - 1.0  # what stands has about one standard deviation more than open ground
