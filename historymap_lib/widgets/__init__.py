"""Views for notebooks: they show what the stores hold, and hold nothing themselves.

from historymap_lib.widgets import open_case

case = open_case("mytown.yaml")
case.workbench()
"""

from historymap_lib.widgets.job_panel import JobPanel
from historymap_lib.widgets.log_view import LogView
from historymap_lib.widgets.notebook import Notebook, open_case
from historymap_lib.widgets.picture import PicturePanel
from historymap_lib.widgets.status_panel import StatusPanel
from historymap_lib.widgets.step_form import StepForm
from historymap_lib.widgets.workbench import Workbench

__all__ = ["JobPanel", "LogView", "Notebook", "PicturePanel", "StatusPanel", "StepForm", "Workbench", "open_case"]
