"""What goes wrong, as OpenAI's error object: one table from gRPC statuses to HTTP."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import msgspec

from pagewire.errors import from_rpc_error as typed_error
from translator.fields import parameter_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from pagewire.errors import PagewireError
    from translator.fields import Endpoint

log = logging.getLogger("translator")

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


class ClientDisconnectedError(Exception):
    """The HTTP client has gone; there is nobody to answer."""


class ApiError(Exception):
    """An error that the HTTP client is told about. Nothing in it may show our internals."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Describe the error.

        Args:
            status: the HTTP status.
            message: for the caller's developer to read.
            kind: OpenAI's `type`.
            param: the refused parameter, under OpenAI's name.
            code: a stable name of the cause.
            retry_after_s: wait at least this long before a new attempt.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def is_overload(self) -> bool:
        """Whether there was no room for the request, which may change."""
        return self.status == _OVERLOADED.status

    def body(self, request_id: str) -> bytes:
        """Encode OpenAI's error object. A fault of ours names the request, for the operator's log."""
        message = self.message
        if self.status >= 500:
            message = f"{message} (request id: {request_id})"
        error = {"message": message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> dict[str, str]:
        """The response's headers beside its length."""
        headers = {"content-type": "application/json"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        elif self.status == 408:
            headers["connection"] = "close"
        elif self.status == 401:
            headers["www-authenticate"] = "Bearer"
        elif self.status >= 500:
            headers["x-should-retry"] = "false"
        return headers


@dataclass(frozen=True, slots=True)
class _Answer:
    """How one gRPC status is answered."""

    status: int
    kind: str
    code: str | None
    message: str | None = None
    """Said where the server itself gave no reason; None says what the status says."""
    retry_after_s: int | None = None


_ANSWERS: dict[grpc.StatusCode, _Answer] = {
    grpc.StatusCode.INVALID_ARGUMENT: _Answer(400, INVALID_REQUEST, None),
    grpc.StatusCode.OUT_OF_RANGE: _Answer(400, INVALID_REQUEST, None),
    grpc.StatusCode.FAILED_PRECONDITION: _Answer(400, INVALID_REQUEST, None),
    grpc.StatusCode.ALREADY_EXISTS: _Answer(400, INVALID_REQUEST, None),
    grpc.StatusCode.NOT_FOUND: _Answer(404, INVALID_REQUEST, "model_not_found"),
    grpc.StatusCode.UNAUTHENTICATED: _Answer(
        401, "authentication_error", "invalid_api_key", "The API key is missing or not valid."
    ),
    grpc.StatusCode.PERMISSION_DENIED: _Answer(
        403, "permission_error", "permission_denied", "The API key does not allow this."
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _Answer(
        413, INVALID_REQUEST, "request_too_large", "The request is too large."
    ),
    grpc.StatusCode.UNAVAILABLE: _Answer(
        503, SERVER_ERROR, "unavailable", "The model server cannot be reached.", 1
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: _Answer(
        504, SERVER_ERROR, "deadline_exceeded", "The request was not done before its deadline."
    ),
    grpc.StatusCode.CANCELLED: _Answer(499, SERVER_ERROR, "cancelled", "The request was cancelled."),
    grpc.StatusCode.UNIMPLEMENTED: _Answer(
        501, SERVER_ERROR, "not_implemented", "The model server does not implement this."
    ),
}
_FAULT = _Answer(
    500, SERVER_ERROR, "internal_error", "The server had an error while processing your request."
)
# Reasons that say no more than the HTTP status does.
_PLAIN_REASONS = {"INVALID_REQUEST": None, "INTERNAL": "internal_error"}
_FAULTS_OF_THE_MODEL = ("model_not_found", "unsupported_by_model")
_OVERLOADED = _Answer(429, "rate_limit_error", "overloaded", "The server is busy.", 1)


def from_rpc_error(error: grpc.aio.AioRpcError, endpoint: Endpoint, given: Collection[str] = ()) -> ApiError:
    """Return the HTTP error for a failed call of a route, whose request has the fields `given`."""
    failure = typed_error(error)
    answer = _ANSWERS.get(failure.code, _FAULT)
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_after_s is not None:
        answer = _OVERLOADED
    if answer is _FAULT:
        log.error("request %s failed: %s: %s", failure.request_id, failure.code.name, failure.message)
    # A library writes addresses and internals into its statuses; our server adds a reason to its own.
    said_by_server = bool(failure.reason) or answer.message is None
    message = failure.message if said_by_server else answer.message
    param = None
    code = _PLAIN_REASONS.get(failure.reason, failure.reason.lower()) or answer.code
    if failure.details.violations:
        message, param = _describe(failure, endpoint, given)
    elif code in _FAULTS_OF_THE_MODEL:
        param = "model"
    retry_after_s = answer.retry_after_s
    if retry_after_s is not None and failure.retry_after_s is not None:
        retry_after_s = max(1, math.ceil(failure.retry_after_s))
    return ApiError(
        answer.status,
        message or "",
        kind=answer.kind,
        param=param,
        code=code,
        retry_after_s=retry_after_s,
    )


def deadline_exceeded() -> ApiError:
    """The error of requests whose time is up."""
    answer = _ANSWERS[grpc.StatusCode.DEADLINE_EXCEEDED]
    return ApiError(answer.status, answer.message or "", kind=answer.kind, code=answer.code)


def shutting_down() -> ApiError:
    """The error of requests that a stopping translator refuses or ends."""
    return ApiError(
        503, "The server is shutting down.", kind=SERVER_ERROR, code="shutting_down", retry_after_s=1
    )


def internal_error() -> ApiError:
    """The error that stands for a fault of ours."""
    return ApiError(_FAULT.status, _FAULT.message or "", kind=_FAULT.kind, code=_FAULT.code)


def _describe(failure: PagewireError, endpoint: Endpoint, given: Collection[str]) -> tuple[str, str | None]:
    """Name the refused fields as the HTTP API calls them. The whole of a request has no name in it."""
    named = [
        (None if violation.field == "spec" else parameter_of(violation.field, endpoint, given), violation)
        for violation in failure.details.violations
    ]
    texts = [f"{name}: {each.description}" if name else each.description for name, each in named]
    return "; ".join(texts), named[0][0]
