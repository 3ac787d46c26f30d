"""What a step writes: whole or not at all, with a manifest beside it that says what it was made from.

The order of writing is the classic one for crash safety: write a temporary file in the same directory, flush it to the
disk, rename it over the target, flush the directory. A reader sees the old file or the new one, never half of either,
also after `kill -9` or a power cut.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib import __version__
from historymap_lib.fingerprints import MANIFEST, PARTIAL
from historymap_lib.fingerprints import fingerprint as fingerprint  # noqa: PLC0414 - asked for here as well
from historymap_lib.fingerprints import fingerprints as fingerprints  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OLD = ".old"
"""Suffix of what a writer has moved aside, within its own unfinished folder."""

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces `path` in one step, on any error it is removed.

    The temporary file has the suffix of `path`, since GDAL and others choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{path.name}-{os.getpid()}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        _sync(partial)
        partial.replace(path)
    _sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing` for a whole folder: yields an empty folder, which on success takes the place of `path`.

    Where `path` exists the two are exchanged in one step (Linux). Elsewhere the old one is moved aside first; a kill
    in between leaves none under `path` until `sweep` brings the old one back: absent, never mixed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{path.name}-{os.getpid()}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        partial.mkdir()
        yield partial
        for item in (*partial.rglob("*"), partial):
            _sync(item)
        _put(partial, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any | None:
    """Return the JSON in `path`, or None where there is no such file or it holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def sweep(path: Path) -> None:
    """Remove what writers of `path` that no longer live have left behind, bringing back what one had moved aside."""
    mine = re.compile(re.escape(f"{PARTIAL}{path.name}-") + r"(\d+)-\w+")  # not those of `name-1-2` for `name`
    for left in path.parent.iterdir():
        owner = mine.fullmatch(left.name)
        if owner and not _alive(int(owner[1])):
            aside = left / (path.name + OLD)
            if not path.exists():
                with suppress(OSError):  # as a rule there is none; or another writer was faster
                    aside.replace(path)
            shutil.rmtree(left, ignore_errors=True)


def code_fingerprint(module: str) -> str:
    """Return a SHA-256 of the source of a module, by its name and without importing it; `""` where there is none."""
    spec = importlib.util.find_spec(module)
    return fingerprint(Path(spec.origin)) if spec is not None and spec.origin is not None else ""


def manifest_path(artifact: Path) -> Path:
    """Return where the manifest of `artifact` lies: beside a file, inside a folder."""
    return artifact / MANIFEST if artifact.is_dir() else artifact.with_name(artifact.name + ".manifest.json")


def write_manifest(
    artifact: Path,
    *,
    step: str,
    inputs: Iterable[Path] | dict[str, str],
    settings: dict[str, Any],
    parameters: dict[str, Any],
    code: Iterable[str],
    **extra: Any,
) -> None:
    """Write beside `artifact` what it was made from, and when.

    Args:
        artifact: a file or a folder, in place or about to be.
        step: the step that made it.
        inputs: files and folders read, also those that may come later (a missing one is noted as missing).
        settings: the sections of the settings that matter, by name.
        parameters: what the step was called with.
        code: names of the modules whose change puts the artifact out of date.
        extra: whatever else is worth telling.

    """
    manifest = {
        "step": step,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "historymap": __version__,
        "inputs": inputs if isinstance(inputs, dict) else fingerprints(inputs),
        "settings": settings,
        "parameters": parameters,
        "code": {module: code_fingerprint(module) for module in code},
        **extra,
    }
    write_json(manifest_path(artifact), manifest)


def read_manifest(artifact: Path) -> dict[str, Any] | None:
    """Return the manifest of `artifact`, or None where there is none that can be read."""
    value = read_json(manifest_path(artifact))
    return value if isinstance(value, dict) else None


def _put(folder: Path, path: Path) -> None:
    """Let `folder` take the place of `path`, in one step where that can be, whatever other writers do meanwhile."""
    if _exchange(folder, path):
        return
    try:
        folder.replace(path)  # there is none yet
    except OSError:
        if not _exchange(folder, path):  # there is one by now
            aside = folder.with_name(path.name + OLD)
            path.replace(aside)
            try:
                folder.replace(path)
            except BaseException:
                aside.replace(path)
                raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, by Linux's renameat2(2), which Python does not offer; False where it cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


def _sync(path: Path) -> None:
    """Flush a file or a directory to the disk, where the file system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
