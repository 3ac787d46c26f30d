"""How long a person waits for the annotation map of a large case, in a real browser.

Run `python tests/benchmarks/bench_map.py [folder] [--buildings 100000] [--size 20000] [--rounds 20]`. Needs Chromium.

The case is made up: the photo of `bench_tiles`, the houses of `bench_verify`, a verdict on each, and judgements of some
of them. It is made once outside the timings, and kept in `folder` for the next time. All times are taken in the page:
from the event that a person causes until what it causes stands in the DOM, and until the next frame has been drawn.

The peer is ipyleaflet as people use it (its issue 1169): 400 of these houses in one GeoJSON layer, restyled by a click.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import psutil
import shapely
import yaml

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "browser"), str(Path(__file__).parent)]

import bench_tiles  # noqa: E402 - lies beside
import bench_verify  # noqa: E402
from workbench_fixtures import Lab, browser_at, chromium_path, serving  # noqa: E402

from historymap_lib import artifacts, display, verification  # noqa: E402
from historymap_lib.annotation_store import AnnotationStore, Judgement  # noqa: E402
from historymap_lib.live_verdicts import layer_file  # noqa: E402
from historymap_lib.project import load  # noqa: E402
from historymap_lib.settings import Verification  # noqa: E402

NOTEBOOK = "5_annotate.ipynb"
JUDGED, POLYGONS = 2000, 400
PAN = {"far": 13, "middle": 16, "near": 18}
JUDGE = (19, 17, 16)
"""Zooms at which E is pressed; at the last as many polygons are in view as the peer has."""
EYE = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
PEER = """
import json
from ipyleaflet import GeoJSON, Map
data, judged = json.load(open({path!r})), set()
def look(feature):
    said = feature["properties"]["number"] in judged
    return {{"color": "#222222", "weight": 1, "fillOpacity": 0.5, "fillColor": "#00aa00" if said else "#aa0000"}}
def click(**event):
    judged.add(event["properties"]["number"])
    layer.style_callback = lambda feature: look(feature)  # another one: that sends the layer anew
layer = GeoJSON(data=data, style_callback=look)
layer.on_click(click)
Map(layers=(layer,), center={centre!r}, zoom=16)
"""
Times = dict[str, list[float]]
"""Milliseconds by name."""


def make(folder: Path, count: int, size: int) -> Path:
    """Return the settings of the case in `folder`, made if it is not there."""
    file, side = folder / "case.yaml", size * bench_tiles.RESOLUTION
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists() or not load(file).paths.verified.exists():
        bench_tiles.make_case(folder, size)
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        values |= {"footprints": {"path": "footprints.gpkg"}, "jobs": {"idle": 60}}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        case = load(file)
        frame = made_up(count, side, case.verification)
        frame[["osm_type", "osm_id", "name", "building", "start_date", "geometry"]].to_file(folder / "footprints.gpkg")
        judgements = [Judgement(name, "existed", "ann", seconds=1.5) for name in frame["building_id"][:JUDGED]]
        case.paths.annotations.parent.mkdir(parents=True, exist_ok=True)
        AnnotationStore.of(case).save(*judgements)
        path = case.paths.verified
        path.parent.mkdir(parents=True, exist_ok=True)
        verification._write(frame[verification.COLUMNS], {}, path, None, layer_file(case))
        counts = {name: int((frame["verdict"] == name).sum()) for name in verification.VERDICTS}
        artifacts.write_manifest(path, step="verify", inputs={}, settings={}, parameters={}, code=[], counts=counts)
    display.make(load(file), "photo")
    (folder / "notebooks" / NOTEBOOK).unlink(missing_ok=True)  # the peer may have been saved into it
    return file


def made_up(count: int, side: float, thresholds: Verification) -> gpd.GeoDataFrame:
    """Return houses as `verify` writes them, with tags."""
    rng = np.random.default_rng(1937)
    move = np.array([bench_tiles.WEST - bench_verify.WEST, bench_tiles.NORTH - bench_verify.NORTH])
    houses = shapely.transform(bench_verify.make_houses(count, side), lambda xy: xy + move)
    probability = rng.beta(0.5, 0.5, count).round(4)
    number = np.arange(1, count + 1)
    sides = [probability >= thresholds.existed_from, probability <= thresholds.not_existed_to]
    verdict = np.select(sides, ["existed", "not_existed"], "unsure")
    columns = {
        "osm_type": "way", "osm_id": number, "building_id": [f"way/{one}" for one in number],
        "name": np.where(number % 50, None, "Hus"), "building": np.where(number % 3, "yes", "house"),
        "start_date": np.where(number % 9, None, "1931"), "verdict": verdict, "existed": verdict == "existed",
        "probability": probability, "confidence": np.maximum(probability, 1 - probability), "coverage": 1.0,
        "overlap": 1.0, "reason": "the photo shows it", "needs_verification": verdict == "unsure", "annotated": False,
        "model": "0123456789ab", "photo": "photo",
    }  # fmt: skip
    return gpd.GeoDataFrame(columns, geometry=houses, crs="EPSG:25832")


class Eye:
    """A person at the map, with a stopwatch in the page."""

    def __init__(self, lab: Lab, shots: Path | None) -> None:
        self.lab, self.page, self._shots = lab, lab.page, shots
        self._cdp = lab.page.context.new_cdp_session(lab.page)
        self._chance = random.Random(1937)
        self.page.evaluate(EYE)

    def cell(self, code: str | None = None) -> None:
        """Run the last cell, which may be given other code, with nothing shown from before."""
        self.lab.command("notebook:clear-all-cell-outputs")
        self._cdp.send("Network.clearBrowserCache")
        self.page.wait_for_timeout(1000)
        self.page.evaluate(
            """code => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                notebook.activeCellIndex = notebook.widgets.findLastIndex(one => one.model.type === 'code');
                if (code) notebook.activeCell.model.sharedModel.setSource(code);
            }""",
            code,
        )

    def opened(self, command: str) -> float:
        """Return the seconds from a command of JupyterLab until photo and buildings are on the screen."""
        self.cell()
        self.page.evaluate("() => eye.watch('', {tiles: null, drawn: 1})")
        self.lab.command(command)
        return max(dom for dom, _ in self._found().values()) / 1000

    def settle(self) -> None:
        """Wait until nothing moves any more."""
        self.page.evaluate("() => eye.watch('', {tiles: null})")
        self._found()
        self.page.wait_for_timeout(700)

    def zoom(self, wanted: int) -> None:
        """Zoom to a level by the buttons of the map."""
        while (now := self.page.evaluate("() => eye.zoom()")) != wanted:
            self.page.locator(f".hm-map .leaflet-control-zoom-{'in' if now < wanted else 'out'}").click()
            self.settle()

    def pan(self, zoom: int, rounds: int) -> Times:
        """Drag the map by half its width again and again."""
        self.zoom(zoom)
        found: Times = {}
        around = 2 ** max(0, zoom - PAN["far"])  # so that it stays on the photo
        at = self.page.locator(".hm-map").bounding_box()
        assert at is not None
        for number in range(rounds):
            side = 1 if (number + around // 2) // around % 2 else -1
            y = at["y"] + at["height"] / 2
            self.page.mouse.move(at["x"] + at["width"] * (0.5 + side / 4), y)
            self.page.mouse.down()
            self.page.mouse.move(at["x"] + at["width"] * (0.5 - side / 4), y - 60 * side, steps=12)
            self.page.wait_for_timeout(60)  # so it does not slide on
            self.page.evaluate("side => eye.watch('pointerup', {drawn: side, tiles: null})", side)
            self.page.mouse.up()
            self.add(found)
            self.page.wait_for_timeout(700)
        return found

    def judge(self, zoom: int, rounds: int, store: AnnotationStore) -> Times:
        """Click a building, and press E, again and again."""
        found: Times = {}
        for _ in range(rounds):
            self.zoom(max(zoom, JUDGE[1]))
            while not (place := self.pick(".hm-map path.hm-building:not(.hm-annotated, .hm-existed)", ".hm-map")):
                self.page.keyboard.press("Space")  # there is none in view: on to another place
                self.settle()
            self.page.evaluate("() => eye.watch('pointerup', {panel: eye.building() ?? ''})")
            self.page.mouse.click(*place)
            self.add(found)
            self.settle()
            self.zoom(zoom)
            building = self.page.evaluate("() => eye.building()")
            shapes = self.page.locator(".hm-map path.hm-building:not(.hm-changed)").count()
            found.setdefault("in view", []).append(shapes)
            self.page.evaluate("() => eye.watch('keydown', {recoloured: eye.chosen()})")
            self.page.keyboard.press("e")
            self.add(found)
            event = store.holding(building)
            found.setdefault("lost", []).append(float(event is None or event.verdict != "existed"))
            self.settle()
        return found

    def peer(self, rounds: int, folder: Path, frame: gpd.GeoDataFrame) -> Times:
        """Click a polygon of the peer, again and again."""
        shapes = frame.geometry.to_crs("EPSG:4326")
        x, y = (shapely.total_bounds(shapes.to_numpy()).reshape(2, 2).mean(axis=0)).tolist()
        (folder / "peer.geojson").write_text(frame[["number", "geometry"]].to_crs("EPSG:4326").to_json(), "utf-8")
        self.cell(PEER.format(path=str(folder / "peer.geojson"), centre=(y, x)))
        self.lab.command("notebook:run-cell")
        self.page.locator(".leaflet-container path.leaflet-interactive").first.wait_for(state="attached")
        self.page.evaluate("() => document.querySelector('.leaflet-container').scrollIntoView()")
        found: Times = {}
        for _ in range(rounds):
            self.page.wait_for_timeout(1500)
            place = self.pick(".leaflet-container path[fill='#aa0000']", ".leaflet-container")
            self.page.evaluate("place => eye.watch('pointerup', {peer: place})", place)
            self.page.mouse.click(*place)
            self.add(found)
        return found

    def memory(self) -> str:
        """Return what tab and kernel hold."""
        self._cdp.send("Performance.enable")
        self._cdp.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in self._cdp.send("Performance.getMetrics")["metrics"]}
        found = {"heap": metrics["JSHeapUsedSize"] / 1e6, "tab": 0.0, "kernel": 0.0}
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                kind = "tab" if "--type=renderer" in words else "kernel" if "ipykernel_launcher" in words else ""
                if kind:
                    found[kind] = max(found[kind], process.memory_info().rss / 1e6)
        return ", ".join(f"{name} {held:.0f}" for name, held in found.items())

    def tasks(self) -> str:
        """Return what long tasks there were since the last time."""
        tasks = self.page.evaluate("() => eye.tasks.splice(0)")
        return f"{len(tasks)} long tasks, {max(tasks, default=0):.0f} ms at most"

    def shot(self, name: str) -> None:
        """Keep a picture of the map, if wanted."""
        if self._shots:
            self.page.screenshot(path=self._shots / f"{name}.png")

    def pick(self, what: str, within: str) -> tuple[float, float] | None:
        """Return a place on one of some elements, any of those near the middle of another; None where there is none."""
        return self.page.evaluate("words => eye.pick(...words)", [what, within, self._chance.random()])

    def _found(self) -> dict[str, tuple[float, float]]:
        self.page.wait_for_function("() => eye.done", polling=50)
        return self.page.evaluate("() => eye.found")

    def add(self, found: Times) -> None:
        """Wait for what is watched, and add its times."""
        for name, (dom, painted) in self._found().items():
            found.setdefault(name, []).append(dom)
            found.setdefault(f"{name}, painted", []).append(painted)


def openings(eye: Eye, rounds: int) -> None:
    """Print how long the map takes to be there."""
    cold, imported, again = "all cells in a new kernel", "its cell, the others run", "its cell once more"
    found: Times = {cold: [], imported: [], again: []}
    for _ in range(rounds):
        eye.lab.restart()
        found[cold].append(eye.opened("notebook:run-all-cells"))
        eye.page.wait_for_timeout(3000)
        found[again].append(eye.opened("notebook:run-cell"))
        eye.lab.restart()
        eye.cell()
        eye.lab.command("notebook:run-all-above")
        eye.page.locator("[data-key=verdicts]").filter(has_text="existed").wait_for()
        eye.page.wait_for_timeout(5000)  # the status is read meanwhile
        found[imported].append(eye.opened("notebook:run-cell"))
    table("map on the screen [s]", found, 2)


def work(eye: Eye, rounds: int, store: AnnotationStore) -> float:
    """Print how long clicks, keys and pans take, and return the median of E at the last zoom."""
    eye.page.evaluate("() => document.querySelector('.hm-annotate').scrollIntoView()")
    eye.settle()
    eye.tasks()
    for name, zoom in PAN.items():
        found = eye.pan(zoom, rounds)
        eye.shot(name)
        table(f"pan at zoom {zoom}, {name} [ms]: {eye.tasks()}", found)
    for zoom in JUDGE:
        found = eye.judge(zoom, rounds, store)
        lost, shown = sum(found.pop("lost")), statistics.median(found.pop("in view"))
        table(f"click, E at zoom {zoom}, {shown:.0f} in view [ms]: {eye.tasks()}; not stored: {lost:.0f}", found)
    eye.shot("judged")
    _served(eye.page.evaluate("() => eye.served()"))
    return statistics.median(found["recoloured"])


def _served(tiles: list[tuple[float, float, float]]) -> None:
    """Print what the tiles took that came from the server, as the browser tells it."""
    busy, until = 0.0, 0.0
    for start, _, end in sorted(tiles):
        busy, until = busy + max(0.0, end - max(start, until)), max(until, end)
    print(f"photo tiles: {len(tiles)} from the server, {len(tiles) / busy * 1000:.0f} a second while any was awaited")
    waited, served = [end - start for start, _, end in tiles], [end - sent for _, sent, end in tiles]
    table("a tile, as the browser sees it [ms]", {"waiting in the browser too": waited, "from the request": served})


def table(title: str, found: Times, digits: int = 0) -> None:
    """Print medians and the worst."""
    print(title)
    for name, values in found.items():
        print(
            f"  {name:<28}{statistics.median(values):>8.{digits}f} median{max(values):>8.{digits}f} worst", flush=True
        )


def run(file: Path, config: Path, rounds: int, shots: Path | None) -> None:
    """Measure and print."""
    store = AnnotationStore.of(load(file))
    frame = gpd.read_file(file.parent / "footprints.gpkg", columns=["osm_id"]).rename(columns={"osm_id": "number"})
    middle = shapely.Point(*shapely.total_bounds(frame.geometry.to_numpy()).reshape(2, 2).mean(axis=0))
    near = frame.iloc[np.argsort(frame.distance(middle))[:POLYGONS]]
    with browser_at(chromium_path() or "") as browser, serving(file, config) as address:
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        eye = Eye(Lab(page, address, config, "bench").open(NOTEBOOK), shots)
        openings(eye, max(1, rounds // 6))
        eye.shot("opened")
        print(f"memory with the map open [MB]: {eye.memory()}")
        ours = work(eye, rounds, store)
        print(f"memory after all that [MB]: {eye.memory()}")
        eye.tasks()
        found = eye.peer(rounds, file.parent, near)
        table(f"ipyleaflet, {len(near)} polygons, click [ms]: {eye.tasks()}", found)
        print(f"  times slower than E at zoom {JUDGE[-1]}: {statistics.median(found['peer']) / ours:.1f}")
        print(*eye.lab.errors, sep="\n")


def main() -> None:
    """Make the case, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where the case is kept (default: nowhere)")
    parser.add_argument("--buildings", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=20_000, help="side of the photo in pixels; not far below this")
    parser.add_argument("--rounds", type=int, default=20, help="of each click, key and pan")
    parser.add_argument("--shots", type=Path, help="a folder for pictures of what was seen")
    options = parser.parse_args()
    if chromium_path() is None:
        print("map: left out, there is no Chromium")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve() / "bench_map"
        os.environ["HISTORYMAP_CACHE"] = str(folder / "cache")
        file = make(folder, options.buildings, options.size)
        run(file, Path(scratch) / "jupyter", options.rounds, options.shots)


if __name__ == "__main__":
    main()
