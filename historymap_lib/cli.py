"""The `historymap` command, and the commands of the steps under their known names."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib import (
    __version__,
    cli_annotations,
    cli_footprints,
    cli_jobs,
    cli_photo,
    cli_remote,
    steps,
)
from historymap_lib.errors import sentence_of
from historymap_lib.lab import open_lab
from historymap_lib.progress import PROGRESS
from historymap_lib.project import CONFIG, SAMPLE, load
from historymap_lib.status import read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from historymap_lib.project import Project
    from historymap_lib.steps import Step

FAILED, USER_ERROR, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 130, 141, 143
AGAIN = "run it again to go on"
FIRST_CASE = Path("ml/config_1937.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `historymap` command; return its exit code: 0 fine, 1 a notebook failed, 2 for the user to put right."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if (found := cli_remote.server_of(arguments)) is not None:
        return _main_of_server(*found)
    options = _parser().parse_args(arguments)
    if PROGRESS in os.environ and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # somebody follows the log of this job
    return guarded(lambda: options.run(options), again=_again(getattr(options, "step", None)))


def _main_of_server(server: str, arguments: Sequence[str]) -> int:
    """Run a command on a server of historymap."""
    options = cli_remote.parser().parse_args(arguments)
    options.server = server
    return guarded(lambda: cli_remote.ask(options))


def step_main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one step as a command of its own (`scripts/`, `ml/train.py`, `ml/predict.py`); return the exit code."""
    step = steps.find(name)
    parser = argparse.ArgumentParser(description=_sentence(step.help))
    parser.add_argument("--config", type=Path, default=FIRST_CASE, help="settings of the case (default: %(default)s)")
    _add_parameters(parser, step)
    options = parser.parse_args(arguments)

    def run() -> None:
        print(steps.run(load(options.config), name, force=True, **_given(options, step)))

    return guarded(run, again=_again(step))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _again(step: Step | None) -> str:
    """Return how to go on with a step, or anything else, that was cut off."""
    return "train --resume goes on there" if step is not None and step.name == "train" else AGAIN


def guarded(run: Callable[[], int | None], again: str = AGAIN) -> int:
    """Run something and return its exit code; a user's error is a sentence and no traceback.

    Args:
        run: what to run.
        again: how to go on where it is cut off.

    """
    try:
        with _ending_tidily():
            return run() or 0
    except BrokenPipeError:  # whoever read what we print has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        said = sentence_of(error)
        if said is None:
            raise
        code = USER_ERROR
    except KeyboardInterrupt:
        said, code = f"interrupted; what was finished is kept, {again}", INTERRUPTED
    except _Terminated:
        said, code = f"ended on request; what was finished is kept, {again}", TERMINATED
    with suppress(OSError):
        sys.stdout.flush()  # in a log the sentence comes last
    print(f"historymap: {said}", file=sys.stderr)
    return code


class _Terminated(BaseException):
    """SIGTERM has come: whoever is writing tidies up on the way out."""


@contextmanager
def _ending_tidily() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that no half-written file stays behind."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; a second must not disturb the tidying
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="historymap",
        description="Which of today's buildings already stood when an old aerial photo was taken?",
        epilog="Start with: historymap sample && historymap run all",
    )
    parser.add_argument("--version", action="version", version=f"historymap {__version__}")
    parser.add_argument(
        "--server", metavar="URL", help="ask a historymap on another machine; --server URL --help tells what"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_sample(commands)
    _add_run(commands)
    _add_jobs(commands)
    _add_status(commands)
    cli_photo.add_commands(commands, _command, _add_config)
    cli_footprints.add_commands(commands, _command, _add_config)
    cli_annotations.add_commands(commands, _command, _add_config)
    _add_evaluate(commands)
    _add_workbench(commands)
    _add_serve(commands)
    return parser


def _command(commands: Any, name: str, text: str) -> Any:
    """Return the parser of a command, which tells in its own help what it does."""
    return commands.add_parser(name, help=text, description=_sentence(text))


def _add_sample(commands: Any) -> None:
    parser = _command(commands, "sample", "make the sample town: a photo, today's buildings, and the truth")
    where = Path("data/sample")
    parser.add_argument("folder", type=Path, nargs="?", default=where, help="where to put it (default: %(default)s)")
    parser.add_argument("--seed", type=_natural, default=1937, help="another seed, another town (default: %(default)s)")
    parser.set_defaults(run=_sample)


def _add_run(commands: Any) -> None:
    parser = _command(commands, "run", "run a step unless what it makes is up to date, or all steps")
    names = _add_steps(parser, _run_step)
    for one in names.choices.values():
        one.add_argument("--job", action="store_true", help="run it in the background, and show what it prints")
    every = _command(names, "all", ", then ".join(steps.ALL))
    _add_config(every)
    every.add_argument("--force", action="store_true", help="run also what is up to date")
    every.add_argument("--notebooks", type=Path, metavar="DIR", help="run the notebooks; their reports go to DIR")
    every.add_argument("--job", action="store_true", help="run it in the background, and show what it prints")
    every.set_defaults(run=_run_all)


def _add_jobs(commands: Any) -> None:
    def add_steps(parser: Any) -> None:
        for one in _add_steps(parser, _submit).choices.values():
            one.add_argument("--wait", action="store_true", help="show what it prints until it ends")

    cli_jobs.add_commands(commands, _command, _add_config, add_steps)


def _add_steps(parser: Any, run: Callable[[argparse.Namespace], None]) -> Any:
    """Add a parser for each step, and return what they were added to."""
    names = parser.add_subparsers(metavar="STEP", required=True)
    for step in steps.STEPS.values():
        one = _command(names, step.name, step.help)
        _add_config(one)
        one.add_argument("--force", action="store_true", help="run it even if it is up to date")
        _add_parameters(one, step)
        one.set_defaults(run=run, step=step)
    return names


def _add_status(commands: Any) -> None:
    parser = _command(commands, "status", "tell what a case has, how good and how old it is, and what to do next")
    _add_config(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    parser.set_defaults(run=_status)


def _add_evaluate(commands: Any) -> None:
    parser = _command(commands, "evaluate", "measure the verdicts of a case against a table of truth")
    _add_config(parser)
    parser.add_argument("--truth", type=Path, required=True, help="CSV with the columns osm_id, existed")
    parser.add_argument("--verdicts", type=Path, help="verdicts to measure (default: paths.verified of the case)")
    parser.add_argument("--output", type=Path, help="folder of evaluation.json and .png (default: beside the verdicts)")
    parser.set_defaults(run=_evaluate)


def _add_workbench(commands: Any) -> None:
    parser = _command(commands, "workbench", "open JupyterLab with the notebooks of a case")
    _add_config(parser)
    parser.add_argument("further", nargs="*", metavar="ARGUMENT", help="for jupyter lab, after --: -- --port 9000")
    parser.set_defaults(run=lambda options: open_lab(load(options.config), options.further))


def _add_serve(commands: Any) -> None:
    parser = _command(commands, "serve", "offer a case to other machines and programs over HTTP, without notebooks")
    _add_config(parser)
    parser.add_argument("further", nargs="*", metavar="ARGUMENT", help="for Jupyter Server, after --: -- --port 9000")
    parser.set_defaults(run=_serve)


def _add_config(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get(CONFIG, SAMPLE))
    parser.add_argument("--config", type=Path, default=default, help="settings of the case (default: %(default)s)")


def _add_parameters(parser: argparse.ArgumentParser, step: Step) -> None:
    for parameter in step.parameters:
        flag = f"--{parameter.flag or parameter.name}"
        text = parameter.help + (f" (default: {parameter.setting} of the settings)" if parameter.setting else "")
        if parameter.kind is bool:
            parser.add_argument(flag, dest=parameter.name, action="store_true", default=None, help=text)
        else:
            kind = _positive if parameter.kind is int else parameter.kind
            name = parameter.kind.__name__.upper()
            parser.add_argument(flag, dest=parameter.name, type=kind, metavar=name, help=text)


def _natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
    return int(text)


def _positive(text: str) -> int:
    return _natural(text, 1)


def _given(options: argparse.Namespace, step: Step) -> dict[str, Any]:
    """Return the parameters that were given."""
    values = {parameter.name: getattr(options, parameter.name) for parameter in step.parameters}
    return {name: value for name, value in values.items() if value is not None}


def _sample(options: argparse.Namespace) -> None:
    from historymap_lib import sample  # noqa: PLC0415 - matplotlib and scipy take their time

    made = sample.make_sample(options.folder, seed=options.seed)
    for what in ("photo", "footprints", "truth", "preview"):
        print(f"{what:<12}{getattr(made, what)}")


def _submit(options: argparse.Namespace) -> None:
    cli_jobs.submit(options, options.step.name, _given(options, options.step))


def _run_step(options: argparse.Namespace) -> None:
    if options.job:
        options.wait = True
        _submit(options)
        return
    given = _given(options, options.step)
    print(steps.run(load(options.config), options.step.name, force=options.force, **given))


def _run_all(options: argparse.Namespace) -> int | None:
    project = load(options.config)
    if options.job:
        cli_jobs.run_all(project, options)
    elif options.notebooks:
        return _run_notebooks(project, options)
    else:
        for name in steps.ALL:
            print(steps.run(project, name, force=options.force), flush=True)
    return None


def _run_notebooks(project: Project, options: argparse.Namespace) -> int:
    from historymap_lib.batch import run_notebooks  # noqa: PLC0415 - papermill and nbconvert take their time

    reports = run_notebooks(project, options.notebooks, force=options.force)
    print(f"reports: {options.notebooks / 'index.html'}")
    failed = [report for report in reports if report.state == "failed"]
    for report in failed:
        print(f"historymap: {report.name} failed: {report.said}", file=sys.stderr)
    return FAILED if failed else 0


def _status(options: argparse.Namespace) -> None:
    status = read_status(load(options.config))
    print(json.dumps(status.as_dict(), indent=2) if options.json else status.table())


def _serve(options: argparse.Namespace) -> None:
    from historymap_lib.server.service import serve  # noqa: PLC0415 - Jupyter Server takes its time

    serve(options.config, options.further)


def _evaluate(options: argparse.Namespace) -> None:
    from historymap_lib import evaluation  # noqa: PLC0415 - scikit-learn takes its time

    project = load(options.config)
    verdicts = options.verdicts or project.paths.verified
    measured = evaluation.evaluate(verdicts, options.truth)
    report, picture = evaluation.write(measured, options.output or verdicts.parent)
    print(f"{measured.summary()}\n\n{report}\n{picture}")


if __name__ == "__main__":
    raise SystemExit(main())
