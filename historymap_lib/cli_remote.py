"""`historymap --server URL`: a case on another machine, from a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib.cli_screen import show
from historymap_lib.client import Client, RefusedError
from historymap_lib.client_logs import ENDED
from historymap_lib.errors import LOGIN, AnnotationsError, ServerError
from historymap_lib.status import Item, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOKENS = ("HISTORYMAP_TOKEN", "JUPYTER_TOKEN")
"""Variables that may hold the token; on the command line everybody on the machine would see it."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add all that can be asked of a server to a parser."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add(commands, "health", "whether the server lives", lambda client, _: client.health())
    status = _add(commands, "status", "what there is, how good and how old, and what comes next", _status)
    status.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    _add_steps(commands)
    _add_annotations(commands)
    _add_jobs(commands)
    one = _add(commands, "verdicts", "verdicts as GeoJSON", _verdicts)
    box = ("WEST", "SOUTH", "EAST", "NORTH")
    one.add_argument("--bbox", type=float, nargs=4, metavar=box, help="only buildings that touch it, in degrees")
    one.add_argument("--verdict", help="existed, not_existed, unsure or no_coverage")
    one.add_argument("--limit", type=int, help="at most so many, a page; `next` is --after of the page that follows")
    one.add_argument("--after", type=int, default=0, help="only those after this number in the file")


def _add(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    """Add a command whose function takes a client and the options, and returns what to print as JSON, if anything."""
    one: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    one.set_defaults(ask=run)
    return one


def _add_steps(commands: Any) -> None:
    def options(given: argparse.Namespace) -> dict[str, Any]:
        return {"if_busy": "reject" if given.reject else "queue", "force": given.force}

    generate = _add(
        commands, "generate-training", "queue: cut training tiles",
        lambda client, given: _queued(client, client.generate_training(given.tiles, **options(given)), given),
    )  # fmt: skip
    generate.add_argument("--tiles", type=int, help="how many (default: tiles.count of the settings)")
    train = _add(
        commands, "train", "queue: train the model",
        lambda client, given: _queued(
            client, client.train(given.config, given.epochs, resume=given.resume, **options(given)), given
        ),
    )  # fmt: skip
    train.add_argument("--config", help="another YAML of the project on the server")
    train.add_argument("--epochs", type=int, help="how many epochs")
    train.add_argument("--resume", action="store_true", default=None, help="go on where a training was cut off")
    predict = _add(
        commands, "predict", "queue: predict the probability of building",
        lambda client, given: _queued(client, client.predict(**options(given)), given),
    )  # fmt: skip
    verify = _add(
        commands, "verify", "queue: judge all buildings",
        lambda client, given: _queued(client, client.verify(quick=given.quick, **options(given)), given),
    )  # fmt: skip
    verify.add_argument("--quick", action="store_true", default=None, help="a first look before any training")
    apply = _add(
        commands, "apply-annotations", "save annotations, if given, and queue what makes them count",
        lambda client, given: _queued(
            client, client.apply_annotations(_entries(given.file), retrain=given.retrain, **options(given)), given
        ),
    )  # fmt: skip
    apply.add_argument("file", type=Path, nargs="?", metavar="FILE", help=".json, .csv, .geojson or .gpkg")
    apply.add_argument("--retrain", action="store_true", help="train and predict anew as well")
    for one in (generate, train, predict, verify, apply):
        one.add_argument("--force", action="store_true", help="run it even if it is up to date")
        one.add_argument("--reject", action="store_true", help="do not queue behind another job")
        one.add_argument("--wait", action="store_true", help="show what it prints until it ends")


def _add_annotations(commands: Any) -> None:
    _add(commands, "annotations", "what people have judged", lambda client, _: client.annotations())
    save = _add(
        commands, "save-annotations", "save annotations without applying them",
        lambda client, given: client.save_annotations(_entries(given.file)),
    )  # fmt: skip
    save.add_argument("file", type=Path, metavar="FILE", help=".json, .csv, .geojson or .gpkg")


def _add_jobs(commands: Any) -> None:
    listed = _add(commands, "jobs", "the latest jobs", _list)
    listed.add_argument("--count", type=int, default=10, help="how many (default: %(default)s)")
    listed.add_argument("--json", action="store_true", help="print them as JSON, for programs")
    for name, text, run in (
        ("job", "all that is known of a job", lambda client, given: client.job(given.job)),
        ("log", "what a job has printed", _log),
        ("cancel", "take a job out of the queue, or end it", lambda client, given: client.cancel(given.job)),
        ("retry", "queue a job again", lambda client, given: _queued(client, client.retry(given.job), given)),
    ):
        one = _add(commands, name, text, run)
        one.add_argument("job", type=int, metavar="JOB", help="its number")
        if name == "retry":
            one.add_argument("--wait", action="store_true", help="show what it prints until it ends")
    logs = _add(commands, "logs", "what jobs print, as it comes", _logs)
    logs.add_argument("--job", type=int, help="only this one, from its beginning until it ends")
    logs.add_argument("--seconds", type=float, help="for so long")


def ask(options: argparse.Namespace) -> int | None:
    """Ask the server, and print what it answers; return the exit code.

    Raises:
        ServerError: it does not answer, or will not.

    """
    if options.token is not None:
        raise ServerError(f"everybody on this machine can read a command line; give the token by {TOKENS[0]} instead")
    variable = next((name for name in TOKENS if os.environ.get(name)), None)
    token = None if variable is None else os.environ[variable]
    with Client(options.server, token) as client:
        try:
            answer = options.ask(client, options)
        except KeyboardInterrupt:
            print("\nwhat runs on the server goes on", file=sys.stderr)
            return 130
        except RefusedError as error:
            if not str(error).endswith(LOGIN):
                raise
            how = f"{TOKENS[0]} is not set" if variable is None else f"what {variable} holds is another"
            raise ServerError(f"{error} by {TOKENS[0]}; {how}") from error
    if isinstance(answer, dict):
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    return None


def _queued(client: Client, answer: dict[str, Any], options: argparse.Namespace) -> None:
    queued = answer.get("jobs") or [answer]
    if answer.get("saved") or answer.get("known"):
        some = "annotation" if answer["saved"] == 1 else "annotations"
        print(f"{answer['saved']} {some} saved, {answer['known']} known already")
    for job in queued:
        how = f"historymap --server {client.url} logs --job {job['job_id']}"
        print(f"job {job['job_id']}: {job['message'].split(';')[0]}; {how} shows what it does", flush=True)
    for job in queued if options.wait else ():
        _follow(client, job["job_id"])


def _follow(client: Client, number: int) -> None:
    """Print what a job prints until it ends.

    Raises:
        ServerError: it has not completed.

    """
    messages, ended = client.follow_logs(number), dict[str, Any]()

    def updates() -> Iterator[tuple[str, str]]:
        for message in messages:
            if message["type"] == "log":
                yield message["text"], message["live"]
            elif message["type"] == "job_status" and message["status"] in ENDED:
                ended.update(message)

    show(updates())
    if ended and ended["status"] != "completed":
        raise ServerError(f"job {number} ({ended['name']}) {ended['status']}: {ended['error']}")


def _logs(client: Client, options: argparse.Namespace) -> None:
    if options.job is not None and options.seconds is None:
        _follow(client, options.job)
        return
    live, states = dict[int, str](), dict[int, str]()
    for message in client.follow_logs(options.job, seconds=options.seconds):
        lines: list[str] = []
        if message["type"] == "log":
            lines, live[message["job_id"]] = message["text"].split("\n"), message["live"]
            lines = lines if lines[-1] else lines[:-1]
        elif message["type"] == "job_status" and message["status"] in ENDED:
            lines = [line for line in [live.pop(message["job_id"], "")] if line]
        for line in lines:
            print(line if options.job is not None else f"{message['job_id']}: {line}")
        is_news = message["type"] == "job_status" and states.get(message["job_id"]) != message["status"]
        if is_news and options.job is None:
            states[message["job_id"]] = message["status"]
            error = f": {message['error']}" if message["error"] else ""
            print(f"job {message['job_id']} ({message['name']}) is {message['status']}{error}")
        sys.stdout.flush()


def _log(client: Client, options: argparse.Namespace) -> None:
    for piece in client.whole_log(options.job):
        print(piece, end="")


def _list(client: Client, options: argparse.Namespace) -> dict[str, Any] | None:
    found = client.jobs(options.count)
    if options.json:
        return found
    for job in found["jobs"]:
        when = datetime.fromisoformat(job["created"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        line = f"{job['id']:>5}  {job['name']:<18}{job['state']:<11}{when}  {job['duration']:>8}"
        print(f"{line}  {job['error']}" if job["error"] else line)
    if not found["jobs"]:
        print("there are no jobs yet")
    return None


def _verdicts(client: Client, options: argparse.Namespace) -> dict[str, Any] | None:
    area = None if options.bbox is None else tuple(options.bbox)
    if options.limit is not None:
        return client.verdicts(area, options.verdict, options.limit, options.after)
    begin = '{"type": "FeatureCollection", "features": [\n'
    for feature in client.every_verdict(area, options.verdict, options.after):
        print(begin + json.dumps(feature, ensure_ascii=False), end="")
        begin = ",\n"
    print("\n]}" if begin.startswith(",") else f"{begin}]}}")
    return None


def _status(client: Client, options: argparse.Namespace) -> dict[str, Any] | None:
    told = client.status()
    if options.json:
        return told
    told["next"] = told["next"].replace("historymap run ", f"historymap --server {client.url} ")
    named = {field.name: told[field.name] for field in fields(Status) if field.name in told}
    items = [Item(**item) for item in told["items"]]
    print(Status(**named | {"items": items, "current": told["current_job"]}).table())
    return None


def _entries(path: Path | None) -> list[dict[str, Any]]:
    """Return the annotations of a file, if there is one.

    Raises:
        AnnotationsError: it cannot be read, or a row is wrong.

    """
    from historymap_lib.annotation_files import read_file  # noqa: PLC0415 - geopandas takes its time

    if path is None:
        return []
    found = read_file(path)
    if found.problems:
        raise AnnotationsError(f"{found.problems[0]} (of {len(found.problems)} rows that are wrong); nothing was sent")
    return [{key: value for key, value in entry.model_dump().items() if value != ""} for entry in found.entries]


def parser() -> argparse.ArgumentParser:
    """Return the parser of `historymap --server URL`."""
    made = argparse.ArgumentParser(
        prog="historymap --server URL",
        description="Ask a historymap on another machine (historymap serve, or JupyterLab).",
        epilog=f"The token of the server comes from {' or '.join(TOKENS)}.",
    )
    made.add_argument("--token", help=argparse.SUPPRESS)
    add_commands(made)
    return made


def server_of(arguments: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """Return the address and the other arguments where the first names a server, or None."""
    first = arguments[0] if arguments else ""
    if first.startswith("--server="):
        return first.removeprefix("--server="), arguments[1:]
    if first == "--server" and len(arguments) > 1:
        return arguments[1], arguments[2:]
    return None
