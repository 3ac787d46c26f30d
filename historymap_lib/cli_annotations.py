"""`historymap annotations`: what people have judged, from a terminal."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib.annotation_store import VERDICTS, AnnotationStore, as_annotation
from historymap_lib.errors import AnnotationsError
from historymap_lib.project import load

if TYPE_CHECKING:
    import argparse

    from historymap_lib.project import Project

SHOWN = 10
"""Problems and conflicts that are printed one by one."""


def import_file(options: argparse.Namespace) -> None:
    """Add the annotations of a file to those of a case: all, or with --keep-good those that are right."""
    from historymap_lib.annotation_files import read_file  # noqa: PLC0415 - geopandas takes its time

    project = load(options.config)
    found = read_file(options.file)
    unknown = _unknown(project, [entry.building_id for entry in found.entries])
    problems = found.problems + [f"{options.file}: {name} is no building of the case" for name in unknown]
    for problem in problems[:SHOWN]:
        print(problem)
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    if problems and not options.keep_good:
        raise AnnotationsError(
            f"{options.file}: {len(problems)} of {len(found.entries) + len(found.problems)} rows are wrong and nothing "
            "was imported; correct them, or take the others with --keep-good"
        )
    good = [entry for entry in found.entries if entry.building_id not in unknown]
    done = AnnotationStore.of(project).absorb(good)
    print(f"{done.new} imported, {done.known} known already, {len(problems)} left out")


def export_file(options: argparse.Namespace) -> None:
    """Write what holds now to a file by its ending."""
    from historymap_lib.annotation_files import write_file  # noqa: PLC0415 - geopandas takes its time

    project = load(options.config)
    held = AnnotationStore.of(project).get().values()
    count = write_file(options.file, map(as_annotation, held), project)
    print(f"{options.file}: {count} of {len(held)} annotations")


def stats(options: argparse.Namespace) -> None:
    """Print who has judged how much, how well people agree, and where they do not."""
    from historymap_lib import agreement  # noqa: PLC0415 - pandas takes its time

    store = AnnotationStore.of(load(options.config))
    latest, told = store.by_person(), _numbers(store)
    if options.json:
        print(json.dumps(told, indent=2))
        return
    print(f"{told['buildings']} buildings: " + ", ".join(f"{told[name]} {name.replace('_', ' ')}" for name in VERDICTS))
    for name, count in told["people"].items():
        print(f"  {name or '(nobody named)'}: {count}")
    for pair in agreement.pairs(latest):
        kappa = "" if pair.kappa is None else f", Cohen's kappa {pair.kappa:.2f}"
        print(f"  {pair.one} and {pair.other}: {pair.alike} of {pair.buildings} alike{kappa}")
    if told["fleiss_kappa"] is not None:
        print(f"Fleiss' kappa {told['fleiss_kappa']:.2f}")
    disputed = agreement.conflicts(latest)
    for building, events in list(disputed.items())[:SHOWN]:
        print(f"  {building}: " + ", ".join(f"{event.annotator} says {event.verdict}" for event in events))
    if len(disputed) > SHOWN:
        print(f"  ... {len(disputed)} buildings in dispute")
    if store.note:
        print(store.note)


def undo(options: argparse.Namespace) -> None:
    """Undo the latest judgement of a person."""
    event = AnnotationStore.of(load(options.config)).undo(options.annotator)
    if event is None:
        raise AnnotationsError(f"{options.annotator!r} has judged nothing that could be undone; stats lists the people")
    print(f"{event.building}: {event.verdict} by {event.annotator} of {event.made_at} is undone")


def _numbers(store: AnnotationStore) -> dict[str, Any]:
    from historymap_lib import agreement  # noqa: PLC0415 - pandas takes its time

    latest, current = store.by_person(), store.get().values()
    counts = Counter(event.verdict for event in current)
    return {
        "buildings": len(current),
        **{name: counts[name] for name in VERDICTS},
        "people": dict(Counter(event.annotator for event in latest).most_common()),
        "pairs": [vars(pair) for pair in agreement.pairs(latest)],
        "fleiss_kappa": agreement.fleiss(latest),
        "conflicts": sorted(agreement.conflicts(latest)),
        "not_applied": store.pending(),
    }


def _unknown(project: Project, names: list[str]) -> list[str]:
    """Return those that are no building of the verdicts; none before there are any."""
    from historymap_lib import verdicts  # noqa: PLC0415 - geopandas takes its time

    if not verdicts.has_any(project):
        return []
    known = verdicts.building_ids(project)
    return sorted(set(names) - known)


def add_commands(commands: Any, new: Any, add_config: Any) -> None:
    """Add `annotations` and what it can do to a parser; the functions are those of `cli`."""
    parser = new(commands, "annotations", "what people have judged: import, export, how well they agree, undo")
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    taken = new(names, "import", "add those of a file (.json, .csv, .geojson, .gpkg) to the case")
    taken.add_argument("--keep-good", action="store_true", help="import the rows that are right if some are wrong")
    given = new(names, "export", "write what holds now to a file, by its ending .json, .csv, .geojson or .gpkg")
    for one, run in ((taken, import_file), (given, export_file)):
        one.add_argument("file", type=Path, metavar="FILE")
        one.set_defaults(run=run)
    told = new(names, "stats", "who has judged how much, and how well people agree")
    told.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    told.set_defaults(run=stats)
    back = new(names, "undo", "take back the latest judgement of a person")
    back.add_argument("annotator", metavar="PERSON", help="as stats names them")
    back.set_defaults(run=undo)
    for one in (taken, given, told, back):
        add_config(one)
