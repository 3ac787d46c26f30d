"""Today's buildings from OpenStreetMap by an Overpass server, as an extract in OSM XML.

Overpass answers late, or with an error inside a 200 answer, or asks to wait; so an answer counts only when it is whole:
it says which state of the map it shows, bears no remark, and has every node and way that it refers to. Where the server
runs out of time or memory, the area is cut into four. What comes is written as an extract of OpenStreetMap, from which
GDAL's own reader puts outlines and courtyards together, as it does of a `.osm.pbf`.

The language: https://wiki.openstreetmap.org/wiki/Overpass_API/Overpass_QL
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.sax.saxutils import quoteattr

from historymap_lib.errors import FootprintsError, SourceError
from historymap_lib.http import Client, Unusable, text_of
from historymap_lib.progress import Bar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from historymap_lib.http import Answer
    from historymap_lib.settings import OverpassFootprints

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees (EPSG:4326)."""

QUERY = """[out:json][timeout:{timeout}][bbox:{south:.7f},{west:.7f},{north:.7f},{east:.7f}];
(way["building"];relation["building"];);
out body;
>;
out skel qt;
"""
DEEPEST = 4
"""How often an area is cut into four before it is given up."""
SLACK = 30
"""Seconds that a server may take to send what it has found, beside the time for the query."""
EXHAUSTED = re.compile(r"timed out|out of memory|run out of|too much|maxsize", re.IGNORECASE)
"""What a server remarks when less would do."""
KM = 111.2
"""Kilometres of a degree of latitude."""
LARGEST = 1 << 31
"""Bytes of an answer."""
KINDS = ("node", "way", "relation")


class _TooMuch(Exception):  # noqa: N818 - nobody sees it: it says to ask for less
    """The server could not do it at once; asking the same again is no use."""


@dataclass
class Extract:
    """Elements of OpenStreetMap: of each kind by id, as Overpass writes them in JSON.

    Attributes:
        elements: by kind (node, way, relation) and id.
        dates: which states of the map they show (ISO 8601, UTC), one a query.
        server: who gave it.

    """

    elements: dict[str, dict[int, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    dates: list[str] = field(default_factory=list)
    server: str = ""

    def add(self, answer: dict[str, Any]) -> None:
        """Take the elements of an answer; one with tags counts more than the same without."""
        self.dates.append(answer["osm3s"]["timestamp_osm_base"])
        for element in answer["elements"]:
            known = self.elements[element["type"]]
            if element["id"] not in known or "tags" in element:
                known[element["id"]] = element

    def write(self, path: Path) -> None:
        """Write OSM XML (version 0.6), nodes before ways before relations, each by number, as GDAL wants them."""
        with path.open("w", encoding="utf-8") as file:
            file.write('<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6" generator="historymap">\n')
            for kind in KINDS:
                for number in sorted(self.elements[kind]):
                    file.writelines(_xml(self.elements[kind][number]))
            file.write("</osm>\n")


def fetch(settings: OverpassFootprints, bounds: Bounds, where: Path) -> Extract:
    """Return all buildings that reach into bounds, with the nodes and ways that they are made of.

    Args:
        settings: which servers to ask, and how; a mirror is asked when the one before has failed.
        bounds: in degrees.
        where: the file of the settings, for messages.

    Raises:
        FootprintsError: there is no building.
        SourceError: no server gives a whole answer.

    """
    troubles: list[SourceError] = []
    for number, url in enumerate([settings.url, *settings.mirrors]):
        access = settings.access if number == 0 else settings.access.anonymous()
        patient = max(access.timeout, settings.timeout + SLACK)
        client = Client(access.model_copy(update={"timeout": patient}), where)
        try:
            found = _whole(client, url, settings, bounds, where)
        except SourceError as error:
            troubles.append(error)
            continue
        if not (found.elements["way"] or found.elements["relation"]):
            raise FootprintsError(
                f"{where}: OpenStreetMap has no building in {', '.join(f'{side:.5f}' for side in bounds)} "
                "(west, south, east, north); correct area.bounds"
            )
        found.server = url
        return found
    raise troubles[0] if len(troubles) == 1 else SourceError(f"{troubles[0]} (and no mirror answers: {troubles[-1]})")


def _whole(client: Client, url: str, settings: OverpassFootprints, bounds: Bounds, where: Path) -> Extract:
    """Ask one server for all parts of the area, cutting those that are too much for it."""
    found = Extract()
    waiting = [(part, 0) for part in _parts(bounds, settings.largest)]
    with Bar("buildings", total=len(waiting), unit="part") as bar:
        while waiting:
            part, depth = waiting.pop(0)
            try:
                found.add(_ask(client, url, settings, part))
            except _TooMuch as error:
                if depth == DEEPEST:
                    raise SourceError(
                        f"{urlsplit(url).hostname} {error}, however little it is asked for; try again later, "
                        f"or name another as footprints.url in {where}"
                    ) from None
                quarters = _cut(part, 2)
                waiting[:0] = [(quarter, depth + 1) for quarter in quarters]
                bar.grow(len(quarters))
            bar.step()
    return found


def _ask(client: Client, url: str, settings: OverpassFootprints, bounds: Bounds) -> dict[str, Any]:
    west, south, east, north = bounds
    query = QUERY.format(timeout=round(settings.timeout), west=west, south=south, east=east, north=north)
    answers: list[dict[str, Any]] = []
    client.ask(
        f"{url.rstrip('/').removesuffix('/interpreter')}/interpreter",
        data={"data": query},
        check=lambda answer: answers.append(read_answer(answer)),
        largest=LARGEST,
    )
    return answers[-1]


def read_answer(answer: Answer) -> dict[str, Any]:
    """Return what Overpass answers, once it is sure to be whole.

    Raises:
        Unusable: it is no answer, or half of one.

    """
    try:
        found = json.loads(answer.body)
    except ValueError:
        said = text_of(answer.body)
        if answer.body[:1] in {b"{", b"["} or not said:
            raise Unusable("gives half an answer", again=True) from None
        raise Unusable(f"gives no JSON but says: {said}", again=_is_busy(said)) from None
    if not isinstance(found, dict) or not isinstance(found.get("elements"), list):
        raise Unusable("gives JSON that is no answer of Overpass; is footprints.url right?")
    if remark := found.get("remark"):
        said = f"could not finish: {remark}"
        raise _TooMuch(said) if EXHAUSTED.search(said) else Unusable(said, again=True)
    if not isinstance(found.get("osm3s"), dict) or not found["osm3s"].get("timestamp_osm_base"):
        raise Unusable("gives an answer that does not say of which date it is", again=True)
    try:
        missing = _missing(found["elements"])
    except (KeyError, TypeError):
        raise Unusable("gives elements that are none of OpenStreetMap; is footprints.url right?") from None
    if missing:
        raise Unusable(f"gives an answer without {missing} of the nodes and ways that it names", again=True)
    return found


def _missing(elements: list[dict[str, Any]]) -> int:
    """Return how many nodes and ways are named but not there."""
    there: dict[str, set[int]] = {kind: set() for kind in KINDS}
    named: dict[str, set[int]] = {"node": set(), "way": set()}
    for element in elements:
        kind, number = element["type"], element["id"]
        there[kind].add(number)
        if kind == "node":
            float(element["lat"]), float(element["lon"])
        elif kind == "way":
            named["node"].update(element["nodes"])
        else:
            named["way"].update(member["ref"] for member in element["members"] if member["type"] == "way")
    return sum(len(named[kind] - there[kind]) for kind in named)


def _is_busy(said: str) -> bool:
    return re.search(r"too busy|timeout|rate_limited|try again", said, re.IGNORECASE) is not None


def _parts(bounds: Bounds, largest: float) -> list[Bounds]:
    """Return bounds cut into parts of at most so many square kilometres."""
    west, south, east, north = bounds
    area = (north - south) * KM * (east - west) * KM * math.cos(math.radians((south + north) / 2))
    return _cut(bounds, max(1, math.ceil(math.sqrt(area / largest))))


def _cut(bounds: Bounds, number: int) -> list[Bounds]:
    """Return `number` x `number` parts, which leave no gap."""
    west, south, east, north = bounds
    x = [west + (east - west) * i / number for i in range(number)] + [east]
    y = [south + (north - south) * i / number for i in range(number)] + [north]
    return [(x[i], y[j], x[i + 1], y[j + 1]) for j in range(number) for i in range(number)]


def _xml(element: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of an element."""
    kind, number = element["type"], element["id"]
    if kind == "node":
        yield f'<node id="{number}" lat="{element["lat"]}" lon="{element["lon"]}"'
        if not element.get("tags"):
            yield "/>\n"
            return
        yield ">\n"
    else:
        yield f'<{kind} id="{number}">\n'
    for node in element.get("nodes", ()):
        yield f'<nd ref="{node}"/>\n'
    for member in element.get("members", ()):
        what = quoteattr(str(member["type"]))
        yield f'<member type={what} ref="{member["ref"]}" role={quoteattr(str(member.get("role", "")))}/>\n'
    for key, value in (element.get("tags") or {}).items():
        yield f"<tag k={quoteattr(_printable(key))} v={quoteattr(_printable(value))}/>\n"
    yield f"</{kind}>\n"


def _printable(text: Any) -> str:
    """Return a text without the characters that XML 1.0 cannot hold."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", str(text))
