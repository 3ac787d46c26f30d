"""A form for each step: its parameters, a button that queues it, and why it cannot run yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib import steps
from historymap_lib.errors import HistorymapError, StepError
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.steps import Parameter, Step
    from historymap_lib.widgets.case import Case

KINDS = {int: "number", bool: "checkbox", Path: "text"}
"""How a parameter is asked for, by its kind."""


class StepForm(Panel):
    """The form of one step, made from the table of steps; what is left empty is as the settings say."""

    template = "step.html"
    every = 1.5

    def __init__(self, case: Case, name: str) -> None:
        self._case, self._step = case, steps.find(name)
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        step, project, jobs = self._step, self._case.project, self._case.jobs
        coming = jobs.coming()
        try:
            steps.check(project, step.name, {}, coming=coming)
            blocked = ""
        except HistorymapError as error:
            blocked = self._case.short(str(error))
        outdated, busy = self._outdated(), step.name in coming
        reason = f"due, {self._case.short(outdated)}" if outdated else "up to date"
        return {
            "step": step.name,
            "title": step.name.replace("-", " "),
            "help": step.help,
            "fields": [
                _field(parameter, self._case.short(parameter.default(project))) for parameter in step.parameters
            ],
            "others": self._others(),
            "state": "busy" if busy else "blocked" if blocked else {None: "unknown", "": "good"}.get(outdated, "due"),
            "blocked": blocked,
            "reason": "queued or running" if busy else "" if outdated is None else reason,
        }

    def _others(self) -> list[Parameter]:
        """Return the parameters that have a button of their own: what can be run before the steps that are needed."""
        made = [steps.find(name).makes(self._case.project).exists() for name in self._step.needs]
        return [] if all(made) else [parameter for parameter in self._step.parameters if parameter.title]

    def _outdated(self) -> str | None:
        """Return why the step is due, empty if it is not, None if that is not known yet."""
        status = self._case.status()
        items = status.items if status is not None else []
        return next((item.outdated or "" for item in items if item.step == self._step.name), None)

    def act(self, action: str, content: dict[str, Any]) -> None:
        """Queue the step."""
        if action == "run":
            values = dict(content.get("values") or {})
            force = bool(values.pop("force", False))
            if content.get("parameter"):
                values[str(content["parameter"])] = True
            parameters = given(self._step, values, self._case)
            self._case.jobs.submit(self._step.name, force=force, **parameters)
            self._case.look_again()


def given(step: Step, values: dict[str, Any], case: Case) -> dict[str, Any]:
    """Return the parameters that were filled in; paths are relative to the root of the case.

    Raises:
        StepError: a number is none.

    """
    found: dict[str, Any] = {}
    for parameter in step.parameters:
        value = values.get(parameter.name)
        if value in (None, "", False):
            continue
        if parameter.kind is int:
            if not str(value).isdecimal():
                raise StepError(f"{parameter.name} is {value!r}; give a whole number of 1 or more")
            found[parameter.name] = int(str(value))
        else:
            found[parameter.name] = case.project.resolve(str(value)) if parameter.kind is Path else True
    return found


def _field(parameter: Parameter, default: str) -> dict[str, Any]:
    return {"name": parameter.name, "kind": KINDS[parameter.kind], "help": parameter.help, "default": default}
