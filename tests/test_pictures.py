"""The pictures of a case: where the steps put them, and the histogram of probabilities."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from case_fixtures import lattice, make_case, seen, write_probability
from matplotlib.image import imread

from historymap_lib import figures, steps
from historymap_lib.annotations import Annotation, save
from historymap_lib.looks import LOOKS
from historymap_lib.pictures import PICTURES
from historymap_lib.project import load
from historymap_lib.settings import Verification


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A case whose model somebody else has trained."""
    case = load(make_case(tmp_path_factory.mktemp("town"), tiles={"count": 3}))
    steps.run(case, "generate-training")
    save(case.paths.annotations, [Annotation(osm_id=2, existed=True)])
    write_probability(case, seen(lattice()))
    steps.run(case, "verify")
    steps.run(case, "apply-annotations")
    return case


@pytest.mark.parametrize("name", ["tiles", "verdicts", "histogram", "corrected"])
def test_after_its_step_a_picture_is_where_it_is_looked_for(case, name):
    path = PICTURES[name].path(case.paths)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert min(imread(path).shape[:2]) > 200


def test_each_picture_says_what_it_shows_and_what_makes_it():
    assert {picture.made_by for picture in PICTURES.values()} == {*steps.STEPS, "evaluate"}
    assert all(picture.shows for picture in PICTURES.values())


def test_no_two_pictures_share_a_file(case):
    files = [picture.path(case.paths) for picture in PICTURES.values()]
    assert len(set(files)) == len(files)


def verdicts_of(probabilities, *, annotated=(), settings=None) -> gpd.GeoDataFrame:
    values = np.array(probabilities, float)
    settings = settings or Verification()
    names = np.where(values >= settings.existed_from, "existed", "unsure").astype(object)
    names[values <= settings.not_existed_to] = "not_existed"
    names[np.isnan(values)] = "no_coverage"
    marks = np.isin(np.arange(len(values)), annotated)
    columns = {"verdict": names, "probability": values, "annotated": marks}
    return gpd.GeoDataFrame(columns, geometry=[shapely.Point(0, 0).buffer(1)] * len(values), crs=25832)


def drawn(frame, folder, settings=None):
    """Return the picture without its alpha."""
    path = folder / "deep" / "histogram.png"
    figures.draw_histogram(frame, settings or Verification(), path)
    return imread(path)[..., :3]


@pytest.fixture
def legends(monkeypatch):
    """What the legends of the pictures say."""
    found = []
    write = figures.write_figure

    def note(figure, path):
        found.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts())
        write(figure, path)

    monkeypatch.setattr(figures, "write_figure", note)
    return found


def test_the_histogram_counts_each_verdict_and_those_by_people_apart(tmp_path, legends):
    drawn(verdicts_of([0.01, 0.05, 0.5, 0.95, 0.99, 0.97, np.nan], annotated=[5]), tmp_path)
    assert sorted(legends) == sorted(
        [
            f"{LOOKS['existed'].label} (2)",
            f"{LOOKS['not_existed'].label} (2)",
            f"{LOOKS['unsure'].label} (1)",
            "judged by people (1)",
        ]
    )


@pytest.mark.parametrize(
    "probabilities",
    [[], [np.nan], [0.0], [1.0], [0.5] * 1000, [0.0, 1.0, np.nan]],
    ids=["none", "nothing scored", "0", "1", "all alike", "the ends"],
)
def test_the_histogram_is_drawn_whatever_there_is(tmp_path, probabilities):
    image = drawn(verdicts_of(probabilities), tmp_path)
    assert image.min() < 0.5 < image.max()


def test_the_dashed_lines_stand_at_the_thresholds_of_the_settings(tmp_path, monkeypatch):
    lines = []
    write = figures.write_figure
    monkeypatch.setattr(
        figures, "write_figure", lambda figure, path: (lines.extend(figure.axes[0].lines), write(figure, path))
    )
    drawn(verdicts_of([0.2, 0.5]), tmp_path, Verification(existed_from=0.7, not_existed_to=0.3))
    assert sorted(line.get_xdata()[0] for line in lines) == [0.3, 0.7]
