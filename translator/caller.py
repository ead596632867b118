"""Who calls: the key that the request being served has shown, which goes on to the model server."""

from __future__ import annotations

from contextvars import ContextVar

from gate.keys import is_secret
from pagewire.errors import REQUEST_ID_KEY
from translator.traces import current_trace

# Tasks that a request starts, such as a response in the background, take it with them.
_secret: ContextVar[bytes | None] = ContextVar("caller_secret", default=None)


def set_caller(secret: bytes | None) -> None:
    """Note the key of the request that is served from now on. What can be no key is not passed on."""
    _secret.set(secret if secret is not None and is_secret(secret) else None)


def caller_metadata(request_id: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a gRPC call on the caller's behalf, and within its trace."""
    ids = () if request_id is None else ((REQUEST_ID_KEY, request_id),)
    secret, trace = _secret.get(), current_trace()
    keys = () if secret is None else (key_metadata(secret.decode()),)
    return (*ids, *keys, *(() if trace is None else trace.pairs))


def key_metadata(secret: str) -> tuple[str, str]:
    """Return the metadata that shows a key."""
    return "authorization", f"Bearer {secret}"
