"""GET /health, /health/live, /health/ready and /version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from translator.requests import backend_of
from translator.sse import encode_json
from translator.version import VERSION

if TYPE_CHECKING:
    from starlette.requests import Request


async def live(request: Request) -> Response:
    """Tell that this process answers, whatever the model server does."""
    return _answer(200, {"status": "live"})


async def ready(request: Request) -> Response:
    """Tell whether a request can be served now, and why not."""
    reason = await backend_of(request).not_ready_reason()
    if reason is None:
        return _answer(200, {"status": "ready"})
    error = {"message": reason, "type": "server_error", "param": None, "code": "not_ready"}
    return _answer(503, {"status": "not ready", "error": error})


async def version(request: Request) -> Response:
    """Tell which version runs."""
    return _answer(200, {"version": VERSION})


def _answer(status: int, body: dict[str, object]) -> Response:
    return Response(
        encode_json(body),
        status_code=status,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )
