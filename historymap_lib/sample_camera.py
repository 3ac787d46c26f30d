"""The photo of a varied town: its roofs under its sun, what leans where the camera looks aslant, and the film.

Arrays are (rows, columns), row 0 in the north. The counterpart of `sample_photo.photograph` for a `Style`.
"""

from __future__ import annotations

from math import cos, hypot, pi, sin
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft, ndimage
from shapely import Polygon

from historymap_lib.sample_lookalikes import varied_tones
from historymap_lib.sample_photo import (
    LEAVES,
    NODATA,
    Crown,
    Darkroom,
    Image,
    cast_shade,
    paint_ground,
    paint_leaves,
    round_crown,
    scratch,
    stamp_crowns,
)
from historymap_lib.sample_roofs import Face, roof_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from historymap_lib.sample_buildings import FloatArray, Rng, Wing
    from historymap_lib.sample_ground import Ground
    from historymap_lib.sample_photo import Flight
    from historymap_lib.sample_style import Film, Style
    from historymap_lib.sample_town import Town

FINE = 0.62  # metres a pixel: coarser photos are painted twice as fine
STOREY_STEP = 0.4  # metres of height by which the leaning scene is built up
GRASS = 0.7  # metres, the size of tufts
TUFTS = 0.01, 0.07  # how strong they are
DEEPEST = 0.35  # of the light that crevices between walls lose under the open sky
CREVICE = 2.5  # metres
WALL = 0.7  # of the brightness around a wall is its own, seen aslant
PALM_LEAVES = 9
USUAL_CROWNS = 0.0, 0.5  # the share of round crowns in full leaf, whatever the other trees are
BLOCK = 8  # pixels
DARKEST, LIGHTEST, SHOULDER = 8.0, 248.0, 8.0  # grey levels at which the curve bends, and how softly
LEAST_GREY, MOST_GREY = 1, 255


def photograph_varied(
    rng: Rng, town: Town, ground: Ground, flight: Flight, *, bare: Any, style: Style
) -> NDArray[np.uint8]:
    """Return the (rows, columns) photo, 1 to 255, and 0 over `bare`; `flight` carries the sun and the seam."""
    finer = 2 if flight.resolution > FINE else 1
    room = Darkroom(rng, town.size, flight.resolution / finer)
    scene, heights = _expose(room, town, ground, flight, style)
    if hypot(*style.light.lean) > 0:
        scene = _lean(scene, heights, style.light.lean, room.resolution)
    if finer > 1:
        side = room.side // finer
        scene = scene[: side * finer, : side * finer].reshape(side, finer, side, finer).mean((1, 3))
        room = Darkroom(rng, town.size, flight.resolution)
    return _develop(room, scene, flight, bare, style.film)


def _expose(room: Darkroom, town: Town, ground: Ground, flight: Flight, style: Style) -> tuple[Image, Image]:
    """Return what the light shows, and the heights in metres."""
    rng, soil, light = room.rng, style.soil, style.light
    texture = room.noise(1.6), room.noise(9)
    scene = paint_ground(room, ground, texture, varied_tones(rng, soil))
    fine = room.noise(0.5 * GRASS / room.resolution)
    scene *= 1 + rng.uniform(*TUFTS) * soil.mottle * fine
    stood = [building for building in town.buildings() if building.stood]
    found = [_block(wing, float(rng.uniform(0.15, 0.9))) for wing in ground.clutter]
    for building in stood:
        found += roof_faces(rng, building, style.fabric)
    roofs, heights = _paint_roofs(room, found, flight, light.skylight)
    weather = rng.uniform(0.02, 0.1)
    scene = np.where(roofs > 0, roofs * (1 + weather * (texture[0] + texture[1] + 0.5 * fine)), scene)
    crowns = _paint_crowns(room, ground.trees[0], soil.crown)
    crowns += np.where(crowns > 0, texture[0] * 0.45, 0).astype(np.float32)
    leafy = crowns > heights + 0.2
    dark, bright = rng.uniform(0.6, 1.1) * LEAVES[0], rng.uniform(0.9, 1.7) * LEAVES[1]
    scene = np.where(leafy, paint_leaves(room, crowns, flight, texture, (dark, bright)), scene)
    tops = np.maximum(crowns, heights)
    scene = scene * (1 - (1 - light.skylight) * cast_shade(tops, flight))
    around = ndimage.uniform_filter(tops, max(3, round(2 * CREVICE / room.resolution)))
    scene = scene * (1 - np.clip((around - tops) / 6, 0, DEEPEST) * light.skylight)
    return np.asarray(scene, np.float32), np.asarray(tops, np.float32)


def _paint_crowns(room: Darkroom, trees: FloatArray, kind: str) -> Image:
    """Return the heights of the trees in metres, 0 where there is none; some are of the usual kind everywhere."""
    usual = room.rng.random(len(trees)) < room.rng.uniform(*USUAL_CROWNS)
    others = trees[~usual] * (1, 1, *GROWTH[kind])
    return np.maximum(stamp_crowns(room, trees[usual]), stamp_crowns(room, others, CROWNS[kind]))


def _block(wing: Wing, tone: float) -> Face:
    return Face(Polygon(wing.corners()), tone, (wing.eave + wing.rise / 2, 0.0, 0.0))


def _paint_roofs(room: Darkroom, found: list[Face], flight: Flight, skylight: float) -> tuple[Image, Image]:
    """Return the brightness of roofs in the sun (0 where there is none) and their heights in metres."""
    east, north, up = flight.sun
    table = np.zeros((len(found) + 1, 7), np.float32)
    for i, face in enumerate(found, start=1):
        z, bx, by = face.plane
        lit = max(0.0, (up - bx * east - by * north) / hypot(1, bx, by) / up)
        wave = 2 * pi / max(0.9, 2.6 * room.resolution)
        table[i] = (
            face.tone * (skylight + (1 - skylight) * min(lit, 1.6)) ** 0.9, z, bx, by,
            face.ribs, wave * -sin(face.down), wave * cos(face.down),
        )  # fmt: skip
    which = room.burn([face.shape for face in found])
    heights = table[which, 1] + table[which, 2] * room.east + table[which, 3] * room.north
    ribs = table[which, 4] * np.sin(table[which, 5] * room.east + table[which, 6] * room.north)
    return table[which, 0] * (1 + ribs), np.asarray(heights, np.float32)


def _palm_crown(x: Image, y: Image) -> Image:
    """Return a crown of single leaves about a stem."""
    away, turn = np.hypot(x, y), np.arctan2(y, x)
    leaf = np.cos(PALM_LEAVES * turn) > 1.9 * away - 1.1
    return np.asarray(np.where((away < 1) & leaf, 1 - 0.4 * away, 0))


def _bare_crown(x: Image, y: Image) -> Image:
    """Return a crown without leaves: twigs through which the ground is seen."""
    away, turn = np.hypot(x, y), np.arctan2(y, x)
    twig = np.cos(7 * turn + 9 * away) + np.cos(5 * turn - 13 * away) > 0.5 + 0.5 * away
    return np.asarray(np.where((away < 1) & twig, 0.9 - 0.5 * away, 0))


CROWNS: dict[str, Crown] = {"round": round_crown, "palm": _palm_crown, "bare": _bare_crown}
GROWTH = {"round": (1.0, 1.0), "palm": (1.2, 0.6), "bare": (0.9, 0.8)}  # of the radius and of the height


def _lean(scene: Image, heights: Image, lean: tuple[float, float], resolution: float) -> Image:
    """Return the scene with everything moved by its height times `lean`, from the ground up; walls come into view."""
    wall = WALL * ndimage.uniform_filter(scene, max(3, round(2 * CREVICE / resolution)))
    leaning, top = scene.copy(), float(heights.max())
    for low in np.arange(STOREY_STEP, top + STOREY_STEP, STOREY_STEP):
        down, right = round(-lean[1] * low / resolution), round(lean[0] * low / resolution)
        if down == right == 0:
            continue
        height, width = scene.shape
        to = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
        of = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
        high = heights[of]
        seen = high >= low
        shown = np.where(high < low + STOREY_STEP, scene[of], wall[of])
        leaning[to] = np.where(seen, shown, leaning[to])
    return leaning


def _develop(room: Darkroom, scene: Image, flight: Flight, bare: Any, film: Film) -> NDArray[np.uint8]:
    """Return what camera, film, print and scan make of the scene."""
    rng = room.rng
    strip = room.burn([flight.strip]) > 0 if film.seam else np.zeros(scene.shape, bool)
    scene = np.where(strip, np.roll(scene, flight.jump, (0, 1)), scene)
    scene = ndimage.gaussian_filter(scene, film.blur)
    if film.sharpen > 0:
        scene = scene + film.sharpen * (scene - ndimage.gaussian_filter(scene, 1.6))
    middle = rng.uniform(0.1, 0.9, 2) * room.size
    away = ((room.east - middle[0]) ** 2 + (room.north - middle[1]) ** 2) / (0.5 * room.size) ** 2
    gain = 1 - film.vignette * np.minimum(away, 3) + film.uneven * room.broad(0.5 * room.size)
    gain *= np.where(strip, 1 + rng.choice([-1, 1]) * rng.uniform(0.03, 0.2), 1)
    light = np.clip(scene, 0.01, None) ** film.gamma
    low, mid, high = np.quantile(light[::4, ::4], (0.05, 0.5, 0.95))
    photo = (film.mean + film.contrast * 3.2 * (light - mid) / (high - low + 1e-6)) * np.clip(gain, 0.3, None)
    grain = film.grain * (0.8 * room.noise(film.grain_size) + 0.45 * room.noise(3 * film.grain_size))
    photo += grain * np.clip(0.45 + photo / 200, 0.2, 1.1)  # less of it in the dark
    if film.scratches > 0:
        scratch(room, photo, film.scratches)
    photo = _shoulders(photo)
    if film.blocking > 0:
        photo = _blocks(photo, film.blocking)
    grey = np.clip(np.rint(photo), LEAST_GREY, MOST_GREY)
    return np.where(room.burn([bare]) > 0, NODATA, grey).astype(np.uint8)


def _shoulders(photo: Image) -> Image:
    """Return the photo with its lights and shadows running together, as the ends of the film's curve make them."""
    photo = LIGHTEST - SHOULDER * np.logaddexp(0, (LIGHTEST - photo) / SHOULDER)
    photo = DARKEST + SHOULDER * np.logaddexp(0, (photo - DARKEST) / SHOULDER)
    return np.asarray(photo, np.float32)


def _blocks(photo: Image, step: float) -> Image:
    """Return the photo as strong compression leaves it: the cosines of 8 x 8 blocks in steps, coarse for fine waves."""
    height, width = (side // BLOCK * BLOCK for side in photo.shape)
    parts = photo[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    waves = fft.dctn(parts, axes=(1, 3), norm="ortho")
    fine = np.arange(BLOCK)[:, None, None] + np.arange(BLOCK)
    steps = (step * (0.6 + 0.4 * fine)).astype(np.float32)
    coarse = fft.idctn(np.rint(waves / steps) * steps, axes=(1, 3), norm="ortho")
    compressed = photo.copy()
    compressed[:height, :width] = coarse.reshape(height, width)
    return compressed
