"""The port where Prometheus finds this process's metrics: HTTP, on threads beside the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from server.listeners import PortError

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry


class MetricsPort:
    """Serves a registry on every path from the moment it is made until `close`."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Take a port; 0 takes a free one.

        Raises:
            PortError: it cannot be taken.
        """
        started: tuple[WSGIServer, Thread]
        try:
            started = start_http_server(port, host, registry)
        except OSError as error:
            raise PortError(
                f"--metrics-port {port}: cannot listen on {host}:{port}; expected a free port of this machine"
                " (0 takes any)"
            ) from error
        self._server, self._thread = started

    @property
    def port(self) -> int:
        """The port that was taken."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening. Waits for the listening thread, which answers at once."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
