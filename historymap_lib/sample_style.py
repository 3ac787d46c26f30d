"""What makes one painted town unlike another: how it is built, its ground, its light, its film, and how it is mapped.

`sample` paints one kind of town; networks that shall read any photo learn on many kinds (`sample_varied`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, radians, sin
from typing import TYPE_CHECKING

import numpy as np

from historymap_lib.errors import HistorymapError
from historymap_lib.sample_buildings import chance

if TYPE_CHECKING:
    from historymap_lib.sample_buildings import Rng

Odds = Mapping[str, float]

SEASONS = {"summer": 1.0, "dry": 1.2, "wet": 0.8, "winter": 1.0}  # by what the tones of the ground are multiplied
SOFTEST = 0.5  # metres of blur that a poor film adds at most


class StyleError(HistorymapError):
    """There is no such region."""


@dataclass(frozen=True)
class Fabric:
    """How a town is built.

    `quarters` are the odds of each way to fill a block, `density` buildings of today a km2, `storeys` the range of
    floors, `roofs` the odds of each kind of roof, `brightness` what all their tones are multiplied by, `patchwork` the
    share of roofs with parts unlike each other, `roof_clutter` the share of what lies and stands on flat roofs, `stood`
    the share of today's buildings that the photo shows.
    """

    quarters: Odds
    density: float
    storeys: tuple[float, float]
    roofs: Odds
    brightness: float
    patchwork: float
    roof_clutter: float
    stood: float


@dataclass(frozen=True)
class Soil:
    """What the ground looks like.

    `gain`, `spread` and `mottle` are factors of its tones, their range and their unevenness; `litter` (small things
    that lie about), `lookalikes` (what is bright and rectangular and no building) and `trees` are factors of how much
    there is; `crown` is a kind of tree of `sample_camera.CROWNS`, `overhang` the share of a crown's radius that stays
    off the walls, `street` the mean reflectance of streets, `season` one of `SEASONS`.
    """

    season: str
    gain: float
    spread: float
    mottle: float
    litter: float
    lookalikes: float
    trees: float
    crown: str
    overhang: float
    street: float


@dataclass(frozen=True)
class Light:
    """Where the light comes from, and from where the camera looks.

    `azimuth` (from the north) and `elevation` of the sun in degrees, `skylight` the share of the light that comes from
    the sky (1: overcast), `lean` the metres to the east and the north by which a metre of height is displaced.
    """

    azimuth: float
    elevation: float
    skylight: float
    lean: tuple[float, float]

    @property
    def sun(self) -> tuple[float, float, float]:
        """Return the unit vector to the sun: east, north, up."""
        azimuth, height = radians(self.azimuth), radians(self.elevation)
        return sin(azimuth) * cos(height), cos(azimuth) * cos(height), sin(height)


@dataclass(frozen=True)
class Film:
    """Camera, film and scan.

    `resolution` in metres a pixel, `blur` and `grain_size` in pixels (standard deviations), `grain` in grey levels,
    `gamma` of the tone curve, `mean` and `contrast` (about a standard deviation) in grey levels, `vignette` and
    `uneven` as shares of the brightness, `sharpen` the strength of the halo, `scratches` a factor, `seam` whether two
    strips meet, `blocking` the step in grey levels by which 8 x 8 blocks are compressed (0: not at all).
    """

    resolution: float
    blur: float
    grain: float
    grain_size: float
    gamma: float
    mean: float
    contrast: float
    vignette: float
    uneven: float
    sharpen: float
    scratches: float
    seam: bool
    blocking: float


@dataclass(frozen=True)
class Style:
    """Everything that makes a town look as it does; `sway` and `jitter` are how far off the map is, in metres."""

    region: str
    fabric: Fabric
    soil: Soil
    light: Light
    film: Film
    sway: float
    jitter: float


@dataclass(frozen=True)
class Region:
    """What towns of a part of the world have in common: odds, and ranges to draw from."""

    quarters: Odds
    roofs: Odds
    density: tuple[float, float]
    storeys: tuple[float, float]
    trees: tuple[float, float]
    crowns: tuple[str, ...]
    gain: tuple[float, float]


REGIONS: dict[str, Region] = {
    "north": Region(
        {"villas": 0.46, "mixed": 0.16, "rows": 0.1, "slabs": 0.06, "centre": 0.1, "hamlet": 0.12},
        {"tile": 0.4, "slate": 0.3, "tin": 0.12, "felt": 0.1, "thatch": 0.03, "concrete": 0.05},
        (700, 1100), (1, 2.5), (0.4, 1.4), ("round", "round", "bare"), (0.85, 1.2),
    ),
    "valley": Region(
        {"quarter": 0.62, "compounds": 0.22, "slabs": 0.05, "centre": 0.05, "shanty": 0.06},
        {"concrete": 0.45, "tin": 0.24, "tile": 0.2, "unfinished": 0.07, "slate": 0.04},
        (2200, 5500), (1, 4.5), (0.1, 0.5), ("round", "round", "bare"), (0.65, 1.1),
    ),
    "tropics": Region(
        {"hamlet": 0.5, "compounds": 0.25, "rows": 0.06, "villas": 0.09, "shanty": 0.1},
        {"tin": 0.62, "thatch": 0.14, "concrete": 0.1, "tile": 0.08, "unfinished": 0.06},
        (600, 1600), (1, 1.4), (1.0, 2.6), ("palm", "palm", "round"), (0.75, 1.1),
    ),
    "estates": Region(
        {"slabs": 0.4, "rows": 0.3, "compounds": 0.12, "villas": 0.18},
        {"tin": 0.34, "concrete": 0.24, "tile": 0.34, "felt": 0.08},
        (700, 1400), (1, 4.5), (0.3, 1.0), ("round", "palm"), (0.75, 1.1),
    ),
    "medina": Region(
        {"quarter": 0.6, "compounds": 0.3, "hamlet": 0.1},
        {"concrete": 0.75, "tile": 0.15, "unfinished": 0.06, "tin": 0.04},
        (1800, 3800), (1, 3), (0.05, 0.4), ("round", "palm"), (1.0, 1.4),
    ),
    "shanty": Region(
        {"shanty": 0.66, "compounds": 0.2, "rows": 0.07, "quarter": 0.07},
        {"tin": 0.86, "concrete": 0.08, "tile": 0.03, "unfinished": 0.03},
        (2200, 4800), (1, 1.3), (0.1, 0.8), ("round", "palm"), (0.75, 1.25),
    ),
    "works": Region(
        {"industry": 0.4, "rows": 0.22, "slabs": 0.13, "villas": 0.18, "quarter": 0.07},
        {"felt": 0.3, "tin": 0.34, "tile": 0.26, "slate": 0.1},
        (600, 1100), (1, 3), (0.2, 0.8), ("round", "bare"), (0.8, 1.2),
    ),
    "country": Region(
        {"hamlet": 0.7, "compounds": 0.1, "villas": 0.2},
        {"tile": 0.4, "thatch": 0.26, "tin": 0.2, "slate": 0.14},
        (250, 600), (1, 2), (0.8, 2.0), ("round", "round", "bare"), (0.8, 1.2),
    ),
}  # fmt: skip


def draw_style(rng: Rng, region: str | None = None) -> Style:
    """Return a style of a region of `REGIONS`, of any where none is named; raises StyleError where there is none."""
    name = str(rng.choice(list(REGIONS))) if region is None else region
    if name not in REGIONS:
        raise StyleError(f"There is no region {name!r} to paint a town of; choose one of {', '.join(REGIONS)}.")
    common = REGIONS[name]
    return Style(
        name,
        _draw_fabric(rng, common),
        _draw_soil(rng, common),
        _draw_light(rng),
        _draw_film(rng),
        sway=float(rng.choice([0.3, 0.8, 1.6]) * rng.uniform(0.6, 1.3)),
        jitter=float(rng.uniform(0.08, 0.4)),
    )


def _draw_fabric(rng: Rng, common: Region) -> Fabric:
    other = common if chance(rng, 0.65) else REGIONS[str(rng.choice(list(REGIONS)))]  # now and then roofs of elsewhere
    return Fabric(
        quarters=_shaken(rng, common.quarters),
        density=_log_uniform(rng, *common.density),
        storeys=(common.storeys[0], float(rng.uniform(common.storeys[0] + 0.3, common.storeys[1] + 0.3))),
        roofs=_shaken(rng, other.roofs),
        brightness=float(rng.uniform(0.7, 1.25)),
        patchwork=float(rng.uniform(0.1, 0.7)),
        roof_clutter=float(rng.uniform(0.2, 1.0)),
        stood=float(rng.uniform(0.45, 0.82)),
    )


def _draw_soil(rng: Rng, common: Region) -> Soil:
    crown = str(rng.choice(common.crowns))
    season = "winter" if crown == "bare" else str(rng.choice(["summer", "dry", "wet"]))
    return Soil(
        season=season,
        gain=float(rng.uniform(*common.gain) * SEASONS[season]),
        spread=float(rng.uniform(0.5, 1.4)),
        mottle=float(rng.uniform(0.7, 2.2)),
        litter=_log_uniform(rng, 0.15, 2.0),
        lookalikes=float(rng.uniform(0.3, 1.6)),
        trees=_log_uniform(rng, *common.trees),
        crown=crown,
        overhang=float(rng.uniform(0.0, 0.7)),
        street=float(rng.uniform(0.24, 0.72)),
    )


def _draw_light(rng: Rng) -> Light:
    overcast = chance(rng, 0.15)
    away, turn = (rng.uniform(0.0, 0.35) if chance(rng, 0.5) else 0.0), rng.uniform(0, 2 * np.pi)
    return Light(
        azimuth=float(rng.uniform(0, 360)),
        elevation=_log_uniform(rng, 24, 78),
        skylight=float(rng.uniform(0.75, 0.97) if overcast else rng.uniform(0.25, 0.6)),
        lean=(float(away * np.cos(turn)), float(away * np.sin(turn))),
    )


def _draw_film(rng: Rng) -> Film:
    poor = rng.beta(1.0, 2.2)  # how bad it is as a whole: faults come together
    sharp = chance(rng, 0.3)
    resolution = round(_log_uniform(rng, 0.28, 1.0) if chance(rng, 0.88) else float(rng.uniform(0.2, 0.28)), 3)
    return Film(
        resolution=resolution,
        blur=float(rng.uniform(0.45, 0.75) + SOFTEST / resolution * poor * rng.random()),
        grain=float(1 + 11 * poor * rng.uniform(0.4, 1.2)),
        grain_size=float(rng.uniform(0.5, 1.3)),
        gamma=float(np.exp(rng.normal(0, 0.3))),
        mean=float(rng.uniform(75, 160)),
        contrast=float(rng.uniform(22, 38) if poor > 0.5 else rng.uniform(28, 56)),  # noqa: PLR2004
        vignette=float(rng.uniform(0, 0.12) + 0.12 * poor),
        uneven=float(rng.uniform(0, 0.06) + 0.1 * poor),
        sharpen=float(rng.uniform(0.4, 1.4)) if sharp else 0.0,
        scratches=float(3 * poor * rng.random()),
        seam=chance(rng, 0.5),
        blocking=float(rng.uniform(3, 14)) if chance(rng, 0.25) else 0.0,
    )


def _shaken(rng: Rng, odds: Odds) -> dict[str, float]:
    """Return odds near the given ones that sum to 1, some of them much smaller."""
    values = np.array(list(odds.values())) * rng.gamma(1.5, 1.0, len(odds))
    return dict(zip(odds, (values / values.sum()).tolist(), strict=True))


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
