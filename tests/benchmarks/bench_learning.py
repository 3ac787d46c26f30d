"""What thirty clicks are worth in the order of the queue, beside thirty at random and none at all.

Run `python tests/benchmarks/bench_learning.py --config FILE --truth FILE [--clicks 30] [--epochs N] [--folder DIR]`. It
trains five models, which takes minutes to hours, and so is no part of `make bench`. The case itself is left as it is.

The case is trained, predicted and verified from nothing: that is *none*. Each order then gets a copy of it in a folder
of its own and the first so many buildings of its queue answered from the truth table, as a person would who is never
wrong. *applied* is after apply-annotations alone, *trained* after training, predicting and verifying again, which
starts from the same seed as *none*. *other seed* is *none* trained again from another seed: differences smaller than
from *none* to it are chance. All figures are of the same buildings, those that no order has asked about.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from historymap_lib.active_learning import rank
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.corrections import apply
from historymap_lib.evaluation import evaluate
from historymap_lib.project import load
from historymap_lib.training_data import generate
from historymap_lib.verification import verify
from ml.predict import predict
from ml.train import train

if TYPE_CHECKING:
    import geopandas as gpd

    from historymap_lib.project import Project

HOWS = ("spread", "uncertain", "random")
START, OTHER = "none", "other seed"


def run(case: Project, truth: Path, folder: Path, *, clicks: int = 30, epochs: int | None = None) -> dict[str, Any]:
    """Return `rows` (see `_row`), `asked` (what each order asked about) and how many `seconds` all of it took."""
    began = time.monotonic()
    start = within(case, folder / START)
    generate(start, picture=False)
    learn(start, epochs)
    known = evaluate(start.paths.verified, truth).buildings.to_crs(case.crs)
    queues = {how: known.iloc[queue(how, known)[:clicks]] for how in HOWS}
    rest = folder / "truth.csv"
    asked = set().union(*(chosen["building_id"] for chosen in queues.values()))
    write_truth(known[~known["building_id"].isin(asked)], rest)
    rows = [_row(START, "", start, rest)]
    for how, chosen in queues.items():
        arm = fork(start, folder / how)
        answer(arm, chosen, how)
        apply(arm, picture=False)
        rows.append(_row(how, "applied", arm, rest))
        learn(arm, epochs)
        rows.append(_row(how, "trained", arm, rest))
        show(rows[-2:])
    other = fork(start, folder / "other")
    learn(_reseeded(other), epochs)
    rows.append(_row(OTHER, "trained", other, rest))
    told = {how: _asked(chosen) for how, chosen in queues.items()}
    return {"rows": rows, "asked": told, "seconds": time.monotonic() - began}


def within(case: Project, folder: Path) -> Project:
    """Return the case with everything that steps write in a folder of its own."""
    places = {
        "training": "training", "corrected": "training_corrected", "models": "models", "predictions": "predictions",
        "verified": "verified.geojson", "annotations": "annotations.json",
    }  # fmt: skip
    paths = case.paths.model_copy(update={name: folder.resolve() / place for name, place in places.items()})
    return case.model_copy(update={"paths": paths})


def fork(case: Project, folder: Path) -> Project:
    """Return a copy of a case with all its files."""
    shutil.copytree(case.paths.training.parent, folder)
    return within(case, folder)


def learn(case: Project, epochs: int | None) -> None:
    """Train, predict and verify."""
    train(case, epochs=epochs)
    predict(case, picture=False)
    verify(case, picture=False)


def queue(how: str, known: gpd.GeoDataFrame) -> np.ndarray:
    """Return the rows in the order in which people are asked."""
    inside = shapely.point_on_surface(known.geometry.to_numpy())
    places = {"x": shapely.get_x(inside), "y": shapely.get_y(inside), "area": known.geometry.area}
    return rank(how, known.assign(**places))


def answer(case: Project, chosen: gpd.GeoDataFrame, how: str) -> None:
    """Say of each building what is true."""
    said = np.where(chosen["truth"], "existed", "not_existed")
    pairs = zip(chosen["building_id"], said, strict=True)
    AnnotationStore.of(case).save(*(Judgement(name, word, "truth", chosen_by=how) for name, word in pairs))


def write_truth(known: gpd.GeoDataFrame, path: Path) -> None:
    """Write a truth table."""
    known[["osm_type", "osm_id"]].assign(existed=known["truth"]).to_csv(path, index=False)


def _reseeded(case: Project) -> Project:
    training = case.training.model_copy(update={"seed": case.training.seed + 1})
    return case.model_copy(update={"training": training})


def _row(how: str, stage: str, case: Project, truth: Path) -> dict[str, Any]:
    """Return the figures that people look at, of the buildings in the truth table that nobody has judged."""
    found = evaluate(case.paths.verified, truth)
    shares = {one.target: one.share for one in found.figures.decidable}
    return {
        "order": how, "stage": stage, "buildings": found.figures.n, "auc": found.figures.auc,
        "accuracy": found.figures.accuracy_at_half, "at_95": shares[0.95], "at_99": shares[0.99],
        "brier": found.calibration.brier, "ece": found.calibration.expected_error,
    }  # fmt: skip


def _asked(chosen: gpd.GeoDataFrame) -> dict[str, int]:
    """Return how many buildings were asked about, how many of them existed, and on how many the verdict was wrong."""
    wrong = (chosen["probability"] >= 0.5) != chosen["truth"]
    return {"asked": len(chosen), "existed": int(chosen["truth"].sum()), "wrong": int(wrong.sum())}


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    print(f"\n{'':12}{'':10}{'AUC':>8}{'at 0.5':>9}{'at 95 %':>9}{'at 99 %':>9}{'Brier':>9}{'cal. error':>12}")
    for row in rows:
        shares = "".join(f"{row[name]:>9.1%}" for name in ("accuracy", "at_95", "at_99"))
        print(f"{row['order']:12}{row['stage']:10}{row['auc']:>8.4f}{shares}{row['brier']:>9.4f}{row['ece']:>12.4f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--epochs", type=int, help="of each training, instead of those of the settings")
    parser.add_argument("--folder", type=Path, help="an empty or new folder that keeps all that is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        case = load(arguments.config)
        found = run(case, arguments.truth, folder, clicks=arguments.clicks, epochs=arguments.epochs)
        (folder / "learning.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    show(found["rows"])
    print(f"\n{found['rows'][0]['buildings']:,} buildings that no order asked about; {found['seconds']:.0f} s")
    for how, told in found["asked"].items():
        print(f"{how}: {told['existed']} of {told['asked']} existed, the verdict was wrong on {told['wrong']}")


if __name__ == "__main__":
    main()
