"""No panel outlives its test."""

from __future__ import annotations

import pytest
from job_fixtures import until

from historymap_lib.widgets.refresher import refresher


@pytest.fixture(autouse=True)
def _panels_end():
    yield
    for panel in list(refresher._due):
        panel.close()
    until(lambda: refresher._thread is None)
