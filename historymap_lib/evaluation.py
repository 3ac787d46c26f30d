"""Verdicts measured against a truth table: how often right, how sure with reason, and how much needs no person.

Three kinds of buildings are kept apart, and their counts add up to the buildings in both files:

- *annotated*: a person gave the verdict, so it says nothing about the model; only their agreement is counted;
- *no coverage*: the photo shows nothing there, so there is nothing to measure;
- *covered*: the model judged them. Every figure below is about these, so one that is unsure costs recall.

The thresholds behind a decidable share are chosen on the very buildings that they are measured on, so the share is
an upper estimate: to promise a precision, check the thresholds on buildings drawn at random afterwards.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import brier_score_loss, roc_auc_score

from historymap_lib import artifacts, evaluation_figure
from historymap_lib.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

VERDICTS = ("existed", "not_existed", "unsure", "no_coverage")
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
TARGETS = (0.99, 0.95)
CURVE_TARGETS = (*(percent / 100 for percent in range(80, 100)), 0.995, 1.0)
BINS = 10
RESAMPLES = 1000
BUILDING_ID = re.compile(r"(node|way|relation)/(-?\d+)")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Side(_Record):
    """How well one of the two verdicts does: a share of those given, and of the covered buildings it is true of."""

    precision: float | None
    recall: float | None


class Decidable(_Record):
    """The most buildings that two thresholds decide with precision of at least `target` on either side.

    Existed where probability >= `hi`, not existed where probability <= `lo`; None where no threshold is good enough.
    """

    target: float
    share: float | None
    hi: float | None
    lo: float | None
    existed: int
    existed_wrong: int
    not_existed: int
    not_existed_wrong: int


class Figures(_Record):
    """The figures of covered buildings; None where a figure has no meaning (nothing to divide by, one class only).

    Those without a probability cannot be decided; AUC, accuracy at 0.5 and calibration leave them out.
    """

    n: int
    existed_in_truth: int
    without_probability: int
    decided_share: float | None
    accuracy_decided: float | None
    accuracy_at_half: float | None
    existed: Side
    not_existed: Side
    auc: float | None
    auc_interval: tuple[float, float] | None
    decidable: tuple[Decidable, ...]


class ReliabilityBin(_Record):
    """Buildings with probability from `low` to `low` + 0.1: how many, their mean, and the share that existed."""

    low: float
    n: int
    mean: float | None
    existed: float | None


class Calibration(_Record):
    """Whether of the buildings given 70 % some 70 % existed: both scores are 0 at best."""

    brier: float | None
    expected_error: float | None
    reliability: tuple[ReliabilityBin, ...]


class Annotated(_Record):
    """Buildings whose verdict a person gave: how many of their decided verdicts the truth shares."""

    n: int
    decided: int
    agree: int
    agreement: float | None


class Counts(_Record):
    """Where each building of either file went: matched = annotated + no_coverage + covered."""

    verdicts: int
    truth: int
    matched: int
    truth_without_verdict: int
    verdict_without_truth: int
    annotated: int
    no_coverage: int
    covered: int


class Evaluation(_Record):
    """Everything measured, the truth without a verdict (`missing`), and the matched buildings, not in `as_dict`."""

    inputs: dict[str, str]
    counts: Counts
    missing: tuple[str, ...]
    table: dict[str, dict[str, int]]
    figures: Figures
    sizes: dict[str, Figures]
    calibration: Calibration
    decidable_curve: tuple[Decidable, ...]
    annotated: Annotated
    buildings: gpd.GeoDataFrame = Field(exclude=True, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as JSON can hold them: no NaN, None where a figure has no meaning."""
        return self.model_dump(mode="json")

    def summary(self) -> str:
        """Return the figures as a table for a terminal."""
        return evaluation_figure.summary(self)


def evaluate(verdicts: Path, truth: Path) -> Evaluation:
    """Measure the file that `verify` wrote against a table of `osm_id, existed` and optionally `osm_type`.

    Raises EvaluationError where a file is missing or is not such a file, where the truth names a building twice, and
    where the two have no building in common.
    """
    buildings = read_verdicts(verdicts)
    known = _match(_read_truth(truth), buildings["building_id"], truth)
    buildings["size"] = _size_classes(buildings)
    matched = buildings[buildings["building_id"].isin(known.keys())].copy()
    if matched.empty:
        raise EvaluationError(f"{truth} and {verdicts} have no building in common: give the truth of the same place.")
    matched["truth"] = matched["building_id"].map(known).astype(bool)
    absent = matched["verdict"] == "no_coverage"
    covered = matched[~matched["annotated"] & ~absent]
    missing = tuple(sorted(known.keys() - set(buildings["building_id"])))
    return Evaluation(
        inputs={str(path): artifacts.fingerprint(path) for path in (verdicts, truth)},
        counts=Counts(
            verdicts=len(buildings),
            truth=len(known),
            matched=len(matched),
            truth_without_verdict=len(missing),
            verdict_without_truth=len(buildings) - len(matched),
            annotated=int(matched["annotated"].sum()),
            no_coverage=int((~matched["annotated"] & absent).sum()),
            covered=len(covered),
        ),
        missing=missing,
        table=_table(matched[~matched["annotated"]]),
        figures=_figures(covered),
        sizes={str(size): _figures(group) for size, group in covered.groupby("size", observed=True)},
        calibration=calibration(*_columns(covered.dropna(subset="probability"))),
        decidable_curve=tuple(decidable(*_columns(covered), target) for target in CURVE_TARGETS),
        annotated=_annotated(matched[matched["annotated"]]),
        buildings=matched,
    )


def write(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write `evaluation.json` and the picture `evaluation.png` into `folder`, each whole or not at all."""
    figures, picture = folder / "evaluation.json", folder / "evaluation.png"
    artifacts.write_json(figures, evaluation.as_dict())
    with artifacts.replacing(picture) as partial:
        evaluation_figure.draw(evaluation).savefig(partial)
    return figures, picture


def decidable(probability: NDArray[np.float64], existed: NDArray[np.bool_], target: float) -> Decidable:
    """Return the greatest share that a pair of thresholds lo < hi decides, each side with precision >= `target`.

    A threshold takes all buildings of equal probability. NaN probabilities are never decided, but count in the share.
    Cuts are numbered between the distinct values, so cut i has i values under it. For each cut the best `lo` at or
    under it and the best `hi` at or over it are running maxima; the best cut then gives the best pair.
    """
    scored = ~np.isnan(probability)
    values, group = np.unique(probability[scored], return_inverse=True)
    size = np.bincount(group, minlength=len(values))
    stood = np.bincount(group[existed[scored]], minlength=len(values))
    under, stood_under = np.append(0, size.cumsum()), np.append(0, stood.cumsum())
    over, stood_over = under[-1] - under, stood_under[-1] - stood_under
    cuts = np.arange(len(under))
    # Divided, not multiplied: 99 / 100 is the same float as the target 0.99, and an empty side is never wrong.
    lo_good = (under == 0) | ((under - stood_under) / np.maximum(under, 1) >= target)
    hi_good = (over == 0) | (stood_over / np.maximum(over, 1) >= target)
    lo_cut = np.maximum.accumulate(np.where(lo_good, cuts, 0))
    hi_cut = np.minimum.accumulate(np.where(hi_good, cuts, len(values))[::-1])[::-1]
    best = np.argmax(under[lo_cut] + over[hi_cut])
    lo, hi = lo_cut[best], hi_cut[best]
    return Decidable(
        target=target,
        share=_ratio(under[lo] + over[hi], len(probability)),
        hi=float(values[hi]) if hi < len(values) else None,
        lo=float(values[lo - 1]) if lo > 0 else None,
        existed=int(over[hi]),
        existed_wrong=int(over[hi] - stood_over[hi]),
        not_existed=int(under[lo]),
        not_existed_wrong=int(stood_under[lo]),
    )


def calibration(probability: NDArray[np.float64], existed: NDArray[np.bool_]) -> Calibration:
    """Return Brier score, expected calibration error and reliability curve in ten bins of equal width.

    The expected calibration error is the mean distance of the curve from the diagonal, weighted by the buildings in
    each bin (Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, equation 3).
    """
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    n, expected, observed = (np.bincount(bins, weights, BINS) for weights in (None, probability, existed))
    return Calibration(
        brier=float(brier_score_loss(existed, probability)) if len(existed) else None,
        expected_error=_ratio(np.abs(expected - observed).sum(), len(existed)),
        reliability=tuple(
            ReliabilityBin(low=i / BINS, n=int(n[i]), mean=_ratio(expected[i], n[i]), existed=_ratio(observed[i], n[i]))
            for i in range(BINS)
        ),
    )


def auc_interval(probability: NDArray[np.float64], existed: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of the ROC AUC, by the percentile bootstrap within each class.

    (Efron and Tibshirani 1993.) Neighbouring buildings resemble each other, so the true interval is somewhat wider.
    """
    values, groups = np.unique(probability, return_inverse=True)
    positives, negatives = groups[existed], groups[~existed]
    random = np.random.default_rng(0)

    def resampled(members: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = members[random.integers(len(members), size=len(members))]
        return np.bincount(chosen, minlength=len(values)) / len(members)

    def area() -> float:
        positive, negative = resampled(positives), resampled(negatives)
        return float(positive @ (negative.cumsum() - negative / 2))  # a tie is half a win, as Mann and Whitney count

    low, high = np.quantile([area() for _ in range(RESAMPLES)], [0.025, 0.975]).clip(0, 1)
    return float(low), float(high)


def _figures(covered: pd.DataFrame) -> Figures:
    truth, verdict = covered["truth"], covered["verdict"]
    decided = verdict.isin(["existed", "not_existed"])
    right = (verdict == "existed") & truth | (verdict == "not_existed") & ~truth
    probability, existed = _columns(covered.dropna(subset="probability"))
    both = 0 < existed.sum() < len(existed)
    return Figures(
        n=len(covered),
        existed_in_truth=int(truth.sum()),
        without_probability=len(covered) - len(existed),
        decided_share=_ratio(decided.sum(), len(covered)),
        accuracy_decided=_ratio(right.sum(), decided.sum()),
        accuracy_at_half=_ratio(((probability >= 0.5) == existed).sum(), len(existed)),  # noqa: PLR2004
        existed=_side(verdict == "existed", truth),
        not_existed=_side(verdict == "not_existed", ~truth),
        auc=float(roc_auc_score(existed, probability)) if both else None,
        auc_interval=auc_interval(probability, existed) if both else None,
        decidable=tuple(decidable(*_columns(covered), target) for target in TARGETS),
    )


def _side(said: pd.Series[bool], true: pd.Series[bool]) -> Side:
    hits = (said & true).sum()
    return Side(precision=_ratio(hits, said.sum()), recall=_ratio(hits, true.sum()))


def _annotated(annotated: pd.DataFrame) -> Annotated:
    decided = annotated[annotated["verdict"].isin(["existed", "not_existed"])]
    agree = int(((decided["verdict"] == "existed") == decided["truth"]).sum())
    return Annotated(n=len(annotated), decided=len(decided), agree=agree, agreement=_ratio(agree, len(decided)))


def _table(judged: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count verdict by truth, over the buildings that no person annotated."""
    counts = judged.groupby(["verdict", "truth"]).size().to_dict()
    columns = {"existed": True, "not_existed": False}
    return {said: {name: int(counts.get((said, true), 0)) for name, true in columns.items()} for said in VERDICTS}


def _columns(covered: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return covered["probability"].to_numpy(np.float64), covered["truth"].to_numpy(np.bool_)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _size_classes(buildings: gpd.GeoDataFrame) -> pd.Categorical:
    """Return the class of ground area: small buildings are where everyone fails."""
    area = buildings.to_crs(buildings.estimate_utm_crs()).area.where(evaluation_figure.placed(buildings))
    if "area_m2" in buildings:
        area = pd.to_numeric(buildings["area_m2"], errors="coerce").fillna(area)
    small, large = 50, 200
    names = ["under_50_m2", "50_to_200_m2", "over_200_m2", "unknown"]
    return pd.Categorical(np.select([area < small, area <= large, area > large], names[:3], names[3]), names)


def read_verdicts(path: Path) -> gpd.GeoDataFrame:
    """Read what `verify` wrote: `building_id`, `verdict`, `probability` (float64, NaN for null), `annotated` (bool)."""
    if not path.exists():
        raise EvaluationError(f"There are no verdicts at {path}: run `historymap run verify` first.")
    try:
        buildings = gpd.read_file(path)
        fault = _fault(buildings)
    except (RuntimeError, OSError, ValueError) as error:
        fault = f"cannot be read, {error}"
    if fault:
        raise EvaluationError(f"{path} is no file of verdicts ({fault}): give what `historymap run verify` writes.")
    buildings["annotated"] = buildings["annotated"].isin([True])
    buildings["probability"] = buildings["probability"].astype(float)
    return buildings


def _fault(buildings: gpd.GeoDataFrame) -> str:
    """Return what shows that these are not verdicts of ours, or "" where nothing does."""
    if absent := {"building_id", "verdict", "probability", "annotated", "geometry"} - set(buildings.columns):
        return f"no {', no '.join(sorted(absent))}"
    if not buildings["building_id"].map(lambda name: bool(BUILDING_ID.fullmatch(str(name)))).all():
        return "a building_id unlike way/123"
    if not buildings["building_id"].is_unique:
        return "a building twice"
    if not buildings["verdict"].isin(VERDICTS).all():
        return f"a verdict other than {', '.join(VERDICTS)}"
    probability = buildings["probability"].astype(float)
    if not (probability.between(0, 1) | probability.isna()).all():
        return "a probability outside 0 to 1"
    return "" if buildings.crs and evaluation_figure.placed(buildings).any() else "no place on earth"


def _read_truth(path: Path) -> list[tuple[int, str, int, bool]]:
    """Return line, OSM type ("" where none is given), OSM number and truth of each row."""
    wanted = "give a CSV file in UTF-8 with the columns osm_id and existed."
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Spreadsheets of half of Europe write semicolons, since the comma is taken by their numbers.
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path} cannot be read as a truth table ({error}): {wanted}") from error
    if absent := {"osm_id", "existed"} - set(reader.fieldnames or ()):
        raise EvaluationError(f"{path} has no column {', no column '.join(sorted(absent))}: {wanted}")
    return [(line, *_read_row(row, f"{path}, line {line}")) for line, row in rows]


def _read_row(row: dict[str, str | None], place: str) -> tuple[str, int, bool]:
    kind, number, existed = ((row.get(name) or "").strip().lower() for name in ("osm_type", "osm_id", "existed"))
    if not BUILDING_ID.fullmatch(f"{kind or 'way'}/{number}"):
        raise EvaluationError(f"{place}: {f'{kind} {number}'.strip()!r} is no OSM id: write a number, as in 123456.")
    if existed not in TRUTHS:
        raise EvaluationError(f"{place}: existed is {existed!r}: write true or false, or remove the line.")
    return kind, int(number), TRUTHS[existed]


def _match(rows: list[tuple[int, str, int, bool]], verdicts: Iterable[str], path: Path) -> dict[str, bool]:
    """Return the truth by building id; a number without a type is the only verdict of that number, or else a way."""
    by_number: dict[int, list[str]] = {}
    for name in verdicts:
        by_number.setdefault(int(name.partition("/")[2]), []).append(name)
    truth: dict[str, bool] = {}
    lines: dict[str, int] = {}
    for line, kind, number, existed in rows:
        candidates = by_number.get(number, [])
        building = candidates[0] if not kind and len(candidates) == 1 else f"{kind or 'way'}/{number}"
        if building in truth:
            raise EvaluationError(f"{path} has {building} in lines {lines[building]} and {line}: remove one of them.")
        truth[building], lines[building] = existed, line
    return truth
