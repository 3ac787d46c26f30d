"""Our extension of Jupyter Server: it serves the tiles of the map beside the notebooks, behind the same login.

`jupyter_server_config.d/historymap.json`, which is installed with the package, enables it. It imports little, so that
the server starts as fast with it as without.
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
    """Add the tiles to a server, and tell the kernels that it will start where they are."""
    from historymap_lib.display import BASE_URL  # noqa: PLC0415 - nothing is imported before it is needed
    from historymap_lib.server.tiles import handlers  # noqa: PLC0415

    base: str = server.web_app.settings["base_url"]
    server.web_app.add_handlers(".*$", handlers(base))
    os.environ[BASE_URL] = base
