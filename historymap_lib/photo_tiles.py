"""Photos that servers have cut into tiles: Web Map Tile Services (OGC 07-057r7), and the tiles of web maps (XYZ, TMS).

The lattice is the server's; of its resolutions the coarsest is taken that loses nothing.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from pyproj import CRS

from historymap_lib.capabilities import code_of, known
from historymap_lib.capabilities_wmts import names_a_variable, read_tile_offer
from historymap_lib.errors import PhotoError
from historymap_lib.http import Unusable
from historymap_lib.photo_services import (
    ANY,
    DEGREES,
    FORMATS,
    MERCATOR,
    Block,
    Bounds,
    Case,
    Lattice,
    Service,
    bounds_in,
    shared,
)
from historymap_lib.photo_wms import bare, near

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from historymap_lib.capabilities_wmts import MatrixSet, TileLayer, TileOffer
    from historymap_lib.settings import WmtsPhoto, XyzPhoto

    Request = Callable[[Block], tuple[str, Mapping[str, str]]]

COARSER = 1.1
"""Pixels may be this many times coarser than the resolution of the case before finer ones are taken."""
NOTHING = frozenset({204, 404})
"""What servers of tiles answer where they have none."""
AROUND = 16
"""Pixels around the area that are asked for as well: warping looks at some."""
WORLD = CRS.from_epsg(3857)
PLACE = re.compile(r"(?<!\$)\{([^{}]+)\}")
"""What a template holds where something is to be put in; `${NAME}` is a secret, and left to `http`."""


def xyz(settings: XyzPhoto, case: Case) -> Service:
    """Return the service of tiles of the web map that the settings name.

    Raises:
        PhotoError: neither the settings of the photo nor the area have bounds.

    """
    extent = bounds_in(DEGREES, WORLD, _four(settings.bounds)) if settings.bounds else None
    zoom = settings.zoom
    if zoom is None:
        wanted = case.pixel_in(WORLD, extent) * COARSER
        zoom = min(settings.max_zoom, max(0, math.ceil(math.log2(2 * MERCATOR / settings.size / wanted))))
    pixel = 2 * MERCATOR / settings.size / 2**zoom
    world = (-MERCATOR, -MERCATOR, MERCATOR, MERCATOR)
    extent = shared(extent or _grown(case.bounds_in(WORLD), AROUND * pixel), world) or world
    lattice = Lattice(WORLD, pixel, -MERCATOR, MERCATOR, settings.size, _drawn_in(extent, pixel))
    key = settings.model_dump(mode="json", include={"source", "url", "size"})
    key |= {"zoom": zoom, "parameters": dict(settings.access.parameters)}

    def request(block: Block) -> tuple[str, Mapping[str, str]]:
        column, row = block
        places = {"z": zoom, "x": column, "y": row, "-y": 2**zoom - 1 - row}
        return PLACE.sub(lambda found: str(places[found[1]]), settings.url), {}

    return Service(f"tiles of {settings.url}", key, lattice, request, ANY, settings.blank, NOTHING)


def capabilities_of(settings: WmtsPhoto) -> tuple[str, dict[str, str]]:
    """Return the address and the parameters by which a WMTS says what it offers."""
    if _is_document(settings.url):
        return settings.url, {}
    return bare(settings.url), {"SERVICE": "WMTS", "REQUEST": "GetCapabilities", "VERSION": "1.0.0"}


def has(body: bytes, settings: WmtsPhoto) -> bool:
    """Say whether these capabilities, as a server has just sent them, have the layer of the settings.

    Raises:
        Unusable: they are none, or want to know what is in the environment.

    """
    offer = read_tile_offer(body)
    if names_a_variable(body):
        raise Unusable("names an environment variable in its capabilities, which is none of its business")
    return settings.layer in offer.layers


def wmts(settings: WmtsPhoto, body: bytes, case: Case) -> Service:
    """Return the service that the settings name; `body` is the capabilities of the server.

    Raises:
        PhotoError: there is no such layer, matrix set, style or format, or none that can be used.

    """
    offer, where = read_tile_offer(body), case.where
    if settings.layer not in offer.layers:
        raise PhotoError(f"{where}: {settings.url} has no layer {settings.layer}; {near(settings.layer, offer.layers)}")
    layer = offer.layers[settings.layer]
    chosen = _set(settings, offer, layer, case)
    name, lattice = _lattice(chosen, layer, case)
    # a server that takes parameters is asked at the address that it was found at: it may think that it is elsewhere
    templates = layer.templates if _is_document(settings.url) or not offer.address else {}
    kind = _one_of(settings.format, tuple(templates) or layer.formats, ("image/png", "image/jpeg"), where, "format")
    style = _one_of(settings.style, layer.styles, layer.styles, where, "style")
    given = {name.lower(): value for name, value in settings.access.parameters.items()}
    values = {name.lower(): given.get(name.lower(), value) for name, value in layer.dimensions.items()}
    values |= {"layer": layer.name, "style": style, "tilematrixset": chosen.name, "tilematrix": name}
    if templates:
        request = _by_paths(_as_safe(templates[kind], settings.url), values)
    elif _is_document(settings.url) and not offer.address:
        raise PhotoError(
            f"{where}: {settings.url} does not say where its tiles are; set photo.url to its other address"
        )
    else:
        address = _as_safe(offer.address, settings.url) if _is_document(settings.url) else settings.url
        request = _by_parameters(bare(address), values, kind)
    key = settings.model_dump(mode="json", include={"source", "url", "layer"})
    key |= {"values": values, "format": kind, "parameters": dict(settings.access.parameters)}
    formats = frozenset({FORMATS[kind]}) if kind in FORMATS else ANY
    return Service(f"layer {layer.name} of {settings.url}", key, lattice, request, formats, settings.blank, NOTHING)


def _by_paths(template: str, values: dict[str, str]) -> Request:
    """Return what asks for a tile by its path, as a template has it."""

    def request(block: Block) -> tuple[str, Mapping[str, str]]:
        place = values | {"tilecol": str(block[0]), "tilerow": str(block[1])}
        return PLACE.sub(lambda found: quote(place.get(found[1].lower(), ""), safe=":,"), template), {}

    return request


def _by_parameters(address: str, values: dict[str, str], kind: str) -> Request:
    """Return what asks for a tile by parameters (KVP)."""
    asked = {"SERVICE": "WMTS", "REQUEST": "GetTile", "VERSION": "1.0.0", "FORMAT": kind}
    asked |= {name.upper(): value for name, value in values.items()}

    def request(block: Block) -> tuple[str, Mapping[str, str]]:
        return address, asked | {"TILECOL": str(block[0]), "TILEROW": str(block[1])}

    return request


def _lattice(chosen: MatrixSet, layer: TileLayer, case: Case) -> tuple[str, Lattice]:
    """Return the matrix to use: the coarsest that loses nothing, or the finest; its name, and the lattice that it is.

    Where a server names the limits of some matrices, it has no tiles of the others.
    """
    crs = known(chosen.crs)
    extent = bounds_in(DEGREES, crs, layer.degrees) if layer.degrees else None
    limited = [one for one in chosen.matrices if (chosen.name, one.name) in layer.limits]
    matrices, wanted = limited or chosen.matrices, case.pixel_in(crs, extent) * COARSER
    matrix = next((one for one in matrices if one.pixel <= wanted), matrices[-1])
    if matrix.sides[0] != matrix.sides[1]:
        raise PhotoError(f"{case.where}: the tiles of {chosen.name} are not square; set another photo.matrix_set")
    side, width = matrix.sides[0], matrix.sides[0] * matrix.pixel
    everything = 0, matrix.columns - 1, 0, matrix.rows - 1
    first, last, top, bottom = layer.limits.get((chosen.name, matrix.name), everything)
    limit = (matrix.west + first * width, matrix.north - (bottom + 1) * width,
             matrix.west + (last + 1) * width, matrix.north - top * width)  # fmt: skip
    extent = (extent and shared(extent, limit)) or limit
    return matrix.name, Lattice(crs, matrix.pixel, matrix.west, matrix.north, side, _drawn_in(extent, matrix.pixel))


def _set(settings: WmtsPhoto, offer: TileOffer, layer: TileLayer, case: Case) -> MatrixSet:
    """Return the matrix set of the settings, else one in the CRS of the case, else of the web map, else any."""
    usable = [offer.sets[name] for name in layer.sets if name in offer.sets and offer.sets[name].matrices]
    if not usable:
        raise PhotoError(f"{case.where}: layer {layer.name} of {settings.url} has no tiles in a CRS that PROJ knows")
    if settings.matrix_set is not None:
        for one in usable:
            if one.name == settings.matrix_set:
                return one
        raise PhotoError(
            f"{case.where}: layer {layer.name} has no matrix set {settings.matrix_set}; "
            f"set photo.matrix_set to one of {', '.join(one.name for one in usable)}"
        )
    authority = case.crs.to_authority()
    wanted = [":".join(authority)] if authority else []
    for code in (*wanted, "EPSG:3857", "EPSG:900913"):
        for one in usable:
            if code_of(one.crs) == code:
                return one
    return usable[0]


def _one_of(given: str | None, there: tuple[str, ...], liked: tuple[str, ...], where: Path, what: str) -> str:
    """Return what the settings want of what there is, else the first that we like, else the first."""
    if given is not None and there and given not in there:
        raise PhotoError(f"{where}: photo.{what} {given} is not offered; set it to one of {', '.join(there)}")
    return given or next((one for one in liked if one in there), there[0] if there else "")


def _drawn_in(bounds: Bounds, pixel: float) -> Bounds:
    """Return bounds smaller by a little, so that a tile that only begins where they end is none by rounding."""
    return _grown(bounds, -pixel / 1000)


def _is_document(url: str) -> bool:
    """Say whether an address is that of a file with capabilities, and not of a service that takes parameters."""
    return url.split("?", 1)[0].endswith(".xml")


def _as_safe(address: str, url: str) -> str:
    """Return an address that a server names, by https where it was asked so itself: many forget that they are."""
    return re.sub(r"^http://", "https://", address) if url.startswith("https://") else address


def _grown(bounds: Bounds, by: float) -> Bounds:
    west, south, east, north = bounds
    return west - by, south - by, east + by, north + by


def _four(values: list[float]) -> Bounds:
    west, south, east, north = values
    return west, south, east, north
