"""An evaluation as people see it: a table for a terminal, and one picture of four panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import MultipleLocator, PercentFormatter
from scipy.stats import binomtest
from shapely.geometry.polygon import orient

if TYPE_CHECKING:
    from collections.abc import Iterator

    import geopandas as gpd
    import pandas as pd
    from matplotlib.axes import Axes

    from historymap_lib.evaluation import Evaluation, Figures

# Okabe and Ito (2008), Color Universal Design: blue and vermilion differ for every kind of colour vision.
EXISTED, NOT_EXISTED, QUIET = "#0072B2", "#D55E00", "#767676"
# On the map lightness goes with colour (ColorBrewer YlOrRd), so that the kinds differ without any colour vision.
# The number is how far a footprint is drawn wider, in thousandths of the map.
KINDS = {
    "right": ("#B5B5B5", 1),
    "unsure": ("#FFDD55", 2),
    "wrong: said not existed": ("#F98B1D", 4),
    "wrong: said existed": ("#A50026", 4),
}


def summary(evaluation: Evaluation) -> str:
    """Return the figures as a table for a terminal, some 110 columns wide."""
    return "\n".join(_summary_lines(evaluation))


def draw(evaluation: Evaluation) -> Figure:
    """Draw reliability, probabilities by truth, decidable share and the map of errors of the covered buildings."""
    buildings = evaluation.buildings
    covered = buildings[~buildings["annotated"] & (buildings["verdict"] != "no_coverage")]
    figure = Figure(figsize=(13, 11), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    (reliability, histogram), (decidable, errors) = figure.subplots(2, 2)
    _draw_reliability(reliability, evaluation)
    _draw_histogram(histogram, covered)
    _draw_decidable(decidable, evaluation)
    _draw_map(errors, covered)
    figure.suptitle(_headline(evaluation.figures), fontsize=15, fontweight="bold")
    return figure


def placed(buildings: gpd.GeoDataFrame) -> pd.Series[bool]:
    """Return which buildings have a geometry; missing and empty ones alike have no bounds."""
    has_bounds: pd.Series[bool] = buildings.bounds["minx"].notna()
    return has_bounds


def _headline(figures: Figures) -> str:
    words = f"{figures.n} buildings judged by the model, compared with the truth"
    if figures.accuracy_at_half is not None:
        words += f"\n{figures.accuracy_at_half:.1%} right at probability 0.5"
    if figures.auc is not None and figures.auc_interval is not None:
        low, high = figures.auc_interval
        words += f", AUC {figures.auc:.3f} ({low:.3f} to {high:.3f})"
    return words


def _draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the share that existed over the probability, each bin with its 95 % interval (Wilson 1927) and count."""
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="perfect")
    bins = [one for one in evaluation.calibration.reliability if one.n]
    x = [one.mean or 0.0 for one in bins]
    y = [one.existed or 0.0 for one in bins]
    ranges = [
        binomtest(round(share * one.n), one.n).proportion_ci(method="wilson")
        for share, one in zip(y, bins, strict=True)
    ]
    axes.vlines(x, [one.low for one in ranges], [one.high for one in ranges], color=EXISTED, alpha=0.4, linewidth=3)
    axes.plot(x, y, "o-", color=EXISTED, label="the model, with 95 % interval and count")
    for one, left, up in zip(bins, x, ranges, strict=True):
        axes.annotate(str(one.n), (left, up.high), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.3), xlabel="probability given", ylabel="share that existed")
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_title("Do the probabilities hold?")
    error, brier = evaluation.calibration.expected_error, evaluation.calibration.brier
    words = f"calibration error {_number(error)}\nBrier score {_number(brier)}"
    axes.text(0.98, 0.03, words, transform=axes.transAxes, ha="right")
    axes.legend(loc="upper left", frameon=False)
    _tidy(axes)


def _draw_histogram(axes: Axes, covered: pd.DataFrame) -> None:
    scored = covered[covered["probability"].notna()]
    edges = [step / 20 for step in range(21)]
    for value, color, label in ((True, EXISTED, "existed"), (False, NOT_EXISTED, "not existed")):
        chosen = scored.loc[scored["truth"] == value, "probability"]
        axes.hist(chosen, edges, color=color, alpha=0.35)
        axes.hist(chosen, edges, color=color, histtype="step", linewidth=1.5, label=f"{label} in truth ({len(chosen)})")
    axes.set(xlim=(0, 1), xlabel="probability given", ylabel="buildings", title="How well are the two kept apart?")
    axes.legend(loc="upper center", frameon=False)
    _tidy(axes)


def _draw_decidable(axes: Axes, evaluation: Evaluation) -> None:
    curve = [(one.target, one.share) for one in evaluation.decidable_curve if one.share is not None]
    axes.plot(*np.array(curve).reshape(-1, 2).T, color=EXISTED, marker=".")
    for best in evaluation.figures.decidable:
        if best.share is not None:
            axes.plot(best.target, best.share, "o", color=NOT_EXISTED, zorder=3)
            words = f"{best.share:.0%} at {best.target:.0%}"
            axes.text(best.target - 0.004, max(best.share - 0.09, 0.01), words, ha="right")
    axes.set(xlim=(0.797, 1.003), ylim=(0, 1.04), title="How many need no person?")
    axes.set(xlabel="precision wanted of both verdicts", ylabel="buildings decided automatically")
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _tidy(axes)


def _draw_map(axes: Axes, covered: gpd.GeoDataFrame) -> None:
    """Draw each footprint in the colour of its kind, in metres; errors last, and wider, to be seen at all."""
    kinds = _kinds(covered)
    if placed(covered).any():
        shapes = covered.geometry.to_crs(covered.estimate_utm_crs())
        left, bottom, right, top = shapes.total_bounds
        unit = max(right - left, top - bottom, 100) / 1000
        for order, (kind, (color, wider)) in enumerate(KINDS.items()):
            wide = shapes[placed(covered) & (kinds == kind)].buffer(wider * unit).explode(index_parts=False)
            axes.add_collection(
                PathCollection([_path(one) for one in wide], color=color, linewidth=0, zorder=2 + order)
            )
        axes.autoscale_view()
        axes.set_aspect("equal", adjustable="datalim")
        _draw_scale(axes)
    axes.set(xticks=[], yticks=[], title="Where are the errors?")
    axes.spines[:].set_color(QUIET)
    handles = [
        Line2D([], [], linestyle="", marker="s", markersize=9, color=color, label=f"{kind} ({(kinds == kind).sum()})")
        for kind, (color, _) in KINDS.items()
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, frameon=False)


def _draw_scale(axes: Axes) -> None:
    """Draw a bar of 1, 10, 100... metres that fits the map."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    length = 10 ** np.floor(np.log10((right - left) / 2))
    x, y = left + 0.04 * (right - left), bottom + 0.05 * (top - bottom)
    axes.plot([x, x + length], [y, y], color="black", linewidth=2, zorder=9)
    axes.text(x + length / 2, y, f"{length:g} m", ha="center", va="bottom", zorder=9)


def _kinds(covered: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    said = covered["verdict"] == "existed"
    unsure = covered["verdict"] == "unsure"
    right, unknown, wrong_not_existed, wrong_existed = KINDS
    return np.select([unsure, said == covered["truth"], said], [unknown, right, wrong_existed], wrong_not_existed)


def _path(polygon: Any) -> Path:
    """Return the path of a polygon; its holes turn the other way round, which is what leaves them empty."""
    polygon = orient(polygon)
    return Path.make_compound_path(*(Path(ring.coords, closed=True) for ring in (polygon.exterior, *polygon.interiors)))


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _summary_lines(evaluation: Evaluation) -> Iterator[str]:
    counts, annotated = evaluation.counts, evaluation.annotated
    yield f"{counts.matched} buildings are both in the verdicts ({counts.verdicts}) and in the truth ({counts.truth});"
    yield f"{counts.verdict_without_truth} verdicts have no truth, {counts.truth_without_verdict} truths no verdict."
    yield f"Of the {counts.matched}, the model judged {counts.covered}, {counts.no_coverage} have no coverage, and"
    yield f"{counts.annotated} are annotated (of {annotated.decided} decided, {annotated.agree} agree with the truth)."
    yield f"\n{'not annotated':<24}{'existed in truth':>18}{'not existed':>15}"
    for verdict, row in evaluation.table.items():
        yield f"{verdict.replace('_', ' '):<24}{row['existed']:>18}{row['not_existed']:>15}"
    columns = {"all": evaluation.figures, **evaluation.sizes}
    yield f"\n{'judged by the model':<24}" + "".join(f"{name.replace('_', ' '):>15}" for name in columns)
    rows = [_summary_column(figures) for figures in columns.values()]
    yield from (f"{name:<24}" + "".join(f"{column[name]:>15}" for column in rows) for name in rows[0])
    yield f"\n{'Brier score':<24}{_number(evaluation.calibration.brier):>15}"
    yield f"{'calibration error':<24}{_number(evaluation.calibration.expected_error):>15}"


def _summary_column(figures: Figures) -> dict[str, str]:
    low, high = figures.auc_interval or (None, None)
    return {
        "buildings": str(figures.n),
        "decided": _percent(figures.decided_share),
        "accuracy of decided": _percent(figures.accuracy_decided),
        "accuracy at 0.5": _percent(figures.accuracy_at_half),
        "existed: precision": _percent(figures.existed.precision),
        "existed: recall": _percent(figures.existed.recall),
        "not existed: precision": _percent(figures.not_existed.precision),
        "not existed: recall": _percent(figures.not_existed.recall),
        "AUC": _number(figures.auc),
        "AUC, 95 % from": _number(low),
        "AUC, 95 % to": _number(high),
        **{f"decidable at {best.target:.0%}": _percent(best.share) for best in figures.decidable},
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
