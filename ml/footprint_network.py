"""The footprint network: does the photo show a building that fits this outline, and if so, how far off does it lie?

It sees a crop of the photo in the frame of an outline (`chips`) and the signed distance to that outline: three levels
of two convolutions, pooled over the crop and over its middle. These means are the *embedding*, from which one layer
makes the logit of "a building fits" and another tells where that building lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from ml.chips import CHIP, CROP, NEAR
from ml.model import convolve_twice

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTHS = (32, 64, 96)
"""Channels of the three levels."""
EMBEDDING = 2 * WIDTHS[-1]
"""Numbers that tell one crop from another."""
FARTHEST = 1.5
"""Signed distances are cut off here, in units of `UNIT`."""
UNIT = 6.0
"""Pixels: the unit of the signed distance as the network sees it."""
FLAT = 4.0
"""Grey values: a crop with less contrast than this is not stretched any further."""
STRONG = 4.0
"""Standard deviations beyond which grey values are cut off: scratches and specks."""


class FootprintNetwork(nn.Module):
    """Crops (n, 2, CROP, CROP) to a logit (n), the embedding (n, `EMBEDDING`) and a shift (n, 3).

    The shift is that of the building from the outline, to the right and down in pixels of the crop, and the logarithm
    of its standard deviation. It means something only where a building is.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, dropout: float = 0.3) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        before = [8, *widths[:-1]]
        self.levels = nn.ModuleList(convolve_twice(a, b) for a, b in zip(before, widths, strict=True))
        self.dropout = dropout
        self.fits = nn.Linear(2 * widths[-1], 1)
        self.shift = nn.Linear(2 * widths[-1], 3)

    def forward(
        self, crops: torch.Tensor, source: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logit, embedding and shift; with a `source` of chance, some of the embedding is dropped out."""
        x = self.fold(crops)
        for index, level in enumerate(self.levels):
            x = level(functional.max_pool2d(x, 2) if index else x)
        quarter = x.shape[-1] // 4
        middle = x[:, :, quarter:-quarter, quarter:-quarter]
        embedding = torch.cat([x.mean((2, 3)), middle.mean((2, 3))], 1)
        kept = embedding if source is None else _dropped_out(embedding, self.dropout, source)
        return self.fits(kept)[:, 0], embedding, self.shift(embedding)


def _dropped_out(values: torch.Tensor, share: float, source: torch.Generator) -> torch.Tensor:
    """Return values with a share of them set to 0, by a source of one's own: PyTorch's own shares one with all."""
    kept = torch.rand(values.shape, generator=source, device=values.device) >= share
    return values * kept / (1 - share)


@dataclass(frozen=True)
class Augmentation:
    """How far crops are changed while a network learns; all but the shift are standard deviations.

    `shift` is in metres: that by which a map lies off the photo where it has been aligned. `far` of the crops are
    shifted by `far_shift` instead, from which the network learns where buildings lie, but not whether they fit.
    """

    turn: float = 0.1
    scale: float = 0.12
    own_turn: float = 0.03
    own_scale: float = 0.03
    shift: float = 0.4
    far: float = 0.2
    far_shift: float = 1.5
    blur: float = 2.0
    grain: float = 0.8
    gamma: float = 0.25


@dataclass(frozen=True)
class Crops:
    """What the network sees, and how far the photo is shifted in it (n x 2: right, down; pixels of the crop)."""

    pixels: torch.Tensor
    shift: torch.Tensor


def plain_crops(photo: torch.Tensor, distance: torch.Tensor, shift: torch.Tensor | None = None) -> Crops:
    """Return the crops of some chips as they are, or with the photo moved so that `shift` lies in the middle.

    Args:
        photo: grey values (n, CHIP, CHIP; uint8), 0 no data.
        distance: signed distances (n, CROP, CROP; int8).
        shift: right and down in pixels (n x 2).

    """
    shifted = torch.zeros(len(photo), 2, device=photo.device) if shift is None else shift
    if shift is None:
        edge = (CHIP - CROP) // 2
        grey = photo[:, edge:-edge, edge:-edge].float()
        known = (grey > 0).float()
    else:
        grey, known = _sampled(photo, _pixels(photo.device) + shifted[:, None, None])
    return Crops(_stacked(grey, known, distance.float() / NEAR), -shifted)


def augmented_crops(
    photo: torch.Tensor, distance: torch.Tensor, scale: torch.Tensor, how: Augmentation, source: torch.Generator
) -> Crops:
    """Return crops as another map and another film would have them; see `plain_crops`, and `Augmentation`.

    `scale` is the metres a pixel of each chip.
    """
    count, device = len(photo), photo.device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, device=device)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=source, device=device)

    mirror = torch.where(uniform(count, 2) < 0.5, -1.0, 1.0)  # noqa: PLR2004 - one in two
    both = _turned(normal(count) * how.turn, torch.exp(normal(count) * how.scale)) @ torch.diag_embed(mirror)
    own = _turned(normal(count) * how.own_turn, torch.exp(normal(count) * how.own_scale))
    reach = torch.where(uniform(count) < how.far, how.far_shift, how.shift) / scale
    shift = normal(count, 2) * reach[:, None]
    pixels = _pixels(device)
    outline = torch.einsum("nij,hwj->nhwi", both, pixels)
    size = both.det().abs().sqrt()
    grid = outline / (CROP / 2)
    signed = functional.grid_sample(
        distance[:, None].float() / NEAR, grid, padding_mode="border", align_corners=False
    )[:, 0] / size[:, None, None]  # fmt: skip
    grey, known = _sampled(photo, torch.einsum("nij,nhwj->nhwi", own, outline) + shift[:, None, None])
    grey = as_another_film(grey, how, source)
    # the building lies where the outline was before the shift: back through the transform, in pixels of this crop
    back = torch.linalg.solve(own @ both, -shift[..., None])[..., 0]
    return Crops(_stacked(grey, known, signed), back)


def _turned(angle: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _pixels(device: torch.device) -> torch.Tensor:
    """Return right and down of the pixels of a crop from its middle (CROP, CROP, 2)."""
    axis = torch.arange(CROP, device=device) + 0.5 - CROP / 2
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([right, down], -1)


def _sampled(photo: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return grey values, and how far they are known (0 to 1), at places (n, CROP, CROP, 2) from the middle."""
    known = (photo > 0).float()
    values = torch.stack([photo.float(), known], 1)
    grey, share = functional.grid_sample(values, places / (CHIP / 2), align_corners=False).unbind(1)
    return grey / share.clamp_min(1e-3), (share > 0.5).float()  # noqa: PLR2004 - half of it is known


def _stacked(grey: torch.Tensor, known: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Return what the network sees: grey against the crop's own mean and contrast, and the distance to the outline."""
    count = known.sum((1, 2), keepdim=True).clamp_min(1)
    mean = (grey * known).sum((1, 2), keepdim=True) / count
    contrast = (((grey - mean) * known).square().sum((1, 2), keepdim=True) / count).sqrt().clamp_min(FLAT)
    photo = ((grey - mean) / contrast * known).clamp(-STRONG, STRONG)
    return torch.stack([photo, (distance / UNIT).clamp(-FARTHEST, FARTHEST)], 1)


def as_another_film(grey: torch.Tensor, how: Augmentation, source: torch.Generator) -> torch.Tensor:
    """Return grey values (n, height, width) blurred, with another tone curve and with grain, some of it coarse."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, device=grey.device)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=source, device=grey.device)

    count = len(grey)
    cut = uniform(2)
    parts = []
    for part in torch.split(grey, max(1, math.ceil(count / 4))):  # each quarter of a batch is blurred in its own way
        strength = float(uniform(1))
        parts.append(_blurred(part, how.blur * strength) if strength > 0.25 else part)  # noqa: PLR2004 - as sharp as it is
    grey = torch.cat(parts)
    contrast = grey.std((1, 2), keepdim=True).clamp_min(FLAT)
    low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    gamma = torch.exp(normal(count, 1, 1) * how.gamma)
    grey = ((grey - low) / (high - low).clamp_min(1)).clamp_min(1e-4) ** gamma * (high - low)
    grain = normal(*grey.shape)
    if float(cut[0]) < 0.5:  # noqa: PLR2004 - half of the batches
        grain = _blurred(grain, 0.6 + 0.8 * float(cut[1]))
        grain = grain / grain.std()
    return grey + grain * contrast * uniform(count, 1, 1).square() * how.grain * 2


def _blurred(values: torch.Tensor, spread: float) -> torch.Tensor:
    """Return values (n, height, width) smoothed by a Gaussian of `spread` pixels."""
    reach = max(1, math.ceil(2.5 * spread))
    axis = torch.arange(-reach, reach + 1, device=values.device)
    kernel = torch.exp(-0.5 * (axis / spread) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(values[:, None], (reach, reach, reach, reach), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel.reshape(1, 1, 1, -1)), kernel.reshape(1, 1, -1, 1))[:, 0]
