"""Whether verdicts are as right as they claim, on painted towns whose later buildings lie otherwise than phantoms do.

Run `python tests/benchmarks/bench_honesty.py [--towns 12] [--folder DIR]`. Each town is another place, sun and film,
and no weights have learned from it; what came later came in estates in woods and fields, in yards between houses,
against their walls, scattered, or where another building stood. A first look judges each town by itself.

The network has learned on towns by the same painter, so it sees better here than on real photos. What is measured is
whether claim and truth agree, for both verdicts, for each kind of later buildings and by how much of a town stood.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from outline_fixtures import write_town

from historymap_lib.project import load
from historymap_lib.sample_varied import paint_varied
from historymap_lib.verification import verify
from ml.first_look import look

FIRST_TOWN = 3000
"""Seed of the first town; those that the weights have learned from have seeds from 1000 to 1051."""
SIZE = 700.0
"""Metres along a town."""


def judge(seed: int, folder: Path) -> pd.DataFrame:
    """Paint the town of a seed, judge it, and return its buildings with truth, kind, probability and verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    town = paint_varied(seed, size_m=SIZE)
    drawn = replace(town, seen_outlines=town.outlines)  # the map lies off, as maps do
    case = load(write_town(folder, varied=drawn, tiles={"size": 128, "resolution": town.resolution}))
    look(case)
    verify(case, quick=True, picture=False)
    found = gpd.read_file(case.paths.verified).set_index("osm_id")
    known = pd.DataFrame({"town": seed, "truth": town.stood, "kind": town.kinds}, np.arange(1, len(town.stood) + 1))
    return known.join(found[["probability", "verdict"]])


def summary(known: pd.DataFrame, name: str) -> str:
    """Return how right both verdicts are, beside what they claim."""
    parts = [f"{name}: {len(known):,} buildings"]
    for verdict in ("existed", "not_existed"):
        said = known[known["verdict"] == verdict]
        right = said["truth"] if verdict == "existed" else ~said["truth"]
        claim = said["probability"] if verdict == "existed" else 1 - said["probability"]
        parts.append(f"{verdict} {len(said):,}")
        if len(said):
            parts[-1] += f", right {right.mean():.1%}, claimed {claim.mean():.1%}"
    return "; ".join(parts)


def main() -> None:
    """Judge towns, and print how right the verdicts are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towns", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="a folder that keeps all that is made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        found = []
        for seed in range(FIRST_TOWN, FIRST_TOWN + given.towns):
            found.append(judge(seed, folder / str(seed)))
            stood = found[-1]["truth"].mean()
            print(summary(found[-1], f"{seed} ({stood:.0%} stood)"), flush=True)
        known = pd.concat(found)
        known.to_csv(folder / "honesty.csv")
    stood = known.groupby("town")["truth"].transform("mean")
    print(summary(known, "all"))
    for low, high in ((0, 0.4), (0.4, 0.7), (0.7, 1)):
        if len(some := known[stood.between(low, high, inclusive="left")]):
            print(summary(some, f"{low:.0%} to {high:.0%} stood"))
    for kind, some in known.groupby("kind"):
        wrong = some["verdict"] == ("not_existed" if kind == "old" else "existed")
        print(f"{kind}: {len(some):,}, of which {wrong.mean():.1%} are judged the wrong way")


if __name__ == "__main__":
    main()
