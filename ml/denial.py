"""Which labels the model strongly denies: buildings that came later, most likely.

A building is denied when the member that has not learned from it gives it a probability which, in the two-group model
of `historymap_lib.calibration`, leaves it hardly a chance. Phantoms are its shape moved onto open ground of the tile.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from historymap_lib.calibration import FEW, TwoGroups
from historymap_lib.tiles import TEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ml.dataset import TileData

HARDLY = 0.1
"""Buildings with a lower probability than this are denied."""
MIN_PIXELS = 12
OPEN = 0.95
"""Share of a moved building that must lie on labelled open ground to count as a phantom."""
SHIFTS = ((97, 31), (-61, 118), (173, -83), (-140, -52))
"""Pixels (down, right) by which the buildings of a tile are moved to make phantoms; round the edge if need be."""


def deny(
    tiles: list[TileData], networks: list[nn.Module], probability: Callable[[nn.Module, np.ndarray], np.ndarray]
) -> dict[str, list[str]]:
    """Set `denied` of each tile to the ids that are denied there, and return them by the name of the tile."""
    scores: dict[int, list[np.ndarray]] = defaultdict(list)
    phantoms: dict[int, list[np.ndarray]] = defaultdict(list)
    learnt = [tile for tile in tiles if tile.fold != TEST]
    for tile in learnt:
        values = probability(networks[tile.fold], tile.image)
        scores[tile.fold].append(_means(values, tile.buildings, (tile.mask == 1), len(tile.ids), 0.5))
        for down, right in SHIFTS:
            moved = np.roll(tile.buildings, (down, right), axis=(0, 1))
            phantoms[tile.fold].append(_means(values, moved, tile.mask == 0, len(tile.ids), OPEN))
    groups = {fold: _fit(_known(scores[fold]), _known(phantoms[fold])) for fold in scores}
    queue = {fold: iter(values) for fold, values in scores.items()}
    for tile in learnt:
        means, group = next(queue[tile.fold]), groups[tile.fold]
        low = np.zeros(len(means), bool) if group is None else group(np.nan_to_num(means, nan=1.0)) < HARDLY
        tile.denied = {
            name for name, drop, mean in zip(tile.ids, low, means, strict=True) if drop and not np.isnan(mean)
        }
    return {tile.metadata["tile"]: sorted(tile.denied) for tile in tiles}


def _fit(scores: np.ndarray, phantoms: np.ndarray) -> TwoGroups | None:
    return TwoGroups.fit(scores, phantoms) if min(len(scores), len(phantoms)) >= FEW else None


def _means(values: np.ndarray, index: np.ndarray, ground: np.ndarray, count: int, share: float) -> np.ndarray:
    """Return the mean of `values` over each index 1 to `count`, nan where less than `share` of it is on `ground`."""
    total = np.bincount(index.ravel(), minlength=count + 1)[1:]
    inside = np.bincount(index[ground], minlength=count + 1)[1:]
    sums = np.bincount(index[ground], values[ground], minlength=count + 1)[1:]
    fit = (total >= MIN_PIXELS) & (inside >= share * total)
    means: np.ndarray = np.where(fit, sums / np.maximum(inside, 1), np.nan)
    return means


def _known(parts: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate(parts)
    known: np.ndarray = values[~np.isnan(values)]
    return known
