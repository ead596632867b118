"""GET /: the console's page, put together from the files beside this one."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

_FOLDER = Path(__file__).parent
SCRIPTS = (
    "dom.js",
    "markdown.js",
    "server.js",
    "conversations.js",
    "sampling.js",
    "sparkline.js",
    "engine.js",
    "reasoning.js",
    "message.js",
    "generation.js",
    "page.js",
)
"""In the order in which they stand in the page: each may use what comes before it."""


def _page() -> tuple[bytes, str]:
    """Return the page and its Content-Security-Policy, which lets nothing run but our own text."""
    style = (_FOLDER / "style.css").read_text("utf-8")
    script = '"use strict";\n' + "\n".join((_FOLDER / name).read_text("utf-8") for name in SCRIPTS)
    assert "</script" not in script
    page = (_FOLDER / "page.html").read_text("utf-8")
    page = page.replace("/* style.css */", style).replace("/* scripts */", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_PAGE, _POLICY = _page()
_HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


async def page(request: Request) -> Response:
    """Return the page. It holds nothing of the model's or of anybody's: it asks for that itself."""
    return Response(_PAGE, headers=_HEADERS, media_type="text/html")
