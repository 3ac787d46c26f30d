"""What the years since the photo changed in a varied town: what went, what was replaced, and what came, and how near.

Local metres as in `sample_buildings`. What came later is of every kind: free-standing ("scattered"), 1 to 4 m from
neighbours ("infill"), leaning on them ("walls"), where another building stood ("replaced"), and whole "estates".
"""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi, sin
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import box

from historymap_lib.sample_buildings import Building, Site, Wing, Wings, chance, placed
from historymap_lib.sample_quarters import cottage

if TYPE_CHECKING:
    from historymap_lib.sample_buildings import FloatArray, Rng
    from historymap_lib.sample_town import Town

KINDS = "old", "estate", "scattered", "infill", "walls", "replaced"
LEANING, NEAR = 0.7, 4.5  # metres to the nearest neighbour of the photo: up to there "walls", up to there "infill"
DEMOLISHED = 0.03, 0.14  # of the old stock
REPLACED = 0.03, 0.08  # of today's buildings
ADDED = {"walls": 0.36, "infill": 0.34, "scattered": 0.3}  # of those that were not thought of from the beginning
ADDED_SHARE = 0.5  # of what still has to come; the rest are buildings of blocks, declared late
GAPS = {"walls": (0.02, 0.3), "infill": (1.0, 4.0)}  # metres
TRIES = 8
SAME = 0.05, 0.5  # of the union of a building and of what stood in its place, the share that both cover
MOST_STREET = 0.3  # of a building that came later, on what was street


def let_years_pass(rng: Rng, town: Town, *, stood: float) -> None:
    """Change the town in place: some are gone, some replaced, so many came late that `stood` of today's are old."""
    spots = [(site, i) for site in town.old for i, b in enumerate(site.buildings) if b.stood and b.today]
    spots = [spots[i] for i in rng.permutation(len(spots))]
    gone = int(rng.uniform(*DEMOLISHED) * len(spots))
    for site, i in spots[:gone]:
        site.buildings[i] = replace(site.buildings[i], today=False)
    kept = spots[gone:]
    come = sum(building.today and not building.stood for building in town.buildings())
    missing = max(0.08 * len(kept), (1 - stood) * (len(kept) + come) - come)
    replaced = int(rng.uniform(*REPLACED) * (len(kept) + come))
    declared = int(missing * (1 - ADDED_SHARE))
    for site, i in kept[:declared]:
        site.buildings[i] = replace(site.buildings[i], stood=False, kind="scattered")
    for site, i in kept[declared:]:
        if replaced > 0:
            replaced -= _replace(rng, site, i)
    _add(rng, town, int(missing * ADDED_SHARE / (1 - ADDED_SHARE * (1 - stood))))
    _name_kinds(town)


def _replace(rng: Rng, site: Site, index: int) -> bool:
    """Let a building of another outline have stood where this one stands today; tell whether one was found."""
    new = site.buildings[index]
    x, y, angle, reach_u, reach_v = frame_of(new.wings)
    for _ in range(TRIES):
        area = new.outline.area * np.exp(rng.uniform(np.log(0.35), np.log(1.6)))
        turn, away = rng.uniform(0, 2 * pi), rng.uniform(0.2, 1.0)
        spot = x + away * reach_u * cos(turn), y + away * reach_v * sin(turn)
        wings = placed(
            cottage(rng, (area * 0.95, area * 1.05)), *spot, angle + rng.choice([0, pi / 2, 0.25, -0.4, 0.7])
        )
        old = Building(wings, new.tag, today=False)
        shared = old.outline.intersection(new.outline).area
        same = shared / (old.outline.area + new.outline.area - shared)
        if SAME[0] < same < SAME[1] and not site.meets(old.outline, but=new):
            site.buildings[index] = replace(new, stood=False, kind="replaced")
            site.buildings.append(old)
            return True
    return False


def frame_of(wings: Wings) -> tuple[float, float, float, float, float]:
    """Return x, y, angle, half length and half depth of the rectangle about all wings that lies as the largest does."""
    main = max(wings, key=lambda wing: wing.length * wing.depth)
    points = np.concatenate([wing.corners() for wing in wings]) - (main.x, main.y)
    c, s = cos(main.angle), sin(main.angle)
    u, v = points @ (c, s), points @ (-s, c)
    middle = main.at([(u.min() + u.max()) / 2], [(v.min() + v.max()) / 2])[0]
    return middle[0], middle[1], main.angle, float(np.ptp(u)) / 2, float(np.ptp(v)) / 2


def _add(rng: Rng, town: Town, count: int) -> None:
    """Add buildings like the town's own beside them or anywhere, clear of all that stands then or now."""
    models = [building for building in town.buildings() if building.today]
    if not models:
        return
    hosts = [building for building in models if building.stood] or models
    taken = _Taken(town)
    site = Site(box(0, 0, town.size, town.size), "later", 0.0)
    for kind, share in ADDED.items():
        wanted, tries = round(share * count), TRIES * round(share * count)
        while wanted > 0 and tries > 0:
            tries -= 1
            model = models[rng.integers(len(models))]
            wings = model.wings if chance(rng, 0.6) else cottage(rng, (9, 140))
            if kind in GAPS:
                wings = _beside(rng, hosts[rng.integers(len(hosts))], wings, rng.uniform(*GAPS[kind]))
            else:
                x, y, *_ = frame_of(wings)
                spot, turn = rng.uniform(0, town.size, 2), rng.uniform(0, pi)
                wings = placed(tuple(wing.moved(-x, -y, 0) for wing in wings), spot[0], spot[1], turn)
            building = Building(wings, model.tag, stood=False, kind="scattered")
            if taken.take(building.outline):
                site.buildings.append(building)
                wanted -= 1
    town.late.append(site)


def _beside(rng: Rng, host: Building, wings: Wings, gap: float) -> Wings:
    """Return wings moved to stand parallel to the host, `gap` metres from one of its sides."""
    x, y, angle, reach_u, reach_v = frame_of(wings)
    level = tuple(wing.moved(-x, -y, 0).moved(0, 0, -angle) for wing in wings)
    turn = rng.choice([0, pi / 2])
    if turn:
        reach_u, reach_v = reach_v, reach_u
    hx, hy, host_angle, host_u, host_v = frame_of(host.wings)
    side, slide = rng.choice([-1, 1]), rng.uniform(-1, 1)
    if chance(rng, 0.5):
        u, v = side * (host_u + gap + reach_u), slide * max(host_v - 0.5, 0.3 * reach_v)
    else:
        u, v = slide * max(host_u - 0.5, 0.3 * reach_u), side * (host_v + gap + reach_v)
    spot = Wing(hx, hy, 1, 1, host_angle).at([u], [v])[0]
    return placed(level, spot[0], spot[1], host_angle + turn)


class _Taken:
    """The ground that is taken: by buildings of either time, water, rail, and mostly by streets."""

    def __init__(self, town: Town) -> None:
        self.inside = box(3, 3, town.size - 3, town.size - 3)
        self.closed = shapely.union_all([town.water.buffer(3), town.rail.buffer(4)])
        self.tree = shapely.STRtree([building.outline for building in town.buildings()])
        self.streets = shapely.STRtree([street.line.buffer(street.width / 2) for street in town.streets])
        self.added: list[Any] = []

    def take(self, outline: Any) -> bool:
        """Take the ground of an outline where it is free; tell whether it was."""
        if not self.inside.contains(outline) or self.closed.intersects(outline):
            return False
        if len(self.tree.query(outline, predicate="intersects")):
            return False
        if self.added and shapely.intersects(self.added, outline).any():
            return False
        roads = self.streets.geometries[self.streets.query(outline, predicate="intersects")]
        if shapely.area(shapely.intersection(roads, outline)).sum() > MOST_STREET * outline.area:
            return False
        self.added.append(outline)
        return True


def _name_kinds(town: Town) -> None:
    """Name what came singly by how near it is to what the photo shows."""
    stood = [building.outline for building in town.buildings() if building.stood]
    if not stood:
        return
    tree = shapely.STRtree(stood)
    for site in (*town.old, *town.late):
        for i, building in enumerate(site.buildings):
            if building.kind == "scattered":
                site.buildings[i] = replace(building, kind=_kind_at(tree, building.outline))


def _kind_at(tree: Any, outline: Any) -> str:
    near: FloatArray = shapely.distance(outline, tree.geometries[tree.query_nearest(outline)])
    gap = float(near[0])
    return "walls" if gap < LEANING else "infill" if gap < NEAR else "scattered"
