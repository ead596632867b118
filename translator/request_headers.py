"""What a request's headers, and the server's settings, have to say in its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from translator.errors import ApiError
from translator.requests import config_of, request_id_of
from translator.schema import StreamOptions

if TYPE_CHECKING:
    from starlette.requests import Request

    from translator.schema import GenerationOptions

PRIORITY_HEADER = "X-Vllm-Priority"
_INT32 = 2**31


def apply_headers(request: Request, options: GenerationOptions) -> None:
    """Bring the options, and the request's id, up to what the headers and the settings say.

    Raises:
        ApiError: 400; a header cannot be used. It names the header.
    """
    _settle_id(request, options)
    priority = request.headers.get(PRIORITY_HEADER)
    if priority is not None:
        options.priority = _parse_priority(priority)
    if options.stream and config_of(request).force_include_usage:
        options.stream_options = StreamOptions(include_usage=True, continuous_usage_stats=True)


def _settle_id(request: Request, options: GenerationOptions) -> None:
    """A usable id in the header wins over the body's."""
    has_header = request.headers.get("x-request-id") == request_id_of(request)
    if options.request_id is not None and not has_header:
        request.scope["state"]["request_id"] = options.request_id


def _parse_priority(text: str) -> int:
    digits = text.strip()
    if digits.removeprefix("-").isdecimal() and digits.isascii() and len(digits) <= 11:
        priority = int(digits)
        if -_INT32 <= priority < _INT32:
            return priority
    message = f"{PRIORITY_HEADER}: expected an integer of 32 bits, got {text[:40]!a}."
    raise ApiError(400, message, param=PRIORITY_HEADER)
