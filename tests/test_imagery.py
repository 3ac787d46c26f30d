"""The photo: every format, from every place, comes onto the grid; what cannot is refused in a sentence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as gdal_copy
from rasterio.warp import transform as warp_points
from rasterio.windows import Window
from scipy.ndimage import center_of_mass, gaussian_filter, label, map_coordinates

from historymap_lib import imagery
from historymap_lib.errors import PhotoError
from historymap_lib.imagery import open_photo, photo_files
from historymap_lib.project import load

UTM = "EPSG:25832"
WEST, NORTH = 500_000.0, 6_000_000.0
LUMA = [0.299, 0.587, 0.114]
noise = np.random.default_rng(1937)


def north_up(west=WEST, north=NORTH, resolution=1.0):
    return Affine(resolution, 0, west, 0, -resolution, north)


def write(path, values, *, crs=UTM, transform=None, mask=None, colours=None, palette=None, **options):
    """Write a raster of bands x rows x columns, or rows x columns."""
    values = values if values.ndim == 3 else values[None]
    count, height, width = values.shape
    size = {"width": width, "height": height, "count": count, "dtype": values.dtype}
    options = {"driver": "GTiff", "transform": transform or north_up(), **size, **options}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", crs=crs, **options) as file:
        file.write(values)
        if palette is not None:
            file.write_colormap(1, palette)
        if mask is not None:
            file.write_mask(mask)
    if colours is not None:
        with rasterio.open(path, "r+") as file:
            file.colorinterp = colours
    return path


def grey(height=60, width=80):
    return noise.integers(1, 256, (height, width), dtype=np.uint8)


def stored(values):
    """Return what a photo on the very grid reads as: the same, but 1 for 0, which stands for no photo."""
    return np.maximum(values, 1)


def cut(path, share=2 / 3):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.fixture
def read(write_case):
    """Return a function that opens a photo and reads the whole grid, or a window."""

    def read(path, *, window=None, bounds=None, resolution=1, crs=UTM, bounds_crs=None, **photo):
        paths = [str(one) for one in path] if isinstance(path, list) else str(path)
        changes = {"photo.path": paths, "area.crs": crs, "tiles.resolution": resolution}
        changes |= {f"photo.{key}": value for key, value in photo.items()}
        if bounds is not None:
            changes |= {"area.bounds": list(bounds), "area.bounds_crs": bounds_crs or crs}
        with open_photo(load(write_case(changes))) as opened:
            grid = opened.grid
            pixels, valid = opened.read(window or Window(0, 0, grid.width, grid.height))
        assert (pixels.dtype, valid.dtype) == (np.uint8, bool)
        assert ((pixels > 0) == valid).all()
        return grid, pixels, valid

    return read


@pytest.fixture
def refusal(read):
    """Return a function that gives the sentence with which a photo is refused."""

    def refuse(path, **options):
        with pytest.raises(PhotoError) as caught:
            read(path, **options)
        text = str(caught.value)
        assert "\n" not in text
        return text

    return refuse


# ------------------------------------------------------------------------------------------------- on the very grid


@pytest.mark.parametrize("resolution", [0.1, 0.2, 0.25, 0.4, 0.5, 1, 2.5])
def test_a_photo_on_the_very_grid_comes_through_unchanged(tmp_path, read, resolution):
    values = noise.integers(0, 256, (60, 80), dtype=np.uint8)
    west, north = 1_234_567 * resolution, 15_000_003 * resolution
    photo = write(tmp_path / "a.tif", values, transform=north_up(west, north, resolution))
    grid, pixels, valid = read(photo, resolution=resolution)
    assert (grid.width, grid.height) == (80, 60)
    assert valid.all()
    assert (pixels == stored(values)).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        ("a.tif", {"driver": "COG", "compress": "lzw"}),
        ("a.png", {"driver": "PNG"}),
        ("a.jp2", {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "yes"}),
        ("a.img", {"driver": "HFA"}),
    ],
)
def test_any_format_of_gdal_is_a_photo(tmp_path, read, name, options):
    values = grey()
    if options.get("driver") in ("PNG", "COG", "JP2OpenJPEG"):
        plain = write(tmp_path / "plain.tif", values)
        options = {key: value for key, value in options.items() if key != "driver"} | {"driver": options["driver"]}
        gdal_copy(plain, tmp_path / name, **options)
    else:
        write(tmp_path / name, values, **options)
    _, pixels, valid = read(tmp_path / name)
    assert valid.all()
    assert (pixels == values).all()


def test_a_virtual_raster_is_a_photo(tmp_path, read):
    values = grey()
    gdal_copy(write(tmp_path / "a.tif", values), tmp_path / "a.vrt", driver="VRT")
    assert (read(tmp_path / "a.vrt")[1] == values).all()


@given(column=st.floats(-1e5, 1e5), row=st.floats(-1e5, 1e5), resolution=st.sampled_from([0.13, 0.3, 0.4, 0.7, 1.0]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_photo_on_pixels_of_its_own_comes_through_unchanged(tmp_path, read, column, row, resolution):
    values = grey(30, 40)
    photo = write(tmp_path / "a.tif", values, transform=north_up(WEST + column, NORTH + row, resolution))
    _, pixels, valid = read(photo, resolution=resolution)
    assert valid.all()
    assert (pixels == values).all()


SIDES = st.tuples(st.integers(-100, 100), st.integers(1, 150))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=SIDES, rows=SIDES)
def test_any_window_is_the_same_part_of_the_whole(tmp_path, read, columns, rows):
    path = tmp_path / "a.tif"
    if not path.exists():
        write(path, grey())
    (left, width), (top, height) = columns, rows
    padded = np.pad(read(path)[1], 300)
    _, pixels, _ = read(path, window=Window(left, top, width, height))
    assert (pixels == padded[300 + top : 300 + top + height, 300 + left : 300 + left + width]).all()


def test_windows_put_together_are_the_whole_also_where_it_is_warped(tmp_path, read):
    photo = write(tmp_path / "a.tif", grey(200, 200), crs="EPSG:25833", transform=north_up(100_000, 6_010_000, 0.7))
    grid, whole, _ = read(photo)
    parts = [
        [read(photo, window=Window(left, top, 64, 64))[1] for left in range(0, grid.width, 64)]
        for top in range(0, grid.height, 64)
    ]
    together = np.block(parts)[: grid.height, : grid.width]
    assert np.abs(together.astype(int) - whole).max() <= 1 or (together != whole).mean() < 0.01


# ------------------------------------------------------------------------------------------------------- the area


def test_an_area_within_the_photo_is_that_part_of_it(tmp_path, read):
    values = grey()
    photo = write(tmp_path / "a.tif", values)
    grid, pixels, valid = read(photo, bounds=(WEST + 10, NORTH - 40, WEST + 50, NORTH - 20))
    assert (grid.width, grid.height) == (40, 20)
    assert valid.all()
    assert (pixels == values[20:40, 10:50]).all()


def test_an_area_over_the_edge_of_the_photo_is_empty_there(tmp_path, read):
    values = grey()
    photo = write(tmp_path / "a.tif", values)
    _, pixels, valid = read(photo, bounds=(WEST - 10, NORTH - 40, WEST + 50, NORTH + 20))
    assert (pixels[20:, 10:] == values[:40, :50]).all()
    assert valid.sum() == 40 * 50


def test_the_area_may_be_given_in_degrees(tmp_path, read):
    photo = write(tmp_path / "a.tif", grey(200, 200))
    (west, east), (south, north) = warp_points(UTM, "EPSG:4326", [WEST + 50, WEST + 90], [NORTH - 90, NORTH - 50])
    grid, _, valid = read(photo, bounds=(west, south, east, north), bounds_crs="EPSG:4326")
    assert np.array(grid.bounds) == pytest.approx([WEST + 50, NORTH - 90, WEST + 90, NORTH - 50], abs=2)
    assert valid.all()


@pytest.mark.parametrize("far", [0, 1, 1e6], ids=["touching", "beside", "far"])
def test_an_area_outside_the_photo_is_refused_with_both(tmp_path, refusal, far):
    photo = write(tmp_path / "a.tif", grey())
    text = refusal(photo, bounds=(WEST - far - 50, NORTH - 50, WEST - far, NORTH))
    assert text.startswith(f"{tmp_path / 'case.yaml'}: area.bounds [")
    assert f"lies outside the photo {photo}, which covers 500000, 5999940, 500080, 6000000 in {UTM}" in text


def test_an_area_that_is_nowhere_is_refused_with_its_crs(tmp_path, refusal):
    photo = write(tmp_path / "a.tif", grey())
    text = refusal(photo, bounds=(500_000, 5_999_900, 500_100, 6_000_000), bounds_crs="EPSG:4326")
    assert (
        "area.bounds [500000.0, 5999900.0, 500100.0, 6000000.0] in area.bounds_crs EPSG:4326 cannot be placed" in text
    )


# ----------------------------------------------------------------------------------------------- bands and palettes


def test_red_green_and_blue_become_as_bright_as_they_look(tmp_path, read):
    values = noise.integers(0, 256, (3, 60, 80), dtype=np.uint8)
    _, pixels, _ = read(write(tmp_path / "a.tif", values, photometric="RGB"))
    assert (pixels == stored(np.tensordot(LUMA, values, axes=1).round())).all()


def test_grey_stored_as_colour_stays_as_it_is(tmp_path, read):
    values = grey()
    _, pixels, _ = read(write(tmp_path / "a.tif", np.stack([values] * 3), photometric="RGB"))
    assert (pixels == values).all()


def test_a_fourth_band_that_is_no_alpha_is_left_aside(tmp_path, read):
    values = noise.integers(0, 256, (4, 60, 80), dtype=np.uint8)
    _, pixels, valid = read(write(tmp_path / "a.tif", values, photometric="RGB", alpha="UNSPECIFIED"))
    assert valid.all()
    assert (pixels == stored(np.tensordot(LUMA, values[:3], axes=1).round())).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", ["LA", "RGBA", "ARGB"])
def test_where_alpha_is_zero_there_is_no_photo(tmp_path, read, bands, dtype):
    high = 1 if dtype == "float32" else np.iinfo(dtype).max
    values = noise.uniform(high / 4, high, (len(bands), 60, 80)).astype(dtype)
    alpha = bands.index("A")
    values[alpha] = high
    values[alpha, :20] = 0
    names = {"L": "gray", "A": "alpha", "R": "red", "G": "green", "B": "blue"}
    kind = {"LA": "MINISBLACK", "RGBA": "RGB", "ARGB": "MINISBLACK"}[bands]
    colours = [ColorInterp[names[band]] for band in bands] if bands == "ARGB" else None
    extra = {} if bands == "ARGB" else {"alpha": "YES"}
    _, pixels, valid = read(write(tmp_path / "a.tif", values, photometric=kind, colours=colours, **extra))
    assert not valid[:20].any()
    assert valid[20:].all()
    if dtype == "uint8":
        colour = np.delete(values, alpha, axis=0)
        expected = colour[0] if len(colour) == 1 else np.tensordot(LUMA, colour, axes=1).round()
        assert (pixels[20:] == expected[20:]).all()


def test_a_palette_is_read_as_the_brightness_of_its_colours(tmp_path, read):
    values = noise.integers(0, 3, (60, 80), dtype=np.uint8)
    palette = {0: (0, 0, 0), 1: (255, 0, 0), 2: (255, 255, 255)}
    _, pixels, valid = read(write(tmp_path / "a.tif", values, palette=palette))
    assert valid.all()
    assert (pixels == np.array([1, 76, 255])[values]).all()


def test_a_palette_of_sixteen_bits_is_read_too(tmp_path, read):
    values = noise.choice([0, 300, 65535], (60, 80)).astype(np.uint16)
    palette = {index: (index >> 8,) * 3 for index in range(65536)}
    _, pixels, _ = read(write(tmp_path / "a.tif", values, palette=palette))
    assert (pixels == stored(values >> 8)).all()


def test_a_palette_is_not_blended_where_the_photo_is_finer(tmp_path, read):
    values = noise.integers(0, 2, (120, 120), dtype=np.uint8)
    palette = {0: (10, 10, 10), 1: (200, 200, 200)}
    _, pixels, _ = read(write(tmp_path / "a.tif", values, palette=palette, transform=north_up(resolution=0.25)))
    assert set(np.unique(pixels)) <= {10, 200}


# --------------------------------------------------------------------------------------------------------- no data


@pytest.mark.parametrize("where", ["file", "settings", "settings over file", "mask", "mask and settings"])
@pytest.mark.parametrize("bands", [1, 3])
def test_no_data_by_value_or_mask_is_no_photo_and_the_rest_is(tmp_path, read, where, bands):
    values = noise.integers(1, 256, (bands, 60, 80), dtype=np.uint8)
    values[:, :20] = 7
    values[0, 20:][values[0, 20:] == 7] = 8
    hidden = np.zeros((60, 80), bool)
    hidden[:20] = where != "mask"
    options, photo = {}, {}
    if "mask" in where:
        hidden[40:] = True
        options["mask"] = ~hidden if where == "mask" else np.arange(60)[:, None] < np.full(80, 40)
    if "file" in where:
        options["nodata"] = 7 if where == "file" else 9
    if "settings" in where:
        photo["nodata"] = 7
    _, pixels, valid = read(write(tmp_path / "a.tif", values, **options), **photo)
    assert (valid == ~hidden).all()
    expected = values[0] if bands == 1 else np.tensordot(LUMA, values, axes=1).round()
    assert (pixels[valid] == expected[valid]).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("nodata", [None, 7])
def test_a_photo_on_the_very_grid_reads_as_it_would_through_a_warped_view(
    tmp_path, read, monkeypatch, dtype, bands, nodata
):
    values = noise.integers(1, 256, (bands, 90, 110)).astype(dtype)
    values[:, 20:40] = 7
    if dtype == "float32":
        values[:, 50:60, 5:] = np.nan
    photo = write(tmp_path / "a.tif", values, nodata=nodata)
    window, bounds = Window(-10, -15, 140, 120), (WEST + 8, NORTH - 120, WEST + 130, NORTH - 5)
    _, *plain = read(photo, window=window, bounds=bounds)
    monkeypatch.setattr(imagery, "_aligned", lambda *_: None)
    _, *warped = read(photo, window=window, bounds=bounds)
    assert (plain[0] == warped[0]).all()
    assert (plain[1] == warped[1]).all()
    assert plain[1].any()
    assert not plain[1].all()


def test_a_colour_with_one_band_at_the_no_data_value_is_still_photo(tmp_path, read):
    values = np.zeros((3, 60, 80), np.uint8)
    values[0, 20:] = 255
    _, pixels, valid = read(write(tmp_path / "a.tif", values, nodata=0))
    assert not valid[:20].any()
    assert (pixels[20:] == 76).all()


def test_the_settings_hide_an_opaque_black_collar(tmp_path, read):
    values = np.full((4, 60, 80), 100, np.uint8)
    values[:3, :20] = 0
    values[3] = 255
    photo = write(tmp_path / "a.tif", values, photometric="RGB", alpha="YES")
    assert read(photo)[2].all()
    _, _, valid = read(photo, nodata=0)
    assert not valid[:20].any()
    assert valid[20:].all()


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("declared", [True, False])
def test_what_is_no_number_is_no_photo_said_or_not(tmp_path, read, hole, declared):
    values = np.linspace(-5, 5, 4800, dtype=np.float32).reshape(60, 80)
    values[:20] = hole
    _, pixels, valid = read(write(tmp_path / "a.tif", values, nodata=hole if declared else None))
    assert not valid[:20].any()
    assert valid[30:].all()
    assert (pixels[30, 0], pixels[-1, -1]) > (1, 254)


def test_no_data_does_not_darken_its_neighbours_when_warped(tmp_path, read):
    values = np.full((60, 80), 200, np.uint8)
    values[:20] = 0
    for resolution in (0.3, 1.7):
        photo = write(tmp_path / "a.tif", values, nodata=0, transform=north_up(resolution=resolution))
        _, pixels, valid = read(photo)
        assert 0.5 < valid.mean() < 0.75
        assert pixels[valid].min() >= 199


# --------------------------------------------------------------------------------------------- more than eight bits


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_other_than_eight_bits_is_stretched_between_percentiles_and_keeps_its_order(tmp_path, read, dtype):
    values = np.linspace(0, 100 if dtype == "int8" else 10_000, 4800).astype(dtype).reshape(60, 80)
    _, pixels, valid = read(write(tmp_path / "a.tif", values))
    assert valid.all()
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()
    assert (pixels == 1).mean() == pytest.approx(0.01, abs=0.015)
    assert (pixels == 255).mean() == pytest.approx(0.01, abs=0.015)
    assert np.median(pixels) == pytest.approx(128, abs=2)


def test_the_stretch_is_of_valid_pixels_alone_and_by_the_shares_asked_for(tmp_path, read):
    values = np.linspace(1000, 2000, 4800).astype(np.uint16).reshape(60, 80)
    values[:20] = 0
    photo = write(tmp_path / "a.tif", values, nodata=0)
    low, high = np.quantile(values[20:], (0.1, 0.8))
    _, pixels, valid = read(photo, stretch=[0.1, 0.8])
    expected = np.clip((values - low) / (high - low) * 254 + 1, 1, 255).round()
    assert (pixels[valid] == expected[valid]).all()
    assert not valid[:20].any()
    _, by_settings, _ = read(write(tmp_path / "b.tif", values), stretch=[0.1, 0.8], nodata=0)
    assert (by_settings == pixels).all()


def test_the_stretch_is_the_same_for_every_window_and_area(tmp_path, read):
    values = noise.integers(0, 5000, (60, 80)).astype(np.uint16)
    photo = write(tmp_path / "a.tif", values)
    _, whole, _ = read(photo)
    _, part, _ = read(photo, bounds=(WEST + 10, NORTH - 40, WEST + 50, NORTH - 20))
    assert (part == whole[20:40, 10:50]).all()


@pytest.mark.parametrize("value", [0, 7])
def test_one_value_and_none_at_all_are_no_trouble(tmp_path, read, value):
    _, _, valid = read(write(tmp_path / "a.tif", np.full((60, 80), value, np.uint16), nodata=0))
    assert valid.all() == valid.any() == bool(value)


# ------------------------------------------------------------------------------------------- from another place


SPOT = 15
"""Width of a spot in pixels of the grid, wide enough for its middle to be known well below a pixel."""


def spot(height, width, row, column, sigma):
    """Return a bright spot at a place in pixels (corners count from 0)."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (20 + 200 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2 / sigma**2)).round().astype(np.uint8)


def middle(grid, pixels):
    """Return where the spot is, in metres."""
    row, column = center_of_mass(np.where(pixels > 60, pixels.astype(float) - 20, 0))
    return np.array([grid.west + (column + 0.5) * grid.resolution, grid.north - (row + 0.5) * grid.resolution])


@pytest.mark.parametrize(
    ("crs", "step"),
    [
        ("EPSG:25832", 1.0),
        ("EPSG:25832", 0.37),
        ("EPSG:25832", 2.9),
        ("EPSG:25833", 1.0),
        ("EPSG:25833", 0.3),
        ("EPSG:3857", 1.8),
        ("EPSG:4326", 1e-5),
        ("EPSG:4326", 3e-6),
    ],
)
def test_a_spot_stays_where_it_is_within_half_a_pixel(tmp_path, read, crs, step):
    (x,), (y,) = warp_points(UTM, crs, [WEST + 123.4], [NORTH - 567.8])
    metres = step * (111_000 if crs == "EPSG:4326" else 0.6 if crs == "EPSG:3857" else 1)
    size = int(240 / metres)
    transform = north_up(x - 0.47 * size * step, y + 0.55 * size * step, step)
    values = spot(size, size, 0.55 * size, 0.47 * size, SPOT / metres)
    grid, pixels, _ = read(write(tmp_path / "a.tif", values, crs=crs, transform=transform))
    tolerance = 0.5 if crs != "EPSG:4326" else 1.0  # a spot round in degrees is not round in metres
    assert middle(grid, pixels) == pytest.approx([WEST + 123.4, NORTH - 567.8], abs=tolerance)


def test_a_gradient_from_another_crs_has_the_right_value_everywhere(tmp_path, read):
    (x,), (y,) = warp_points(UTM, "EPSG:25833", [WEST], [NORTH])
    values = np.broadcast_to(np.linspace(10, 250, 400).round().astype(np.uint8), (400, 400))
    transform = north_up(x, y)
    grid, pixels, valid = read(write(tmp_path / "a.tif", values, crs="EPSG:25833", transform=transform))
    rows, columns = np.nonzero(valid)
    xs, ys = grid.west + columns + 0.5, grid.north - rows - 0.5
    source_x, source_y = (np.array(one) for one in warp_points(UTM, "EPSG:25833", xs, ys))
    inner = (source_x > x + 3) & (source_x < x + 397) & (source_y < y - 3) & (source_y > y - 397)
    expected = np.interp(source_x[inner] - x - 0.5, np.arange(400), np.linspace(10, 250, 400))
    half_a_pixel = 0.5 * 240 / 399
    assert inner.mean() > 0.9
    assert np.abs(pixels[rows, columns][inner] - expected).max() < half_a_pixel + 1  # and twice rounded


def test_a_rotated_photo_is_turned_upright(tmp_path, read):
    turned = Affine.rotation(30)
    a, b, _, d, e, _ = turned[:6]
    transform = Affine(a, -b, WEST, d, -e, NORTH)
    values = spot(200, 200, 60, 140, 6)
    grid, pixels, valid = read(write(tmp_path / "a.tif", values, transform=transform))
    place = [a * 140 - b * 60 + WEST, d * 140 - e * 60 + NORTH]
    assert middle(grid, pixels) == pytest.approx(place, abs=0.5)
    assert valid.sum() == pytest.approx(200 * 200, rel=0.03)


def test_a_photo_that_is_south_up_is_turned_over(tmp_path, read):
    values = grey()
    _, pixels, valid = read(write(tmp_path / "a.tif", values, transform=Affine(1, 0, WEST, 0, 1, NORTH - 60)))
    assert valid.all()
    assert (pixels == values[::-1]).all()


def test_a_much_finer_photo_is_averaged_not_picked(tmp_path, read):
    values = np.indices((300, 300)).sum(axis=0) % 2 * 200 + 20
    photo = write(tmp_path / "a.tif", values.astype(np.uint8), transform=north_up(resolution=0.1))
    _, pixels, valid = read(photo)
    assert valid.all()
    assert (np.abs(pixels.astype(int) - 120) <= 1).all()


# --------------------------------------------------------------------------------------------------------- mosaics


def test_of_overlapping_files_the_first_listed_wins_and_gaps_stay_empty(tmp_path, read):
    first = write(tmp_path / "b.tif", np.full((20, 30), 100, np.uint8))
    second = write(tmp_path / "a.tif", np.full((20, 30), 200, np.uint8), transform=north_up(WEST + 20))
    third = write(tmp_path / "c.tif", np.full((20, 30), 50, np.uint8), transform=north_up(WEST + 60))
    _, pixels, valid = read([first, second, third])
    assert pixels[0].tolist() == [100] * 30 + [200] * 20 + [0] * 10 + [50] * 30
    assert valid.sum() == 80 * 20
    _, pixels, _ = read([second, first, third])
    assert pixels[0].tolist() == [100] * 20 + [200] * 30 + [0] * 10 + [50] * 30


def test_a_hole_in_one_file_is_filled_by_the_next(tmp_path, read):
    values = np.full((20, 30), 100, np.uint8)
    values[5:10, 5:10] = 0
    first = write(tmp_path / "a.tif", values, nodata=0)
    second = write(tmp_path / "b.tif", np.full((20, 30), 200, np.uint8))
    _, pixels, valid = read([first, second])
    assert valid.all()
    assert (pixels == np.where(values, values, 200)).all()


def test_a_star_names_all_files_in_the_order_of_their_names(tmp_path, read, write_case):
    for column, name in enumerate(["x2.tif", "x1.tif", "y.tif"]):
        write(tmp_path / name, np.full((20, 20), 50 * column + 50, np.uint8), transform=north_up(WEST + 10 * column))
    _, pixels, _ = read("x*.tif")
    assert pixels[0].tolist() == [50] * 10 + [100] * 20
    project = load(write_case({"photo.path": ["y.tif", "x*.tif"]}))
    assert [file.name for file in photo_files(project)] == ["y.tif", "x1.tif", "x2.tif"]


def test_files_of_different_crs_bands_and_bits_are_one_photo(tmp_path, read):
    first = write(tmp_path / "a.tif", np.full((100, 100), 100, np.uint8))
    (x,), (y,) = warp_points(UTM, "EPSG:4326", [WEST + 90], [NORTH + 10])
    colour = np.stack([np.full((120, 120), 180, np.uint8)] * 3)
    second = write(tmp_path / "b.tif", colour, crs="EPSG:4326", transform=Affine(1.5e-5, 0, x, 0, -9e-6, y))
    third = write(
        tmp_path / "c.tif", noise.integers(0, 9999, (100, 100)).astype(np.uint16), transform=north_up(WEST, NORTH - 100)
    )
    _, pixels, valid = read([first, second, third], bounds=(WEST, NORTH - 200, WEST + 150, NORTH))
    assert (pixels[:100, :100] == 100).all()
    assert (pixels[:80, 102:] == 180).all()
    assert valid[100:, :100].all()
    assert not valid[120:, 110:].any()


def test_files_outside_the_area_are_not_read(tmp_path, read, refusal):
    good = write(tmp_path / "a.tif", grey())
    far = cut(
        write(tmp_path / "b.tif", noise.integers(0, 9999, (60, 80)).astype(np.uint16), transform=north_up(WEST + 500))
    )
    _, _, valid = read([good, far], bounds=(WEST, NORTH - 60, WEST + 80, NORTH))
    assert valid.all()
    assert f"{far}: cannot be read" in refusal([good, far])


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_missing_photo_is_refused_with_the_key(tmp_path, refusal):
    way_out = f"there is no such photo; correct photo.path in {tmp_path / 'case.yaml'}"
    assert refusal("none.tif") == f"{tmp_path / 'none.tif'}: {way_out}"
    assert refusal("none*.tif") == f"{tmp_path / 'none*.tif'}: {way_out}"
    good = write(tmp_path / "a.tif", grey())
    assert refusal([good, "none.tif"]) == f"{tmp_path / 'none.tif'}: {way_out}"


@pytest.mark.parametrize(
    "content", [b"", b"a text", b"II*\0\x08\0\0\0"], ids=["nothing", "text", "a head without body"]
)
def test_what_is_no_raster_is_refused(tmp_path, refusal, content):
    photo = tmp_path / "a.tif"
    photo.write_bytes(content)
    assert refusal(photo).startswith(f"{photo}: is no raster that GDAL can open (")


def test_a_folder_is_no_photo(tmp_path, refusal):
    assert refusal(tmp_path).startswith(f"{tmp_path}: is no raster that GDAL can open (")


def test_a_photo_cut_off_in_its_head_is_refused(tmp_path, refusal):
    photo = write(tmp_path / "a.tif", grey())
    photo.write_bytes(photo.read_bytes()[:50])
    assert refusal(photo).startswith(f"{photo}: is no raster that GDAL can open (")


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "zstd", "jpeg"])
@pytest.mark.parametrize("tiled", [True, False])
def test_a_photo_cut_off_in_its_body_opens_and_is_refused_where_it_ends(tmp_path, read, refusal, compress, tiled):
    values = noise.integers(1, 200, (400, 400), dtype=np.uint8)
    photo = write(tmp_path / "a.tif", values, compress=compress, tiled=tiled, blockxsize=64, blockysize=64)
    top = (WEST, NORTH - 50, WEST + 400, NORTH)
    _, before, _ = read(photo, bounds=top)
    cut(photo)
    assert refusal(photo).startswith(f"{photo}: cannot be read to its end (")
    assert (read(photo, bounds=top)[1] == before).all()


def test_a_photo_of_sixteen_bits_that_is_cut_off_is_refused_on_opening(tmp_path, refusal):
    photo = cut(write(tmp_path / "a.tif", noise.integers(1, 9999, (400, 400)).astype(np.uint16)))
    assert refusal(photo).startswith(f"{photo}: cannot be read to its end (")


def test_a_virtual_raster_without_its_source_is_refused(tmp_path, refusal):
    source = write(tmp_path / "a.tif", grey())
    gdal_copy(source, tmp_path / "a.vrt", driver="VRT")
    source.unlink()
    text = refusal(tmp_path / "a.vrt")
    assert text.startswith(f"{tmp_path / 'a.vrt'}: cannot be read")
    assert "a.tif" in text


def test_a_photo_that_does_not_say_where_it_lies_is_refused(tmp_path, refusal):
    text = "does not say where it lies (no CRS or no transform); georeference it first"
    assert refusal(write(tmp_path / "a.tif", grey(), crs=None)).endswith(text)
    plain = tmp_path / "b.png"
    with rasterio.open(tmp_path / "a.tif") as source:
        gdal_copy(source, plain, driver="PNG", WORLDFILE="NO")
    (tmp_path / "b.png.aux.xml").unlink()
    assert refusal(plain).endswith(text)


def test_a_photo_in_a_crs_of_nowhere_is_refused(tmp_path, refusal):
    photo = write(tmp_path / "a.tif", grey(), crs='LOCAL_CS["site grid",UNIT["metre",1]]')
    assert refusal(photo) == f"{photo}: has the CRS site grid, which is nowhere on Earth; georeference it first"


def test_a_photo_whose_numbers_do_not_go_with_its_crs_is_refused(tmp_path, refusal):
    photo = write(tmp_path / "a.tif", grey(), crs="EPSG:4326")
    assert refusal(photo).startswith(f"{photo}: the bounds 500000, 5999940, 500080, 6000000 in WGS 84 cannot be placed")


# ---------------------------------------------------------------------------------------------------- the real thing


def test_a_real_satellite_photo_of_sixteen_bits_is_stretched_and_its_wedge_left_out(shared_data, read):
    photo = shared_data / "rotterdam" / "pan2.tif"
    with rasterio.open(photo) as file:
        raw = file.read(1)
    _, pixels, valid = read(photo, crs="EPSG:32631", resolution=0.5, nodata=0)
    assert pixels.shape == raw.shape  # whose pixels are 0.49999 m
    assert 0.3 < (raw == 0).mean() < 0.4
    assert (valid != (raw > 0)).mean() < 0.001
    low, high = np.quantile(raw[raw > 0], (0.01, 0.99))
    expected = np.clip((raw - low) / (high - low) * 254 + 1, 1, 255)
    both = valid & (raw > 0)
    assert np.abs(pixels[both] - expected[both]).mean() < 0.5


def test_a_real_photo_comes_through_unchanged_wherever_its_corner_lies(shared_data, read):
    photo = shared_data / "banepa" / "orthophoto.tif"
    with rasterio.open(photo) as file:
        raw, corner = file.read(1), (file.transform.c, file.transform.f)
    grid, pixels, valid = read(photo, crs="EPSG:32645", resolution=0.4)
    assert (grid.west, grid.north) == corner
    assert (pixels == raw).all()
    assert 0.3 < valid.mean() < 1


def test_real_colour_chips_in_degrees_are_one_mosaic_without_seams(shared_data, read):
    grid, pixels, valid = read(shared_data / "banepa" / "chips" / "*.tif", crs="EPSG:32645", resolution=0.4)
    assert (grid.width, grid.height) == (1034, 1362)
    holes, count = label(~valid)
    assert count <= 4  # the corners, since what is upright in degrees leans in metres
    assert all((holes[[0, 0, -1, -1], [0, -1, 0, -1]] == n + 1).any() for n in range(count))
    assert valid.mean() > 0.97
    assert 60 < np.median(pixels[valid]) < 200


@pytest.mark.parametrize("name", ["OAM-386690-220244-19.tif", "OAM-386691-220241-19.tif"])
def test_a_real_chip_in_degrees_lies_where_its_coordinates_say(shared_data, read, name):
    chip = shared_data / "banepa" / "chips" / name
    grid, pixels, _ = read(chip, crs="EPSG:32645", resolution=0.4)
    rows, columns = np.mgrid[6 : grid.height - 6, 6 : grid.width - 6]
    east, north = grid.west + (columns + 0.5) * 0.4, grid.north - (rows + 0.5) * 0.4
    places = warp_points("EPSG:32645", "EPSG:4326", east.ravel(), north.ravel())
    longitude, latitude = (np.reshape(one, rows.shape) for one in places)
    with rasterio.open(chip) as file:
        source, place = np.tensordot(LUMA, file.read(), axes=1), file.transform
    y, x = (latitude - place.f) / place.e - 0.5, (longitude - place.c) / place.a - 0.5
    blurred, alike = gaussian_filter(source, 1.2), {}  # to the resolution of the grid, a third
    for down, right in itertools.product((-1, -0.5, 0, 0.5, 1), repeat=2):
        there = map_coordinates(blurred, [y + down, x + right], order=1)
        alike[down, right] = np.corrcoef(there.ravel(), pixels[6:-6, 6:-6].ravel())[0, 1]
    assert max(alike, key=alike.get) == (0, 0)
    assert alike[0, 0] > 0.99
