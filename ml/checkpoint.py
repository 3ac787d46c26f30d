"""The file of a trained model: written whole, read without running code from it, and checked."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from historymap_lib import artifacts
from historymap_lib.errors import ModelError
from historymap_lib.settings import Model as ModelSettings
from historymap_lib.tiles import Folds
from ml.footprint_network import FootprintNetwork
from ml.model import build

if TYPE_CHECKING:
    from torch import nn

FORMAT = "historymap-model-1"
WEIGHTS = Path(__file__).parent / "weights"
"""What comes with the package; `ml.pretrain` makes it."""
OUTLINES, PIXELS = "footprint.pth", "unet.pth"
"""Names of the weights of the footprint network and of the U-Net."""
WEIGHTS_FORMAT = "historymap-weights-1"


@dataclass(frozen=True)
class TrainedModel:
    """The members of a model, ready to predict: member k has not learned from fold k.

    `outlines` are the footprint networks, one a fold like `members`, or none where they have not been fine-tuned.
    """

    members: list[nn.Module]
    folds: Folds
    resolution: float
    settings: ModelSettings
    metrics: dict[str, Any]
    outlines: list[FootprintNetwork] = field(default_factory=list)


def save_model(
    path: Path,
    *,
    states: list[dict[str, torch.Tensor]],
    folds: Folds,
    resolution: float,
    settings: ModelSettings,
    metrics: dict[str, Any],
    outlines: list[dict[str, torch.Tensor]] | None = None,
) -> None:
    """Write a model.

    `states` are the weights of its members, one a fold, or one alone, `outlines` those of its footprint networks.
    """
    content = {
        "format": FORMAT,
        "states": states,
        "folds": {"count": folds.count, "side": folds.side, "west": folds.west, "north": folds.north},
        "resolution": resolution,
        "settings": settings.model_dump(mode="json"),
        "metrics": metrics,
        "outlines": outlines or [],
    }
    with artifacts.replacing(path) as partial:
        torch.save(content, partial)


def load_model(path: Path) -> TrainedModel:
    """Read a model for predicting on the CPU.

    Raises:
        ModelError: there is none, or the file is damaged or something else.
    """
    content = read_checkpoint(path, FORMAT, "run train first")
    try:
        settings = ModelSettings.model_validate(content["settings"] | {"pretrained": False})
        members = []
        for state in content["states"]:
            member = build(settings)
            member.load_state_dict(state)
            members.append(member.eval())
        outlines = [_footprint_network(state) for state in content.get("outlines", ())]
        folds, resolution = Folds(**content["folds"]), float(content["resolution"])
        return TrainedModel(members, folds, resolution, settings, content["metrics"], outlines)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: is a model of another version; run train again") from error


def begin_unet(settings: ModelSettings) -> nn.Module:
    """Return the U-Net that a training begins with: that of the package for the default settings, else a new one.

    Raises:
        ModelError: published weights are asked for and cannot be had, or those of the package are missing or damaged.

    """
    network = build(settings)
    if settings == ModelSettings():
        network.load_state_dict(shipped(PIXELS))
    return network


def footprint_network() -> FootprintNetwork:
    """Return the footprint network that comes with the package, on the CPU.

    Raises:
        ModelError: its file is missing or damaged.

    """
    return _footprint_network(shipped(OUTLINES))


def shipped(name: str) -> dict[str, torch.Tensor]:
    """Return weights that come with the package, as float32.

    Raises:
        ModelError: the file is missing or damaged.

    """
    content = read_checkpoint(WEIGHTS / name, WEIGHTS_FORMAT, "install historymap again")
    return {key: value.float() if value.is_floating_point() else value for key, value in content["state"].items()}


def save_weights(path: Path, network: nn.Module) -> None:
    """Write the weights of a network for the package, as float16: half the size, and the same to four digits."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.replacing(path) as partial:
        torch.save({"format": WEIGHTS_FORMAT, "state": halved}, partial)


def _footprint_network(state: dict[str, torch.Tensor]) -> FootprintNetwork:
    network = FootprintNetwork()
    network.load_state_dict(state)
    return network.eval()


def read_checkpoint(path: Path, kind: str, otherwise: str) -> dict[str, Any]:
    """Return the content of a file written by torch.save, if it is of this kind; no code in it is run.

    Raises:
        ModelError: there is no such file, or it is damaged or something else.
    """
    if not path.exists():
        raise ModelError(f"{path}: there is no model; {otherwise}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself overlooks damage to the weights
            whole = archive.testzip() is None
        content = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except Exception as error:  # a damaged file can make zipfile and pickle raise nearly anything
        raise ModelError(f"{path}: is no model that historymap can read; {otherwise}") from error
    if not whole:
        raise ModelError(f"{path}: is damaged; {otherwise}")
    if not isinstance(content, dict) or content.get("format") != kind:
        raise ModelError(f"{path}: is no model of historymap; {otherwise}")
    return content
