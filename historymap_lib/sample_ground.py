"""What covers the ground of the sample town when the photo is taken: fields, gardens, streets, trees, and clutter.

Local metres as in `sample_buildings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import hypot, pi
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import LineString, Polygon, box

from historymap_lib.sample_buildings import ANNEX, FloatArray, Rng, Wing, chance
from historymap_lib.sample_town import Street, strew

if TYPE_CHECKING:
    from historymap_lib.sample_buildings import Building, Site
    from historymap_lib.sample_town import Town

PARCELS = {  # how often each kind of field
    "meadow": 0.2, "hay": 0.14, "grain": 0.18, "plough": 0.15, "pasture": 0.12, "orchard": 0.06, "wood": 0.1,
    "allotment": 0.05,
}  # fmt: skip
WOODED = 0.33  # of the ground that was not built on
TREE_DENSITY = {"wood": 1 / 17, "pasture": 1 / 450, "meadow": 1 / 1500, "court": 1 / 420, "yard": 1 / 900}  # a m2
GARDEN_TREES = 1 / 520, 1 / 170  # a m2
SITE_COVER = {
    "centre": "court", "industry": "yard", "farm": "yard", "quarter": "court", "compounds": "court", "shanty": "yard",
}  # fmt: skip
GROWN = 0.9  # of the trees of an orchard
MIN_PARCEL = 40.0  # m2
AVENUES = 0.11  # of the streets
BRIDGES = 3
OVERHANG = 0.65  # of a crown's radius, at least, from its stem to the nearest wall
LONGEST_BRIDGE = 130.0  # metres


@dataclass
class Ground:
    """What lies on the ground, besides buildings.

    `covers` are (polygon, kind, direction), painted in this order; `trees` are x, y, radius and height in metres;
    `clutter` looks like small buildings and is none: stacks, vehicles, wagons, boats, hay.
    """

    covers: list[tuple[Any, str, float]] = field(default_factory=list)
    trees: list[FloatArray] = field(default_factory=list)
    clutter: list[Wing] = field(default_factory=list)

    def plant(self, rng: Rng, points: FloatArray, radius: tuple[float, float], slender: float = 1.6) -> None:
        """Add trees at (n, 2) points, about `slender` times as high as their crown is wide."""
        wide = rng.uniform(*radius, len(points))
        self.trees.append(np.column_stack([points, wide, 2 * wide * slender * rng.uniform(0.7, 1.3, len(points))]))


def cover(rng: Rng, town: Town, overhang: float = OVERHANG) -> Ground:
    """Return what covers the ground of the photo's time."""
    ground = Ground()
    seen, woods = rng.uniform(0, town.size**2 / 20), 0.0
    for part, angle in town.open_ground:
        seen += part.area
        wooded = woods < WOODED * seen  # by area, so that the estates of no town all lie on fields
        woods += part.area * wooded
        _fields(rng, ground, part, angle, wooded=wooded)
    for site in town.old:
        _site(rng, ground, site)
    _streets(rng, ground, town)
    _shore_and_rail(rng, ground, town)
    clear(ground, [building for building in town.buildings() if building.stood], town.water, overhang)
    return ground


def _fields(rng: Rng, ground: Ground, area: Any, angle: float, *, wooded: bool) -> None:
    """Divide open ground into parcels, or leave it a wood."""
    if area.is_empty:
        return
    for parcel in _parcels(rng, area, angle):
        kind = "wood" if wooded and chance(rng, 0.9) else str(rng.choice(list(PARCELS), p=list(PARCELS.values())))
        _parcel(rng, ground, parcel, kind, angle + rng.choice([0, pi / 2], p=[0.75, 0.25]))


def _parcels(rng: Rng, area: Any, angle: float) -> list[Any]:
    west, south, east, north = area.bounds
    reach = hypot(east - west, north - south) / 2
    frame = Wing((west + east) / 2, (south + north) / 2, 1, 1, angle)
    shapes, v = [], -reach
    while v < reach:
        deep, u = rng.uniform(28, 90), -reach
        while u < reach:
            wide = rng.uniform(70, 240)
            shapes.append(Polygon(frame.at([u, u + wide, u + wide, u], [v, v, v + deep, v + deep])))
            u += wide
        v += deep
    parts = shapely.get_parts(shapely.intersection(shapes, area))
    return [part for part in parts if part.geom_type == "Polygon" and part.area > MIN_PARCEL]


def _parcel(rng: Rng, ground: Ground, parcel: Any, kind: str, angle: float) -> None:
    ground.covers.append((parcel, kind, angle))
    edge = parcel.exterior
    if chance(rng, 0.35):
        ground.covers.append((edge.buffer(rng.uniform(0.4, 1.0)), "hedge", 0.0))
    if chance(rng, 0.3):
        spots = [edge.interpolate(s) for s in np.arange(0, edge.length * rng.uniform(0.2, 1), rng.uniform(2.5, 9))]
        points = shapely.get_coordinates(spots) + rng.normal(0, 0.7, (len(spots), 2))
        ground.plant(rng, points, (0.8, rng.uniform(1.2, 3.4)), 1.2)
    if kind in TREE_DENSITY:
        ground.plant(rng, strew(rng, parcel, int(parcel.area * TREE_DENSITY[kind])), (1.3, 3.6))
    elif kind == "orchard":
        ground.plant(rng, _rows(rng, parcel, angle, rng.uniform(5.5, 8)), (1.3, 2.4), 1.0)
    elif kind == "hay":
        _stacks(rng, ground, parcel, angle)
    elif kind == "allotment":
        _beds(rng, ground, parcel, angle, int(parcel.area / 60))
        for x, y in strew(rng, parcel, int(parcel.area / 700)):
            ground.clutter.append(Wing(x, y, rng.uniform(2, 4), rng.uniform(1.8, 2.6), angle, 2.0))


def _rows(rng: Rng, area: Any, angle: float, step: float) -> FloatArray:
    west, south, east, north = area.bounds
    reach = hypot(east - west, north - south) / 2
    lines = np.meshgrid(np.arange(-reach, reach, step), np.arange(-reach, reach, step * 1.1))
    frame = Wing((west + east) / 2, (south + north) / 2, 1, 1, angle)
    points = frame.at(lines[0].ravel().tolist(), lines[1].ravel().tolist())
    points += rng.normal(0, 0.4, points.shape)
    return np.asarray(points[shapely.contains_xy(area, points) & (rng.random(len(points)) < GROWN)])


def _stacks(rng: Rng, ground: Ground, parcel: Any, angle: float) -> None:
    """Add hay on drying racks (long and narrow) or in stacks."""
    racks = chance(rng, 0.6)
    for x, y in strew(rng, parcel, int(parcel.area / rng.uniform(300, 1500))):
        length = rng.uniform(6, 14) if racks else rng.uniform(2.5, 5)
        depth = rng.uniform(1.0, 1.6) if racks else length * rng.uniform(0.6, 1)
        ground.clutter.append(Wing(x, y, length, depth, angle + rng.normal(0, 0.1), rng.uniform(1.3, 2.4), 0.8))


def _beds(rng: Rng, ground: Ground, area: Any, angle: float, count: int) -> None:
    """Add garden plots: rectangles of a tone of their own."""
    for x, y in strew(rng, area, count):
        bed = Polygon(Wing(x, y, rng.uniform(4, 13), rng.uniform(2.5, 8), angle + rng.choice([0, pi / 2])).corners())
        ground.covers.append((bed.intersection(area), str(rng.choice(["bed", "lawn", "plough", "court"])), angle))


def _site(rng: Rng, ground: Ground, site: Site) -> None:
    """Cover a block: gardens with plots, hedges, beds and trees, or a yard."""
    kind = SITE_COVER.get(site.use, "garden")
    ground.covers.append((site.ground, kind, site.angle))
    if kind == "garden":
        for building in site.buildings:
            if building.tag not in ANNEX:
                _plot(rng, ground, site, building)
        _beds(rng, ground, site.ground, site.angle, int(site.ground.area / 420))
        ground.plant(rng, strew(rng, site.ground, int(site.ground.area * rng.uniform(*GARDEN_TREES))), (0.8, 3.6), 1.5)
        if chance(rng, 0.5):
            ground.covers.append((site.ground.exterior.buffer(0.5).intersection(site.ground), "hedge", 0.0))
        return
    _beds(rng, ground, site.ground, site.angle, int(site.ground.area / 260))
    ground.plant(rng, strew(rng, site.ground, int(site.ground.area * TREE_DENSITY[kind])), (1.2, 3.5))
    for x, y in strew(rng, site.ground, int(site.ground.area / (380 if kind == "yard" else 700))):
        length, depth = rng.uniform(2, 11), rng.uniform(1.6, 3.6)
        ground.clutter.append(Wing(x, y, length, depth, site.angle + rng.choice([0, pi / 2]), rng.uniform(1, 2.8)))


def _plot(rng: Rng, ground: Ground, site: Site, building: Building) -> None:
    """Cover the ground about a house, or where one comes later: lawn or orchard, hedges, and a way to the street."""
    main = max(building.wings, key=lambda wing: wing.length * wing.depth)
    reach_u, reach_v = main.length / 2 + rng.uniform(2.5, 7), main.depth / 2 + rng.uniform(4, 13)
    plot = Wing(main.x, main.y, 2 * reach_u, 2 * reach_v, main.angle)
    shape = Polygon(plot.corners()).intersection(site.ground)
    if shape.geom_type != "Polygon":
        return
    ground.covers.append((shape, str(rng.choice(["lawn", "garden", "meadow", "orchard"])), main.angle))
    if chance(rng, 0.45):
        ground.covers.append((shape.exterior.buffer(rng.uniform(0.25, 0.8)), "hedge", 0.0))
    if building.stood:
        middle = building.outline.centroid
        street = site.ground.exterior.interpolate(site.ground.exterior.project(middle))
        ground.covers.append((LineString([middle, street]).buffer(rng.uniform(0.5, 1.4)), "path", 0.0))
    elif chance(rng, 0.5):
        _beds(rng, ground, shape, main.angle, int(rng.integers(1, 5)))
    if chance(rng, 0.15):
        ground.plant(rng, _rows(rng, shape, main.angle, rng.uniform(4.5, 7)), (1.0, 2.2), 1.0)


def _streets(rng: Rng, ground: Ground, town: Town) -> None:
    """Add the streets, the roads between districts, and trees along some."""
    square = box(0, 0, town.size, town.size)
    roads = shapely.union_all([district.ground.exterior for district in town.districts]).intersection(square)
    lines = []
    for line in shapely.get_parts(shapely.line_merge(roads)):
        kind = str(rng.choice(["road", "street", "path"], p=[0.45, 0.35, 0.2]))
        lines.append(Street(line, rng.uniform(2, 3.5) if kind == "path" else rng.uniform(4.5, 10), kind))
    for street in [*town.streets, *lines]:
        edge = street.line.buffer(street.width / 2 + rng.uniform(0, 1.8), cap_style="flat")
        ground.covers.append((edge, str(rng.choice(["path", "lawn", "hedge", "court"])), 0.0))
    for street in [*town.streets, *lines]:
        ground.covers.append((street.line.buffer(street.width / 2), street.kind, 0.0))
        if chance(rng, AVENUES):
            _avenue(rng, ground, street)
        for _ in range(rng.poisson(street.line.length / 160)):
            _vehicle(rng, ground, street)


def _avenue(rng: Rng, ground: Ground, street: Street) -> None:
    step, radius = rng.uniform(7, 13), rng.uniform(1.5, 3.6)
    for side in (-1, 1):
        line = street.line.offset_curve(side * (street.width / 2 + rng.uniform(0.6, 2.2)))
        if line.is_empty:
            continue
        points = shapely.get_coordinates([line.interpolate(s) for s in np.arange(0, line.length, step)])
        ground.plant(rng, points + rng.normal(0, 0.4, points.shape), (radius * 0.7, radius * 1.1))


def _vehicle(rng: Rng, ground: Ground, street: Street) -> None:
    s = rng.uniform(0, street.line.length)
    here, there = street.line.interpolate(s), street.line.interpolate(s + 2)
    angle = float(np.arctan2(there.y - here.y, there.x - here.x))
    ground.clutter.append(Wing(here.x, here.y + 1.2, rng.uniform(3.5, 6.5), 1.8, angle, 1.7))


def _shore_and_rail(rng: Rng, ground: Ground, town: Town) -> None:
    """Add the water with its shore and boats, bridges over it, and the rail with wagons."""
    square = box(0, 0, town.size, town.size)
    ground.covers.append((town.water.buffer(rng.uniform(1.5, 5)), "shore", 0.0))
    ground.covers.append((town.water, "water", 0.0))
    roads = shapely.get_parts(shapely.union_all([district.ground.exterior for district in town.districts]))
    wet = shapely.get_parts(shapely.line_merge(shapely.intersection(roads, town.water.buffer(8))))
    ends = shapely.union_all(shapely.boundary(roads)).union(square.boundary).buffer(1)  # no bridge ends in the water
    crossing = [line for line in wet if line.length < LONGEST_BRIDGE and not line.boundary.intersects(ends)]
    for i in rng.permutation(len(crossing))[:BRIDGES]:
        ground.covers.append((crossing[i].buffer(rng.uniform(2.5, 4.5), cap_style="flat"), "road", 0.0))
    ground.covers.append((town.rail.buffer(rng.uniform(3.5, 6.5)), "ballast", 0.0))
    for side in (-1.9, 1.9):
        ground.covers.append((town.rail.offset_curve(side).buffer(0.6), "track", 0.0))
    for s in np.arange(rng.uniform(0, 300), town.rail.length, rng.uniform(200, 500)):
        for i in range(int(rng.integers(1, 9))):
            here, there = town.rail.interpolate(s + 11 * i), town.rail.interpolate(s + 11 * i + 3)
            angle = float(np.arctan2(there.y - here.y, there.x - here.x))
            ground.clutter.append(Wing(here.x, here.y, rng.uniform(8, 10), 2.7, angle, 2.6))
    edge = town.water.boundary.intersection(square)
    for _ in range(rng.poisson(edge.length / 130)):
        here = edge.interpolate(rng.uniform(0, edge.length))
        x, y = here.x + rng.normal(0, 6), here.y + rng.normal(0, 6)
        ground.clutter.append(Wing(x, y, rng.uniform(4, 15), rng.uniform(1.6, 4), rng.uniform(0, pi), 1.4))


def clear(ground: Ground, buildings: list[Building], water: Any, overhang: float) -> None:
    """Fell the trees and take away the clutter that stand inside buildings; crowns may still hang over roofs."""
    tree = shapely.STRtree([building.outline for building in buildings])
    trees = np.concatenate([*ground.trees, np.empty((0, 4))])
    trees = trees[~shapely.contains_xy(water, trees[:, :2])]
    stems = shapely.buffer(shapely.points(trees[:, :2]), overhang * trees[:, 2], quad_segs=2)
    inside = np.unique(tree.query(stems, predicate="intersects")[0])
    ground.trees = [np.delete(trees, inside, axis=0)]
    if ground.clutter:
        shapes = shapely.polygons(np.stack([wing.corners(1.0) for wing in ground.clutter]))
        hit = set(tree.query(shapes, predicate="intersects")[0].tolist())
        ground.clutter = [wing for i, wing in enumerate(ground.clutter) if i not in hit]
