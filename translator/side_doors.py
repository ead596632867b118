"""The routes that tools probe: /ping, /load and /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from translator.requests import backend_of
from translator.sse import encode_json

if TYPE_CHECKING:
    from starlette.requests import Request


async def load(request: Request) -> Response:
    """Tell how many generations are open."""
    body = encode_json({"server_load": backend_of(request).num_running})
    return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Tell what this process has measured, in the text form that the client asks for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(
        encode(backend_of(request).metrics.registry),
        headers={"content-type": content_type, "cache-control": "no-store"},
    )
