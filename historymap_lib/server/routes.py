"""The addresses of the HTTP interface below `<base_url>/historymap/api/`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jupyter_server.utils import url_path_join

from historymap_lib.server.calls import CALLS
from historymap_lib.server.handlers import CallHandler, DocumentHandler, NothingHandler
from historymap_lib.server.log_stream import LogsSocket
from historymap_lib.server.log_watch import Watch
from historymap_lib.server.openapi import document

if TYPE_CHECKING:
    from historymap_lib.server.api import HistorymapApi

ROOT = "historymap/api"


def routes(base: str, api: HistorymapApi) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return what to add to a server whose addresses begin with `base`."""
    prefix = re.escape(url_path_join(base, ROOT))
    calls: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        calls.setdefault(call.path, {})[call.method] = call
    found: list[tuple[str, Any, dict[str, Any]]] = [
        (f"{prefix}/{path.format(job='([^/]+)')}", CallHandler, {"api": api, "calls": methods})
        for path, methods in calls.items()
    ]
    return [
        *found,
        (f"{prefix}/openapi.json", DocumentHandler, {"api": api, "document": document}),
        (f"{prefix}/logs", LogsSocket, {"api": api, "watch": Watch(api)}),
        (f"{prefix}(?:/.*)?", NothingHandler, {"api": api}),
    ]
