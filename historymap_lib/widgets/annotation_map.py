"""The annotation map: map, building, legend and apply side by side, all about one session."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING, Any

from ipywidgets import Box, VBox

from historymap_lib import display
from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.errors import HistorymapError
from historymap_lib.live_verdicts import LiveVerdicts
from historymap_lib.widgets.annotating import Session
from historymap_lib.widgets.apply_panel import ApplyPanel
from historymap_lib.widgets.building_map import BuildingMap, Swipe
from historymap_lib.widgets.building_views import BuildingViews
from historymap_lib.widgets.buildings import read_buildings
from historymap_lib.widgets.grid_panel import GridPanel
from historymap_lib.widgets.judge_panel import JudgePanel
from historymap_lib.widgets.learner import Learner
from historymap_lib.widgets.legend_panel import LegendPanel
from historymap_lib.widgets.mode_panel import ModePanel
from historymap_lib.widgets.refresher import refresher

if TYPE_CHECKING:
    from historymap_lib.widgets.case import Case

JOB = "display"
"""What the job is called that makes display copies."""


class AnnotationMap(VBox):
    """What a person judges the buildings of a case with; what they say is in the store at once.

    Raises:
        HistorymapError: there are no buildings, or the store of annotations cannot be opened.

    """

    every = 1.0

    def __init__(self, case: Case) -> None:
        project = case.project
        self._case, self._stamp, self._photo_note = case, _stamp(case), ""
        store = AnnotationStore.of(project)
        self._session = Session(store, read_buildings(project, {}), _annotator(), LiveVerdicts.of(project))
        self._views = BuildingViews(project, self._session)
        self._asked: set[str] = set()
        self._map = BuildingMap(self._session)
        self._judge = JudgePanel(self._session, self._views)
        self._grid = GridPanel(self._session, self._views)
        self._legend = LegendPanel(self._session, lambda: self._photo_note, self._map.show_all)
        self._apply = ApplyPanel(case, self._session)
        self._mode = ModePanel(self._choose)
        self._panels = (self._judge, self._grid, self._legend, self._apply, self._mode)
        left = VBox([self._mode, Swipe(), self._map, self._grid]).add_class("hm-annotate-left")
        right = VBox([self._judge]).add_class("hm-annotate-right")
        top = Box([left, right]).add_class("hm-annotate-top")
        super().__init__([top, self._legend, self._apply])
        self.add_class("hm-annotate")
        self._session.listeners.append(self._changed)
        self._learner = Learner(self._session)  # listens second: what a person has judged is recoloured first
        self._legend.observe(lambda _: self.refresh(), "layers")
        self.refresh()
        refresher.add(self)

    def refresh(self) -> None:
        """Show what others have said, new verdicts and layers that have become ready."""
        if (stamp := _stamp(self._case)) != self._stamp:
            self._stamp = stamp
            project = self._case.project
            self._session.replace(read_buildings(project, {}), LiveVerdicts.of(project))
        try:
            if self._session.look():
                self._session.tell()
            self._show_layers()
        except HistorymapError as error:
            self._photo_note = str(error)

    def close(self) -> None:
        """Refresh no more, and take all off the page."""
        refresher.remove(self)
        self._learner.close()
        for panel in self._panels:
            panel.close()
        super().close()

    def _changed(self) -> None:
        """Show the session as it is now: first the map, whose colour a person waits for."""
        self._map.draw()
        selected = self._session.selected
        if selected is not None and selected != self._looked_at:
            self._map.look_at(selected)
        self._looked_at = selected
        for panel in (self._judge, self._grid, self._legend):
            panel.refresh()

    _looked_at: int | None = None

    def _choose(self, mode: str) -> None:
        """Show one building at a time beside the map, or many at once in its place."""
        (self.add_class if mode == "grid" else self.remove_class)("hm-many")
        self._grid.active = mode == "grid"
        self._grid.turn()

    def _show_layers(self) -> None:
        """Lay the display copies under the buildings; make those that are missing, as a job."""
        wanted = ["photo", *(["probability"] if "probability" in self._legend.layers else [])]
        project, missing = self._case.project, []
        for layer in display.LAYERS:
            found = display.find(project, layer) if layer in wanted else None
            if layer in wanted and found is None:
                missing.append(layer)
            self._map.show_layer(layer, found, display.tile_url(found) if found is not None else None)
        self._map.show_base(wanted="base" in self._legend.layers)
        self._photo_note = self._note(missing)

    def _note(self, missing: list[str]) -> str:
        """Return what to tell of the layers, after queueing a job for those that are missing."""
        if not os.environ.get(display.BASE_URL):
            return "No photo under the map: this Jupyter Server does not have the extension historymap_lib.server."
        if self._views.trouble:
            return self._views.trouble
        if not missing:
            return ""
        jobs = self._case.jobs
        running = [record for record in jobs.unfinished() if record.name == JOB]
        key = ", ".join(missing) + self._stamp
        if not running and key not in self._asked:
            self._asked.add(key)
            words: list[Any] = [
                sys.executable,
                "-P",
                "-m",
                "historymap_lib.display",
                "--config",
                self._case.project.file,
            ]
            for layer in missing:
                words += ["--layer", layer]
            running = [jobs.submit_command(JOB, words).record]
        if running:
            return f"The {' and the '.join(missing)} for the map is being prepared as job {running[-1].id}."
        return f"The {' and the '.join(missing)} for the map could not be prepared; the log of the job {JOB} says why."


def _stamp(case: Case) -> str:
    """Return what changes when there are new verdicts."""
    path = case.project.paths.verified
    return str(path.stat().st_mtime_ns) if path.exists() else ""


def _annotator() -> str:
    """Return the name of the person: that of their login."""
    try:
        return os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (KeyError, OSError):
        return "me"
