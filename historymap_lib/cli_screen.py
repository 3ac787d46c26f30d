"""Printing what a job prints, as it comes."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CLEAR = "\r\x1b[K"
"""Back to the beginning of the line, and empty it (ECMA-48)."""


def show(updates: Iterable[tuple[str, str]]) -> None:
    """Print finished lines, and, where a terminal looks, the line that is being written, which moves.

    Args:
        updates: finished lines, and the line being written as it shows now.

    """
    terminal, shown, live = sys.stdout.isatty(), False, ""
    for text, live in updates:
        if shown:
            print(CLEAR, end="")
        print(text, end="")
        shown = terminal and bool(live)
        if shown:
            print(live[: shutil.get_terminal_size().columns - 1], end="")
        sys.stdout.flush()
    print("" if not live else "\n" if shown else f"{live}\n", end="", flush=True)
