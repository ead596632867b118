"""The port where Prometheus finds this process's metrics: HTTP, on threads beside the event loop."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prometheus_client import generate_latest

from server.listeners import PortError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PATH = "/metrics"
# Prometheus' own text form, whatever form a scraper prefers: prometheus_client writes colons as
# underscores in the others, and then no name is vLLM's.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STALLED_PEER_S = 10.0


class MetricsPort:
    """Serves a registry from the moment it is made until `close`."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Take a port; 0 takes a free one.

        Raises:
            PortError: it cannot be taken.
        """
        try:
            self._server = _Server(registry, host, port)
        except OSError as error:
            raise PortError(
                f"--metrics-port {port}: cannot listen on {host}:{port}; expected a free port of this machine"
                " (0 takes any)"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that was taken."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening. Waits for the listening thread, which ends within half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = registry
        super().__init__((host.strip("[]"), port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = _STALLED_PEER_S
    server: _Server

    def do_GET(self) -> None:
        """Answer with all metrics of this moment."""
        if urlsplit(self.path).path != PATH:
            self.send_error(404, explain=f"Metrics are at {PATH}.")
            return
        body = generate_latest(self.server.registry)
        self.send_response(200)
        self.send_header("content-type", CONTENT_TYPE)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Name no versions."""
        return "pagewire"

    def log_message(self, *_: object) -> None:
        """A scrape is not worth a line."""
