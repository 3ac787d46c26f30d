"""The table of steps: what each is called, what it takes, and whether what it made is still up to date.

The command line, and later the jobs and the forms of the notebooks, all read this one table.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib import artifacts, first_look
from historymap_lib.annotation_store import unpublished
from historymap_lib.errors import AnnotationsError, FootprintsError, StepError
from historymap_lib.imagery import photo_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from historymap_lib.project import Project


@dataclass(frozen=True)
class Parameter:
    """A parameter of a step.

    Attributes:
        name: that of the function behind the step.
        kind: int (1 or more), bool or Path.
        help: what it is, for people.
        setting: the key of the settings that holds where it is not given.
        flag: its name on the command line where that differs.
        title: what a run with it is called, where it does another thing than a run without.

    """

    name: str
    kind: type
    help: str
    setting: str | None = None
    flag: str | None = None
    title: str | None = None

    def default(self, project: Project) -> str:
        """Return what holds where it is not given, as text; empty where nothing does."""
        if self.setting is None:
            return ""
        section, key = self.setting.split(".")
        return str(getattr(getattr(project, section), key))


@dataclass(frozen=True)
class Step:
    """A step: the function behind it as `module:name`, its parameters, what it makes, and which things it touches.

    `needs` are the steps whose work must be there; `reads` and `writes` are what it works on, so that two that touch
    the same thing never run side by side. `before` has, by parameter, a function (`module:name`, called with the
    project and `force`) that makes what the step needs where that parameter is given: then no other step need have run.
    """

    name: str
    function: str
    help: str
    parameters: tuple[Parameter, ...]
    makes: Callable[[Project], Path]
    needs: tuple[str, ...]
    reads: frozenset[str]
    writes: frozenset[str]
    before: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Return the function; imported only now, since torch takes seconds."""
        return _load(self.function)

    def needed(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the steps whose work must be there for a run with these parameters."""
        return () if self._preparations(parameters) else self.needs

    def prepare(self, project: Project, parameters: Mapping[str, Any], *, force: bool = False) -> None:
        """Make what a run with these parameters needs, and no step makes; `force`: also what is up to date."""
        for function in self._preparations(parameters):
            _load(function)(project, force=force)

    def _preparations(self, parameters: Mapping[str, Any]) -> list[str]:
        return [function for name, function in self.before.items() if parameters.get(name)]


def _load(function: str) -> Callable[..., Any]:
    module, name = function.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


STEPS = {
    step.name: step
    for step in (
        Step(
            "generate-training",
            "historymap_lib.training_data:generate",
            "cut training tiles from the photo, with masks from today's footprints",
            (
                Parameter("tiles", int, "how many tiles, the most useful first", "tiles.count"),
                Parameter("output", Path, "folder of the tiles", "paths.training"),
            ),
            lambda project: project.paths.training,
            needs=(),
            reads=frozenset({"photo", "footprints"}),
            writes=frozenset({"tiles"}),
        ),
        Step(
            "train",
            "ml.train:train",
            "train the U-Net on the tiles, corrected ones first",
            (
                Parameter("epochs", int, "how many epochs", "training.epochs"),
                Parameter("resume", bool, "go on where a training was cut off"),
            ),
            lambda project: project.paths.model,
            needs=("generate-training",),
            reads=frozenset({"photo", "footprints", "tiles", "corrected", "annotations"}),
            writes=frozenset({"model"}),
        ),
        Step(
            "predict",
            "ml.predict:predict",
            "predict the probability of building for the whole photo",
            (),
            lambda project: project.paths.probability,
            needs=("train",),
            reads=frozenset({"photo", "footprints", "model"}),
            writes=frozenset({"probability"}),
        ),
        Step(
            "verify",
            "historymap_lib.verification:verify",
            "judge every building: existed, not existed, unsure",
            (
                Parameter(
                    "quick",
                    bool,
                    "a first look before any training, by the weights that come with the package",
                    title=first_look.NAME,
                ),
            ),
            lambda project: project.paths.verified,
            needs=("predict",),
            reads=frozenset({"photo", "footprints", "probability", "annotations"}),
            writes=frozenset({"verdicts"}),
            before={"quick": "ml.first_look:look"},
        ),
        Step(
            "apply-annotations",
            "historymap_lib.corrections:apply",
            "correct the training tiles by what people have judged, and verify again",
            (
                Parameter("file", Path, "annotations to add to those of the case first", flag="annotations"),
                Parameter("output", Path, "folder of the corrected tiles", "paths.corrected"),
            ),
            lambda project: project.paths.corrected,
            needs=("generate-training",),
            reads=frozenset({"photo", "footprints", "tiles", "probability", "annotations"}),
            writes=frozenset({"corrected", "verdicts", "annotations"}),
        ),
    )
}
ALL = ("generate-training", "train", "predict", "verify")
"""What `run all` does, in this order."""
EVERY = "all"
"""What the job is called that does them all, by their notebooks."""


def run(project: Project, name: str, *, force: bool = False, **parameters: Any) -> str:
    """Run a step unless what it would make is up to date, and return a sentence on what was done.

    Raises:
        StepError: there is no such step or parameter.
        HistorymapError: whatever the step raises.

    """
    step = find(name)
    _check_parameters(step, parameters)
    reason = why_outdated(project, step, parameters)
    if reason is None and not force:
        return f"{name}: skipped, {step.makes(project)} is up to date (--force runs it all the same)"
    step.prepare(project, parameters, force=force)
    result = step.load()(project, **parameters)
    return f"{name}: {result.summary}"


def find(name: str) -> Step:
    """Return the step of this name.

    Raises:
        StepError: there is none.

    """
    if name not in STEPS:
        raise StepError(f"there is no step {name}; the steps are {', '.join(STEPS)}")
    return STEPS[name]


def check(project: Project, name: str, parameters: dict[str, Any], *, coming: Iterable[str] = ()) -> Step:
    """Return the step if it could run now, or after the steps that are `coming`: what it needs is there.

    Raises:
        StepError: there is no such step or parameter, or the step before has not run.
        HistorymapError: a file that the settings name is missing.

    """
    step = find(name)
    _check_parameters(step, parameters)
    for needed in step.needed(parameters):
        made = STEPS[needed].makes(project)
        if needed not in coming and not made.exists():
            raise StepError(f"{name} needs what {needed} makes, and {made} is not there; run {needed} first")
    if "photo" in step.reads:
        photo_files(project)
    if "footprints" in step.reads and not project.footprints.is_remote:
        path = project.footprint_file
        if not path.exists():
            raise FootprintsError(f"{path}: there is no such file; give another in footprints.path of {project.file}")
    if name == "apply-annotations":
        file = parameters.get("file") or project.paths.annotations
        if not Path(file).exists() and not (file == project.paths.annotations and unpublished(project)):
            raise AnnotationsError(f"{file}: there are no annotations; judge a building first")
    return step


def arguments(step: Step, parameters: dict[str, Any]) -> list[str]:
    """Return the parameters as the command line takes them."""
    found: list[str] = []
    for parameter in step.parameters:
        value, flag = parameters.get(parameter.name), f"--{parameter.flag or parameter.name}"
        if parameter.kind is bool:
            found += [flag] if value else []
        elif value is not None:
            found += [flag, str(value)]
    return found


def absolute(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values, with paths as whoever gives them means them, wherever the step runs.

    Raises:
        StepError: there is no such step or parameter.

    """
    step = find(name)
    _check_parameters(step, parameters)
    paths = {parameter.name for parameter in step.parameters if parameter.kind is Path}
    return {
        key: str(Path(value).absolute()) if key in paths and value is not None else value
        for key, value in parameters.items()
    }


def clash(one: str, other: str) -> bool:
    """Return whether two steps of a case must not run side by side: one writes what the other reads or writes."""
    known = {*STEPS, EVERY}
    if one not in known or other not in known:
        return False
    if EVERY in (one, other):
        return True
    first, second = STEPS[one], STEPS[other]
    return bool(first.writes & (second.reads | second.writes) or second.writes & first.reads)


def _check_parameters(step: Step, parameters: dict[str, Any]) -> None:
    """Raise StepError where a parameter is unknown, or not of its kind."""
    known = {parameter.name: parameter for parameter in step.parameters}
    for name, value in parameters.items():
        if name not in known:
            raise StepError(f"{step.name} takes no {name}; it takes {', '.join(known) or 'no parameters'}")
        kind = known[name].kind
        if value is not None and not _fits(value, kind):
            what = {int: "a whole number of 1 or more", bool: "true or false", Path: "a path"}[kind]
            raise StepError(f"{step.name}: {name} is {value!r}, but it should be {what}")


def _fits(value: Any, kind: type) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return isinstance(value, (str, Path) if kind is Path else kind)


def why_outdated(project: Project, step: Step, parameters: dict[str, Any]) -> str | None:
    """Return why a step must run, or None where its inputs, settings, parameters and code are as when it last ran."""
    artifact = step.makes(project)
    manifest = artifacts.read_manifest(artifact)
    if not artifact.exists() or manifest is None:
        return "it has not run yet"
    if any(parameters.get(key) is not None for key in ("output", "file")) or parameters.get("resume"):
        return "it is asked to write elsewhere, or to go on"
    if not all(isinstance(manifest.get(part), dict) for part in ("parameters", "settings", "inputs", "code")):
        return "its manifest is damaged"
    return _what_is_asked(step, manifest, parameters) or _what_changed(project, step, manifest)


def _what_is_asked(step: Step, manifest: dict[str, Any], parameters: dict[str, Any]) -> str | None:
    """Return what is asked for that a step has not done, or None."""
    known = manifest["parameters"]
    for parameter in step.parameters:
        if parameter.title and known.get(parameter.name) and not parameters.get(parameter.name):
            return f"it was a {parameter.title}"
    asked = {key: value for key, value in parameters.items() if key != "resume" and value is not False}
    if any(known.get(key) != value for key, value in asked.items()):
        return "other parameters are asked for"
    return None


def _what_changed(project: Project, step: Step, manifest: dict[str, Any]) -> str | None:
    """Return what of the settings, the inputs and the code of a step is not as it was, or None."""
    settings = manifest["settings"]
    if project.settings(*settings) != settings:
        return "its settings have changed"
    if "annotations" in step.reads and (count := unpublished(project)):
        return f"annotations have changed {count} time{'s' if count > 1 else ''}"
    changed = [path for path, known in manifest["inputs"].items() if artifacts.fingerprint(Path(path)) != known]
    changed += [name for name, known in manifest["code"].items() if artifacts.code_fingerprint(name) != known]
    return f"{changed[0]} has changed" if changed else None
