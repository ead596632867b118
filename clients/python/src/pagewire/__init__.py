"""Client of the Pagewire inference service: `Client`, `AsyncClient`, and the errors they raise."""

from pagewire.aio import AsyncClient, AsyncStream
from pagewire.client import Client, Stream
from pagewire.embedding import EmbedOptions
from pagewire.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PagewireError,
    RequestCancelledError,
    UnavailableError,
)
from pagewire.options import Options

__all__ = [
    "AccessDeniedError",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "DeadlineExceededError",
    "EmbedOptions",
    "FieldViolation",
    "InternalError",
    "InvalidRequestError",
    "NotFoundError",
    "Options",
    "OverloadedError",
    "PagewireError",
    "RequestCancelledError",
    "Stream",
    "UnavailableError",
]
