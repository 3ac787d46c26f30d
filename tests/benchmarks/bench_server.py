"""What fifty listeners on a job's log cost the job, the server, and others who ask it.

Run `python tests/benchmarks/bench_server.py [--lines 200000] [--clients 50] [--stalled 10]`.

A job prints so many lines, once as fast as it can and once paced over some ten seconds, and measures itself from its
first line to its last. The peer is the same job without anybody who listens. Listeners are WebSocket clients in
processes of their own, ten to a process; those that are stalled read nothing until the job has ended, then all. Each
must have heard every line once and in order, or the benchmark ends with an error. Meanwhile one more client asks for
`health` twenty times a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "server")]

from bench_jobs import make_case  # noqa: E402 - lies beside
from server_fixtures import TOKEN, Server, serve  # noqa: E402 - lie among the tests

from historymap_lib.client import Client  # noqa: E402
from historymap_lib.jobs import Jobs  # noqa: E402

if TYPE_CHECKING:
    from historymap_lib.jobs import Job

LINES, CLIENTS, STALLED, ROUNDS = 200_000, 50, 10, 3
GROUP = 10
ASKS = 0.05
PACED = 10.0
"""Seconds that the lines are paced over."""
PRINT = """
import json, os, sys, time
lines, seconds = int(sys.argv[1]), float(sys.argv[4])
while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
start = time.perf_counter()
for number in range(lines):
    print(f"line {number} of a log that many read")
    if seconds and number % 1000 == 999:
        time.sleep(max(0.0, start + seconds * number / lines - time.perf_counter()))
sys.stdout.flush()
with open(sys.argv[2], "w") as file:
    json.dump(time.perf_counter() - start, file)
"""
LISTEN = """
import hashlib, json, os, sys, threading, time, websocket
address, token, wake, stalled, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
ready = threading.Semaphore(0)
heard = [None] * count
def listen(number):
    line = websocket.create_connection(
        address, header=["Authorization: token " + token], timeout=600, skip_utf8_validation=True
    )
    line.recv()
    ready.release()
    if number < stalled:
        while not os.path.exists(wake):
            time.sleep(0.05)
    lines, digest = 0, hashlib.sha256()
    while True:
        kind, data = line.recv_data()
        if kind == websocket.ABNF.OPCODE_CLOSE:
            break
        message = json.loads(data)
        if message["type"] == "log":
            lines += message["text"].count("\\n")
            digest.update(message["text"].encode())
    heard[number] = [lines, digest.hexdigest()]
threads = [threading.Thread(target=listen, args=[number]) for number in range(count)]
for thread in threads:
    thread.start()
for _ in threads:
    ready.acquire()
print("ready", flush=True)
for thread in threads:
    thread.join()
print(json.dumps(heard), flush=True)
"""


def run(lines: int = LINES, clients: int = CLIENTS, stalled: int = STALLED, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return a row a way: seconds of the job alone and with listeners, their ratio, health (ms), memory (MiB)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = make_case(folder)
        with serve(case.file) as server:
            jobs = Jobs(case)
            _with_listeners(jobs, server, folder, lines=1000, pace=0.0, clients=clients, stalled=0)  # imports
            return {
                "paced": _compare(jobs, server, folder, lines, PACED, clients, stalled, 1),
                "at once": _compare(jobs, server, folder, lines, 0.0, clients, stalled, rounds),
            }


def _compare(
    jobs: Jobs, server: Server, folder: Path, lines: int, pace: float, clients: int, stalled: int, rounds: int
) -> dict[str, Any]:
    alone, heard = [], []
    for _ in range(rounds):
        alone.append(_alone(jobs, folder, lines, pace))
        heard.append(_with_listeners(jobs, server, folder, lines=lines, pace=pace, clients=clients, stalled=stalled))
    best, others = min(alone), min(heard, key=lambda one: one["seconds"])
    asked = [milliseconds for one in heard for milliseconds in one["health"]]
    return {
        "alone": best,
        "heard": others["seconds"],
        "ratio": others["seconds"] / best,
        "health_median": statistics.median(asked),
        "health_worst": max(asked),
        "memory": max(one["memory"] for one in heard),
        "all_heard": others["all_heard"],
    }


def _submit(jobs: Jobs, folder: Path, lines: int, pace: float) -> Job:
    (folder / "go").unlink(missing_ok=True)
    words = [str(lines), str(folder / "times"), str(folder / "go"), str(pace)]
    job = jobs.submit_command("many", [sys.executable, "-S", "-c", PRINT, *words])
    while job.state == "pending":
        time.sleep(0.02)
    return job


def _alone(jobs: Jobs, folder: Path, lines: int, pace: float) -> float:
    job = _submit(jobs, folder, lines, pace)
    (folder / "go").touch()
    _check(job.wait().state == "completed", "the job failed")
    return float(json.loads((folder / "times").read_text()))


def _with_listeners(
    jobs: Jobs, server: Server, folder: Path, *, lines: int, pace: float, clients: int, stalled: int
) -> dict[str, Any]:
    job = _submit(jobs, folder, lines, pace)
    wake = folder / "wake"
    wake.unlink(missing_ok=True)
    address = f"{server.url.replace('http', 'ws')}/historymap/api/logs?job={job.id}"
    groups = []
    for first in range(0, clients, GROUP):
        words = [address, TOKEN, wake, max(0, min(GROUP, stalled - first)), min(GROUP, clients - first)]
        command = [sys.executable, "-c", LISTEN, *map(str, words)]
        groups.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for group in groups:
        assert group.stdout is not None
        _check(group.stdout.readline() == "ready\n", "a listener does not come up")
    memory, over, asked = psutil.Process(server.pid), threading.Event(), [0.0]
    asker = threading.Thread(target=_ask_health, args=[server, over, asked])
    before = memory.memory_info().rss
    asker.start()
    start = time.perf_counter()
    (folder / "go").touch()
    record = job.wait()
    answers = [json.loads(group.communicate()[0]) for group in groups[stalled // GROUP :]] if stalled else []
    live = time.perf_counter() - start
    over.set()
    asker.join()
    wake.touch()
    answers += (
        [json.loads(group.communicate()[0]) for group in groups[: stalled // GROUP or None]]
        if stalled
        else [json.loads(group.communicate()[0]) for group in groups]
    )
    _check(record.state == "completed", f"the job {record.state}: {record.error}")
    expected = b"".join(b"line %d of a log that many read\n" % number for number in range(lines))
    _check(job.log_path.read_bytes() == expected, "a line of the log is missing")
    seen = [lines, hashlib.sha256(expected).hexdigest()]
    heard = [one for answer in answers for one in answer]
    _check(heard == [seen] * clients, "a listener has not heard every line once and in order")
    return {
        "seconds": float(json.loads((folder / "times").read_text())),
        "health": asked[1:],
        "memory": (memory.memory_info().rss - before) / 2**20,
        "all_heard": live,
    }


def _ask_health(server: Server, over: threading.Event, asked: list[float]) -> None:
    with Client(server.url, TOKEN) as client:
        client.health()
        while not over.is_set():
            start = time.perf_counter()
            client.health()
            asked.append((time.perf_counter() - start) * 1000)
            over.wait(ASKS)


def _check(well: bool, what: str) -> None:  # noqa: FBT001
    if not well:
        raise SystemExit(what)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--stalled", type=int, default=STALLED, help="a multiple of ten")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    rows = run(arguments.lines, arguments.clients, arguments.stalled, arguments.rounds)
    print(f"{arguments.lines} lines, {arguments.clients} listeners, {arguments.stalled} of them asleep until the end")
    heads = f"{'alone s':>9}{'heard s':>9}{'ratio':>8}{'health ms':>11}{'worst ms':>10}{'server MiB':>12}"
    print(f"{'':10}{heads}{'heard by':>10}")
    for name, row in rows.items():
        print(
            f"{name:10}{row['alone']:>9.2f}{row['heard']:>9.2f}{row['ratio']:>8.3f}{row['health_median']:>11.0f}"
            f"{row['health_worst']:>10.0f}{row['memory']:>+12.1f}{row['all_heard']:>9.1f}s"
        )
    print("every listener heard every line once and in order, those that slept when they woke")


if __name__ == "__main__":
    main()
