"""Reading what a job printed, from any place in its log, while it prints and afterwards.

The job writes to the file itself; readers only read, so none can slow it. A bar that redraws itself with carriage
returns is one line that changes: what it last showed counts. Bytes that are no UTF-8 become the replacement character.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 1 << 20
"""Bytes that are read at once; a longer line comes in pieces."""


@dataclass(frozen=True)
class Chunk:
    """A part of a log.

    Attributes:
        text: finished lines, or a piece of a very long one.
        live: the line that is being written, as it shows now; empty while there is more to read.
        offset: byte from which to read on.

    """

    text: str
    live: str
    offset: int


def read(path: Path, offset: int = 0, limit: int = LIMIT) -> Chunk:
    """Return what a log holds from a byte on, at most `limit` bytes; nothing where there is no log (any more)."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        data = b""
    end = data.rfind(b"\n") + 1
    if end == 0 and len(data) == limit:
        # a line without end: skip what a bar has overwritten, or hand out a piece
        end = data.rfind(b"\r", 0, -1) + 1
        if end == 0:
            end = _whole(data.rstrip(b"\r")) or len(data)
            return Chunk(data[:end].decode(errors="replace"), "", offset + end)
        return Chunk("", "", offset + end)
    lines = [_shown(line) + "\n" for line in data[:end].split(b"\n")[:-1]]
    return Chunk("".join(lines), "" if len(data) == limit else _shown(data[end:]), offset + end)


def end(path: Path) -> int:
    """Return the byte after the last finished line of a log, looking at its last `LIMIT` bytes only; 0 without log.

    Of a line longer than that, where a character begins.
    """
    try:
        with path.open("rb") as file:
            begin = max(0, path.stat().st_size - LIMIT)
            file.seek(begin)
            data = file.read(LIMIT)
    except FileNotFoundError:
        return 0
    finished = data.rfind(b"\n") + 1
    return begin + (finished or (_whole(data) if begin else 0))


def tail(path: Path, lines: int, limit: int = LIMIT) -> str:
    """Return the last finished lines of a log and the one being written, looking at its last `limit` bytes only."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            data = file.read()
    except FileNotFoundError:
        return ""
    found = [_shown(line) for line in data.split(b"\n")]
    found = found if found[-1] else found[:-1]
    return "\n".join(found[max(0, len(found) - lines) :])


def _shown(line: bytes) -> str:
    """Return what a terminal would show of a line in the end."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


def _whole(data: bytes) -> int:
    """Return how many bytes there are without a character of UTF-8 that is cut off at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])
