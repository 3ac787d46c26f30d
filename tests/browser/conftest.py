"""JupyterLab as people have it: a real server on loopback, a real kernel, a real browser.

What the browser shows is kept as screenshots in .artifacts/browser.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from workbench_fixtures import Lab, browser_at, chromium_path, serving

SHOTS = Path(__file__).parents[2] / ".artifacts" / "browser"
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Remember whether a test failed, for a picture of what it saw."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="module")  # it keeps a loop of asyncio running, which tests of other modules must not find
def chromium():
    """A browser that was started."""
    program = chromium_path()
    if program is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    pytest.importorskip("playwright.sync_api", reason="there is no playwright; pip install playwright")
    with browser_at(program) as browser:
        yield browser


@pytest.fixture
def lab(chromium, request, tmp_path_factory):
    """Return a function that opens a notebook of a case in a window of some size."""
    opened, address = [], ""

    def open_page(file: Path, notebook: str = "workbench.ipynb", size=(1280, 900)) -> Lab:
        nonlocal address
        if not address:
            address = stack.enter_context(serving(file, tmp_path_factory.mktemp("jupyter")))
        window = stack.enter_context(chromium.new_context(viewport={"width": size[0], "height": size[1]}))
        opened.append(window)
        return Lab(window.new_page(), address, SHOTS, request.node.name).open(notebook)

    with ExitStack() as stack:
        yield open_page
        if request.node.stash.get(FAILED, False):
            for number, window in enumerate(opened):
                window.pages[0].screenshot(path=SHOTS / f"{request.node.name}-failed-{number}.png")
