"""Progress with rate and time left, for everything that takes more than a few seconds.

A bar on standard error for people, and, under a background job, a small file that says how far it is. Whether anybody
looks makes no difference to the work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sized
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")
PROGRESS = "HISTORYMAP_PROGRESS"
"""The variable that names the file to tell progress in."""
EVERY = 0.25
"""Seconds between two writings of it."""


def track(items: Iterable[Item], what: str, *, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Yield `items`, showing a bar labelled `what` on standard error.

    Where that is no terminal it is redrawn every few seconds only: logs would otherwise hold thousands of bars.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(what, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.step()


class Bar:
    """A bar for work that counts itself: `step` after each part, with a word on how it stands."""

    def __init__(self, what: str, *, total: int | None, done: int = 0, unit: str = "it") -> None:
        self._bar = tqdm(desc=what, total=total, initial=done, unit=unit, mininterval=_pause(), dynamic_ncols=True)
        self._text, self._told = "", 0.0
        self._tell(last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(last=True)
        self._bar.close()

    def step(self, text: str = "", count: int = 1) -> None:
        """Count on, and show `text` behind the bar."""
        self._text = text
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(count)
        self._tell()

    def grow(self, more: int) -> None:
        """Count on further parts, which have only now shown themselves."""
        self._bar.total = (self._bar.total or 0) + more

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.write(text, file=sys.stderr)

    def _tell(self, *, last: bool = False) -> None:
        """Write how far it is to the file of the job, at most a few times a second unless it is the last time."""
        file, now = os.environ.get(PROGRESS), time.monotonic()
        if file is None or (now - self._told < EVERY and not last):
            return
        self._told = now
        bar = self._bar
        _write(
            Path(file),
            {
                "what": bar.desc,
                "done": bar.n,
                "total": bar.total,
                "unit": bar.unit,
                "message": self._text,
                "first": bar.initial,
                "began": bar.start_t,
            },
        )


def _write(path: Path, progress: dict[str, Any]) -> None:
    """Replace the file; where that cannot be, the work goes on without."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(progress, default=float), encoding="utf-8")
        partial.replace(path)
    except (OSError, TypeError, ValueError):
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _pause() -> float:
    """Return the seconds between two drawings of a bar."""
    if sys.stderr.isatty():
        return 0.1
    return 1.0 if PROGRESS in os.environ else 10.0
