"""A server of tiles of the photo of Banepa: as a web map (XYZ, TMS), and as a WMTS by parameters and by paths."""

from __future__ import annotations

import io
import math
from urllib.parse import parse_qs, urlsplit

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

WORLD = 20037508.342789244
METRES_PER_DEGREE = 6378137 * math.pi / 180
WEB = {str(z): WORLD / 128 / 2**z for z in range(14, 20)}
QUADS = {str(z): 360 / 256 / 2**z for z in range(16, 20)}
SETS = {  # CRS as the server names it, corner (west, north), pixels by matrix
    "GoogleMapsCompatible": ("urn:ogc:def:crs:EPSG::3857", (-WORLD, WORLD), WEB),
    "UTM45": ("urn:ogc:def:crs:EPSG::32645", (350000.0, 3060000.0), {"coarse": 0.8, "fine": 0.4}),
    "WGS84": ("urn:ogc:def:crs:EPSG::4326", (-180.0, 90.0), QUADS),
}
LIMITS = {("UTM45", "fine"): (37, 41, 23, 29), ("UTM45", "coarse"): (18, 20, 11, 14)}
"""First and last column, first and last row."""

REFUSAL = b"<ExceptionReport><Exception exceptionCode='InvalidParameterValue'/></ExceptionReport>"
CAPABILITIES = """<?xml version="1.0" encoding="UTF-8"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1"
  xmlns:xlink="http://www.w3.org/1999/xlink" version="1.0.0">
<ows:ServiceIdentification><ows:Title>Tiles of Banepa</ows:Title></ows:ServiceIdentification>
{operations}
<Contents>
<Layer><ows:Title>Banepa then</ows:Title><ows:Identifier>then</ows:Identifier>
<ows:WGS84BoundingBox><ows:LowerCorner>{west} {south}</ows:LowerCorner>
<ows:UpperCorner>{east} {north}</ows:UpperCorner></ows:WGS84BoundingBox>
<Style><ows:Identifier>dark</ows:Identifier></Style>
<Style isDefault="true"><ows:Identifier>plain</ows:Identifier></Style>
<Format>image/jpeg</Format><Format>image/png</Format>
<Dimension><ows:Identifier>Time</ows:Identifier><Default>1937</Default><Value>1937</Value></Dimension>
{links}{resources}
</Layer>
{sets}
</Contents></Capabilities>"""


class Tiles:
    """Answers for paths below /xyz, /tms, /wmts (parameters) and /rest (paths)."""

    def __init__(self, path, degrees, url=""):
        self.path, self.degrees, self.url = path, degrees, url

    def answer(self, path):
        parts = urlsplit(path)
        steps = parts.path.strip("/").split("/")
        if steps[0] in ("xyz", "tms"):
            return self._web(*steps)
        if steps[-1] == "WMTSCapabilities.xml":
            return 200, "application/xml", self.capabilities(rest=True).encode()
        if steps[0] == "rest":
            style, time, name, matrix, row, column = steps[2:]
            kind = "png" if column.endswith(".png") else "jpeg"
            return self._tile(steps[1], style, time, name, matrix, int(row), int(column.split(".")[0]), kind)
        asked = {key.upper(): values[-1] for key, values in parse_qs(parts.query).items()}
        if asked.get("REQUEST") == "GetCapabilities":
            return 200, "text/xml", self.capabilities(rest=False).encode()
        place = asked["TILEMATRIXSET"], asked["TILEMATRIX"], int(asked["TILEROW"]), int(asked["TILECOL"])
        return self._tile(asked["LAYER"], asked["STYLE"], asked["TIME"], *place, asked["FORMAT"].split("/")[1])

    def capabilities(self, *, rest):
        """Return what the server offers; by paths it does not say how to ask by parameters, and the other way round."""
        west, south, east, north = self.degrees
        operation = (
            f'<ows:OperationsMetadata><ows:Operation name="GetTile"><ows:DCP><ows:HTTP>'
            f'<ows:Get xlink:href="{self.url}/wmts?"/></ows:HTTP></ows:DCP></ows:Operation></ows:OperationsMetadata>'
        )
        resources = "".join(
            f'<ResourceURL format="image/{kind}" resourceType="tile" template="{self.url}/rest/then/{{Style}}/{{Time}}/'
            f'{{TileMatrixSet}}/{{TileMatrix}}/{{TileRow}}/{{TileCol}}.{kind}"/>'
            for kind in ("png", "jpeg")
        )
        return CAPABILITIES.format(
            operations="" if rest else operation,
            resources=resources if rest else "",
            links="".join(map(_link, SETS)),
            sets="".join(map(_set, SETS)),
            **dict(zip(("west", "south", "east", "north"), (west, south, east, north), strict=True)),
        )

    def _web(self, kind, zoom, column, name):
        zoom, column, row = int(zoom), int(column), int(name.split(".")[0])
        if kind == "tms":
            row = 2**zoom - 1 - row
        pixel = WORLD / 128 / 2**zoom
        return self._cut(3857, (-WORLD, WORLD), pixel, row, column, "jpeg" if name.endswith("jpg") else "png")

    def _tile(self, layer, style, time, name, matrix, row, column, kind):
        if (layer, style, time) != ("then", "plain", "1937"):
            return (
                400,
                "text/xml",
                b"<ExceptionReport><Exception exceptionCode='InvalidParameterValue'/></ExceptionReport>",
            )
        first, last, top, bottom = LIMITS.get((name, matrix), (0, 1 << 30, 0, 1 << 30))
        if not (first <= column <= last and top <= row <= bottom):
            return 400, "text/xml", REFUSAL
        crs, corner, pixels = SETS[name]
        return self._cut(int(crs.rsplit(":", 1)[1]), corner, pixels[matrix], row, column, kind)

    def _cut(self, epsg, corner, pixel, row, column, kind):
        west, north = corner[0] + column * 256 * pixel, corner[1] - row * 256 * pixel
        shape = {"width": 256, "height": 256, "transform": rasterio.Affine(pixel, 0, west, 0, -pixel, north)}
        options = {"src_nodata": 0, "nodata": 0, "crs": f"EPSG:{epsg}", "resampling": Resampling.bilinear}
        with rasterio.open(self.path) as source, WarpedVRT(source, **shape, **options) as view:
            grey = view.read(1)
        if not grey.any():
            return 404, "text/plain", b"no such tile"
        return 200, f"image/{kind}", picture(grey, kind)


def picture(grey, kind="png"):
    """Return a picture; PNG can be seen through where there is no data."""
    file = io.BytesIO()
    if kind == "png":
        Image.fromarray(np.dstack([grey, np.where(grey > 0, 255, 0).astype(np.uint8)]), "LA").save(file, "PNG")
    else:
        Image.fromarray(grey).save(file, "JPEG", quality=95)
    return file.getvalue()


def _link(name):
    limits = "".join(
        f"<TileMatrixLimits><TileMatrix>{matrix}</TileMatrix><MinTileRow>{top}</MinTileRow>"
        f"<MaxTileRow>{bottom}</MaxTileRow><MinTileCol>{first}</MinTileCol><MaxTileCol>{last}</MaxTileCol>"
        "</TileMatrixLimits>"
        for (one, matrix), (first, last, top, bottom) in LIMITS.items()
        if one == name
    )
    limits = f"<TileMatrixSetLimits>{limits}</TileMatrixSetLimits>" if limits else ""
    return f"<TileMatrixSetLink><TileMatrixSet>{name}</TileMatrixSet>{limits}</TileMatrixSetLink>"


def _set(name):
    crs, (west, north), pixels = SETS[name]
    degrees = crs.endswith(":4326")
    unit = METRES_PER_DEGREE if degrees else 1.0
    corner = f"{north} {west}" if degrees else f"{west} {north}"  # the axes of EPSG:4326: latitude first
    matrices = "".join(
        f"<TileMatrix><ows:Identifier>{matrix}</ows:Identifier>"
        f"<ScaleDenominator>{pixel * unit / 0.00028!r}</ScaleDenominator><TopLeftCorner>{corner}</TopLeftCorner>"
        "<TileWidth>256</TileWidth><TileHeight>256</TileHeight>"
        f"<MatrixWidth>{1 << 22}</MatrixWidth><MatrixHeight>{1 << 22}</MatrixHeight></TileMatrix>"
        for matrix, pixel in pixels.items()
    )
    names = f"<ows:Identifier>{name}</ows:Identifier><ows:SupportedCRS>{crs}</ows:SupportedCRS>"
    return f"<TileMatrixSet>{names}{matrices}</TileMatrixSet>"
