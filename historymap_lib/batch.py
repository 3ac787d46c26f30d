"""All notebooks of the steps in order, without a person: an executed copy and a page of each, and one of links.

    historymap run all --notebooks reports/

papermill runs the notebooks and nbconvert makes pages of them. What a notebook prints is printed here too, as it comes.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import nbformat
import papermill
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from traitlets.config import Config

from historymap_lib import artifacts, errors
from historymap_lib.annotation_store import unpublished
from historymap_lib.lab import notebook_folder

if TYPE_CHECKING:
    from pathlib import Path

    from nbformat import NotebookNode

    from historymap_lib.project import Project

NOTEBOOKS = {
    "1_generate_training": "generate-training",
    "2_train": "train",
    "3_predict": "predict",
    "4_verify": "verify",
    "5_annotate": None,
    "6_apply_annotations": "apply-annotations",
}
"""In order, with the step that each runs."""
TRANSPORT = "ipc" if os.name == "posix" else "tcp"
"""How we talk to kernels: by files of ours where that can be, since any user of the machine can reach a port."""
THUMBNAIL = 320
"""Pixels along the longer side."""


@dataclass(frozen=True)
class Report:
    """What became of one notebook; `state` is waiting, running, done, failed, left out or broken off."""

    name: str
    title: str
    state: str = "waiting"
    seconds: float = 0.0
    said: str = ""
    thumbnail: str = ""

    @property
    def duration(self) -> str:
        """How long it ran, for people."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def run_notebooks(project: Project, folder: Path, *, force: bool = False) -> list[Report]:
    """Run the notebooks of the steps one after the other, up to the first that fails.

    Writes to `folder` an executed copy of each, the same as HTML, and index.html, each whole or not at all. The last
    notebook is left out as long as nobody has judged a building.

    Args:
        project: the case.
        folder: where the reports go; made if it is not there.
        force: run also what is up to date.

    Raises:
        StepError: the notebooks are not where they should be.

    """
    # a kernel that ends with us is found dead by a task that nobody waits for any longer: no news after our sentence
    logging.getLogger("asyncio").addFilter(_is_news)
    source = notebook_folder()
    reports = [Report(name, _title(source / f"{name}.ipynb")) for name in NOTEBOOKS]
    try:
        for index, report in enumerate(reports):
            if report.name == "6_apply_annotations" and not (
                project.paths.annotations.exists() or unpublished(project)
            ):
                reports[index] = replace(report, state="left out", said="nobody has judged a building yet")
                continue
            reports[index] = replace(report, state="running")
            _write_index(project, folder, reports)
            print(f"== {report.title}", flush=True)  # noqa: T201 - for whoever looks
            given = _parameters(project, report, force=force)
            reports[index] = _run(source / f"{report.name}.ipynb", folder, report, given)
            if reports[index].state == "failed":
                break
    finally:
        reports = [replace(one, state="broken off") if one.state == "running" else one for one in reports]
        _write_index(project, folder, reports)
    return reports


def _is_news(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], DeadKernelError)


def _parameters(project: Project, report: Report, *, force: bool) -> dict[str, Any]:
    return {"config": str(project.file)} | ({"force": force} if NOTEBOOKS[report.name] else {})


def _run(source: Path, folder: Path, report: Report, parameters: dict[str, Any]) -> Report:
    """Run one notebook; write its copy and its page, also if it fails: then they show where."""
    start, said = time.monotonic(), ""
    target = folder / source.name
    with artifacts.replacing(target) as partial:
        try:
            papermill.execute_notebook(
                source,
                partial,
                parameters,
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                config=Config({"KernelManager": {"transport": TRANSPORT}}),
            )
        except PapermillExecutionError as error:
            said = _sentence(error)
        except DeadKernelError as error:
            said = f"its kernel has died ({error}); most likely the machine ran out of memory"
        book = nbformat.read(partial, as_version=4)
    artifacts.write_text(target.with_suffix(".html"), _page(book, report.title))
    seconds = time.monotonic() - start
    return replace(
        report, state="failed" if said else "done", seconds=seconds, said=said, thumbnail=_thumbnail(book)
    )  # fmt: skip


def _sentence(error: PapermillExecutionError) -> str:
    """Return why a notebook failed: the sentence, if it is one of ours."""
    ours = [name for name, kind in vars(errors).items() if isinstance(kind, type)]
    return str(error.evalue) if error.ename in ours else f"{error.ename}: {error.evalue}"


def _page(book: NotebookNode, title: str) -> str:
    """Return a notebook as HTML that needs nothing from elsewhere."""
    nowhere = {
        "require_js_url": "",
        "mathjax_url": "",
        "mermaid_js_url": "",
        "jquery_url": "",
        "widget_renderer_url": "",
    }
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, **nowhere)
    page: str = exporter.from_notebook_node(book, {"metadata": {"name": title}})[0]
    return page


def _thumbnail(book: NotebookNode) -> str:
    """Return the first picture of a notebook, small, as a data URI; empty where there is none."""
    outputs = [output.get("data", {}) for cell in book.cells for output in cell.get("outputs", [])]
    picture = next((data["image/png"] for data in outputs if "image/png" in data), None)
    if picture is None:
        return ""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _title(path: Path) -> str:
    """Return the first heading of a notebook."""
    book = nbformat.read(path, as_version=4)
    return str(book.cells[0].source.splitlines()[0].lstrip("# "))


def _write_index(project: Project, folder: Path, reports: list[Report]) -> None:
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    page = _templates.get_template("reports.html").render(case=project.name, now=now, reports=reports)
    artifacts.write_text(folder / "index.html", page)


_templates = Environment(
    loader=PackageLoader("historymap_lib"), autoescape=True, trim_blocks=True, undefined=StrictUndefined
)
