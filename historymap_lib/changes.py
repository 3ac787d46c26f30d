"""Which verdicts have changed since judgements were applied: the verdicts before are kept beside those of now."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from historymap_lib import artifacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from historymap_lib.project import Project


@dataclass(frozen=True)
class Changes:
    """What has become of the verdicts.

    Attributes:
        since: when those before were kept (ISO 8601, UTC).
        buildings: those whose verdict differs, with the verdict before and the one now.
        compared: how many buildings there are before and now.

    """

    since: str
    buildings: dict[str, tuple[str, str]]
    compared: int

    def moves(self) -> list[tuple[str, str, int]]:
        """Return how many went from which verdict to which, the most first."""
        found = Counter(self.buildings.values())
        return [(before, now, count) for (before, now), count in found.most_common()]


def path_of(project: Project) -> Path:
    """Return where the verdicts before are kept."""
    verified = project.paths.verified
    return verified.with_name(f"{verified.stem}_before.json")


def remember(project: Project, verdicts: Mapping[str, str]) -> None:
    """Keep the verdicts as they are now, by building, to compare later ones with."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    artifacts.write_json(path_of(project), {"since": now, "verdicts": dict(verdicts)})


def compare(project: Project, verdicts: Mapping[str, str]) -> Changes | None:
    """Return what differs from the verdicts that were kept, or None where none were."""
    kept = artifacts.read_json(path_of(project))
    if not isinstance(kept, dict) or not isinstance(kept.get("verdicts"), dict):
        return None
    before = kept["verdicts"]
    both = before.keys() & verdicts.keys()
    changed = {name: (str(before[name]), verdicts[name]) for name in sorted(both) if before[name] != verdicts[name]}
    return Changes(str(kept.get("since", "")), changed, len(both))
