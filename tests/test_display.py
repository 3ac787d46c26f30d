"""Display copies: what a map shows is the photo, in its place; made once, anew when it must, and never by half."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from case_fixtures import CRS, TRANSFORM, change, lattice, make_case, photo_of, seen, write_photo, write_probability
from rasterio.enums import MaskFlags, Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from historymap_lib import artifacts, display, display_layers
from historymap_lib.display import LAYERS, copy_of, find, make, tile_url
from historymap_lib.errors import DisplayError, PhotoError
from historymap_lib.figures import veil
from historymap_lib.project import load

BOUNDS = transform_bounds(CRS, "EPSG:4326", *rasterio.transform.array_bounds(512, 512, TRANSFORM))
PATIENCE = 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HISTORYMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "historymap" / "display"


@pytest.fixture
def case(tmp_path):
    case = load(make_case(tmp_path / "town"))
    write_probability(case, seen(lattice()))
    return case


def pixels(copy):
    with rasterio.open(copy.path) as file:
        return file.read(), file.dataset_mask() > 0


def warped(path, copy, hidden, resampling):
    """Return a raster of the case on the pixels of a copy, by GDAL alone."""
    with rasterio.open(copy.path) as file, rasterio.open(path) as source:
        frame = {"crs": file.crs, "transform": file.transform, "width": file.width, "height": file.height}
        with WarpedVRT(source, src_nodata=hidden, nodata=hidden, resampling=resampling, **frame) as view:
            return view.read(1)


def command(case, *words):
    return [sys.executable, "-m", "historymap_lib.display", "--config", str(case.file), *words]


# ----------------------------------------------------------------------------------------------------- what it shows


def test_the_photo_is_where_it_was_and_loses_a_few_grey_values(case):
    copy = make(case, "photo")
    grey, valid = pixels(copy)
    expected = warped(case.resolve("photo.tif"), copy, 0, Resampling.cubic)
    assert (valid == (expected > 0)).mean() > 0.9999
    off = np.abs(grey[0].astype(int) - expected)[valid & (expected > 0)]
    assert off.mean() < 5  # of grain that JPEG does not like; a pixel further it would be 19
    assert np.quantile(off, 0.999) < 25


def test_a_photo_of_many_windows_has_no_seams(case, monkeypatch):
    whole, valid = pixels(make(case, "photo"))
    monkeypatch.setattr(display_layers, "CHUNK", 256)
    make(case, "photo").path.unlink()
    parts, also_valid = pixels(make(case, "photo"))
    off = np.abs(parts.astype(int) - whole)[0][valid]
    assert (valid == also_valid).mean() > 0.9999
    assert off.mean() < 3
    assert np.quantile(off, 0.999) < 25


def test_probabilities_have_the_colours_of_the_pictures_and_no_data_none(case):
    copy = make(case, "probability")
    colours, _ = pixels(copy)
    values = warped(case.paths.probability, copy, 255, Resampling.bilinear)
    palette = np.vstack([np.round(veil().colors * 255), np.zeros((1, 4))]).astype(np.uint8)
    assert (colours == palette[values].transpose(2, 0, 1)).all()
    assert set(np.unique(values)) > {0, 229, 255}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_copy_tells_its_place_and_has_tiles_and_overviews(case, cache, layer):
    copy = make(case, layer)
    assert copy.bounds == pytest.approx(BOUNDS, abs=1e-9)
    assert copy.path == cache / f"{copy.key}.tif"
    assert copy_of(copy.key) == copy.path
    with rasterio.open(copy.path) as file:
        world = display_layers.WORLD / 2**copy.max_zoom
        assert file.crs == "EPSG:3857"
        assert file.res == pytest.approx((world / 256,) * 2)
        assert (file.bounds.left + display_layers.WORLD / 2) / world % 1 == pytest.approx(0, abs=1e-6)
        assert file.block_shapes[0] == (256, 256)
        assert file.overviews(1) == [2, 4, 8]
        west, south, east, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    assert west < copy.bounds[0] < copy.bounds[2] < east
    assert south < copy.bounds[1] < copy.bounds[3] < north


def test_the_copy_is_as_fine_as_the_photo(case):
    copy = make(case, "photo")
    pixel = display_layers.WORLD / 256 / 2**copy.max_zoom * np.cos(np.radians(copy.bounds[1]))
    assert 0.25 < pixel <= 0.5 * display_layers.COARSER


def test_the_overviews_show_the_same_further_out(case):
    copy = make(case, "photo")
    grey, valid = pixels(copy)
    with rasterio.open(copy.path, overview_level=1) as file:
        small, shown = file.read(1), file.dataset_mask() > 0
    squares = (small.shape[0], 4, small.shape[1], 4)
    inside = valid.reshape(squares).all(axis=(1, 3)) & shown
    mean = grey[0].reshape(squares).mean(axis=(1, 3))
    assert np.abs(small - mean)[inside].mean() < 5
    assert (valid.reshape(squares).any(axis=(1, 3)) | ~shown).all()


def test_the_area_the_bits_and_the_turn_of_a_photo_are_those_of_the_case(tmp_path):
    file = make_case(tmp_path / "turned")
    values = photo_of(lattice()).astype(np.uint16) * 100
    turned = rasterio.Affine.rotation(30, (256, 256))
    with rasterio.open(
        file.parent / "photo.tif", "w", driver="GTiff", width=512, height=512, count=1, dtype="uint16", nodata=0,
        crs=CRS, transform=TRANSFORM * turned,
    ) as photo:  # fmt: skip
        photo.write(values, 1)
    west, north = TRANSFORM.c, TRANSFORM.f
    area = [west + 60, north - 190, west + 200, north - 60]
    change(file, "area", bounds=area, bounds_crs=CRS)
    copy = make(load(file), "photo")
    grey, valid = pixels(copy)
    assert copy.bounds == pytest.approx(transform_bounds(CRS, "EPSG:4326", *area), abs=1e-5)
    assert valid.any()
    assert grey[0][valid].max() > 240  # roofs, stretched


# ------------------------------------------------------------------------------------------------ when it is made anew


@pytest.mark.parametrize("layer", LAYERS)
def test_a_copy_that_is_up_to_date_is_found_and_not_made_again(case, layer):
    assert find(case, layer) is None
    made = make(case, layer)
    before = made.path.stat()
    assert find(case, layer) == make(case, layer) == made
    assert made.path.stat() == before
    assert find(load(case.file), layer) == made


def test_it_is_found_in_a_moment(case):
    make(case, "photo")
    start = time.perf_counter()
    for _ in range(20):
        find(case, "photo")
    assert time.perf_counter() - start < 20 * 0.05


@pytest.mark.parametrize(
    ("section", "values"),
    [("tiles", {"resolution": 1.0}), ("photo", {"nodata": 7}), ("area", {"bounds": [10.4, 63.4, 10.41, 63.43]})],
)
def test_other_settings_make_the_photo_out_of_date_but_not_the_probabilities(case, section, values):
    before = {layer: make(case, layer) for layer in LAYERS}
    change(case.file, section, **values)
    case = load(case.file)
    assert find(case, "photo") is None
    assert find(case, "probability") == before["probability"]


def test_a_setting_that_shows_nothing_else_does_not(case):
    made = make(case, "photo")
    change(case.file, "tiles", count=3)
    assert find(load(case.file), "photo") == made


def test_another_photo_is_shown_anew_and_under_another_stamp(case):
    before = make(case, "photo")
    write_photo(case.resolve("photo.tif"), np.full((512, 512), 77, np.uint8))
    assert find(case, "photo") is None
    after = make(case, "photo")
    assert (after.key, after.path) == (before.key, before.path)
    assert after.stamp != before.stamp
    grey, valid = pixels(after)
    assert np.abs(grey[0][valid].astype(int) - 77).max() < 20
    assert np.median(grey[0][valid]) == 77


def test_a_photo_that_is_only_touched_is_not_copied_again(case):
    before = make(case, "photo")
    written = before.path.stat().st_mtime_ns
    os.utime(case.resolve("photo.tif"))
    assert find(case, "photo") is None
    assert make(case, "photo") == find(case, "photo") == before
    assert before.path.stat().st_mtime_ns == written


@pytest.mark.parametrize("harm", ["cut", "gone", "no manifest", "bad manifest", "list"])
def test_a_copy_that_has_come_to_harm_is_made_again(case, harm):
    copy = make(case, "photo")
    manifest = artifacts.manifest_path(copy.path)
    if harm == "cut":
        copy.path.write_bytes(copy.path.read_bytes()[:5000])
    elif harm == "gone":
        copy.path.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("[1]" if harm == "list" else "{")
    assert find(case, "photo") is None
    assert make(case, "photo").stamp != copy.stamp
    assert find(case, "photo") is not None


def test_two_cases_and_two_layers_have_copies_of_their_own(case, tmp_path):
    other = load(make_case(tmp_path / "other"))
    keys = {make(case, "photo").key, make(case, "probability").key, make(other, "photo").key}
    assert len(keys) == 3
    assert all(len(key) == 32 for key in keys)


def test_the_copies_of_a_case_that_is_no_more_go_when_another_is_made(case, tmp_path):
    copies = []
    for name in ("gone", "here", "last"):
        other = load(make_case(tmp_path / name))
        copies.append(make(other, "photo").path)
        if name == "gone":
            other.file.unlink()
    assert [path.exists() for path in copies] == [False, True, True]
    assert not artifacts.manifest_path(copies[0]).exists()


def test_two_processes_make_it_once(case, cache):
    both = [subprocess.Popen(command(case), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=PATIENCE) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sorted(b"photo for the map" in errors for _, errors in said) == [False, True]
    assert len(list(cache.glob("*.tif"))) == 2
    assert all(find(case, layer) for layer in LAYERS)


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_is_killed_on_the_way_leaves_no_half_copy(case, cache, how):
    old = make(case, "photo")
    write_photo(case.resolve("photo.tif"), np.full((512, 512), 77, np.uint8))
    late = "import time\nfrom historymap_lib import display, display_layers\n"
    late += "def held(path, levels):\n    print('on', flush=True)\n    time.sleep(60)\n"
    late += f"display_layers._check_whole = held\nraise SystemExit(display.main(['--config', {str(case.file)!r}]))"
    process = subprocess.Popen([sys.executable, "-c", late], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    before = old.path.read_bytes()
    process.send_signal(how)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 143)
    assert old.path.read_bytes() == before
    assert find(case, "photo") is None
    assert make(case, "photo").stamp != old.stamp
    assert not [path for path in cache.iterdir() if path.name.startswith(".partial")]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("room", [20_000, 60_000])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(case, cache, layer, room):
    done = subprocess.run(
        command(case, "--layer", layer),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("historymap: ")
    assert "make room" in said
    assert "Traceback" not in done.stderr
    assert not list(cache.glob("*.tif"))
    assert find(case, layer) is None


def test_a_cache_that_cannot_be_written_is_a_sentence(case, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    done = subprocess.run(command(case), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Not a directory; make room or give access" in done.stderr
    assert find(case, "photo") is None


def test_what_is_not_there_cannot_be_shown(case):
    case.paths.probability.unlink()
    assert find(case, "probability") is None
    with pytest.raises(DisplayError, match="run predict first"):
        make(case, "probability")
    case.resolve("photo.tif").unlink()
    assert find(case, "photo") is None
    with pytest.raises(PhotoError, match="there is no such photo"):
        make(case, "photo")
    with pytest.raises(DisplayError, match="the layers are photo, probability"):
        find(case, "verdicts")


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_damaged_probabilities_are_to_be_predicted_again(case, damage):
    path = case.paths.probability
    path.write_bytes(b"no raster" if damage == "text" else path.read_bytes()[:9000])
    with pytest.raises(DisplayError, match="run predict again"):
        make(case, "probability")


@pytest.mark.parametrize(("crs", "west", "north"), [("EPSG:3413", -100, 100), ("EPSG:3832", 3339584, 100)])
def test_where_web_mercator_ends_it_says_so(tmp_path, crs, west, north):
    file = make_case(tmp_path / "far")
    with rasterio.open(
        file.parent / "photo.tif", "w", driver="GTiff", width=400, height=400, count=1, dtype="uint8", crs=crs,
        transform=from_origin(west, north, 0.5, 0.5),
    ) as photo:  # fmt: skip
        photo.write(np.full((400, 400), 9, np.uint8), 1)
    change(file, "area", crs=crs)
    with pytest.raises(DisplayError, match="reaches to a pole or over the 180th meridian"):
        make(load(file), "photo")


# ------------------------------------------------------------------------------------------- the command, the server


def test_the_command_makes_what_there_is_and_tells_where(case):
    case.paths.probability.unlink()
    done = subprocess.run(command(case), capture_output=True, text=True, check=True)
    copy = find(case, "photo")
    assert done.stdout == f"photo: {copy.path}, to zoom {copy.max_zoom}\n"
    assert "photo for the map" in done.stderr
    assert "overviews" in done.stderr
    again = subprocess.run(command(case, "--layer", "photo"), capture_output=True, text=True, check=True)
    assert (again.stdout, again.stderr) == (done.stdout, "")


@pytest.mark.parametrize(("words", "part"), [(["--layer", "probability"], "run predict first"), ([], "no such photo")])
def test_the_command_says_what_it_cannot_do_in_a_sentence(case, words, part):
    case.paths.probability.unlink()
    case.resolve("photo.tif").unlink()
    done = subprocess.run(command(case, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "key", ["", "a" * 31, "A" * 32, "../" * 10 + "ab", "g" * 32, "a" * 33, f"{'a' * 32}\n", "\0" * 32]
)
def test_only_a_key_names_a_copy(cache, key):
    cache.mkdir(parents=True)
    (cache / f"{'a' * 31}.tif").touch()
    (cache / f"{'a' * 32}.tif").touch()
    assert copy_of("a" * 32)
    assert copy_of("b" * 32) is None
    assert copy_of(key) is None


@pytest.mark.parametrize("base", ["/", "/user/ann/", "/user/ann"])
def test_tiles_have_an_address_below_that_of_the_server(case, monkeypatch, base):
    copy = make(case, "photo")
    monkeypatch.setenv("HISTORYMAP_BASE_URL", base)
    assert tile_url(copy) == f"{base.rstrip('/')}/historymap/tiles/{copy.key}/{{z}}/{{x}}/{{y}}?v={copy.stamp}"
    monkeypatch.delenv("HISTORYMAP_BASE_URL")
    assert tile_url(copy) is None


def test_copies_are_in_the_cache_of_the_user(case, tmp_path, monkeypatch):
    monkeypatch.delenv("HISTORYMAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(tmp_path) in make(case, "photo").path.parents
    assert display._folder().name == "display"


def test_the_files_of_jupyter_name_what_is_there():
    root = Path(display.__file__).parent / "server"
    server = json.loads((root / "jupyter_server_config.d" / "historymap.json").read_text())
    assert server["ServerApp"]["jpserver_extensions"] == {"historymap_lib.server": True}
    name = yaml.safe_load((root / "voila.json").read_text())["Voila"]["identity_provider_class"]
    module, kind = name.rsplit(".", 1)
    assert hasattr(__import__(module, fromlist=[kind]), kind)


def test_an_opaque_tile_of_a_photo_has_a_mask_and_no_alpha(case):
    with rasterio.open(make(case, "photo").path) as file:
        assert file.count == 1
        assert file.mask_flag_enums[0] == [MaskFlags.per_dataset]
