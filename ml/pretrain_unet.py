"""Pretrain the compact U-Net on painted towns: crops of their photos, turned, zoomed and on other films."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from ml import runtime
from ml.footprint_network import Augmentation, as_another_film
from ml.footprint_training import rate_at
from ml.model import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import nn

CROP = 256
"""Pixels along a crop."""
ZOOM = 0.35
"""Standard deviation of the logarithm by which crops are zoomed: a case has its own resolution."""


def fit_unet(
    network: nn.Module,
    towns: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    steps: int,
    *,
    batch_size: int = 8,
    learning_rate: float = 3e-3,
    seed: int = 0,
    step: Callable[[float], None] | None = None,
) -> nn.Module:
    """Let a U-Net learn from photos and masks (uint8, of one shape each), and return it ready to be asked.

    `step` is called after each step with its loss.
    """
    device = next(network.parameters()).device
    half = runtime.is_half("auto", device)
    source = torch.Generator(device).manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda number: rate_at(number / steps))
    network.train()
    for number in range(steps):
        photo, mask, known = _batch(towns, batch_size, np.random.default_rng([seed, number]), device)
        grey = as_another_film(photo, Augmentation(blur=1.2), source) * known
        crops = normalise(grey)[:, None].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = network(crops)[:, 0]
        losses = functional.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
        loss = (losses * known).sum() / known.sum().clamp_min(1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step is not None:
            step(float(loss.detach()))
    return network.eval()


def _batch(
    towns: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    size: int,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return photo, mask and where both are known of random crops (size, CROP, CROP; float32)."""
    found = []
    for index in rng.integers(0, len(towns), size):
        photo, mask = towns[index]
        angle, zoom = rng.uniform(0, 2 * np.pi), np.exp(rng.normal(0, ZOOM))
        height, width = photo.shape
        reach = CROP * zoom * 0.75  # of a turned square from its middle, about
        row, column = (rng.uniform(min(reach, side / 2), max(side - reach, side / 2)) for side in (height, width))
        top, left = max(0, int(row - reach)), max(0, int(column - reach))
        part = np.s_[top : int(row + reach) + 1, left : int(column + reach) + 1]
        seen = photo[part] > 0
        values = torch.from_numpy(np.stack([photo[part], seen, mask[part] * seen]).astype(np.float32)).to(device)
        mirror = 1 if rng.random() < 0.5 else -1  # noqa: PLR2004 - one in two
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.diag([zoom * mirror, zoom])
        scale = np.array([CROP / values.shape[2], CROP / values.shape[1]])
        middle = np.array([(column - left) / values.shape[2], (row - top) / values.shape[1]]) * 2 - 1
        matrix = np.concatenate([turn * scale[:, None], middle[:, None]], axis=1)
        grid = functional.affine_grid(
            torch.tensor(matrix[None], dtype=torch.float32, device=device), [1, 1, CROP, CROP], align_corners=False
        )
        found.append(functional.grid_sample(values[None], grid, align_corners=False)[0])
    grey, share, building = torch.stack(found).unbind(1)
    known = (share > 0.5).float()  # noqa: PLR2004 - half of it is known
    return grey / share.clamp_min(1e-3), building / share.clamp_min(1e-3), known
