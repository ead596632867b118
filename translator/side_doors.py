"""The routes that tools probe: /ping, /load and /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from starlette.responses import Response

from translator.requests import backend_of
from translator.sse import encode_json

if TYPE_CHECKING:
    from starlette.requests import Request


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def load(request: Request) -> Response:
    """Tell how many generations are open."""
    body = encode_json({"server_load": backend_of(request).num_running})
    return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Tell what this process has measured, in Prometheus' own text form, whatever form is preferred.

    prometheus_client writes colons as underscores in the other forms, and then no name is vLLM's.
    """
    return Response(
        generate_latest(backend_of(request).metrics.registry),
        headers={"content-type": METRICS_TYPE, "cache-control": "no-store"},
    )
