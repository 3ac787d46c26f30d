"""Display copies: the photo and the probabilities of a case as a web map wants them, kept in the user's cache.

    python -m historymap_lib.display --config ml/config_1937.yaml [--layer photo]

A copy (see `display_layers`) is made once, and anew only when what it shows has changed. Jupyter Server serves its
tiles (see `server.tiles`) and knows it by a key alone: a browser never names a file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from platformdirs import user_cache_path

from historymap_lib import artifacts
from historymap_lib.display_layers import LAYERS as LAYERS  # noqa: PLC0414 - asked for here as well
from historymap_lib.display_layers import write
from historymap_lib.errors import DisplayError, HistorymapError
from historymap_lib.fingerprints import CACHE, tree
from historymap_lib.imagery import fetch_settings, photo_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from historymap_lib.imagery import Bounds
    from historymap_lib.project import Project

BASE_URL = "HISTORYMAP_BASE_URL"
"""The variable in which our extension of Jupyter Server tells the kernels that it starts where it serves tiles."""
CODE = ("historymap_lib.display_layers", "historymap_lib.imagery")


@dataclass(frozen=True)
class Display:
    """A display copy that is up to date.

    Attributes:
        key: its name to the server, 32 hex digits.
        path: the file.
        stamp: changes whenever it is written anew.
        bounds: west, south, east, north of the layer in EPSG:4326.
        max_zoom: the zoom of the web map at which its own pixels are shown.

    """

    key: str
    path: Path
    stamp: str
    bounds: Bounds
    max_zoom: int


def find(project: Project, layer: str) -> Display | None:
    """Return the display copy of a layer, or None where there is none or it is out of date; within milliseconds.

    Raises:
        DisplayError: there is no such layer.

    """
    path = _place(project, layer)
    with suppress(OSError, HistorymapError):
        told = _told(path)
        if told and told.get("seen") == _seen(project, layer) and _made_from(told, _source(project, layer)):
            return _display(path, told)
    return None


def make(project: Project, layer: str) -> Display:
    """Return the display copy of a layer, after writing it where it is missing or out of date.

    Raises:
        HistorymapError: there is no such layer, photo or raster of probabilities, or it cannot be read or placed.
        OSError: the cache cannot be written.

    """
    path = _place(project, layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = find(project, layer)
        if found is not None:
            return found
        source, seen = _source(project, layer), _seen(project, layer)
        inputs = artifacts.fingerprints(_inputs(project, layer))
        told = _told(path)
        if told is None or not _made_from(told, source | {"inputs": inputs}):
            told = {"stamp": uuid.uuid4().hex[:12], **write(project, layer, path)}
        facts = {name: told[name] for name in ("stamp", "bounds", "max_zoom")}
        artifacts.write_manifest(
            path,
            step="display",
            inputs=inputs,
            settings=source["settings"],
            parameters=source["parameters"],
            code=CODE,
            seen=seen,
            size=path.stat().st_size,
            case=str(project.file),
            **facts,
        )
        _sweep()
        return _display(path, facts)


def copy_of(key: str) -> Path | None:
    """Return the file of a display copy by its key, or None where there is none; any text may be asked for."""
    path = _folder() / f"{key}.tif"
    return path if re.fullmatch(r"[0-9a-f]{32}", key) and path.is_file() else None


def tile_url(display: Display) -> str | None:
    """Return the address of the tiles of a copy, with {z}, {x} and {y}, or None where no server offers them."""
    base = os.environ.get(BASE_URL)
    if not base:
        return None
    return f"{base.rstrip('/')}/historymap/tiles/{display.key}/{{z}}/{{x}}/{{y}}?v={display.stamp}"


def _folder() -> Path:
    named = os.environ.get(CACHE)
    return (Path(named) / "historymap" if named else user_cache_path("historymap")) / "display"


def _sweep() -> None:
    """Remove the copies of cases that are no more."""
    for path in _folder().glob("*.tif"):
        told = artifacts.read_manifest(path)
        if told is not None and "case" in told and not Path(told["case"]).exists():
            for left in (path, artifacts.manifest_path(path)):
                left.unlink(missing_ok=True)


def _place(project: Project, layer: str) -> Path:
    if layer not in LAYERS:
        raise DisplayError(f"there is no layer {layer} to show; the layers are {', '.join(LAYERS)}")
    name = hashlib.sha256(f"{project.file}\0{layer}".encode(errors="surrogateescape")).hexdigest()[:32]
    return _folder() / f"{name}.tif"


def _inputs(project: Project, layer: str) -> list[Path]:
    """Return the files that a layer shows."""
    if layer == "photo":
        return photo_files(project)
    path = project.paths.probability
    if not path.exists():
        raise DisplayError(f"{path}: there are no probabilities to show yet; run predict first")
    return [path]


def _seen(project: Project, layer: str) -> dict[str, str | None]:
    """Return names, sizes and times of those files: unlike their fingerprints quick to tell, also while they grow."""
    found = {path: tree(path) for path in _inputs(project, layer)}
    return {str(path): seen.signature if seen is not None else None for path, seen in found.items()}


def _source(project: Project, layer: str) -> dict[str, Any]:
    """Return what else a copy depends on, as its manifest tells it."""
    settings = {}
    if layer == "photo":
        settings = fetch_settings(project)
    code = {module: artifacts.code_fingerprint(module) for module in CODE}
    return {"settings": settings, "parameters": {"layer": layer}, "code": code}


def _made_from(told: dict[str, Any], source: dict[str, Any]) -> bool:
    return all(told.get(name) == value for name, value in source.items())


def _told(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a copy, or None where it is another's: that of a file of another size."""
    told = artifacts.read_manifest(path)
    return told if told is not None and path.exists() and told.get("size") == path.stat().st_size else None


def _display(path: Path, told: dict[str, Any]) -> Display:
    west, south, east, north = told["bounds"]
    return Display(path.stem, path, told["stamp"], (west, south, east, north), told["max_zoom"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Prepare photo and probabilities for the map.")
    parser.add_argument("--config", type=Path, required=True, help="settings of the case")
    parser.add_argument("--layer", choices=LAYERS, action="append", help="only this one (default: all there are)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the display copies of a case; return the exit code."""
    from historymap_lib.cli import guarded  # noqa: PLC0415 - only as a command; what is below knows none above
    from historymap_lib.project import load  # noqa: PLC0415

    options = _parser().parse_args(arguments)

    def run() -> None:
        project = load(options.config)
        there = [layer for layer in LAYERS if layer == "photo" or project.paths.probability.exists()]
        for layer in options.layer or there:
            made = make(project, layer)
            print(f"{layer}: {made.path}, to zoom {made.max_zoom}", flush=True)

    return guarded(run)


if __name__ == "__main__":
    raise SystemExit(main())
