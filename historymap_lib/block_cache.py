"""Blocks of photos that servers have given, kept on the disk of the user, so that none is asked for twice.

A file a block, `blocks/<source>/<name>`, which begins with a checksum: what is not whole is dropped and asked for
again. Files are written beside and renamed, so that several processes may share the cache. Where it grows over its
limit, what was not used for longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from historymap_lib.errors import SettingsError
from historymap_lib.fingerprints import CACHE

LIMIT = "HISTORYMAP_CACHE_GB"
"""The variable that says how large the cache may grow, in units of 10 ** 9 bytes."""
DEFAULT_LIMIT = 20.0
KEPT = 0.9
"""Share of the limit that tidying up leaves."""
OFTEN = 1 << 26
"""Bytes that a process writes between two lookings at the size of the cache."""
DIGEST = 16
"""Bytes of the checksum at the beginning of each file."""
PARTIAL = ".part-"
HOUR, DAY = 3600, 86400


class BlockCache:
    """What servers gave for one source."""

    def __init__(self, key: dict[str, Any]) -> None:
        """Take what the pictures depend on, as JSON; never a secret."""
        text = json.dumps(key, sort_keys=True, ensure_ascii=True)
        self.folder = folder() / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._limit = _limit()
        self._written = OFTEN  # so that the first block looks

    def get(self, name: str, *, days: float = float("inf")) -> bytes | None:
        """Return what is kept by this name, or None where there is nothing, or what is damaged or older than `days`."""
        path = self.folder / name
        try:
            content = path.read_bytes()
            age = time.time() - path.stat().st_mtime
        except OSError:
            return None
        body = content[DIGEST:]
        if content[:DIGEST] != _digest(body):
            with suppress(OSError):
                path.unlink()
            return None
        if not body:  # its time says when it was asked for
            return body if age < days * DAY else None
        if age > DAY:
            with suppress(OSError):
                os.utime(path)  # used
        return body

    def has(self, name: str) -> bool:
        """Say whether something is kept by this name, without looking at it."""
        return (self.folder / name).exists()

    def put(self, name: str, body: bytes) -> None:
        """Keep something, an empty body for "there is nothing"; where the disk has no room the work goes on without."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_digest(body) + body)
                Path(partial).replace(self.folder / name)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        self._written += len(body)
        if self._written > OFTEN:
            self._written = 0
            tidy(self._limit)

    def forget(self) -> None:
        """Remove everything that is kept for this source."""
        shutil.rmtree(self.folder, ignore_errors=True)


def folder() -> Path:
    """Return where the blocks of all sources lie."""
    named = os.environ.get(CACHE)
    return (Path(named) / "historymap" if named else user_cache_path("historymap")) / "blocks"


def tidy(limit: float) -> None:
    """Remove what was not used for longest until the cache is within its limit (in bytes), and what others left."""
    try:
        with FileLock(folder() / "tidy.lock", timeout=0):
            files = []
            for path in folder().glob("*/*"):
                with suppress(OSError):
                    status = path.stat()
                    if path.name.startswith(PARTIAL) and time.time() - status.st_mtime > HOUR:
                        path.unlink()
                    else:
                        files.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in files)
            if total <= limit:
                return
            for _, size, path in sorted(files):
                if total <= limit * KEPT:
                    break
                with suppress(OSError):
                    path.unlink()
                    total -= size
    except (OSError, Timeout):  # another process is at it, or the disk is for reading only
        return


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST).digest()


def _limit() -> float:
    text = os.environ.get(LIMIT, "")
    try:
        return float(text or DEFAULT_LIMIT) * 1e9
    except ValueError:
        raise SettingsError(f"{LIMIT} is {text!r}, but it should be a number of gigabytes; correct it") from None
