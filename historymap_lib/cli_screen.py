"""Printing what a job prints, as it comes."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CLEAR = "\r\x1b[K"
"""Back to the beginning of the line, and empty it (ECMA-48)."""
QUIET = 60.0
"""Seconds without a finished line after which the one that is being written is printed where no terminal looks."""


def show(updates: Iterable[tuple[str, str]]) -> None:
    """Print finished lines, and, where a terminal looks, the line that is being written, which moves.

    Elsewhere that one is printed now and then, so that whoever reads what a night has left sees that it moved.

    Args:
        updates: finished lines, and the line being written as it shows now.

    """
    terminal, shown, live = sys.stdout.isatty(), False, ""
    quiet_since = time.monotonic()
    for text, live in updates:
        if shown:
            print(CLEAR, end="")
        print(text, end="")
        if text:
            quiet_since = time.monotonic()
        shown = terminal and bool(live)
        if shown:
            print(live[: shutil.get_terminal_size().columns - 1], end="")
        elif live and time.monotonic() - quiet_since > QUIET:
            print(live)
            quiet_since = time.monotonic()
        sys.stdout.flush()
    print("" if not live else "\n" if shown else f"{live}\n", end="", flush=True)
