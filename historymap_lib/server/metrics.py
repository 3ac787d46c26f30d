"""Figures for Prometheus, on Jupyter Server's own `/metrics`: jobs, annotations, verdicts.

They are read from the stores when they are asked for, in a thread; where that takes too long, for a large case or while
another program keeps a store, those of the last time are told.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from historymap_lib import artifacts
from historymap_lib.annotation_store import VERDICTS, AnnotationStore, store_path
from historymap_lib.errors import HistorymapError
from historymap_lib.jobs.files import Files
from historymap_lib.jobs.store import STATES, Store
from historymap_lib.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from historymap_lib.project import Project
    from historymap_lib.server.api import HistorymapApi

PATIENCE, FIRST = 0.05, 1.0
"""Seconds that the server waits for the figures, and for the first ones; it answers nobody else meanwhile."""
OTHER = "command"
"""The step of a job that is none."""


class Figures(Collector):
    """The figures of a case."""

    def __init__(self, api: HistorymapApi) -> None:
        self._api = api
        self._latest: list[Metric] = []
        self._reader: threading.Thread | None = None

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now, or as they were when they were asked for last."""
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._read, name="historymap figures", daemon=True)
            self._reader.start()
        self._reader.join(PATIENCE if self._latest else FIRST)
        return self._latest

    def describe(self) -> Iterable[Metric]:
        """Return nothing: to be registered no file is read."""
        return []

    def _read(self) -> None:
        try:
            project = self._api.project()
            self._latest = [*_of_jobs(project), *_of_buildings(project)]
        except (HistorymapError, OSError) as error:
            self._latest = []  # no figures rather than old ones, which nobody could tell from new ones
            self._api.log.warning("metrics: %s", error)


def register(api: HistorymapApi) -> None:
    """Offer the figures; those of another server in the same process give way."""
    registry = prometheus_client.REGISTRY
    for collector in list(registry._collector_to_names):  # noqa: SLF001 - it has no other way to ask
        if isinstance(collector, Figures):
            registry.unregister(collector)
    registry.register(Figures(api))


def _of_jobs(project: Project) -> list[Metric]:
    jobs = GaugeMetricFamily("historymap_jobs", "Jobs that are remembered.", labels=["state", "step"])
    seconds = SummaryMetricFamily("historymap_job_seconds", "How long jobs that have ended ran.", labels=["step"])
    queue = GaugeMetricFamily("historymap_queue_length", "Jobs that wait.")
    files = Files(project.paths.jobs)
    counts = Store(files.store).counts() if files.store.exists() else []
    found, ran = Counter[tuple[str, str]](), Counter[str]()
    took: defaultdict[str, float] = defaultdict(float)
    for name, state, count, finished, total in counts:
        step = name if name in STEPS else OTHER
        found[state, step] += count
        ran[step] += finished
        took[step] += total
    for step in (*STEPS, OTHER):
        for state in STATES:
            jobs.add_metric([state, step], found[state, step])
        seconds.add_metric([step], ran[step], took[step])
    queue.add_metric([], sum(found["pending", step] for step in (*STEPS, OTHER)))
    return [jobs, seconds, queue]


def _of_buildings(project: Project) -> list[Metric]:
    annotations = GaugeMetricFamily("historymap_annotations", "Buildings that people have judged.", labels=["verdict"])
    verdicts = GaugeMetricFamily("historymap_verdicts", "Buildings that have been judged.", labels=["verdict"])
    store = store_path(project)
    said = AnnotationStore(store).counts() if store.exists() else {}
    for name in VERDICTS:
        annotations.add_metric([name], said.get(name, 0))
    counts = (artifacts.read_manifest(project.paths.verified) or {}).get("counts")
    for name in (*VERDICTS, "no_coverage"):
        verdicts.add_metric([name], float((counts if isinstance(counts, dict) else {}).get(name, 0)))
    return [annotations, verdicts]
