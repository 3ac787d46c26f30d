"""The roofs of a varied town: tile, slate, patched tin, thatch, felt, concrete with its furniture, unfinished floors.

A roof becomes faces: polygons with a tone and a plane, painted in their order. Local metres as in `sample_buildings`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi, sin
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import Polygon

from historymap_lib.sample_buildings import ANNEX, Wing, chance
from historymap_lib.sample_fabric import draw
from historymap_lib.sample_photo import faces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from historymap_lib.sample_buildings import Building, FloatArray, Rng
    from historymap_lib.sample_style import Fabric

TONES = {
    "tile": (0.26, 0.5), "slate": (0.16, 0.34), "tin": (0.3, 0.9), "thatch": (0.26, 0.46), "felt": (0.14, 0.34),
    "concrete": (0.38, 0.72), "unfinished": (0.26, 0.5),
}  # fmt: skip
FLAT = frozenset({"concrete", "unfinished", "felt"})
RIBBED = {"tile": (0.0, 0.02), "tin": (0.0, 0.06), "slate": (0.0, 0.015)}  # strength of the lines down the slope
SOFTER = {"tin": (0.15, 0.8), "thatch": (0.8, 1.3)}  # what pitches are multiplied by
FURNISHED = 16.0  # m2: roofs of less carry nothing
FLATTENED = 0.85  # of the roofs that are of a flat kind


@dataclass(frozen=True)
class Face:
    """A part of a roof: height = plane[0] + plane[1] x + plane[2] y; `ribs` is the strength of lines along `down`."""

    shape: Any
    tone: float
    plane: tuple[float, float, float]
    ribs: float = 0.0
    down: float = 0.0


def roof_faces(rng: Rng, building: Building, fabric: Fabric) -> list[Face]:
    """Return the faces of all roofs of a building, in the order in which they are painted."""
    kind = _roof_kind(rng, building, fabric.roofs)
    tone = rng.uniform(*TONES[kind]) * fabric.brightness
    patched = chance(rng, fabric.patchwork)
    found: list[Face] = []
    pitch, flat = rng.uniform(*SOFTER.get(kind, (0.9, 1.1))), kind in FLAT and chance(rng, FLATTENED)
    for wing in building.wings:
        own = tone * rng.normal(1, 0.22 if patched else 0.03)
        shaped = replace(wing, rise=0.0 if flat else wing.rise * pitch)
        found += _covering(rng, shaped, kind, float(np.clip(own, 0.1, 1.1)), patched=patched)
        if wing.length * wing.depth < FURNISHED:
            continue
        if shaped.rise > 0:
            found += _on_ridge(rng, shaped, own)
        elif kind in FLAT:
            found += _on_flat(rng, shaped, own, kind, fabric.roof_clutter)
    return found


def _roof_kind(rng: Rng, building: Building, odds: Mapping[str, float]) -> str:
    """Return a kind of roof; sheds and huts have what is cheap, whatever the town is like."""
    kind = draw(rng, odds)
    small = building.tag in ANNEX or building.outline.area < FURNISHED
    if small and (kind == "unfinished" or chance(rng, 0.4)):
        return str(rng.choice(["tin", "felt", "tile"]))
    return kind


def _covering(rng: Rng, wing: Wing, kind: str, tone: float, *, patched: bool) -> list[Face]:
    """Return the faces of the roof itself: its slopes, whole or in strips of unlike age."""
    ribs = rng.uniform(*RIBBED.get(kind, (0.0, 0.0)))
    down, found = wing.angle + pi / 2, []
    slopes = faces(wing)
    if wing.rise == 0 and kind not in FLAT:  # a lean-to falls to one side
        slopes = [(wing.corners(), (wing.eave, 0.0, rng.choice([-1, 1]) * rng.uniform(0.03, 0.25)))]
    for points, plane in slopes:
        shape, fall = Polygon(points), _plane(wing, plane)
        found.append(Face(shape, tone, fall, ribs, down))
        if patched and kind in {"tin", "tile", "concrete"}:
            parts = _strips(rng, wing, shape) if kind == "tin" else _stains(rng, wing, shape)
            spread = rng.uniform(0.06, 0.4) if kind == "tin" else rng.uniform(0.05, 0.2)
            for part in parts:
                changed = float(np.clip(tone * rng.normal(1, spread), 0.1, 1.1))
                found.append(Face(part, changed, fall, ribs, down))
    return found


def _plane(wing: Wing, plane: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a plane of a wing's own coordinates as one of local metres."""
    c, s = cos(wing.angle), sin(wing.angle)
    z, along, across = plane
    bx, by = c * along - s * across, s * along + c * across
    return z - bx * wing.x - by * wing.y, bx, by


def _strips(rng: Rng, wing: Wing, shape: Any) -> list[Any]:
    """Return sheets of tin: strips down the slope, some of them cut once more."""
    u, found = -wing.length / 2, []
    while u < wing.length / 2:
        wide = rng.choice([0.8, 1.6, 2.4, 4.0])
        if chance(rng, 0.6):
            v = sorted(rng.uniform(-0.6, 0.6, 2) * wing.depth) if chance(rng, 0.4) else [-wing.depth, wing.depth]
            found.append(Polygon(wing.at([u, u + wide, u + wide, u], [v[0], v[0], v[1], v[1]])))
        u += wide
    parts = shapely.intersection(found, shape) if found else []
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]


def _stains(rng: Rng, wing: Wing, shape: Any) -> list[Any]:
    """Return patches of repair, damp and dirt."""
    count = int(rng.integers(1, 5))
    u, v = rng.uniform(-0.5, 0.5, count) * wing.length, rng.uniform(-0.5, 0.5, count) * wing.depth
    blots = shapely.buffer(shapely.points(wing.at(u.tolist(), v.tolist())), rng.uniform(0.5, 2.5, count), quad_segs=3)
    parts = shapely.intersection(blots, shape)
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]


def _on_ridge(rng: Rng, wing: Wing, tone: float) -> list[Face]:
    """Return a ridge lighter or darker than the roof, and a chimney."""
    found, top = [], wing.eave + wing.rise
    if chance(rng, 0.35) and not wing.hip:
        line = Wing(wing.x, wing.y, wing.length, rng.uniform(0.25, 0.5), wing.angle, top)
        found.append(Face(Polygon(line.corners()), float(tone * rng.choice([0.75, 1.25])), (top, 0.0, 0.0)))
    if chance(rng, 0.25):
        found.append(_box(rng, wing, (0.6, 1.1), (0.5, 0.9), top=top + 0.9, tone=float(rng.uniform(0.2, 0.8))))
    return found


def _box(
    rng: Rng, wing: Wing, length: tuple[float, float], depth: tuple[float, float], *, top: float, tone: float
) -> Face:
    """Return something with a level top somewhere on a wing, its sides along the wing's."""
    long, deep = rng.uniform(*length), rng.uniform(*depth)
    u = rng.uniform(-1, 1) * max(0.0, wing.length - long) / 2
    v = rng.uniform(-1, 1) * max(0.0, wing.depth - deep) / 2
    x, y = wing.at([u], [v])[0]
    return Face(Polygon(Wing(x, y, long, deep, wing.angle).corners()), tone, (top, 0.0, 0.0))


def _on_flat(rng: Rng, wing: Wing, tone: float, kind: str, clutter: float) -> list[Face]:
    """Return what stands on a flat roof: parapet, another floor on a part, stair head, tanks, walls begun, washing."""
    found, top = [], wing.eave
    shape = Polygon(wing.corners())
    if chance(rng, 0.75):
        inner = Polygon(wing.corners(-rng.uniform(0.25, 0.5)))
        rim = top + rng.uniform(0.3, 1.1)
        found.append(Face(shape.difference(inner), float(tone * rng.uniform(0.75, 1.35)), (rim, 0.0, 0.0)))
    if chance(rng, 0.3 * clutter):
        share = rng.uniform(0.3, 0.7)
        sizes = (wing.length * share, wing.length), (wing.depth * share, wing.depth)
        other = float(np.clip(tone * rng.normal(1, 0.2), 0.12, 1.1))
        found.append(_box(rng, wing, *sizes, top=top + 3, tone=other))
    if chance(rng, 0.45 * clutter):
        found.append(_box(rng, wing, (2.0, 3.6), (1.8, 3.0), top=top + 2.4, tone=float(tone * rng.uniform(0.7, 1.3))))
    for _ in range(rng.poisson(0.8 * clutter)):
        spot = wing.at([rng.uniform(-0.45, 0.45) * wing.length], [rng.uniform(-0.45, 0.45) * wing.depth])
        tank = shapely.points(spot)[0].buffer(rng.uniform(0.5, 0.85), quad_segs=3)
        found.append(Face(tank, float(rng.choice([0.12, 0.3, 0.95])), (top + rng.uniform(1, 2.5), 0.0, 0.0)))
    if kind == "unfinished":
        found += _walls_begun(rng, wing, tone)
    for _ in range(rng.poisson(clutter * wing.length * wing.depth / 16)):
        found.append(_box(rng, wing, (0.4, 2.4), (0.3, 1.4), top=top + 0.4, tone=float(rng.uniform(0.15, 0.95))))
    return found


def _walls_begun(rng: Rng, wing: Wing, tone: float) -> list[Face]:
    """Return the walls of the next floor, open to the sky."""
    height, bright = wing.eave + rng.uniform(0.6, 2.8), float(tone * rng.uniform(0.9, 1.8))
    a, b = wing.length / 2, wing.depth / 2
    lines: list[FloatArray] = [
        wing.at([u, u], [-b, b]) for u in np.arange(-a, a + 0.1, max(2.4, wing.length / rng.integers(2, 5)))
    ]
    lines += [wing.at([-a, a], [v, v]) for v in np.arange(-b, b + 0.1, max(2.4, wing.depth / rng.integers(1, 4)))]
    walls = shapely.buffer(shapely.linestrings(lines), 0.15, cap_style="flat")
    return [Face(wall, bright, (height, 0.0, 0.0)) for wall in walls if chance(rng, 0.8)]
