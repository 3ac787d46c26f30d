"""From a score to a probability without a single true label: the two-group model with an empirical null.

Each footprint of today is either on a building that stood (group 1) or not (group 0), and nobody has said which. What
scores look like where certainly nothing stands we can find out: the *phantoms*, the same shapes moved onto open ground
where the map shows no building. With f the density of the scores of footprints and f0 that of phantoms,

    f = pi f1 + (1 - pi) f0      and      P(stood | score) = 1 - (1 - pi) f0(score) / f(score)

which is one minus the local false discovery rate of Efron (2004, JASA 99:96; 2008, Statistical Science 23:1). The ratio
f0 / f is the odds of a classifier that tells footprints from phantoms, as with learning from positive and unlabelled
data (Elkan and Noto 2008, KDD), and 1 - pi is read off where the phantoms lie.

Phantoms stand in for the buildings that came later. But those came on fields and in woods, while phantoms lie in yards
and gardens, and the two do not score quite alike: the null is moved to where the footprints say that it is, after the
empirical null of Efron (2004). Measured on three sample towns: Brier score 0.10, 0.10, 0.11 without and 0.08, 0.07,
0.06 with this. It cannot help where much of what stood looks like open ground to the model: on Banepa 0.16 to 0.17, and
four in ten of its *not existed* are wrong. What people say corrects that as far as it goes (`corrected`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

FEW = 30
"""With fewer footprints or phantoms than this no density is estimated."""
BELOW = 0.75
"""Share of the phantoms below the cut at which the share that did not stand is read off."""
CUTS = np.linspace(0.25, BELOW, 11)
"""Shares of the phantoms between which that share ought to be the same."""
SHIFTS = np.linspace(0, 2, 41)
"""How far the null may be moved, in standard deviations of the phantoms."""
RISE = 0.004
"""Over the whole table probabilities rise by this at least, so that equal steps keep the order of the scores."""
FLOOR = 0.002
"""No probability is nearer to 0 or 1 than this: a finite sample proves no certainty."""
BELIEF = np.array([0.5, 0.25])
"""How far off the logits of the two-group model are taken to be, at first (standard deviations of shift and slope)."""


def corrected(probabilities: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Return probabilities moved to where what people say puts them, in the same order.

    Their logits are shifted and stretched (Platt 1999) as is likeliest after what was said, where before nothing at all
    was likeliest (`BELIEF`): a few clicks move them little. `said` is 1, 0 or nan for each. Clicks may be chosen by
    probability, since how often buildings of one probability stood does not hang on how many of them are asked about.
    """
    told = ~np.isnan(said)
    if not told.any():
        return probabilities
    logits = logit(np.clip(probabilities, FLOOR, 1 - FLOOR))
    line, truth = np.stack([np.ones(told.sum()), logits[told]], axis=1), said[told]

    def unlikely(change: np.ndarray) -> tuple[float, np.ndarray]:
        now = logits[told] + line @ change
        loss = np.logaddexp(0, now).sum() - truth @ now + ((change / BELIEF) ** 2).sum() / 2
        return loss, line.T @ (expit(now) - truth) + change / BELIEF**2

    shift, stretch = minimize(unlikely, np.zeros(2), jac=True, bounds=[(None, None), (-0.9, None)]).x
    moved: np.ndarray = expit(logits * (1 + stretch) + shift)
    return moved


@dataclass(frozen=True)
class TwoGroups:
    """Maps scores to probabilities by a monotone table; `null_share` is the estimated share that did not stand."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    null_share: float

    @classmethod
    def fit(
        cls, scores: np.ndarray, phantoms: np.ndarray, weights: np.ndarray | None = None, *, shifted: bool = True
    ) -> Self:
        """Fit to the scores of footprints and of phantoms (1-d, higher = more like a building), both without nan.

        `weights` (above 0) say how much each phantom counts. Without `shifted`, phantoms are taken as they are, which
        gives what stood the benefit of the doubt. Below `FEW` footprints or phantoms there is nothing to fit, and the
        caller must do without.
        """
        weights = np.ones(len(phantoms)) if weights is None else weights
        phantoms = phantoms + (_shift(scores, phantoms, weights) if shifted else 0.0)
        values = np.concatenate([scores, phantoms])
        real = np.concatenate([np.ones(len(scores)), np.zeros(len(phantoms))])
        weight = 0.5 * np.concatenate([np.full(len(scores), 1 / len(scores)), weights / weights.sum()])
        isotonic = IsotonicRegression(y_min=0, y_max=1).fit(values, real, sample_weight=weight)
        table = np.quantile(values, np.linspace(0, 1, 201))
        odds = _smooth(isotonic.predict(table))
        ratio = odds / np.maximum(1 - odds, 1e-9)  # f / f0
        null = _null_share(scores, phantoms, weights)
        probability = np.maximum.accumulate(1 - null / np.maximum(ratio, 1e-9))
        probability = np.clip(probability, FLOOR, 1 - FLOOR - RISE) + np.linspace(0, RISE, len(table))
        return cls(tuple(table.tolist()), tuple(probability.tolist()), null)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each score."""
        probabilities: np.ndarray = np.interp(scores, self.scores, self.probabilities)
        return probabilities


def _null_share(scores: np.ndarray, phantoms: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of footprints that behave like phantoms.

    Below a cut that most phantoms lie under, both groups hold mainly what did not stand, so their shares there compare
    as 1 - pi (Storey 2002, JRSS B 64:479, with the cut in the part of his lambda). A low cut would see only ground that
    nobody ever builds on, such as woods and water, and call the share too small: measured on the sample town.
    """
    cut = np.quantile(phantoms, BELOW, weights=weights, method="inverted_cdf")
    return float(np.clip(np.mean(scores <= cut) / np.average(phantoms <= cut, weights=weights), 0.01, 0.99))


def _shift(scores: np.ndarray, phantoms: np.ndarray, weights: np.ndarray) -> float:
    """Return how much higher than phantoms the footprints score on which nothing stood.

    Were they alike, the share of footprints below a cut over the share of phantoms would be 1 - pi at all low cuts. At
    some shift it is nearest to that. Some of what stood scores low, too, and makes this shift too large, as none would
    be too small: the middle is taken.
    """
    cuts = np.quantile(phantoms, CUTS, weights=weights, method="inverted_cdf")
    mean = np.average(phantoms, weights=weights)
    shifts = SHIFTS * np.sqrt(np.average((phantoms - mean) ** 2, weights=weights))
    below = np.searchsorted(np.sort(scores), cuts + shifts[:, None], side="right") / len(scores) / CUTS
    known = below.min(axis=1) > 0
    spread = np.where(known, below.std(axis=1) / np.where(known, below.mean(axis=1), 1), np.inf)
    return float(shifts[spread.argmin()] / 2) if known.any() else 0.0


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the steps of an isotonic fit with their corners taken off, still monotone."""
    kernel = np.hanning(13)
    padded = np.pad(values, 6, mode="edge")
    smooth: np.ndarray = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return smooth
