"""Phantoms: the shapes of today's buildings where the map shows none, and as footprints lie to each other.

Their scores tell what a footprint looks like to the model where nothing stands (see `calibration`). That only holds if
nothing but the photo tells footprints from phantoms: were they farther from the houses next door, the walls of those
alone would do. So many places are tried, against the walls of a host at the distance and turn that the shape has to its
own neighbour, and anywhere on open ground besides; and of these so many of each kind are kept as there are footprints
of that kind, by the odds of a classifier that sees the map alone (`surroundings`): by propensity, after
Rosenbaum and Rubin (1983, Biometrika 70:41).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import STRtree
from sklearn.ensemble import HistGradientBoostingClassifier

from historymap_lib.alignment import moved
from historymap_lib.surroundings import describe_surroundings, turned, turned_by, wall_axes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import Polygon

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

NEAREST, FARTHEST = 12.0, 250.0
"""Metres that a shape is moved: off its own ground, but within the neighbourhood."""
DRAWS = 8
"""Phantoms of a shape at most: with more the verdicts hang less on where they happen to lie."""
TRIES = 10
"""Places tried for each phantom that is wanted."""
LEANING = 0.6
"""Share of the tries that look for a wall."""
WEDGED = 0.6
"""Share of these that are slid on until they meet a second house."""
REACH = 8.0
"""Metres within which that is looked for."""
SAME_SIDE = 0.75
"""Share that turn the same side to their host as to their own neighbour."""
FLUSH = 0.5
"""Share that end where the wall of their host ends, as houses in a row do."""
SUNK = 0.001
"""Metres that a shape is sunk into the wall that it touches, so that it does touch."""
OVERLAP = 0.02, 0.1
"""Share of the smaller of two that may overlap: what all but 2 % of touching footprints keep to, within bounds."""
NEARER = 2.0
"""Metres by which no phantom is nearer than 95 % of the footprints are: a town where all keep their distance and that
has no other room has none."""
WORTH = 0.5
"""Share of the effective number of places that is kept."""
FEW = 50
"""With fewer footprints or places than this no classifier is fitted, and places are kept as they come."""


def make_phantoms(
    shapes: NDArray[Any], within: Polygon, *, most: int = 8000, seed: int = 0
) -> tuple[NDArray[Any], Indices]:
    """Return shapes (shapely, CRS in metres) laid, turned perhaps, where the map shows none, and which shape each was.

    A phantom lies in the neighbourhood of its shape (`FARTHEST` metres), whole in `within`, and overlaps no footprint
    by more than footprints overlap each other (`OVERLAP`). Phantoms may overlap each other. The order of the shapes
    does not matter, and the same seed gives the same phantoms.

    Args:
        shapes: the footprints.
        within: what the photo covers.
        most: how many phantoms at most. Shapes have several where there are few of them, and one has none where there
            is no room for it, or where its phantoms would stand out.
        seed: of the places.

    """
    nothing = np.array([], dtype=object), np.array([], dtype=np.int64)
    if len(shapes) == 0 or most < 1:
        return nothing
    rng = np.random.default_rng(seed)
    order = np.argsort(shapely.to_wkb(shapes), kind="stable")
    town = _Town(shapes[order], within)
    wanted = min(most, DRAWS * len(shapes))
    chosen = rng.permutation(len(shapes))[: 2 * most]
    tried = np.resize(chosen, TRIES * wanted)
    leaning = rng.random(len(tried)) < LEANING
    places = np.concatenate([town.lean(tried[leaning], rng), town.scatter(tried[~leaning], rng)])
    origin = np.concatenate([tried[leaning], tried[~leaning]])
    free = town.has_room(places, origin) & ~town.too_near(places, chosen)
    places, origin = places[free], origin[free]
    if len(places) == 0:
        return nothing
    kept = _kept(_odds(town, places, chosen), origin, max(FEW, len(chosen) // 2), wanted, rng)
    return places[kept], order[origin[kept]]


class _Town:
    """The footprints, how each lies to its nearest neighbour, and their walls."""

    def __init__(self, shapes: NDArray[Any], within: Polygon) -> None:
        self.shapes, self.within = shapes, within
        self.tree = STRtree(shapes)
        self.centres = shapely.get_coordinates(shapely.centroid(shapes))
        self.axes = wall_axes(shapes)
        self.walls = _Walls(shapes)
        shapely.prepare(within)

    def scatter(self, tried: Indices, rng: np.random.Generator) -> NDArray[Any]:
        """Return shapes moved anywhere in their neighbourhood."""
        return moved(self.shapes[tried], _steps(len(tried), rng))

    def lean(self, tried: Indices, rng: np.random.Generator) -> NDArray[Any]:
        """Return shapes laid beside the wall of a house nearby, with the gap and turn of each to its neighbour."""
        gap, turn, side = self._as_they_lie(tried)
        second = gap[rng.permutation(len(tried))]
        hosts = self.tree.nearest(shapely.points(self.centres[tried] + _steps(len(tried), rng)))
        start, along, length = self.walls.draw(hosts, rng)
        out = np.stack([along[:, 1], -along[:, 0]], axis=1)
        quarter = np.where(rng.random(len(tried)) < SAME_SIDE, 1 - side, rng.integers(0, 4, len(tried))) * np.pi / 2
        angle = np.arctan2(along[:, 1], along[:, 0]) - self.axes[tried] + turn + quarter
        shapes = turned(self.shapes[tried], angle)
        low, high = _extent(shapes, start, along)
        slide = rng.uniform(-(high - low), length)
        flush = rng.random(len(tried))
        slide = np.select([flush < FLUSH / 2, flush < FLUSH], [0.0, length - (high - low)], slide)
        nearest, _ = _extent(shapes, start, out)
        shapes = moved(shapes, (slide - low)[:, None] * along + (gap - nearest)[:, None] * out)
        wedged = rng.random(len(tried)) < WEDGED
        shapes[wedged] = self._wedged(shapes[wedged], hosts[wedged], along[wedged], second[wedged])
        return shapes

    def _wedged(self, shapes: NDArray[Any], hosts: Indices, along: Floats, gap: Floats) -> NDArray[Any]:
        """Return shapes slid along their host's wall until the next house, or off it, with a gap to it too."""
        first, other = self.tree.query(shapes, predicate="dwithin", distance=REACH)
        first, other = (part[other != hosts[first]] for part in (first, other))
        common = shapely.area(shapely.intersection(shapes[first], self.shapes[other]))
        distance = shapely.distance(shapes[first], self.shapes[other])
        order = np.lexsort([other, distance, -common, first])
        first, other = first[order], other[order]
        chosen = np.concatenate([[True], np.diff(first) != 0]) if len(first) else np.zeros(0, dtype=bool)
        first, other = first[chosen], other[chosen]
        start = np.zeros((len(first), 2))
        low, high = _extent(shapes[first], start, along[first])
        left, right = _extent(self.shapes[other], start, along[first])
        before = low + high < left + right
        step = np.where(before, left - gap[first] - high, right + gap[first] - low)
        answer = shapes.copy()
        answer[first] = moved(shapes[first], step[:, None] * along[first])
        return answer

    def has_room(self, places: NDArray[Any], origin: Indices) -> NDArray[np.bool_]:
        """Return which places lie in `within`, near their origin, and overlap no footprint by too much."""
        away = shapely.get_coordinates(shapely.centroid(places)) - self.centres[origin]
        good: NDArray[np.bool_] = np.hypot(*away.T) <= FARTHEST
        good &= np.asarray(shapely.contains(self.within, places))
        first, other = self.tree.query(places[good], predicate="intersects")
        shares = _overlap(places[good][first], self.shapes[other])
        good[np.flatnonzero(good)[first[shares > self._most_overlap()]]] = False
        return good

    def too_near(self, places: NDArray[Any], chosen: Indices) -> NDArray[np.bool_]:
        """Return which places are nearer to a footprint than footprints are to each other, by `NEARER` at least."""
        nearest = np.quantile(self._as_they_lie(chosen)[0], 0.05) - NEARER
        near = np.zeros(len(places), dtype=bool)
        if nearest > 0:
            near[self.tree.query(places, predicate="dwithin", distance=nearest)[0]] = True
        return near

    def _as_they_lie(self, which: Indices) -> tuple[Floats, Floats, Indices]:
        """Return how each lies to its nearest neighbour: gap (below 0: how deep they overlap), turn, and by which side.

        Sides are counted in quarter turns from the axis.
        """
        distinct, back = np.unique(which, return_inverse=True)
        gap, turn = np.full(len(distinct), FARTHEST), np.zeros(len(distinct))
        side = np.zeros(len(distinct), dtype=np.int64)
        (first, other), distance = self.tree.query_nearest(
            self.shapes[distinct], exclusive=True, all_matches=False, return_distance=True
        )
        common = shapely.intersection(self.shapes[distinct[first]], self.shapes[other])
        around = np.maximum(shapely.length(common), 1e-9)
        gap[first] = np.where(distance > 0, distance, -2 * shapely.area(common) / around - SUNK)
        turn[first] = turned_by(self.axes[distinct[first]], self.axes[other])
        east, north = (self.centres[other] - self.centres[distinct[first]]).T
        side[first] = np.round((np.arctan2(north, east) - self.axes[distinct[first]]) / (np.pi / 2))
        return gap[back], turn[back], side[back]

    def _most_overlap(self) -> float:
        first, other = self.tree.query(self.shapes, predicate="intersects")
        first, other = (part[first < other] for part in (first, other))
        shares = _overlap(self.shapes[first], self.shapes[other])
        return float(np.clip(np.quantile(shares, 0.98), *OVERLAP)) if len(shares) else OVERLAP[0]


class _Walls:
    """The outer walls of all shapes, to draw from."""

    def __init__(self, shapes: NDArray[Any]) -> None:
        parts, shape = shapely.get_parts(shapes, return_index=True)
        rings = shapely.get_exterior_ring(shapely.orient_polygons(parts))
        coordinates, ring = shapely.get_coordinates(rings, return_index=True)
        same = ring[1:] == ring[:-1]
        self.start, self.step = coordinates[:-1][same], np.diff(coordinates, axis=0)[same]
        self.length = np.hypot(*self.step.T)
        self.ends = np.cumsum(self.length)
        count = np.bincount(shape[ring[1:][same]], minlength=len(shapes))
        self.limits = np.concatenate([[0.0], self.ends])[np.concatenate([[0], np.cumsum(count)])]

    def draw(self, hosts: Indices, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """Return where a wall of each host starts, its direction (the house lies on its left) and its length."""
        place = rng.uniform(self.limits[hosts], self.limits[hosts + 1])
        wall = np.minimum(np.searchsorted(self.ends, place, side="right"), len(self.ends) - 1)
        return self.start[wall], self.step[wall] / self.length[wall, None], self.length[wall]


def _odds(town: _Town, places: NDArray[Any], chosen: Indices) -> Floats:
    """Return for each place the odds that a footprint and no phantom lies there, by what the map alone tells."""
    if min(len(places), len(chosen)) < FEW:
        return np.ones(len(places))
    real = describe_surroundings(town.shapes[chosen], town.shapes, chosen)
    found = describe_surroundings(places, town.shapes)
    truth = np.repeat([1, 0], [len(real), len(found)])
    model = HistGradientBoostingClassifier(
        max_iter=120,
        learning_rate=0.08,
        max_leaf_nodes=15,
        class_weight="balanced",
        early_stopping=False,
        random_state=0,
    )
    answer: Floats = np.exp(model.fit(np.concatenate([real, found]), truth).decision_function(found))
    return answer


def _kept(odds: Floats, origin: Indices, least: int, wanted: int, rng: np.random.Generator) -> Indices:
    """Return which places to keep: drawn by their odds, and fewer than wanted (but `least`) where few are good.

    A draw without replacement follows the odds only while it leaves most of their weight; what weights are worth is
    told by the effective sample size of Kish (1965), and of that `WORTH` is taken.
    """
    if (odds != odds[0]).any():
        wanted = min(wanted, max(least, int(WORTH * odds.sum() ** 2 / (odds**2).sum())))
    order = np.argsort(rng.exponential(size=len(odds)) / odds, kind="stable")
    return order[_rank(origin[order]) < DRAWS][:wanted]


def _rank(groups: Indices) -> Indices:
    """Return for each element how many of its group come before it."""
    order = np.argsort(groups, kind="stable")
    start = np.concatenate([[True], np.diff(groups[order]) != 0])
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - np.maximum.accumulate(np.where(start, np.arange(len(groups)), 0))
    return rank


def _steps(count: int, rng: np.random.Generator) -> Floats:
    """Return random steps (count x 2, metres), spread evenly over the ground of the neighbourhood."""
    distance = np.sqrt(rng.uniform(NEAREST**2, FARTHEST**2, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def _extent(shapes: NDArray[Any], start: Floats, along: Floats) -> tuple[Floats, Floats]:
    """Return from where to where each shape reaches along its direction, in metres from its start."""
    coordinates, shape = shapely.get_coordinates(shapes, return_index=True)
    place = np.sum((coordinates - start[shape]) * along[shape], axis=1)
    first = np.searchsorted(shape, np.arange(len(shapes)))
    return np.minimum.reduceat(place, first), np.maximum.reduceat(place, first)


def _overlap(first: NDArray[Any], other: NDArray[Any]) -> Floats:
    """Return the share of the smaller of two shapes that lies in the other."""
    smaller = np.minimum(shapely.area(first), shapely.area(other))
    answer: Floats = shapely.area(shapely.intersection(first, other)) / np.maximum(smaller, 1e-9)
    return answer
