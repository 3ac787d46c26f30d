"""What all panels share: they show what the stores hold, again and again, from one thread.

A panel holds no truth of its own, so a reload of the page, a second notebook or a new kernel shows the same. Updates
come from a thread and not from the kernel's own loop, which stands still while a cell runs.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets
from jinja2 import Environment, PackageLoader, StrictUndefined

from historymap_lib.errors import sentence_of
from historymap_lib.widgets.refresher import refresher

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent
STYLE = FOLDER / "style.css"

log = logging.getLogger(__name__)
templates = Environment(
    loader=PackageLoader("historymap_lib.widgets"), autoescape=True, trim_blocks=True, undefined=StrictUndefined
)
_logged: set[str] = set()


class Live(anywidget.AnyWidget):
    """A widget that is refreshed every `every` seconds as long as it is in use, and after each of its buttons."""

    _css = STYLE
    every: ClassVar[float] = 1.0

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._lock = threading.Lock()
        self._said = ""
        self.on_msg(self._pressed)
        self.refresh()
        refresher.add(self)

    @abstractmethod
    def show(self) -> None:
        """Read the stores and set the traits that differ; called from a thread, never twice at a time."""

    @abstractmethod
    def fail(self, sentence: str) -> None:
        """Show why `show` could not."""

    def act(self, action: str, content: dict[str, Any]) -> str | None:
        """Do what a button stands for; what it raises, or returns, is shown until the next."""

    def refresh(self) -> None:
        """Show how things stand now."""
        with self._lock:
            if sentence := _attempt(self.show):
                self.fail(sentence)

    def close(self) -> None:
        """Refresh no more, and take the widget off the page."""
        refresher.remove(self)
        super().close()

    def _pressed(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Answer a button, in a thread: the kernel must not wait until, say, a worker has started."""

        def act() -> None:
            self._said = self.act(str(content.get("action")), content) or ""

        def answer() -> None:
            self._said = _attempt(act) or self._said
            self.refresh()
            self.send({"answered": True})

        threading.Thread(target=answer, name="historymap button", daemon=True).start()


class Panel(Live):
    """A widget whose HTML is a template filled with facts."""

    _esm = FOLDER / "view.js"
    template: ClassVar[str]
    html = traitlets.Unicode().tag(sync=True)

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""

    def show(self) -> None:
        """Render the template; the browser is told only if it differs."""
        self.html = render(self.template, said=self._said, **self.facts())

    def fail(self, sentence: str) -> None:
        """Show a sentence in place of the panel."""
        self.html = render("error.html", said=sentence)


def render(template: str, **facts: Any) -> str:
    """Return a template filled with facts, which are escaped."""
    return templates.get_template(template).render(facts)


def _attempt(do: Callable[[], None]) -> str:
    """Do something, and return what to tell of it: nothing if it went well."""
    try:
        do()
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:  # a bug: for us, in full, but once
            if repr(error) not in _logged:
                _logged.add(repr(error))
                log.exception("a panel of the workbench failed")
            sentence = f"this went wrong in a way that we had not thought of: {error!r}; please report it"
        return sentence
    return ""
