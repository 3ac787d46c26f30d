"""From a score to a probability without a single true label: the two-group model with an empirical null.

Each footprint of today is either on a building that stood (group 1) or not (group 0), and nobody has said which. What
scores look like where certainly nothing stands we can find out: the *phantoms*, the same shapes moved onto open ground
where the map shows no building. With f the density of the scores of footprints and f0 that of phantoms,

    f = pi f1 + (1 - pi) f0      and      P(stood | score) = 1 - (1 - pi) f0(score) / f(score)

which is one minus the local false discovery rate of Efron (2004, JASA 99:96; 2008, Statistical Science 23:1). The ratio
f0 / f is the odds of a classifier that tells footprints from phantoms, as with learning from positive and unlabelled
data (Elkan and Noto 2008, KDD), and 1 - pi is read off where the phantoms lie.

Phantoms stand in for the buildings that came later, so probabilities are fair as far as the ground on which these were
built looked like today's open ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.isotonic import IsotonicRegression

FEW = 30
"""With fewer footprints or phantoms than this no density is estimated."""
BELOW = 0.75
"""Share of the phantoms below the cut at which the share that did not stand is read off."""
FLOOR = 0.002
"""No probability is nearer to 0 or 1 than this: a finite sample proves no certainty."""


@dataclass(frozen=True)
class TwoGroups:
    """Maps scores to probabilities by a monotone table; `null_share` is the estimated share that did not stand."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    null_share: float

    @classmethod
    def fit(cls, scores: np.ndarray, phantoms: np.ndarray) -> Self:
        """Fit to the scores of footprints and of phantoms (1-d, higher = more like a building), both without nan.

        Below `FEW` of either there is nothing to fit, and the caller must do without.
        """
        values = np.concatenate([scores, phantoms])
        real = np.concatenate([np.ones(len(scores)), np.zeros(len(phantoms))])
        weight = np.where(real > 0, 0.5 / len(scores), 0.5 / len(phantoms))
        isotonic = IsotonicRegression(y_min=0, y_max=1).fit(values, real, sample_weight=weight)
        table = np.quantile(values, np.linspace(0, 1, 201))
        odds = _smooth(isotonic.predict(table))
        ratio = odds / np.maximum(1 - odds, 1e-9)  # f / f0
        null = _null_share(scores, phantoms)
        probability = np.maximum.accumulate(1 - null / np.maximum(ratio, 1e-9))
        probability = np.clip(probability, FLOOR, 1 - FLOOR)
        return cls(tuple(table.tolist()), tuple(probability.tolist()), null)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each score."""
        probabilities: np.ndarray = np.interp(scores, self.scores, self.probabilities)
        return probabilities


def _null_share(scores: np.ndarray, phantoms: np.ndarray) -> float:
    """Return the share of footprints that behave like phantoms.

    Below a cut that most phantoms lie under, both groups hold mainly what did not stand, so their shares there compare
    as 1 - pi (Storey 2002, JRSS B 64:479, with the cut in the part of his lambda). A low cut would see only ground that
    nobody ever builds on, such as woods and water, and call the share too small: measured on the sample town.
    """
    cut = np.quantile(phantoms, BELOW)
    return float(np.clip(np.mean(scores <= cut) / np.mean(phantoms <= cut), 0.01, 0.99))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the steps of an isotonic fit with their corners taken off, still monotone."""
    kernel = np.hanning(13)
    padded = np.pad(values, 6, mode="edge")
    smooth: np.ndarray = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return smooth
