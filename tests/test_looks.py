"""Networks look at a case: where the photo shows its outlines, each by the member that has not learned from it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch
from outline_fixtures import write_town

from historymap_lib import first_look, offsets
from historymap_lib.footprint_source import load_footprints
from historymap_lib.imagery import open_photo
from historymap_lib.outline_evidence import OutlineEvidence
from historymap_lib.photo_align import align
from historymap_lib.project import load
from historymap_lib.sample_varied import paint_varied
from historymap_lib.tiles import Folds
from ml import first_look as taking
from ml import looks
from ml.checkpoint import OUTLINES, WEIGHTS, footprint_network
from ml.first_look import look
from ml.footprint_network import FootprintNetwork
from ml.footprint_training import ask
from ml.looks import Case, fold_of, look_at

FEW = 24
"""Buildings of the small town that most of these tests look at."""
FINISHED = (WEIGHTS / OUTLINES).with_suffix(".json").exists()
"""Whether the network that comes with the package has learned where buildings lie."""
ROUNDED = 0.05
"""What logits may differ by from batch to batch, where the processor computes in bfloat16."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return load(write_town(tmp_path_factory.mktemp("few"), count=FEW))


@pytest.fixture(scope="module")
def opened(project):
    with open_photo(project) as photo:
        yield photo


@pytest.fixture(scope="module")
def case(project, opened):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "MOST_PHANTOMS", 60)
        patch.setattr(looks, "MOST_MISFITS", 60)
        return Case.of(project, opened, footprint_network())


@pytest.fixture(scope="module")
def folds(opened):
    return Folds(2, 60.0, opened.grid.west, opened.grid.north)


def member(seed):
    torch.manual_seed(seed)
    return FootprintNetwork().eval()


@pytest.mark.skipif(not FINISHED, reason="the network of the package is yet to learn where buildings lie")
def test_a_map_that_lies_off_is_laid_where_the_photo_shows_the_buildings(tmp_path):
    town = paint_varied(9, size_m=320.0)
    project = load(
        write_town(tmp_path, varied=town, shift=(1.5, 0.0), tiles={"size": 128, "resolution": town.resolution})
    )
    with open_photo(project) as photo:
        case = Case.of(project, photo, footprint_network())
    off = case.shift - (-1.5, 0.0)
    assert np.median(np.hypot(*off.T)) < 0.5


def test_footprints_lie_where_they_were_moved_to_from_the_map(project, case):
    frame = load_footprints(project).frame
    back = shapely.transform(case.footprints[0], lambda points: points - case.shift[0])
    assert len(case.footprints) == len(case.shift) == FEW
    assert case.building_id.tolist() == frame["building_id"].tolist()
    assert back.equals_exact(frame.geometry.iloc[0], 1e-6, normalize=True)
    assert np.hypot(*case.shift.T).max() < 3


def test_the_members_judge_what_they_have_not_learned_from(case, folds):
    members = [member(1), member(2)]
    found = look_at(case, members, folds)
    assert found.building_id.tolist() == case.building_id.tolist()
    own = folds.of(*shapely.get_coordinates(shapely.centroid(case.footprints)).T)
    assert found.fold.tolist() == own.tolist()
    assert set(own) == {0, 1}
    groups = {"footprints": (case.footprints, np.arange(FEW)), "phantoms": case.phantoms, "misfits": case.misfits}
    for name, (shapes, host) in groups.items():
        seen = getattr(found, name)
        assert len(seen) > 0
        assert shapely.equals(seen.shapes, shapes).all()
        assert seen.host.tolist() == host.tolist()
        assert seen.logits.shape == (len(shapes), 1)
        some = np.unique(np.linspace(0, len(shapes) - 1, 12).astype(int))
        chips = case.chips(shapes[some])
        answers = [ask(one, chips) for one in members]
        for index, row in enumerate(some):
            logit, embedding, _ = answers[own[host[row]]]  # of the footprint that lent the shape or lies underneath
            assert seen.logits[row, 0] == pytest.approx(logit[index], abs=ROUNDED)
            assert seen.embedding[row] == pytest.approx(embedding[index], abs=ROUNDED)
        assert seen.coverage[some] == pytest.approx(chips.coverage())
        assert seen.tone[some] == pytest.approx(chips.tone(), abs=0.01)


def test_without_folds_one_network_judges_all(case):
    first = footprint_network()
    found = look_at(case, [first], None)
    assert (found.fold == -1).all()
    assert found.misfits.logits.shape == (len(case.misfits[0]), 1)
    assert found.footprints.logits[:, 0] == pytest.approx(ask(first, case.chips(case.footprints))[0], abs=ROUNDED)


def test_the_same_outlines_are_there_again_from_what_was_seen(case, opened, folds):
    seen = look_at(case, [member(1)], None)
    again = Case.again(opened, seen)
    assert again.building_id.tolist() == case.building_id.tolist()
    assert shapely.equals_exact(again.footprints, case.footprints).all()
    for name in ("phantoms", "misfits"):
        (shapes, host), (before, host_before) = getattr(again, name), getattr(case, name)
        assert shapely.equals_exact(shapes, before).all()
        assert host.tolist() == host_before.tolist()
    both = look_at(again, [member(1), member(2)], folds).beside(seen)
    assert both.phantoms.logits[:, 0].tolist() == seen.phantoms.logits[:, 0].tolist()
    assert both.phantoms.logits.shape == (len(case.phantoms[0]), 2)
    assert set(both.fold) == {0, 1}


def test_a_group_without_outlines_is_written_and_read_too(project, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "MOST_PHANTOMS", 0)
    monkeypatch.setattr(looks, "MOST_MISFITS", 0)
    bare = Case.of(project, opened, footprint_network())
    look_at(bare, [member(2)], Folds(1, 60.0, 0.0, 0.0)).write(tmp_path / "outlines.npz")
    found = OutlineEvidence.read(tmp_path / "outlines.npz")
    assert (len(found.footprints), len(found.phantoms), len(found.misfits)) == (FEW, 0, 0)
    assert found.phantoms.logits.shape == (0, 1)
    assert found.misfits.embedding.shape == (0, found.footprints.embedding.shape[1])
    assert fold_of(bare, bare.misfits[1], None).tolist() == []


def test_outlines_are_looked_at_in_parts_and_come_back_in_their_order(case, monkeypatch):
    network = member(3)
    whole = look_at(case, [network], None)
    monkeypatch.setattr(looks, "AT_ONCE", 7)
    parts = look_at(case, [network], None)
    for name in ("footprints", "phantoms", "misfits"):
        assert getattr(parts, name).logits == pytest.approx(getattr(whole, name).logits, abs=ROUNDED)
        assert getattr(parts, name).coverage == pytest.approx(getattr(whole, name).coverage, abs=0.01)


def test_a_first_look_is_written_where_verify_looks_for_it(project, monkeypatch):
    monkeypatch.setattr(looks, "MOST_PHANTOMS", 10)
    monkeypatch.setattr(looks, "MOST_MISFITS", 10)
    assert look(project) == first_look.file(project)
    found = OutlineEvidence.read(first_look.file(project))
    assert len(found.building_id) == FEW
    assert (found.fold == -1).all()


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A case whose first looks are counted: it, and the list of those taken."""
    monkeypatch.setattr(looks, "MOST_PHANTOMS", 10)
    monkeypatch.setattr(looks, "MOST_MISFITS", 10)
    taken, of = [], Case.of
    monkeypatch.setattr(taking.Case, "of", lambda *given: taken.append(1) or of(*given))
    return load(write_town(tmp_path, count=FEW)), taken


def rewrite(project):
    footprints = project.footprint_file
    footprints.write_text(footprints.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def test_a_first_look_is_taken_once_and_anew_where_the_map_or_the_code_has_changed(town, monkeypatch):
    project, taken = town
    file = look(project)
    before = file.read_bytes()
    assert look(project) == file
    assert (len(taken), file.read_bytes()) == (1, before)
    look(project, force=True)
    assert (len(taken), file.read_bytes()) == (2, before)
    file.write_bytes(before[: len(before) // 2])
    look(project)
    assert (len(taken), file.read_bytes()) == (3, before)
    monkeypatch.setattr(taking, "CODE", (*taking.CODE, "ml.train"))
    look(project)
    assert len(taken) == 4
    rewrite(project)
    look(project)
    assert len(taken) == 5


def test_a_first_look_is_taken_anew_when_offsets_hold_again(town):
    project, taken = town
    align(project, picture=False)
    look(project)
    rewrite(project)
    assert offsets.known_offsets(project) is None
    look(project)
    align(project, picture=False)  # finds the same
    assert offsets.known_offsets(project) is not None
    look(project)
    assert len(taken) == 3


def test_a_first_look_that_cannot_be_kept_is_no_reason_not_to_train(town, opened, capsys):
    project, taken = town
    project.paths.predictions.parent.mkdir(parents=True)
    project.paths.predictions.touch()  # a file where the folder should be
    case, seen = taking.look_first(project, opened)
    assert len(case.footprints) == len(seen.footprints) == FEW
    assert "first_look.npz: cannot be written (" in capsys.readouterr().out
    with pytest.raises(OSError, match="first_look"):
        look(project)
    assert len(taken) == 2
