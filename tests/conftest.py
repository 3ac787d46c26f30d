"""What several rooms of tests share: where the real data lies, and a small case to change."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of two that compute at once are in each other's way

os.environ["HISTORYMAP_CACHE"] = tempfile.mkdtemp(prefix="historymap-cache-")

settings.register_profile("shared", deadline=None)  # other work on the machine says nothing about the code
settings.load_profile("shared")

CASE = {
    "name": "town",
    "area": {"crs": "EPSG:25832"},
    "photo": {"path": "photo.tif"},
    "footprints": {"path": "footprints.geojson"},
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the project."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.exists():
        pytest.skip(f"the real data is not at {folder}")
    return folder


@pytest.fixture
def write_case(tmp_path):
    """Return a function that writes a small case with some keys set, `area.bounds` for instance, and some left out."""

    def write(settings=None, *, without=()) -> Path:
        values = copy.deepcopy(CASE)
        for path, value in (settings or {}).items():
            *sections, key = path.split(".")
            section = values
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
        for path in without:
            *sections, key = path.split(".")
            section = values
            for name in sections:
                section = section[name]
            del section[key]
        file = tmp_path / "case.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return file

    return write
