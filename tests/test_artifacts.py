"""Crash-safe writing: real writers, killed at random moments; a reader sees the old or the new, never half or mixed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from historymap_lib import artifacts
from historymap_lib.artifacts import PARTIAL, fingerprint, replacing, replacing_folder, sweep

KILLS = 30
LINES = 20_000
FILES = 12

WRITE = {
    "file": f"""
with artifacts.replacing(target) as partial, partial.open("w") as file:
    for _ in range({LINES}):
        file.write(version + "\\n")
""",
    "folder": f"""
with artifacts.replacing_folder(target) as partial:
    (partial / "deep").mkdir()
    for index in range({FILES}):
        (partial / ("deep" if index % 2 else ".") / f"{{index}}.txt").write_text(version * 1000)
""",
}


def writer(kind, target, *, who="", versions="itertools.count()"):
    """Start a process that writes one version after the other, and wait until it has begun."""
    body = WRITE[kind].replace("\n", "\n    ")
    script = (
        "import itertools, sys\nfrom pathlib import Path\nfrom historymap_lib import artifacts\n"
        f"target = Path(sys.argv[1])\nprint('ready', flush=True)\nfor number in {versions}:\n"
        f"    version = f'{who}{{number}},'\n    {body}"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def version_in(kind, target):
    """Return the version that `target` holds, which has to be whole."""
    if kind == "file":
        lines = target.read_text().splitlines()
        assert len(lines) == LINES
        versions = set(lines)
    else:
        files = [path for path in target.rglob("*") if path.is_file()]
        assert len(files) == FILES
        contents = [path.read_text() for path in files]
        versions = {content[: content.index(",") + 1] for content in contents}
        assert all(content == content[: content.index(",") + 1] * 1000 for content in contents)
    (version,) = versions
    return version


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(PARTIAL)]


@pytest.fixture
def dead():
    """Return the id of a process that no longer lives."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(kind, tmp_path):
    target = tmp_path / "target.txt"
    began = time.monotonic()
    exec(WRITE[kind], {"artifacts": artifacts, "target": tmp_path / "measured" / "target", "version": "0,"})
    span = time.monotonic() - began
    (tmp_path / "measured").rename(tmp_path.with_name(f"{tmp_path.name}_measured"))
    chance = random.Random(1937)
    left, seen = 0, set()
    for number in range(KILLS // 2):
        process = writer(kind, target, who=f"{number}-")
        time.sleep(chance.uniform(0, 3 * span))
        process.kill()
        process.wait()
        process.stdout.close()
        left += len(leftovers(tmp_path))
        if target.exists():
            seen.add(version_in(kind, target))
    assert left, "no kill fell into the writing, so this has shown nothing"
    assert len(seen) > 1
    sweep(target)
    assert leftovers(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["target.txt"]


def test_a_reader_beside_a_writer_sees_whole_versions_only(tmp_path):
    target = tmp_path / "target.txt"
    artifacts.write_text(target, "first,\n" * LINES)
    process = writer("file", target, versions="range(25)")
    seen = set()
    while process.poll() is None:
        seen.add(version_in("file", target))
    process.stdout.close()
    assert process.returncode == 0
    assert version_in("file", target) == "24,"
    assert len(seen) > 1


def test_a_folder_that_is_replaced_is_never_missing(tmp_path):
    target = tmp_path / "target"
    with replacing_folder(target) as partial:
        (partial / "a").touch()
    if not artifacts._exchange(tmp_path, tmp_path):
        pytest.skip("this system cannot exchange two folders in one step")
    process = writer("folder", target, versions="range(25)")
    missing = 0
    while process.poll() is None:
        missing += not target.exists()
    process.stdout.close()
    assert process.returncode == 0
    assert missing == 0
    assert version_in("folder", target) == "24,"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_writers_at_once_both_succeed_and_one_of_them_wins(kind, tmp_path):
    for attempt in range(3):
        target = tmp_path / f"target{attempt}"
        processes = [writer(kind, target, who=who, versions="range(10)") for who in "ab"]
        for process in processes:
            assert process.wait() == 0
            process.stdout.close()
        assert version_in(kind, target) in {"a9,", "b9,"}
    assert leftovers(tmp_path) == []


def test_writers_that_both_find_nothing_do_not_lose_the_later(tmp_path):
    target = tmp_path / "target"
    with replacing_folder(target) as late:
        (late / "who").write_text("late")
        with replacing_folder(target) as early:
            (early / "who").write_text("early")
        assert (target / "who").read_text() == "early"
    assert (target / "who").read_text() == "late"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_a_folder_takes_the_place_of_nothing_of_a_folder_and_of_a_file(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(artifacts, "_exchange", lambda *_: False)
    target = tmp_path / "new" / "target"
    for name in ("first", "second"):
        with replacing_folder(target) as partial:
            assert list(partial.iterdir()) == []
            (partial / name).touch()
        assert [path.name for path in target.iterdir()] == [name]
    artifacts.shutil.rmtree(target)
    target.write_text("a file")
    with replacing_folder(target) as partial:
        (partial / "third").touch()
    assert [path.name for path in target.iterdir()] == ["third"]
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("replace", [replacing, replacing_folder])
def test_an_error_while_writing_leaves_the_old_and_nothing_else(tmp_path, replace, error):
    target = tmp_path / "target"

    def write(text):
        with replace(target) as partial:
            (partial / "file" if partial.is_dir() else partial).write_text(text)
            if text == "new":
                raise error

    with pytest.raises(error):
        write("new")
    assert list(tmp_path.iterdir()) == []
    write("old")
    with pytest.raises(error):
        write("new")
    assert (target / "file" if target.is_dir() else target).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_where_nothing_was_written_nothing_is_replaced(tmp_path):
    target = tmp_path / "target"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_without_exchange_a_failed_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_exchange", lambda *_: False)
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    rename = Path.replace

    def fail(self, goal):
        if goal == target and self.name == "target":
            raise OSError("the disk is gone")
        return rename(self, goal)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"), replacing_folder(target) as partial:
        (partial / "new").touch()
    assert [path.name for path in target.iterdir()] == ["old"]


def test_the_next_writer_brings_back_what_a_killed_one_had_moved_aside(tmp_path, dead):
    target = tmp_path / "target"
    unfinished = tmp_path / f"{PARTIAL}target-{dead}-abc"
    (unfinished / "target").mkdir(parents=True)
    (unfinished / "target" / "half").touch()
    (unfinished / f"target{artifacts.OLD}").mkdir()
    (unfinished / f"target{artifacts.OLD}" / "whole").touch()
    sweep(target)
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert leftovers(tmp_path) == []


def test_half_a_folder_is_never_brought_back_whatever_its_name(tmp_path, dead):
    for name in ("old", "target", "target.old"):
        (tmp_path / f"{PARTIAL}{name}-{dead}-abc" / name).mkdir(parents=True)
        sweep(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_writer_is_at_is_left_alone(tmp_path, dead):
    mine = tmp_path / f"{PARTIAL}target-{os.getpid()}-abc"
    others = tmp_path / f"{PARTIAL}target-{dead}-x-{os.getpid()}-abc"
    dashed = tmp_path / f"{PARTIAL}target-{dead}-x-{dead}-abc"  # belongs to `target-1234-x`, not to `target`
    for folder in (mine, others, dashed):
        folder.mkdir()
    sweep(tmp_path / "target")
    assert sorted(leftovers(tmp_path)) == sorted([mine.name, others.name, dashed.name])
    sweep(tmp_path / f"target-{dead}-x")
    assert sorted(leftovers(tmp_path)) == sorted([mine.name, others.name])


@pytest.mark.parametrize("name", ["photo[1].tif", "a*b?.json", "ø ü.txt", "a-1-b", ".hidden"])
def test_any_file_name_can_be_written_and_swept(tmp_path, dead, name):
    (tmp_path / f"{PARTIAL}{name}-{dead}-abc").mkdir()
    artifacts.write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_unfinished_file_has_the_name_and_so_the_format_of_the_target(tmp_path):
    with replacing(tmp_path / "a.tif") as partial:
        assert partial.name == "a.tif"
        assert partial.parent.parent == tmp_path
        partial.with_name("beside.tif").touch()  # GDAL leaves such
        partial.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_what_is_written_has_the_usual_rights(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    artifacts.write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode == usual.stat().st_mode


def test_json_comes_back_and_what_is_none_is_none(tmp_path):
    file = tmp_path / "a.json"
    value = {"name": "Ærø", "numbers": [1, 2.5, None, True]}
    artifacts.write_json(file, value)
    assert artifacts.read_json(file) == value
    assert "Ærø" in file.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(file, {"probability": float("nan")})
    assert artifacts.read_json(file) == value
    for content in (b"", b"{", b"\xff\xfe"):
        file.write_bytes(content)
        assert artifacts.read_json(file) is None
    assert artifacts.read_json(tmp_path / "none.json") is None
    assert artifacts.read_json(tmp_path) is None


NAMES = st.text("abc", min_size=1, max_size=3).map(lambda name: f"{name}.x")
FOLDERS = st.dictionaries(NAMES | st.builds("{}/{}".format, st.sampled_from("de"), NAMES), st.binary(max_size=8))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=FOLDERS, other=FOLDERS)
def test_folders_have_the_same_fingerprint_if_and_only_if_their_files_are_the_same(tmp_path_factory, one, other):
    made = []
    for files in (one, other):
        folder = tmp_path_factory.mktemp("folder")
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        made.append(fingerprint(folder))
    assert (made[0] == made[1]) == (one == other)


def test_the_fingerprint_of_a_file_is_of_its_content_alone(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("content")
    second.write_text("content")
    os.utime(second, (0, 0))
    assert fingerprint(first) == fingerprint(second) != ""
    second.write_text("Content")
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(tmp_path / "none") == ""


def test_a_folder_s_manifest_and_unfinished_files_do_not_count_but_those_below_do(tmp_path):
    (tmp_path / "a").write_text("a")
    before = fingerprint(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / f"{PARTIAL}a-1-x").mkdir()
    (tmp_path / f"{PARTIAL}a-1-x" / "a").write_text("half")
    assert fingerprint(tmp_path) == before
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "manifest.json").write_text("{}")
    assert fingerprint(tmp_path) != before


def test_an_unfinished_folder_has_the_fingerprint_that_it_will_have(tmp_path):
    with replacing_folder(tmp_path / "target") as partial:
        (partial / "a").write_text("a")
        before = fingerprint(partial)
    assert before == fingerprint(tmp_path / "target")


def test_the_fingerprint_of_code_is_that_of_its_source_and_needs_no_import():
    assert artifacts.code_fingerprint("historymap_lib.artifacts") == fingerprint(Path(artifacts.__file__))
    script = (
        "import sys; from historymap_lib.artifacts import code_fingerprint as f; f('json.tool'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "json.tool" not in loaded
    assert artifacts.code_fingerprint("json.no_such_module") == ""


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_a_manifest_lies_with_its_artifact_and_tells_what_it_was_made_from(tmp_path, folder):
    artifact, photo = tmp_path / "artifact.tif", tmp_path / "photo.tif"
    artifact.mkdir() if folder else artifact.touch()
    photo.write_text("pixels")
    assert artifacts.read_manifest(artifact) is None
    artifacts.write_manifest(
        artifact,
        step="predict",
        inputs=[photo, tmp_path / "none"],
        settings={"tiles": {"size": 64}},
        parameters={"tiles": None},
        code=["historymap_lib.artifacts"],
        covered=0.5,
    )
    where = artifact / "manifest.json" if folder else tmp_path / "artifact.tif.manifest.json"
    assert artifacts.manifest_path(artifact) == where
    manifest = artifacts.read_manifest(artifact)
    assert manifest["inputs"] == {str(photo): fingerprint(photo), str(tmp_path / "none"): ""}
    assert (manifest["step"], manifest["settings"], manifest["covered"]) == ("predict", {"tiles": {"size": 64}}, 0.5)
    assert manifest["code"] == {"historymap_lib.artifacts": artifacts.code_fingerprint("historymap_lib.artifacts")}
    where.write_text("[1]")
    assert artifacts.read_manifest(artifact) is None
