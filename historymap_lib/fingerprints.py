"""What a file or folder holds, as a hash; and the same again at once where nothing has changed.

Hashing a photo of ten gigabytes takes half a minute, and `status` asks for it each time. So hashes are remembered in
the user's cache by name, size and times of change, as git does in its index. What has changed in the last
seconds is not remembered, since another change might leave no trace in the time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTIAL = ".partial-"
"""Prefix of unfinished files; left over only by a kill, and swept by the next writer of the same target."""
MANIFEST = "manifest.json"
SETTLED = 2.0
"""Seconds after which a change of a file can be told by its time."""
CACHE = "HISTORYMAP_CACHE"
"""The variable that names another folder for the cache than `~/.cache/historymap`."""


_seen: ContextVar[dict[Path, Tree | None] | None] = ContextVar("_seen", default=None)


@dataclass(frozen=True)
class Tree:
    """What is in a file or folder, without its content.

    Attributes:
        size: bytes of all files.
        newest: when the last of them changed (nanoseconds since the epoch).
        signature: differs where a name, a size or a time does.

    """

    size: int
    newest: int
    signature: str


def tree(path: Path) -> Tree | None:
    """Return what is in a file or folder, or None where there is nothing that can be read."""
    seen = _seen.get()
    if seen is None:
        return _look(path)
    if path not in seen:
        seen[path] = _look(path)
    return seen[path]


def _look(path: Path) -> Tree | None:
    try:
        files = _files(path)
    except OSError:
        return None
    digest = hashlib.sha256("\0".join([file[0] for file in files]).encode(errors="replace"))
    sizes = array("Q", [file[1] for file in files])
    changed, moved = array("Q", [file[2] for file in files]), array("Q", [file[3] for file in files])
    for column in (sizes, changed, moved):
        digest.update(column)
    return Tree(sum(sizes), max([*changed, *moved], default=0), digest.hexdigest())


@contextmanager
def looking_once() -> Iterator[None]:
    """Look at each file and folder only once within the block, however often it is asked for."""
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


def fingerprint(path: Path) -> str:
    """Return a SHA-256 over the content of a file, or over the names and contents of the files of a folder.

    A missing path has the fingerprint `""`. The manifest in a folder does not count: it tells the time of making.
    """
    if not path.exists():
        return ""
    before = tree(path)
    place = _place(path)
    if before is not None and place is not None:
        remembered = _remembered(place, before)
        if remembered is not None:
            return remembered
    found = _hash(path)
    settled = before is not None and before.newest < time.time_ns() - SETTLED * 1e9
    if settled and place is not None and before is not None and before == _look(path):
        _remember(place, before, found)
    return found


def fingerprints(paths: Iterable[Path]) -> dict[str, str]:
    """Return the fingerprint of each path, by its name."""
    return {str(path): fingerprint(path) for path in paths}


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    for name, *_ in _files(path):
        digest.update((name or ".").encode())
        with (path / name if name else path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, int, int, int]]:
    """Return the files of a folder that count, in order: name within it, size, times of change of content and of inode.

    A file is one without a name. A folder of training tiles has tens of thousands, so this is kept plain.
    """
    found: list[tuple[str, int, int, int]] = []
    if path.is_dir():
        _gather(os.fspath(path), "", found)
    else:
        stat = path.stat()
        found.append(("", stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return sorted(found)


def _gather(folder: str, within: str, found: list[tuple[str, int, int, int]]) -> None:
    with os.scandir(folder) as listed:
        items = [item for item in listed if not item.name.startswith(PARTIAL)]
    for item in items:
        if item.is_dir():
            _gather(item.path, f"{within}{item.name}/", found)
    files = [item for item in items if item.is_file() and within + item.name != MANIFEST]
    stats = [item.stat() for item in files]
    found += zip(
        [within + item.name for item in files],
        [stat.st_size for stat in stats],
        [stat.st_mtime_ns for stat in stats],
        [stat.st_ctime_ns for stat in stats],
        strict=True,
    )


def _place(path: Path) -> Path | None:
    """Return where the hash of a path is remembered."""
    folder = os.environ.get(CACHE) or os.environ.get("XDG_CACHE_HOME") or ""
    with suppress(RuntimeError):  # a user without a home
        base = Path(folder) if folder else Path.home() / ".cache"
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return base / "historymap" / "fingerprints" / f"{name}.json"
    return None


def _remembered(place: Path, before: Tree) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        value = json.loads(place.read_text(encoding="utf-8"))
        if value["signature"] == before.signature:
            return str(value["fingerprint"])
    return None


def _remember(place: Path, before: Tree, found: str) -> None:
    partial = place.with_name(f"{place.name}.{os.getpid()}")
    with suppress(OSError):  # without a cache it only takes longer
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"signature": before.signature, "fingerprint": found}), encoding="utf-8")
        partial.replace(place)
