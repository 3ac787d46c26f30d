"""What a Web Map Service says that it offers: layers, CRSs, extents, formats.

Read here and not by a library: servers answer in another version than they were asked for, leave out parts that the
schema wants, or name their elements without a namespace. So elements are looked for by their names alone, and what
is not there is empty. OGC 01-068r3 (WMS 1.1.1) and 06-042 (1.3.0).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pyproj import CRS
from pyproj.exceptions import CRSError

from historymap_lib.http import Unusable, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Bounds = tuple[float, float, float, float]
PASSING = re.compile(r"(?i)time.?out|timed out|busy|overload|temporar|too many|try again|memory|connect")
"""What a server says of a trouble that may pass."""


@dataclass(frozen=True)
class Layer:
    """A layer: its CRSs as the server names them, and its extent in degrees and in some of these CRSs (x, y)."""

    name: str
    title: str
    crs: tuple[str, ...]
    degrees: Bounds | None
    bounds: dict[str, Bounds]
    styles: tuple[str, ...]


@dataclass(frozen=True)
class Offer:
    """What a WMS offers; `largest` is the number of pixels that a picture may have along a side, or None."""

    version: str
    title: str
    formats: tuple[str, ...]
    layers: dict[str, Layer]
    largest: int | None


def read_offer(body: bytes) -> Offer:
    """Read the capabilities of a WMS.

    Raises:
        Unusable: they are none.

    """
    root = root_of(body)
    if tag(root) not in ("WMS_Capabilities", "WMT_MS_Capabilities"):
        raise refusal(body, "no capabilities of a WMS")
    version = root.get("version", "1.3.0")
    layers: dict[str, Layer] = {}
    for top in all_of(root, "Capability", "Layer"):
        for layer in _layers(top, version, None):
            layers.setdefault(layer.name, layer)
    formats = [text(one) for one in all_of(root, "Capability", "Request", "GetMap", "Format")]
    limits = [int(value) for key in ("MaxWidth", "MaxHeight") if (value := text_at(root, "Service", key)).isdecimal()]
    return Offer(version, text_at(root, "Service", "Title"), tuple(formats), layers, min(limits, default=None))


def root_of(body: bytes) -> ET.Element:
    """Return the root of an XML document.

    Raises:
        Unusable: it is none, or cut off.

    """
    try:
        return ET.fromstring(body)  # noqa: S314 - expat refuses what grows beyond measure, since 2.4
    except ET.ParseError:
        said = text_of(body)
        raise Unusable(f"answers with XML that is broken or none: {said or 'nothing'}", again=True) from None


def refusal(body: bytes, instead: str) -> Unusable:
    """Return what to say of a text that came instead of what was asked for; an exception of OGC's tells by its code.

    A server that names a code (LayerNotDefined) will say the same again; one that does not may only be busy.
    """
    said = text_of(body) or "nothing"
    code = re.search(rb"""(?:code|exceptionCode)\s*=\s*["']([A-Za-z.]+)["']""", body[: 1 << 14])
    lasting = code is not None and code[1] not in (b"NoApplicableCode", b"CurrentUpdateSequence")
    again = not lasting or bool(PASSING.search(said))
    name = f"{code[1].decode()}, " if code is not None and code[1].decode() not in said else ""
    return Unusable(f"answers with {instead}, but says: {name}{said}", again=again)


def swapped(name: str) -> bool:
    """Say whether a CRS, as a WMS 1.3.0 or a WMTS names it, has its north axis first; `CRS:84` and alike do not.

    Raises:
        CRSError: PROJ does not know it.

    """
    axes = known(name).axis_info
    return len(axes) > 1 and (axes[1].direction.lower() in ("east", "west") or axes[0].name.lower().startswith("north"))


def code_of(name: str) -> str:
    """Return the short name of a CRS: `EPSG:4326` for `urn:ogc:def:crs:EPSG::4326` and the like."""
    found = re.fullmatch(r"(?i)(?:urn:(?:ogc|x-ogc):def:crs:|https?://www\.opengis\.net/def/crs/)?"
                         r"(\w+)[:/]+(?:[\w.]*[:/])*(\w+)", name.strip())  # fmt: skip
    return f"{found[1].upper()}:{found[2]}" if found else name.strip()


def known(name: str) -> CRS:
    """Return a CRS by the name that a server gives it.

    Raises:
        CRSError: PROJ does not know it.

    """
    code = code_of(name)
    return CRS.from_user_input({"CRS:84": "OGC:CRS84", "EPSG:900913": "EPSG:3857"}.get(code, code))


def tag(element: ET.Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rsplit("}", 1)[-1]


def all_of(element: ET.Element, *path: str) -> list[ET.Element]:
    """Return the elements at a path, by their names without namespaces."""
    found = [element]
    for name in path:
        found = [child for one in found for child in one if tag(child) == name]
    return found


def text(element: ET.Element) -> str:
    """Return the text of an element."""
    return " ".join((element.text or "").split())


def text_at(element: ET.Element, *path: str) -> str:
    """Return the text of the first element at a path, or an empty one."""
    return next(map(text, all_of(element, *path)), "")


def _layers(element: ET.Element, version: str, above: Layer | None) -> Iterator[Layer]:
    """Yield a layer that can be asked for, and those below it, which inherit CRSs, extents and styles."""
    crs = [name for kind in ("CRS", "SRS") for one in all_of(element, kind) for name in text(one).split()]
    found = {name: bounds for one in all_of(element, "BoundingBox") for name, bounds in _box(one, version)}
    layer = Layer(
        text_at(element, "Name"),
        text_at(element, "Title"),
        tuple(dict.fromkeys([*(above.crs if above else ()), *crs])),
        _degrees(element) or (above.degrees if above else None),
        found or (above.bounds if above else {}),
        (*(above.styles if above else ()), *(text_at(one, "Name") for one in all_of(element, "Style"))),
    )
    if layer.name:
        yield layer
    for child in all_of(element, "Layer"):
        yield from _layers(child, version, layer)


def _degrees(element: ET.Element) -> Bounds | None:
    """Return the extent in degrees: 1.3.0 has it in elements, 1.1.1 in attributes."""
    sides = ("westBoundLongitude", "southBoundLatitude", "eastBoundLongitude", "northBoundLatitude")
    for one in all_of(element, "EX_GeographicBoundingBox"):
        return _numbers([text_at(one, side) for side in sides])
    for one in all_of(element, "LatLonBoundingBox"):
        return _numbers([one.get(name, "") for name in ("minx", "miny", "maxx", "maxy")])
    return None


def _box(element: ET.Element, version: str) -> Iterator[tuple[str, Bounds]]:
    """Yield the CRS of an extent, and the extent as x, y: 1.3.0 has the axes in the order of the CRS."""
    name = element.get("CRS") or element.get("SRS") or ""
    numbers = _numbers([element.get(key, "") for key in ("minx", "miny", "maxx", "maxy")])
    if name and numbers:
        try:
            turned = version.startswith("1.3") and swapped(name)
        except CRSError:
            return
        a, b, c, d = numbers
        yield code_of(name), (b, a, d, c) if turned else numbers


def _numbers(values: list[str]) -> Bounds | None:
    try:
        west, south, east, north = map(float, values)
    except ValueError:
        return None
    fine = all(map(math.isfinite, (west, south, east, north))) and west < east and south < north
    return (west, south, east, north) if fine else None
