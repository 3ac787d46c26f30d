"""Steps as background jobs, which outlive the notebook, the terminal and the server that asked for them.

- `queue`: `Jobs` and `Job`, which everybody else uses.
- `store`: what is known of each job, in SQLite.
- `worker`: the one process a project that runs what is queued; `waking` has it started where there is something to do,
  by `guard`, which starts it again after a kill.
- `files`: where all that lies.
- `logs`: reading what a job printed, while it prints and afterwards.
- `processes`: telling processes apart, and ending them with all their children.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from historymap_lib.jobs.queue import Job, Jobs

__all__ = ["Job", "Jobs"]


def __getattr__(name: str) -> Any:
    """Import only when asked, so that the guard stays a few megabytes."""
    if name in __all__:
        from historymap_lib.jobs import queue  # noqa: PLC0415

        return getattr(queue, name)
    raise AttributeError(name)
