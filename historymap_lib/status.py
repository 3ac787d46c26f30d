"""What a case has, how good and how old it is, and what to do next; read from manifests and stores, never an error."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from historymap_lib import artifacts, first_look, steps
from historymap_lib.annotation_store import VERDICTS, AnnotationStore, store_path, unpublished
from historymap_lib.annotations import read as read_annotations
from historymap_lib.errors import AnnotationsError, HistorymapError, PhotoError
from historymap_lib.fingerprints import looking_once, tree
from historymap_lib.imagery import photo_files
from historymap_lib.jobs.files import Files
from historymap_lib.jobs.store import ACTIVE, ENDED, Store
from historymap_lib.settings import FilePhoto

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from historymap_lib.project import Project

    Describe = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]

RECENT = 10
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Item:
    """One thing that a step makes.

    Attributes:
        step: what makes it; None for what people bring: photo, footprints, annotations.
        made_at: when, as ISO 8601.
        text: what there is to say of it, for people.
        facts: the same for programs.
        outdated: why it should be made anew, or None.
        size: bytes on the disk.

    """

    name: str
    path: str
    step: str | None
    exists: bool
    made_at: str | None
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    outdated: str | None = None
    size: int = 0


@dataclass(frozen=True)
class Status:
    """The things of a case in the order in which they are made, the command that is due, and the jobs.

    `due` is the step that comes next. `current` and `jobs` are as `historymap jobs list --json` prints them, the newest
    first; they are those of all cases that share the store. `odd` says what could not be read.
    """

    case: str
    items: list[Item]
    due: str | None
    next: str
    current: dict[str, Any] | None
    jobs: list[dict[str, Any]]
    size: int
    odd: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return lines for a terminal."""
        lines = [f"case {self.case}"]
        for item in self.items:
            note = f"; out of date, {item.outdated}" if item.outdated and item.exists else ""
            lines.append(f"{item.name:<16}{age(item.made_at):<16}{item.text}{note}")
        lines.append(f"{'on the disk':<32}{sized(self.size)}")
        if not any(item.exists for item in self.items if item.name in ("probability", "verdicts")):
            lines.append(f"{first_look.NAME:<32}in seconds, before any training: historymap run verify --quick")
        lines += [
            f"job {job['id']:<12}{job['state']:<16}{job['name']} {job['duration']}"
            + (f"; {job['error']}" if job["error"] else "")
            for job in self.jobs
        ]
        return "\n".join([*lines, *(f"odd: {text}" for text in self.odd), f"next: {self.next}"])


def read_status(project: Project) -> Status:
    """Return where a case stands."""
    with looking_once():
        return _read(project)


def _read(project: Project) -> Status:
    paths, reasons = project.paths, _reasons(project)
    odd: list[str] = []
    items = [
        _photo(project),
        _footprints(project),
        _item("training tiles", paths.training, "generate-training", _tiles, reasons),
        _item("corrected tiles", paths.corrected, "apply-annotations", _tiles, reasons),
        _item("model", paths.model, "train", lambda _: _model(paths.models / "metrics.json"), reasons),
        _item("probability", paths.probability, "predict", _probability, reasons),
        _item("verdicts", paths.verified, "verify", _verdicts, reasons),
        _annotations(project),
    ]
    jobs = _jobs(paths.jobs, odd)
    current = next((job for job in jobs if job["state"] in ACTIVE), None)
    size = sum(item.size for item in items)
    due = next((name for name in steps.ALL if reasons[name] is not None), None)
    advice = f"historymap run {due} ({reasons[due]})" if due else "nothing; all is up to date"
    return Status(project.name, items, due, advice, current, jobs[:RECENT], size, odd)


def _photo(project: Project) -> Item:
    facts = {} if project.photo.year is None else {"year": project.photo.year}
    try:
        files = photo_files(project)
    except PhotoError as error:
        return Item("photo", "", None, exists=False, made_at=None, text=str(error), facts=facts)
    if not files:
        host = urlsplit(project.photo.url).hostname if not isinstance(project.photo, FilePhoto) else ""
        text = ", ".join([project.photo_name(), *map(str, facts.values()), f"from {host} as it is needed"])
        return Item("photo", "", None, exists=True, made_at=None, text=text, facts=facts)
    name = files[0].name if len(files) == 1 else f"{len(files)} files"
    return _brought("photo", files, ", ".join([name, *map(str, facts.values())]), facts)


def _footprints(project: Project) -> Item:
    file, fetched = project.footprint_file, project.footprints.is_remote
    told = (artifacts.read_manifest(file) or {}) if fetched else {}
    if fetched and not file.exists():
        text = f"they are fetched from {urlsplit(project.footprints.path).hostname} when they are needed first"
        return Item("footprints", str(file), None, exists=True, made_at=None, text=text)
    date = f" of {told['snapshot'][:10]}" if told.get("snapshot") else ""
    if not file.exists():
        text = f"{file} is not there; correct footprints.path in {project.file}"
        return Item("footprints", str(file), None, exists=False, made_at=None, text=text)
    # counted when tiles were last cut with this file; to read it takes too long for a status
    manifest = artifacts.read_manifest(project.paths.training) or {}
    counts, inputs = manifest.get("footprints"), manifest.get("inputs")
    if isinstance(counts, dict) and isinstance(inputs, dict) and inputs.get(str(file)) == artifacts.fingerprint(file):
        return _brought("footprints", [file], f"{file.name}{date}, {counts['kept']:,} buildings", counts)
    return _brought("footprints", [file], f"{file.name}{date}", {})


def _brought(name: str, files: list[Path], text: str, facts: dict[str, Any]) -> Item:
    """Return the item of files that people bring."""
    found = [one for one in map(tree, files) if one is not None]
    made_at = _iso(max(one.newest for one in found)) if found else None
    size = sum(one.size for one in found)
    return Item(name, ", ".join(map(str, files)), None, exists=True, made_at=made_at, text=text, facts=facts, size=size)


def _item(name: str, path: Path, step: str, describe: Describe, reasons: dict[str, str | None]) -> Item:
    manifest, found = artifacts.read_manifest(path), tree(path)
    if found is None:
        return Item(name, str(path), step, exists=False, made_at=None, text="none yet", outdated=reasons[step])
    made_at = None
    facts: dict[str, Any] = {}
    if manifest is None:
        text = "there, but without its manifest"
    else:
        made_at = manifest.get("made_at") if isinstance(manifest.get("made_at"), str) else None
        try:
            text, facts = describe(manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"there, but its manifest is odd ({error!r})"
    return Item(
        name, str(path), step, exists=True, made_at=made_at, text=text, facts=facts, outdated=reasons[step],
        size=found.size,
    )  # fmt: skip


def _tiles(manifest: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    splits = manifest.get("splits", {})
    text = f"{manifest['tiles']} tiles" + (f" ({', '.join(f'{v} {k}' for k, v in splits.items())})" if splits else "")
    return text, {"tiles": manifest["tiles"], "splits": splits}


def _model(path: Path) -> tuple[str, dict[str, Any]]:
    metrics = artifacts.read_json(path)
    if not isinstance(metrics, dict):
        return "there, but without its metrics", {}
    return f"validation IoU {metrics['validation_iou']:.3f}, {metrics['tiles']} tiles", metrics


def _probability(manifest: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    covered = manifest.get("covered", 0)
    return f"{covered:.0%} of the area", {"covered": covered}


def _verdicts(manifest: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    counts = manifest["counts"]
    text = ", ".join(f"{counts[key]:,} {key.replace('_', ' ')}" for key in ("existed", "not_existed", "unsure"))
    if manifest["parameters"].get("quick"):
        return f"{first_look.NAME}: {text}", counts | {"first_look": True}
    return text, counts


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _annotations(project: Project) -> Item:
    path, store = project.paths.annotations, store_path(project)
    files = [file for file in (store, store.with_name(f"{store.name}-wal"), path) if file.exists()]
    try:
        if store.exists():
            said = Counter(AnnotationStore(store).counts())
        else:
            said = Counter(entry.verdict for entry in read_annotations(path, missing_ok=True).values())
        waiting = unpublished(project)
    except AnnotationsError as error:
        return Item("annotations", str(path), None, exists=bool(files), made_at=None, text=str(error))
    facts = {"annotations": said.total(), **{verdict: said[verdict] for verdict in VERDICTS}, "waiting": waiting}
    text = _some(said.total(), "building") + (f", {_some(waiting, 'change')} not applied yet" if waiting else "")
    if not files:
        return Item("annotations", str(path), None, exists=False, made_at=None, text=text, facts=facts)
    return _brought("annotations", files, text, facts)


def _jobs(folder: Path, odd: list[str]) -> list[dict[str, Any]]:
    """Return the latest jobs, those that run first; none where there never was one."""
    files = Files(folder)
    if not files.store.exists():
        return []
    try:
        store = Store(files.store)
        running = store.of(*ACTIVE)
        others = store.of("pending", *ENDED, order="id DESC", limit=RECENT)
    except HistorymapError as error:
        odd.append(str(error))
        return []
    records = [files.told(record) for record in [*reversed(running), *others]]
    return [record.as_dict() for record in records]


def _reasons(project: Project) -> dict[str, str | None]:
    """Return why each step must run, None where it need not."""
    return {name: steps.why_outdated(project, step, {}) for name, step in steps.STEPS.items()}


def _iso(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="seconds")


def age(made_at: str | None) -> str:
    """Return how long ago something was made, for people."""
    try:
        seconds = time.time() - datetime.fromisoformat(made_at or "").timestamp()
    except ValueError:
        return "-"
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def sized(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in UNITS[:-1]:
        if size < 1024:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {UNITS[-1]}"
