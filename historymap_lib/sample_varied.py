"""Painted towns of many kinds, in memory, for networks to learn on what carries over to photos they have not seen.

`sample` is the one town to try the product on; here every seed is another place, sun and film (`sample_style`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from historymap_lib.sample import MIN_SIZE, SampleError, draw_map
from historymap_lib.sample_camera import photograph_varied
from historymap_lib.sample_fabric import lay_out_varied
from historymap_lib.sample_ground import clear, cover
from historymap_lib.sample_later import let_years_pass
from historymap_lib.sample_lookalikes import add_lookalikes
from historymap_lib.sample_photo import fly, margin
from historymap_lib.sample_style import draw_style

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from historymap_lib.sample_buildings import Building, FloatArray, Rng
    from historymap_lib.sample_ground import Ground
    from historymap_lib.sample_style import Style
    from historymap_lib.sample_town import Town

FARTHEST = 3.0  # metres that the map is off at most


@dataclass(frozen=True)
class VariedTown:
    """A painted town with its truth.

    `photo` is (rows, columns) uint8, row 0 in the north, 0 = no data, `resolution` metres a pixel over `size` metres.
    All outlines are shapely polygons in local metres, x to the east and y to the north, the origin in the photo's
    south-western corner. `outlines` are today's n footprints as the map draws them, `stood` (n,) bool whether the photo
    shows them, `kinds` (n,) str how they came: "old" (all that stood), else "estate", "scattered", "infill", "walls" or
    "replaced". `seen_outlines` are the same n where the photo shows their roofs or, had they stood, would show them.
    `gone_outlines` are buildings of the photo that are on no map, former ones under "replaced" among them.
    """

    photo: NDArray[np.uint8]
    resolution: float
    size: float
    outlines: NDArray[Any]
    stood: NDArray[np.bool_]
    kinds: NDArray[np.str_]
    seen_outlines: NDArray[Any]
    gone_outlines: NDArray[Any]
    style: Style


def paint_varied(seed: int, *, size_m: float = 700.0, style: Style | None = None) -> VariedTown:
    """Return the town of a seed, in a style of the seed's own where none is given.

    The same arguments give the same town. Raises SampleError where `size_m` metres allow no town.
    """
    if not size_m >= MIN_SIZE:
        raise SampleError(f"A varied town of {size_m} m is too small; choose a size of at least {MIN_SIZE:.0f} m.")
    rng = np.random.default_rng([seed, 1])
    style = draw_style(np.random.default_rng([seed, 0])) if style is None else style
    resolution = style.film.resolution
    size = round(size_m / resolution) * resolution
    town = lay_out_varied(rng, size, style.fabric)
    let_years_pass(rng, town, stood=style.fabric.stood)
    ground = _cover(rng, town, style)
    flight = replace(fly(rng, size, resolution), sun=style.light.sun)
    today = [building for building in town.buildings() if building.today]
    today = [today[i] for i in rng.permutation(len(today))]
    gone = [building for building in town.buildings() if building.stood and not building.today]
    plain = np.array([building.outline for building in today])
    middles = shapely.get_coordinates(shapely.centroid(plain))
    jump = np.array(flight.jump_metres) * style.film.seam
    single = style.jitter, 2 * style.jitter
    outlines, _ = draw_map(rng, plain, middles, jump / 2, sway=style.sway, jitter=single, reach=FARTHEST)
    photo = photograph_varied(rng, town, ground, flight, bare=margin(rng, size, middles), style=style)
    return VariedTown(
        photo,
        resolution,
        size,
        outlines,
        np.array([building.stood for building in today]),
        np.array([building.kind for building in today]),
        _where_seen(today, flight.strip, jump, style.light.lean),
        _where_seen(gone, flight.strip, jump, style.light.lean),
        style,
    )


def _cover(rng: Rng, town: Town, style: Style) -> Ground:
    """Return what covers the ground: as everywhere, with trees and look-alikes as the style has them."""
    soil = style.soil
    ground = cover(rng, town, soil.overhang)
    trees = ground.trees[0]
    ground.trees = [trees[rng.random(len(trees)) < soil.trees]]
    add_lookalikes(rng, ground, town, soil)
    clear(ground, [building for building in town.buildings() if building.stood], town.water, soil.overhang)
    return ground


def _where_seen(buildings: list[Building], strip: Any, jump: FloatArray, lean: tuple[float, float]) -> NDArray[Any]:
    """Return the outlines of buildings moved to where the photo shows their eaves."""
    moved = np.empty(len(buildings), object)
    for i, building in enumerate(buildings):
        main = max(building.wings, key=lambda wing: wing.length * wing.depth)
        off = main.eave * np.array(lean) + jump * strip.contains(building.outline.centroid)
        moved[i] = shapely.transform(building.outline, lambda points, off=off: points + off)
    return moved
