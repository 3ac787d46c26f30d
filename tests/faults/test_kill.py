"""kill -9, and a full disk, in the middle of each writing step: there is the old artifact or the new one, never half.

Each step switches a small case to and fro between two states and is killed on the way at a random moment. A process
that has imported everything forks for each try, so a try costs no more than the step itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import pytest
import rasterio
from case_fixtures import change, lattice, make_case, photo_of, save_random_model, seen, write_photo, write_probability

from historymap_lib import annotations, artifacts
from historymap_lib.annotations import Annotation
from historymap_lib.project import load
from historymap_lib.training_data import PARTS, read_metadata, read_tile

if TYPE_CHECKING:
    from collections.abc import Callable

    from historymap_lib.project import Project

ROUNDS = 5
CHANGES = 2, 3, 5, 6, 7, 8, 9, 10, 12, 20, 40
"""Before which change of a file to die, of the some 10 (verify) to 80 (generate-training) that a step makes."""
NURSERY = """
import json, os, resource, signal, sys
import historymap_lib.corrections, ml.predict
from historymap_lib import cli
def die_at(change, folder):
    left = change
    def watch(event, arguments):
        nonlocal left
        writes = event == "open" and arguments[1] is not None and set(arguments[1]) & set("wax+")
        if (writes or event in {"os.rename", "os.mkdir", "os.rmdir", "os.remove"}) and folder in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        if order["room"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["room"], order["room"]))
        if order["die_at"]:
            die_at(order["die_at"], order["folder"])
        code = 99
        try:
            code = cli.main(order["arguments"])
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    sys.stdin.readline()  # until then a child that has ended stays, so that no other process gets its number
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Runs the command in processes of its own, each a fork of one that has imported everything."""

    def __init__(self, log: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self,
        arguments: list[str],
        *,
        kill_after: float | None = None,
        kill_on: str = "",
        how: int = signal.SIGKILL,
        room: int = 0,
        die_at: int = 0,
        folder: str = "",
    ) -> int:
        """Return the exit code, negative after a signal.

        Args:
            arguments: of the command.
            kill_after: seconds after which it gets the signal `how`.
            kill_on: what it has printed when it gets the signal.
            how: the signal.
            room: the size in bytes that no file may exceed; 0 for any.
            die_at: which change of a file in `folder` it shall not live to make; 0 for none.
            folder: where these are counted.

        """
        self.log.unlink(missing_ok=True)
        order = {"arguments": arguments, "log": str(self.log), "room": room, "die_at": die_at, "folder": folder}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_on:
            while not self.log.exists() or kill_on not in self.log.read_text():
                time.sleep(0.001)
        if kill_on or kill_after is not None:
            time.sleep(kill_after or 0)
            os.kill(child, how)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    one = Nursery(tmp_path_factory.mktemp("nursery") / "log.txt")
    yield one
    one.close()


@dataclass(frozen=True)
class Switch:
    """A step, how to bring its inputs into one of two states, and how to read what it made, whole."""

    step: str
    prepare: Callable[[Project], None]
    set_state: Callable[[Project, int], None]
    artifact: Callable[[Project], Path]
    read: Callable[[Project], object]


def read_tiles(folder: Path) -> object:
    names = [item["tile"] for item in read_metadata(folder)]
    for part in PARTS:
        assert sorted(path.stem for path in (folder / part).iterdir()) == names
    for name in names:
        assert {values.shape for values in read_tile(folder, name, "images", "masks", "buildings")} == {(128, 128)}
    assert artifacts.read_manifest(folder)["tiles"] == len(names)
    return artifacts.fingerprint(folder)


def read_probability(case: Project) -> object:
    with rasterio.open(case.paths.probability) as file:
        return file.read(1).tobytes(), file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]


def read_verdicts(case: Project) -> object:
    table = gpd.read_file(case.paths.verified.with_suffix(".gpkg"))
    assert len(table) == len(lattice())
    content = json.loads(case.paths.verified.read_text(encoding="utf-8"))
    assert len(content["features"]) == len(table)
    return content["metadata"]["counts"]


def no_annotations_but(case: Project, number: int) -> None:
    annotations.save(case.paths.annotations, [Annotation(osm_id=number, existed=False)])


SWITCHES = {
    switch.step: switch
    for switch in (
        Switch(
            "generate-training",
            lambda case: None,
            lambda case, state: change(case.file, "tiles", count=(6, 16)[state]),
            lambda case: case.paths.training,
            lambda case: read_tiles(case.paths.training),
        ),
        Switch(
            "predict",
            save_random_model,
            lambda case, state: write_photo(case.file.parent / "photo.tif", photo_of(lattice() if state else {})),
            lambda case: case.paths.probability,
            read_probability,
        ),
        Switch(
            "verify",
            lambda case: None,
            lambda case, state: write_probability(case, seen(lattice() if state else {})),
            lambda case: case.paths.verified,
            read_verdicts,
        ),
        Switch(
            "apply-annotations",
            lambda case: annotations.save(case.paths.annotations, [Annotation(osm_id=1, existed=True)]),
            lambda case, state: no_annotations_but(case, (2, 43)[state]),
            lambda case: case.paths.corrected,
            lambda case: read_tiles(case.paths.corrected),
        ),
    )
}


@pytest.fixture(scope="module")
def switched(request, tmp_path_factory, nursery):
    """A switch, its case, the command, what it makes of both states, and in how many seconds."""
    switch = SWITCHES[request.param]
    case = load(make_case(tmp_path_factory.mktemp("town")))
    if request.param == "apply-annotations":
        assert nursery.run(["run", "generate-training", "--config", str(case.file)]) == 0
    switch.prepare(case)
    command = ["run", switch.step, "--config", str(case.file), "--force"]
    made, seconds = [], 0.0
    for state in (1, 0):
        switch.set_state(case, state)
        start = time.perf_counter()
        assert nursery.run(command) == 0, nursery.log.read_text()
        seconds = time.perf_counter() - start
        made.append(switch.read(case))
    assert made[0] != made[1]
    return switch, case, command, made[::-1], seconds


def leftovers(case: Project) -> list[Path]:
    return list(case.paths.root.rglob(f"{artifacts.PARTIAL}*"))


every_step = pytest.mark.parametrize("switched", list(SWITCHES), indirect=True)


@every_step
def test_after_kill_9_there_is_the_old_artifact_or_the_new_one(switched, nursery):
    switch, case, command, made, seconds = switched
    moments = random.Random(1937)
    now, killed = made.index(switch.read(case)), 0
    for attempt in range(ROUNDS):
        switch.set_state(case, 1 - now)
        moment = seconds * (attempt + moments.random()) / ROUNDS
        killed += nursery.run(command, kill_after=moment) == -signal.SIGKILL
        found = switch.read(case)
        assert found in made
        now = made.index(found)
    assert killed >= 2
    switch.set_state(case, 1 - now)
    assert nursery.run(command) == 0
    assert switch.read(case) == made[1 - now]
    assert leftovers(case) == []


@every_step
def test_killed_before_any_change_of_a_file_there_is_the_old_artifact_or_the_new_one(switched, nursery):
    switch, case, command, made, _ = switched
    now, killed = made.index(switch.read(case)), 0
    for change_of_a_file in CHANGES:
        switch.set_state(case, 1 - now)
        code = nursery.run(command, die_at=change_of_a_file, folder=str(case.paths.root))
        found = switch.read(case)
        assert found in made
        now = made.index(found)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed >= 5
    switch.set_state(case, 1 - now)
    assert nursery.run(command) == 0
    assert switch.read(case) == made[1 - now]
    assert leftovers(case) == []


@every_step
def test_on_a_full_disk_there_is_one_sentence_and_the_old_artifact(switched, nursery):
    switch, case, command, made, _ = switched
    path = switch.artifact(case)
    before, now = artifacts.fingerprint(path), made.index(switch.read(case))
    switch.set_state(case, 1 - now)
    for room in (2_000, 5_000):  # the log must fit in
        assert nursery.run(command, room=room) == 2
        said = nursery.log.read_text()
        assert said.count("\nhistorymap: ") == 1
        assert "make room" in said
        assert "Traceback" not in said
        assert artifacts.fingerprint(path) == before
        assert switch.read(case) == made[now]
        assert leftovers(case) == []


def test_ctrl_c_ends_with_130_and_leaves_the_old_tiles(tmp_path, nursery):
    case = load(make_case(tmp_path, tiles={"size": 64, "count": 64}))
    command = ["run", "generate-training", "--config", str(case.file), "--force"]
    assert nursery.run(command) == 0
    before = artifacts.fingerprint(case.paths.training)
    change(case.file, "tiles", count=60)
    assert nursery.run(command, kill_on="tiles: ", how=signal.SIGINT) == 130
    assert nursery.log.read_text().count("historymap: interrupted") == 1
    assert "Traceback" not in nursery.log.read_text()
    assert artifacts.fingerprint(case.paths.training) == before
    assert leftovers(case) == []
