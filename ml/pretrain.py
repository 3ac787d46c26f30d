"""Make the weights that come with the package: a footprint network that has seen many towns, but none of yours.

    python -m ml.pretrain [--towns 64] [--steps 8000] [--roofs FOLDER] [--device auto]

It learns from painted towns (`historymap_lib.sample_varied`), each another place, sun, film and resolution, with their
truth, and from real roofs where a folder of them is given (pairs of NAME.tif and NAME.geojson). Beside the weights it
writes a model card. The same arguments on the same kind of machine give the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import torch

from historymap_lib import artifacts
from historymap_lib.misfits import make_misfits
from historymap_lib.phantoms import make_phantoms
from historymap_lib.progress import Bar
from historymap_lib.sample_varied import paint_varied
from historymap_lib.tiles import Grid
from historymap_lib.windows import burn
from ml import runtime
from ml.chips import cut_chips
from ml.footprint_network import FootprintNetwork
from ml.footprint_training import FOOTPRINT, MISFIT, PHANTOM, Examples, Plan, ask, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.windows import Window

WEIGHTS = Path(__file__).parent / "weights"
FIRST_TOWN = 1000
"""Seed of the first painted town; the sample town and the towns of tests have smaller ones."""
SIZES = (600.0, 700.0, 800.0)
"""Metres along the painted towns, in turn."""
STOOD = 0.6
"""Share of the footprints in a batch that stood."""
MARGIN = 3.0
"""Metres: outlines whose centre lies nearer to the edge of a photo are left out."""
STANDING = 0.25
"""A phantom that covers more of a building that the photo shows than this is none."""
ROOFS = 6.0
"""A folder of real roofs counts as so many painted towns for each of its photos."""
"""Painted towns that no network learns from: the last ones, which measure it."""
HELD_BACK = 4


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from one photo: outlines, and for painted towns the photo with a mask of what stands.

    `photo` and `mask` are (rows, columns) uint8; 0 in the photo is no data, 1 in the mask a building.
    """

    examples: Examples
    photo: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def paint_lesson(seed: int) -> Lesson:
    """Return what there is to learn from one painted town."""
    torch.set_num_threads(1)  # towns are made side by side
    town = paint_varied(seed, size_m=SIZES[seed % len(SIZES)])
    whole = shapely.box(0, 0, town.size, town.size)
    inside = shapely.within(shapely.centroid(town.seen_outlines), whole.buffer(-MARGIN))
    seen, stood = town.seen_outlines[inside], town.stood[inside]
    phantoms, _ = make_phantoms(seen, whole, most=len(seen), seed=seed)
    phantoms = phantoms[~_on_something(phantoms, np.concatenate([seen[stood], town.gone_outlines]))]
    misfits = make_misfits(seen[stood], most=int(0.8 * stood.sum()), seed=seed)[0]
    height, width = town.photo.shape
    grid = Grid(None, 0.0, town.size, town.resolution, width, height)  # type: ignore[arg-type] # no place on earth
    footprint_weight = np.where(stood, STOOD / max(1, stood.sum()), (1 - STOOD) / max(1, (~stood).sum()))
    examples = _examples(
        town.photo, grid, (seen, phantoms, misfits), stood.astype(np.float32), footprint_weight, placed=True
    )
    standing = np.concatenate([town.seen_outlines[town.stood], town.gone_outlines])
    return Lesson(examples, town.photo, burn(standing, None, town.photo.shape, grid.transform, np.uint8))


def examples_of_roofs(folder: Path) -> list[Examples]:
    """Return what there is to learn from photos with real roofs, all of which the photos show."""
    import rasterio  # noqa: PLC0415 - as below
    from pyproj import CRS  # noqa: PLC0415

    from historymap_lib.footprints import load  # noqa: PLC0415 - for those alone who have such a folder

    found = []
    for file in sorted(folder.glob("*.tif")):
        with rasterio.open(file) as dataset:
            photo, bounds, resolution = dataset.read(1), dataset.bounds, dataset.res
            crs = CRS.from_user_input(dataset.crs)
        photo = _square(photo, resolution)
        shapes = load(file.with_suffix(".geojson"), crs=crs, id_field="fid").frame.geometry.to_numpy()
        grid = Grid(crs, bounds.left, bounds.top, float(np.mean(resolution)), photo.shape[1], photo.shape[0])
        covered = _covered(photo > 0, grid)
        shapes = shapes[shapely.within(shapes, covered)]
        phantoms, _ = make_phantoms(shapes, covered, most=3 * len(shapes))
        misfits = make_misfits(shapes, most=2 * len(shapes))[0]
        found.append(_examples(photo, grid, (shapes, phantoms, misfits), 1.0, ROOFS / len(shapes), placed=False))
    return found


def _square(photo: NDArray[np.uint8], resolution: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the photo with pixels as high as they are wide, to a thousandth: rows are repeated or left out."""
    rows = round(photo.shape[0] * resolution[1] / np.mean(resolution))
    return photo[np.minimum((np.arange(rows) + 0.5) * photo.shape[0] // rows, photo.shape[0] - 1).astype(int)]


def _examples(
    photo: NDArray[np.uint8],
    grid: Grid,
    outlines: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    label: NDArray[np.float32] | float,
    weight: NDArray[np.floating] | float,
    *,
    placed: bool,
) -> Examples:
    def read(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rows = np.arange(window.height) + window.row_off
        columns = np.arange(window.width) + window.col_off
        values = photo[np.clip(rows, 0, grid.height - 1)[:, None], np.clip(columns, 0, grid.width - 1)]
        within = ((rows >= 0) & (rows < grid.height))[:, None] & (columns >= 0) & (columns < grid.width)
        return values, within & (values > 0)

    parts = []
    for kind, shapes in zip((FOOTPRINT, PHANTOM, MISFIT), outlines, strict=True):
        chips = cut_chips(read, grid, shapes)
        if kind == FOOTPRINT:
            parts.append(Examples.of(kind, chips, label, weight, placed=placed))
        elif len(chips):
            total = float(np.sum(parts[0].weight))
            parts.append(Examples.of(kind, chips, 0.0, total / len(chips)))
    return Examples.join(parts)


def _covered(known: NDArray[np.bool_], grid: Grid, step: int = 16) -> Any:
    """Return the area of the squares of `step` pixels in which the photo has data."""
    rows, columns = (size // step for size in known.shape)
    whole = known[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3)) > 0.9  # noqa: PLR2004
    row, column = np.nonzero(whole)
    side = step * grid.resolution
    west, north = grid.west + column * side, grid.north - row * side
    return shapely.union_all(shapely.box(west, north - side, west + side, north), grid_size=0.001)


def _on_something(phantoms: NDArray[Any], standing: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which phantoms lie on what stands in the photo."""
    found = np.zeros(len(phantoms), bool)
    if len(phantoms) and len(standing):
        one, other = shapely.STRtree(standing).query(phantoms, predicate="intersects")
        common = shapely.area(shapely.intersection(phantoms[one], standing[other]))
        smaller = np.minimum(shapely.area(phantoms[one]), shapely.area(standing[other]))
        found[one[common > STANDING * smaller]] = True
    return found


def pretrain(
    towns: int, steps: int, roofs: Path | None, device: torch.device, processes: int, *, seed: int = 0
) -> tuple[FootprintNetwork, dict[str, Any]]:
    """Return a network that has learned from many towns, and the figures for its card."""
    began = time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        made: list[Lesson] = []
        with Bar("towns", total=towns + HELD_BACK, unit="town") as bar:
            for lesson in pool.map(paint_lesson, range(FIRST_TOWN, FIRST_TOWN + towns + HELD_BACK)):
                made.append(lesson)
                bar.step()
    kept, measured = ([lesson.examples for lesson in part] for part in (made[:towns], made[towns:]))
    kept += [] if roofs is None else examples_of_roofs(roofs)
    examples = Examples.join(kept)
    seconds = time.monotonic() - began
    torch.manual_seed(seed)
    network = runtime.place(FootprintNetwork(), device)
    plan = Plan(steps, 256, 2e-3, shares=(0.55, 0.27, 0.18), learn_shift=True, seed=seed)
    with Bar("footprint network", total=steps, unit="step") as bar:
        fit(network, examples, plan, lambda loss: bar.step(f"loss {loss:.3f}"))
    figures = {
        "outlines": len(examples.chips),
        "roofs": [] if roofs is None else sorted(file.stem for file in roofs.glob("*.tif")),
        "held_back": [_measure(network, town) for town in measured],
        "seconds": {"towns": round(seconds), "network": round(time.monotonic() - began - seconds)},
    }
    return network, figures


def _measure(network: FootprintNetwork, town: Examples) -> dict[str, float]:
    """Return how well a network does on a town that it has not seen."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - takes a second, and is used here alone

    logit, _, shift = ask(network, town.chips)
    footprints, stood = town.kind == FOOTPRINT, town.label > 0.5  # noqa: PLR2004 - it is 0 or 1
    return {
        "buildings": int(footprints.sum()),
        "auc": round(float(roc_auc_score(stood[footprints], logit[footprints])), 4),
        "auc_with_misfits": round(float(roc_auc_score(stood, logit)), 4),
        "shift_metres": round(float(np.median(np.hypot(*shift[footprints & stood, :2].T))), 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towns", type=int, default=64, help="how many painted towns to learn from")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--roofs", type=Path, help="a folder of photos (.tif) with the roofs on them (.geojson)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that paint towns side by side")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    given = parser.parse_args(arguments)
    runtime.prepare()
    device = runtime.device(given.device)
    network, figures = pretrain(given.towns, given.steps, given.roofs, device, given.processes)
    state = {name: value.detach().cpu().half() if value.is_floating_point() else value.cpu() for name, value in network.state_dict().items()}
    file = given.output / "footprint.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.replacing(file) as partial:
        torch.save({"format": "historymap-footprint-weights-1", "state": state}, partial)
    card = {
        "command": f"python -m ml.pretrain --towns {given.towns} --steps {given.steps}" + (" --roofs ..." if given.roofs else ""),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        **figures,
    }
    artifacts.write_json(given.output / "footprint.json", card)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
