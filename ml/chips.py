"""Chips: the photo around one outline, turned to the outline's own axes and scaled to its size, and that outline.

The frame of an outline is centred on its smallest enclosing rectangle; the long side lies level, and takes at most
`FILL` of a crop. A chip is the photo in that frame with a margin beyond the crop, so that a crop can be shifted, turned
and scaled afterwards without going back to the photo. The outline comes as the signed distance to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import torch
from rasterio.windows import Window
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from historymap_lib.tiles import Grid

    Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]

CROP = 64
"""Pixels along a crop, which is what the network sees."""
CHIP = 96
"""Pixels along a chip."""
FINEST = 0.45
"""Metres a pixel of the frame of a small building."""
FILL = 0.6
"""Share of a crop that the long side of a large building takes."""
NEAR = 16
"""Parts of a pixel in which distances are stored; they are cut off at about 8 pixels."""
BLOCK = 1024
"""Pixels of the photo: outlines whose centres lie in one such block are cut at once."""
EDGES = 625
"""Edges that the pixels of their crops are measured from at once: with more the processor's cache is too small."""


@dataclass(frozen=True)
class Chips:
    """The chips of n outlines.

    Attributes:
        photo: grey values (n, CHIP, CHIP; uint8), 0 where there is no data.
        distance: signed distance to the outline (n, CROP, CROP; int8) in parts of a pixel (`NEAR`), inside above 0.
        frames: x and y of the centre (metres), angle (radians) and metres a pixel of each frame (n, 4; float64).

    """

    photo: NDArray[np.uint8]
    distance: NDArray[np.int8]
    frames: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.photo)

    def take(self, which: NDArray[Any]) -> Chips:
        """Return some of them, by index or by mask."""
        return Chips(self.photo[which], self.distance[which], self.frames[which])

    def coverage(self) -> NDArray[np.float32]:
        """Return the share of each outline on the photo (n; float32)."""
        edge = (CHIP - CROP) // 2
        inside, known = self.distance > 0, self.photo[:, edge:-edge, edge:-edge] > 0
        both: NDArray[np.float32] = (inside & known).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
        return both.astype(np.float32)

    def tone(self) -> NDArray[np.float32]:
        """Return mean and standard deviation of the grey values of each crop (n x 2; float32), nan without data."""
        edge = (CHIP - CROP) // 2
        grey = self.photo[:, edge:-edge, edge:-edge].astype(np.float32)
        known = grey > 0
        count = known.sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (grey * known).sum((1, 2)) / count
            square = (grey**2 * known).sum((1, 2)) / count
            return np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1).astype(np.float32)

    @classmethod
    def join(cls, parts: Sequence[Chips]) -> Chips:
        """Return all of several."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))


def cut_chips(read: Read, grid: Grid, shapes: NDArray[Any], count: Callable[[int], None] | None = None) -> Chips:
    """Return the chips of some outlines.

    Args:
        read: gives grey values and which of them are known of a window of the grid, also beyond it.
        grid: of the photo.
        shapes: polygons (shapely, CRS of the grid) where the photo shows them.
        count: is called with how many more outlines are done.

    """
    frames = frames_of(shapes)
    photo = np.zeros((len(shapes), CHIP, CHIP), np.uint8)
    column = np.floor((frames[:, 0] - grid.west) / grid.resolution / BLOCK).astype(np.int64)
    row = np.floor((grid.north - frames[:, 1]) / grid.resolution / BLOCK).astype(np.int64)
    _, block = np.unique(np.stack([row, column], axis=1), axis=0, return_inverse=True)
    order = np.argsort(block.ravel(), kind="stable")
    for inside in np.split(order, np.flatnonzero(np.diff(block.ravel()[order])) + 1):
        if len(inside):
            photo[inside] = _cut(read, grid, frames[inside])
            if count is not None:
                count(len(inside))
    return Chips(photo, signed_distances(shapes, frames), frames)


def frames_of(shapes: NDArray[Any]) -> NDArray[np.float64]:
    """Return centre x and y (metres), angle (radians) and metres a pixel of the frame of each polygon (n x 4)."""
    frames = np.zeros((len(shapes), 4))
    if len(shapes) == 0:
        return frames
    rings = shapely.get_exterior_ring(shapely.oriented_envelope(shapes))
    corners, of = shapely.get_coordinates(rings, return_index=True)
    first = np.searchsorted(of, np.arange(len(shapes)))
    a, b, c = (corners[first + step] for step in range(3))
    one, other = b - a, c - b
    long = np.where((np.hypot(*one.T) >= np.hypot(*other.T))[:, None], one, other)
    frames[:, :2] = (a + c) / 2
    frames[:, 2] = np.arctan2(long[:, 1], long[:, 0])
    frames[:, 3] = np.maximum(FINEST, np.hypot(*long.T) / (FILL * CROP))
    return frames


def signed_distances(shapes: NDArray[Any], frames: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the signed distance to each outline in its frame (n, CROP, CROP); see `Chips`."""
    edges, shape = _edges_in_frames(shapes, frames)
    count = np.bincount(shape, minlength=len(shapes))
    start = np.concatenate([[0], np.cumsum(count)])
    found = np.zeros((len(shapes), CROP, CROP), np.int8)
    axis = torch.arange(CROP, dtype=torch.float32) + 0.5 - CROP / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixels = torch.stack([x, y], -1).reshape(1, -1, 1, 2)
    order = np.argsort(count, kind="stable")
    at = 0
    while at < len(order):
        # the last has most edges, and all are filled up to as many
        filled = count[order[at : at + EDGES]] * np.arange(1, min(EDGES, len(order) - at) + 1)
        some = order[at : at + max(1, int(np.searchsorted(filled, EDGES, side="right")))]
        most = int(count[some[-1]])
        # shorter lists of edges are filled up with their first edge, which changes no distance, but is not counted
        index = start[some][:, None] + np.where(np.arange(most) < count[some][:, None], np.arange(most), 0)
        real = torch.from_numpy(np.arange(most) < count[some][:, None])
        distance = _distance(torch.from_numpy(edges[index]), real, pixels)
        found[some] = (distance * NEAR).round().clamp(-127, 127).to(torch.int8).reshape(-1, CROP, CROP).numpy()
        at += len(some)
    return found


def _edges_in_frames(shapes: NDArray[Any], frames: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the edges of all rings (m x 4: from x, y to x, y; pixels of the frame) and the shape of each."""
    parts, of_part = shapely.get_parts(shapes, return_index=True)
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    points, of_point = shapely.get_coordinates(rings, return_index=True)
    shape = of_part[of_ring[of_point]]
    x, y, angle, scale = frames[shape].T
    east, north = points[:, 0] - x, points[:, 1] - y
    right = (east * np.cos(angle) + north * np.sin(angle)) / scale
    down = (east * np.sin(angle) - north * np.cos(angle)) / scale
    points = np.stack([right, down], axis=1).astype(np.float32)
    same = of_point[1:] == of_point[:-1]
    return np.concatenate([points[:-1], points[1:]], axis=1)[same], shape[1:][same]


def _distance(edges: torch.Tensor, real: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return the signed distance (shapes x pixels) to edges (shapes x edges x 4); inside by the even-odd rule."""
    begin, end = edges[:, None, :, :2], edges[:, None, :, 2:]
    step, away = end - begin, pixels - begin
    share = ((away * step).sum(-1) / (step * step).sum(-1).clamp_min(1e-9)).clamp(0, 1)
    distance = (away - share[..., None] * step).square().sum(-1).amin(-1).sqrt()
    x, y = pixels[..., 0], pixels[..., 1]
    spans = (begin[..., 1] <= y) != (end[..., 1] <= y)
    rise = torch.where(step[..., 1] == 0, torch.ones_like(step[..., 1]), step[..., 1])
    crosses = spans & (x < begin[..., 0] + (y - begin[..., 1]) * step[..., 0] / rise) & real[:, None]
    return torch.where(crosses.sum(-1) % 2 == 1, distance, -distance)


def _cut(read: Read, grid: Grid, frames: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the photo in the frames of outlines that lie near each other (n, CHIP, CHIP)."""
    depth = np.floor(np.log2(np.maximum(frames[:, 3] / grid.resolution, 1)) + 0.3).astype(int)
    reach = frames[:, 3] * (CHIP * np.sqrt(0.5) + 2) + 2 * grid.resolution
    west, south = (frames[:, :2] - reach[:, None]).min(axis=0)
    east, north = (frames[:, :2] + reach[:, None]).max(axis=0)
    whole = 2 ** int(depth.max())  # so that the same pixels are averaged wherever the window begins
    side = whole * grid.resolution
    left, top = (int(length // side) * whole for length in (west - grid.west, grid.north - north))
    right, bottom = (int(-(-length // side)) * whole for length in (east - grid.west, grid.north - south))
    grey, known = read(Window(left, top, right - left, bottom - top))
    level = np.stack([np.where(known, grey, 0), known]).astype(np.float32)
    corner = grid.west + left * grid.resolution, grid.north - top * grid.resolution
    photo = np.zeros((len(frames), CHIP, CHIP), np.uint8)
    for halved in range(int(depth.max()) + 1):
        if halved:
            level = _halved(level)
        some = np.flatnonzero(depth == halved)
        photo[some] = _sample(torch.from_numpy(level), corner, grid.resolution * 2**halved, frames[some])
    return photo


def _halved(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return grey values and their weights with squares of 2 x 2 averaged."""
    _, height, width = level.shape
    halved: NDArray[np.float32] = level.reshape(2, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return halved


def _sample(
    level: torch.Tensor, corner: tuple[float, float], resolution: float, frames: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return the values of a level of the photo in some frames; both of its channels are weighted by what is known."""
    axis = np.arange(CHIP) + 0.5 - CHIP / 2
    x, y, angle, scale = (part[:, None, None] for part in frames.T)
    right, up = axis[None, None, :] * scale, -axis[None, :, None] * scale
    east = x + right * np.cos(angle) - up * np.sin(angle)
    north = y + right * np.sin(angle) + up * np.cos(angle)
    height, width = level.shape[-2:]
    at = [(east - corner[0]) / resolution / width * 2 - 1, (corner[1] - north) / resolution / height * 2 - 1]
    places = torch.from_numpy(np.stack(at, -1).astype(np.float32)).reshape(1, -1, CHIP, 2)
    grey, known = functional.grid_sample(level[None], places, align_corners=False)[0].reshape(2, -1, CHIP, CHIP)
    values = (grey / known.clamp_min(1e-6)).round().clamp(1, 255)
    return torch.where(known > 0.5, values, 0).to(torch.uint8).numpy()  # noqa: PLR2004 - half of it is known
