"""What a job with readers costs, beside the same command writing to a file alone.

Run `python tests/benchmarks/bench_jobs.py [--lines 1000000]`. The command prints so many lines, and measures itself
from its first line to its last. As a job it has five readers: two follow it live, each in a process of its own, and
three have opened its log and read no further. The ways take turns, and the best of three rounds of each counts. Every
byte must be in the log, and each live reader must have seen all lines, or the benchmark ends with an error.

A job writes each line at once (PYTHONUNBUFFERED), so that readers see it; the ratio is to the same command that does so
too. The last row is without, where Python collects 8 KiB before it writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from historymap_lib.jobs import Jobs
from historymap_lib.project import load

if TYPE_CHECKING:
    from historymap_lib.jobs import Job

LINES, ROUNDS, LIVE, STALLED = 1_000_000, 3, 2, 3
PRINT = """
import json, os, sys, time
while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
start, cpu = time.perf_counter(), time.process_time()
for number in range(int(sys.argv[1])):
    print(f"line {number} of a log that many read")
sys.stdout.flush()
with open(sys.argv[2], "w") as file:
    json.dump([time.perf_counter() - start, time.process_time() - cpu], file)
"""
FOLLOW = """
import hashlib, sys
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
job = Jobs(load(sys.argv[1])).get(int(sys.argv[2]))
print("ready", flush=True)
lines, digest = 0, hashlib.sha256()
for update in job.follow():
    lines += update.text.count("\\n")
    digest.update(update.text.encode())
print(lines, digest.hexdigest(), flush=True)
"""


def run(lines: int = LINES, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Return a row a way: name, readers, seconds, cpu (both of the command itself), and the ratio of its seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = Jobs(make_case(folder))
        alone, read, buffered = [], [], []
        for _ in range(rounds):
            alone.append(_alone(folder, lines, buffered=False))
            read.append(_as_job(jobs, folder, lines))
            buffered.append(_alone(folder, lines, buffered=True))
    rows = [
        _row("a file alone", 0, alone),
        _row("as a job", LIVE + STALLED, read),
        _row("buffered, alone", 0, buffered),
    ]
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
    return rows


def make_case(folder: Path) -> Any:
    """Write settings; the commands of this benchmark need neither photo nor houses."""
    values = {
        "name": "bench",
        "area": {"crs": "EPSG:25832"},
        "photo": {"path": "photo.tif"},
        "footprints": {"path": "houses.gpkg"},
        "jobs": {"idle": 1.0},
    }
    file = folder / "case.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load(file)


def _command(folder: Path, lines: int) -> list[str]:
    return [sys.executable, "-S", "-c", PRINT, str(lines), str(folder / "times"), str(folder / "go")]


def _go(folder: Path) -> None:
    (folder / "go").touch()


def _times(folder: Path) -> tuple[float, float]:
    """Return what the command has measured of itself, and make ready for the next."""
    seconds, cpu = json.loads((folder / "times").read_text())
    (folder / "times").unlink()
    (folder / "go").unlink()
    return seconds, cpu


def _alone(folder: Path, lines: int, *, buffered: bool) -> tuple[float, float]:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    variables |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    target = folder / "alone.log"
    with target.open("wb") as file, subprocess.Popen(_command(folder, lines), stdout=file, env=variables) as process:
        _go(folder)
        process.wait()
    _check(target.read_bytes() == _expected(lines), "the file is not what was printed")
    target.unlink()
    return _times(folder)


def _as_job(jobs: Jobs, folder: Path, lines: int) -> tuple[float, float]:
    job = jobs.submit_command("many", _command(folder, lines))
    while job.state == "pending":
        time.sleep(0.05)
    with ExitStack() as stack:
        live = [stack.enter_context(_follower(jobs, job)) for _ in range(LIVE)]
        stalled = [iter(job.follow()) for _ in range(STALLED)]
        for reader in stalled:
            next(reader)
            stack.enter_context(job.log_path.open("rb")).read(1)
        for reader in live:
            _check(reader.stdout.readline() == "ready\n", "a reader does not come up")
        _go(folder)
        record = job.wait()
        answers = [reader.communicate()[0].split() for reader in live]
    _check(record.state == "completed", f"the job {record.state}: {record.error}")
    expected = _expected(lines)
    _check(job.log_path.read_bytes() == expected, "a byte of the log is missing")
    seen = [str(lines), hashlib.sha256(expected).hexdigest()]
    _check(answers == [seen] * LIVE, "a reader has not seen all lines")
    return _times(folder)


def _follower(jobs: Jobs, job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FOLLOW, str(jobs.project.file), str(job.id)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _expected(lines: int) -> bytes:
    return b"".join(b"line %d of a log that many read\n" % number for number in range(lines))


def _check(well: bool, what: str) -> None:  # noqa: FBT001
    if not well:
        raise SystemExit(what)


def _row(name: str, readers: int, times: list[tuple[float, float]]) -> dict[str, Any]:
    seconds, cpu = min(times)
    return {"name": name, "readers": readers, "seconds": seconds, "cpu": cpu}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    rows = run(arguments.lines, arguments.rounds)
    print(f"{f'{arguments.lines} lines':16}{'readers':>9}{'seconds':>10}{'CPU s':>8}{'ratio':>8}")
    for row in rows:
        print(f"{row['name']:16}{row['readers']:>9}{row['seconds']:>10.3f}{row['cpu']:>8.3f}{row['ratio']:>8.3f}")
    print("seconds and CPU seconds are those of the command itself; every byte is in the log, each live reader saw all")


if __name__ == "__main__":
    main()
