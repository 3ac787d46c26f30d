"""How a footprint network learns: examples, batches of changed crops, and the two losses; and how it is asked.

An example is an outline with what it is: a *footprint*, which the photo shows with some probability, a *phantom*, where
nothing stands, or a *misfit*, an outline that fits no building. Whether a building fits is learned from all of them;
where it lies off the outline from those alone whose true place is known (painted towns).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from historymap_lib.errors import ModelError
from ml import runtime
from ml.chips import Chips
from ml.footprint_network import EMBEDDING, Augmentation, augmented_crops, plain_crops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ml.footprint_network import FootprintNetwork

FOOTPRINT, PHANTOM, MISFIT = range(3)
"""Kinds of examples."""
LOOSE = 1.2
"""Metres: an outline that is shifted farther on purpose is not asked whether it fits."""
SHIFT_SHARE = 0.1
"""Weight of the loss of the shift beside that of the fit."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises, before it falls as a cosine."""
MIRRORS = ((), (2,), (3,), (2, 3))
"""Axes of a crop along which it is mirrored: the answer is the mean over all four."""
ASKED = 256
"""Crops that are judged at once."""


@dataclass(frozen=True)
class Examples:
    """Outlines to learn from.

    Attributes:
        chips: what is seen of each.
        label: the probability that a building fits (n, float32).
        weight: how often each is drawn against others of its kind (n, float64).
        kind: `FOOTPRINT`, `PHANTOM` or `MISFIT` (n, int8).
        placed: whether the outline lies just where the photo shows the building (n, bool).

    """

    chips: Chips
    label: NDArray[np.float32]
    weight: NDArray[np.float64]
    kind: NDArray[np.int8]
    placed: NDArray[np.bool_]

    @classmethod
    def of(
        cls, kind: int, chips: Chips, label: NDArray[np.floating] | float, weight: NDArray[np.floating] | float = 1.0,
        *, placed: bool = False,
    ) -> Examples:  # fmt: skip
        """Return examples of one kind."""
        count = len(chips)
        return cls(
            chips,
            np.broadcast_to(np.asarray(label, np.float32), count).copy(),
            np.broadcast_to(np.asarray(weight, np.float64), count).copy(),
            np.full(count, kind, np.int8),
            np.full(count, placed),
        )

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Return all examples of several."""
        rest = (np.concatenate([getattr(part, name) for part in parts]) for name in list(cls.__annotations__)[1:])
        return cls(Chips.join([part.chips for part in parts]), *rest)


@dataclass(frozen=True)
class Plan:
    """How long and how fast a network learns; `shares` are those of footprints, phantoms and misfits in a batch."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    shares: tuple[float, float, float] = (0.55, 0.33, 0.12)
    augmentation: Augmentation = field(default_factory=Augmentation)
    learn_shift: bool = False
    seed: int = 0


def fit(
    network: FootprintNetwork, examples: Examples, plan: Plan, step: Callable[[float], None] | None = None
) -> FootprintNetwork:
    """Let a network learn, and return it ready to be asked; a plan always gives the same on the same machine.

    Args:
        network: on the device that is to compute.
        examples: what it learns from.
        plan: how long and how fast.
        step: is called after each step with its loss.

    Raises:
        ModelError: the loss is no number any more.

    """
    device = next(network.parameters()).device
    half = runtime.is_half("auto", device)
    source = torch.Generator(device).manual_seed(plan.seed)
    draw = _Draw(examples, plan, device)
    optimiser = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda number: rate_at(number / plan.steps))
    network.train()
    for number in range(plan.steps):
        batch = draw(number)
        crops = augmented_crops(batch.photo, batch.distance, batch.scale, plan.augmentation, source)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logit, _, shift = (part.float() for part in network(_laid_out(crops.pixels), source))
        near = (crops.shift.norm(dim=1) * batch.scale < LOOSE).float()
        losses = functional.binary_cross_entropy_with_logits(logit, batch.label, reduction="none")
        loss = (losses * near).sum() / near.sum().clamp_min(1)
        if plan.learn_shift:
            loss = loss + SHIFT_SHARE * _shift_loss(shift, crops.shift, (batch.placed * batch.label).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step is not None:
            step(float(loss.detach()))
    if not all(torch.isfinite(part).all() for part in network.parameters()):
        raise ModelError("the footprint network has run away while it learned; lower training.learning_rate")
    return network.eval()


def rate_at(position: float) -> float:
    """Return the share of the learning rate at a position (0 to 1) of a training: up, then down as a cosine."""
    if position < WARM_UP:
        return max(position / WARM_UP, 0.02)
    return float(0.5 * (1 + np.cos(np.pi * (position - WARM_UP) / (1 - WARM_UP))))


@torch.inference_mode()
def ask(
    network: FootprintNetwork, chips: Chips, *, shift: NDArray[np.float64] | None = None, mirrored: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return logit (n), embedding (n x `EMBEDDING`) and shift (n x 3) of each chip.

    They are means over four mirror images where `mirrored`, which is a little better and takes four times as long. The
    shift is east and north in metres, from the outline to the building, and its standard deviation in metres. Where a
    `shift` (n x 2: east, north; metres) is given, each outline is moved by it first.
    """
    device = next(network.parameters()).device
    half = runtime.is_half("auto", device)
    mirrors = MIRRORS if mirrored else MIRRORS[:1]
    network.eval()
    logit = np.zeros(len(chips), np.float32)
    embedding = np.zeros((len(chips), EMBEDDING), np.float32)
    seen = np.zeros((len(chips), 3), np.float32)
    middle = None if shift is None else torch.from_numpy(_in_frames(shift, chips.frames)).to(device)
    for first in range(0, len(chips), ASKED):
        part = slice(first, first + ASKED)
        photo, distance = (torch.from_numpy(values[part]).to(device) for values in (chips.photo, chips.distance))
        crops = plain_crops(photo, distance, None if middle is None else middle[part]).pixels
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            answers = [network(_laid_out(torch.flip(crops, axes) if axes else crops)) for axes in mirrors]
        logit[part] = _mean([one[0] for one in answers])
        embedding[part] = _mean([one[1] for one in answers])
        seen[part] = _mean([_unmirrored(one[2], axes) for one, axes in zip(answers, mirrors, strict=True)])
    return logit, embedding, _on_the_ground(seen, chips.frames)


def _laid_out(crops: torch.Tensor) -> torch.Tensor:
    """Return crops in the order of memory that convolutions like best."""
    return crops.contiguous(memory_format=torch.channels_last)


def _mean(answers: list[torch.Tensor]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = torch.stack(answers).float().mean(0).cpu().numpy()
    return mean


def _unmirrored(shift: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    sign = torch.tensor([-1.0 if 3 in axes else 1.0, -1.0 if 2 in axes else 1.0, 1.0], device=shift.device)  # noqa: PLR2004
    return shift * sign


def _on_the_ground(shift: NDArray[np.float32], frames: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return east, north and standard deviation (metres) of shifts to the right and down in pixels of their frames."""
    angle, scale = frames[:, 2], frames[:, 3]
    right, up = shift[:, 0] * scale, -shift[:, 1] * scale
    east, north = right * np.cos(angle) - up * np.sin(angle), right * np.sin(angle) + up * np.cos(angle)
    return np.stack([east, north, np.exp(np.clip(shift[:, 2], -5, 5)) * scale], axis=1).astype(np.float32)


def _in_frames(shift: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return to the right and down in pixels of their frames of shifts east and north (n x 2, metres)."""
    (east, north), angle, scale = shift.T, frames[:, 2], frames[:, 3]
    right, up = east * np.cos(angle) + north * np.sin(angle), north * np.cos(angle) - east * np.sin(angle)
    return np.stack([right / scale, -up / scale], axis=1).astype(np.float32)


def _shift_loss(shift: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the mean negative logarithm of a round normal density (Nix and Weigend 1994, ICNN)."""
    spread = shift[:, 2].clamp(-3, 4)
    square = (shift[:, :2] - truth).square().sum(1)
    loss = 0.5 * square * torch.exp(-2 * spread) + 2 * spread
    return (loss * weight).sum() / weight.sum().clamp_min(1)


@dataclass(frozen=True)
class _Batch:
    photo: torch.Tensor
    distance: torch.Tensor
    scale: torch.Tensor
    label: torch.Tensor
    placed: torch.Tensor


class _Draw:
    """Draws batches: so many of each kind, by weight."""

    def __init__(self, examples: Examples, plan: Plan, device: torch.device) -> None:
        self.device, self.seed = device, plan.seed
        self.examples = examples
        self.kinds = [np.flatnonzero((examples.kind == kind) & (examples.weight > 0)) for kind in range(3)]
        shares = np.array(plan.shares) * [len(which) > 0 for which in self.kinds]
        self.counts = np.round(plan.batch_size * shares / shares.sum()).astype(int)
        weights = [examples.weight[which] for which in self.kinds]
        self.ends = [np.cumsum(part) / part.sum() if len(part) else part for part in weights]
        on_device = device.type != "cpu"  # a GPU holds all chips, and cuts its batches there
        self.photo, self.distance = (torch.from_numpy(part) for part in (examples.chips.photo, examples.chips.distance))
        if on_device:
            self.photo, self.distance = self.photo.to(device), self.distance.to(device)

    def __call__(self, number: int) -> _Batch:
        """Return the batch of a step: the same for the same seed."""
        rng = np.random.default_rng([self.seed, number])
        drawn = [
            which[np.minimum(np.searchsorted(ends, rng.random(count)), len(which) - 1)]
            for which, ends, count in zip(self.kinds, self.ends, self.counts, strict=True)
            if count
        ]
        some = np.concatenate(drawn)
        index = torch.from_numpy(some).to(self.photo.device)
        examples = self.examples
        scale, label, placed = (
            torch.from_numpy(np.asarray(values[some], np.float32)).to(self.device)
            for values in (examples.chips.frames[:, 3], examples.label, examples.placed)
        )
        return _Batch(self.photo[index].to(self.device), self.distance[index].to(self.device), scale, label, placed)
