"""Panels as a person sees and presses them, without a browser."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from bs4 import BeautifulSoup
from job_fixtures import until

if TYPE_CHECKING:
    from bs4 import Tag

    from historymap_lib.widgets.panel import Live, Panel

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
"""What must never reach a page as it stands."""


def page(panel: Panel) -> BeautifulSoup:
    """Return what a panel shows."""
    return BeautifulSoup(panel.html, "html.parser")


def words(node: Tag) -> str:
    """Return what can be read, with single spaces."""
    return " ".join(node.get_text(" ").split())


def said(panel: Panel) -> str:
    """Return what a panel shows as an error."""
    return " ".join(words(one) for one in page(panel).select(".hm-error")).strip()


def text_of(line: str) -> str:
    """Return a line of HTML as text."""
    return html.unescape(re.sub(r"<[^>]*>", "", line))


def press(panel: Live, action: str, **content: Any) -> list[tuple[dict[str, Any], list[bytes]]]:
    """Press a button as the page does; return what was sent back, as soon as it is answered."""
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    panel.send = lambda message, buffers=None: sent.append((message, [bytes(one) for one in buffers or []]))
    panel._handle_custom_msg({"action": action, **content}, [])
    until(lambda: any("answered" in message for message, _ in sent))
    del panel.send
    return sent[:-1]
