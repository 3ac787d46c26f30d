"""How long after a click the verdicts on like buildings change, in a real browser and in the kernel alone.

Run `python tests/benchmarks/bench_live.py [--buildings 10000 100000] [--rounds 10]`. Without Chromium only the kernel
is measured.

The case is made up: houses, of which two thirds are of 32 kinds that look alike and are likely to have stood, but not
surely, and a last layer that knows these kinds. In the browser E is pressed upon one of them again and again, with some
300 in view. The time is taken from the key until the building itself has its colour, and until its likes have theirs
and the legend, which comes after the map, tells what was learned.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from scipy.special import logit

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "browser"), str(Path(__file__).parent)]

import bench_map  # noqa: E402 - lies beside
import bench_tiles  # noqa: E402
from workbench_fixtures import Lab, browser_at, chromium_path, serving  # noqa: E402

from historymap_lib import artifacts, display, verification  # noqa: E402
from historymap_lib.annotation_store import AnnotationStore  # noqa: E402
from historymap_lib.last_layer import COMPONENTS, LINES, LastLayer  # noqa: E402
from historymap_lib.live_verdicts import CaseLayer, LiveVerdicts, layer_file  # noqa: E402
from historymap_lib.project import load  # noqa: E402
from historymap_lib.widgets.annotating import Session  # noqa: E402
from historymap_lib.widgets.buildings import read_buildings  # noqa: E402
from historymap_lib.widgets.learner import PAUSE, learn, rank_anew  # noqa: E402

DENSE = 1000.0
"""Houses on a square kilometre."""
LIKELY = 0.85
"""Probability of those that look alike."""
OUT = 2
"""Zooms that the map is moved out from the first building."""


def make(folder: Path, count: int) -> Path:
    """Make a case of so many houses, of which the photo shows those in the north-west; return its settings."""
    bench_tiles.make_case(folder, 2000)
    file = folder / "case.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values |= {"footprints": {"path": "footprints.gpkg"}, "jobs": {"idle": 60}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    case = load(file)
    frame = bench_map.made_up(count, 1000 * (count / DENSE) ** 0.5, case.verification)
    frame[["osm_type", "osm_id", "name", "building", "start_date", "geometry"]].to_file(folder / "footprints.gpkg")
    rng = np.random.default_rng(1937)
    alike, kind = rng.random(count) < 2 / 3, rng.integers(0, COMPONENTS, count)
    prior = logit(np.where(alike, LIKELY, frame["probability"].clip(0.01, 0.99)))
    directions = rng.normal(0, 0.1, (count, LINES + COMPONENTS))
    directions[alike, LINES + kind[alike]] += 3.0
    layer = LastLayer(prior, directions, np.full(count, np.nan), np.full(20, 0.7))
    kept = CaseLayer.of(frame["building_id"].to_numpy(np.str_), layer)
    table = frame[["building_id"]].assign(probability=kept.layer.probability, coverage=1.0, overlap=1.0)
    bare = frame.drop(columns=["probability", "coverage", "overlap", "verdict", "confidence", "reason"])
    bare = bare.drop(columns=["annotated", "existed", "needs_verification"])
    frame = verification.decide(bare, table.drop(columns="building_id"), {}, case.verification)
    path = case.paths.verified
    path.parent.mkdir(parents=True, exist_ok=True)
    verification._write(frame[verification.COLUMNS], {}, path, kept, layer_file(case))
    counts = {name: int((frame["verdict"] == name).sum()) for name in verification.VERDICTS}
    artifacts.write_manifest(path, step="verify", inputs={}, settings={}, parameters={}, code=[], counts=counts)
    display.make(load(file), "photo")
    return file


def in_kernel(file: Path, folder: Path, rounds: int) -> None:
    """Print what the parts of it take without a page."""
    case, found = load(file), {"read the layer": [], "likes": [], "queue": []}
    start = time.perf_counter()
    live = LiveVerdicts.of(case)
    found["read the layer"].append(1000 * (time.perf_counter() - start))
    session = Session(AnnotationStore(folder / "apart.db"), read_buildings(case, {}), "ann", live)
    session.forward()
    for _ in range(rounds):
        session.judge("existed", session.buildings.ids[session.selected])
        for name, do in (("likes", learn), ("queue", rank_anew)):
            start = time.perf_counter()
            do(session)
            found[name].append(1000 * (time.perf_counter() - start))
    bench_map.table(f"in the kernel, {len(session.buildings):,} buildings [ms]", found)


def in_browser(file: Path, config: Path, rounds: int) -> None:
    """Print what a person waits for."""
    with browser_at(chromium_path() or "") as browser, serving(file, config) as address:
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        eye = bench_map.Eye(Lab(page, address, config, "bench").open(bench_map.NOTEBOOK), None)
        eye.lab.command("notebook:run-all-cells")
        page.locator(".hm-judge [data-action=forward]").wait_for()
        page.evaluate("() => document.querySelector('.hm-annotate').scrollIntoView()")
        page.locator(".hm-judge [data-action=forward]").click()
        page.locator(".hm-building-head").wait_for()
        for _ in range(OUT):
            page.wait_for_timeout(1500)
            page.locator(".hm-map .leaflet-control-zoom-out").click()
        page.locator(".hm-judge [name=order]").select_option("view")
        found: bench_map.Times = {}
        likes = []
        for _ in range(rounds):
            page.wait_for_timeout(2000)
            place = eye.pick(".hm-map path.hm-building.hm-unsure:not(.hm-annotated)", ".hm-map")
            page.mouse.click(*place)
            page.wait_for_timeout(1000)
            before = page.evaluate("() => eye.existed()")
            page.evaluate("() => eye.watch('keydown', {recoloured: eye.chosen(), learned: eye.learned()})")
            page.keyboard.press("e")
            eye.add(found)
            likes.append(page.evaluate("() => eye.existed()") - before - 1)
        title = f"E in the browser, verdicts on {statistics.median(likes):.0f} others change"
        bench_map.table(f"{title}; {1000 * PAUSE:.0f} ms are a wait for more keys [ms]: {eye.tasks()}", found)
        print(*eye.lab.errors, sep="\n")


def main() -> None:
    """Make the cases, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buildings", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=10, help="judgements")
    options = parser.parse_args()
    for count in options.buildings:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            os.environ["HISTORYMAP_CACHE"] = str(folder / "cache")
            file = make(folder, count)
            in_kernel(file, folder, options.rounds)
            if chromium_path() is not None:
                in_browser(file, folder / "jupyter", options.rounds)


if __name__ == "__main__":
    main()
