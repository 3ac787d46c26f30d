"""The buildings of the sample town: their shapes, how they fill a block, and what the years since the photo changed.

Everything is in local metres, x to the east and y to the north, with the origin in the town's south-western corner.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import cos, hypot, pi, sin, tan
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Rng = np.random.Generator
FloatArray = NDArray[np.float64]

DEMOLISHED = 0.065  # of the old stock: in the photo, not on the map; farms that estates swallow come on top
REPLACED = 0.043  # of today's buildings: another one stood on the plot
PLACE_TRIES = 20
MIN_COURTYARD = 30.0  # metres, the shorter side of a block around one
REPLACED_OVERLAP = 0.15, 0.6  # of the smaller of the two outlines
ANNEX = frozenset({"garage", "shed"})
SPECIAL = frozenset({"church", "school"})


def chance(rng: Rng, odds: float) -> bool:
    """Return True in a share of `odds` of all cases."""
    return bool(rng.random() < odds)


@dataclass(frozen=True)
class Wing:
    """A rectangular part of a building under one roof, its ridge along `length`; metres, radians from the east."""

    x: float
    y: float
    length: float
    depth: float
    angle: float = 0.0
    eave: float = 3.0
    rise: float = 0.0
    hip: bool = False

    def at(self, u: Sequence[float], v: Sequence[float]) -> FloatArray:
        """Return the (n, 2) local metres of points given along and across the ridge from the middle of the wing."""
        c, s = cos(self.angle), sin(self.angle)
        along, across = np.asarray(u, dtype=float), np.asarray(v, dtype=float)
        return np.column_stack([self.x + c * along - s * across, self.y + s * along + c * across])

    def corners(self, grow: float = 0.0) -> FloatArray:
        """Return the (4, 2) corners, moved outward by `grow` metres."""
        a, b = self.length / 2 + grow, self.depth / 2 + grow
        return self.at([-a, a, a, -a], [-b, -b, b, b])

    def moved(self, x: float, y: float, angle: float) -> Wing:
        """Return the wing turned about the origin by `angle`, then moved."""
        c, s = cos(angle), sin(angle)
        return replace(
            self, x=x + c * self.x - s * self.y, y=y + s * self.x + c * self.y, angle=(self.angle + angle) % pi
        )


Wings = tuple[Wing, ...]


@dataclass(frozen=True)
class Building:
    """One building in local metres; `stood` when the photo was taken, on the map of `today`.

    `kind` says how it came: "old", or later as "estate", "scattered", "infill" (among neighbours), "walls" (against
    one) or "replaced" (where the photo shows another).
    """

    wings: Wings
    tag: str
    stood: bool = True
    today: bool = True
    kind: str = "old"

    @cached_property
    def outline(self) -> Any:
        """The union of the wings, a polygon that can have a courtyard."""
        return outline_of(self.wings)


def outline_of(wings: Wings, grow: float = 0.0) -> Any:
    """Return the union of the wings as one shapely polygon."""
    parts = shapely.polygons(np.stack([wing.corners(grow) for wing in wings]))
    return parts[0] if len(wings) == 1 else shapely.union_all(parts)


@dataclass
class Site:
    """A block being built on: ground that may be used, and what is already there."""

    ground: Any
    use: str
    angle: float
    buildings: list[Building] = field(default_factory=list)

    def __post_init__(self) -> None:
        shapely.prepare(self.ground)

    def place(self, wings: Wings, tag: str, *, gap: float = 1.0) -> bool:
        """Build where the wings lie inside the ground and at least about `gap` metres from everything else."""
        if not shapely.contains(self.ground, outline_of(wings)) or self.meets(outline_of(wings, gap)):
            return False
        self.buildings.append(Building(wings, tag))
        return True

    def meets(self, shape: Any, *, but: Building | None = None) -> bool:
        """Tell whether `shape` touches any building of the site other than `but`."""
        others = [building.outline for building in self.buildings if building is not but]
        return bool(others) and bool(shapely.intersects(others, shape).any())

    def frontage(self, inset: float) -> Any | None:
        """Return the ring `inset` metres within the ground, along which houses face the streets."""
        inner = self.ground.simplify(1.5).buffer(-inset, join_style="mitre")
        if inner.geom_type == "MultiPolygon":
            inner = max(inner.geoms, key=lambda part: part.area)
        return None if inner.is_empty else inner.exterior


def placed(wings: Wings, x: float, y: float, angle: float) -> Wings:
    """Return a building's wings turned by `angle` and moved to (x, y)."""
    return tuple(wing.moved(x, y, angle) for wing in wings)


def _roofed(rng: Rng, length: float, depth: float, eave: float) -> Wing:
    """Return a wing with a pitched roof, hipped now and then; the ridge follows the longer side."""
    turn = pi / 2 if depth > length else 0.0
    length, depth = max(length, depth), min(length, depth)
    rise = depth / 2 * tan(rng.uniform(0.42, 0.82))
    return Wing(0, 0, length, depth, turn, eave, rise, hip=chance(rng, 0.28))


def house(rng: Rng, *, area: tuple[float, float] = (62, 175), eave: tuple[float, float] = (3.0, 6.2)) -> Wings:
    """Return a detached house about the origin: a rectangle, an L or a T."""
    size = np.exp(rng.uniform(np.log(area[0]), np.log(area[1])))
    length = float(np.sqrt(size * rng.uniform(1.05, 1.75)))
    depth = float(size / length)
    main = _roofed(rng, length, depth, rng.uniform(*eave))
    if chance(rng, 0.6) or depth > length:
        return (main,)
    wide, deep = length * rng.uniform(0.36, 0.55), depth * rng.uniform(0.35, 0.7)
    x = rng.choice([-1, 1, 0], p=[0.4, 0.4, 0.2]) * (length - wide) / 2
    side = Wing(x, (depth + deep) / 2 - 0.25, deep + 0.5, wide, pi / 2, main.eave * 0.95, wide * 0.3)
    return (side, main)


def annex(rng: Rng) -> tuple[Wings, str]:
    """Return a garage or a shed about the origin, with its tag."""
    tag = "garage" if chance(rng, 0.5) else "shed"
    length, depth = rng.uniform(4.6, 7.8), rng.uniform(3.4, 5.4)
    wing = _roofed(rng, length, depth, rng.uniform(2.3, 3.1))
    return (replace(wing, rise=0.0) if chance(rng, 0.4) else wing,), tag


def long_house(rng: Rng, length: float, depth: float, eave: float) -> Wings:
    """Return a slab or a town house: pitched or flat, now and then with a wing to the back."""
    main = Wing(0, 0, length, depth, 0, eave, 0.0) if chance(rng, 0.35) else _roofed(rng, length, depth, eave)
    if chance(rng, 0.75) or depth > length:
        return (main,)
    wide, deep = min(depth, length / 2) * rng.uniform(0.5, 0.9), rng.uniform(4, 9)
    side = rng.choice([-1, 1]) * (length - wide) / 2
    return (main, Wing(side, (depth + deep) / 2 - 0.25, deep + 0.5, wide, pi / 2, eave * 0.8, main.rise * 0.5))


def ring(rng: Rng, length: float, width: float, depth: float) -> Wings:
    """Return a block built around a courtyard."""
    eave, rise = rng.uniform(9, 15), depth / 2 * rng.uniform(0.4, 0.7)
    sides = [Wing(0, side * (width - depth) / 2, length, depth, 0, eave, rise, hip=True) for side in (-1, 1)]
    ends = [Wing(side * (length - depth) / 2, 0, width - depth, depth, pi / 2, eave, rise * 0.97) for side in (-1, 1)]
    return (*sides, *ends)


def hall(rng: Rng) -> Wings:
    """Return an industrial hall: flat, pitched, or of several bays side by side."""
    length, depth = rng.uniform(16, 75), rng.uniform(11, 34)
    eave, bays = rng.uniform(4.5, 10), int(rng.integers(2, 6))
    if chance(rng, 0.3):
        return (Wing(0, 0, length, depth, 0, eave),)
    if chance(rng, 0.5):
        return (Wing(0, 0, length, min(depth, 22), 0, eave, min(depth, 22) * rng.uniform(0.1, 0.25)),)
    bay = depth / bays
    return tuple(
        Wing(0, (i - (bays - 1) / 2) * bay, length, bay + 0.05, 0, eave, bay * rng.uniform(0.2, 0.3))
        for i in range(bays)
    )


def church(rng: Rng) -> Wings:
    """Return a nave with a tower."""
    length, depth, tower = rng.uniform(22, 36), rng.uniform(11, 15), rng.uniform(5, 7)
    nave = Wing(0, 0, length, depth, 0, rng.uniform(8, 11), depth * 0.55)
    return (nave, Wing(length / 2 + tower / 2 - 0.5, 0, tower, tower, 0, rng.uniform(22, 32), 3, hip=True))


def fill_centre(rng: Rng, site: Site) -> None:
    """Build a closed edge of town houses or a block around a courtyard, and workshops in the yards."""
    if chance(rng, 0.45):
        _courtyard(rng, site)
    depth = rng.uniform(9, 12.5)
    along_streets(rng, site, 0.55 * depth + rng.uniform(0.7, 2), (9, 20), lambda front: _town_house(rng, front, depth))
    scatter(rng, site, lambda: _yard_building(rng), int(site.ground.area / 420), gap=1.2)


def _courtyard(rng: Rng, site: Site) -> None:
    frame = shapely.minimum_rotated_rectangle(site.ground)
    points = shapely.get_coordinates(frame)
    along = points[1] - points[0]
    sides = hypot(*along), hypot(*(points[2] - points[1]))
    angle = float(np.arctan2(along[1], along[0]))
    for share in (0.97, 0.88, 0.78, 0.68, 0.58):
        length, width = sides[0] * share * rng.uniform(0.6, 1), sides[1] * share
        if min(length, width) > MIN_COURTYARD and site.place(
            placed(ring(rng, length, width, rng.uniform(9, 12)), frame.centroid.x, frame.centroid.y, angle),
            "apartments",
        ):
            return


def _town_house(rng: Rng, front: float, depth: float) -> tuple[Wings, str, float]:
    length = front - rng.choice([0.5, 1.0, 2.5, 5.0])
    tag = str(rng.choice(["apartments", "house", "retail", "office", "yes"], p=[0.42, 0.2, 0.13, 0.07, 0.18]))
    return long_house(rng, length, depth * rng.uniform(0.85, 1.08), rng.uniform(6, 13)), tag, 0.2


def _yard_building(rng: Rng) -> tuple[Wings, str]:
    if chance(rng, 0.45):
        return annex(rng)
    return house(rng, area=(30, 130), eave=(2.8, 6)), str(rng.choice(["yes", "industrial", "shed", "house"]))


def fill_villas(rng: Rng, site: Site, *, gardens: float = 0.34) -> None:
    """Build houses along the streets, each in its garden, with sheds and garages behind."""
    inset, front = rng.uniform(7, 11), rng.uniform(14, 19)
    tags, odds = ["house", "detached", "yes", "residential", "apartments"], [0.46, 0.22, 0.18, 0.07, 0.07]
    area = (60.0, float(rng.uniform(125, 230)))
    spots = along_streets(
        rng, site, inset, (front, front * 1.5), lambda _: (house(rng, area=area), str(rng.choice(tags, p=odds)), 2.2)
    )
    for x, y, angle in spots:
        if chance(rng, gardens):
            back, side = rng.uniform(9, 17), rng.uniform(-9, 9)
            wings, tag = annex(rng)
            spot = Wing(x, y, 1, 1, angle).at([side], [back])[0]
            site.place(placed(wings, spot[0], spot[1], angle + rng.choice([0, pi / 2])), tag, gap=0.9)


def fill_industry(rng: Rng, site: Site) -> None:
    """Build halls along one direction, with small buildings between."""
    scatter(rng, site, lambda: (hall(rng), str(rng.choice(["industrial", "warehouse", "yes"]))), 22, gap=4)
    scatter(rng, site, lambda: _yard_building(rng), 14, gap=2)


def fill_rows(rng: Rng, site: Site) -> None:
    """Build rows of small houses, all alike."""
    unit, depth, eave = rng.uniform(5.6, 8), rng.uniform(8, 10.5), rng.uniform(3, 6)
    whole = chance(rng, 0.4)
    for x, y in lattice(rng, site, rng.uniform(46, 64), depth + rng.uniform(15, 21)):
        count = int(rng.integers(4, 8))
        if whole:
            row = (Wing(0, 0, count * unit, depth, 0, eave, depth * 0.3),)
            site.place(placed(row, x, y, site.angle), "terrace", gap=2)
            continue
        for i in range(count):
            flat = Wing((i - count / 2) * unit, rng.choice([0, 0.6]), unit - 0.5, depth, 0, eave, depth * 0.25)
            site.place(placed((flat,), x, y, site.angle), "terrace", gap=0.2)
    scatter(rng, site, lambda: annex(rng), int(site.ground.area / 1300), gap=1.5)


def fill_slabs(rng: Rng, site: Site) -> None:
    """Build slabs of flats in parallel."""
    depth, eave = rng.uniform(10, 13), rng.uniform(8, 14)
    for x, y in lattice(rng, site, rng.uniform(62, 85), rng.uniform(30, 40)):
        wings = long_house(rng, rng.uniform(26, 62), depth, eave)
        site.place(placed(wings, x, y, site.angle), str(rng.choice(["apartments", "residential", "yes"])), gap=6)
    scatter(rng, site, lambda: annex(rng), int(site.ground.area / 1100), gap=2)


def fill_mixed(rng: Rng, site: Site) -> None:
    """Build as `fill_villas`, with a few larger houses first."""
    scatter(rng, site, lambda: (long_house(rng, rng.uniform(16, 40), rng.uniform(10, 13), 8), "apartments"), 4, gap=8)
    fill_villas(rng, site, gardens=0.42)


FILLERS: dict[str, Callable[[Rng, Site], None]] = {
    "centre": fill_centre,
    "villas": fill_villas,
    "industry": fill_industry,
    "rows": fill_rows,
    "slabs": fill_slabs,
    "mixed": fill_mixed,
}


def along_streets(
    rng: Rng,
    site: Site,
    inset: float,
    front: tuple[float, float],
    make: Callable[[float], tuple[Wings, str, float]],
) -> list[tuple[float, float, float]]:
    """Walk around the block and build plot by plot; return (x, y, angle) of each house, its back to +v."""
    edge = site.frontage(inset)
    spots: list[tuple[float, float, float]] = []
    if edge is None:
        return spots
    s = rng.uniform(0, 10)
    while s < edge.length - front[0] / 2:
        width = rng.uniform(*front)
        wings, tag, gap = make(width)
        here, before, after = (edge.interpolate(s + width / 2 + step) for step in (0, -3, 3))
        angle = float(np.arctan2(after.y - before.y, after.x - before.x))
        if not edge.is_ccw:
            angle += pi
        x, y = here.x, here.y
        if site.place(placed(wings, x, y, angle + rng.normal(0, 0.015)), tag, gap=gap):
            spots.append((x, y, angle))
        s += width
    return spots


def scatter(rng: Rng, site: Site, make: Callable[[], tuple[Wings, str]], count: int, *, gap: float) -> None:
    """Try `count` buildings at random places, along or across the site's direction."""
    west, south, east, north = site.ground.bounds
    for _ in range(count):
        wings, tag = make()
        angle = site.angle + rng.choice([0, pi / 2]) + rng.normal(0, 0.02)
        site.place(placed(wings, rng.uniform(west, east), rng.uniform(south, north), angle), tag, gap=gap)


def lattice(rng: Rng, site: Site, along: float, across: float) -> FloatArray:
    """Return (n, 2) places in rows along the site's direction, over its whole extent."""
    west, south, east, north = site.ground.bounds
    reach = hypot(east - west, north - south) / 2
    u = np.arange(-reach, reach, along) + rng.uniform(0, along)
    v = np.arange(-reach, reach, across) + rng.uniform(0, across)
    frame = Wing((west + east) / 2, (south + north) / 2, 1, 1, site.angle)
    grid = np.meshgrid(u, v)
    return frame.at(grid[0].ravel().tolist(), grid[1].ravel().tolist())


def since(rng: Rng, old: list[Site], *, later: int, replaced: int) -> None:
    """Let the years pass over the old sites: demolish some, replace some, declare `later` others infill.

    Garages and sheds are the likelier infill, but neither they nor anything else only ever comes late.
    """
    spots = [(site, i) for site in old for i in range(len(site.buildings))]
    spots = [spots[i] for i in rng.permutation(len(spots))]
    gone = int(DEMOLISHED * len(spots))
    for site, i in spots[:gone]:
        site.buildings[i] = replace(site.buildings[i], today=False)
    kept = spots[gone:]
    odds = np.array([2.2 if site.buildings[i].tag in ANNEX else 1.0 for site, i in kept])
    infill = set(rng.choice(len(kept), size=min(later, len(kept)), replace=False, p=odds / odds.sum()).tolist())
    for k in sorted(infill):
        site, i = kept[k]
        site.buildings[i] = replace(site.buildings[i], stood=False, kind="infill")
    for k, (site, i) in enumerate(kept):
        if replaced > 0 and k not in infill and site.buildings[i].tag not in SPECIAL:
            replaced -= _replace(rng, site, i)


def _replace(rng: Rng, site: Site, index: int) -> bool:
    """Let another building have stood where this one stands today; tell whether one was found that fits."""
    new = site.buildings[index]
    area, middle = new.outline.area, new.outline.centroid
    for _ in range(PLACE_TRIES):
        size = area * rng.uniform(0.45, 1.5)
        wings = house(rng, area=(size * 0.95, size * 1.05))
        away, turn = rng.uniform(2.5, 8), rng.uniform(0, 2 * pi)
        angle = new.wings[-1].angle + rng.choice([0, pi / 2, 0.2, -0.2])
        wings = placed(wings, middle.x + away * cos(turn), middle.y + away * sin(turn), angle)
        old = Building(wings, new.tag, today=False)
        shared = old.outline.intersection(new.outline).area / min(old.outline.area, area)
        low, high = REPLACED_OVERLAP
        if low < shared < high and not site.meets(outline_of(wings, 1.0), but=new):
            site.buildings[index] = replace(new, stood=False, kind="replaced")
            site.buildings.append(old)
            return True
    return False
