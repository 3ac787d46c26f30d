"""Photos by Web Map Service (OGC 01-068r3, version 1.1.1, and 06-042, version 1.3.0).

A WMS draws whatever rectangle it is asked for; the lattice is ours. It lies at the origin of the CRS, at the
resolution of the case: in the CRS of the case its pixels are those of the grid, and nothing is resampled; and what was
fetched for one area serves another.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pyproj import CRS
from pyproj.exceptions import CRSError

from historymap_lib.capabilities import code_of, known, read_offer, swapped
from historymap_lib.errors import PhotoError
from historymap_lib.photo_services import FORMATS, Block, Case, Lattice, Service, bounds_in, number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from historymap_lib.capabilities import Layer, Offer
    from historymap_lib.settings import WmsPhoto

SIDE = 512
"""Pixels along a block: at 10 connections as fast as larger ones, and every server gives it."""
OURS = {"service", "version", "request", "layers", "styles", "crs", "srs", "bbox", "width", "height", "format",
        "transparent", "exceptions", "layer", "style", "tilematrixset", "tilematrix", "tilerow", "tilecol"}  # fmt: skip
DEGREES = CRS.from_epsg(4326)


def capabilities_of(settings: WmsPhoto) -> tuple[str, dict[str, str]]:
    """Return the address and the parameters by which a WMS says what it offers."""
    return bare(settings.url), {"SERVICE": "WMS", "REQUEST": "GetCapabilities", "VERSION": settings.version}


def has(body: bytes, settings: WmsPhoto) -> bool:
    """Say whether these capabilities have the layer of the settings.

    Raises:
        Unusable: they are none.

    """
    return settings.layer.split(",")[0] in read_offer(body).layers


def service_of(settings: WmsPhoto, body: bytes, case: Case) -> Service:
    """Return the service that the settings name; `body` is the capabilities of the server.

    Raises:
        PhotoError: there is no such layer, or nothing says where it lies.

    """
    offer = read_offer(body)
    layer = _layer(settings, offer, case.where)
    name = settings.crs or _chosen(layer.crs, case.crs)
    crs = known(name)
    degrees = CRS.from_user_input("OGC:CRS84")
    extent = layer.bounds.get(code_of(name)) or (bounds_in(degrees, crs, layer.degrees) if layer.degrees else None)
    side = min(SIDE, offer.largest or SIDE)
    lattice = Lattice(crs, case.pixel_in(crs, extent), 0.0, 0.0, side, extent or case.bounds_in(crs))
    key = settings.model_dump(mode="json", include={"source", "url", "layer", "version", "styles", "format"})
    key |= {"crs": name, "pixel": lattice.pixel, "side": side, "parameters": dict(settings.access.parameters)}
    asked = _parameters(settings, name, side)
    turned = settings.version == "1.3.0" and swapped(name)

    def request(block: Block) -> tuple[str, dict[str, str]]:
        west, south, east, north = lattice.bounds_of(block)
        box = (south, west, north, east) if turned else (west, south, east, north)
        return bare(settings.url), asked | {"BBOX": ",".join(map(number, box))}

    named = f"layer {settings.layer} of {settings.url}"
    return Service(named, key, lattice, request, frozenset({FORMATS[settings.format]}), settings.blank)


def bare(url: str) -> str:
    """Return an address without what people copy along with it: the request of a WMS or WMTS."""
    parts = urlsplit(url)
    kept = [one for one in parts.query.split("&") if one.split("=", 1)[0].lower() not in OURS]
    return urlunsplit(parts._replace(query="&".join(kept), fragment=""))


def near(name: str, names: Iterable[str]) -> str:
    """Return what to say of names of which none is the one that was looked for."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "historymap photo info lists what there is"


def _layer(settings: WmsPhoto, offer: Offer, where: Path) -> Layer:
    for name in settings.layer.split(","):
        if name not in offer.layers:
            raise PhotoError(f"{where}: {settings.url} has no layer {name}; {near(name, offer.layers)}")
    if offer.formats and settings.format not in {one.split(";")[0].strip() for one in offer.formats}:
        raise PhotoError(
            f"{where}: {settings.url} does not give {settings.format}; "
            f"set photo.format to one of {', '.join(one for one in FORMATS if one in offer.formats)}"
        )
    return offer.layers[settings.layer.split(",")[0]]


def _chosen(offered: tuple[str, ...], case: CRS) -> str:
    """Return the CRS to ask in, as the server names it: that of the case, else EPSG:3857, else EPSG:4326."""
    codes = {code_of(name): name for name in offered}
    authority = case.to_authority()
    wanted = [":".join(authority)] if authority else []
    for code in (*wanted, "EPSG:3857", "EPSG:900913", "EPSG:4326", "CRS:84"):
        if code in codes:
            return codes[code]
    for name in offered:
        try:
            known(name)
        except CRSError:
            continue
        return name
    return "EPSG:4326"  # which every server should have


def _parameters(settings: WmsPhoto, crs: str, side: int) -> dict[str, str]:
    new = settings.version == "1.3.0"
    parameters = {
        "SERVICE": "WMS",
        "REQUEST": "GetMap",
        "VERSION": settings.version,
        "LAYERS": settings.layer,
        "STYLES": settings.styles,
        "CRS" if new else "SRS": crs,
        "WIDTH": str(side),
        "HEIGHT": str(side),
        "FORMAT": settings.format,
        "EXCEPTIONS": "XML" if new else "application/vnd.ogc.se_xml",
    }
    return parameters | ({"TRANSPARENT": "TRUE"} if settings.format == "image/png" else {})
