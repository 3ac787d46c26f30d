"""`historymap serve`: Jupyter Server with the HTTP interface and the tiles alone, for a machine without notebooks.

There are no kernels, no terminals and no files in it: whoever is logged in can ask for what `calls` lists, and no more.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from jupyter_server.serverapp import ServerApp
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyter_server.utils import url_path_join
from traitlets import default

from historymap_lib.project import CONFIG, SAMPLE, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXTENSION = "historymap_lib.server"


class NoContents(AsyncLargeFileManager):
    """Files are none of this server's business; Jupyter Server would offer them below `files/` all the same."""

    def get_extra_handlers(self) -> list[Any]:
        """Return no addresses."""
        return []

    def info_string(self) -> str:
        """Return what is said at the start in place of "Serving notebooks"."""
        return f"historymap offers {os.environ.get(CONFIG, SAMPLE)}"


class Service(ServerApp):
    """Jupyter Server without all that runs code or shows files.

    Login, certificates and limits come from where those of every Jupyter Server do (`jupyter_server_config.py`); what
    brings code or files back does not.
    """

    name = "historymap"
    description = "The HTTP interface of historymap."
    default_services = ("api", "auth", "security")  # type: ignore[assignment]
    port_retries_default_value = 0  # whoever asks at this port must not meet another server

    @default("config_file_name")
    def _shared_settings(self) -> str:
        return "jupyter_server_config"

    @default("default_url")
    def _default_url(self) -> str:
        return url_path_join(self.base_url, "historymap/api/health")

    def find_server_extensions(self) -> None:
        """Load ours, and leave out what settings or other packages have enabled."""
        self.jpserver_extensions = {EXTENSION: True}

    def init_configurables(self) -> None:
        """Offer no files, whatever the settings say."""
        self.contents_manager_class = NoContents
        super().init_configurables()


def serve(config: Path, further: Sequence[str]) -> None:
    """Become the server of a case.

    Args:
        config: its settings.
        further: arguments for Jupyter Server, such as --port 9000.

    Raises:
        SettingsError: they are missing or wrong.

    """
    project = load(config)
    words = [sys.executable, "-P", "-m", "historymap_lib.server.service", "--no-browser"]
    words += [f"--ServerApp.root_dir={project.paths.root}", *further]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")  # in a container
    sys.stdout.flush()
    os.execve(sys.executable, words, {**os.environ, CONFIG: str(project.file)})  # noqa: S606 - it takes our place


if __name__ == "__main__":
    Service.launch_instance()
