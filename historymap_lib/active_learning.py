"""In which order people are asked about buildings: the one to ask first comes first.

Who wants the model to learn asks where it doubts (uncertainty sampling: Lewis and Gale 1994, SIGIR). The most doubtful
ones may all be of a kind, though, or from one street. So *spread* takes turns among parts of the area and sizes of
buildings, with the most doubtful of each (after the round-robin among clusters of Citovsky et al. 2021, Batch Active
Learning at Scale, NeurIPS, arXiv 2107.14263), and *teaches* asks what makes all others surest (`last_layer`). Who wants
to know how good the verdicts are asks at random: any beginning of that order is a simple random sample of what the
photo shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from historymap_lib.errors import AnnotationsError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

ORDERS = {
    "teaches": "what tells most about the buildings that are still in doubt",
    "spread": "the least certain of each part of the area and each size in turn",
    "uncertain": "the least certain first",
    "disagreement": "where people disagree, then where the network and the verdict do",
    "random": "at random, for an honest check",
}
"""In which order a person can be asked, with what it means."""
SIZES = (50.0, 200.0)
"""Square metres between the classes of size, those of the evaluation: small buildings are where everyone fails."""
SIDE = 4
"""The area has this many strips from west to east, and each strip this many parts from south to north."""


def rank(how: str, buildings: pd.DataFrame, *, seed: int = 0, conflicts: Collection[str] = ()) -> NDArray[np.int64]:
    """Return the positions of the rows to ask about, the first one first; the same for the same buildings.

    Buildings that the photo does not show (verdict no_coverage, or no probability) are left out, in every order; those
    that people have judged already are not.

    Args:
        how: one of `ORDERS`.
        buildings: `building_id`, `verdict`, `probability` and `overlap` as `verify` writes them, `x` and `y` of a
            point in them (metres) and `area` (square metres); any index. `teaches`, if it is there, is the place of
            each in `LastLayer.teaching_order`, nan for those beyond it, which follow as in *spread*; without it
            *teaches* is *spread*.
        seed: of the order *random*.
        conflicts: ids of the buildings on which people disagree.

    Raises:
        AnnotationsError: there is no such order.

    """
    if how not in ORDERS:
        raise AnnotationsError(f"{how!r} is no order to ask in; it is one of {', '.join(ORDERS)}")
    shown = (buildings["probability"].notna() & (buildings["verdict"] != "no_coverage")).to_numpy(np.bool_)
    if how == "random":
        order = np.random.default_rng(seed).permutation(len(buildings))
        return order[shown[order]]
    if how == "teaches" and "teaches" not in buildings:
        how = "spread"
    rows = np.flatnonzero(shown)
    if len(rows) == 0:
        return rows
    asked = buildings.iloc[rows].reset_index(drop=True)
    if how == "disagreement":
        return rows[_disagreement(asked, conflicts)]
    if how == "teaches":
        order = _spread(asked)
        return rows[order[np.argsort(asked["teaches"].fillna(np.inf).to_numpy()[order], kind="stable")]]
    return rows[_spread(asked) if how == "spread" else np.argsort(_certainty(asked), kind="stable")]


def strata(buildings: pd.DataFrame) -> NDArray[np.int64]:
    """Return the stratum of each building: its part of the area and its class of size.

    The parts hold equally many buildings each, and so are small where the town is dense.
    """
    strip = _shares(buildings["x"], pd.Series(0, buildings.index))
    part = strip * SIDE + _shares(buildings["y"], strip)
    return part.to_numpy(np.int64) * (len(SIZES) + 1) + np.digitize(buildings["area"], SIZES)


def _certainty(buildings: pd.DataFrame) -> NDArray[np.float64]:
    """Return how far each probability is from 0.5."""
    return np.abs(buildings["probability"].to_numpy(np.float64) - 0.5)


def _disagreement(buildings: pd.DataFrame, conflicts: Collection[str]) -> NDArray[np.int64]:
    """Order by whether people disagree, then by how far the two opinions of the machine are from each other.

    One is `overlap`, the share of the footprint that the network calls a building; the other the probability, for
    which `verify` has looked at the photo, too. The network is timid, so a share stands for the probability that it
    usually goes with. Measured, of the first hundred 69 verdicts are wrong on Banepa, of a hundred at random 21; on two
    sample towns, where the photo is the better witness, it finds fewer than chance does.
    """
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - takes a second, which a new kernel need not wait

    probability = buildings["probability"].to_numpy(np.float64)
    share = buildings["overlap"].fillna(buildings["probability"]).to_numpy(np.float64)
    network = IsotonicRegression().fit(share, probability).predict(share)
    agreed = ~buildings["building_id"].isin(list(conflicts))
    return np.lexsort((-np.abs(network - probability), agreed.to_numpy(np.bool_)))


def _spread(buildings: pd.DataFrame) -> NDArray[np.int64]:
    """Order by turn: in each turn every stratum gives its least certain building that is left."""
    certainty = _certainty(buildings)
    order = np.argsort(certainty, kind="stable")
    turn = buildings.iloc[order].groupby(strata(buildings)[order]).cumcount().to_numpy()
    return order[np.argsort(turn, kind="stable")]


def _shares(values: pd.Series[float], groups: pd.Series[int]) -> pd.Series[int]:
    """Return for each value in which of the `SIDE` equally large shares of its group it is, from 0."""
    by_group = values.groupby(groups)
    place = by_group.rank(method="first") - 1
    return (place * SIDE // by_group.transform("size")).astype(np.int64)
