"""The U-Net (Ronneberger et al. 2015, arXiv 1505.04597), compact by widths or with the encoder resnet18.

Both take a grey photo as float32 (batch, 1, height, width), normalised by `normalise`, and give one logit a pixel in
the same shape. Height and width are multiples of 32. The resnet18 encoder (He et al. 2015, arXiv 1512.03385) has the
parameter names of torchvision's, so that the published weights load without torchvision.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import torch
from torch import nn

from historymap_lib.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from historymap_lib.settings import Model as ModelSettings

RESNET18_WEIGHTS = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
RESNET18_WIDTHS = (64, 64, 128, 256, 512)
RESNET18_STRIDE = 2
PRIOR = -2.0
"""Logit of the share of a town that is building, about one pixel in eight."""
MID, SPREAD = 0.5, 0.25
"""Grey values 0 to 255 are brought to about -2 to 2; fixed numbers, so a tile does not depend on its neighbours."""


def normalise(grey: torch.Tensor) -> torch.Tensor:
    """Return uint8 grey values as the floats that the model takes."""
    return (grey.float() / 255 - MID) / SPREAD


def build(settings: ModelSettings) -> nn.Module:
    """Return the network that the settings ask for, with fresh or with published weights.

    Raises:
        ModelError: `pretrained` is asked for and the weights cannot be had.
    """
    if settings.encoder == "widths":
        return UNet(_Widths(settings.widths, settings.stride), settings.widths, settings.stride)
    encoder = _ResNet18()
    if settings.pretrained:
        encoder.load_published()
    return UNet(encoder, RESNET18_WIDTHS, stride=2)


class UNet(nn.Module):
    """An encoder that gives features at falling resolution, and a decoder that joins them up again.

    Where the first features are coarser than the photo by `stride`, the head answers for every pixel of a cell at once
    (Shi et al. 2016, arXiv 1609.05158).
    """

    def __init__(self, encoder: nn.Module, widths: Sequence[int], stride: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.ModuleList(
            convolve_twice(deep + shallow, shallow) for deep, shallow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        last = nn.Conv2d(widths[0], stride**2, 1)
        nn.init.constant_(last.bias, PRIOR)  # type: ignore[arg-type] # else the first fifth of a training learns this
        self.head = nn.Sequential(last, nn.PixelShuffle(stride))

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """Return a logit a pixel."""
        *skips, x = self.encoder(grey)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skip], 1))
        logits: torch.Tensor = self.head(x)
        return logits


class _Widths(nn.Module):
    """The encoder of the first U-Net with batch norm: two convolutions a level, halved by max pooling.

    With a `stride` of 2 it first folds squares of 2 x 2 pixels into four channels: nothing is lost, and every layer
    costs a quarter, which on a CPU buys more than the sharper edge would (measured: see `Model.stride`).
    """

    def __init__(self, widths: Sequence[int], stride: int) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(stride)
        before = [stride**2, *widths[:-1]]
        self.levels = nn.ModuleList(convolve_twice(a, b) for a, b in zip(before, widths, strict=True))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.fold(x)
        features = []
        for index, level in enumerate(self.levels):
            x = level(nn.functional.max_pool2d(x, 2) if index else x)
            features.append(x)
        return features


class _ResNet18(nn.Module):
    """ResNet-18 without its head; features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Basic(64, 64, 1), _Basic(64, 64, 1))
        self.layer2 = nn.Sequential(_Basic(64, 128, 2), _Basic(128, 128, 1))
        self.layer3 = nn.Sequential(_Basic(128, 256, 2), _Basic(256, 256, 1))
        self.layer4 = nn.Sequential(_Basic(256, 512, 2), _Basic(512, 512, 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [torch.relu(self.bn1(self.conv1(x)))]
        x = nn.functional.max_pool2d(features[0], 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    def load_published(self) -> None:
        """Load the ImageNet weights; the first convolution's three colours are summed into one grey."""
        try:
            weights = torch.hub.load_state_dict_from_url(
                RESNET18_WEIGHTS, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # offline, or a damaged file
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"model.pretrained: the weights cannot be had from {RESNET18_WEIGHTS} ({reason}); go online once, put "
                f"the file into {torch.hub.get_dir()}/checkpoints, or set pretrained: false"
            ) from error
        weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
        weights["conv1.weight"] = weights["conv1.weight"].sum(1, keepdim=True)
        self.load_state_dict(weights)


class _Basic(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def convolve_twice(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
