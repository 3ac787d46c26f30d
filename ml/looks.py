"""Footprint networks look at a case: its footprints, phantoms and misfits, where the photo shows their places.

The map lies half a metre to some metres off the photo even where edges have aligned it. So the footprints are first
moved to where the network that comes with the package sees their buildings (`registration`); phantoms and misfits are
made from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import shapely

from historymap_lib.footprint_source import load_footprints
from historymap_lib.misfits import make_misfits
from historymap_lib.offsets import known_offsets
from historymap_lib.outline_evidence import Looks, OutlineEvidence
from historymap_lib.phantoms import make_phantoms
from historymap_lib.progress import Bar
from ml.chips import cut_chips
from ml.footprint_network import EMBEDDING
from ml.footprint_training import ask
from ml.registration import register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from historymap_lib.imagery import Photo
    from historymap_lib.project import Project
    from historymap_lib.tiles import Folds
    from ml.chips import Chips
    from ml.footprint_network import FootprintNetwork

    Outlines = tuple[NDArray[Any], NDArray[np.int64]]

AT_ONCE = 2048
"""Outlines whose chips are in memory at a time."""
BEND = 300.0
"""Metres: the stored offsets are smoothed over this, and finer differences are looked for anew."""
MOST_REGISTERED = 20_000
"""Footprints that are used to find the shifts, at most; of more, so many are drawn."""
MOST_PHANTOMS = 4000
MOST_MISFITS = 4000
FEWEST, FOR_EACH = 1000, 3
"""So many phantoms, and misfits, are enough for a small town, and for each footprint of a larger one."""


@dataclass(frozen=True)
class Case:
    """The outlines of a case on its photo, ready to be looked at.

    Attributes:
        photo: the open photo.
        building_id: of the footprints (n; str).
        shift: from the map to where the photo shows the footprints (n x 2; east, north in metres).
        footprints: there (n; shapely, CRS of the case).
        phantoms: outlines and the index of the footprint that lent each its shape.
        misfits: outlines and the index of the footprint underneath.

    """

    photo: Photo
    building_id: NDArray[np.str_]
    shift: NDArray[np.float64]
    footprints: NDArray[Any]
    phantoms: Outlines
    misfits: Outlines

    @classmethod
    def of(cls, project: Project, photo: Photo, first: FootprintNetwork) -> Self:
        """Return the outlines of a project; where the photo shows its footprints is what `first` sees."""
        frame = load_footprints(project, photo.grid.polygon).frame
        on_map = frame.geometry.to_numpy()
        offsets = known_offsets(project)
        near = on_map if offsets is None else offsets.smoothed(BEND).move(on_map)
        there = _registered(photo, near, first)
        enough = max(FEWEST, FOR_EACH * len(there))
        phantoms = make_phantoms(there, photo.grid.polygon, most=min(MOST_PHANTOMS, enough))
        misfits = make_misfits(there, most=min(MOST_MISFITS, enough))[:2]
        names = frame["building_id"].to_numpy(np.str_)
        return cls(photo, names, _centres(there) - _centres(on_map), there, phantoms, misfits)

    @classmethod
    def again(cls, photo: Photo, seen: OutlineEvidence) -> Self:
        """Return the outlines that have been looked at before."""
        others = ((one.shapes, one.host) for one in (seen.phantoms, seen.misfits))
        return cls(photo, seen.building_id, seen.shift, seen.footprints.shapes, *others)

    def chips(self, shapes: NDArray[Any]) -> Chips:
        """Return the chips of some outlines."""
        return cut_chips(self.photo.read, self.photo.grid, shapes)


def look_at(case: Case, members: Sequence[FootprintNetwork], folds: Folds | None) -> OutlineEvidence:
    """Return what is seen of a case.

    Args:
        case: its outlines.
        members: each is asked about the outlines of its own fold, from which it has not learned.
        folds: which fold each place belongs to; without them the first member is asked about all.

    """
    groups = [
        (case.footprints, np.arange(len(case.footprints))),
        case.phantoms,
        case.misfits,
    ]
    looks = []
    with Bar("outlines", total=sum(len(shapes) for shapes, _ in groups), unit="outline") as bar:
        for shapes, host in groups:
            fold = fold_of(case, host, folds)
            seen = [_look(case.chips(shapes[part]), members, fold[part], bar) for part in _parts(shapes)]
            looks.append(_joined(shapes, host.astype(np.int64), _parts(shapes), seen))
    own = fold_of(case, np.arange(len(case.footprints)), folds)
    footprints, phantoms, misfits = looks
    return OutlineEvidence(case.building_id, case.shift, own, footprints, phantoms, misfits)


def fold_of(case: Case, host: NDArray[Any], folds: Folds | None) -> NDArray[np.int64]:
    """Return the fold of each outline (-1 without folds): that of its footprint, so that no member sees both."""
    if folds is None or len(host) == 0:
        return np.full(len(host), -1, np.int64)
    found: NDArray[np.int64] = folds.of(*_centres(case.footprints).T)[host]
    return found


def _registered(photo: Photo, shapes: NDArray[Any], first: FootprintNetwork) -> NDArray[Any]:
    """Return the footprints where the network and their neighbours say that the photo shows them."""
    if len(shapes) == 0:
        return shapes
    some = shapes
    if len(shapes) > MOST_REGISTERED:
        some = shapes[np.random.default_rng(0).choice(len(shapes), MOST_REGISTERED, replace=False)]
    chips = cut_chips(photo.read, photo.grid, some)
    on_photo = chips.coverage() > 0
    chips, some = chips.take(on_photo), some[on_photo]
    if len(some) == 0:
        return shapes

    def see(shift: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logit, _, seen = ask(first, chips, shift=shift, mirrored=False)
        return logit, seen

    return register(_centres(some), see).move(shapes)


def _look(chips: Chips, members: Sequence[FootprintNetwork], fold: NDArray[Any], bar: Bar) -> tuple[NDArray[Any], ...]:
    """Return logits (n x 1), embedding (n x numbers), coverage (n) and tone (n x 2) of some chips."""
    logit, embedding = np.zeros(len(chips), np.float32), np.zeros((len(chips), EMBEDDING), np.float32)
    for number, member in enumerate(members):
        own = np.flatnonzero(np.maximum(fold, 0) == number)
        if len(own):
            logit[own], embedding[own] = ask(member, chips.take(own))[:2]
    bar.step(count=len(chips))
    return logit[:, None], embedding, chips.coverage(), chips.tone()


def _joined(
    shapes: NDArray[Any], host: NDArray[np.int64], parts: list[NDArray[Any]], seen: list[tuple[NDArray[Any], ...]]
) -> Looks:
    """Return what was seen of the parts of a group, in the order of the group."""
    if not parts:
        empty = np.zeros(0, np.float32)
        logits, embedding, tone = (np.zeros((0, width), np.float32) for width in (1, EMBEDDING, 2))
        return Looks(shapes, logits, embedding, empty, tone, host)
    back = np.argsort(np.concatenate(parts), kind="stable")
    logits, embedding, coverage, tone = (
        np.concatenate(values)[back].astype(np.float32) for values in zip(*seen, strict=True)
    )
    return Looks(shapes, logits, embedding, coverage, tone, host)


def _parts(shapes: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return the indices of outlines in parts of neighbours, so that each reads little of the photo."""
    if len(shapes) == 0:
        return []
    x, y = _centres(shapes).T
    side = 500.0  # metres of a strip
    order = np.lexsort([x, np.floor(y / side)])
    return np.split(order, range(AT_ONCE, len(order), AT_ONCE))


def _centres(shapes: NDArray[Any]) -> NDArray[np.float64]:
    centres: NDArray[np.float64] = shapely.get_coordinates(shapely.centroid(shapes))
    return centres
