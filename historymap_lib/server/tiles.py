"""GET historymap/tiles/<key>/<z>/<x>/<y>: a tile of 256 x 256 pixels of a display copy (see `display`).

Zoom, column and row are those of every web map (EPSG:3857, rows from the north). Tiles are drawn by rio-tiler in
threads; each thread keeps the files open that it has read last, since GDAL's datasets cannot be shared.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from PIL import Image
from prometheus_client import Counter
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from tornado.web import HTTPError, authenticated

from historymap_lib.display import copy_of
from historymap_lib.display_layers import MAX_ZOOM, TILE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from rio_tiler.io import Reader

PATTERN = r"historymap/tiles/([0-9A-Za-z]{1,64})/(\d{1,2})/(\d{1,8})/(\d{1,8})"
OPEN = 4
"""Files that a thread keeps open."""
GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": 128 * 2**20}
"""Nothing lies beside a copy that GDAL should look for; rasterio takes the cache in bytes, a block has 2**16."""
FOREVER, ASK_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"
"""How long a browser keeps a tile: with the stamp of its copy in the address for good."""
JPEG, PNG = "image/jpeg", "image/png"
JPEG_QUALITY = 85
BROKEN = RasterioError, CPLE_BaseError

SERVED = Counter("historymap_tiles_served", "Tiles of the map that were served.")

_threads = threading.local()
_importing = threading.Lock()


class TileHandler(APIHandler):
    """A tile; 403 without login, 404 where there is no such copy or tile, 503 where the copy is broken."""

    auth_resource = "contents"

    @authenticated
    @authorized
    async def get(self, key: str, *place: str) -> None:
        """Answer with a JPEG where the tile is opaque, else with a PNG."""
        z, x, y = (int(number) for number in place)
        if z > MAX_ZOOM or max(x, y) >= 2**z:
            raise HTTPError(404, f"there is no tile {z}/{x}/{y} on a web map")
        path = copy_of(key)
        if path is None:
            raise HTTPError(404, "there is no such copy of a photo; open the map again, which makes it")
        try:
            kind, image = await asyncio.get_running_loop().run_in_executor(_pool(), draw, path, z, x, y)
        except (OSError, *BROKEN) as error:
            raise HTTPError(503, f"{path.name}: cannot be read; delete it and open the map again") from error
        SERVED.inc()
        self.set_header("Cache-Control", FOREVER if self.get_query_argument("v", None) else ASK_AGAIN)
        self.finish(image, set_content_type=kind)


def handlers(base: str) -> list[tuple[str, type[TileHandler]]]:
    """Return what to add to a server whose addresses begin with `base`."""
    return [(url_path_join(re.escape(base), PATTERN), TileHandler)]


def draw(path: Path, z: int, x: int, y: int) -> tuple[str, bytes]:
    """Return the kind of image and the image of a tile of a display copy.

    Raises:
        OSError: the file is gone.
        RasterioError, CPLE_BaseError: it is damaged.

    """
    try:
        return _drawn(path, z, x, y)
    except BROKEN:  # perhaps another file was: GDAL tells a thread of an error with its next work at the latest
        _close(path)
        return _drawn(path, z, x, y)


def _drawn(path: Path, z: int, x: int, y: int) -> tuple[str, bytes]:
    from rio_tiler.errors import TileOutsideBounds  # noqa: PLC0415 - takes most of a second

    try:
        tile = _reader(path).tile(x, y, z, resampling_method="bilinear")
    except TileOutsideBounds:
        return PNG, _nothing()
    return _encoded(tile.array.data, tile.mask)


def _encoded(bands: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> tuple[str, bytes]:
    """Return bands x height x width of grey or colour as a JPEG where all is opaque, else as a PNG."""
    if not alpha.any():
        return PNG, _nothing()
    buffer = BytesIO()
    if alpha.min() == np.iinfo(np.uint8).max:
        Image.fromarray(np.squeeze(np.moveaxis(bands, 0, -1))).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return JPEG, buffer.getvalue()
    Image.fromarray(np.dstack([*bands, alpha])).save(buffer, "PNG", compress_level=1)
    return PNG, buffer.getvalue()


@cache
def _nothing() -> bytes:
    """Return a tile on which nothing is."""
    buffer = BytesIO()
    Image.new("LA", (TILE, TILE)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _reader(path: Path) -> Reader:
    """Return this thread's open file; another where the file has been written anew."""
    from rio_tiler.io import Reader  # noqa: PLC0415 - takes most of a second

    stat = path.stat()
    state = stat.st_ino, stat.st_mtime_ns, stat.st_size
    opened = _opened()
    if path not in opened or opened[path][0] != state:
        _close(path)
        opened[path] = state, Reader(str(path))
        if len(opened) > OPEN:
            _close(next(iter(opened)))
    opened.move_to_end(path)
    return opened[path][1]


def _close(path: Path) -> None:
    if path in _opened():
        _opened().pop(path)[1].close()


def _opened() -> OrderedDict[Path, tuple[Any, Reader]]:
    """Return the files that this thread keeps open, with what told one state from another; the last read comes last."""
    found: OrderedDict[Path, tuple[Any, Reader]] = _threads.__dict__.setdefault("opened", OrderedDict())
    return found


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, "historymap-tiles", _begin)


def _begin() -> None:
    """Set the options of GDAL for a thread of the pool, once and for all.

    Two threads that import rio-tiler at once can find it half there, so they do it one after the other.
    """
    with _importing:
        import rio_tiler.errors  # noqa: PLC0415 - takes most of a second, which the server need not wait for
        import rio_tiler.io  # noqa: F401, PLC0415
    _threads.environment = rasterio.Env(**GDAL)
    _threads.environment.__enter__()
