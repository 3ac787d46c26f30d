from __future__ import annotations

import json
import time

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from matplotlib.image import imread

from historymap_lib import contact_sheet, figures, project
from historymap_lib.errors import TrainingDataError
from historymap_lib.imagery import open_photo
from historymap_lib.looks import LOOKS
from historymap_lib.training_data import write_raster

CRS = "EPSG:25832"
WEST, NORTH = 569_000.0, 7_034_000.0
RESOLUTION = 0.5


def write_photo(folder, grey):
    """Write a case with this photo and return an open one; zeros are no data."""
    bounds = [WEST, NORTH - grey.shape[0] * RESOLUTION, WEST + grey.shape[1] * RESOLUTION, NORTH]
    write_raster(folder / "photo.tif", grey, bounds, CRS, nodata=0)
    (folder / "case.yaml").write_text(
        f"name: case\narea: {{crs: '{CRS}'}}\nphoto: {{path: photo.tif}}\nfootprints: {{path: f.geojson}}\n"
    )
    return open_photo(project.load(folder / "case.yaml"))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (height, width)).astype(np.uint8)


@pytest.fixture
def photo(tmp_path):
    grey = noise(300, 400)
    grey[:, :80] = 0
    with write_photo(tmp_path, grey) as opened:
        yield opened


def record(epoch, *, number=1, member=0, **more):
    return {"round": number, "member": member, "epoch": epoch, "loss": 1 / epoch, **more}


def verdicts_of(shapes, names, crs=CRS):
    frame = {"verdict": names, "annotated": [index % 3 == 0 for index in range(len(names))], "photo": "a photo"}
    return gpd.GeoDataFrame(frame, geometry=shapes, crs=crs)


def squares(count, side=10.0):
    """Return squares in rows over the photo, each third with a hole."""
    columns = max(1, int(np.sqrt(count)))
    index = np.arange(count)
    x, y = WEST + 5 + (index % columns) * 1.5 * side, NORTH - 5 - side - (index // columns) * 1.5 * side
    shapes = shapely.box(x, y, x + side, y + side)
    shapes[::3] = shapely.difference(shapes[::3], shapely.buffer(shapely.centroid(shapes[::3]), side / 4))
    return shapes


def write_tile(folder, name, image, mask):
    for part in ("images", "masks", "metadata"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    bounds = [WEST, NORTH - 32, WEST + 32, NORTH]
    write_raster(folder / "images" / f"{name}.tif", image, bounds, CRS)
    write_raster(folder / "masks" / f"{name}.tif", mask, bounds, CRS)
    metadata = {"tile": name, "fold": 0, "bounds": bounds, "buildings": 1, "split": "train"}
    (folder / "metadata" / f"{name}.json").write_text(json.dumps(metadata))


def pixels(path):
    """Return the colours (height x width x 3, 0 to 1) of a PNG of a size that fits a screen or two."""
    assert path.read_bytes().startswith(b"\x89PNG")
    image = imread(path)[..., :3]
    assert all(400 < side < 1700 for side in image.shape[:2]), image.shape
    return image


def shows(image, color, tolerance=0.1):
    """Say how many pixels have about this colour."""
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=-1) < tolerance).sum())


@pytest.mark.parametrize(
    "history",
    [
        [],
        [record(1)],
        [record(1, iou=0.4, threshold=0.5)],
        [record(epoch) for epoch in range(1, 5)],
        [record(e, number=n, member=m, iou=e / 50) for n in (1, 2) for m in (0, 1, 2) for e in range(1, 40 - 5 * m)],
        [record(2, number=2, iou=None), record(1, number=2, iou=0.3), record(1, member=6)],
    ],
    ids=["empty", "one record", "one validated", "never validated", "rounds and members", "gaps, out of order"],
)
def test_history_is_drawn_whatever_it_holds(history, tmp_path):
    figures.draw_history(history, tmp_path / "deep" / "history.png")
    pixels(tmp_path / "deep" / "history.png")


def test_history_of_each_member_has_its_own_colour(tmp_path):
    figures.draw_history([record(e, member=m) for m in (0, 1) for e in range(1, 9)], tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    assert all(shows(image, color) > 100 for color, _ in figures.CURVES[:2])


def test_rounds_follow_one_another_with_epochs_counted_anew():
    history = [record(e, number=1) for e in (1, 2, 3)] + [record(e, number=2) for e in (1, 2)]
    assert figures._rounds(history) == {1: (0, 3), 2: (3, 2)}


def test_tiles_show_buildings_and_what_is_ignored(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 10:40], mask[50:] = 1, 255
    write_tile(tmp_path, "tile_0000_0000", noise(64, 64), mask)
    contact_sheet.draw_tiles(tmp_path, tmp_path / "tiles.png")
    image = pixels(tmp_path / "tiles.png")
    assert all(shows(image, look.edge) > 100 for look in contact_sheet.LABELS.values())


@pytest.mark.parametrize("value", [0, 1, 255])
@pytest.mark.parametrize("grey", [0, 128])
def test_tiles_of_one_kind_are_drawn(value, grey, tmp_path):
    write_tile(tmp_path, "tile_0000_0000", np.full((64, 64), grey, np.uint8), np.full((64, 64), value, np.uint8))
    contact_sheet.draw_tiles(tmp_path, tmp_path / "tiles.png")
    pixels(tmp_path / "tiles.png")


def test_no_more_tiles_are_drawn_than_asked_for_from_first_to_last(tmp_path, monkeypatch):
    for row in range(7):
        write_tile(tmp_path, f"tile_{row:04d}_0000", noise(64, 64, row), np.zeros((64, 64), np.uint8))
    drawn = []
    monkeypatch.setattr(contact_sheet, "_draw_tile", lambda *given: drawn.append(given[-1]["tile"]))
    contact_sheet.draw_tiles(tmp_path, tmp_path / "tiles.png", count=3)
    assert drawn == ["tile_0000_0000", "tile_0003_0000", "tile_0006_0000"]


def test_folder_without_tiles_gives_a_picture_that_says_so(tmp_path):
    contact_sheet.draw_tiles(tmp_path, tmp_path / "tiles.png")
    assert pixels(tmp_path / "tiles.png").min() < 0.2


def test_damaged_tile_leaves_no_picture(tmp_path):
    write_tile(tmp_path, "tile_0000_0000", noise(64, 64), np.zeros((64, 64), np.uint8))
    (tmp_path / "masks" / "tile_0000_0000.tif").write_bytes(b"no TIFF")
    with pytest.raises(TrainingDataError, match="generate-training again"):
        contact_sheet.draw_tiles(tmp_path, tmp_path / "tiles.png")
    assert not (tmp_path / "tiles.png").exists()


def test_probability_shines_where_it_is_high(photo, tmp_path):
    values = np.zeros((300, 400), np.uint8)
    values[100:200, 200:300], values[:, :80] = 254, 255
    write_raster(tmp_path / "p.tif", values, list(photo.grid.bounds), CRS, nodata=255)
    figures.draw_probability(photo, tmp_path / "p.tif", tmp_path / "p.png")
    image = pixels(tmp_path / "p.png")
    assert image.shape[1] == figures.LONGEST + 2 * figures.MARGIN
    yellow = (image[..., 0] > 0.7) & (image[..., 1] > 0.7) & (image[..., 2] < 0.4)
    assert yellow.mean() > 0.05


def test_probability_without_any_data_leaves_the_photo(photo, tmp_path):
    write_raster(tmp_path / "p.tif", np.full((300, 400), 255, np.uint8), list(photo.grid.bounds), CRS)
    figures.draw_probability(photo, tmp_path / "p.tif", tmp_path / "p.png")
    image = pixels(tmp_path / "p.png")[figures.HEAD : -figures.FOOT]
    assert np.ptp(image, axis=-1).max() < 0.02


def test_verdicts_show_in_their_colours(photo, tmp_path):
    names = ["existed", "not_existed", "unsure", "no_coverage"] * 5
    figures.draw_verdicts(verdicts_of(squares(20), names), photo, tmp_path / "v.png")
    image = pixels(tmp_path / "v.png")[figures.HEAD : -figures.FOOT]
    assert all(shows(image, look.edge) > 100 for look in LOOKS.values())


def test_verdicts_in_degrees_give_the_same_picture(photo, tmp_path):
    frame = verdicts_of(squares(12), ["existed", "unsure"] * 6)
    figures.draw_verdicts(frame, photo, tmp_path / "metres.png")
    figures.draw_verdicts(frame.to_crs("EPSG:4326"), photo, tmp_path / "degrees.png")
    difference = np.abs(pixels(tmp_path / "metres.png") - pixels(tmp_path / "degrees.png"))
    assert difference.mean() < 0.001


def test_no_verdicts_give_the_photo_alone(photo, tmp_path):
    frame = verdicts_of(squares(1), ["existed"]).iloc[:0]
    figures.draw_verdicts(frame, photo, tmp_path / "v.png")
    pixels(tmp_path / "v.png")


def test_footprints_that_are_missing_empty_or_in_parts_are_no_obstacle(photo, tmp_path):
    one, two, three = squares(3)
    shapes = [None, shapely.Polygon(), shapely.MultiPolygon([one, two]), three]
    figures.draw_verdicts(verdicts_of(shapes, ["existed"] * 4), photo, tmp_path / "v.png")
    assert shows(pixels(tmp_path / "v.png"), LOOKS["existed"].edge) > 100
    figures.draw_verdicts(verdicts_of([None], ["unsure"]), photo, tmp_path / "v.png")


def test_courtyards_stay_empty():
    ring = shapely.Point(0, 0).buffer(10) - shapely.Point(0, 0).buffer(5)
    outline = figures._outline(np.array([ring, shapely.box(20, 0, 30, 10)]))
    assert outline.contains_point((7.5, 0))
    assert outline.contains_point((25, 5))
    assert not outline.contains_point((15, 5))
    turns = [np.sign(shapely.LinearRing(part).is_ccw - 0.5) for part in outline.to_polygons()]
    assert turns == [1, -1, 1]


@pytest.mark.slow
def test_a_hundred_thousand_footprints_take_seconds(photo, tmp_path):
    shapes = squares(100_000, side=0.4)
    began = time.monotonic()
    figures.draw_verdicts(verdicts_of(shapes, ["existed", "not_existed"] * 50_000), photo, tmp_path / "v.png")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("shape", [(20, 3000), (3000, 20), (1, 1)])
def test_narrow_and_tiny_photos_have_room_for_title_and_legend(shape, tmp_path):
    with write_photo(tmp_path, noise(*shape)) as photo:
        figures.draw_verdicts(verdicts_of(squares(4), ["existed"] * 4), photo, tmp_path / "v.png")
    pixels(tmp_path / "v.png")


def test_thumbnail_averages_what_is_valid(tmp_path):
    grey = np.zeros((4, 6), np.uint8)
    grey[0, :4], grey[1, 1] = (10, 20, 100, 100), 30
    with write_photo(tmp_path, grey) as photo:
        small, extent = figures.thumbnail(photo, 3)
    assert small.tolist() == [[20, 100, 0], [0, 0, 0]]
    assert extent == (WEST, WEST + 3, NORTH - 2, NORTH)


def test_thumbnail_does_not_depend_on_the_blocks_it_is_read_in(tmp_path, monkeypatch):
    with write_photo(tmp_path, noise(203, 307)) as photo:
        whole, extent = figures.thumbnail(photo, 100)
        monkeypatch.setattr(figures, "BLOCK", 17)
        pieces, _ = figures.thumbnail(photo, 100)
    assert whole.shape == (51, 77)
    assert np.array_equal(whole, pieces)
    assert extent[1] - extent[0] == 77 * 4 * RESOLUTION


def test_thumbnail_of_a_small_photo_is_the_photo(tmp_path):
    grey = noise(30, 40)
    with write_photo(tmp_path, grey) as photo:
        small, _ = figures.thumbnail(photo, 100)
    with rasterio.open(tmp_path / "photo.tif") as dataset:
        assert np.array_equal(small, dataset.read(1))
