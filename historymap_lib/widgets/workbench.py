"""The workbench: where the case stands, a form for each step, the jobs and their output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipywidgets import Box, VBox

from historymap_lib.steps import STEPS
from historymap_lib.widgets.job_panel import JobPanel
from historymap_lib.widgets.log_view import LogView
from historymap_lib.widgets.status_panel import StatusPanel
from historymap_lib.widgets.step_form import StepForm

if TYPE_CHECKING:
    from historymap_lib.widgets.case import Case


class Workbench(VBox):
    """All panels of a case, the pipeline from left to right."""

    def __init__(self, case: Case) -> None:
        log = LogView()
        forms = Box([StepForm(case, name) for name in STEPS])
        forms.add_class("hm-forms")
        jobs = Box([JobPanel(case, log), log])
        jobs.add_class("hm-side-by-side")
        super().__init__([StatusPanel(case), forms, jobs])
        self.add_class("hm-workbench")
