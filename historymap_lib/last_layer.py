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
from zipfile import BadZipFile

import numpy as np
from scipy.special import expit, logit

from historymap_lib.errors import VerificationError
from historymap_lib.mixture import fit_lines

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

FEW = 30
"""With fewer footprints or phantoms than this there is nothing to learn from."""
ROUNDS = 5
"""Of expectation-maximisation."""
STEPS, CLOSE, SHORTEST = 20, 1e-4, 1e-3
"""Newton steps at most, when they are close enough, and to what part of itself a step that leads up is cut."""
NEARLY_NONE = 1e-6
"""Ridge on an intercept."""
PENALTY = 10.0
"""Ridge on each standardised number: many of them say nearly the same."""
MISFITS = 0.0, 0.25
"""Shares of misfits in the null that are tried: of what came later, so much may stand where an old house stood."""
MISFIT = 0.25
"""Share of misfits in what footprints are told from: a roof under an outline is not enough, it has to fit."""
COMPONENTS = 32
"""Principal components of evidence and embedding that clicks can move."""
REACH = 1.0
"""Standard deviation, in logits, by which a footprint may differ from what its score says, before anyone is asked."""
LINES = 3
"""Directions in which the lines of the mixture differ."""
MOST_MISSED = 0.5
"""Share of what stood that is taken to be missed at most: evidence that sees less than that says nothing anyway."""
FLOOR = 0.002
"""No probability is nearer to 0 or 1 than this: a finite sample proves no certainty."""
CAUTION = 0.5
"""How many standard deviations of its logit a probability is moved towards even odds, once it is far from these."""
NINE_IN_TEN = 1.645
"""Standard deviations to either side."""


@dataclass(frozen=True)
class Trust:
    """What evidence of a kind has been shown not to see: nothing that is at hand in a case tells it.

    Attributes:
        missed: how much of what stood may look as if nothing did, in shares of how much of what did not stand looks as
            if it did; the latter is seen in phantoms, the former nowhere.
        replaced: share of what surely looks like a building that fits, and is another one.
        least: no probability is lower than this, whatever is seen, unless people say so of that building.

    """

    missed: float
    replaced: float
    least: float = 0.0


BY_NETWORK = Trust(missed=0.2, replaced=0.015)
"""Evidence with that of the footprint network, which has been shown misfits."""
BY_POOR_PHOTO = Trust(missed=2.0, replaced=0.015, least=0.15)
"""The same on a photo so poor that the network leaves much open. What stood often looks as if nothing did, and nothing
at hand tells how often (half of the time on strong film); so no building is said not to have existed."""
BY_PHOTO = Trust(missed=1.0, replaced=0.03)
"""Probabilities, outlines, light and shadow alone."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for buildings of the outlines of one kind: footprints, phantoms or misfits.

    Attributes:
        table: a row of numbers for each (n x k, float), nan where one is not known. The first is the one to start from:
            the higher, the more like a building; of the others either end may speak for one.
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
        least: no probability that is claimed is lower; see `Trust`.

    """

    prior: Floats
    directions: Floats
    said: Floats
    shares: Floats
    least: float = 0.0
    _start: Floats | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _posterior(self) -> tuple[Floats, Floats]:
        """Return the likeliest correction (d), and its covariance (d x d); before, it is a standard Gaussian."""
        asked = ~np.isnan(self.said)
        offset, rows, said = self.prior[asked], self.directions[asked], self.said[asked]
        ridge = np.ones(rows.shape[1])
        start = np.zeros(rows.shape[1]) if self._start is None else self._start
        change = _newton(rows, said, 1 - said, offset=offset, penalty=ridge, start=start)
        curve = _curve(rows, np.ones(len(said)), expit(offset + rows @ change), ridge)
        covariance: Floats = np.linalg.inv(curve).astype(np.float64)
        return change, covariance

    @cached_property
    def logit(self) -> Floats:
        """The likeliest logit of each (n)."""
        return self.prior + self.directions @ self._posterior[0]

    @cached_property
    def spread(self) -> Floats:
        """How far off the logits may be together, by what the mixture leaves open (n, standard deviations)."""
        lines = self.directions[:, :LINES]
        covariance = self._posterior[1][:LINES, :LINES]
        spread: Floats = np.sqrt(np.einsum("ij,jk,ik->i", lines, covariance, lines, optimize=True))
        return spread

    @property
    def low(self) -> Floats:
        """The lower end of an interval that holds the probability nine times in ten (n)."""
        return self._answered(expit(self.logit - NINE_IN_TEN * self.spread))

    @property
    def high(self) -> Floats:
        """The upper end of that interval (n)."""
        return self._answered(expit(self.logit + NINE_IN_TEN * self.spread))

    @property
    def likeliest(self) -> Floats:
        """The likeliest probability of each (n)."""
        return self._answered(expit(self.logit))

    @property
    def probability(self) -> Floats:
        """The probability that can be claimed of each (n): nearer to even odds than the likeliest, by `CAUTION`."""
        size = np.abs(self.logit)
        careful = expit(self.logit * size / np.maximum(size + CAUTION * self.spread, FLOOR))
        raised = self.least + careful * (1 - 2 * self.least)  # the same at even odds, and in the same order
        return self._answered(np.where(self.logit < 0, raised, careful))

    @property
    def share(self) -> tuple[float, float, float]:
        """The share of the footprints that stood: the likeliest, and an interval that holds it nine times in ten."""
        moved = self.likeliest.mean() - expit(self.prior).mean()
        low, middle, high = np.clip(np.quantile(self.shares, (0.05, 0.5, 0.95)) + moved, 0.0, 1.0).tolist()
        return middle, low, high

    def update(self, said: Floats) -> LastLayer:
        """Return the layer after all that people say now (n: 1 it existed, 0 it did not, nan nothing)."""
        start = None if self._start is None and "_posterior" not in vars(self) else self._posterior[0]
        return replace(self, said=np.asarray(said, np.float64), _start=start)

    def teaching_order(self, count: int, among: NDArray[np.bool_] | None = None) -> Indices:
        """Return the positions of those to ask about, the first one first: at most `count`, and none that is judged.

        `among` (n) says which may be asked about; nothing, that all may.

        Each time it is the one whose answer, whatever it is, makes the logits of all others that are still in doubt
        surest, after those before it have been answered (A-optimal design: Schein and Ungar 2007, Machine Learning
        68:235). One that is alike many counts more than one that stands alone, and none is asked about for what its
        likes have told already; so they come from all places, sizes and kinds.
        """
        asking = np.isnan(self.said) if among is None else np.isnan(self.said) & among
        chance = self.likeliest
        noise = 1 / np.maximum(chance * (1 - chance), FLOOR)
        worth = np.where(np.isnan(self.said), chance * (1 - chance), 0.0)
        covariance = self._posterior[1]
        goal = np.linalg.cholesky(
            (self.directions * worth[:, None]).T @ self.directions + 1e-9 * np.eye(len(covariance))
        )
        along = self.directions @ covariance
        order: list[int] = []
        for _ in range(min(count, int(asking.sum()))):
            variance = np.einsum("ij,ij->i", along, self.directions)
            gain = ((along @ goal) ** 2).sum(1) / (variance + noise)
            best = int(np.argmax(np.where(asking, gain, -np.inf)))
            order.append(best)
            asking[best] = False
            along = along - np.outer(self.directions @ along[best], along[best]) / (variance[best] + noise[best])
        return np.array(order, dtype=np.int64)

    def save(self, path: Path) -> None:
        """Write the layer (npz, without pickles)."""
        directions, least = self.directions.astype(np.float32), np.array(self.least)
        np.savez_compressed(
            path, prior=self.prior, directions=directions, said=self.said, shares=self.shares, least=least
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a layer.

        Raises:
            VerificationError: there is none, or it is damaged.

        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = [content[name].astype(np.float64) for name in ("prior", "directions", "said", "shares")]
                return cls(arrays[0], arrays[1], arrays[2], arrays[3], float(content["least"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise VerificationError(f"{path}: cannot be read ({error}); run verify again") from error

    def _answered(self, probability: Floats) -> Floats:
        answered: Floats = np.where(np.isnan(self.said), probability, np.clip(self.said, FLOOR, 1 - FLOOR))
        return answered


def fit_last_layer(
    footprints: Evidence,
    phantoms: Evidence,
    misfits: Evidence | None,
    said: Floats | None = None,
    *,
    trust: Trust,
    seed: int = 0,
) -> LastLayer:
    """Learn from footprints, of which many came later, and from outlines that certainly fit no building.

    Args:
        footprints: today's.
        phantoms: the same shapes where nothing stands.
        misfits: outlines over buildings that they do not fit; None where the evidence cannot tell these.
        said: what people say of each footprint: 1 it existed, 0 it did not, nan nothing.
        trust: what such evidence does not see.
        seed: of the parts of the town that are drawn.

    Raises:
        VerificationError: there are fewer than `FEW` footprints or phantoms.

    """
    if min(len(footprints), len(phantoms)) < FEW:
        raise VerificationError(
            f"{len(footprints)} footprints and {len(phantoms)} phantoms are too few to learn from; at least {FEW} of "
            "each are needed"
        )
    groups = [footprints, phantoms, *([misfits] if misfits is not None and len(misfits) >= FEW else [])]
    tables = _standardised([one.table for one in groups])
    scores = _scores(tables, [one.fold for one in groups], [one.place for one in groups])
    mixes = tuple((1 - share, share) for share in MISFITS) if len(groups) > 2 else ((1.0,),)  # noqa: PLR2004
    lines = fit_lines(scores[0], scores[1:], [one.place for one in groups], mixes, seed=seed)
    missed = min(trust.missed * lines.confusion(scores[1]), MOST_MISSED)
    told = np.full(len(footprints), np.nan) if said is None else np.asarray(said, np.float64)
    chances = logit(np.clip((1 - trust.replaced) * lines.probabilities(scores[0], missed), FLOOR, 1 - FLOOR))
    directions = _directions(chances, tables[0], footprints)
    return LastLayer(chances.mean(0), directions, told, lines.share(missed), trust.least)


def _directions(chances: Floats, table: Floats, footprints: Evidence) -> Floats:
    """Return in which directions logits can move: as the lines differ, and along evidence and embedding."""
    apart = chances - chances.mean(0)
    _, sizes, axes = np.linalg.svd(apart / np.sqrt(len(apart)), full_matrices=False)
    lines = (sizes[:, None] * axes)[:LINES].T
    return np.concatenate([lines, REACH * _components(table, footprints.embedding)], axis=1)


def _components(table: Floats, embedding: Floats) -> Floats:
    """Return principal components of evidence and embedding, which count alike; a row has length 1 on average."""
    blocks = [table / np.sqrt(table.shape[1])]
    if embedding.shape[1]:
        known = _standardised([embedding])[0]
        blocks.append(known / np.sqrt(max(known.shape[1], 1)))
    values = np.concatenate(blocks, axis=1)
    values = values - values.mean(0)
    _, _, axes = np.linalg.svd(values.T @ values, hermitian=True)
    found: Floats = values @ axes[:COMPONENTS].T
    return found / max(float(np.sqrt((found**2).sum(1).mean())), 1e-6)


def _standardised(tables: list[Floats]) -> list[Floats]:
    """Return tables with mean 0 and variance 1 over all rows, without columns that tell nothing.

    Where a number is not known it is the median. The first column stays whatever it tells.
    """
    whole = np.concatenate(tables).astype(np.float64)
    some = ~np.isnan(whole).all(axis=0)
    usual = np.zeros(whole.shape[1])
    usual[some] = np.nanmedian(whole[:, some], axis=0)
    whole = np.where(np.isnan(whole), usual, whole)
    spread = whole.std(axis=0)
    varied = spread > 1e-9 * np.maximum(np.abs(whole).max(axis=0), 1)
    whole = np.where(varied, (whole - whole.mean(axis=0)) / np.where(varied, spread, 1), 0.0)
    varied[:1] = True
    whole = whole[:, varied]
    parts: list[Floats] = np.split(whole, np.cumsum([len(table) for table in tables])[:-1])
    return parts


def _scores(tables: list[Floats], folds: list[Indices], places: list[Floats]) -> list[Floats]:
    """Return the scores of each group, learned on other folds from footprints against all others.

    Where the number to start from is the same for all, nobody knows which way a building lies, and so are the scores.
    """
    if max(float(np.abs(table[:, 0]).max()) for table in tables) == 0:
        return [table[:, 0] for table in tables]
    groups = [np.concatenate([np.ones((len(table), 1)), table], axis=1) for table in tables]
    count, nothing = len(groups[0]), [len(group) for group in groups[1:]]
    both, fold = np.concatenate(groups), np.concatenate(folds)
    names = np.unique(fold)
    shares = (1 - MISFIT, MISFIT)[: len(nothing)] if len(nothing) > 1 else (1.0,)
    against = np.concatenate([np.full(size, count * share / size) for size, share in zip(nothing, shares, strict=True)])
    anchor = [group[:, 1] for group in groups[:2]]
    stood = fit_lines(anchor[0], anchor[1:], places[:2], ((1.0,),), draws=0).probabilities(anchor[0], 0.0)[0]
    penalty = np.array([NEARLY_NONE, *np.full(both.shape[1] - 1, PENALTY)])
    weights = {name: np.zeros(both.shape[1]) for name in names}
    scores = [np.zeros(len(group)) for group in groups]
    for _ in range(ROUNDS):
        positive = np.concatenate([stood, np.zeros(len(against))])
        negative = np.concatenate([1 - stood, against])
        for name in names:
            others = fold != name if len(names) > 1 else np.ones(len(fold), dtype=bool)
            weights[name] = _newton(
                both[others], positive[others], negative[others], penalty=penalty, start=weights[name]
            )
            for score, group, own in zip(scores, groups, folds, strict=True):
                score[own == name] = group[own == name] @ weights[name]
        line = fit_lines(scores[0], scores[1:2], places[:2], ((1.0,),), draws=0)
        stood = line.probabilities(scores[0], 0.0)[0]
    return scores


def _newton(
    table: Floats, positive: Floats, negative: Floats, *, offset: Floats | float = 0.0, penalty: Floats, start: Floats
) -> Floats:
    """Return the weights of a logistic regression with a ridge: each row counts so much as either class."""

    def loss(weights: Floats) -> float:
        now = offset + table @ weights
        unlikely = positive @ np.logaddexp(0, -now) + negative @ np.logaddexp(0, now)
        return float(unlikely + penalty @ weights**2 / 2)

    weights, best = start, loss(start)
    for _ in range(STEPS):
        chance = expit(offset + table @ weights)
        slope = table.T @ (positive * (1 - chance) - negative * chance) - penalty * weights
        step = np.linalg.solve(_curve(table, positive + negative, chance, penalty), slope)
        length, now = 1.0, loss(weights + step)
        while now > best and length > SHORTEST:
            length /= 2
            now = loss(weights + length * step)
        if now > best:
            break
        weights, best = weights + length * step, now
        if np.abs(step).max() < CLOSE:
            break
    return weights


def _curve(table: Floats, weight: Floats, chance: Floats, penalty: Floats) -> Floats:
    """Return the second derivatives of the loss of a logistic regression with a ridge."""
    curve: Floats = (table * (weight * chance * (1 - chance))[:, None]).T @ table + np.diag(penalty)
    return curve
