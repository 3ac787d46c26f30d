"""The file between the network and verify: what is written is read, and what is damaged is told."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from historymap_lib import artifacts
from historymap_lib.errors import VerificationError
from historymap_lib.outline_evidence import KINDS, Looks, OutlineEvidence

COURT = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(3, 3), (6, 3), (6, 6)]])
SHAPES = [shapely.box(0, 0, 9.123456789, 7), COURT, shapely.MultiPolygon([shapely.box(0, 0, 1, 1), COURT])]


def looks(count, networks=2, seed=0):
    """Return what two networks saw under some outlines; numbers that half the digits hold."""
    rng = np.random.default_rng([seed, count])
    return Looks(
        shapely.transform(
            np.resize(np.array(SHAPES, dtype=object), count), lambda points: points + rng.normal(0, 1e5, 2)
        ),
        rng.normal(0, 5, (count, networks)).astype(np.float32),
        rng.normal(0, 1, (count, 6)).astype(np.float16).astype(np.float32),
        rng.random(count).astype(np.float32),
        rng.uniform(0, 255, (count, 2)).astype(np.float32),
        rng.integers(0, 99, count),
    )


def evidence(ids, phantoms=5, misfits=4):
    count = len(ids)
    rng = np.random.default_rng(count)
    groups = looks(count), looks(phantoms, seed=1), looks(misfits, seed=2)
    shift, fold = rng.normal(0, 1, (count, 2)), rng.integers(-1, 3, count)
    return OutlineEvidence(np.array(ids, np.str_), shift, fold, *groups, made_from='{"map": "ø"}')


def assert_same(one, other):
    for field in fields(one):
        mine, found = getattr(one, field.name), getattr(other, field.name)
        if field.name in KINDS:
            assert_same(mine, found)
        elif field.name == "made_from":
            assert mine == found
        elif field.name == "shapes":
            assert shapely.to_wkb(mine).tolist() == shapely.to_wkb(found).tolist()
        else:
            assert (mine.shape, mine.tolist()) == (found.shape, found.tolist())
            assert mine.dtype.kind == found.dtype.kind


@settings(max_examples=30)
@given(
    ids=st.lists(st.text(min_size=1).filter(lambda name: not name.endswith("\0")), max_size=6, unique=True),
    phantoms=st.integers(0, 4),
    misfits=st.integers(0, 4),
)
def test_what_is_written_is_read_to_the_letter(tmp_path_factory, ids, phantoms, misfits):
    file = tmp_path_factory.mktemp("evidence") / "new" / "outlines.npz"
    written = evidence(ids, phantoms, misfits)
    written.write(file)
    assert_same(written, OutlineEvidence.read(file))
    assert [path.name for path in file.parent.iterdir()] == ["outlines.npz"]


def test_rows_are_found_by_the_id_of_the_building():
    assert evidence(["way/1", "relation/7", "ø"]).of(["ø", "way/2", "way/1"]).tolist() == [2, -1, 0]
    assert evidence([]).of(["way/1"]).tolist() == [-1]


def test_some_can_be_taken():
    some = looks(6).take(np.array([4, 1]))
    assert len(some) == 2
    assert some.logits.tolist() == looks(6).logits[[4, 1]].tolist()
    assert some.shapes[0].equals(looks(6).shapes[4])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "outlines.npz"
    evidence(["way/1", "way/2"]).write(file)
    return file


@settings(max_examples=100)
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
def test_damage_is_told_or_does_no_harm(whole, place, bit):
    content = bytearray(whole.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    damaged = whole.with_name("damaged.npz")
    damaged.write_bytes(content)
    try:
        found = OutlineEvidence.read(damaged)
    except VerificationError as error:
        assert "damaged.npz: cannot be read" in str(error)  # noqa: PT017 - either will do
    else:
        known = OutlineEvidence.read(whole)
        assert found.made_from in (known.made_from, "")  # without it, what asks for it looks anew
        assert_same(replace(known, made_from=found.made_from), found)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_told(whole, tmp_path, share):
    content = whole.read_bytes()
    (tmp_path / "outlines.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(VerificationError, match=r"outlines\.npz: cannot be read .*; run what makes it again"):
        OutlineEvidence.read(tmp_path / "outlines.npz")


def test_what_is_something_else_is_told(tmp_path):
    with pytest.raises(VerificationError, match=r"gone\.npz: cannot be read"):
        OutlineEvidence.read(tmp_path / "gone.npz")
    np.savez(tmp_path / "other.npz", probability=np.ones(3))
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "pickled.npz", building_id=np.array([{"way": 1}], dtype=object))
    (tmp_path / "poem.npz").write_bytes(b"a poem")
    for file in tmp_path.iterdir():
        with pytest.raises(VerificationError, match=f"{file.name}: cannot be read"):
            OutlineEvidence.read(file)


def test_an_old_file_stays_whole_until_the_new_one_is_finished(whole, monkeypatch):
    def full(stream, **_):
        stream.write(b"half of it")
        raise OSError("No space left on device")

    before = whole.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        evidence(["way/3"]).write(whole)
    assert whole.read_bytes() == before
    assert not list(whole.parent.glob(f"{artifacts.PARTIAL}*"))
