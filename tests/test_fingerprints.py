"""Fingerprints: of the content and nothing else, and remembered only as long as they are true."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from historymap_lib import fingerprints
from historymap_lib.fingerprints import fingerprint, tree


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and files that count as settled at once."""
    monkeypatch.setenv(fingerprints.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch):
    """The paths that were really read."""
    read, true = [], fingerprints._hash
    monkeypatch.setattr(fingerprints, "_hash", lambda path: read.append(path) or true(path))
    return read


def test_what_has_not_changed_is_not_read_again(tmp_path, cache, hashed):
    file = tmp_path / "photo.tif"
    file.write_bytes(b"grey")
    first = fingerprint(file)
    assert [fingerprint(file) for _ in range(3)] == [first] * 3
    assert hashed == [file]


def test_a_change_that_leaves_size_and_time_as_they_were_is_seen(tmp_path, cache):
    file = tmp_path / "mask.tif"
    file.write_bytes(b"0000")
    before, times = fingerprint(file), file.stat()
    file.write_bytes(b"0001")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(file) != before


def test_what_has_just_changed_is_not_remembered(tmp_path, monkeypatch, hashed):
    monkeypatch.setenv(fingerprints.CACHE, str(tmp_path / "cache"))
    file = tmp_path / "photo.tif"
    file.write_bytes(b"grey")
    assert fingerprint(file) == fingerprint(file)
    assert len(hashed) == 2


def test_a_file_put_in_the_place_of_another_is_read(tmp_path, cache):
    file, other = tmp_path / "photo.tif", tmp_path / "other.tif"
    file.write_bytes(b"a")
    other.write_bytes(b"b")
    before, wanted = fingerprint(file), fingerprint(other)
    other.replace(file)
    assert fingerprint(file) == wanted != before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"signature": 1}', "\x00"])
def test_a_damaged_cache_only_takes_longer(tmp_path, cache, content, hashed):
    file = tmp_path / "photo.tif"
    file.write_bytes(b"grey")
    first = fingerprint(file)
    for place in cache.rglob("*.json"):
        place.write_text(content)
    assert fingerprint(file) == first
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, where a folder is wanted")
    monkeypatch.setenv(fingerprints.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    file = tmp_path / "photo.tif"
    file.write_bytes(b"grey")
    assert fingerprint(file) == fingerprint(file) == hashlib.sha256(b"." + hashlib.sha256(b"grey").digest()).hexdigest()


def test_what_is_missing_has_none(tmp_path, cache):
    assert fingerprint(tmp_path / "none") == ""
    assert tree(tmp_path / "none") is None


def test_the_size_is_that_of_all_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "deep" / "b").write_bytes(b"345")
    assert tree(tmp_path).size == 5


CHANGES = st.lists(
    st.tuples(st.sampled_from(["write", "delete", "rename"]), st.sampled_from("abcd"), st.binary(max_size=3)),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_whatever_happens_to_a_folder_the_fingerprint_is_that_of_its_content(tmp_path, cache, changes):
    folder = tmp_path / "tiles"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for what, name, content in changes:
        if what == "write":
            (folder / name).write_bytes(content)
        elif (folder / name).exists():
            (folder / name).replace(folder / "e") if what == "rename" else (folder / name).unlink()
        assert fingerprint(folder) == fingerprints._hash(folder)
