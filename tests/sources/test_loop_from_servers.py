"""The whole loop with photo and buildings from servers: the same verdicts as from files, and no secret anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from map_server import serving
from overpass_server import DATE

from historymap_lib.project import load

KEY, LOGIN = "key-4711-of-the-photo", "login-of-the-buildings"
BOUNDS = [353900.1, 3057000.1, 354180.1, 3057400.1]
SMALL = {
    "tiles": {"size": 256, "resolution": 0.4, "test": 0, "count": 4},
    "model": {"widths": [4, 8], "stride": 2},
    "training": {"epochs": 2, "crop": 128, "batch_size": 4, "device": "cpu", "outline_steps": 2},
    "prediction": {"precision": "fp32"},
}


@pytest.fixture(scope="module")
def buildings(shared_data):
    """Return a server of the footprints of Banepa that answers as Overpass does."""
    content = json.loads((shared_data / "banepa" / "footprints.geojson").read_text(encoding="utf-8"))
    elements, number = [], 0
    for feature in content["features"]:
        rings = feature["geometry"]["coordinates"]
        if feature["geometry"]["type"] != "Polygon" or len(rings) > 1:
            continue
        nodes = []
        for lon, lat in rings[0][:-1]:
            number += 1
            nodes.append(number)
            elements.append({"type": "node", "id": number, "lat": round(lat, 7), "lon": round(lon, 7)})
        way = {"type": "way", "id": feature["properties"]["osm_id"], "nodes": [*nodes, nodes[0]]}
        elements.append(way | {"tags": {"building": "yes"}})
    body = json.dumps({"osm3s": {"timestamp_osm_base": DATE}, "elements": elements}).encode()
    with serving(lambda _: (200, "application/json", body)) as server:
        yield server


def written(tmp_path, name, photo, footprints):
    area = {"crs": "EPSG:32645", "bounds": BOUNDS, "bounds_crs": "EPSG:32645"}
    values = {"name": name, "area": area, "photo": photo | {"name": "then"}, "footprints": footprints} | SMALL
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load(file)


def run_all(project):
    words = [sys.executable, "-m", "historymap_lib.cli", "run", "all", "--config", str(project.file)]
    secrets = os.environ | {"K": KEY, "L": LOGIN}
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=secrets, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def verdicts(project):
    features = json.loads(project.paths.verified.read_text(encoding="utf-8"))["features"]
    return [{key: value for key, value in one["properties"].items() if key != "model"} for one in features]


@pytest.mark.slow
def test_photo_and_buildings_from_servers_give_the_verdicts_that_files_give(
    wms, buildings, snapped, tmp_path, cache, monkeypatch
):
    monkeypatch.setenv("K", KEY)
    monkeypatch.setenv("L", LOGIN)
    access = {"parameters": {"apikey": "${K}"}, "headers": {"X-Key": "${K}"}}
    served = written(
        tmp_path,
        "served",
        {"source": "wms", "url": wms.url, "layer": "snapped", "access": access},
        {"source": "overpass", "url": buildings.url, "access": {"user": "me", "password": "${L}"}},
    )
    printed = run_all(served)
    assert all("apikey=key-4711" in path for path in wms.asked)
    assert buildings.headers[0]["Authorization"].startswith("Basic ")
    shutil.copyfile(served.footprint_file, tmp_path / "buildings.osm")
    filed = written(tmp_path, "filed", {"path": str(snapped)}, {"path": "buildings.osm"})
    run_all(filed)
    assert len(verdicts(served)) > 500
    assert verdicts(served) == verdicts(filed)

    asked = len(wms.asked), len(buildings.asked)
    wms.fault = lambda handler: handler.give(503) or True
    assert run_all(served).count(": skipped") == 4
    assert (len(wms.asked), len(buildings.asked)) == asked

    for folder in (tmp_path, cache):
        for file in folder.rglob("*"):
            for secret in (KEY, LOGIN):
                assert secret not in str(file)
                assert file.is_dir() or secret.encode() not in file.read_bytes()
    assert KEY not in printed
    assert LOGIN not in printed
