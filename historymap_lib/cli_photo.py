"""`historymap photo`: bring it down from its server, look at it, lay it on the map, and see what a server has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib.errors import PhotoError
from historymap_lib.project import load
from historymap_lib.settings import Access

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from historymap_lib.photo_info import ServerInfo

SHOWN = 8
"""CRSs of a layer that are printed."""
FORMATS = ("image/png", "image/jpeg", "image/tiff")
"""Those that the settings take."""


def fetch(options: argparse.Namespace) -> None:
    """Bring the photo of a case down from its server."""
    from historymap_lib.photo_fetch import fetch as fetch_photo  # noqa: PLC0415 - reads rasters, which takes its time

    print(fetch_photo(load(options.config), fresh=options.fresh).summary)


def align(options: argparse.Namespace) -> None:
    """Measure how far the photo of a case lies from the map."""
    from historymap_lib.photo_align import align as measure  # noqa: PLC0415 - reads rasters, which takes its time

    print(measure(load(options.config), reach=options.reach).summary)


def preview(options: argparse.Namespace) -> None:
    """Draw the area of a case, with today's buildings on it where they are at hand."""
    from historymap_lib.photo_preview import preview as draw  # noqa: PLC0415 - matplotlib takes its time

    print(draw(load(options.config), options.output).summary)


def info(options: argparse.Namespace) -> None:
    """Say which photos a server has, or what is known of the photo of a case."""
    from historymap_lib import photo_info  # noqa: PLC0415 - reads rasters, which takes its time

    if options.url is None:
        told = photo_info.describe(load(options.config))
        print(json.dumps(told, indent=2, ensure_ascii=False) if options.json else _described(told))
        return
    offer = photo_info.ask(options.url, Access(), Path("the command"))
    found = offer.find(options.layer) if options.layer else offer
    if options.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    print(_listed(found))
    if not found.layers:
        raise PhotoError(f"{options.url}: has no layer like {options.layer!r}; leave out --layer to see all")
    if len(found.layers) == 1:
        print(f"\nin the settings of a case:\n\n{found.example(found.layers[0])}")


def _listed(offer: ServerInfo) -> str:
    """Return the layers of a server for people."""
    formats = ", ".join(one for one in offer.formats if one in FORMATS)
    number = "1 layer" if len(offer.layers) == 1 else f"{len(offer.layers)} layers"
    lines = [
        f"{offer.source.upper()} {offer.title or offer.url}: {number}, {formats or 'in no format that can be read'}"
    ]
    for one in offer.layers:
        more = f" and {len(one.crs) - SHOWN} more" if len(one.crs) > SHOWN else ""
        lines.append(f"{one.name}" + (f"  ({one.title})" if one.title and one.title != one.name else ""))
        lines.append(f"    {', '.join(one.crs[:SHOWN])}{more}")
        if one.bounds:
            lines.append(f"    {_in_degrees(one.bounds)}")
        if one.resolution:
            lines.append(f"    finest tiles: {one.resolution:.3g} m a pixel")
    return "\n".join(lines)


def _described(told: dict[str, Any]) -> str:
    """Return the photo of a case for people."""
    year = f", {told['year']}" if told["year"] else ""
    lines = [f"{told['name']}{year}: {told.get('url') or told['source']}"]
    for one in told.get("files", ()):
        lines.append(f"{one['path']}: {one['width']} x {one['height']} pixels of {one['pixel'][0]:g} in {one['crs']}")
        lines.append(f"    {one['bands']} band(s) of {one['type']}, no data: {one['nodata']}")
        if one["bounds"]:
            lines.append(f"    {_in_degrees(one['bounds'])}")
    if "asked_in" in told:
        asked = told["asked_in"]
        lines.append(f"asked in {asked['crs']} for blocks of {asked['block']} pixels of {asked['pixel']:g}")
        if told["bounds"]:
            lines.append(f"    {_in_degrees(told['bounds'])}")
        lines.append(f"the area takes {told['requests']:,} requests; copy: {told['copy'] or 'none (photo fetch)'}")
    area = told["area"]
    lines.append(f"area: {area['width']} x {area['height']} pixels of {area['resolution']:g} m in {area['crs']}")
    return "\n".join(lines)


def _in_degrees(bounds: Sequence[float]) -> str:
    return "west {:.5f}, south {:.5f}, east {:.5f}, north {:.5f}".format(*bounds)


def add_commands(commands: Any, new: Any, add_config: Any) -> None:
    """Add `photo` and what it can do to a parser; the functions are those of `cli`."""
    parser = new(commands, "photo", "the photo: fetch it from its server, look at it, see what a server has")
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    brought = new(names, "fetch", "bring the photo of a case down from its server, once, for all steps")
    brought.add_argument("--fresh", action="store_true", help="ask for everything again, also what was fetched before")
    brought.set_defaults(run=fetch)
    drawn = new(names, "preview", "draw the area, with today's buildings on it where they are at hand")
    drawn.add_argument("--output", type=Path, metavar="PNG", help="where to write it (default: beside the photo)")
    drawn.set_defaults(run=preview)
    told = new(names, "info", "the layers, CRSs, extents and resolutions of a server, or the photo of a case")
    told.add_argument("url", nargs="?", metavar="URL", help="of a WMS or WMTS (default: the photo of the case)")
    told.add_argument("--layer", metavar="TEXT", help="only layers with this in their name or title")
    told.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    told.set_defaults(run=info)
    moved = new(names, "align", "measure how far the photo lies from the map, for verify and the training tiles")
    moved.add_argument("--reach", type=float, default=10.0, metavar="METRES", help="how far to look (default: 10)")
    moved.set_defaults(run=align)
    for one in (brought, drawn, told, moved):
        add_config(one)
