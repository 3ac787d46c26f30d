"""What photos there are, so that a person can write the YAML: the layers of a server, or the photo of a case."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import rasterio
import yaml
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from historymap_lib import photo_tiles, photo_wms
from historymap_lib.capabilities import known, read_offer
from historymap_lib.capabilities_wmts import read_tile_offer
from historymap_lib.errors import PhotoError, SourceError
from historymap_lib.http import Client, Unusable
from historymap_lib.imagery import fetched, open_photo, photo_files
from historymap_lib.photo_services import bounds_in
from historymap_lib.settings import Access, FilePhoto, WmsPhoto, WmtsPhoto

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from historymap_lib.http import Answer
    from historymap_lib.project import Project

Bounds = tuple[float, float, float, float]
DEGREE = 111_320.0
"""Metres of a degree along a meridian, about."""
DEGREES = CRS.from_user_input("OGC:CRS84")


@dataclass(frozen=True)
class LayerInfo:
    """A layer that a server offers.

    Attributes:
        name: to write as photo.layer.
        title: for people.
        crs: in which it can be asked for, as the server names them.
        bounds: west, south, east, north in degrees, or None where the server does not say.
        resolution: metres a pixel of the finest tiles, at the equator for EPSG:3857; None for a WMS, which draws any.

    """

    name: str
    title: str
    crs: tuple[str, ...]
    bounds: Bounds | None
    resolution: float | None = None


@dataclass(frozen=True)
class ServerInfo:
    """What a server offers; `source` is wms or wmts, as in photo.source."""

    url: str
    source: str
    title: str
    formats: tuple[str, ...]
    layers: tuple[LayerInfo, ...]

    def find(self, text: str) -> ServerInfo:
        """Return the same with the layers only whose name or title holds a text, however it is written."""
        wanted = text.casefold()
        layers = tuple(one for one in self.layers if wanted in one.name.casefold() or wanted in one.title.casefold())
        exact = tuple(one for one in layers if one.name == text)
        return ServerInfo(self.url, self.source, self.title, self.formats, exact or layers)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self)

    def example(self, layer: LayerInfo) -> str:
        """Return the section `photo` of a YAML for one of the layers."""
        photo = {"source": self.source, "url": self.url, "layer": layer.name}
        return str(yaml.safe_dump({"photo": photo}, sort_keys=False, allow_unicode=True))


def ask(url: str, access: Access, where: Path) -> ServerInfo:
    """Ask a server what it offers, first as a WMS, then as a WMTS.

    Args:
        url: of the service, with or without the request that people copy along with it.
        access: how it wants to be asked.
        where: what to correct, for messages.

    Raises:
        PhotoError: the address is that of tiles, which are listed nowhere.
        SourceError: the server does not answer, or is neither.

    """
    if "{z}" in url:
        raise PhotoError(f"{url}: is an address of tiles, which nobody lists; historymap photo preview shows them")
    if url.split("?", 1)[0].endswith(".xml") or "wmts" in url.lower():
        ways: list[Callable[[str, Client], ServerInfo]] = [_wmts, _wms]
    else:
        ways = [_wms, _wmts]
    client = Client(access, where)
    try:
        return ways[0](url, client)
    except SourceError as first:
        try:
            return ways[1](url, client)
        except SourceError:
            raise first from None


def describe(project: Project) -> dict[str, Any]:
    """Return what is known of the photo of a case: where it comes from, its extent, and what of it is at hand.

    Raises:
        PhotoError: it cannot be opened, or lies elsewhere than the area.
        SourceError: the server does not say what it has.
    """
    settings = project.photo
    told: dict[str, Any] = {"name": project.photo_name(), "year": settings.year, "source": settings.source}
    if isinstance(settings, FilePhoto):
        told["files"] = [_file(path) for path in photo_files(project)]
    else:
        copy = fetched(project)
        told |= {"url": settings.url, "copy": str(copy) if copy else None}
    with open_photo(project, copy=False) as photo:
        grid, remote = photo.grid, photo.remote
        if remote is not None:
            lattice = remote.service.lattice
            told["asked_in"] = {"crs": _code(lattice.crs), "pixel": lattice.pixel, "block": lattice.side}
            told["bounds"] = bounds_in(lattice.crs, DEGREES, lattice.extent)
            told["requests"] = remote.count(Window(0, 0, grid.width, grid.height))
        told["area"] = {"crs": project.area.crs, "bounds": grid.bounds, "width": grid.width, "height": grid.height}
        told["area"]["resolution"] = grid.resolution
    return told


def _file(path: Path) -> dict[str, Any]:
    try:
        with rasterio.open(path) as dataset:
            crs = dataset.crs
            bounds = bounds_in(CRS.from_wkt(crs.to_wkt()), DEGREES, tuple(dataset.bounds)) if crs else None
            return {
                "path": str(path),
                "width": dataset.width,
                "height": dataset.height,
                "pixel": dataset.res,
                "crs": crs.to_string() if crs else None,
                "bands": dataset.count,
                "type": dataset.dtypes[0],
                "nodata": dataset.nodata,
                "bounds": bounds,
            }
    except RasterioError as error:
        raise PhotoError(f"{path}: is damaged or no photo ({error}); check that it is whole") from None


def _wms(url: str, client: Client) -> ServerInfo:
    address, parameters = photo_wms.capabilities_of(WmsPhoto(source="wms", url=url, layer=""))
    offer = read_offer(_body(client, address, parameters, read_offer))
    layers = [LayerInfo(one.name, one.title, one.crs, one.degrees) for one in offer.layers.values()]
    return ServerInfo(address, "wms", offer.title, offer.formats, tuple(layers))


def _wmts(url: str, client: Client) -> ServerInfo:
    address, parameters = photo_tiles.capabilities_of(WmtsPhoto(source="wmts", url=url, layer=""))
    offer = read_tile_offer(_body(client, address, parameters, read_tile_offer))
    layers, formats = [], dict[str, None]()
    for one in offer.layers.values():
        sets = [offer.sets[name] for name in one.sets if name in offer.sets and offer.sets[name].matrices]
        finest = [each.matrices[-1].pixel * _metres(each.crs) for each in sets]
        layers.append(
            LayerInfo(one.name, one.title, tuple(each.crs for each in sets), one.degrees, min(finest, default=None))
        )
        formats |= dict.fromkeys(one.formats)
    return ServerInfo(address, "wmts", offer.title, tuple(formats), tuple(layers))


def _body(client: Client, url: str, parameters: dict[str, str], read: Callable[[bytes], object]) -> bytes:
    def check(answer: Answer) -> None:
        try:
            read(answer.body)
        except Unusable as error:
            raise Unusable(str(error)) from None  # another kind of server gives the same again: do not wait

    return client.ask(url, parameters, check=check).body


def _metres(name: str) -> float:
    """Return the metres of a unit of a CRS."""
    try:
        crs = known(name)
    except CRSError:
        return 1.0
    return DEGREE if crs.is_geographic else float(crs.axis_info[0].unit_conversion_factor)


def _code(crs: CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else crs.name
