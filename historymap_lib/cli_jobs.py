"""`historymap jobs`: background jobs from a terminal."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from historymap_lib import cli_screen
from historymap_lib.errors import JobsError
from historymap_lib.jobs import Jobs, logs
from historymap_lib.project import load
from historymap_lib.steps import ALL, EVERY

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from historymap_lib.jobs import Job
    from historymap_lib.jobs.store import Record
    from historymap_lib.project import Project

ERROR_WIDTH = 100


def submit(options: argparse.Namespace, step: str, parameters: dict[str, Any]) -> None:
    """Queue a step, and follow it if asked to."""
    job = Jobs(load(options.config)).submit(step, force=options.force, **parameters)
    print(f"job {job.id}: {step} is queued; historymap jobs log {job.id} -f shows what it does")
    if options.wait and follow(job):
        succeed(job.record)


def run_all(project: Project, options: argparse.Namespace) -> None:
    """Queue all steps, or their notebooks as one job, and follow them."""
    jobs = Jobs(project)
    if options.notebooks:
        folder = options.notebooks.absolute()
        words: list[str | Path] = [
            sys.executable,
            "-P",
            "-m",
            "historymap_lib.cli",
            "run",
            "all",
            "--config",
            project.file,
        ]
        words += ["--notebooks", folder, *(["--force"] if options.force else [])]
        queued = [jobs.submit_command(EVERY, words, result=folder / "index.html")]
    else:
        queued = jobs.submit_all(ALL, force=options.force)
    for job in queued:
        print(f"job {job.id}: {job.record.name} is queued; historymap jobs log {job.id} -f shows what it does")
    for job in queued:
        if not follow(job):
            return
        succeed(job.record)


def succeed(record: Record) -> None:
    """Raise JobsError unless a job has completed."""
    if record.state != "completed":
        raise JobsError(f"job {record.id} ({record.name}) {record.state}: {record.error}")


def show_list(options: argparse.Namespace) -> None:
    """Print the latest jobs, the newest first."""
    jobs = Jobs(load(options.config))
    records = jobs.recent(options.count)
    if options.json:
        print(json.dumps([record.as_dict() for record in records], indent=2))
    elif not records:
        print("there are no jobs yet; historymap jobs submit STEP queues one")
    else:
        print("\n".join(line(record) for record in records))
    jobs.wake()


def show(options: argparse.Namespace) -> None:
    """Print all that is known of a job."""
    job = _job(options)
    print(json.dumps(job.record.as_dict() | {"log": str(job.log_path)}, indent=2))


def show_log(options: argparse.Namespace) -> None:
    """Print what a job has printed, and with -f go on until it ends; Ctrl-C ends the looking, not the job."""
    job = _job(options)
    if options.lines is not None and not options.follow:
        print(logs.tail(job.log_path, options.lines))
    elif options.follow:
        if follow(job) and (error := job.record.error):
            print(f"job {job.id} {job.record.state}: {error}")
    else:
        for piece in job.pieces():
            print(piece, end="")


def cancel(options: argparse.Namespace) -> None:
    """Cancel a job and wait until it is gone."""
    job = _job(options)
    job.cancel()
    print(line(job.wait()))


def retry(options: argparse.Namespace) -> None:
    """Queue a job again."""
    job = _job(options).retry()
    print(line(job.record))


def follow(job: Job) -> bool:
    """Print what a job prints; where a terminal looks, the line that is being written moves.

    Returns whether it was followed to its end, and not left by Ctrl-C.
    """
    try:
        cli_screen.show((update.text, update.live) for update in job.follow())
    except KeyboardInterrupt:
        print(f"\njob {job.id} goes on; historymap jobs log {job.id} -f follows it, jobs cancel {job.id} ends it")
        return False
    return True


def line(record: Record) -> str:
    """Return a job in one line."""
    when = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    parts = [f"{record.id:>5}  {record.name:<18}{record.state:<11}{when}  {record.duration:>8}"]
    done, total = record.progress.get("done"), record.progress.get("total")
    if record.state in ("running", "cancelling") and total:
        parts.append(f"{done}/{total} {record.progress.get('unit', '')} {record.progress.get('message', '')}".rstrip())
    if record.error:
        parts.append(record.error if len(record.error) < ERROR_WIDTH else f"{record.error[:ERROR_WIDTH]}...")
    return "  ".join(parts)


def _job(options: argparse.Namespace) -> Job:
    return Jobs(load(options.config)).get(options.job)


def add_commands(commands: Any, new: Any, add_config: Any, add_steps: Any) -> None:
    """Add `jobs` and what it can do to a parser; the functions are those of `cli`."""
    parser = new(commands, "jobs", "run steps in the background, and look after them")
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    add_steps(new(names, "submit", "queue a step; it goes on when the terminal is closed"))
    listed = new(names, "list", "the latest jobs")
    listed.add_argument("--count", type=int, default=10, help="how many (default: %(default)s)")
    listed.add_argument("--json", action="store_true", help="print them as JSON, for programs")
    listed.set_defaults(run=show_list)
    texts = {
        "show": (show, "all that is known of a job"),
        "log": (show_log, "what a job prints"),
        "cancel": (cancel, "take a job out of the queue, or end it"),
        "retry": (retry, "queue a job again"),
    }
    for name, (run, text) in texts.items():
        one = new(names, name, text)
        one.add_argument("job", type=int, metavar="JOB", help="its number")
        one.set_defaults(run=run)
        add_config(one)
        if name == "log":
            one.add_argument("-f", "--follow", action="store_true", help="go on until it ends; Ctrl-C stops looking")
            one.add_argument("-n", "--lines", type=int, help="only the last lines")
    add_config(listed)
