"""`historymap footprints`: what today's buildings are, and a fresh snapshot of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from historymap_lib import artifacts
from historymap_lib.project import load

if TYPE_CHECKING:
    import argparse

    from historymap_lib.footprint_changes import Changes

SHOWN = 10
"""Buildings, and reasons, that are printed one by one."""


def info(options: argparse.Namespace) -> None:
    """Say where the buildings of a case come from, of which date they are, and what became of each."""
    from historymap_lib.footprint_source import read, source_file  # noqa: PLC0415 - geopandas takes its time
    from historymap_lib.imagery import area_of  # noqa: PLC0415

    project = load(options.config)
    path = source_file(project)
    told = artifacts.read_manifest(path) or {}
    found = read(project, path, area_of(project))
    reasons = found.rejected["reason"].value_counts().to_dict()
    dated = int(found.frame["start_date"].notna().sum())
    facts = {"file": str(path), "server": told.get("server"), "snapshot": told.get("snapshot") or None,
             "counts": found.counts, "rejected": reasons, "with_start_date": dated}  # fmt: skip
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    source = f", from {told['server']}" if told.get("server") else ""
    print(f"{path}{source}{', the map of ' + told['snapshot'] if told.get('snapshot') else ''}")
    print(found.summary())
    for reason, count in reasons.items():
        print(f"  rejected: {count} {reason}")
    print(f"  with a start_date: {dated}")


def refresh(options: argparse.Namespace) -> None:
    """Ask the server for today's buildings again, and list what is different."""
    from historymap_lib.footprint_changes import refresh as ask_again  # noqa: PLC0415 - geopandas takes its time

    project = load(options.config)
    found = ask_again(project)
    if found is None:
        print(f"{project.footprint_file}: the first snapshot, so nothing is compared")
    else:
        _show(found)


def _show(found: Changes) -> None:
    print(found.summary)
    for row in found.table.head(SHOWN).itertuples():
        share = f", {row.alike:.0%} alike" if row.change == "changed shape" else ""
        name = f" ({row.name})" if isinstance(row.name, str) else ""
        print(f"  {row.building_id}{name} {row.change}{share}{', judged by people' if row.annotated else ''}")
    if len(found.table) > SHOWN:
        print(f"  ... {len(found.table)} in all")
    judged = found.table["annotated"]
    if judged.any():
        print(f"{judged.sum()} of them were judged by people; what they said is kept: look at these again")
    if len(found.table):
        print("run verify next; the verdicts are of the buildings before")


def add_commands(commands: Any, new: Any, add_config: Any) -> None:
    """Add `footprints` and what it can do to a parser; the functions are those of `cli`."""
    parser = new(commands, "footprints", "today's buildings: where they come from, and a fresh snapshot of them")
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    told = new(names, "info", "where they come from, of which date, how many, and what was left out and why")
    told.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    told.set_defaults(run=info)
    asked = new(names, "refresh", "ask the server again; lists what came, went or changed shape, keeps annotations")
    asked.set_defaults(run=refresh)
    for one in (told, asked):
        add_config(one)
