"""The layout of the sample town: water, rail, districts, streets, blocks, and which buildings come when.

Local metres as in `sample_buildings`. Which town it becomes, and where everything lies, follows from the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, hypot, pi, sin
from typing import Any

import numpy as np
import shapely
from shapely import LineString, MultiPoint, Point, Polygon, box

from historymap_lib.sample_buildings import (
    DEMOLISHED,
    FILLERS,
    REPLACED,
    Building,
    FloatArray,
    Rng,
    Site,
    Wing,
    annex,
    chance,
    church,
    house,
    long_house,
    placed,
    scatter,
    since,
)

DENSITY = 720.0, 900.0  # buildings of today a km2
STOOD = 0.55  # of today's buildings
LATE_ESTATES = 0.29  # of today's buildings; the rest of the later ones are infill
CELL = 250.0  # metres between the middles of districts
PATTERNS = {  # metres between streets, across and along, and their width
    "centre": ((46, 66), (60, 100), (6, 9)),
    "villas": ((52, 70), (80, 150), (5, 8)),
    "industry": ((90, 130), (110, 180), (6, 9)),
    "estate": ((74, 110), (120, 190), (6, 8)),
}
MIN_BLOCK = 500.0  # m2
MIN_STREET = 8.0  # metres
RAIL_TRIES = 8


@dataclass(frozen=True)
class District:
    """A part of the town with one pattern of streets; `use` is centre, villas, industry or open."""

    ground: Any
    angle: float
    use: str


Left = tuple[District, Any, list[Any]]  # a district, its ground before streets were bent, and what is left open of it


Wave = Callable[[FloatArray], FloatArray]
Pattern = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Street:
    """A street or a path of the photo's time."""

    line: Any
    width: float
    kind: str = "street"


@dataclass
class Town:
    """The plan of both times, on a square of `size` metres.

    `old` and `late` are the sites built on before and after the photo, farms among the old ones; `open_ground` is what
    was fields or wood in the photo, with the direction of its parcels; `streets` are those of the photo's time.
    """

    size: float
    water: Any
    rail: Any
    districts: list[District] = field(default_factory=list)
    old: list[Site] = field(default_factory=list)
    late: list[Site] = field(default_factory=list)
    open_ground: list[tuple[Any, float]] = field(default_factory=list)
    streets: list[Street] = field(default_factory=list)

    def buildings(self) -> list[Building]:
        """Return the buildings of both times, in the order in which they were thought of."""
        return [building for site in (*self.old, *self.late) for building in site.buildings]


def lay_out(rng: Rng, size: float) -> Town:
    """Return a town on a square of `size` metres."""
    water = draw_water(rng, size)
    rail = draw_rail(rng, size, water)
    town = Town(size, water, rail)
    centre = choose_centre(rng, size, water)
    warp = draw_bend(rng)
    cells = draw_districts(rng, size, centre, rail, warp)
    town.districts = [district for district, _ in cells]
    free = shapely.union_all([water.buffer(7), rail.buffer(8)])
    left = _build_old(rng, town, cells, centre=centre, free=free, warp=warp)
    town.open_ground = [(part, district.angle) for district, _, ground in left for part in ground]
    built = list(town.old)
    late = _build_late(rng, town, left, free, warp, built=len(town.buildings()))
    total = sum(building.today for building in town.buildings()) - DEMOLISHED * sum(
        len(site.buildings) for site in built
    )
    since(rng, built, later=round(total * (1 - STOOD - REPLACED)) - late, replaced=round(total * REPLACED))
    return town


def waves(rng: Rng, length: tuple[float, float], count: int = 3) -> Wave:
    """Return a smooth random field over (n, 2) metres with values of about -1 to 1, its waves `length` metres long."""
    turn, phase = rng.uniform(0, 2 * pi, count), rng.uniform(0, 2 * pi, count)
    k = 2 * pi / rng.uniform(*length, count)
    across = np.array([np.cos(turn) * k, np.sin(turn) * k])

    def value(points: FloatArray) -> FloatArray:
        return np.asarray(np.sin(points @ across + phase).sum(axis=1) / count**0.75)

    return value


def draw_bend(rng: Rng) -> Callable[[Any], Any]:
    """Return a function that bends straight streets a little."""
    dx, dy = waves(rng, (280, 600)), waves(rng, (280, 600))
    reach = rng.uniform(4, 14)

    def bend(shape: Any) -> Any:
        return shapely.transform(shapely.segmentize(shape, 18), lambda p: p + reach * np.column_stack([dx(p), dy(p)]))

    return bend


def _across(size: float, through: tuple[float, float], angle: float, wave: Wave, sway: float) -> Any:
    """Return a line across the whole square that sways to both sides by `sway` metres."""
    along = np.linspace(-1.5 * size, 1.5 * size, 160)
    frame = Wing(*through, 1, 1, angle)
    aside = sway * wave(frame.at(along.tolist(), (along * 0).tolist()))
    return LineString(frame.at(along.tolist(), aside.tolist()))


def draw_water(rng: Rng, size: float) -> Any:
    """Return a river, a lake or a shore."""
    kind = rng.choice(["river", "lake", "shore"])
    wave = waves(rng, (0.35 * size, 0.9 * size))
    angle = rng.uniform(0, pi)
    if kind == "river":
        through = rng.uniform(0.25, 0.75, 2) * size
        line = _across(size, (through[0], through[1]), angle, wave, 0.07 * size)
        return line.buffer(rng.uniform(0.012, 0.026) * size)
    if kind == "lake":
        turns = np.linspace(0, 2 * pi, 60, endpoint=False)
        middle, reach = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0.1, 0.17) * size
        rim = np.column_stack([np.cos(turns), np.sin(turns) * rng.uniform(0.6, 1.0)]) * reach
        return Polygon(middle + rim * (1 + 0.35 * wave(middle + rim * 2))[:, None])
    corner = np.array([size / 2, size / 2]) + size * 0.9 * np.array([cos(angle * 2), sin(angle * 2)])
    line = _across(size, (corner[0], corner[1]), angle * 2 + pi / 2, wave, 0.05 * size)
    return line.buffer(0.5 * size).intersection(box(-size, -size, 2 * size, 2 * size))


def choose_centre(rng: Rng, size: float, water: Any) -> FloatArray:
    """Return where the town began: not far from the water, not at the edge."""
    spots = rng.uniform(0.28, 0.72, (40, 2)) * size
    away = shapely.distance(shapely.points(spots), water)
    return np.asarray(spots[np.abs(away - 0.09 * size).argmin()])


def draw_rail(rng: Rng, size: float, water: Any) -> Any:
    """Return a gently bent line across the square, of several the one that crosses the least water."""
    lines = []
    for _ in range(RAIL_TRIES):
        through, wave = rng.uniform(0.15, 0.85, 2) * size, waves(rng, (1.2 * size, 2 * size), 1)
        line = _across(size, (through[0], through[1]), rng.uniform(0, pi), wave, 0.06 * size)
        lines.append(line.intersection(box(-50, -50, size + 50, size + 50)))
    return min(lines, key=lambda line: line.intersection(water).length - 0.25 * line.length)


def draw_districts(
    rng: Rng, size: float, centre: FloatArray, rail: Any, warp: Callable[[Any], Any]
) -> list[tuple[District, Any]]:
    """Return the districts from the centre outward, each with its ground before the streets were bent."""
    count = max(3, round(size / CELL))
    grid = np.stack(np.meshgrid(np.arange(-1, count + 1), np.arange(-1, count + 1)), axis=-1).reshape(-1, 2)
    middles = (grid + 0.5 + rng.uniform(-0.36, 0.36, grid.shape)) * size / count
    cells = shapely.get_parts(shapely.voronoi_polygons(MultiPoint(middles)))
    cells = cells[shapely.intersects(cells, box(0, 0, size, size))]
    points = shapely.get_coordinates(shapely.centroid(cells))
    away = np.hypot(*(points - centre).T) + rng.uniform(0, 0.12 * size, len(points))
    by_rail = shapely.distance(cells, rail) + np.where(away < 0.3 * size, size, 0)
    industry = set(by_rail.argsort()[: max(1, len(cells) // 14)].tolist())
    inner = max(1, round(len(cells) * 0.06))
    base, spread = rng.uniform(0, pi / 2), rng.choice([0.08, 0.25, 0.7])
    found = []
    for rank, i in enumerate(away.argsort()):
        use = "centre" if rank < inner else "industry" if i in industry else "villas"
        angle = float(base + rng.normal(0, spread))
        found.append((District(warp(cells[i]), angle, use), cells[i]))
    return found


def draw_grid(rng: Rng, cell: Any, angle: float, pattern: Pattern) -> list[Street]:
    """Return the streets within a district, in two directions."""
    across, along, width = pattern
    reach = hypot(*(np.ptp(shapely.get_coordinates(cell), axis=0))) / 2
    frame = Wing(cell.centroid.x, cell.centroid.y, 1, 1, angle)
    rows = np.arange(-reach + rng.uniform(0, across[0]), reach, rng.uniform(*across))
    columns = np.arange(-reach + rng.uniform(0, along[0]), reach, rng.uniform(*along))
    lines = [frame.at([-reach, reach], [v, v]) for v in rows] + [frame.at([u, u], [-reach, reach]) for u in columns]
    parts = shapely.get_parts(shapely.intersection(shapely.linestrings(lines), cell.buffer(1)))
    return [Street(line, rng.uniform(*width)) for line in parts if line.length > MIN_STREET]


def cut_blocks(district: District, streets: list[Street], free: Any, size: float) -> list[Any]:
    """Return the blocks that the streets leave of a district."""
    roads = [street.line.buffer(street.width / 2 + 1) for street in streets]
    ground = district.ground.buffer(-5).intersection(box(2, 2, size - 2, size - 2))
    parts = shapely.get_parts(ground.difference(shapely.union_all([*roads, free])))
    return [part for part in parts if part.geom_type == "Polygon" and part.area > MIN_BLOCK]


def _build_old(
    rng: Rng,
    town: Town,
    cells: list[tuple[District, Any]],
    *,
    centre: FloatArray,
    free: Any,
    warp: Callable[[Any], Any],
) -> list[Left]:
    """Build the town of the photo from the centre outward; return what it leaves open."""
    wanted = rng.uniform(*DENSITY) * (town.size / 1000) ** 2 * (1 - LATE_ESTATES) * 1.13  # some will be gone
    inside = box(2, 2, town.size - 2, town.size - 2)
    left: list[Left] = []
    count = 0
    for district, cell in cells:
        if count >= wanted and district.use == "villas":
            left.append((district, cell, [(district.ground.buffer(-4) & inside) - free]))
            continue
        streets = [Street(warp(s.line), s.width) for s in draw_grid(rng, cell, district.angle, PATTERNS[district.use])]
        town.streets += streets
        empty = []
        blocks = cut_blocks(district, streets, free, town.size)
        nearest = np.argsort([Point(*centre).distance(block) for block in blocks])
        for block in [blocks[i] for i in nearest]:
            if count >= wanted or (district.use == "villas" and chance(rng, 0.06)):
                empty.append(block)
                continue
            use = district.use
            if use == "villas":
                use = str(rng.choice(["villas", "mixed", "rows", "slabs"], p=[0.69, 0.16, 0.1, 0.05]))
            site = Site(block, use, district.angle)
            _landmark(rng, site, town)
            FILLERS[use](rng, site)
            town.old.append(site)
            count += len(site.buildings)
        if empty:
            left.append((district, cell, empty))
    return left


def _landmark(rng: Rng, site: Site, town: Town) -> None:
    """Put a church into the first block of the centre, and a school into a few others."""
    if site.use == "centre" and not town.old:
        scatter(rng, site, lambda: (church(rng), "church"), 12, gap=8)
    elif site.use == "villas" and chance(rng, 0.08):
        scatter(rng, site, lambda: (long_house(rng, rng.uniform(30, 48), 14, 9), "school"), 2, gap=8)


def _build_late(
    rng: Rng,
    town: Town,
    left: list[Left],
    free: Any,
    warp: Callable[[Any], Any],
    *,
    built: int,
) -> int:
    """Build farms, then estates over open ground until they are their share of today; return how many came late."""
    wanted = built / 1.1 * LATE_ESTATES / (1 - LATE_ESTATES)
    count = 0
    for i in rng.permutation(len(left)):
        district, cell, ground = left[i]
        farms = build_farms(rng, district, ground)
        town.old += farms
        if count >= wanted:
            continue
        streets = [Street(warp(s.line), s.width) for s in draw_grid(rng, cell, district.angle, PATTERNS["estate"])]
        area = shapely.union_all(ground)
        use = str(rng.choice(["villas", "mixed", "rows", "slabs", "industry"], p=[0.34, 0.3, 0.12, 0.16, 0.08]))
        for block in cut_blocks(district, streets, free, town.size):
            plot = block.intersection(area)
            if count >= wanted or plot.geom_type != "Polygon" or plot.area < MIN_BLOCK:
                continue
            kept = [b for farm in farms for b in farm.buildings if b.today and b.outline.intersects(plot)]
            site = Site(plot, use if chance(rng, 0.7) else "mixed", district.angle, list(kept))
            FILLERS[site.use](rng, site)
            site.buildings = [Building(b.wings, b.tag, stood=False, kind="estate") for b in site.buildings[len(kept) :]]
            count += len(site.buildings)
            town.late.append(site)
    return count


def build_farms(rng: Rng, district: District, ground: list[Any]) -> list[Site]:
    """Return up to two farms with their yards; some were gone before today."""
    farms = []
    for area in ground:
        inside = area.buffer(-26)
        if inside.is_empty or chance(rng, 0.45):
            continue
        spot = inside.representative_point() if chance(rng, 0.3) else Point(*strew(rng, inside, 1)[0])
        frame = Wing(spot.x, spot.y, 44, 40, district.angle + rng.normal(0, 0.2))
        site = Site(Polygon(frame.corners()), "farm", frame.angle)
        kept = chance(rng, 0.65)
        barn = (Wing(0, 0, rng.uniform(18, 32), rng.uniform(9, 13), 0, 5, rng.uniform(3, 5)),)
        for wings, tag, u, v in (
            (barn, "barn", 0.0, 12.0),
            (house(rng), "farm", rng.uniform(-10, 10), -11.0),
            (house(rng, area=(30, 70)), "yes", -16.0, 0.0),
            (annex(rng)[0], "shed", 15.0, -4.0),
        ):
            x, y = frame.at([u], [v])[0]
            site.place(placed(wings, x, y, frame.angle), tag)
        today = [kept and chance(rng, 0.85) for _ in site.buildings]
        stood = [not kept or chance(rng, 0.8) for _ in site.buildings]
        site.buildings = [
            Building(b.wings, b.tag, then or not now, now, "old" if then or not now else "scattered")
            for b, then, now in zip(site.buildings, stood, today, strict=True)
        ]
        farms.append(site)
    return farms


def strew(rng: Rng, area: Any, count: int) -> FloatArray:
    """Return about `count` random (n, 2) points within a polygon, at least one."""
    west, south, east, north = area.bounds
    share = max(area.area / max((east - west) * (north - south), 1e-6), 0.02)
    points = rng.uniform((west, south), (east, north), (int(count / share) + 1, 2))
    inside = points[shapely.contains_xy(area, points)]
    return np.asarray(inside if len(inside) else shapely.get_coordinates(area.representative_point()))
