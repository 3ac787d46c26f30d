"""How the workbench fares with a job that prints fast, and with a large case, in a real browser.

Run `python tests/benchmarks/bench_workbench.py [--lines 50000] [--tiles 10000] [--verdicts 100000]`. Needs Chromium.

A job prints so many lines within three seconds. It is watched in the log view, and, as the peer, printed by a cell of
the notebook itself, as people do it without us. Measured in the page: how long after it was written the last line is
shown, the longest task that kept the browser from answering, and how long a click waited. Then the cells of the
workbench are run on a case with so many tiles and verdicts, until all panels are shown.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "browser")]

from case_fixtures import lattice, make_case  # noqa: E402 - lie among the tests
from workbench_fixtures import Lab, browser_at, chromium_path, serving  # noqa: E402

from historymap_lib import artifacts, steps  # noqa: E402
from historymap_lib.jobs import Jobs  # noqa: E402
from historymap_lib.project import load  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PRINT = """
import sys, time
lines, start = {lines}, time.monotonic()
for number in range(lines):
    print(f"line {{number}} of the log of a job that prints fast", flush=number % 100 == 0)
    wait = start + 3 * number / lines - time.monotonic()
    if wait > 0.01:
        time.sleep(wait)
sys.stdout.flush()
open({told!r}, "w").write(str(time.time()))
"""
WATCH = """last => {
    window.seen = 0; window.tasks = []; window.waits = [];
    const note = list => window.tasks.push(...list.getEntries().map(one => one.duration));
    new PerformanceObserver(note).observe({type: 'longtask'});
    document.addEventListener('click', event => window.waits.push(performance.now() - event.timeStamp), true);
    const look = () => {
        const panes = document.querySelectorAll('.hm-log pre, .jp-OutputArea-output pre');
        if (!window.seen && [...panes].some(pane => pane.textContent.includes(last))) window.seen = Date.now() / 1000;
        setTimeout(look, 20);
    };
    look();
}"""


def watch(browser: Browser, folder: Path, lines: int, *, peer: bool) -> dict[str, Any]:
    """Print the lines as a job, or as the peer in a cell; return what was measured in the page."""
    file, told = _town(folder), folder / "told.txt"
    code = PRINT.format(lines=lines, told=str(told))
    with serving(file, folder / "jupyter") as address, browser.new_page() as page:
        lab = Lab(page, address, folder, "bench").open("workbench.ipynb").run_all()
        page.evaluate(WATCH, f"line {lines - 1} of")
        if peer:
            page.evaluate(
                """async code => {
                    const panel = window.jupyterapp.shell.currentWidget;
                    panel.content.activeCellIndex = panel.content.widgets.length - 1;
                    panel.content.activeCell.model.sharedModel.setSource(code);
                    window.jupyterapp.commands.execute('notebook:run-cell');
                }""",
                code,
            )
        else:
            Jobs(load(file)).submit_command("fast", [sys.executable, "-c", code])
        until = time.monotonic() + 300
        while not page.evaluate("() => window.seen") and time.monotonic() < until:
            lab.form("generate training").locator("summary").click(timeout=300_000)
            page.wait_for_timeout(200)
        result: dict[str, Any] = page.evaluate("() => ({seen: window.seen, tasks: window.tasks, waits: window.waits})")
    return {
        "way": "print in a cell" if peer else "log view",
        "last line after [s]": result["seen"] - float(told.read_text()),
        "longest task [ms]": max(result["tasks"], default=0.0),
        "longest wait of a click [ms]": max(result["waits"]),
    }


def open_large(browser: Browser, folder: Path, tiles: int, verdicts: int) -> dict[str, Any]:
    """Return the seconds until all panels of a large case are shown, at first and again."""
    file = _town(folder)
    case = load(file)
    steps.run(case, "generate-training", tiles=4)
    _grow(case.paths.training, tiles)
    _judge(case.paths.verified, verdicts)
    found = []
    with serving(file, folder / "jupyter") as address, browser.new_page() as page:
        lab = Lab(page, address, folder, "bench").open("workbench.ipynb")
        for _ in range(2):
            start = time.perf_counter()
            lab.run_all()
            page.locator("[data-key=verdicts]").filter(has_text=f"{verdicts:,} existed").wait_for()
            found.append(time.perf_counter() - start)
            lab.restart()
    return {"tiles": tiles, "verdicts": verdicts, "first [s]": found[0], "again [s]": found[1]}


def _town(folder: Path) -> Path:
    return make_case(folder, dict(list(lattice().items())[:30]), tiles={"count": 4}, jobs={"idle": 60})


def _grow(training: Path, count: int) -> None:
    """Copy one tile until there are `count`, with what the manifest says of them."""
    name = min(path.stem for path in (training / "images").iterdir())
    parts = [path for part in training.iterdir() if part.is_dir() for path in part.glob(f"{name}.*")]
    data = {path: path.read_bytes() for path in parts}
    for number in range(count):
        for path, content in data.items():
            path.with_stem(f"tile_9{number // 100:04d}_{number % 100:04d}").write_bytes(content)
    manifest = artifacts.read_manifest(training) or {}
    artifacts.write_json(artifacts.manifest_path(training), {**manifest, "tiles": count})


def _judge(path: Path, count: int) -> None:
    """Write that many verdicts, and a manifest that counts them."""
    ring = [[10.0, 63.0], [10.1, 63.0], [10.1, 63.1], [10.0, 63.0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    features = [{**feature, "properties": {"osm_id": number, "verdict": "existed"}} for number in range(count)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    counts = {"existed": count, "not_existed": 0, "unsure": 0, "no_coverage": 0}
    artifacts.write_manifest(path, step="verify", inputs={}, settings={}, parameters={}, code=[], counts=counts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--verdicts", type=int, default=100_000)
    options = parser.parse_args()
    program = chromium_path()
    if program is None:
        print("workbench: left out, there is no Chromium")
        return
    with tempfile.TemporaryDirectory() as folder, browser_at(program) as browser:
        rows = [watch(browser, Path(folder) / str(peer), options.lines, peer=peer) for peer in (False, True)]
        large = open_large(browser, Path(folder) / "large", options.tiles, options.verdicts)
    print(f"\n{options.lines:,} lines in 3 s")
    for row in rows:
        print(
            "  ".join(
                f"{name} {value:.2f}" if isinstance(value, float) else f"{value:<16}" for name, value in row.items()
            )
        )
    print(f"{large['tiles']:,} tiles, {large['verdicts']:,} verdicts: on the screen after {large['first [s]']:.2f} s, "
          f"with a new kernel {large['again [s]']:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
