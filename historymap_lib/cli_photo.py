"""`historymap photo`: bring it down from its server, look at it, and see what a server has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from historymap_lib.project import load

if TYPE_CHECKING:
    import argparse


def fetch(options: argparse.Namespace) -> None:
    """Bring the photo of a case down from its server."""
    from historymap_lib.photo_fetch import fetch as fetch_photo  # noqa: PLC0415 - reads rasters, which takes its time

    print(fetch_photo(load(options.config), fresh=options.fresh).summary)


def add_commands(commands: Any, new: Any, add_config: Any) -> None:
    """Add `photo` and what it can do to a parser; the functions are those of `cli`."""
    parser = new(commands, "photo", "the photo: fetch it from its server, look at it, see what a server has")
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    brought = new(names, "fetch", "bring the photo of a case down from its server, once, for all steps")
    brought.add_argument("--fresh", action="store_true", help="ask for everything again, also what was fetched before")
    brought.set_defaults(run=fetch)
    add_config(brought)
