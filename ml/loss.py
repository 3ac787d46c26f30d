"""The loss, and the measure that decides which epoch was best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.nn import functional

from historymap_lib.errors import ModelError
from historymap_lib.training_data import IGNORE

if TYPE_CHECKING:
    import torch

BINS = 256


def masked_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy over pixels whose label is not 255.

    Args:
        logits: (n, 1, height, width), any float.
        labels: the same shape, uint8: 0, 1 or 255.

    """
    known = labels != IGNORE
    wanted = (labels == 1).float()
    loss = functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)


class BestIou:
    """Intersection over union of the building class, at the threshold that suits the model best.

    With 0.5 a model that has learned from labels of which many are wrong would look bad for being rightly cautious.
    """

    def __init__(self) -> None:
        self._buildings = np.zeros(BINS, np.int64)
        self._others = np.zeros(BINS, np.int64)

    def add(self, probability: np.ndarray, labels: np.ndarray) -> None:
        """Count pixels: probabilities 0 to 1 and labels 0, 1, 255, of the same shape.

        Raises:
            ModelError: a probability is no number.

        """
        if not np.isfinite(probability).all():
            raise ModelError(
                "the training has run away: the model no longer gives numbers; lower training.learning_rate"
            )
        bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        self._buildings += np.bincount(bins[labels == 1], minlength=BINS)
        self._others += np.bincount(bins[labels == 0], minlength=BINS)

    def value(self) -> tuple[float, float]:
        """Return the IoU and its threshold; (0, 0.5) where there is no building."""
        hit = self._buildings[::-1].cumsum()[::-1]
        false = self._others[::-1].cumsum()[::-1]
        total = self._buildings.sum()
        if total == 0:
            return 0.0, 0.5
        iou = hit / (total + false)
        best = int(iou.argmax())
        return float(iou[best]), best / BINS
