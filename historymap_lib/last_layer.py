"""The last layer of the judge: from evidence to probabilities that mean what they say, and that clicks teach at once.

**A score.** What each number of the evidence is worth is learned by telling footprints from phantoms with a logistic
regression. Many footprints bear the wrong label for this, since they came later; so it is repeated with each footprint
counted as what it probably is (expectation-maximisation: Dempster, Laird and Rubin 1977, JRSS B 39:1), always learned
on other parts of the town than it is used on: no footprint is lifted by what was guessed of it before.

**A probability.** The `mixture` says what a score means, and how surely.

**Clicks.** The logit of a footprint is that of the mixture, plus a correction that is linear in its score and its
embedding, of which nothing is known at first but its size (a Gaussian prior). What people say of some moves the
correction, and so the likes of these (Bayesian logistic regression with Laplace's approximation: MacKay 1992, Neural
Computation 4:720). Nothing is learned again for that: it takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.special import expit

from historymap_lib.errors import VerificationError
from historymap_lib.mixture import Lines, fit_lines, logits

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

FEW = 30
"""With fewer footprints or phantoms than this there is nothing to learn from."""
ROUNDS, STEPS, CLOSE = 5, 20, 1e-4
"""Of expectation-maximisation; Newton steps at most in each, and when they are close enough."""
PENALTY = 10.0
"""Ridge on each standardised number: many of them say nearly the same."""
AT_FIRST = 0.7
"""What share of the footprints is taken to have stood, before anything is known."""
MISFITS = 0.0, 0.25
"""Shares of misfits in the null that are tried: of what came later, so much may stand where an old house stood."""
COMPONENTS = 32
"""Principal components of evidence and embedding that clicks can move."""
REACH = 1.0
"""Standard deviation, in logits, by which a footprint may differ from what its score says, before anyone is asked."""
LINES = 3
"""Directions in which the lines of the mixture differ."""
FLOOR = 0.002
"""No probability is nearer to 0 or 1 than this: a finite sample proves no certainty."""
QUANTILE = 0.67
"""How many standard deviations of its logit a probability is moved towards even odds: half of all lies within."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for buildings of the outlines of one kind: footprints, phantoms or misfits.

    Attributes:
        table: a row of numbers for each (n x k, float), nan where one is not known; higher or lower, both may speak.
        embedding: what the footprint network sees in each (n x d, float); d is 0 without one.
        place: x and y of a point in each (n x 2, metres).
        fold: which part of the town each belongs to (n, int), that of its host for phantoms and misfits.

    """

    table: Floats
    embedding: Floats
    place: Floats
    fold: Indices

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.table)


@dataclass(frozen=True)
class LastLayer:
    """Probabilities of footprints, and how they move when people judge some of them.

    Attributes:
        prior: logits before anyone was asked (n).
        directions: in which the logits can move, in units of what was likely before (n x d).
        said: what people say of each: 1 it existed, 0 it did not, nan nothing (n).
        shares: that stood, as well as can be known without asking (draws).

    """

    prior: Floats
    directions: Floats
    said: Floats
    shares: Floats
    _start: Floats | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _posterior(self) -> tuple[Floats, Floats]:
        """Return the likeliest correction (d), and its covariance (d x d)."""
        asked = ~np.isnan(self.said)
        return _laplace(self.prior[asked], self.directions[asked], self.said[asked], self._start)

    @cached_property
    def logit(self) -> Floats:
        """The likeliest logit of each (n)."""
        return self.prior + self.directions @ self._posterior[0]

    @cached_property
    def spread(self) -> Floats:
        """The standard deviation of each logit (n)."""
        lines = self.directions[:, :LINES]
        spread: Floats = np.sqrt(np.einsum("ij,jk,ik->i", lines, self._posterior[1][:LINES, :LINES], lines))
        return spread

    @property
    def low(self) -> Floats:
        """The lower end of what each probability may be (n)."""
        return self._told(expit(self.logit - QUANTILE * self.spread))

    @property
    def high(self) -> Floats:
        """The upper end of what each probability may be (n)."""
        return self._told(expit(self.logit + QUANTILE * self.spread))

    @property
    def likeliest(self) -> Floats:
        """The likeliest probability of each (n)."""
        return self._told(expit(self.logit))

    @property
    def probability(self) -> Floats:
        """The end of each interval that is nearer to even odds, and 0.5 where it lies within (n)."""
        return np.clip(0.5, self.low, self.high)

    @property
    def share(self) -> tuple[float, float, float]:
        """The share of the footprints that stood: what is likeliest, and an interval that holds it nine times in ten."""
        moved = self.likeliest.mean() - expit(self.prior).mean()
        low, middle, high = np.clip(np.quantile(self.shares, (0.05, 0.5, 0.95)) + moved, 0.0, 1.0).tolist()
        return middle, low, high

    def update(self, said: Floats) -> LastLayer:
        """Return the layer after all that people say now (n: 1 it existed, 0 it did not, nan nothing)."""
        start = None if self._start is None and "_posterior" not in vars(self) else self._posterior[0]
        return replace(self, said=np.asarray(said, np.float64), _start=start)

    def teaching_order(self, count: int) -> Indices:
        """Return the positions of the buildings that are not judged yet and that teach most, the first one first (at most `count`)."""
        open_ = np.isnan(self.said)
        chance = self.likeliest
        noise = 1 / np.maximum(chance * (1 - chance), FLOOR)
        worth = np.where(open_, chance * (1 - chance), 0.0)
        covariance = self._posterior[1]
        goal = np.linalg.cholesky(
            (self.directions * worth[:, None]).T @ self.directions + 1e-9 * np.eye(len(covariance))
        )
        along = self.directions @ covariance
        order: list[int] = []
        for _ in range(min(count, int(open_.sum()))):
            variance = np.einsum("ij,ij->i", along, self.directions)
            gain = ((along @ goal) ** 2).sum(1) / (variance + noise)
            best = int(np.argmax(np.where(open_, gain, -np.inf)))
            order.append(best)
            open_[best] = False
            along = along - np.outer(self.directions @ along[best], along[best]) / (variance[best] + noise[best])
        return np.array(order, dtype=np.int64)

    def save(self, path: Path) -> None:
        """Write the layer (npz, without pickles)."""
        np.savez_compressed(
            path, prior=self.prior, directions=self.directions.astype(np.float32), said=self.said, shares=self.shares
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a layer.

        Raises:
            VerificationError: there is none, or it is damaged.

        """
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(*(content[name].astype(np.float64) for name in ("prior", "directions", "said", "shares")))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise VerificationError(f"{path}: cannot be read ({error}); run verify again") from error

    def _told(self, probability: Floats) -> Floats:
        return np.where(np.isnan(self.said), probability, np.clip(self.said, FLOOR, 1 - FLOOR))


def fit_last_layer(
    footprints: Evidence,
    phantoms: Evidence,
    misfits: Evidence | None,
    said: Floats | None = None,
    *,
    missed: float,
    seed: int = 0,
) -> LastLayer:
    """Learn from footprints, of which many came later, and from outlines that certainly fit no building.

    Args:
        footprints: today's.
        phantoms: the same shapes where nothing stands.
        misfits: outlines over buildings that they do not fit; None where the evidence cannot tell these.
        said: what people say of each footprint: 1 it existed, 0 it did not, nan nothing.
        missed: how much of what stood may look as if nothing did, in shares of how much of what did not stand looks as
            if it did; the latter is seen in phantoms, the former in nothing that is at hand.
        seed: of the parts of the town that are drawn.

    Raises:
        VerificationError: there are fewer than `FEW` footprints or phantoms.

    """
    if min(len(footprints), len(phantoms)) < FEW:
        raise VerificationError(
            f"{len(footprints)} footprints and {len(phantoms)} phantoms are too few to learn from; {FEW} of each are needed"
        )
    groups = [footprints, phantoms, *([misfits] if misfits is not None and len(misfits) >= FEW else [])]
    tables = _standardised([one.table for one in groups])
    scores = _scores(tables, [one.fold for one in groups], [one.place for one in groups])
    mixes = tuple((1 - share, share) for share in MISFITS) if len(groups) > 2 else ((1.0,),)  # noqa: PLR2004
    lines = fit_lines(scores[0], scores[1:], [one.place for one in groups], mixes, seed=seed)
    missed *= lines.confusion(scores[1])
    told = np.full(len(footprints), np.nan) if said is None else np.asarray(said, np.float64)
    chances = logits(lines.probabilities(scores[0], missed), FLOOR)
    return LastLayer(chances.mean(0), _directions(chances, tables[0], footprints), told, lines.share(missed))


def _directions(chances: Floats, table: Floats, footprints: Evidence) -> Floats:
    """Return in which directions logits can move: as the lines differ, and along evidence and embedding."""
    apart = chances - chances.mean(0)
    _, sizes, axes = np.linalg.svd(apart / np.sqrt(len(apart)), full_matrices=False)
    lines = (sizes[:, None] * axes)[:LINES].T
    return np.concatenate([lines, REACH * _components(table, footprints.embedding)], axis=1)


def _components(table: Floats, embedding: Floats) -> Floats:
    """Return principal components of evidence and embedding, each block counting alike; a row has length 1 on average."""
    blocks = [table / np.sqrt(table.shape[1])]
    if embedding.shape[1]:
        known = _standardised([embedding])[0]
        blocks.append(known / np.sqrt(max(known.shape[1], 1)))
    values = np.concatenate(blocks, axis=1)
    values = values - values.mean(0)
    _, _, axes = np.linalg.svd(values.T @ values, hermitian=True)
    found = values @ axes[:COMPONENTS].T
    return found / np.sqrt(np.maximum((found**2).sum(1).mean(), 1e-12))


def _standardised(tables: list[Floats]) -> list[Floats]:
    """Return tables with mean 0 and variance 1 over all, the median where a number is not known, without what is constant."""
    whole = np.concatenate(tables).astype(np.float64)
    some = ~np.isnan(whole).all(axis=0)
    whole = whole[:, some]
    whole = np.where(np.isnan(whole), np.nanmedian(whole, axis=0), whole)
    spread = whole.std(axis=0)
    varied = spread > 1e-9 * np.maximum(np.abs(whole).max(axis=0), 1)
    whole = (whole[:, varied] - whole[:, varied].mean(axis=0)) / spread[varied]
    return np.split(whole, np.cumsum([len(table) for table in tables])[:-1])


def _scores(tables: list[Floats], folds: list[Indices], places: list[Floats]) -> list[Floats]:
    """Return the scores of each group, by regressions on other folds, of footprints against phantoms (the second group)."""
    groups = [np.concatenate([np.ones((len(table), 1)), table], axis=1) for table in tables]
    count, line = len(groups[0]), None
    both = np.concatenate(groups[:2])
    fold = np.concatenate(folds[:2])
    names = np.unique(np.concatenate(folds))
    stood = np.full(count, AT_FIRST)
    weights = {name: np.zeros(both.shape[1]) for name in names}
    scores = [np.zeros(len(group)) for group in groups]
    for _ in range(ROUNDS):
        positive = np.concatenate([stood, np.zeros(len(both) - count)])
        negative = np.concatenate([1 - stood, np.full(len(both) - count, count / (len(both) - count))])
        for name in names:
            others = fold != name if len(names) > 1 else np.ones(len(fold), dtype=bool)
            weights[name] = _ridge(both[others], positive[others], negative[others], weights[name])
            for score, group, own in zip(scores, groups, folds, strict=True):
                score[own == name] = group[own == name] @ weights[name]
        line = fit_lines(scores[0], scores[1:2], places[:2], ((1.0,),), draws=0)
        stood = line.probabilities(scores[0], 0.0)[0]
    return scores


def _ridge(table: Floats, positive: Floats, negative: Floats, start: Floats) -> Floats:
    """Return the weights of a logistic regression (first column: the intercept), each row so much of either class."""
    penalty = np.full(table.shape[1], PENALTY)
    penalty[0] = 1e-6
    weights, total = start.copy(), positive + negative
    for _ in range(STEPS):
        chance = expit(table @ weights)
        slope = table.T @ (positive - total * chance) - penalty * weights
        curve = (table * (total * chance * (1 - chance))[:, None]).T @ table + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        weights += step
        if np.abs(step).max() < CLOSE:
            break
    return weights


def _laplace(prior: Floats, directions: Floats, said: Floats, start: Floats | None) -> tuple[Floats, Floats]:
    """Return the likeliest correction after what was said, and its covariance; before, it is a standard Gaussian."""
    size = directions.shape[1]
    change = np.zeros(size) if start is None else start
    if len(said) == 0:
        return np.zeros(size), np.eye(size)

    def loss(change: Floats) -> float:
        now = prior + directions @ change
        return float(np.logaddexp(0, now).sum() - said @ now + change @ change / 2)

    for _ in range(STEPS):
        chance = expit(prior + directions @ change)
        curve = (directions * (chance * (1 - chance))[:, None]).T @ directions + np.eye(size)
        step = np.linalg.solve(curve, directions.T @ (said - chance) - change)
        length = 1.0
        while loss(change + length * step) > loss(change) + 1e-12 and length > 1e-3:  # noqa: PLR2004
            length /= 2
        change = change + length * step
        if np.abs(step).max() < CLOSE:
            break
    return change, np.linalg.inv(curve)
