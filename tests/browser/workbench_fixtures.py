"""JupyterLab on loopback, a browser, a notebook in it, and what a person does with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
from job_fixtures import PATIENCE, end_all

from historymap_lib.project import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

TOKEN = "sesame"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
CONTEXT = "window.jupyterapp.shell.currentWidget.sessionContext"


class Lab:
    """One page with one notebook."""

    def __init__(self, page: Page, address: str, shots: Path, name: str) -> None:
        self.page, self.address, self._shots, self._name = page, address, shots, name
        self._count = 0
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, notebook: str) -> Lab:
        """Open a notebook and wait for its kernel."""
        self.page.goto(f"{self.address}/lab/tree/notebooks/{notebook}?token={TOKEN}&reset")
        return self.ready()

    def ready(self) -> Lab:
        """Wait until the kernel of the notebook can be talked to."""
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
        self.page.evaluate(f"async () => {{ await {CONTEXT}.ready; await {CONTEXT}.session.kernel.info; }}")
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        self.page.wait_for_timeout(500)  # a kernel that has just been started is connected to once more
        return self

    def command(self, name: str, **arguments: object) -> None:
        """Run a command of JupyterLab, as its menus do."""
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, arguments])

    def run_all(self) -> Lab:
        """Run all cells, and wait until the panels are there."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_selector(".hm-jobs")
        return self

    def restart(self) -> None:
        """Restart the kernel, which forgets everything, and run all cells."""
        self.page.evaluate(f"async () => {{ await {CONTEXT}.session.kernel.restart(); }}")
        self.ready()

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.context.save(); }")

    def reload(self) -> None:
        """Load the page anew."""
        self.page.reload()
        self.ready()

    def form(self, step: str) -> Locator:
        """Return the form of a step."""
        return self.page.locator(f"form[aria-label='{step}']")

    def run(self, step: str, **options: str | bool) -> None:
        """Fill in the form of a step, and press its button."""
        form = self.form(step)
        if options:
            form.locator("summary").click()
        for name, value in options.items():
            field = form.locator(f"[name={name}]")
            field.check() if value is True else field.fill(str(value))
        form.get_by_role("button", name="Run").click()

    def job(self, number: int, state: str) -> Locator:
        """Return what shows a job in a state, as soon as it does."""
        line = self.page.locator(f"[data-key=job{number}], [data-key=ended{number}]").filter(
            has=self.page.locator(f".hm-badge.hm-{state}")
        )
        line.wait_for()
        return line

    def log_has(self, text: str) -> None:
        """Wait until the log shows a text."""
        self.page.locator(".hm-log pre").filter(has_text=text).wait_for()

    def shot(self, of: str = ".hm-workbench") -> None:
        """Keep a picture, with the panels at the top."""
        self.page.evaluate("of => document.querySelector(of)?.scrollIntoView()", of)
        self.page.wait_for_timeout(300)
        self._count += 1
        self._shots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._shots / f"{self._name}-{self._count}.png")


def chromium_path() -> str | None:
    """Return where the browser is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser_at(program: str) -> Iterator[Browser]:
    """Yield a browser that was started."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not there where there is no browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def serving(file: Path, config: Path) -> Iterator[str]:
    """Yield the address of a JupyterLab that `historymap workbench` has started on a case."""
    off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig").mkdir(parents=True)
    (config / "labconfig" / "page_config.json").write_text(json.dumps(off), encoding="utf-8")
    log = file.with_suffix(".lab.log")
    words = [sys.executable, "-m", "historymap_lib.cli", "workbench", "--config", str(file), "--"]
    words += ["--no-browser", f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True"]
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    folders |= {"JUPYTER_CONFIG_DIR": "", "JUPYTER_RUNTIME_DIR": "runtime"}
    environment = {**os.environ, **{name: str(config / folder) for name, folder in folders.items()}}
    with log.open("wb") as output:
        server = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield _address(server, log)
    finally:
        family = [server, *psutil.Process(server.pid).children(recursive=True)]
        for process in family:
            process.kill()
        server.wait()
        end_all(load(file))


def _address(server: subprocess.Popen, log: Path) -> str:
    """Return where the server listens, as soon as it does."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        said = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        if found:
            return found[0]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not come up:\n{said}")
