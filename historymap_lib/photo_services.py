"""Photos that servers give in pictures: every service is a lattice of blocks, equal squares of pixels in one CRS.

GDAL's WMS driver would do as well, where all goes well: it takes an exception for a picture that is missing, asks
again at once or never, and keeps what came half. So the blocks are asked for one by one, through `http`, and each is
looked at before anybody uses it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pyproj import CRS
from rasterio._err import CPLE_BaseError
from rasterio.warp import transform, transform_bounds

from historymap_lib.capabilities import refusal
from historymap_lib.errors import PhotoError
from historymap_lib.http import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from historymap_lib.http import Answer

Bounds = tuple[float, float, float, float]
Block = tuple[int, int]
"""Column and row on the lattice; both may be negative."""

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/tiff": "TIFF"}
"""What Pillow calls the media types."""
ANY = frozenset({"PNG", "JPEG", "WEBP"})
PLAIN = {"", "application/octet-stream", "binary/octet-stream"}
"""Media types by which servers name a picture that they do not know."""
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's names of pixels of 8 bits or fewer a band."""
WHITE, BLACK = 254, 1
"""Grey values from which on, and up to which, a pixel is white or black: JPEG is out by one."""
OPAQUE = 128
MERCATOR = 20037508.342789244
"""Half of the width of the web map, in its metres."""
DEGREES = CRS.from_user_input("OGC:CRS84")
BEYOND = 6.0
"""Degrees beyond the area of use of a CRS, up to which its coordinates still mean something."""


@dataclass(frozen=True)
class Lattice:
    """Squares of `side` x `side` pixels of `pixel` units of `crs`, from the corner (`west`, `north`).

    `extent` is where the service has something, in `crs`, x before y; blocks outside are not asked for.
    """

    crs: CRS
    pixel: float
    west: float
    north: float
    side: int
    extent: Bounds

    def bounds_of(self, block: Block) -> Bounds:
        """Return west, south, east, north of a block."""
        width = self.side * self.pixel
        west, north = self.west + block[0] * width, self.north - block[1] * width
        return west, north - width, west + width, north

    def blocks_in(self, left: int, top: int, width: int, height: int) -> list[Block]:
        """Return the blocks that a rectangle of pixels touches, as far as the service has something there."""
        rows = range(top // self.side, (top + height - 1) // self.side + 1)
        columns = range(left // self.side, (left + width - 1) // self.side + 1)
        return [(column, row) for row in rows for column in columns if self._has((column, row))]

    def _has(self, block: Block) -> bool:
        west, south, east, north = self.bounds_of(block)
        return self.extent[0] < east and west < self.extent[2] and self.extent[1] < north and south < self.extent[3]


@dataclass(frozen=True)
class Case:
    """What a case wants of a photo: its CRS, bounds in it or None for all there is, metres a pixel, its settings."""

    crs: CRS
    area: Bounds | None
    resolution: float
    where: Path

    def bounds_in(self, crs: CRS) -> Bounds:
        """Return the bounds of the area in another CRS.

        Raises:
            PhotoError: it has none, or they cannot be told there.

        """
        if self.area is None:
            raise PhotoError(f"{self.where}: the server does not say where the photo lies; set area.bounds")
        found = bounds_in(self.crs, crs, self.area)
        if found is None:
            raise PhotoError(f"{self.where}: area.bounds cannot be told in {crs.name}; set another CRS for the photo")
        return found

    def pixel_in(self, crs: CRS, extent: Bounds | None) -> float:
        """Return the pixel of `crs` that is the resolution of the case, or a little finer, at the area or the extent.

        Of two digits, so that a somewhat other area is not another lattice.

        Raises:
            PhotoError: there is neither.

        """
        if crs == self.crs:
            return self.resolution
        west, south, east, north = extent if self.area is None and extent else self.bounds_in(crs)
        x, y = transform(crs.to_wkt(), self.crs.to_wkt(), [(west + east) / 2], [(south + north) / 2])
        places = [x[0], x[0] + self.resolution, x[0]], [y[0], y[0], y[0] + self.resolution]
        columns, rows = transform(self.crs.to_wkt(), crs.to_wkt(), *places)
        step = min(math.hypot(columns[i] - columns[0], rows[i] - rows[0]) for i in (1, 2))
        digit = 10.0 ** (math.floor(math.log10(step)) - 1)
        return float(f"{math.floor(step / digit + 1e-9) * digit:.6g}")


@dataclass(frozen=True)
class Service:
    """A service: its lattice, and how to ask for a block.

    Attributes:
        name: for people, without secrets.
        key: what its pictures depend on, without secrets; a cache knows them by it.
        lattice: of the blocks.
        request: the address and the parameters for a block.
        formats: of pictures that may come, as Pillow calls them.
        blank: what is no data if a picture is all of it: keep (nothing), white, black, both.
        nothing: statuses by which the server says that it has nothing there.

    """

    name: str
    key: dict[str, Any]
    lattice: Lattice
    request: Callable[[Block], tuple[str, Mapping[str, str]]]
    formats: frozenset[str]
    blank: str
    nothing: frozenset[int] = frozenset()

    def pixels(self, body: bytes) -> np.ndarray:
        """Return the grey values in a picture (side x side, uint8), 1 to 255, and 0 where there is no data.

        Raises:
            Unusable: it is no such picture, or not whole.

        """
        side = self.lattice.side
        try:
            with Image.open(io.BytesIO(body), formats=sorted(self.formats)) as image:
                if image.size != (side, side):
                    width, height = image.size
                    raise Unusable(f"gives a picture of {width} x {height} pixels, not of {side} x {side} as asked")
                if image.mode not in MODES:
                    raise Unusable(f"gives pixels of more than 8 bits ({image.mode}); set photo.format: image/png")
                image.load()
                return _without_blank(_grey(image), self.blank)
        except UnidentifiedImageError:
            raise refusal(body, "no picture") from None
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise Unusable(f"gives a picture that breaks off or is damaged ({error})", again=True) from None

    def pixels_of(self, answer: Answer) -> np.ndarray:
        """Return what `pixels` does of an answer, which must also say that it is a picture.

        Raises:
            Unusable: it is none.

        """
        if not answer.body:
            raise Unusable("answers with nothing where a picture was asked for", again=True)
        if not answer.type.startswith("image/") and answer.type not in PLAIN:
            raise refusal(answer.body if "\0" not in answer.body[:64].decode("latin-1") else b"",
                          f"{answer.type} where a picture was asked for")  # fmt: skip
        return self.pixels(answer.body)


def bounds_in(source: CRS, target: CRS, bounds: Bounds) -> Bounds | None:
    """Return bounds in another CRS, or None where they cannot be told there.

    Of bounds that reach far beyond what a CRS is made for only the part is told where it means something: many
    servers say "the world", and the corners of the world in UTM enclose nothing.
    """
    if source == target:
        return bounds
    degrees = _transformed(source, DEGREES, bounds)
    if degrees is not None:
        inside = shared(degrees, _usable(target))
        if inside is None:
            return None
        if inside != degrees:
            return _transformed(DEGREES, target, inside)
    return _transformed(source, target, bounds)


def shared(one: Bounds, other: Bounds) -> Bounds | None:
    """Return what two bounds share, or None where that is nothing."""
    west, south, east, north = *map(max, one[:2], other[:2]), *map(min, one[2:], other[2:])
    return (west, south, east, north) if west < east and south < north else None


def _usable(crs: CRS) -> Bounds:
    """Return the degrees between which the coordinates of a CRS mean something."""
    area = crs.area_of_use
    if crs.to_epsg() == 3857:  # noqa: PLR2004 - its poles are at infinity
        return -180.0, -85.06, 180.0, 85.06
    if crs.is_geographic or area is None or area.west > area.east:
        return -math.inf, -math.inf, math.inf, math.inf
    return area.west - BEYOND, max(area.south - BEYOND, -90.0), area.east + BEYOND, min(area.north + BEYOND, 90.0)


def _transformed(source: CRS, target: CRS, bounds: Bounds) -> Bounds | None:
    if source == target:
        return bounds
    try:
        west, south, east, north = transform_bounds(source.to_wkt(), target.to_wkt(), *bounds, densify_pts=21)
    except CPLE_BaseError:  # of another planet, say
        return None
    fine = all(map(math.isfinite, (west, south, east, north))) and west < east and south < north
    return (west, south, east, north) if fine else None


def number(value: float) -> str:
    """Return a number as servers take it: all its digits, and no exponent."""
    return str(np.format_float_positional(value, trim="-"))


def _grey(image: Image.Image) -> np.ndarray:
    """Return grey values, 1 to 255, and 0 where the picture can be seen through."""
    through = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if not through:
        plain = np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))
        grey: np.ndarray = np.maximum(plain, np.uint8(1))
        return grey
    coloured = image.convert("RGBA")
    grey = np.maximum(np.asarray(coloured.convert("RGB").convert("L")), np.uint8(1))
    grey[np.asarray(coloured.getchannel("A")) < OPAQUE] = 0
    return grey


def _without_blank(grey: np.ndarray, blank: str) -> np.ndarray:
    white = blank in ("white", "both") and grey.min() >= WHITE
    black = blank in ("black", "both") and grey.max() <= BLACK
    return np.zeros_like(grey) if white or black else grey
