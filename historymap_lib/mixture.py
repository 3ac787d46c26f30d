"""From scores to probabilities without a true label: how far what is claimed can be trusted comes with it.

Footprints are a mixture of what stood and what came later; of phantoms we know that nothing stands there. With f0 the
density of the scores of phantoms, the density of the scores of footprints is taken to be

    f(s) = theta f0(s) exp(-k s) / Z + f0(s) exp(a + b s)

so both what came later and what stood are a *tilt* of the phantoms: the former a slight one, because later buildings
came on other ground than phantoms lie on (an empirical null: Efron 2004, JASA 99:96), the latter a strong one (density
ratio model: Qin 1998, Biometrika 85:619). Whatever the shape of f0, the logit of the probability that a footprint stood
is then a straight line in s, and its two numbers are found from footprints and phantoms alone (as with presence-only
data: Ward et al. 2009, Biometrics 65:554). Scores that are a logit already, up to shift and scale, suit this.

How sure that line is, is told by fitting it again and again: to parts of the town drawn with replacement (a bootstrap
of blocks, since neighbours resemble each other: Künsch 1989, Annals of Statistics 17:1217), from beliefs that are drawn
too, so that what scores do not tell stays open (randomised maximum likelihood: Chen and Oliver 2012, Mathematical
Geosciences 44:1), and with more or fewer *misfits* in the null, since nobody knows how much of what came later took the
place of an old house.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

BINS = 200
"""Scores are counted in so many bins, so that the time does not hang on the size of the town."""
SIDE = 6
"""The town is parted into so many strips, and each of these into so many blocks."""
DRAWS = 16
"""Parts of the town drawn, for each share of misfits."""
BELIEF = np.array([0.8, 0.5, 0.3])
"""Standard deviations, before anything is seen, of the logit of theta about 0, of b about 1 and of k about 0."""
STARTS = ((-2.5, -1.0, 1.0, 0.0), (-1.0, -1.0, 1.0, 0.0), (-0.3, -2.0, 1.0, 0.0))
"""Where the search begins: log theta, a, b, k."""
BOUNDS = ((-6.0, -0.005), (-20.0, 10.0), (0.05, 6.0), (-1.0, 1.0))


@dataclass(frozen=True)
class Lines:
    """Straight lines from a score to the logit of a probability, one for each draw, all as good as can be known.

    Attributes:
        shift, slope: of the lines (draws).
        null: share of the footprints that score as where nothing stood (draws).

    """

    shift: Floats
    slope: Floats
    null: Floats

    def probabilities(self, scores: Floats, missed: float) -> Floats:
        """Return the probability of each score by each line (draws x n).

        `missed` is the share of what stood that looks as if nothing did, whatever the score; no score tells how many
        these are, and so no probability falls below theirs.
        """
        raw: Floats = expit(self.shift[:, None] + self.slope[:, None] * scores)
        least = self._missed(missed) * self.share(missed) / np.maximum(self.null, 1e-3)
        return raw + (1 - raw) * np.minimum(least, 1.0)[:, None]

    def share(self, missed: float) -> Floats:
        """Return the share of footprints that stood, by each line (draws)."""
        share: Floats = np.clip((1 - self.null) / (1 - self._missed(missed)), 0.0, 1.0)
        return share

    def confusion(self, null: Floats) -> float:
        """Return the share of a null (its scores) that looks more like what stood than like what did not."""
        even = np.log(np.maximum(1 - self.null[0], 1e-3) / np.maximum(self.null[0], 1e-3))
        return float(np.mean(self.shift[0] + self.slope[0] * null > even))

    def _missed(self, most: float) -> Floats:
        """Return a share from 0 to `most` for each line, in turns."""
        return most * (np.arange(len(self.null)) % 3) / 2


def fit_lines(
    footprints: Floats,
    nulls: list[Floats],
    places: list[Floats],
    mixes: tuple[tuple[float, ...], ...],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Lines:
    """Fit lines to the scores of footprints and of each kind of null (1-d, no nan).

    Args:
        footprints: scores; higher is more like a building.
        nulls: scores where no building of this outline stands, a kind each: phantoms, and misfits if there are any.
        places: x and y (n x 2, metres) of the footprints, and of each kind of null.
        mixes: shares of the kinds in the null to try, each adding up to 1.
        seed: of the parts of the town that are drawn.

    """
    groups = [footprints, *nulls]
    edges = np.unique(np.quantile(np.concatenate(groups), np.linspace(0, 1, BINS + 1)))
    count = max(len(edges) - 1, 1)
    inside = [np.clip(np.searchsorted(edges, part, side="right") - 1, 0, count - 1) for part in groups]
    number = np.bincount(np.concatenate(inside), minlength=count)
    middle = np.bincount(np.concatenate(inside), np.concatenate(groups), count) / np.maximum(number, 1)
    block_of = np.split(blocks(np.concatenate(places)), np.cumsum([len(part) for part in groups])[:-1])
    tables = [
        np.bincount(block * count + place, minlength=SIDE**2 * count).reshape(SIDE**2, count).astype(np.float64)
        for block, place in zip(block_of, inside, strict=True)
    ]
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([np.ones((1, SIDE**2)), rng.multinomial(SIDE**2, np.full(SIDE**2, SIDE**-2.0), draws)])
    centres = np.concatenate([np.zeros((1, 3)), rng.normal(size=(draws, 3))])
    found = []
    for mix in mixes:
        start = None
        for draw, centre in zip(chosen, centres, strict=True):
            seen, *kinds = (draw @ table for table in tables)
            if seen.sum() == 0 or any(kind.sum() == 0 for kind in kinds):
                continue  # a draw that holds none tells nothing
            null = np.sum([share * kind / kind.sum() for share, kind in zip(mix, kinds, strict=True)], axis=0)
            best = _fit(middle, seen, null, centre, STARTS if start is None else (start,))
            start = best if start is None else start
            found.append(_line(best, middle, null))
    return Lines(*np.array(found).T)


def _fit(
    scores: Floats, seen: Floats, null: Floats, centre: Floats, starts: tuple[tuple[float, ...], ...]
) -> tuple[float, ...]:
    """Return log theta, a, b, k that are likeliest after how many footprints each bin has.

    `centre` is about what values they are believed to lie, in units of `BELIEF`.

    That is the likelihood of telling footprints from as many phantoms, of which the share `null` is in each bin.
    """
    weight = null * seen.sum()

    present = null > 0
    known, share, weight = scores[present], np.log(null[present]), null * seen.sum()

    def unlikely(values: Floats) -> tuple[float, Floats]:
        theta, a, b, k = values
        tilted = share - k * known
        total = np.logaddexp.reduce(tilted)
        later, stood = theta - total - k * scores, a + b * scores
        odds, part = np.logaddexp(later, stood), expit(later - stood)
        loss = seen @ np.logaddexp(0, -odds) + weight @ np.logaddexp(0, odds)
        off = np.array([theta - np.log(-np.expm1(theta)), b - 1, k]) / BELIEF - centre
        loss += off @ off / 2
        slope = weight * expit(odds) - seen * expit(-odds)
        mean = np.exp(tilted - total) @ known
        return loss, np.array([
            slope @ part - off[0] / (BELIEF[0] * np.expm1(theta)),
            slope @ (1 - part),
            slope @ ((1 - part) * scores) + off[1] / BELIEF[1],
            slope @ (part * (mean - scores)) + off[2] / BELIEF[2],
        ])  # fmt: skip

    found = [minimize(unlikely, start, jac=True, method="L-BFGS-B", bounds=BOUNDS) for start in starts]
    return tuple(min(found, key=lambda one: float(one.fun)).x.tolist())


def _line(values: tuple[float, ...], scores: Floats, null: Floats) -> tuple[float, float, float]:
    """Return shift, slope and the share of the null."""
    theta, a, b, k = values
    present = null > 0
    total = float(np.logaddexp.reduce(np.log(null[present]) - k * scores[present]))
    return a - theta + total, b + k, float(np.exp(theta))


def blocks(places: Floats) -> Indices:
    """Return for each place its block, from 0; all blocks hold about equally many."""
    strip = _parts(places[:, 0])
    block = strip * SIDE
    for number in range(SIDE):
        inside = strip == number
        block[inside] += _parts(places[inside, 1])
    return block


def _parts(values: Floats) -> Indices:
    order = np.argsort(values, kind="stable")
    part = np.empty(len(values), dtype=np.int64)
    part[order] = np.arange(len(values)) * SIDE // max(len(values), 1)
    return part
