"""The layout of a varied town: districts and blocks built as its `Fabric` says, estates that come later.

The counterpart of `sample_town.lay_out`; which buildings come later besides estates is told by `sample_later`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import shapely
from shapely import LineString, Point, Polygon, box

from historymap_lib.sample_buildings import ANNEX, Site, chance
from historymap_lib.sample_quarters import PATTERNS, QUARTERS
from historymap_lib.sample_town import PATTERNS as TOWN_PATTERNS
from historymap_lib.sample_town import (
    Street,
    Town,
    build_farms,
    choose_centre,
    cut_blocks,
    draw_bend,
    draw_districts,
    draw_grid,
    draw_rail,
    draw_water,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from historymap_lib.sample_buildings import Rng
    from historymap_lib.sample_style import Fabric
    from historymap_lib.sample_town import District

Plot = tuple["District", Any, Any]  # a district, its ground before streets were bent, and what is open of it

NO_WATER, NO_RAIL = 0.55, 0.65  # of all towns
LATE_ESTATES = 0.22  # of today's buildings, where there is room
VACANT = 0.05  # of the blocks
TALL = frozenset({"quarter", "compounds", "villas", "mixed", "rows"})  # quarters whose houses have floors as asked
FLOOR = 2.7, 3.4  # metres
LEAST_ESTATE = 900.0  # m2


def lay_out_varied(rng: Rng, size: float, fabric: Fabric) -> Town:
    """Return a town on a square of `size` metres, the buildings of both times in place, none yet gone or replaced."""
    water = Polygon() if chance(rng, NO_WATER) else draw_water(rng, size)
    rail = LineString() if chance(rng, NO_RAIL) else draw_rail(rng, size, water)
    town = Town(size, water, rail)
    bend = draw_bend(rng)
    centre = choose_centre(rng, size, Point(rng.uniform(0.3, 0.7, 2) * size).buffer(1) if water.is_empty else water)
    far_rail = LineString([(-size, -size), (-size, 0)]) if rail.is_empty else rail
    cells = draw_districts(rng, size, centre, far_rail, bend)
    town.districts = [district for district, _ in cells]
    free = shapely.union_all([water.buffer(7), rail.buffer(8)])
    wanted = fabric.density * (size / 1000) ** 2
    left = _build_districts(rng, town, cells, fabric, bend=bend, free=free, wanted=wanted * (1 - LATE_ESTATES))
    town.open_ground = [(area, district.angle) for district, _, area in left]
    _build_estates(rng, town, left, fabric, bend=bend, free=free)
    return town


def _build_districts(
    rng: Rng,
    town: Town,
    cells: list[tuple[District, Any]],
    fabric: Fabric,
    *,
    bend: Callable[[Any], Any],
    free: Any,
    wanted: float,
) -> list[Plot]:
    """Build districts from the centre outward until there are enough buildings; return what is left open."""
    inside = box(2, 2, town.size - 2, town.size - 2)
    open_share, pure = rng.uniform(0.04, 0.32), rng.uniform(0.3, 0.9)
    left: list[Plot] = []
    count = 0
    for number, (district, cell) in enumerate(cells):
        if count >= wanted or (number > 1 and chance(rng, open_share)):
            left.append((district, cell, (district.ground.buffer(-4) & inside) - free))
            continue
        main = draw(rng, fabric.quarters)
        pattern = PATTERNS.get(main) or TOWN_PATTERNS[main]
        streets = [Street(bend(s.line), s.width) for s in draw_grid(rng, cell, district.angle, pattern)]
        town.streets += streets
        for block in cut_blocks(district, streets, free, town.size):
            if count >= wanted or chance(rng, VACANT):
                left.append((district, cell, block))
                continue
            site = Site(block, main if chance(rng, pure) else draw(rng, fabric.quarters), district.angle)
            fill(rng, site, fabric)
            town.old.append(site)
            count += len(site.buildings)
    return left


def draw(rng: Rng, odds: Any) -> str:
    """Return one of the keys of `odds`, which sum to 1."""
    return str(rng.choice(list(odds), p=list(odds.values())))


def fill(rng: Rng, site: Site, fabric: Fabric) -> None:
    """Build on a site after its use, and give the houses the floors that are usual in the town."""
    before = len(site.buildings)
    QUARTERS[site.use](rng, site)
    if site.use not in TALL:
        return
    for i in range(before, len(site.buildings)):
        building = site.buildings[i]
        if building.tag in ANNEX:
            continue
        floors = max(1, round(rng.uniform(*fabric.storeys)))
        share = floors * rng.uniform(*FLOOR) / max(wing.eave for wing in building.wings)
        wings = tuple(replace(wing, eave=wing.eave * share) for wing in building.wings)
        site.buildings[i] = replace(building, wings=wings)


def _build_estates(
    rng: Rng, town: Town, left: list[Plot], fabric: Fabric, *, bend: Callable[[Any], Any], free: Any
) -> None:
    """Build farms of the photo's time, then estates of today, on open ground."""
    wanted = len(town.buildings()) * LATE_ESTATES / (1 - LATE_ESTATES)
    count = 0
    for i in rng.permutation(len(left)):
        district, cell, area = left[i]
        farms = build_farms(rng, district, [area])
        town.old += farms
        if count >= wanted or area.area < LEAST_ESTATE:
            continue
        use = draw(rng, fabric.quarters) if chance(rng, 0.5) else str(rng.choice(["villas", "rows", "slabs", "mixed"]))
        pattern = PATTERNS.get(use) or TOWN_PATTERNS[use]
        streets = [Street(bend(s.line), s.width) for s in draw_grid(rng, cell, district.angle, pattern)]
        for block in cut_blocks(district, streets, free, town.size):
            plot = block.intersection(area)
            if count >= wanted or plot.geom_type != "Polygon" or plot.area < LEAST_ESTATE:
                continue
            kept = [b for farm in farms for b in farm.buildings if b.outline.intersects(plot)]
            site = Site(plot, use, district.angle, list(kept))
            fill(rng, site, fabric)
            site.buildings = [replace(b, stood=False, kind="estate") for b in site.buildings[len(kept) :]]
            count += len(site.buildings)
            town.late.append(site)
