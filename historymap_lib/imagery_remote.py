"""The photo of a server as `imagery` wants it: windows of grey pixels on the grid of a case.

Blocks come from the cache, and what is missing there from the server, several at once. Where the lattice of the
server is that of the grid they are put side by side as they are; else they are warped, with so much around each
window that neighbours have no seam.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform, transform_bounds
from rasterio.windows import Window

from historymap_lib import photo_tiles, photo_wms
from historymap_lib.block_cache import BlockCache
from historymap_lib.crew import Crew
from historymap_lib.errors import PhotoError
from historymap_lib.http import Client, Unusable
from historymap_lib.photo_services import Block, Bounds, Case, Lattice, Service, bounds_in
from historymap_lib.progress import Bar
from historymap_lib.settings import WmsPhoto, WmtsPhoto, XyzPhoto

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from pyproj import CRS

    from historymap_lib.project import Project
    from historymap_lib.tiles import Grid

MANY = 64
"""Missing blocks from which on progress is shown."""
MONTH = 30.0
"""Days after which a server is asked again for what it did not have."""
MARGIN = 4
"""Pixels around a window that the interpolation (cubic) looks at, and two to spare; of the coarser of both."""
ADDRESS = re.compile(rb"""=\s*(?:"https?://[!#-~]*"|'https?://[!-&(-~]*')""")
"""An address in XML: servers write keys that they were asked with into those by which they want to be asked."""
FINER = 1.5
"""A lattice this many times finer than the grid is averaged; else it is interpolated."""


class RemoteSource:
    """One photo on a server; `open` it on a grid, then `read`."""

    def __init__(self, service: Service, client: Client, connections: int) -> None:
        self.path = service.name
        self.service = service
        self.cache = BlockCache(service.key)
        self.on_block: Callable[[], None] | None = None  # told of each block that has come
        self._client, self._connections = client, connections

    def bounds_in(self, crs: CRS) -> Bounds:
        """Return the bounds of the service in another CRS."""
        lattice = self.service.lattice
        found = bounds_in(lattice.crs, crs, lattice.extent)
        if found is None:
            raise PhotoError(f"{self.path}: its extent cannot be placed in {crs.name}; set area.bounds")
        return found

    def corner(self, crs: CRS) -> tuple[float, float]:  # noqa: ARG002 - as the source of files has it
        """Return a corner of a pixel of the grid: the origin of its CRS, as the lattice has it."""
        return 0.0, 0.0

    def open(self, grid: Grid, stack: ExitStack) -> None:
        """Get ready to read windows of a grid."""
        lattice = self.service.lattice
        self._grid = grid
        self._extent = self.bounds_in(grid.crs)
        self._crew = stack.enter_context(Crew(self._connections))
        left, top = (grid.west - lattice.west) / lattice.pixel, (lattice.north - grid.north) / lattice.pixel
        same = lattice.crs == grid.crs and math.isclose(lattice.pixel, grid.resolution, rel_tol=1e-12)
        whole = max(abs(left - round(left)), abs(top - round(top))) < 1e-3  # noqa: PLR2004 - of a pixel
        self._begin = (round(left), round(top)) if same and whole else None
        self._scale = _scale(lattice, grid)

    def touches(self, bounds: Bounds) -> bool:
        """Say whether the service reaches into these bounds (in the CRS of the grid)."""
        one, other = self._extent, bounds
        return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return grey values (uint8) and validity of a window of the grid.

        Beyond the grid there is nothing, as in the copy that `photo fetch` makes: one gives the same as the other.

        Raises:
            SourceError: the server does not give a block.

        """
        whole = np.zeros((int(window.height), int(window.width)), np.uint8)
        inside = self._inside(window)
        if inside is None:
            return whole, whole > 0
        under = self._under(inside)
        grey = self._mosaic(*under)
        if self._begin is None:
            grey = self._warped(grey, under, inside)
        left, top = int(inside.col_off - window.col_off), int(inside.row_off - window.row_off)
        whole[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
        return whole, whole > 0

    def count(self, window: Window) -> int:
        """Return how many blocks a window of the grid needs."""
        return len(self._needed(window))

    def prepare(self, windows: Sequence[Window]) -> None:
        """Fetch into the cache what these windows need, all at once, which is much faster than one by one."""
        wanted = dict.fromkeys(block for window in windows for block in self._needed(window))
        missing = [block for block in wanted if not self.cache.has(_name(block))]
        for _ in self._fetched(missing):
            pass

    def _inside(self, window: Window) -> Window | None:
        """Return what of a window lies on the grid, or None."""
        left, top = max(0, int(window.col_off)), max(0, int(window.row_off))
        right = min(self._grid.width, int(window.col_off + window.width))
        bottom = min(self._grid.height, int(window.row_off + window.height))
        return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None

    def _needed(self, window: Window) -> list[Block]:
        inside = self._inside(window)
        return [] if inside is None else self.service.lattice.blocks_in(*self._under(inside))

    def _under(self, window: Window) -> tuple[int, int, int, int]:
        """Return the pixels of the lattice that a window needs: left, top, width, height."""
        columns, rows = int(window.width), int(window.height)
        if self._begin is not None:
            return self._begin[0] + int(window.col_off), self._begin[1] + int(window.row_off), columns, rows
        lattice, grid = self.service.lattice, self._grid
        west, south, east, north = grid.bounds_of(window)
        around = MARGIN * grid.resolution
        bounds = west - around, south - around, east + around, north + around
        west, south, east, north = transform_bounds(grid.crs.to_wkt(), lattice.crs.to_wkt(), *bounds, densify_pts=21)
        left = math.floor((west - lattice.west) / lattice.pixel) - MARGIN
        top = math.floor((lattice.north - north) / lattice.pixel) - MARGIN
        right = math.ceil((east - lattice.west) / lattice.pixel) + MARGIN
        bottom = math.ceil((lattice.north - south) / lattice.pixel) + MARGIN
        return left, top, right - left, bottom - top

    def _warped(self, grey: np.ndarray, under: tuple[int, int, int, int], window: Window) -> np.ndarray:
        """Return a window of the grid from a rectangle of the lattice; 0 is no data in both."""
        lattice, grid = self.service.lattice, self._grid
        pixel = lattice.pixel
        begin = Affine(pixel, 0, lattice.west + under[0] * pixel, 0, -pixel, lattice.north - under[1] * pixel)
        warped = np.zeros((int(window.height), int(window.width)), np.uint8)
        if not grey.any():
            return warped
        x, y = self._scale  # else GDAL takes another for each window, which makes seams
        reproject(
            grey,
            warped,
            src_transform=begin,
            src_crs=lattice.crs.to_wkt(),
            src_nodata=0,
            dst_transform=grid.transform_of(window),
            dst_crs=grid.crs.to_wkt(),
            dst_nodata=0,
            resampling=Resampling.average if min(x, y) * FINER < 1 else Resampling.cubic,
            XSCALE=x,
            YSCALE=y,
        )
        return warped

    def _mosaic(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Return a rectangle of the lattice, 0 where there is no data."""
        side = self.service.lattice.side
        whole = np.zeros((height, width), np.uint8)
        for (column, row), grey in self._fetched(self.service.lattice.blocks_in(left, top, width, height)):
            x, y = column * side - left, row * side - top
            into = np.s_[max(y, 0) : min(y + side, height), max(x, 0) : min(x + side, width)]
            whole[into] = grey[max(-y, 0) : height - y, max(-x, 0) : width - x]
        return whole

    def _fetched(self, blocks: list[Block]) -> Iterator[tuple[Block, np.ndarray]]:
        """Yield the grey values of blocks, in any order."""
        with ExitStack() as stack:
            told = self.on_block
            if told is None and len(blocks) >= MANY:
                told = stack.enter_context(Bar("photo", total=len(blocks), unit="block")).step
            for block, grey in self._crew.run(self._block, blocks):
                yield block, grey
                if told is not None:
                    told()

    def _block(self, block: Block, stop: threading.Event) -> np.ndarray:
        """Return the grey values of a block: from the cache, else from the server."""
        service, name = self.service, _name(block)
        kept = self.cache.get(name, days=MONTH)
        if kept is not None:
            try:
                return self._nothing() if not kept else service.pixels(kept)
            except Unusable:  # written by another version, say
                pass
        pixels: list[np.ndarray] = []
        url, parameters = service.request(block)
        answer = self._client.ask(
            url,
            parameters,
            check=lambda answer: pixels.append(service.pixels_of(answer)),
            nothing=service.nothing,
            stop=stop,
        )
        self.cache.put(name, answer.body)
        return pixels[-1] if pixels else self._nothing()

    def _nothing(self) -> np.ndarray:
        side = self.service.lattice.side
        return np.zeros((side, side), np.uint8)


def source_of(project: Project, area: Bounds | None) -> RemoteSource:
    """Return the photo of a case that a server gives; `area` is its bounds in the CRS of the case, if it has some.

    Raises:
        PhotoError: the server does not have what the settings name.
        SourceError: it does not say what it has.

    """
    settings, where = project.photo, project.file
    if not isinstance(settings, (WmsPhoto, WmtsPhoto, XyzPhoto)):
        raise TypeError(f"{settings.source} is no server")
    client = Client(settings.access, where)
    case = Case(project.crs, area, project.tiles.resolution, where)
    if isinstance(settings, WmsPhoto):
        service = photo_wms.service_of(settings, _offer(client, settings), case)
    elif isinstance(settings, WmtsPhoto):
        service = photo_tiles.wmts(settings, _offer(client, settings), case)
    else:
        service = photo_tiles.xyz(settings, case)
    return RemoteSource(service, client, settings.access.connections)


def forget_offer(project: Project) -> None:
    """Forget what a server said that it has, so that it is asked again."""
    settings = project.photo
    if isinstance(settings, (WmsPhoto, WmtsPhoto)):
        _said(settings).forget()


def _offer(client: Client, settings: WmsPhoto | WmtsPhoto) -> bytes:
    """Return what a server says that it has: kept from before, as long as the layer is in it, so also offline."""
    cache = _said(settings)
    kept = cache.get("capabilities")
    if kept:
        return kept
    there: list[bool] = []
    if isinstance(settings, WmsPhoto):
        url, parameters = photo_wms.capabilities_of(settings)
        answer = client.ask(url, parameters, check=lambda one: there.append(photo_wms.has(one.body, settings)))
    else:
        url, parameters = photo_tiles.capabilities_of(settings)
        answer = client.ask(url, parameters, check=lambda one: there.append(photo_tiles.has(one.body, settings)))
    body = ADDRESS.sub(lambda found: client.veiled(found[0].decode()).encode(), answer.body)
    if there[-1] and not client.tells(body):
        cache.put("capabilities", body)
    return body


def _said(settings: WmsPhoto | WmtsPhoto) -> BlockCache:
    key = settings.model_dump(mode="json", include={"source", "url", "layer"})
    return BlockCache(key | {"parameters": dict(settings.access.parameters), "what": "capabilities"})


def _scale(lattice: Lattice, grid: Grid) -> tuple[float, float]:
    """Return how many pixels of the grid there are to one of the lattice, to the east and to the south, amid the grid.

    GDAL would take another for each window, which makes seams.
    """
    west, south, east, north = grid.bounds
    x, y, step = (west + east) / 2, (south + north) / 2, 100 * grid.resolution
    columns, rows = transform(grid.crs.to_wkt(), lattice.crs.to_wkt(), [x, x + step, x], [y, y, y - step])
    spans = (abs(columns[1] - columns[0]), abs(rows[2] - rows[0]))
    return 100 * lattice.pixel / spans[0], 100 * lattice.pixel / spans[1]


def _name(block: Block) -> str:
    return f"{block[0]}_{block[1]}"
