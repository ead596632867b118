"""The gate of the HTTP door: every request passes it before its body is read.

It knows no routes but the open ones, so a new route, and every other spelling of a path, needs a key. The
key also goes on to the model server, which checks it again and has the last word.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gate.credentials import bearer_secret
from translator.caller import set_caller
from translator.error_bodies import is_anthropic
from translator.errors import ApiError
from translator.middleware import send_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gate.key_ring import KeyRing

HEALTH_PATHS = frozenset(("/health", "/health/live", "/health/ready", "/v1/health", "/ping"))
PAGE_PATHS = frozenset(("/",))
"""The console's page, which holds nothing of anybody's and asks for the key itself."""
METRICS_PATHS = frozenset(("/metrics",))
_OPERATOR = "/operator"  # no tenant has a slash in its name


class GateMiddleware:
    """Lets a request pass that shows a key of a tenant or of an operator."""

    def __init__(
        self, app: ASGIApp, keys: KeyRing, operator_keys: KeyRing, open_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._keys = keys
        self._operator_keys = operator_keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        secret = _secret_of(scope)
        set_caller(secret)
        tenant = self._keys.tenant_of(secret)
        is_operator = self._is_operator(secret)
        if tenant is None and not is_operator and scope["path"] not in self._open_paths:
            await send_error(unauthenticated(), scope, send)
            return
        state = scope.setdefault("state", {})
        state["owner"] = _owner(tenant, secret)
        state["is_operator"] = is_operator
        await self._app(scope, receive, send)

    def _is_operator(self, secret: bytes | None) -> bool:
        """Where no key is needed at all, everybody is one."""
        if self._operator_keys.is_open:
            return self._keys.is_open
        return self._operator_keys.tenant_of(secret) is not None


def unauthenticated() -> ApiError:
    """The error of requests that show no key that is in force."""
    return ApiError(
        401,
        "The API key is missing or not valid. Send it as: Authorization: Bearer KEY.",
        kind="authentication_error",
        code="invalid_api_key",
    )


def _secret_of(scope: Scope) -> bytes | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    secret = bearer_secret([value for name, value in headers if name == b"authorization"])
    if secret is None and is_anthropic(scope["path"]):
        given = [value.strip() for name, value in headers if name == b"x-api-key"]
        secret = given[0] if len(given) == 1 else None
    return secret


def _owner(tenant: str | None, secret: bytes | None) -> str:
    """Whose the stored objects are. Where no key is needed, those of a key are still that key's alone."""
    if tenant is None:
        return _OPERATOR
    if tenant or secret is None:
        return tenant
    return f"/{hashlib.sha256(secret).hexdigest()}"
