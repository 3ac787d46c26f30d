"""Training tiles in memory, and batches of augmented crops cut from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from historymap_lib.errors import TrainingDataError
from historymap_lib.training_data import IGNORE, read_metadata, read_tile
from ml.model import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.random import Generator

TURNED = 0.25
"""Share of the crops that are turned by any angle, beside the quarter turns that all get."""
MIN_LABELLED = 0.1
"""A crop with less of its pixels labelled teaches too little for its time."""


@dataclass
class TileData:
    """One tile: image, mask (0, 1, 255) and building index (0 none), all size x size, and its metadata."""

    image: np.ndarray
    mask: np.ndarray
    buildings: np.ndarray
    metadata: dict[str, Any]
    denied: set[str] = field(default_factory=set)

    @property
    def fold(self) -> int:
        """The fold of cross-fitting, -1 for a test block."""
        return int(self.metadata["fold"])

    @property
    def ids(self) -> list[str]:
        """The ids of the buildings; `buildings` counts them from 1."""
        return list(self.metadata["building_ids"])

    def labels(self) -> np.ndarray:
        """Return the mask to learn from: without the buildings that the model denies, unless a person judged them."""
        judged = set(self.metadata.get("annotated", ()))
        drop = np.array([False, *((name in self.denied and name not in judged) for name in self.ids)])
        return np.where(drop[self.buildings] & (self.mask == 1), IGNORE, self.mask).astype(np.uint8)


def load_tiles(folder: Path, corrected: Path | None = None) -> list[TileData]:
    """Read all tiles of `folder`; those that exist in `corrected` too are taken from there.

    Raises:
        TrainingDataError: there are none, or a file is missing or damaged.
    """
    tiles = {item["tile"]: (folder, item) for item in read_metadata(folder)}
    if not tiles:
        raise TrainingDataError(f"{folder}: holds no training tiles; run generate-training first")
    if corrected is not None:
        tiles |= {item["tile"]: (corrected, item) for item in read_metadata(corrected) if item["tile"] in tiles}
    found = []
    for name, (where, item) in sorted(tiles.items()):
        image, mask, buildings = read_tile(where, name, "images", "masks", "buildings")
        if not image.shape == mask.shape == buildings.shape or int(buildings.max()) > len(item.get("building_ids", ())):
            raise TrainingDataError(f"{where}: the files of {name} do not fit each other; run generate-training again")
        found.append(TileData(image, mask, buildings, item))
    return found


def crops_in(tiles: list[TileData], crop: int) -> int:
    """Return how many crops an epoch has: as many as cover the tiles once."""
    return sum(max(1, tile.image.size // crop**2) for tile in tiles)


def batches(
    tiles: list[TileData], *, crop: int, batch_size: int, count: int, rng: Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `count` batches of augmented crops: photo (n, 1, crop, crop; float32) and labels (the same; uint8)."""
    smallest = min(min(tile.image.shape) for tile in tiles)
    if smallest < crop:
        raise TrainingDataError(
            f"the training tiles have {smallest} pixels a side, training.crop asks for {crop}; lower it, or run "
            "generate-training again"
        )
    labels = [tile.labels() for tile in tiles]
    for _ in range(count):
        pairs = [_cut(tiles, labels, crop, rng) for _ in range(batch_size)]
        images = torch.from_numpy(np.stack([image for image, _ in pairs])[:, None])
        yield _turn(images, torch.from_numpy(np.stack([label for _, label in pairs])[:, None]), rng)


def as_input(image: np.ndarray) -> torch.Tensor:
    """Return a whole image (height x width, uint8) as the model takes it (1, 1, height, width)."""
    return normalise(torch.from_numpy(image.copy()))[None, None]


def _cut(
    tiles: list[TileData], labels: list[np.ndarray], crop: int, rng: Generator, tries: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random crop with enough labels on it, turned, mirrored and with its film changed."""
    for _ in range(tries):
        index = int(rng.integers(len(tiles)))
        size = tiles[index].image.shape[0]
        top, left = rng.integers(0, size - crop + 1, 2)
        part = np.s_[top : top + crop, left : left + crop]
        label = labels[index][part]
        if (label != IGNORE).mean() >= MIN_LABELLED:
            break
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    image, label = (np.rot90(item, turns) for item in (tiles[index].image[part], label))
    if mirror:
        image, label = image[:, ::-1], label[:, ::-1]
    return _as_another_film(image, rng), np.ascontiguousarray(label)


def _turn(images: torch.Tensor, labels: torch.Tensor, rng: Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the crops, some of them turned by any angle and a little larger or smaller; what that uncovers is 255.

    A town has few directions and a small case few buildings; the others keep the film's grain as it is.
    """
    count = len(images)
    angle = np.where(rng.random(count) < TURNED, rng.uniform(0, 2 * np.pi, count), 0.0)
    scale = np.where(angle != 0, np.exp(rng.normal(0, 0.1, count)), 1.0)
    cos, sin, none = np.cos(angle) * scale, np.sin(angle) * scale, np.zeros(count)
    matrix = np.stack([np.stack([cos, -sin, none], 1), np.stack([sin, cos, none], 1)], 1).astype(np.float32)
    grid = functional.affine_grid(torch.from_numpy(matrix), list(images.shape), align_corners=False)
    turned = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    # labels count from 1 on the way, so that the 0 of what lies outside can be told from them
    moved = functional.grid_sample(labels.float() + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned, torch.where(moved == 0, IGNORE, moved - 1).to(torch.uint8)


def _as_another_film(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Return the crop as a slightly other exposure and contrast would have shown it, normalised to float32."""
    values = normalise(torch.from_numpy(np.ascontiguousarray(image))).numpy()
    values = values * np.exp(rng.normal(0, 0.1)) + rng.normal(0, 0.1)
    return np.ascontiguousarray(values, dtype=np.float32)
