"""Error bodies: each family of routes has the shape that its clients read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from translator.errors import ApiError

_MESSAGES_PATH = "/v1/messages"

# Anthropic names an error's kind after its status; its clients choose their exception by the status.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    501: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: ApiError, request_id: str, path: str) -> bytes:
    """Encode an error as the clients of `path` read it: Anthropic's, or OpenAI's."""
    return anthropic_error(error, request_id) if is_anthropic(path) else error.body(request_id)


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return path == _MESSAGES_PATH or path.startswith(_MESSAGES_PATH + "/")


def anthropic_error(error: ApiError, request_id: str) -> bytes:
    """Encode Anthropic's error object."""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error")
    body = {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": request_id,
    }
    return msgspec.json.encode(body)
