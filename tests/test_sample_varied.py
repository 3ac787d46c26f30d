from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine

from historymap_lib.errors import HistorymapError
from historymap_lib.sample import plan_sample
from historymap_lib.sample_camera import CROWNS
from historymap_lib.sample_later import KINDS
from historymap_lib.sample_style import REGIONS, SEASONS, draw_style
from historymap_lib.sample_varied import FARTHEST, paint_varied

SMALL = 320.0
BLOCKS = [  # mean greys of the sample of seed 1, 400 m at 0.5 m, by blocks of 100 m
    [53.51, 80.54, 76.71, 72.9],
    [97.63, 110.5, 126.94, 118.22],
    [121.97, 117.5, 112.53, 134.19],
    [130.67, 124.04, 105.91, 109.25],
]


@cache
def town(region, seed=7):
    return paint_varied(seed, size_m=SMALL, style=draw_style(np.random.default_rng(seed), region))


def share_covered(outlines, by):
    """Return the share of each outline that the union of the others covers."""
    return shapely.area(shapely.intersection(outlines, shapely.union_all(by))) / shapely.area(outlines)


def iou(one, other):
    return shapely.area(one & other) / shapely.area(one | other)


def contents(painted):
    digest = hashlib.sha256(painted.photo.tobytes())
    for part in (*shapely.to_wkb(painted.outlines), painted.stood.tobytes(), "".join(painted.kinds).encode()):
        digest.update(part)
    return digest.hexdigest()


def test_the_sample_is_what_it_was_before_there_were_styles():
    sample = plan_sample(seed=1, size_m=400.0, resolution=0.5)
    blocks = sample.photo.reshape(4, 200, 4, 200).mean((1, 3))  # not a hash: another processor may round another way
    assert blocks == pytest.approx(np.array(BLOCKS), abs=0.05)
    assert (len(sample.buildings), sum(b.stood for b in sample.buildings)) == (135, 72)
    assert shapely.area(sample.outlines).sum() == pytest.approx(14937.741, abs=0.01)
    assert np.average(shapely.get_coordinates(sample.outlines), axis=0) == pytest.approx([195.6245, 212.3504], abs=1e-3)


def test_the_buildings_of_the_sample_have_their_kind():
    buildings = plan_sample(seed=1, size_m=400.0, resolution=0.5).buildings
    assert {building.kind for building in buildings if building.stood} == {"old"}
    assert {building.kind for building in buildings if not building.stood} <= set(KINDS) - {"old"}


def test_same_seed_gives_the_same_town_and_another_another():
    one, again, other = (paint_varied(seed, size_m=SMALL) for seed in (3, 3, 4))
    assert contents(one) == contents(again)
    assert one.style == again.style
    assert contents(one) != contents(other)
    assert one.style != other.style


@pytest.mark.parametrize("region", REGIONS)
def test_every_region_is_painted(region):
    painted = town(region)
    assert painted.photo.dtype == np.uint8
    assert painted.photo.shape == (round(painted.size / painted.resolution),) * 2
    assert 0.001 < (painted.photo == 0).mean() < 0.25
    seen = painted.photo[painted.photo > 0]
    assert seen.std() > 10
    assert ((seen < 10) | (seen > 246)).mean() < 0.2  # neither drowned nor burnt out
    assert 15 < len(painted.outlines) == len(painted.stood) == len(painted.kinds) == len(painted.seen_outlines)
    assert shapely.is_valid(painted.outlines).all()


@pytest.mark.parametrize("region", REGIONS)
def test_nothing_stands_in_the_photo_under_what_came_later(region):
    painted = town(region)
    photo_shows = [*painted.seen_outlines[painted.stood], *painted.gone_outlines]
    later = painted.seen_outlines[~painted.stood & (painted.kinds != "replaced")]
    covered = share_covered(later, photo_shows)  # leaning roofs and the seam hide a little of the ground
    assert covered.max() < 0.5
    assert np.mean(covered < 0.1) > 0.95


@pytest.mark.parametrize("region", REGIONS)
def test_kinds_and_truth_agree(region):
    painted = town(region)
    assert set(painted.kinds) <= set(KINDS)
    assert ((painted.kinds == "old") == painted.stood).all()
    replaced = painted.seen_outlines[painted.kinds == "replaced"]
    if len(replaced):
        former = shapely.union_all(painted.gone_outlines)
        assert (share_covered(replaced, painted.gone_outlines) > 0).mean() > 0.9
        nearest = [max(iou(new, old) for old in shapely.get_parts(former)) for new in replaced]
        assert max(nearest) < 0.7  # another outline than the one that the photo shows


def test_every_kind_occurs():
    counts = Counter(kind for region in REGIONS for kind in town(region).kinds.tolist())
    assert set(counts) == set(KINDS)
    assert min(counts.values()) > 0.02 * sum(counts.values())


def test_the_map_is_off_by_no_more_than_its_style_says():
    style = draw_style(np.random.default_rng(7), "north")
    upright = replace(style, light=replace(style.light, lean=(0.0, 0.0)))
    painted = paint_varied(7, size_m=SMALL, style=upright)
    off = shapely.distance(shapely.centroid(painted.outlines), shapely.centroid(painted.seen_outlines))
    assert off.max() < FARTHEST + 1.6  # the seam adds its jump
    assert off.std() > 0.05


def test_roofs_are_where_the_outlines_say():
    contrast = []
    for region in ("north", "estates", "tropics"):
        painted = town(region)
        old = painted.seen_outlines[painted.stood]
        grey = painted.photo.astype(float)
        place = Affine(painted.resolution, 0, 0, 0, -painted.resolution, painted.size)
        edges = np.hypot(*np.gradient(grey))
        rims, away = (
            rasterio.features.rasterize(shapes, grey.shape, transform=place) > 0
            for shapes in (shapely.buffer(shapely.boundary(old), 0.6), shapely.buffer(shapely.boundary(old), 3.0))
        )
        contrast.append(edges[rims].mean() / edges[~away & (grey > 0)].mean())
    assert min(contrast) > 1.05


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_styles_stay_within_what_can_be_painted(seed):
    style = draw_style(np.random.default_rng(seed))
    assert style.region in REGIONS
    assert sum(style.fabric.quarters.values()) == pytest.approx(1)
    assert sum(style.fabric.roofs.values()) == pytest.approx(1)
    assert style.soil.crown in CROWNS
    assert style.soil.season in SEASONS
    assert 0.2 <= style.film.resolution <= 1.0
    assert 0.4 < style.film.blur * style.film.resolution + 0.4 < 2.0
    assert np.linalg.norm(style.light.sun) == pytest.approx(1)
    assert 0 < style.light.skylight < 1
    assert np.hypot(*style.light.lean) < 0.36


def test_an_unknown_region_and_a_size_without_room_are_refused():
    with pytest.raises(HistorymapError, match="choose one of north"):
        draw_style(np.random.default_rng(0), "atlantis")
    with pytest.raises(HistorymapError, match="choose a size"):
        paint_varied(0, size_m=50.0)
