"""What a Web Map Tile Service offers: layers, and the tile matrices that they are cut by (OGC 07-057r7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyproj.exceptions import CRSError

from historymap_lib.capabilities import all_of, known, refusal, root_of, swapped, tag, text, text_at
from historymap_lib.http import Unusable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from pyproj import CRS

Bounds = tuple[float, float, float, float]
PIXEL = 0.00028
"""Metres of a pixel on the screen that scale denominators are counted with."""
DEGREE = 6378137 * math.pi / 180
"""Metres of a degree, as scale denominators are counted with."""
NORTHERNMOST = 90


@dataclass(frozen=True)
class Matrix:
    """Tiles of one resolution: pixel and corner (x, y) in units of the CRS, pixels along a tile, numbers of tiles."""

    name: str
    pixel: float
    west: float
    north: float
    sides: tuple[int, int]
    columns: int
    rows: int


@dataclass(frozen=True)
class MatrixSet:
    """Matrices in one CRS, as the server names it."""

    name: str
    crs: str
    matrices: tuple[Matrix, ...]


@dataclass(frozen=True)
class TileLayer:
    """A layer; `limits` by set and matrix: first and last column, first and last row."""

    name: str
    title: str
    formats: tuple[str, ...]
    styles: tuple[str, ...]  # the default first
    degrees: Bounds | None
    sets: tuple[str, ...]
    limits: dict[tuple[str, str], tuple[int, int, int, int]]
    templates: dict[str, str]  # by format
    dimensions: dict[str, str]  # with their defaults, else their first values


@dataclass(frozen=True)
class TileOffer:
    """What a WMTS offers; `address` is where tiles are asked for by parameters, if it says so."""

    title: str
    layers: dict[str, TileLayer]
    sets: dict[str, MatrixSet]
    address: str


def read_tile_offer(body: bytes) -> TileOffer:
    """Read the capabilities of a WMTS.

    Raises:
        Unusable: they are none.

    """
    root = root_of(body)
    if tag(root) != "Capabilities" or not all_of(root, "Contents"):
        raise refusal(body, "no capabilities of a WMTS")
    try:
        sets = {one.name: one for one in map(_set, all_of(root, "Contents", "TileMatrixSet"))}
        layers = {one.name: one for one in map(_layer, all_of(root, "Contents", "Layer"))}
    except (ValueError, CRSError) as error:
        raise Unusable(f"gives capabilities that cannot be understood ({error})") from None
    return TileOffer(text_at(root, "ServiceIdentification", "Title"), layers, sets, _address(root))


def names_a_variable(body: bytes) -> bool:
    """Say whether a document holds `${`, be it in other characters: what is asked for by it would tell our secrets.

    Raises:
        Unusable: it is no XML.

    """
    return any("${" in part for one in root_of(body).iter() for part in (one.text or "", *one.attrib.values()))


def _set(element: Element) -> MatrixSet:
    crs = text_at(element, "SupportedCRS")
    try:
        found = [_matrix(one, known(crs), swapped(crs)) for one in all_of(element, "TileMatrix")]
        matrices = [one for one in found if one.columns > 0 and one.rows > 0]  # some have empty ones
    except CRSError:  # of another planet, say: nobody can use it
        matrices = []
    return MatrixSet(text_at(element, "Identifier"), crs, tuple(sorted(matrices, key=lambda one: -one.pixel)))


def _matrix(element: Element, crs: CRS, turned: bool) -> Matrix:  # noqa: FBT001 - called here alone
    x, y = map(float, text_at(element, "TopLeftCorner").split())
    if turned and (not crs.is_geographic or abs(x) <= NORTHERNMOST):  # some have longitude first all the same
        x, y = y, x
    metres = DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor
    pixel = float(text_at(element, "ScaleDenominator")) * PIXEL / metres
    number = {name: int(text_at(element, name)) for name in ("TileWidth", "TileHeight", "MatrixWidth", "MatrixHeight")}
    if not (all(map(math.isfinite, (x, y, pixel))) and min(pixel, number["TileWidth"], number["TileHeight"]) > 0):
        raise ValueError(f"a tile matrix of {text_at(element, 'ScaleDenominator')} : 1")
    return Matrix(
        text_at(element, "Identifier"),
        pixel,
        x,
        y,
        (number["TileWidth"], number["TileHeight"]),
        number["MatrixWidth"],
        number["MatrixHeight"],
    )


def _layer(element: Element) -> TileLayer:
    styles = sorted(all_of(element, "Style"), key=lambda one: one.get("isDefault") != "true")
    limits = {}
    for link in all_of(element, "TileMatrixSetLink"):
        for one in all_of(link, "TileMatrixSetLimits", "TileMatrixLimits"):
            least, most, top, bottom = (
                int(text_at(one, name)) for name in ("MinTileCol", "MaxTileCol", "MinTileRow", "MaxTileRow")
            )
            limits[text_at(link, "TileMatrixSet"), text_at(one, "TileMatrix")] = least, most, top, bottom
    return TileLayer(
        name=text_at(element, "Identifier"),
        title=text_at(element, "Title"),
        formats=tuple(map(text, all_of(element, "Format"))),
        styles=tuple(text_at(one, "Identifier") for one in styles),
        degrees=_degrees(element),
        sets=tuple(text_at(link, "TileMatrixSet") for link in all_of(element, "TileMatrixSetLink")),
        limits=limits,
        templates={
            one.get("format", ""): one.get("template", "")
            for one in all_of(element, "ResourceURL")
            if one.get("resourceType") == "tile"
        },
        dimensions={
            text_at(one, "Identifier"): text_at(one, "Default") or text_at(one, "Value")
            for one in all_of(element, "Dimension")
        },
    )


def _degrees(element: Element) -> Bounds | None:
    for one in all_of(element, "WGS84BoundingBox"):
        west, south = map(float, text_at(one, "LowerCorner").split())
        east, north = map(float, text_at(one, "UpperCorner").split())
        if west < east and south < north:
            return west, south, east, north
    return None


def _address(root: Element) -> str:
    for operation in all_of(root, "OperationsMetadata", "Operation"):
        if operation.get("name") == "GetTile":
            for one in all_of(operation, "DCP", "HTTP", "Get"):
                ways = {text(value) for value in all_of(one, "Constraint", "AllowedValues", "Value")}
                if not ways or "KVP" in ways:
                    return next((value for key, value in one.attrib.items() if key.endswith("href")), "")
    return ""
