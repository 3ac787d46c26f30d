"""What a case has, how good and how old it is, and what to do next; read from manifests, never an error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from historymap_lib import artifacts, steps
from historymap_lib.annotations import read as read_annotations
from historymap_lib.errors import AnnotationsError

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project


@dataclass(frozen=True)
class Item:
    """One thing that a step makes."""

    name: str
    path: str
    exists: bool
    made_at: str | None
    text: str


@dataclass(frozen=True)
class Status:
    """The things of a case in the order in which they are made, and the command that is due."""

    case: str
    items: list[Item]
    next: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{item.name:<16}{item.made_at or '-':<28}{item.text}" for item in self.items]
        return "\n".join([f"case {self.case}", *lines, f"next: {self.next}"])


def read_status(project: Project) -> Status:
    """Return where a case stands."""
    paths = project.paths
    items = [
        _item("training tiles", paths.training, _tiles),
        _item("corrected tiles", paths.corrected, _tiles),
        _item("model", paths.model, lambda _: _model(paths.models / "metrics.json")),
        _item("probability", paths.probability, lambda manifest: f"{manifest.get('covered', 0):.0%} of the area"),
        _item("verdicts", paths.verified, _verdicts),
        Item("annotations", str(paths.annotations), paths.annotations.exists(), None, _annotations(paths.annotations)),
    ]
    return Status(project.name, items, _next(project))


def _item(name: str, path: Path, describe: Any) -> Item:
    manifest = artifacts.read_manifest(path)
    if not path.exists():
        return Item(name, str(path), exists=False, made_at=None, text="none yet")
    if manifest is None:
        return Item(name, str(path), exists=True, made_at=None, text="there, but without its manifest")
    try:
        text = describe(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = f"there, but its manifest is odd ({error!r})"
    return Item(name, str(path), exists=True, made_at=manifest.get("made_at"), text=text)


def _tiles(manifest: dict[str, Any]) -> str:
    splits = manifest.get("splits", {})
    return f"{manifest['tiles']} tiles" + (f" ({', '.join(f'{v} {k}' for k, v in splits.items())})" if splits else "")


def _model(path: Path) -> str:
    metrics = artifacts.read_json(path)
    if not isinstance(metrics, dict):
        return "there, but without its metrics"
    return f"validation IoU {metrics['validation_iou']:.3f}, {metrics['tiles']} tiles"


def _verdicts(manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    return ", ".join(f"{counts[key]:,} {key.replace('_', ' ')}" for key in ("existed", "not_existed", "unsure"))


def _annotations(path: Path) -> str:
    try:
        return f"{len(read_annotations(path, missing_ok=True))} buildings"
    except AnnotationsError as error:
        return str(error)


def _next(project: Project) -> str:
    for name in steps.ALL:
        reason = steps.why_outdated(project, steps.STEPS[name], {})
        if reason is not None:
            return f"historymap run {name} ({reason})"
    return "nothing; all is up to date"
