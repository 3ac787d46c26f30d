"""Threads that ask servers, several at once.

Those of `concurrent.futures` are waited for when a program ends, which would let Ctrl-C hang for as long as a server
is silent; nobody waits for these.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew:
    """Some threads, begun when they are needed first; a context manager, which lets them go."""

    def __init__(self, size: int) -> None:
        self._size, self._begun = size, 0
        self._tasks: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in range(self._begun):
            self._tasks.put(None)
        self._begun = 0

    def run(
        self, work: Callable[[Item, threading.Event], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Yield each item with what `work` makes of it, in the order in which they are done.

        The first error ends all: it is raised here, what has not begun does not begin, and the event that `work` is
        given is set. So it is if nobody wants to know any more.
        """
        stop: threading.Event = threading.Event()
        done: SimpleQueue[tuple[Item, Any, BaseException | None]] = SimpleQueue()
        for item in items:
            self._tasks.put((work, item, stop, done))
        while self._begun < min(self._size, len(items)):
            threading.Thread(target=self._work, name=f"photo-{self._begun}", daemon=True).start()
            self._begun += 1
        try:
            for _ in items:
                item, result, error = done.get()
                if error is not None:
                    raise error
                yield item, result
        finally:
            stop.set()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, item, stop, done = task
            if stop.is_set():
                continue
            try:
                done.put((item, work(item, stop), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where the results are waited for
                stop.set()
                done.put((item, None, error))
