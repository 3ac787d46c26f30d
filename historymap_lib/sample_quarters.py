"""More ways to fill a block than a town of the north knows: old quarters, compounds, hamlets, huts.

Local metres as in `sample_buildings`, whose sites these fill.
"""

from __future__ import annotations

from dataclasses import replace
from math import hypot, pi
from typing import TYPE_CHECKING

import numpy as np
import shapely

from historymap_lib.sample_buildings import FILLERS, Wing, Wings, annex, chance, house, placed, scatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from historymap_lib.sample_buildings import Rng, Site

Cell = tuple[float, float, float, float]  # from and to along, from and to across, in metres from a site's middle

MIN_SIDE = 2.6  # metres: nothing narrower is a building
SPLIT = 0.34, 0.66
JUNCTION = 0.25  # metres by which wings reach into each other


def hut(rng: Rng, area: tuple[float, float] = (7, 38)) -> Wings:
    """Return a small building about the origin, with a lean-to now and then."""
    size = np.exp(rng.uniform(np.log(area[0]), np.log(area[1])))
    length = float(np.sqrt(size * rng.uniform(1.0, 2.0)))
    return _with_lean_to(rng, _low(rng, length, float(size / length)), 0.25)


def cottage(rng: Rng, area: tuple[float, float] = (28, 150)) -> Wings:
    """Return a low house about the origin: a rectangle, an L or T, or a house with lean-tos of other heights."""
    if chance(rng, 0.4):
        return house(rng, area=area, eave=(2.4, 3.4))
    size = np.exp(rng.uniform(np.log(area[0]), np.log(area[1])))
    length = float(np.sqrt(size * rng.uniform(1.0, 2.2)))
    return _with_lean_to(rng, _low(rng, length, float(size / length)), 0.5)


def _low(rng: Rng, length: float, depth: float) -> Wing:
    turn = pi / 2 if depth > length else 0.0
    length, depth = max(length, depth), min(length, depth)
    rise = 0.0 if chance(rng, 0.4) else depth / 2 * rng.uniform(0.2, 0.6)
    return Wing(0, 0, length, depth, turn, rng.uniform(2.2, 3.2), rise, hip=chance(rng, 0.2))


def _with_lean_to(rng: Rng, main: Wing, odds: float) -> Wings:
    """Return a wing with up to three lower ones against its sides."""
    wings = [main]
    for side in (-1, 1):
        if chance(rng, odds):
            long, deep = main.length * rng.uniform(0.35, 1.0), rng.uniform(1.6, 0.7 * main.depth + 1.6)
            u = rng.choice([-1, 1]) * (main.length - long) / 2
            x, y = main.at([u], [side * (main.depth + deep - JUNCTION) / 2])[0]
            wings.insert(0, Wing(x, y, long, deep + JUNCTION, main.angle, main.eave * rng.uniform(0.7, 0.95)))
    return tuple(wings)


def fill_quarter(rng: Rng, site: Site) -> None:
    """Build wall to wall on plots of all sizes, with courts, passages and few gaps between."""
    smallest, gap = rng.uniform(22, 70), rng.choice([0.0, 0.15, 0.8])
    full = rng.uniform(0.78, 1.0)
    for u0, u1, v0, v1 in _plots(rng, site, smallest, rng.uniform(3, 7)):
        if not chance(rng, full):
            continue
        cut = rng.uniform(0, 0.9 if gap else 0.25, 4) + gap / 2
        _build_plot(rng, site, (u0 + cut[0], u1 - cut[1], v0 + cut[2], v1 - cut[3]))
    scatter(rng, site, lambda: (hut(rng, (5, 20)), "shed"), int(site.ground.area / 350), gap=0.1)


def _build_plot(rng: Rng, site: Site, cell: Cell) -> None:
    """Build on a plot: all over it, in part, in the shape of an L or U, or in two heights."""
    u0, u1, v0, v1 = cell
    wide, deep = u1 - u0, v1 - v0
    if min(wide, deep) < MIN_SIDE:
        return
    kind = str(rng.choice(["whole", "part", "ell", "split", "cup"], p=[0.42, 0.18, 0.18, 0.14, 0.08]))
    cells = [cell]
    us, vs = u0 + wide * rng.uniform(*SPLIT), v0 + deep * rng.uniform(*SPLIT)
    if kind == "part":
        cells = [(u0, u1, v0, vs) if chance(rng, 0.5) else (u0, us, v0, v1)]
    elif kind == "ell" and min(us - u0, vs - v0) > MIN_SIDE:
        cells = [(u0, us, v0, v1), (us - JUNCTION, u1, v0, vs)]
    elif kind == "split":
        cells = [(u0, us, v0, v1), (us - JUNCTION, u1, v0, v1)]
    elif kind == "cup" and wide > 4 * MIN_SIDE:
        cells = [(u0, u1, v0, vs), (u0, u0 + wide / 3, vs - JUNCTION, v1), (u1 - wide / 3, u1, vs - JUNCTION, v1)]
    eave, pitched = rng.uniform(2.6, 4), chance(rng, 0.5)
    wings = [_wing_of(rng, site, part, eave * rng.uniform(0.8, 1.2), pitched=pitched) for part in cells]
    site.place(tuple(wings), str(rng.choice(["house", "yes", "residential"])), gap=0.0)


def _wing_of(rng: Rng, site: Site, cell: Cell, eave: float, *, pitched: bool) -> Wing:
    u0, u1, v0, v1 = cell
    x, y = _frame(site).at([(u0 + u1) / 2], [(v0 + v1) / 2])[0]
    wide, deep = u1 - u0, v1 - v0
    turn = pi / 2 if deep > wide else 0.0
    length, depth = max(wide, deep), min(wide, deep)
    rise = depth / 2 * rng.uniform(0.25, 0.7) if pitched else 0.0
    return Wing(x, y, length, depth, site.angle + turn, eave, rise, hip=chance(rng, 0.15))


def _frame(site: Site) -> Wing:
    west, south, east, north = site.ground.bounds
    return Wing((west + east) / 2, (south + north) / 2, 1, 1, site.angle)


def _plots(rng: Rng, site: Site, smallest: float, shortest: float) -> list[Cell]:
    """Return plots: the extent of a site, split again and again at odd places."""
    west, south, east, north = site.ground.bounds
    reach = hypot(east - west, north - south) / 2
    todo: list[Cell] = [(-reach, reach, -reach, reach)]
    done = []
    while todo:
        u0, u1, v0, v1 = todo.pop()
        wide, deep = u1 - u0, v1 - v0
        if wide * deep < smallest * rng.uniform(1.0, 5.0) or max(wide, deep) < 2 * shortest:
            done.append((u0, u1, v0, v1))
        elif wide > deep * rng.uniform(0.7, 1.4):
            cut = u0 + wide * rng.uniform(*SPLIT)
            todo += [(u0, cut, v0, v1), (cut, u1, v0, v1)]
        else:
            cut = v0 + deep * rng.uniform(*SPLIT)
            todo += [(u0, u1, v0, cut), (u0, u1, cut, v1)]
    middles = _frame(site).at([(c[0] + c[1]) / 2 for c in done], [(c[2] + c[3]) / 2 for c in done])
    inside = shapely.contains_xy(site.ground, middles)
    return [cell for cell, here in zip(done, inside, strict=True) if here]


def fill_compounds(rng: Rng, site: Site) -> None:
    """Build a house and sheds into each of many yards."""
    smallest = rng.uniform(90, 240)
    for u0, u1, v0, v1 in _plots(rng, site, smallest, 8):
        wide, deep = u1 - u0 - 1, v1 - v0 - 1
        if chance(rng, 0.12) or min(wide, deep) < 2 * MIN_SIDE:
            continue
        plot = _frame(site).at([(u0 + u1) / 2], [(v0 + v1) / 2])[0]
        room = min(wide, deep) ** 2 * 0.6
        wings = cottage(rng, (min(24, 0.5 * room), max(26, room)))
        angle = site.angle + rng.choice([0, pi / 2]) + rng.normal(0, 0.03)
        away = rng.uniform(-0.22, 0.22, 2) * (wide, deep)
        site.place(placed(wings, plot[0] + away[0], plot[1] + away[1], angle), "house", gap=0.6)
        for _ in range(int(rng.integers(0, 4))):
            away = rng.uniform(-0.5, 0.5, 2) * (wide, deep)
            site.place(placed(hut(rng, (5, 30)), plot[0] + away[0], plot[1] + away[1], angle), "shed", gap=0.2)


def fill_hamlet(rng: Rng, site: Site) -> None:
    """Build houses at random, turned as they like, with sheds and lean-tos near them."""
    each, loose = rng.uniform(350, 1100), rng.uniform(0.05, 0.6)
    west, south, east, north = site.ground.bounds
    for _ in range(int(site.ground.area / each)):
        x, y = rng.uniform(west, east), rng.uniform(south, north)
        angle = site.angle + rng.choice([0, pi / 2]) + rng.normal(0, loose)
        if not site.place(placed(cottage(rng), x, y, angle), str(rng.choice(["house", "yes"])), gap=2.0):
            continue
        for _ in range(int(rng.integers(0, 4))):
            turn, away = rng.uniform(0, 2 * pi), rng.uniform(6, 16)
            wings = hut(rng) if chance(rng, 0.7) else annex(rng)[0]
            spot = placed(wings, x + away * np.cos(turn), y + away * np.sin(turn), angle + rng.choice([0, pi / 2, 0.4]))
            site.place(spot, "shed", gap=0.5)


def fill_shanty(rng: Rng, site: Site) -> None:
    """Build huts close to each other, in rows that nobody measured."""
    smallest = rng.uniform(11, 26)
    for u0, u1, v0, v1 in _plots(rng, site, smallest, 3.2):
        if chance(rng, 0.12) or min(u1 - u0, v1 - v0) < MIN_SIDE:
            continue
        cut = rng.uniform(0.0, 0.5, 4)
        wing = _wing_of(rng, site, (u0 + cut[0], u1 - cut[1], v0 + cut[2], v1 - cut[3]), 2.4, pitched=chance(rng, 0.3))
        wing = replace(wing, angle=wing.angle + rng.normal(0, 0.05), eave=rng.uniform(2.0, 3.0))
        if min(wing.length, wing.depth) >= MIN_SIDE - 0.6:
            site.place((wing,), "house", gap=0.0)


QUARTERS: dict[str, Callable[[Rng, Site], None]] = {
    **FILLERS,
    "quarter": fill_quarter,
    "compounds": fill_compounds,
    "hamlet": fill_hamlet,
    "shanty": fill_shanty,
}
PATTERNS = {  # metres between streets, across and along, and their width
    "quarter": ((26, 46), (34, 75), (1.8, 5)),
    "compounds": ((44, 66), (60, 110), (3, 7)),
    "hamlet": ((70, 130), (90, 180), (2, 5)),
    "shanty": ((22, 40), (40, 90), (1.2, 3.5)),
    "rows": ((60, 90), (90, 150), (5, 8)),
    "slabs": ((74, 110), (110, 180), (6, 9)),
    "mixed": ((52, 70), (80, 150), (5, 8)),
}
