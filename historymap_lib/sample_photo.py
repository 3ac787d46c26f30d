"""The photo of the sample town: light and shadow, film and camera of a survey flight of the 1930s.

Arrays are (rows, columns), row 0 in the north, over the square of the town at `resolution` metres a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, hypot, pi, radians, sin
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import rasterize
from scipy import ndimage
from shapely import LineString, Polygon

from historymap_lib.sample_buildings import chance
from historymap_lib.sample_town import waves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from historymap_lib.sample_buildings import FloatArray, Rng, Wing
    from historymap_lib.sample_ground import Ground
    from historymap_lib.sample_town import Town

Image = NDArray[np.float32]
Crown = Callable[[Image, Image], Image]  # the height of a crown, as a share of the tree's, over -1 to 1 both ways

NODATA = 0
PATCH = 1024  # pixels of noise that repeat
SKYLIGHT = 0.31  # of the light on level ground comes from the sky and reaches into the shade
STEP_DOUBLINGS = 7  # shadows of up to 2**7 pixels


@dataclass(frozen=True)
class Tone:
    """How a kind of ground looks: range of reflectance, of furrow strength and period (metres), and of mottling."""

    tone: tuple[float, float]
    furrow: tuple[float, float] = (0.0, 0.0)
    period: tuple[float, float] = (3.0, 3.0)
    mottle: float = 0.05


TONES = {
    "meadow": Tone((0.36, 0.52), (0, 0.04), (4, 9), 0.09),
    "hay": Tone((0.46, 0.66), (0.03, 0.09), (3, 6), 0.07),
    "grain": Tone((0.4, 0.68), (0.02, 0.07), (2.5, 5), 0.06),
    "plough": Tone((0.24, 0.42), (0.04, 0.1), (2.2, 5), 0.06),
    "pasture": Tone((0.34, 0.5), mottle=0.13),
    "orchard": Tone((0.38, 0.5), mottle=0.06),
    "wood": Tone((0.2, 0.28), mottle=0.05),
    "allotment": Tone((0.36, 0.46), mottle=0.06),
    "garden": Tone((0.34, 0.48), mottle=0.09),
    "lawn": Tone((0.38, 0.58), mottle=0.06),
    "bed": Tone((0.28, 0.56), (0, 0.06), (1.8, 3), 0.06),
    "court": Tone((0.42, 0.62), mottle=0.09),
    "yard": Tone((0.36, 0.64), mottle=0.12),
    "hedge": Tone((0.16, 0.3), mottle=0.06),
    "path": Tone((0.55, 0.72), mottle=0.05),
    "street": Tone((0.44, 0.74), mottle=0.05),
    "road": Tone((0.5, 0.8), mottle=0.04),
    "shore": Tone((0.4, 0.7), mottle=0.1),
    "water": Tone((0.1, 0.34), mottle=0.012),
    "ballast": Tone((0.3, 0.42), mottle=0.06),
    "track": Tone((0.18, 0.34), mottle=0.06),
}
ROOFS = ((0.2, 0.32), (0.3, 0.46), (0.3, 0.46), (0.42, 0.6), (0.62, 0.85))  # slate, tile twice, board and felt, metal
LEAVES = 0.13, 0.24


@dataclass(frozen=True)
class Flight:
    """How the photo was taken: the sun, the seam between two strips, and where there is no photo.

    `sun` is a unit vector to the east, north and up. Over `strip` the photo lies `jump` pixels (rows, columns) off.
    """

    sun: tuple[float, float, float]
    strip: Any
    jump: tuple[int, int]
    resolution: float

    @property
    def jump_metres(self) -> tuple[float, float]:
        """The jump to the east and to the north, in metres."""
        return self.jump[1] * self.resolution, -self.jump[0] * self.resolution


def fly(rng: Rng, size: float, resolution: float) -> Flight:
    """Choose the circumstances of the photo."""
    azimuth, height = radians(rng.uniform(115, 245)), radians(rng.uniform(30, 46))
    sun = sin(azimuth) * cos(height), cos(azimuth) * cos(height), sin(height)
    across = chance(rng, 0.5)
    s = np.linspace(-10, size + 10, 24)
    wobble = size * rng.uniform(0.3, 0.7) + rng.uniform(-0.05, 0.05) * s + np.cumsum(rng.normal(0, 0.006 * size, 24))
    edge = np.column_stack([s, wobble] if across else [wobble, s])
    far = [[size + 10, size + 10], [-10, size + 10]] if across else [[size + 10, size + 10], [size + 10, -10]]
    reach, turn = rng.uniform(0.8, 1.5) / resolution, rng.uniform(0, 2 * pi)
    jump = round(reach * cos(turn)), round(reach * sin(turn))
    return Flight(sun, Polygon([*edge.tolist(), *far]).buffer(0), jump, resolution)


def margin(rng: Rng, size: float, points: FloatArray) -> Any:
    """Return the ground without photo: along one or two sides, as deep as to hold some 2 % of the (n, 2) `points`."""
    sides = rng.permutation(4)[: rng.integers(1, 3)]
    s = np.linspace(-0.05 * size, 1.05 * size, 40)
    parts = []
    for side in sides:
        axis, far = side % 2, side >= 2  # noqa: PLR2004
        away = size - points[:, axis] if far else points[:, axis]
        depth = np.clip(np.quantile(away, 0.02 / len(sides)), 0.008 * size, 0.08 * size)
        rim = np.clip(
            depth * (1 + rng.uniform(-0.4, 0.4) * (s / size - 0.5)) + rng.normal(0, 0.5, 40).cumsum(), 1, None
        )
        rim = size - rim if far else rim
        out = size + 50 if far else -50
        ring = np.column_stack([np.append(rim, [out, out]), np.append(s, [s[-1], s[0]])])
        parts.append(Polygon(ring if axis == 0 else ring[:, ::-1]).buffer(0))
    return shapely.union_all(parts)


class Darkroom:
    """Paints rasters of one grid, with noise from one generator."""

    def __init__(self, rng: Rng, size: float, resolution: float) -> None:
        self.rng, self.size, self.resolution = rng, size, resolution
        self.side = round(size / resolution)
        self.transform = Affine(resolution, 0, 0, 0, -resolution, size)
        self.east = ((np.arange(self.side, dtype=np.float32) + 0.5) * resolution)[None, :]
        self.north = (size - (np.arange(self.side, dtype=np.float32) + 0.5) * resolution)[:, None]

    def burn(self, shapes: Sequence[Any], *, touched: bool = False) -> NDArray[np.int32]:
        """Return 0 where no shape is, elsewhere the number (from 1) of the last one there."""
        pairs = [(shape, i + 1) for i, shape in enumerate(shapes) if not shape.is_empty]
        if not pairs:
            return np.zeros((self.side, self.side), np.int32)
        burnt: NDArray[np.int32] = rasterize(
            pairs, (self.side, self.side), transform=self.transform, dtype="int32", all_touched=touched
        )
        return burnt

    def noise(self, sigma: float) -> Image:
        """Return correlated noise of unit variance, `sigma` in pixels; it repeats every `PATCH` pixels or more."""
        factor = max(1, int(sigma // 2))
        patch = self.rng.standard_normal((PATCH, PATCH), dtype=np.float32)
        patch = ndimage.gaussian_filter(patch, sigma / factor, mode="wrap")
        side = -(-self.side // factor) + 1
        patch = np.roll(patch, tuple(self.rng.integers(0, PATCH, 2)), (0, 1))
        tiled = np.tile(patch, (side // PATCH + 1, side // PATCH + 1))[:side, :side] / patch.std()
        if factor > 1:
            tiled = ndimage.zoom(tiled, factor, order=1)
        return np.asarray(tiled[: self.side, : self.side], np.float32)

    def broad(self, length: float) -> Image:
        """Return smooth unevenness of about -1 to 1, its waves `length` metres long."""
        coarse = np.linspace(0, self.size, 48)
        field = waves(self.rng, (length * 0.6, length * 1.4), 4)(
            np.stack(np.meshgrid(coarse, coarse), -1).reshape(-1, 2)
        )
        full = ndimage.zoom(field.reshape(48, 48).astype(np.float32), self.side / 48, order=1)
        return np.asarray(full, np.float32)


def photograph(rng: Rng, town: Town, ground: Ground, flight: Flight, bare: Any) -> NDArray[np.uint8]:
    """Return the (rows, columns) photo, 1 to 255, and 0 over `bare`."""
    room = Darkroom(rng, town.size, flight.resolution)
    stood = [wing for building in town.buildings() if building.stood for wing in building.wings]
    tones = [tone for building in town.buildings() if building.stood for tone in _roof_tones(rng, len(building.wings))]
    clutter = rng.uniform(0.18, 0.85, len(ground.clutter)).tolist()
    texture = room.noise(1.6), room.noise(9)
    scene = paint_ground(room, ground, texture)
    roofs, heights = _roofs(room, [*ground.clutter, *stood], [*clutter, *tones], flight)
    crowns = stamp_crowns(room, ground.trees[0])
    crowns += np.where(crowns > 0, texture[0] * 0.45, 0).astype(np.float32)
    scene = np.where(roofs > 0, roofs * (1 + 0.05 * texture[0] + 0.05 * texture[1]), scene)
    leafy = crowns > heights + 0.2
    scene = np.where(leafy, paint_leaves(room, crowns, flight, texture), scene)
    shade = cast_shade(np.maximum(crowns, heights), flight)
    scene *= 1 - (1 - SKYLIGHT) * shade
    return _film(room, scene.astype(np.float32), flight, bare)


def _roof_tones(rng: Rng, wings: int) -> list[float]:
    """Return one tone for all the wings of a building, or nearly."""
    base = rng.uniform(*ROOFS[rng.choice(len(ROOFS), p=[0.3, 0.22, 0.2, 0.2, 0.08])])
    return [base * share for share in rng.normal(1, 0.03, wings)]


def paint_ground(
    room: Darkroom, ground: Ground, texture: tuple[Image, Image], tones: Mapping[str, Tone] = TONES
) -> Image:
    """Return the reflectance of the ground."""
    rng, count = room.rng, len(ground.covers) + 1
    which = room.burn([shape for shape, _, _ in ground.covers])
    tone, mottle = np.full(count, 0.42, np.float32), np.full(count, 0.08, np.float32)
    furrow = np.zeros((3, count), np.float32)
    for i, (_, kind, angle) in enumerate(ground.covers, start=1):
        look = tones[kind]
        tone[i], mottle[i] = rng.uniform(*look.tone), look.mottle
        wave = 2 * pi / max(rng.uniform(*look.period), 2.5 * room.resolution)
        furrow[:, i] = rng.uniform(*look.furrow), -sin(angle) * wave, cos(angle) * wave
    scene = tone[which]
    amount = furrow[0][which]
    phase = furrow[1][which] * room.east + furrow[2][which] * room.north + texture[1] * 0.5
    scene += amount * np.sin(phase)
    scene += mottle[which] * (0.35 * texture[0] + 0.55 * texture[1] + 0.45 * room.noise(30))
    return np.asarray(np.clip(scene, 0.05, 1), np.float32)


def faces(wing: Wing) -> list[tuple[FloatArray, tuple[float, float, float]]]:
    """Return the faces of a roof: corners, and the plane z = a + b x + c y in the wing's own coordinates."""
    a, b = wing.length / 2, wing.depth / 2
    if wing.rise == 0:
        return [(wing.corners(), (wing.eave, 0, 0))]
    top, pitch, ridge = wing.eave + wing.rise, wing.rise / b, max(a - b, 0) if wing.hip else a
    found = [
        (wing.at([-a, a, ridge, -ridge], [side * b, side * b, 0, 0]), (top, 0.0, -side * pitch)) for side in (-1, 1)
    ]
    if wing.hip:
        found += [
            (wing.at([side * a, side * a, side * ridge], [-b, b, 0]), (top + pitch * ridge, -side * pitch, 0.0))
            for side in (-1, 1)
        ]
    return found


def _roofs(room: Darkroom, wings: list[Wing], tones: list[float], flight: Flight) -> tuple[Image, Image]:
    """Return the brightness of roofs in the sun (0 where there is none) and their heights in metres."""
    shapes, looks = [], [(0.0, 0.0, 0.0, 0.0)]
    east, north, up = flight.sun
    for wing, tone in zip(wings, tones, strict=True):
        c, s = cos(wing.angle), sin(wing.angle)
        for points, (z, along, across) in faces(wing):
            bx, by = c * along - s * across, s * along + c * across
            lit = max(0.0, (up - bx * east - by * north) / hypot(1, bx, by) / up)
            shapes.append(Polygon(points))
            looks.append((tone * (SKYLIGHT + (1 - SKYLIGHT) * lit) ** 0.9, z - bx * wing.x - by * wing.y, bx, by))
    which = room.burn(shapes)
    table = np.array(looks, np.float32)
    heights = table[which, 1] + table[which, 2] * room.east + table[which, 3] * room.north
    return table[which, 0], np.asarray(heights, np.float32)


def round_crown(x: Image, y: Image) -> Image:
    """Return the height of a crown, as a share of the tree's, where the crown reaches from -1 to 1."""
    away = x**2 + y**2
    return np.asarray(np.where(away < 1, 0.55 + 0.45 * (1 - away), 0))


def stamp_crowns(room: Darkroom, trees: FloatArray, crown: Crown = round_crown) -> Image:
    """Return the heights of the trees in metres, 0 where there is none."""
    heights = np.zeros((room.side, room.side), np.float32)
    columns, rows = trees[:, 0] / room.resolution, (room.size - trees[:, 1]) / room.resolution
    reach = np.maximum(trees[:, 2] / room.resolution, 1.0)
    stamps: dict[int, Image] = {}
    for column, row, radius, height in zip(columns, rows, reach, trees[:, 3], strict=True):
        half = round(radius)
        if half not in stamps:
            y, x = np.mgrid[-half : half + 1, -half : half + 1]
            stamps[half] = crown(x / (half + 0.3), y / (half + 0.3)).astype(np.float32)
        top, left = int(row) - half, int(column) - half
        if top < 0 or left < 0 or top + 2 * half >= room.side or left + 2 * half >= room.side:
            continue
        view = heights[top : top + 2 * half + 1, left : left + 2 * half + 1]
        np.maximum(view, stamps[half] * np.float32(height), out=view)
    return heights


def paint_leaves(
    room: Darkroom,
    crowns: Image,
    flight: Flight,
    texture: tuple[Image, Image],
    tones: tuple[float, float] = LEAVES,
) -> Image:
    """Return the brightness of crowns, lighter on the side of the sun."""
    east, north, _ = flight.sun
    slope = -east * ndimage.sobel(crowns, 1) + north * ndimage.sobel(crowns, 0)
    lit = np.clip(1 + slope / (8 * room.resolution) * 0.28, 0.45, 1.75)
    tone = sum(tones) / 2 + (tones[1] - tones[0]) / 3 * np.clip(texture[1], -2, 2)
    return np.asarray(tone * lit, np.float32)


def cast_shade(heights: Image, flight: Flight) -> Image:
    """Return 1 in the shade, 0 in the sun: a march along the sun's rays that doubles its stride."""
    east, north, up = flight.sun
    level = hypot(east, north)
    rays = heights.copy()
    for i in range(STEP_DOUBLINGS):
        dx, dy = round(east / level * 2**i), round(-north / level * 2**i)
        if max(abs(dx), abs(dy)) >= heights.shape[0]:
            break
        drop = np.float32(hypot(dx, dy) * flight.resolution * up / level)
        _raise(rays, dx, dy, drop)
    return np.asarray(np.clip((rays - heights - 0.5) / 0.6, 0, 1), np.float32)


def _raise(rays: Image, dx: int, dy: int, drop: np.float32) -> None:
    """Raise each pixel of `rays` to that of the pixel (dx, dy) away less `drop`."""
    height, width = rays.shape
    here = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
    there = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
    rays[here] = np.maximum(rays[here], rays[there] - drop)


def _film(room: Darkroom, scene: Image, flight: Flight, bare: Any) -> NDArray[np.uint8]:
    """Return what camera, film, and eighty years in an archive make of the scene."""
    rng = room.rng
    strip = room.burn([flight.strip]) > 0
    scene = np.where(strip, np.roll(scene, flight.jump, (0, 1)), scene)
    scene = ndimage.gaussian_filter(scene, rng.uniform(0.6, 0.85))
    middle = rng.uniform(0.35, 0.65, 2) * room.size
    away = ((room.east - middle[0]) ** 2 + (room.north - middle[1]) ** 2) / (0.5 * room.size) ** 2
    gain = 1 - rng.uniform(0.05, 0.13) * away + 0.06 * room.broad(0.6 * room.size)
    gain *= np.where(strip, rng.choice([-1, 1]) * rng.uniform(0.07, 0.15) + 1, 1)
    contrast, haze = rng.uniform(1.0, 1.25), rng.uniform(14, 36)
    photo = haze + 235 * contrast * np.clip(scene * gain, 0, None) ** rng.uniform(0.8, 1.0)
    grain = rng.uniform(4, 6.5) * room.noise(0.75) + rng.uniform(1.5, 3) * room.noise(2.0)
    photo += grain * np.clip(0.45 + photo / 200, 0, 1.1)  # less of it in the dark
    photo = 255 - np.log1p(np.exp((248 - photo) / 9)) * 9  # the shoulder of the film: lights run together
    scratch(room, photo)
    return np.where(room.burn([bare]) > 0, NODATA, np.clip(np.rint(photo), 1, 255)).astype(np.uint8)


def scratch(room: Darkroom, photo: Image, amount: float = 1.0) -> None:
    """Add scratches, fibres and specks of dust, light or dark."""
    rng, size = room.rng, room.size
    marks = []
    for _ in range(max(3, int(size / 90 * amount))):
        start, turn, length = rng.uniform(0, size, 2), rng.uniform(0, 2 * pi), rng.exponential(0.05 * size)
        steps = start + np.cumsum(rng.normal([cos(turn), sin(turn)], 0.12, (12, 2)), axis=0) * length / 12
        marks.append(LineString(steps).buffer(room.resolution * rng.uniform(0.3, 0.7)))
    specks = rng.uniform(0, size, (int(size**2 / 5000 * amount), 2))
    marks += list(shapely.buffer(shapely.points(specks), rng.exponential(0.45, len(specks)) + 0.2))
    tone = np.append(0, rng.choice([-70, 55, 90], len(marks)) * rng.uniform(0.4, 1, len(marks))).astype(np.float32)
    photo += tone[room.burn(marks)]
