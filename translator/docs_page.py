"""GET /docs: a page that shows /openapi.json and lets one try it. It loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

_PAGE = (Path(__file__).parent / "docs.html").read_bytes()
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
}


async def docs(request: Request) -> Response:
    """Return the page."""
    return Response(_PAGE, headers=_HEADERS, media_type="text/html")
