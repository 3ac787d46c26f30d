"""A real MapServer on loopback, and one in front of it that does what servers do on bad days."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MAPSERV = next(
    (found for place in ("mapserv", "/usr/lib/cgi-bin/mapserv") if (found := shutil.which(place)) is not None), None
)

WEST, SOUTH, EAST, NORTH = 353875.07129359094, 3057021.2304397123, 354287.8712935909, 3057565.2304397123
"""Where the photo of Banepa lies, in EPSG:32645."""

MAPFILE = """
MAP
  NAME "banepa"
  EXTENT {extent}
  SIZE 512 512
  MAXSIZE 4096
  PROJECTION "init=epsg:32645" END
  OUTPUTFORMAT NAME "png" DRIVER "AGG/PNG" MIMETYPE "image/png" IMAGEMODE RGBA EXTENSION "png" TRANSPARENT ON END
  OUTPUTFORMAT NAME "jpeg" DRIVER "AGG/JPEG" MIMETYPE "image/jpeg" IMAGEMODE RGB EXTENSION "jpg" END
  WEB METADATA
    "ows_title" "Banepa" "ows_enable_request" "*" "ows_onlineresource" "http://wrong.invalid/"
    "ows_srs" "{crs}"
  END END
  LAYER
    NAME "then" TYPE RASTER STATUS ON DATA "{data}"
    PROJECTION "init=epsg:32645" END
    METADATA "ows_title" "Banepa then" "wms_extent" "{extent}" "wms_srs" "{crs}" END
    PROCESSING "NODATA=0"
    PROCESSING "RESAMPLE=BILINEAR"
  END
  LAYER
    NAME "snapped" TYPE RASTER STATUS ON DATA "{snapped}"
    PROJECTION "init=epsg:32645" END
    METADATA "ows_title" "The same, its pixels on the origin of the CRS" "wms_extent" "{extent}" "wms_srs" "{crs}" END
    PROCESSING "NODATA=0"
  END
END
"""


def mapfile(folder: Path, data: Path, snapped: Path, extent: str, crs: str) -> dict[str, str]:
    """Write what MapServer wants to know, and return its environment."""
    (folder / "banepa.map").write_text(MAPFILE.format(data=data, snapped=snapped, extent=extent, crs=crs))
    conf = folder / "mapserver.conf"
    maps = f'"BANEPA" "{folder / "banepa.map"}"'
    conf.write_text(f'CONFIG\n  ENV\n    "MS_MAP_PATTERN" "."\n  END\n  MAPS\n    {maps}\n  END\nEND\n')
    return os.environ | {"MAPSERVER_CONFIG_FILE": str(conf), "MS_MAPFILE": str(folder / "banepa.map")}


class Server(ThreadingHTTPServer):
    """A server on loopback which counts who asks; `fault`, where it is set, answers in place of `answer`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.fault = answer, None
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[str] = []
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        """Whoever asked has gone: that is what some tests are about."""

    @property
    def url(self) -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://127.0.0.1:{self.server_port}"

    def pictures(self) -> list[str]:
        """Return the requests for pictures."""
        return [path for path in self.asked if "GetCapabilities" not in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sent = None  # the body of a POST

    def do_POST(self):
        self.sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.bodies.append(self.sent)
        self.do_GET()

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked.append(self.path)
            server.headers.append(dict(self.headers))
        if server.fault is not None and server.fault(self):
            return
        self.give(*server.answer(self.path if self.sent is None else self.sent))

    def give(self, status=200, kind="text/plain", body=b"", headers=(), *, announced=None):
        """Answer; `announced` is the length that is told, where it is not that of the body."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(answer):
    """Yield a server that answers what `answer` makes of a path: status, media type, body."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cgi(environment):
    """Return what asks MapServer, as a web server does."""

    def answer(path):
        variables = environment | {"REQUEST_METHOD": "GET", "QUERY_STRING": urlsplit(path).query}
        done = subprocess.run([MAPSERV], env=variables, capture_output=True, check=True)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        kinds = [
            line.split(b":", 1)[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-t")
        ]
        return 200, kinds[0].decode(), body

    return answer


def query(path):
    """Return the parameters of a request, in upper case."""
    return {key.upper(): values[-1] for key, values in parse_qs(urlsplit(path).query, keep_blank_values=True).items()}
