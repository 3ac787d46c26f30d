"""What a judge of buildings takes for one: bright plots, courts, pools, ploughed strips, walls, stacks, cars, rubbish.

Local metres as in `sample_buildings`; everything is added to a `Ground` that `sample_ground.cover` made.
"""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import LineString, Polygon

from historymap_lib.sample_buildings import Wing, chance
from historymap_lib.sample_photo import TONES, Tone
from historymap_lib.sample_town import strew

if TYPE_CHECKING:
    from historymap_lib.sample_buildings import Building, Rng, Site
    from historymap_lib.sample_ground import Ground
    from historymap_lib.sample_style import Soil
    from historymap_lib.sample_town import Town

ADDED_TONES = {
    "pale": Tone((0.6, 0.9), mottle=0.05),
    "dim": Tone((0.12, 0.3), mottle=0.05),
    "plain": Tone((0.3, 0.6), mottle=0.07),
    "soil": Tone((0.45, 0.75), mottle=0.12),
    "terrace": Tone((0.3, 0.6), (0.03, 0.12), (6, 14), 0.08),
    "line": Tone((0.7, 0.95), mottle=0.02),
    "wall": Tone((0.35, 0.8), mottle=0.06),
}
STREETS = "street", "road"
TALLEST_LITTER = 0.35  # of it stands up and throws a shadow


def varied_tones(rng: Rng, soil: Soil) -> dict[str, Tone]:
    """Return how each kind of ground looks in this town: moved, spread and mottled as its soil says."""
    tones = {}
    middle = 0.45
    for kind, tone in {**TONES, **ADDED_TONES}.items():
        low, high = tone.tone
        shift = rng.normal(0, 0.05)
        if kind in STREETS:
            shift += soil.street - (low + high) / 2
        bounds = [
            float(np.clip((middle + (x + shift - middle) * soil.spread) * soil.gain, 0.06, 1)) for x in (low, high)
        ]
        tones[kind] = Tone((bounds[0], bounds[1]), tone.furrow, tone.period, min(0.22, tone.mottle * soil.mottle))
    return tones


def add_lookalikes(rng: Rng, ground: Ground, town: Town, soil: Soil) -> None:
    """Add everything that looks like a building and is none, and what clutters the ground."""
    amount = soil.lookalikes * (town.size / 1000) ** 2
    for area, angle in town.open_ground:
        _fields(rng, ground, area, angle, soil)
    for site in town.old:
        _yards(rng, ground, site, soil)
    for site in town.late:
        _before(rng, ground, site, soil)
    for _ in range(rng.poisson(60 * amount)):
        spot, angle = _anywhere(rng, town)
        kind = str(rng.choice(["tennis", "pool", "floor", "lot", "foundation"], p=[0.12, 0.18, 0.25, 0.2, 0.25]))
        _PLACES[kind](rng, ground, spot, angle)
    for street in town.streets:
        for _ in range(rng.poisson(street.line.length / 70 * soil.litter)):
            _vehicle(rng, ground, street.line, street.width)


def _anywhere(rng: Rng, town: Town) -> tuple[tuple[float, float], float]:
    x, y = rng.uniform(0, town.size, 2)
    return (x, y), float(town.districts[rng.integers(len(town.districts))].angle + rng.choice([0, pi / 2]))


def _patch(ground: Ground, where: Wing, kind: str) -> None:
    ground.covers.append((Polygon(where.corners()), kind, where.angle))


def _fields(rng: Rng, ground: Ground, area: Any, angle: float, soil: Soil) -> None:
    """Add bright and dark strips, bare soil, terraces, bushes, and round stacks to open ground."""
    if area.is_empty:
        return
    for x, y in strew(rng, area, int(area.area / 2500 * soil.lookalikes)):
        kind = str(rng.choice(["pale", "plain", "plough", "terrace", "bed", "dim", "lawn"]))
        turned = angle + rng.choice([0, pi / 2]) + rng.normal(0, 0.03)
        _patch(ground, Wing(x, y, rng.uniform(5, 40), rng.uniform(4, 14), turned), kind)
    _blots(rng, ground, area, int(area.area / 5000))
    if chance(rng, 0.4):
        for x, y in strew(rng, area, int(area.area / rng.uniform(1500, 6000))):
            wide = rng.uniform(2, 5)
            ground.clutter.append(Wing(x, y, wide, wide, rng.uniform(0, pi), rng.uniform(0.8, 3), wide * 0.3, hip=True))
    ground.plant(rng, strew(rng, area, int(area.area / 500 * soil.trees)), (0.6, 2.2), 1.0)


def _blots(rng: Rng, ground: Ground, area: Any, count: int) -> None:
    """Add patches of bare soil of no shape."""
    for x, y in strew(rng, area, count):
        steps = np.cumsum(rng.normal(0, rng.uniform(0.8, 4), (int(rng.integers(3, 9)), 2)), axis=0)
        spots = shapely.points(steps + np.array([x, y]))
        worn = shapely.union_all(shapely.buffer(spots, rng.uniform(0.6, 4, len(spots)), quad_segs=4))
        ground.covers.append((worn, "soil", 0.0))


def _yards(rng: Rng, ground: Ground, site: Site, soil: Soil) -> None:
    """Add paved yards, beds, walls and fences between the houses of a block, and what lies about."""
    area = site.ground.area
    for x, y in strew(rng, site.ground, int(area / 220 * soil.lookalikes)):
        kind = str(rng.choice(["pale", "plain", "soil", "bed", "dim", "court"], p=[0.2, 0.2, 0.2, 0.16, 0.08, 0.16]))
        turned = site.angle + rng.normal(0, 0.03)
        _patch(ground, Wing(x, y, rng.uniform(2.5, 14), rng.uniform(2, 8), turned), kind)
    _blots(rng, ground, site.ground, int(area / 1500))
    for building in site.buildings:
        if chance(rng, 0.3):
            _enclose(rng, ground, building)
    for x, y in strew(rng, site.ground, int(area / 55 * soil.litter)):
        wide, deep = rng.uniform(0.5, 3), rng.uniform(0.4, 1.6)
        angle = site.angle + rng.choice([0, pi / 2, 0.7])
        if chance(rng, TALLEST_LITTER):
            ground.clutter.append(Wing(x, y, wide, deep, angle, rng.uniform(0.4, 1.8)))
        else:
            _patch(ground, Wing(x, y, wide, deep, angle), str(rng.choice(["pale", "dim", "plain"])))
    ground.plant(rng, strew(rng, site.ground, int(area / 260 * soil.trees)), (0.5, 3.4), 1.4)


def _enclose(rng: Rng, ground: Ground, building: Building) -> None:
    """Add a wall or a fence around a yard beside a building: bright or dark lines that throw a shadow."""
    main = max(building.wings, key=lambda wing: wing.length * wing.depth)
    plot = Wing(main.x, main.y, main.length + rng.uniform(4, 12), main.depth + rng.uniform(4, 14), main.angle)
    spot = plot.at([rng.uniform(-2, 2)], [rng.uniform(-4, 4)])[0]
    points = Wing(spot[0], spot[1], plot.length, plot.depth, plot.angle).corners()
    if chance(rng, 0.4):
        ground.covers.append((Polygon(points), str(rng.choice(["soil", "plain", "court", "pale"])), main.angle))
    tall, thick = rng.uniform(0.8, 2.2), rng.uniform(0.25, 0.5)
    for i in range(4):
        if chance(rng, 0.25):
            continue
        here, there = points[i], points[(i + 1) % 4]
        middle, along = (here + there) / 2, there - here
        angle = float(np.arctan2(along[1], along[0]))
        ground.clutter.append(Wing(middle[0], middle[1], float(np.hypot(*along)), thick, angle, tall))


def _before(rng: Rng, ground: Ground, site: Site, soil: Soil) -> None:
    """Cover some of the ground on which something came later: a plot, a yard, bare soil, of another size."""
    for building in site.buildings:
        if building.kind != "replaced" and chance(rng, min(0.3 * soil.lookalikes, 0.6)):
            main = max(building.wings, key=lambda wing: wing.length * wing.depth)
            spot = (main.x, main.y) + rng.normal(0, 0.25, 2) * main.depth
            size = main.length * rng.uniform(0.4, 1.8), main.depth * rng.uniform(0.4, 1.8)
            kind = str(rng.choice(["pale", "plain", "soil", "bed", "dim", "court", "lawn"]))
            _patch(ground, Wing(spot[0], spot[1], size[0], size[1], main.angle + rng.normal(0, 0.15)), kind)


def _tennis(rng: Rng, ground: Ground, spot: tuple[float, float], angle: float) -> None:
    length, depth = rng.uniform(22, 36), rng.uniform(11, 18)
    kind = str(rng.choice(["plain", "soil", "dim"]))
    _patch(ground, Wing(*spot, length, depth, angle), kind)
    court = Wing(*spot, length * 0.75, depth * 0.7, angle)
    ground.covers.append((Polygon(court.corners()).exterior.buffer(0.15), "line", 0.0))
    ground.covers.append((LineString(court.at([0, 0], [-court.depth / 2, court.depth / 2])).buffer(0.15), "line", 0.0))


def _pool(rng: Rng, ground: Ground, spot: tuple[float, float], angle: float) -> None:
    length, depth, rim = rng.uniform(5, 16), rng.uniform(3, 8), rng.uniform(0.6, 2)
    _patch(ground, Wing(*spot, length + 2 * rim, depth + 2 * rim, angle), "pale")
    ground.covers.append((Polygon(Wing(*spot, length, depth, angle).corners()), str(rng.choice(["dim", "plain"])), 0.0))


def _floor(rng: Rng, ground: Ground, spot: tuple[float, float], angle: float) -> None:
    """Add a threshing floor: round or square, bright, level."""
    wide = rng.uniform(5, 16)
    if chance(rng, 0.5):
        ground.covers.append((shapely.Point(spot).buffer(wide / 2), "pale", 0.0))
    else:
        _patch(ground, Wing(*spot, wide, wide * rng.uniform(0.6, 1), angle), "pale")


def _lot(rng: Rng, ground: Ground, spot: tuple[float, float], angle: float) -> None:
    """Add a yard with cars or carts in rows."""
    length, depth = rng.uniform(16, 50), rng.uniform(10, 24)
    lot = Wing(*spot, length, depth, angle)
    ground.covers.append((Polygon(lot.corners()), str(rng.choice(["plain", "court", "pale", "soil"])), angle))
    for u in np.arange(-length / 2 + 2, length / 2 - 2, rng.uniform(2.4, 3.2)):
        for side in (-1, 1):
            if chance(rng, 0.55):
                x, y = lot.at([u], [side * (depth / 2 - 3)])[0]
                ground.clutter.append(Wing(x, y, 1.8, rng.uniform(3.6, 4.8), angle, 1.5))


def _foundation(rng: Rng, ground: Ground, spot: tuple[float, float], angle: float) -> None:
    """Add low walls around a yard or a pen: an outline without a roof."""
    length = rng.uniform(5, 16)
    pen = Wing(*spot, length, length * rng.uniform(0.5, 1), angle)
    if chance(rng, 0.6):
        ground.covers.append((Polygon(pen.corners()), str(rng.choice(["soil", "plain", "dim", "bed"])), angle))
    ground.covers.append((Polygon(pen.corners()).exterior.buffer(rng.uniform(0.15, 0.4)), "wall", 0.0))


_PLACES = {"tennis": _tennis, "pool": _pool, "floor": _floor, "lot": _lot, "foundation": _foundation}


def _vehicle(rng: Rng, ground: Ground, line: Any, width: float) -> None:
    """Park a car, a cart or a lorry at the side of a street."""
    s = rng.uniform(0, line.length)
    here, there = line.interpolate(s), line.interpolate(s + 1)
    angle = float(np.arctan2(there.y - here.y, there.x - here.x))
    aside = rng.choice([-1, 1]) * max(0.0, width / 2 - rng.uniform(0, 1.5))
    x, y = Wing(here.x, here.y, 1, 1, angle).at([0], [aside])[0]
    ground.clutter.append(Wing(x, y, rng.uniform(2.5, 7.5), rng.uniform(1.4, 2.4), angle, rng.uniform(1.2, 2.8)))
