"""Footprint networks look at a case: its footprints, phantoms and misfits, where the photo shows their places.

The map lies a metre or two off the photo even where it has been aligned by its edges. So the footprints are first moved
to where the network that comes with the package sees their buildings (`registration`); phantoms and misfits are made
from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

AT_ONCE = 2048
"""Outlines whose chips are in memory at a time."""
BEND = 300.0
"""Metres: what neighbourhoods nearer to each other than this differ by is looked for anew."""
MOST_REGISTERED = 20_000
"""Footprints that say where the photo shows them; of more, so many are drawn."""
MOST_PHANTOMS = 4000
MOST_MISFITS = 4000


class Case:
    """The outlines of a case on its photo, ready to be looked at.

    Attributes:
        building_id: of the footprints (n; str).
        footprints: where the photo shows them (n; shapely, CRS of the case).
        shift: from the map to there (n x 2; east, north in metres).
        phantoms: outlines and the index of the footprint that lent each its shape.
        misfits: outlines and the index of the footprint underneath.

    """

    def __init__(self, project: Project, photo: Photo, first: FootprintNetwork) -> None:
        self.photo = photo
        frame = load_footprints(project, photo.grid.polygon).frame
        self.building_id = frame["building_id"].to_numpy(np.str_)
        on_map = frame.geometry.to_numpy()
        offsets = known_offsets(project)
        near = on_map if offsets is None else offsets.smoothed(BEND).move(on_map)
        self.footprints = self._register(near, first)
        self.shift = _centres(self.footprints) - _centres(on_map)
        self.phantoms = make_phantoms(self.footprints, photo.grid.polygon, most=MOST_PHANTOMS)
        self.misfits = make_misfits(self.footprints, most=MOST_MISFITS)[:2]

    def chips(self, shapes: NDArray[Any]) -> Chips:
        """Return the chips of some outlines."""
        return cut_chips(self.photo.read, self.photo.grid, shapes)

    def _register(self, shapes: NDArray[Any], first: FootprintNetwork) -> NDArray[Any]:
        """Return the footprints where the network and their neighbours say that the photo shows them."""
        if len(shapes) == 0:
            return shapes
        some = shapes
        if len(shapes) > MOST_REGISTERED:
            some = shapes[np.random.default_rng(0).choice(len(shapes), MOST_REGISTERED, replace=False)]
        chips = self.chips(some)

        def see(shift: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            logit, _, seen = ask(first, chips, shift=shift, mirrored=False)
            return logit, seen

        return register(_centres(some), see).move(shapes)


def look_at(
    case: Case, networks: Sequence[FootprintNetwork], members: Sequence[FootprintNetwork], folds: Folds | None
) -> OutlineEvidence:
    """Return what is seen of a case.

    Args:
        case: its outlines.
        networks: asked about every outline.
        members: asked about the outlines of their own fold, from which they have not learned; none if there are none.
        folds: which fold each place belongs to, where there are members.

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
            seen = [_look(case.chips(shapes[part]), networks, members, fold[part], bar) for part in _parts(shapes)]
            looks.append(_joined(shapes, host.astype(np.int64), _parts(shapes), seen, len(networks) + bool(members)))
    own = fold_of(case, np.arange(len(case.footprints)), folds)
    return OutlineEvidence(case.building_id, case.shift, own, *looks)


def fold_of(case: Case, host: NDArray[Any], folds: Folds | None) -> NDArray[np.int64]:
    """Return the fold of each outline (-1 without folds): that of its footprint, so that no member sees both."""
    if folds is None or len(host) == 0:
        return np.full(len(host), -1, np.int64)
    found: NDArray[np.int64] = folds.of(*_centres(case.footprints).T)[host]
    return found


def _look(
    chips: Chips,
    networks: Sequence[FootprintNetwork],
    members: Sequence[FootprintNetwork],
    fold: NDArray[Any],
    bar: Bar,
) -> tuple[NDArray[Any], ...]:
    """Return logits (n x networks), embedding (n x numbers), coverage (n) and tone (n x 2) of some chips."""
    answers = [ask(network, chips)[:2] for network in networks]
    if members:
        logit, embedding = np.zeros(len(chips), np.float32), np.zeros((len(chips), EMBEDDING), np.float32)
        for number, member in enumerate(members):
            own = fold == number
            if own.any():
                logit[own], embedding[own] = ask(member, chips.take(own))[:2]
        answers.append((logit, embedding))
    bar.step(count=len(chips))
    return np.stack([logit for logit, _ in answers], axis=1), answers[-1][1], chips.coverage(), chips.tone()


def _joined(
    shapes: NDArray[Any],
    host: NDArray[np.int64],
    parts: list[NDArray[Any]],
    seen: list[tuple[NDArray[Any], ...]],
    networks: int,
) -> Looks:
    """Return what was seen of the parts of a group, in the order of the group."""
    if not parts:
        empty = np.zeros(0, np.float32)
        logits, embedding, tone = (np.zeros((0, width), np.float32) for width in (networks, EMBEDDING, 2))
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
