"""The live output of a job, in the colours that it printed."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

import traitlets
from ansi2html import Ansi2HTMLConverter

from historymap_lib.jobs import logs
from historymap_lib.widgets.panel import FOLDER, Live

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.jobs import Job

LINES = 500
"""Lines that are held; the file has all."""
WIDTH = 2000
"""Characters that are shown of a line."""
PIECE = 1 << 22
"""Bytes of a download that go in one message."""
CODES = r"\x1b(\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]*(\x07|\x1b\\)|[ -/]+[0-~]|[^\[])"
COLOURS = r"\x1b\[[0-9;:]*m"
ALL_CODES, OTHER_CODES = re.compile(CODES), re.compile(f"(?!{COLOURS}){CODES}")
"""Escape sequences of terminals (ECMA-48), and those but for colours: in a list of lines nothing moves a cursor."""


class LogView(Live):
    """Shows the last lines of the log of a job, and hands out the whole of it.

    It reads the file a few times a second, and what it sends is bounded by the lines that it holds, so that it makes no
    difference how fast the job prints.
    """

    _esm = FOLDER / "log_view.js"
    every = 0.2
    lines = traitlets.List(traitlets.Unicode()).tag(sync=True)  # as HTML, all closed in themselves
    first = traitlets.Int().tag(sync=True)  # how many there were before the first of them
    note = traitlets.Unicode().tag(sync=True)

    def __init__(self, job: Job | None = None) -> None:
        self.job, self._offset, self._count = job, 0, 0
        self._held: deque[str] = deque(maxlen=LINES)
        super().__init__()

    def look_at(self, job: Job | None) -> None:
        """Show the log of another job from now on."""
        if job != self.job:
            with self._lock:
                self.job, self._offset, self._count = job, 0, 0
                self._held.clear()
            self.refresh()

    def show(self) -> None:
        """Read what is new."""
        if self.job is None:
            self._set([], "no job yet")
            return
        path = self.job.log_path
        size = path.stat().st_size if path.exists() else 0
        if size < self._offset or size - self._offset > 2 * logs.LIMIT:  # far behind: the file has it
            self._held.clear()
            self._offset = _line_start(path, max(0, size - logs.LIMIT))
        live = self._read(path, size)
        note = f"job {self.job.id}: {self.job.record.name}, {size:,} bytes" if size else "nothing printed yet"
        self._set([*self._held, _html(live)] if live else list(self._held), note)

    def fail(self, sentence: str) -> None:
        """Show a sentence beside the lines."""
        self.note = sentence

    def act(self, action: str, content: dict[str, Any]) -> None:
        """Send the whole log to the view that asked."""
        if action != "download" or self.job is None:
            return
        answer = {"view": content.get("view"), "file": f"historymap-job-{self.job.id}.log"}
        with self.job.log_path.open("rb") as file:
            while piece := file.read(PIECE):
                self.send({**answer, "last": False}, [piece])
        self.send({**answer, "last": True}, [])

    def _read(self, path: Path, size: int) -> str:
        """Hold what has been printed until `size`, and return the line that is being written."""
        while True:
            chunk = logs.read(path, self._offset)
            new = chunk.text.removesuffix("\n").split("\n") if chunk.text else []
            self._count += len(new)
            self._held.extend(_html(line) for line in new[-LINES:])
            if chunk.offset == self._offset or chunk.offset >= size:
                self._offset = chunk.offset
                return chunk.live
            self._offset = chunk.offset

    def _set(self, lines: list[str], note: str) -> None:
        with self.hold_sync():
            self.first = self._count - len(self._held)
            self.lines = lines
            self.note = self._said or note


def plain(text: str) -> str:
    """Return a text without colours."""
    return ALL_CODES.sub("", text)


def _html(line: str) -> str:
    """Return a line as HTML, its colours as classes; text is escaped."""
    text = OTHER_CODES.sub("", line)
    text = text if len(text) <= WIDTH else f"{text[:WIDTH]} ... ({len(text):,} characters)"
    html: str = _converter.apply_regex(text)[0]  # `convert` keeps what it made in between, and threads share it
    return html


def _line_start(path: Path, offset: int) -> int:
    """Return where the first line after a byte begins."""
    if offset == 0:
        return 0
    with path.open("rb") as file:
        file.seek(offset)
        file.readline(logs.LIMIT)
        return file.tell()


_converter = Ansi2HTMLConverter(escaped=True, linkify=False)
