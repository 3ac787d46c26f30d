"""Our extension of Jupyter Server: it serves the tiles of the map and the HTTP interface, behind the same login.

`jupyter_server_config.d/historymap.json`, which is installed with the package, enables it. It imports little, so that
the server starts about as fast with it as without.

- `tiles`: the tiles.
- `calls`: what can be asked over HTTP, `messages` what goes over it, `handlers` how, `routes` where, `openapi` what
  tells other programs of it; `api` is what the configuration says of it.
- `log_stream`: logs by WebSocket; `log_watch` looks at them on behalf of all listeners.
- `metrics`: figures for Prometheus.
- `service`: a server with this extension alone. `voila`: the tiles in a Voila that runs alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell Jupyter Server where the extension is."""
    return [{"module": "historymap_lib.server"}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Add tiles and calls to a server, and tell the kernels that it will start where the tiles are."""
    from historymap_lib.display import BASE_URL  # noqa: PLC0415 - nothing is imported before it is needed
    from historymap_lib.server.api import HistorymapApi  # noqa: PLC0415
    from historymap_lib.server.metrics import register  # noqa: PLC0415
    from historymap_lib.server.routes import routes  # noqa: PLC0415
    from historymap_lib.server.tiles import handlers  # noqa: PLC0415

    base: str = server.web_app.settings["base_url"]
    api = HistorymapApi(parent=server, root_dir=server.root_dir)
    server.web_app.add_handlers(".*$", [*handlers(base), *routes(base, api)])
    register(api)
    os.environ[BASE_URL] = base
