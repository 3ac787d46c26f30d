"""`historymap workbench`: JupyterLab with the notebooks of a case."""

from __future__ import annotations

import os
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from historymap_lib.errors import StepError
from historymap_lib.project import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from historymap_lib.project import Project


def open_lab(project: Project, further: Sequence[str]) -> None:
    """Become JupyterLab, open at the workbench; it prints its address, for where there is no browser.

    Args:
        project: the case that the notebooks are about.
        further: arguments for `jupyter lab`, such as --port 9000.

    Raises:
        StepError: the notebooks are not where they should be.

    """
    root = project.paths.root
    page = (own_notebooks(root) / "workbench.ipynb").relative_to(root).as_posix()
    words = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{page}",
    ]
    words += further
    if not _has_browser():
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")  # in a container; it listens on this machine only
    sys.stdout.flush()
    os.execve(sys.executable, words, {**os.environ, CONFIG: str(project.file)})  # noqa: S606 - it takes our place


def notebook_folder() -> Path:
    """Return where the notebooks lie: within the installed package, or beside its sources.

    Raises:
        StepError: in neither place.

    """
    package = Path(__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / "workbench.ipynb").exists():
            return folder
    raise StepError(f"{package.parent / 'notebooks'}: the notebooks are not there; install historymap again")


def own_notebooks(root: Path) -> Path:
    """Return the folder of notebooks below the root of a case, after copying there those that are missing."""
    folder = root / "notebooks"
    source = notebook_folder()
    if folder.resolve() != source.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(source.glob("*.ipynb")):
            if not (folder / notebook.name).exists():
                shutil.copyfile(notebook, folder / notebook.name)
    return folder


def _has_browser() -> bool:
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # a browser for terminals would take the terminal away
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
