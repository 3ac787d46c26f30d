"""Tiles from a real Jupyter Server, and from Voila alone: to those who are logged in, in their place, never a 500."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import nbformat
import numpy as np
import pytest
import rasterio
from case_fixtures import lattice, make_case, seen, write_photo, write_probability
from PIL import Image
from rasterio.windows import Window
from server_fixtures import TOKEN, jupyter, voila

from historymap_lib import display
from historymap_lib.display_layers import WORLD
from historymap_lib.project import load

UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return the folder of the cache, of the tests and of their servers."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("HISTORYMAP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def case(cache, tmp_path_factory):
    case = load(make_case(tmp_path_factory.mktemp("town")))
    write_probability(case, seen(lattice()))
    return case


@pytest.fixture(scope="module")
def copies(case):
    return {layer: display.make(case, layer) for layer in display.LAYERS}


@pytest.fixture(scope="module")
def server(cache, tmp_path_factory):
    with jupyter(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


def places(copy, zoom=None):
    """Return column and row of all tiles within the bounds of a copy, by the formula of every web map."""
    zoom = copy.max_zoom if zoom is None else zoom
    (west, south), (east, north) = np.reshape(copy.bounds, (2, 2))
    x = [int((degrees + 180) / 360 * 2**zoom) for degrees in (west, east)]
    y = [int((1 - np.arcsinh(np.tan(np.radians(degrees))) / np.pi) / 2 * 2**zoom) for degrees in (north, south)]
    return [(column, row) for row in range(y[0], y[1] + 1) for column in range(x[0], x[1] + 1)]


def address(copy, x, y, zoom=None, *, version=True):
    zoom = copy.max_zoom if zoom is None else zoom
    return f"historymap/tiles/{copy.key}/{zoom}/{x}/{y}" + (f"?v={copy.stamp}" if version else "")


def image(answer):
    """Return grey (or colour) and alpha of an image, height x width x bands."""
    picture = Image.open(BytesIO(answer.body))
    assert picture.size == (256, 256)
    assert {"image/jpeg": "JPEG", "image/png": "PNG"}[answer.kind] == picture.format
    values = np.asarray(picture)
    opaque = np.full(values.shape[:2], 255, np.uint8)
    return (values[..., None], opaque) if values.ndim == 2 else (values[..., :-1], values[..., -1])


def stored(copy, x, y):
    """Return bands and alpha of a tile as they are in the copy."""
    side = WORLD / 2**copy.max_zoom
    with rasterio.open(copy.path) as file:
        column, row = (
            round(value * 256 / side)
            for value in (x * side - WORLD / 2 - file.bounds.left, file.bounds.top - (WORLD / 2 - y * side))
        )
        window = Window(column, row, 256, 256)
        return np.moveaxis(file.read(window=window), 0, -1), file.dataset_mask(window=window)


# ------------------------------------------------------------------------------------------------------- who may see


@pytest.mark.parametrize("token", [None, "guess"])
@pytest.mark.parametrize("known", [True, False])
def test_without_login_all_is_forbidden(server, copies, token, known):
    x, y = places(copies["photo"])[0]
    path = address(copies["photo"], x, y)
    answer = server.get(path if known else path.replace(copies["photo"].key, UNKNOWN), token=token)
    assert answer.status == 403
    assert json.loads(answer.body)["message"] == "Forbidden"


def test_what_was_served_is_counted(server, copies):
    def count():
        lines = server.get("metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith("historymap_tiles_served_total")).split()[1])

    before, (x, y) = count(), places(copies["photo"])[0]
    server.get(address(copies["photo"], x, y))
    server.get(address(copies["photo"], x, y), token=None)
    server.get(f"historymap/tiles/{UNKNOWN}/0/0/0")
    assert count() == before + 1


# ------------------------------------------------------------------------------------------------------ what is seen


def test_tiles_of_the_photo_are_what_is_stored(server, copies):
    copy, kinds = copies["photo"], set()
    for x, y in places(copy):
        answer = server.get(address(copy, x, y))
        assert answer.status == 200
        kinds.add(answer.kind)
        grey, alpha = image(answer)
        expected, valid = stored(copy, x, y)
        assert (alpha == valid).all()
        assert (answer.kind == "image/jpeg") == bool(valid.all())
        off = np.abs(grey.astype(int) - expected)[valid > 0]
        assert (off.mean() if off.size else 0) < 5
        assert answer.kind == "image/jpeg" or (off == 0).all()
    assert kinds == {"image/jpeg", "image/png"}


def test_tiles_of_the_probabilities_are_their_colours_to_the_bit(server, copies):
    copy, some = copies["probability"], False
    for x, y in places(copy):
        answer = server.get(address(copy, x, y))
        assert answer.kind == "image/png"
        shown, alpha = image(answer)
        expected, _ = stored(copy, x, y)
        assert (alpha == expected[..., 3]).all()
        if alpha.any():
            some = True
            assert (shown == expected[..., :3])[alpha > 0].all()
    assert some


def test_the_roofs_are_where_the_buildings_are(server, case, copies):
    copy = copies["photo"]
    shapes = [shape for number, shape in lattice().items() if number % 2]
    shape = shapes[len(shapes) // 2]
    (east,), (north,) = rasterio.warp.transform(case.crs.to_wkt(), "EPSG:3857", [shape.centroid.x], [shape.centroid.y])
    side = WORLD / 2**copy.max_zoom
    column, row = (east + WORLD / 2) / side, (WORLD / 2 - north) / side
    grey, _ = image(server.get(address(copy, int(column), int(row))))
    pixel = int(row % 1 * 256), int(column % 1 * 256)
    roof = grey[max(0, pixel[0] - 4) : pixel[0] + 4, max(0, pixel[1] - 4) : pixel[1] + 4]
    assert roof.mean() > 180  # the grain around is 60 to 140


@pytest.mark.parametrize("step", [-9, -5, -3, -1, 1, 2, 4])
@pytest.mark.parametrize("layer", display.LAYERS)
def test_further_out_and_further_in_there_is_a_picture_too(server, copies, layer, step):
    copy = copies[layer]
    zoom = copy.max_zoom + step
    found = places(copy, zoom)
    x, y = found[len(found) // 2]
    answer = server.get(address(copy, x, y, zoom))
    assert answer.status == 200
    assert image(answer)[1].any()


def test_further_out_the_parts_fit_together(server, copies):
    copy = copies["photo"]
    x, y = places(copy, copy.max_zoom - 1)[0]
    small, valid = image(server.get(address(copy, x, y, copy.max_zoom - 1)))
    parts = [[image(server.get(address(copy, 2 * x + right, 2 * y + down))) for right in (0, 1)] for down in (0, 1)]
    whole = np.block([[grey[..., 0] for grey, _ in row] for row in parts]).astype(float)
    opaque = np.block([[alpha for _, alpha in row] for row in parts]) > 0
    inside = opaque.reshape(256, 2, 256, 2).all(axis=(1, 3)) & (valid > 0)
    assert np.abs(whole.reshape(256, 2, 256, 2).mean(axis=(1, 3)) - small[..., 0])[inside].mean() < 6


@pytest.mark.parametrize("place", ["0/0/0", "3/0/0", "17/0/0", "24/16777215/16777215"])
def test_where_nothing_is_there_is_a_small_empty_picture(server, copies, place):
    answer = server.get(f"historymap/tiles/{copies['photo'].key}/{place}")
    assert (answer.status, answer.kind) == (200, "image/png")
    if place not in {"0/0/0", "3/0/0"}:
        assert not image(answer)[1].any()
        assert len(answer.body) < 500


# ------------------------------------------------------------------------------------------------ what is not there


@pytest.mark.parametrize("key", [UNKNOWN, "abc", "A" * 32, "a" * 33])
def test_an_unknown_key_is_a_sentence(server, copies, key):
    answer = server.get(f"historymap/tiles/{key}/1/1/1")
    assert (answer.status, answer.kind) == (404, "application/json")
    assert "no such copy" in json.loads(answer.body)["message"]


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd/1/1/1", "..%2f..%2fsecret/1/1/1", "%2e%2e/1/1/1", "a%00b/1/1/1", "KEY.tif/1/1/1", "KEY/1/1",
     "KEY/1/1/1/1", "KEY/-1/0/0", "KEY/1/1/x", "KEY/1.5/0/0", "KEY/1/1/1.png", "KEY/25/1/1", "KEY/99/1/1", "KEY/1/2/0",
     "KEY/1/0/2", "KEY/17/99999999/1", "KEY/17/999999999/1", "KEY/1/٣/0", f"{'a' * 65}/1/1/1"],
)  # fmt: skip
def test_other_paths_are_not_found(server, copies, path):
    asked = path.replace("KEY", copies["photo"].key)
    answer = server.get("historymap/tiles/" + "".join(c if c < "\x7f" else "%D9%A3" for c in asked))
    assert answer.status == 404
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("content", [b"", b"no picture", "half"])
def test_a_broken_copy_is_a_sentence_and_no_500(server, copies, content):
    copy = copies["photo"]
    key = "b" * 32
    path = copy.path.with_name(f"{key}.tif")
    path.write_bytes(copy.path.read_bytes()[:30_000] if content == "half" else content)
    answers = [server.get(f"historymap/tiles/{key}/{copy.max_zoom}/{x}/{y}") for x, y in places(copy)]
    path.unlink()
    broken = [answer for answer in answers if answer.status != 200]
    assert broken
    for answer in broken:
        assert (answer.status, answer.kind) == (503, "application/json")
        assert "cannot be read; delete it and open the map again" in json.loads(answer.body)["message"]
    assert server.get(f"historymap/tiles/{key}/1/1/1").status == 404


# ------------------------------------------------------------------------------------------- caches, many at a time


def test_a_browser_keeps_a_tile_with_a_version_for_good_and_asks_again_for_others(server, copies):
    copy = copies["photo"]
    x, y = places(copy)[0]
    kept, asked = server.get(address(copy, x, y)), server.get(address(copy, x, y, version=False))
    assert kept.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert asked.headers["Cache-Control"] == "private, no-cache"
    again = server.get(address(copy, x, y, version=False), **{"If-None-Match": asked.headers["Etag"]})
    assert (again.status, again.body) == (304, b"")
    failed = server.get(f"historymap/tiles/{UNKNOWN}/1/1/1?v=1")
    assert "immutable" not in failed.headers.get("Cache-Control", "")


def test_many_at_a_time_get_what_one_gets(server, copies):
    asked = [address(copy, x, y, copy.max_zoom + step) for copy in copies.values() for step in (0, -1, 1)
             for x, y in places(copy, copy.max_zoom + step)]  # fmt: skip
    alone = [server.get(path).body for path in asked]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda path: server.get(path).body, asked * 3))
    assert together == alone * 3


def test_a_copy_that_was_written_anew_is_served_anew(server, cache, tmp_path):
    case = load(make_case(tmp_path / "town"))
    before = display.make(case, "photo")
    x, y = places(before)[len(places(before)) // 2]
    assert np.ptp(image(server.get(address(before, x, y)))[0]) > 20
    write_photo(case.resolve("photo.tif"), np.full((512, 512), 77, np.uint8))
    after = display.make(case, "photo")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.get(address(after, x, y)), range(16)))
    for answer in answers:
        assert np.abs(image(answer)[0].astype(int) - 77).max() < 10
    assert address(after, x, y) != address(before, x, y)


def test_a_server_with_more_copies_than_it_keeps_open(server, copies, cache):
    copy = copies["photo"]
    keys = [f"{number:032x}" for number in range(7)]
    for key in keys:
        shutil.copy(copy.path, copy.path.with_name(f"{key}.tif"))
    x, y = places(copy)[0]
    expected = server.get(address(copy, x, y)).body
    for key in keys * 2:
        assert server.get(address(copy, x, y).replace(copy.key, key)).body == expected
    for key in keys:
        copy.path.with_name(f"{key}.tif").unlink()


# ----------------------------------------------------------------------------------------------------- other servers


def test_under_another_base_kernels_know_where_the_tiles_are(cache, copies, tmp_path):
    copy = copies["photo"]
    x, y = places(copy)[0]
    with jupyter(tmp_path, "/user/ann/") as server:
        assert server.get(address(copy, x, y)).status == 200
        page = printing(tmp_path)
        told = server.get(f"voila/render/{page.name}").body.decode()
        assert "base=/user/ann/ software=voila/" in told


def test_voila_alone_serves_tiles_too(cache, copies, tmp_path):
    copy = copies["photo"]
    x, y = places(copy)[0]
    with voila(tmp_path / "voila", printing(tmp_path), "/maps/") as server:
        assert server.get(address(copy, x, y), token=None).status == 403
        answer = server.get(address(copy, x, y))
        assert (answer.status, answer.kind) == (200, answer.kind)
        assert image(answer)[0].any()
        assert server.get(f"historymap/tiles/{UNKNOWN}/1/1/1").status == 404
        assert "base=/maps/ software=voila/" in server.get(f"?token={TOKEN}").body.decode()


def printing(folder):
    """Write a notebook that prints what its kernel is told."""
    code = "import os\nprint(f\"base={os.environ['HISTORYMAP_BASE_URL']} software={os.environ['SERVER_SOFTWARE']}\")"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "page.ipynb")
    return folder / "page.ipynb"


def test_the_extension_is_light():
    heavy = ["torch", "geopandas", "matplotlib", "pandas", "rio_tiler"]
    code = f"import sys, historymap_lib.server.tiles; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"
