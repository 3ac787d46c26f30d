"""The whole loop on real imagery: photo and footprints in, verdicts out, corrections back in."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from shapely import box

from historymap_lib import cli
from historymap_lib.evaluation import evaluate
from historymap_lib.project import load
from historymap_lib.steps import ALL, run

BANEPA = """
name: banepa
area:
  crs: EPSG:32645
  bounds: [353900, 3057000, 354180, 3057400]
  bounds_crs: EPSG:32645
photo: {{path: {data}/banepa/orthophoto.tif}}
footprints: {{path: {data}/banepa/footprints.geojson}}
tiles: {{size: 256, resolution: 0.4, test: 0}}
training: {{epochs: 4, crop: 128, device: cpu, outline_steps: 60}}
prediction: {{precision: fp32}}
"""
ROTTERDAM = """
name: rotterdam
area: {{crs: EPSG:32631}}
photo: {{path: {data}/rotterdam/pan2.tif, nodata: 0}}
footprints: {{path: buildings.geojson}}
tiles: {{size: 128, test: 0}}
model: {{widths: [4, 8]}}
training: {{epochs: 1, crop: 64, device: cpu, outline_steps: 2, outline_rounds: 1}}
prediction: {{precision: fp32}}
"""


@pytest.fixture(scope="module")
def banepa(tmp_path_factory, shared_data):
    folder = tmp_path_factory.mktemp("banepa")
    (folder / "case.yaml").write_text(BANEPA.format(data=shared_data))
    project = load(folder / "case.yaml")
    for name in ALL:
        assert ": skipped" not in run(project, name)
    return project


@pytest.mark.slow
def test_real_buildings_get_better_verdicts_than_chance_and_none_is_lost(banepa, shared_data):
    content = json.loads(banepa.paths.verified.read_text())
    counts = content["metadata"]["counts"]
    parts = ("existed", "not_existed", "unsure", "no_coverage", "rejected", "duplicates", "outside")
    assert counts["read"] == 1828 == sum(counts[part] for part in parts)
    measured = evaluate(banepa.paths.verified, shared_data / "banepa" / "truth.csv").as_dict()
    assert measured["figures"]["auc"] > 0.95
    assert all(side["precision"] > 0.9 for side in (measured["figures"][name] for name in ("existed", "not_existed")))


@pytest.mark.slow
def test_all_is_skipped_the_second_time(banepa, capsys):
    assert cli.main(["run", "all", "--config", str(banepa.file)]) == 0
    assert capsys.readouterr().out.count(": skipped") == len(ALL)


@pytest.mark.slow
def test_twenty_annotations_change_exactly_the_tiles_that_they_touch_and_win(banepa, shared_data):
    truth = pd.read_csv(shared_data / "banepa" / "truth.csv").set_index("osm_id")["existed"]
    verdicts = gpd.read_file(banepa.paths.verified.with_suffix(".gpkg"))
    chosen = verdicts[verdicts["verdict"] == "unsure"].sample(20, random_state=1)
    yes = truth.loc[chosen["osm_id"]].astype(str).str.lower().isin(["1", "true"])
    entries = [{"osm_id": int(key), "existed": bool(value)} for key, value in yes.items()]
    file = banepa.paths.root / "clicks.json"
    file.write_text(json.dumps({"annotations": entries}))
    originals = {path: path.read_bytes() for path in sorted((banepa.paths.training / "masks").iterdir())}

    assert cli.main(["run", "apply-annotations", "--annotations", str(file), "--config", str(banepa.file)]) == 0

    touched = set()
    for path in (banepa.paths.training / "metadata").iterdir():
        tile = json.loads(path.read_text())
        if (chosen.intersection(box(*tile["bounds"])).area > 0).any():
            touched.add(tile["tile"])
    assert {path.stem for path in (banepa.paths.corrected / "masks").iterdir()} == touched
    assert {path: path.read_bytes() for path in originals} == originals
    found = gpd.read_file(banepa.paths.verified.with_suffix(".gpkg")).set_index("osm_id").loc[list(yes.index)]
    assert found["annotated"].all()
    assert (found["existed"].astype(bool) == yes).all()
    assert run(banepa, "train", epochs=1).startswith("train: ")  # learns from the corrected tiles
    assert json.loads((banepa.paths.models / "metrics.json").read_text())["corrected_tiles"] == len(touched)


def test_nothing_is_judged_where_a_real_16_bit_photo_has_no_data(tmp_path, shared_data):
    with rasterio.open(shared_data / "rotterdam" / "pan2.tif") as dataset:
        values, transform, bounds = dataset.read(1), dataset.transform, dataset.bounds
    rng = np.random.default_rng(0)
    east, north = rng.uniform(bounds.left, bounds.right - 20, 300), rng.uniform(bounds.bottom, bounds.top - 20, 300)
    houses = gpd.GeoDataFrame({"osm_id": range(1, 301)}, geometry=box(east, north, east + 12, north + 12), crs=32631)
    houses.to_crs(4326).to_file(tmp_path / "buildings.geojson")
    (tmp_path / "case.yaml").write_text(ROTTERDAM.format(data=shared_data))
    project = load(tmp_path / "case.yaml")
    for name in ALL:
        run(project, name)
    with rasterio.open(project.paths.probability) as dataset:
        assert (dataset.read(1) == 255).tolist() == (values == 0).tolist()
        assert dataset.transform.almost_equals(transform)
    found = gpd.read_file(project.paths.verified.with_suffix(".gpkg"))
    middle = found.geometry.centroid
    rows, columns = rasterio.transform.rowcol(transform, middle.x, middle.y)
    empty = [
        (values[max(r - 14, 0) : r + 14, max(c - 14, 0) : c + 14] == 0).all()
        for r, c in zip(rows, columns, strict=True)
    ]
    assert any(empty)
    assert set(found["verdict"][empty]) == {"no_coverage"}
    assert found["probability"][empty].isna().all()
