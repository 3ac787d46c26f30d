"""What the notebooks call: the same cells before a person and without one.

Before a person a step is queued and its output streams into the notebook. Under papermill, nbconvert or nbval the cell
runs the step itself, and what it shows are plain pictures and HTML, so that the executed notebook is a report.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import HTML, Image, display
from ipywidgets import VBox

import historymap_lib
from historymap_lib import steps
from historymap_lib.errors import HistorymapError, StepError, sentence_of
from historymap_lib.pictures import PICTURES
from historymap_lib.project import CONFIG, SAMPLE
from historymap_lib.status import read_status
from historymap_lib.widgets import status_panel
from historymap_lib.widgets.annotation_map import AnnotationMap
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.job_panel import JobPanel
from historymap_lib.widgets.log_view import LogView
from historymap_lib.widgets.panel import STYLE, render
from historymap_lib.widgets.picture import PicturePanel
from historymap_lib.widgets.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

    from historymap_lib.jobs import Job


def open_case(config: str | Path | None = None) -> Notebook:
    """Return the case of a YAML file, ready for the cells of a notebook.

    A relative path is looked for in the working folder, then in the folders above it, then beside the library. Without
    one it is that of the environment variable HISTORYMAP_CONFIG, or the sample town.

    Raises:
        SettingsError: the file is missing or wrong.

    """
    return Notebook(Case(_found(Path(config or os.environ.get(CONFIG) or SAMPLE).expanduser())))


class Notebook:
    """A case in a notebook; each method is one cell."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def workbench(self) -> None:
        """Show all panels; without a person only where the case stands."""
        if attended():
            display(Workbench(self._case))
        else:
            self.status()

    def status(self) -> None:
        """Show where the case stands."""
        if attended():
            display(status_panel.StatusPanel(self._case))
            return
        facts = status_panel.facts(self._case, read_status(self._case.project)) | {"due": None, "can_look": False}
        cards = render(status_panel.StatusPanel.template, said="", **facts)
        style = STYLE.read_text(encoding="utf-8")
        display(HTML(f'<style>{style}</style><div class="historymap">{cards}</div>'))

    def run(self, step: str, *, force: bool = False, **parameters: Any) -> None:
        """Queue a step and show its output, or run it here and now where nobody looks; None is as in the settings.

        What is up to date is not run, unless with `force`. A step that is queued or running already is only shown.

        Raises:
            StepError: no such step or parameter, what it needs is missing, or, where nobody looks, it failed.

        """
        known = steps.find(step)
        paths = {parameter.name for parameter in known.parameters if parameter.kind is Path}
        project = self._case.project
        found = {
            key: project.resolve(str(value)) if key in paths else value
            for key, value in parameters.items()
            if value not in (None, False)
        }
        if attended():
            self._queue(step, found, force=force)
            return
        try:
            print(steps.run(project, step, force=force, **found))  # noqa: T201 - into the report
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            raise StepError(sentence) from None

    def picture(self, name: str) -> None:
        """Show one of the pictures of a case: tiles, corrected, history, probability, verdicts, histogram, evaluation.

        Raises:
            StepError: there is no such picture.

        """
        if name not in PICTURES:
            raise StepError(f"there is no picture {name}; there are {', '.join(PICTURES)}")
        picture = PICTURES[name]
        path = picture.path(self._case.project.paths)
        if attended():
            display(PicturePanel(self._case, name))
        elif path.exists():
            display(Image(path, alt=picture.shows))
        else:
            display(HTML(render("picture.html", source="", shows=picture.shows, made_by=picture.made_by)))

    def evaluate(self, truth: str | Path) -> None:
        """Measure the verdicts against a table of truth, if there is one; a relative path is beside the footprints.

        Raises:
            EvaluationError: there are no verdicts, or the table is wrong.

        """
        from historymap_lib import evaluation  # noqa: PLC0415 - scikit-learn takes its time

        project = self._case.project
        beside = project.footprint_file.parent
        file = beside / Path(truth).expanduser()
        if not file.exists():
            print(f"{file}: there is no table of truth, so nothing is measured")  # noqa: T201
            return
        verdicts = project.paths.verified
        if not verdicts.exists():
            print(f"{verdicts}: there are no verdicts yet; run this cell again when verify is done")  # noqa: T201
            return
        measured = evaluation.evaluate(verdicts, file)
        evaluation.write(measured, verdicts.parent)
        print(measured.summary())  # noqa: T201
        self.picture("evaluation")

    def annotate(self, count: int = 50) -> None:
        """Show the map on which a person judges buildings; without a person a table of those that most need one.

        Where there are no buildings, or no verdicts to list, a line says what to do first.
        """
        try:
            display(AnnotationMap(self._case) if attended() else self.buildings(count))
        except HistorymapError as error:
            print(f"{str(error).rstrip('.')}; then run this cell again")  # noqa: T201

    def buildings(self, count: int = 50) -> pd.DataFrame:
        """Return the buildings that most need a person, the least certain first.

        Raises:
            EvaluationError: there are no verdicts yet.

        """
        from historymap_lib.evaluation import read_verdicts  # noqa: PLC0415

        found = read_verdicts(self._case.project.paths.verified)
        wanted = found[found["needs_verification"] & ~found["annotated"]]
        order = (wanted["probability"] - 0.5).abs().sort_values(na_position="last").index
        columns = ["building_id", "name", "verdict", "probability", "confidence", "overlap", "reason"]
        table: pd.DataFrame = wanted.loc[order[:count], columns].fillna({"name": ""}).reset_index(drop=True)
        return table

    def _queue(self, step: str, parameters: dict[str, Any], *, force: bool) -> None:
        """Show the job that does this step: the one there is, or a new one."""
        project, jobs = self._case.project, self._case.jobs
        plain = steps.absolute(step, parameters)
        mine = [record for record in jobs.unfinished() if record.name == step]
        same = [record for record in mine if {**record.parameters, "force": False} == {**plain, "force": False}]
        job: Job | None = None
        if same:
            job = jobs.get(same[-1].id)
        elif force or steps.why_outdated(project, steps.find(step), parameters) is not None:
            job = jobs.submit(step, force=force, **parameters)
        else:
            print(f"{step}: {steps.find(step).makes(project)} is up to date; force = True runs it all the same")  # noqa: T201
            latest = [record for record in jobs.recent() if record.name == step]
            job = jobs.get(latest[0].id) if latest else None
        if job is not None:
            log = LogView(job)
            display(VBox([JobPanel(self._case, log, only=job), log]))


def attended() -> bool:
    """Return whether a person sits before the notebook: only then may a cell ask for input.

    By the messaging protocol of Jupyter a frontend says so with every cell (`allow_stdin` of `execute_request`);
    papermill, nbconvert and nbval say no. So does Voila, which shows the page to a person all the same, and tells the
    kernel who it is.
    """
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return get_ipython() is not None
    kernel: Any = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    parent = kernel.get_parent() or {}
    return bool(parent.get("content", {}).get("allow_stdin", False))


def _found(config: Path) -> Path:
    if config.is_absolute():
        return config
    here = Path.cwd()
    folders = [here, *here.parents, Path(historymap_lib.__file__).parents[1]]
    return next((folder / config for folder in folders if (folder / config).exists()), config)
