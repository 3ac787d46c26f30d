"""How right the verdicts are: a first look, after training, and after clicks, for several seeds of one case.

Run `python tests/benchmarks/bench_judge.py --config FILE --truth FILE [--seeds 1937 1 2] [--clicks 30 100 300]
[--set KEY=VALUE] [--folder DIR] [--only first]`. It trains a model for each seed, which takes minutes, and so is no
part of `make bench`. The case itself is left as it is, and the truth is used for measuring and for the clicks alone.

Each row is written to `judge.jsonl` in the folder as soon as it is known. Clicks are given on half of the buildings,
drawn at random, and all figures of clicks are of the other half. Calibration errors are those of the buildings on
either side of even odds: in five bins of equally many, how far the claim lies off what is right.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from bench_learning import within
from sklearn.metrics import roc_auc_score

from historymap_lib.evaluation import evaluate
from historymap_lib.live_verdicts import CaseLayer, layer_file
from historymap_lib.photo_align import align
from historymap_lib.project import load
from historymap_lib.training_data import generate
from historymap_lib.verification import verify
from ml.first_look import look
from ml.predict import predict
from ml.train import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from historymap_lib.last_layer import LastLayer
    from historymap_lib.project import Project

SIZES = ("below 50 m2", 0, 50), ("50 to 200 m2", 50, 200), ("above 200 m2", 200, np.inf)
STOOD = "real"
"""What truth tables of several kinds call buildings that stood."""
RESAMPLES = 500
BINS = 5
AT_A_TIME = 10
"""Buildings that are asked about before the order is made anew."""


def run(case: Project, truth: Path, folder: Path, seed: int, clicks: Sequence[int], only: str | None) -> None:
    """Measure one seed, and write its rows."""
    mine = within(case, folder / str(seed))
    paths = mine.paths.model_copy(update={"offsets": folder.resolve() / str(seed) / "offsets.json"})
    training = case.training.model_copy(update={"seed": seed})
    mine = mine.model_copy(update={"training": training, "paths": paths})
    print(align(mine, picture=False).summary)
    steps = {"look": look, "verify quick": lambda one: verify(one, quick=True, picture=False)}
    seconds = _timed(steps, mine)
    _write(folder, case, seed, "first look", 0, _figures(_known(mine, truth)), seconds)
    if only == "first":
        return
    steps = {
        "generate": lambda one: generate(one, picture=False),
        "train": train,
        "predict": lambda one: predict(one, picture=False),
        "verify": lambda one: verify(one, picture=False),
    }
    seconds = _timed(steps, mine)
    known = _known(mine, truth)
    _write(folder, case, seed, "trained", 0, _figures(known), seconds)
    kept = CaseLayer.read(layer_file(mine), mine.paths.verified)
    if kept is None or not clicks:
        return
    known = known.set_index("building_id").reindex(kept.building_id)
    asked = known["truth"].notna().to_numpy() & (np.random.default_rng(seed).random(len(known)) < 0.5)
    for how in ("random", "teaches"):
        for count in (0, *clicks):
            layer = _clicked(kept.layer, known["truth"].to_numpy(float), asked, how, count, seed)
            after = known.assign(probability=layer.probability.round(4), verdict=_verdicts(layer, case))
            _write(folder, case, seed, how, count, _figures(after[~asked & known["truth"].notna()]), {})


def _timed(steps: dict[str, Any], case: Project) -> dict[str, float]:
    """Run steps, and return the seconds that each took."""
    seconds = {}
    for name, step in steps.items():
        began = time.monotonic()
        step(case)
        seconds[name] = round(time.monotonic() - began, 1)
    return seconds


def _known(case: Project, truth: Path) -> pd.DataFrame:
    """Return the buildings that the photo shows, with `truth` (0 or 1), `kind`, `area`, `probability` and `verdict`."""
    found = evaluate(case.paths.verified, truth).buildings.to_crs(case.crs)
    table = pd.read_csv(truth)
    kind = dict(zip(table["osm_id"], table["kind"] if "kind" in table else [""] * len(table), strict=True))
    kinds = found["osm_id"].map(kind).fillna("")
    found = pd.DataFrame(found.assign(area=found.area, kind=kinds, truth=found["truth"].astype(float)))
    return found[found["verdict"] != "no_coverage"]


def _clicked(layer: LastLayer, truth: np.ndarray, among: np.ndarray, how: str, count: int, seed: int) -> LastLayer:
    """Return a layer after so many clicks on some of the buildings, by a person who is never wrong."""
    said = np.full(len(truth), np.nan)
    while (more := count - int((~np.isnan(said)).sum())) > 0:
        left = among & np.isnan(said)
        if how == "random":
            chosen = np.random.default_rng(seed).permutation(np.flatnonzero(left))[:more]
        else:
            chosen = layer.teaching_order(min(more, AT_A_TIME), among=left)
        said[chosen] = truth[chosen]
        layer = layer.update(said)
    return layer


def _verdicts(layer: LastLayer, case: Project) -> np.ndarray:
    settings, probability = case.verification, layer.probability
    sides = [probability >= settings.existed_from, probability <= settings.not_existed_to]
    return np.select(sides, ["existed", "not_existed"], "unsure")


def _figures(known: pd.DataFrame) -> dict[str, Any]:
    """Return the figures of buildings with their truth."""
    truth, probability = known["truth"].to_numpy() == 1, known["probability"].to_numpy(float)
    if truth.all() or not truth.any():
        raise SystemExit("all buildings of the truth are of one kind; there is nothing to measure")
    drawn = np.random.default_rng(0).integers(0, len(truth), (RESAMPLES, len(truth)))
    found: dict[str, Any] = {
        "n": len(known),
        "auc": _auc(truth, probability),
        "interval": np.quantile([_auc(truth[some], probability[some]) for some in drawn], (0.025, 0.975)).tolist(),
        "brier": float(((probability - truth) ** 2).mean()),
        "decided": float(known["verdict"].isin(["existed", "not_existed"]).mean()),
    }
    for name, low, high in SIZES:
        some = known["area"].between(low, high, inclusive="left").to_numpy()
        found[name] = _auc(truth[some], probability[some])
    for kind in sorted(set(known["kind"]) - {STOOD, ""}):
        some = known["kind"].isin([STOOD, kind]).to_numpy()
        found[kind] = _auc(truth[some], probability[some])
    for name, side, chance in (("existed", truth, probability), ("not_existed", ~truth, 1 - probability)):
        said, likely = (known["verdict"] == name).to_numpy(), chance > 0.5
        found[name] = int(said.sum())
        found[f"{name}_right"] = float(side[said].mean()) if said.any() else None
        found[f"{name}_claimed"] = float(chance[said].mean()) if said.any() else None
        found[f"{name}_error"] = _calibration_error(side[likely], chance[likely])
    return found


def _auc(truth: np.ndarray, probability: np.ndarray) -> float | None:
    return float(roc_auc_score(truth, probability)) if 0 < truth.sum() < len(truth) else None


def _calibration_error(right: np.ndarray, claim: np.ndarray) -> float | None:
    if len(right) < BINS:
        return None
    parts = np.array_split(np.argsort(claim, kind="stable"), BINS)
    return float(sum(len(part) * abs(right[part].mean() - claim[part].mean()) for part in parts) / len(right))


def _write(
    folder: Path, case: Project, seed: int, stage: str, clicks: int, figures: dict[str, Any], seconds: dict[str, float]
) -> None:
    row = {"case": case.name, "seed": seed, "stage": stage, "clicks": clicks} | figures | {"seconds": seconds}
    with (folder / "judge.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    sides = (f"{name} {row[name]} ({_shown(row[f'{name}_right'])})" for name in ("existed", "not_existed"))
    print(f"{case.name} {seed} {stage} {clicks}: AUC {row['auc']:.4f}, decided {row['decided']:.1%},", *sides, seconds)


def _shown(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def main() -> None:
    """Measure a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1937])
    parser.add_argument("--clicks", type=int, nargs="*", default=[30, 100, 300])
    parser.add_argument("--set", nargs="*", default=[], help="settings of the training, such as outline_steps=0")
    parser.add_argument("--only", choices=["first"], help="take the first look alone")
    parser.add_argument("--folder", type=Path, help="a folder that keeps all that is made")
    given = parser.parse_args()
    case = load(given.config)
    changed = {key: json.loads(value) for key, value in (one.split("=", 1) for one in given.set)}
    case = case.model_copy(update={"training": case.training.model_copy(update=changed)})
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in given.seeds:
            run(case, given.truth, folder, seed, given.clicks, given.only)


if __name__ == "__main__":
    main()
