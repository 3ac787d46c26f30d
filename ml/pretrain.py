"""Make the weights that come with the package: networks that have seen many towns, but none of yours.

    python -m ml.pretrain [--towns 64] [--steps 8000] [--unet-steps 3000] [--roofs FOLDER] [--only footprint]

The footprint network learns from painted towns, each another place, sun, film and resolution, and from real roofs where
a folder of them is given (`lessons`); the U-Net learns from the painted towns. Beside the weights of each it writes a
model card, and one text for people on both (`weights_card`). The same arguments on the same kind of machine give the
same weights.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from historymap_lib.progress import Bar
from historymap_lib.settings import Model
from ml import runtime
from ml.checkpoint import OUTLINES, PIXELS, WEIGHTS
from ml.chips import Chips
from ml.footprint_network import FootprintNetwork
from ml.footprint_training import FOOTPRINT, Examples, Plan, ask, fit
from ml.lessons import SIZES, examples_of_roofs, paint_lessons
from ml.loss import BestIou
from ml.model import build, normalise
from ml.pretrain_unet import fit_unet
from ml.weights_card import write_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ml.lessons import Lesson

HELD_BACK = 4
"""Painted towns that no network learns from: the last ones, which measure it."""
OFF = 1.0
"""Metres: how far buildings lie off their outlines where it is measured how well a footprint network sees that."""
MEASURED = 1024
"""Pixels along the part of a held-back town that a U-Net is measured on."""


def pretrain_footprint(
    lessons: Sequence[Lesson], roofs: Sequence[Examples], steps: int, device: torch.device
) -> tuple[FootprintNetwork, dict[str, Any]]:
    """Return a footprint network that has learned from many towns, and the figures for its card.

    Args:
        lessons: of painted towns; the last `HELD_BACK` measure it.
        roofs: real ones.
        steps: of learning.
        device: that computes.

    """
    began = time.monotonic()
    examples = Examples.join([*(lesson.examples for lesson in lessons[:-HELD_BACK]), *roofs])
    torch.manual_seed(0)
    network = runtime.place(FootprintNetwork(), device)
    plan = Plan(steps, 256, 2e-3, shares=(0.55, 0.27, 0.18), learn_shift=True)
    with Bar("footprint network", total=steps, unit="step") as bar:
        fit(network, examples, plan, lambda loss: bar.step(f"loss {loss:.3f}"))
    return network, {
        "outlines": len(examples.chips),
        "seconds": round(time.monotonic() - began),
        "held_back": [_measure(network, lesson.examples) for lesson in lessons[-HELD_BACK:]],
    }


def pretrain_unet(lessons: Sequence[Lesson], steps: int, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Return a U-Net that has learned from many towns, and the figures for its card; see `pretrain_footprint`."""
    began = time.monotonic()
    torch.manual_seed(0)
    network = runtime.place(build(Model()), device)
    towns = [(lesson.photo, lesson.mask) for lesson in lessons[:-HELD_BACK]]
    with Bar("U-Net", total=steps, unit="step") as bar:
        fit_unet(network, towns, steps, step=lambda loss: bar.step(f"loss {loss:.3f}"))
    return network, {
        "pixels": sum(photo.size for photo, _ in towns),
        "seconds": round(time.monotonic() - began),
        "held_back": [_measure_unet(network, lesson) for lesson in lessons[-HELD_BACK:]],
    }


def _measure(network: FootprintNetwork, town: Examples) -> dict[str, float]:
    """Return how well a network does on a town that it has not seen."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - takes a second, and is used here alone

    logit = ask(network, town.chips)[0]
    footprints, stood = town.kind == FOOTPRINT, town.label > 0.5  # noqa: PLR2004 - it is 0 or 1
    return {
        "buildings": int(footprints.sum()),
        "auc": round(float(roc_auc_score(stood[footprints], logit[footprints])), 4),
        "auc_with_misfits": round(float(roc_auc_score(stood, logit)), 4),
        "shift_metres": round(_measure_shift(network, town.chips.take(footprints & stood)), 2),
    }


def _measure_shift(network: FootprintNetwork, chips: Chips) -> float:
    """Return the median error (metres) of where a network sees buildings that lie `OFF` to a side of their outline."""
    _, _, angle, scale = chips.frames.T
    direction = np.random.default_rng(0).uniform(0, 2 * np.pi, len(chips))
    pixels = np.round(OFF / scale[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=1)).astype(int)
    photo = np.stack(
        [np.roll(one, (down, right), (0, 1)) for one, (right, down) in zip(chips.photo, pixels, strict=True)]
    )
    found = ask(network, Chips(photo, chips.distance, chips.frames))[2]
    right, up = pixels[:, 0] * scale, -pixels[:, 1] * scale
    east, north = right * np.cos(angle) - up * np.sin(angle), right * np.sin(angle) + up * np.cos(angle)
    return float(np.median(np.hypot(found[:, 0] - east, found[:, 1] - north)))


@torch.inference_mode()
def _measure_unet(network: nn.Module, town: Lesson) -> dict[str, float]:
    """Return how well a U-Net finds the pixels of what stands in the middle of a town that it has not seen."""
    device = next(network.parameters()).device
    sides = [min(MEASURED, length // 32 * 32) for length in town.photo.shape]
    top, left = ((length - side) // 2 for length, side in zip(town.photo.shape, sides, strict=True))
    part = np.s_[top : top + sides[0], left : left + sides[1]]
    grey = torch.from_numpy(town.photo[part]).to(device)
    probability = torch.sigmoid(network(normalise(grey)[None, None]).float())[0, 0].cpu().numpy()
    measure = BestIou()
    measure.add(probability, np.where(town.photo[part] > 0, town.mask[part], 255))
    return {"pixels": int(probability.size), "iou": round(measure.value()[0], 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write weights and cards."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    runtime.prepare()
    device = runtime.device(given.device)
    roofs = examples_of_roofs(given.roofs) if given.roofs else []
    began = time.monotonic()
    lessons = paint_lessons(given.towns + HELD_BACK, given.processes, given.metres or SIZES)
    facts = {
        "command": shlex.join(["python", "-m", "ml.pretrain", *_without_paths(arguments)]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "towns": given.towns,
        "towns_seconds": round(time.monotonic() - began),
    }
    if given.only != "unet":
        network, figures = pretrain_footprint(lessons, roofs, given.steps, device)
        figures["roofs"] = sorted(file.stem for file in given.roofs.glob("*.tif")) if given.roofs else []
        write_weights(given.output / OUTLINES, network, facts | {"steps": given.steps} | figures)
    if given.only != "footprint":
        unet, figures = pretrain_unet(lessons, given.unet_steps, device)
        write_weights(given.output / PIXELS, unet, facts | {"steps": given.unet_steps} | figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towns", type=int, default=64, help="how many painted towns to learn from")
    parser.add_argument("--metres", type=float, nargs="+", help="along the painted towns, in turn")
    parser.add_argument("--steps", type=int, default=8000, help="of the footprint network")
    parser.add_argument("--unet-steps", type=int, default=3000, help="of the U-Net")
    parser.add_argument("--only", choices=["footprint", "unet"], help="make the weights of one network alone")
    parser.add_argument(
        "--roofs", type=Path, help="a folder of photos (NAME.tif) with the roofs on them (NAME.geojson)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that paint towns side by side")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="the folder of weights and cards")
    return parser


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the name of a folder in place of its path: where it lay here is of no use to others."""
    return [Path(one).name if os.sep in one else one for one in arguments]


if __name__ == "__main__":
    main()
