"""The tiles where Voila runs alone, as `voila notebooks/map.ipynb`: it loads no extensions of Jupyter Server.

What it does ask for more addresses is its identity provider, and which that is says its configuration: `voila.json`
beside this file, installed to etc/jupyter. Within Jupyter Server (voila/render/...) our extension is there anyway.
"""

from __future__ import annotations

import os
from typing import Any

from jupyter_server.auth.identity import PasswordIdentityProvider

from historymap_lib.display import BASE_URL
from historymap_lib.server.tiles import handlers


class TileIdentityProvider(PasswordIdentityProvider):
    """Voila's own identity provider, which adds the tiles to the addresses for the login."""

    def get_handlers(self) -> list[tuple[str, object]]:
        """Return the login and the tiles, and tell the kernels that they are there."""
        voila: Any = self.parent
        os.environ[BASE_URL] = voila.base_url  # as the browser sees it; behind a proxy it listens on another
        return [*super().get_handlers(), *handlers(voila.server_url)]
