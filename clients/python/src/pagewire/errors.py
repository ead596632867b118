"""What a call can fail with.

PagewireError
├── InvalidRequestError      a field is malformed, out of range or not supported; see `.violations`
├── NotFoundError            no such model, adapter or request
├── AccessDeniedError        the credentials are missing or not enough
├── OverloadedError          the queue or a quota is full; wait `.retry_after_s`, then try again
├── UnavailableError         the server is loading, draining, lost or cannot be reached
├── DeadlineExceededError    the timeout passed first
├── RequestCancelledError    somebody ended the call: this client or an operator
└── InternalError            a fault of the server
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import grpc
from google.protobuf.message import DecodeError

from pagewire.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

REQUEST_ID_KEY = "x-request-id"
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One refused field."""

    field: str
    """Its path in the request, such as "spec.sampling.temperature"."""
    description: str
    """The value and what was expected."""


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a status carries beside its code and message."""

    reason: str = ""
    """A stable name of the cause, such as "QUEUE_FULL"; empty if the server gave none."""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    """Wait at least this long before trying again; None where a retry is not asked for."""
    request_id: str = ""


class PagewireError(Exception):
    """Base of all errors of a call."""

    def __init__(self, message: str, code: grpc.StatusCode, details: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details or ErrorDetails()

    @property
    def reason(self) -> str:
        """A stable name of the cause, in capitals; empty if the server gave none."""
        return self.details.reason

    @property
    def request_id(self) -> str:
        """The id under which the server knows the request; empty if it never answered."""
        return self.details.request_id

    @property
    def retry_after_s(self) -> float | None:
        """Wait at least this long before trying again; None where the server says nothing of it."""
        return self.details.retry_after_s


class InvalidRequestError(PagewireError):
    """A field of the request is malformed, out of range or not supported. Do not retry."""

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        details: ErrorDetails | None = None,
    ) -> None:
        super().__init__(message, code, details)

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """The refused fields."""
        return self.details.violations


class NotFoundError(PagewireError):
    """The server does not know the model, adapter or request."""


class AccessDeniedError(PagewireError):
    """The credentials are missing, wrong or not enough."""


class OverloadedError(PagewireError):
    """The server's queue or a quota is full. Retry only where `retry_after_s` is not None."""


class UnavailableError(PagewireError):
    """The server is loading, draining, lost or cannot be reached. A new attempt may succeed."""


class DeadlineExceededError(PagewireError):
    """The call's timeout, or its longest time in the queue, passed before it was done."""


class RequestCancelledError(PagewireError):
    """The call was ended by its caller or by an operator."""


class InternalError(PagewireError):
    """A fault of the server. The text is safe to show; the cause stands in the server's log."""


_ERROR_TYPES: dict[grpc.StatusCode, type[PagewireError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequestError,
    grpc.StatusCode.UNIMPLEMENTED: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: AccessDeniedError,
    grpc.StatusCode.PERMISSION_DENIED: AccessDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
}


def from_rpc_error(error: grpc.RpcError) -> PagewireError:
    """Return the typed error for one raised by grpc or grpc.aio."""
    code = error.code()
    # Pairs, whatever the stubs say: named tuples from grpc, plain ones from grpc.aio.
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    details = decode_details(metadata)
    return _ERROR_TYPES.get(code, InternalError)(error.details() or code.name, code, details)


def decode_details(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> ErrorDetails:
    """Read request id and google.rpc details from a call's trailing metadata.

    Details that cannot be decoded, and kinds of details that are not known here, are left out: a
    proxy may have written them.
    """
    metadata = dict(trailing_metadata)
    found: dict[str, Message] = {}
    encoded = metadata.get(_DETAILS_KEY)
    if isinstance(encoded, bytes):
        try:
            found = _unpack(errors_pb2.ErrorStatus.FromString(encoded))
        except DecodeError:
            found = {}
    info, retry, request = (found.get(name) for name in ("ErrorInfo", "RetryInfo", "BadRequest"))
    request_id = metadata.get(REQUEST_ID_KEY, "")
    return ErrorDetails(
        reason=info.reason if isinstance(info, errors_pb2.ErrorInfo) else "",
        violations=tuple(
            FieldViolation(violation.field, violation.description)
            for violation in (request.field_violations if isinstance(request, errors_pb2.BadRequest) else ())
        ),
        retry_after_s=(
            retry.retry_delay.ToTimedelta().total_seconds()
            if isinstance(retry, errors_pb2.RetryInfo)
            else None
        ),
        request_id=request_id if isinstance(request_id, str) else request_id.decode(errors="replace"),
    )


def _unpack(status: errors_pb2.ErrorStatus) -> dict[str, Message]:
    """Decode the known details, by name. They come under the type URLs of google.rpc."""
    known: dict[str, type[Message]] = {
        "ErrorInfo": errors_pb2.ErrorInfo,
        "RetryInfo": errors_pb2.RetryInfo,
        "BadRequest": errors_pb2.BadRequest,
    }
    found: dict[str, Message] = {}
    for detail in status.details:
        package, _, name = detail.type_url.rpartition("/")[2].rpartition(".")
        if package == "google.rpc" and name in known:
            found[name] = known[name].FromString(detail.value)
    return found
