"""Progress with rate and time left, for everything that takes more than a few seconds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, *, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Yield `items`, showing a bar labelled `what` on standard error; every few seconds a line where it is no terminal.

    Logs would otherwise hold thousands of redrawn bars.
    """
    with tqdm(items, desc=what, total=total, unit=unit, mininterval=_pause(), dynamic_ncols=True, leave=True) as bar:
        yield from bar


class Bar:
    """A bar for work that counts itself: `step` after each part, with a word on how it stands."""

    def __init__(self, what: str, *, total: int, done: int = 0, unit: str = "it") -> None:
        self._bar = tqdm(desc=what, total=total, initial=done, unit=unit, mininterval=_pause(), dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, text: str = "", count: int = 1) -> None:
        """Count on, and show `text` behind the bar."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(count)

    def skip(self, count: int) -> None:
        """Count parts that need not be done."""
        self._bar.update(count)

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.write(text, file=sys.stderr)


def _pause() -> float:
    """Return the seconds between two drawings of a bar."""
    return 0.1 if sys.stderr.isatty() else 10.0
