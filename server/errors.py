"""What callers can be told, and the one table that maps it to gRPC statuses.

ServiceError                    text that is safe for the caller
├── UnauthenticatedError        the key is missing or not valid
├── InvalidRequestError         fields that were refused
│   └── ContextLengthError      the prompt does not fit the context
├── NotFoundError               an unknown model, adapter or request
├── AlreadyExistsError          an adapter's name is in use
├── AdaptersOffError            the server takes no adapters
├── TooManyAdaptersError        no more adapters can be kept
├── TooManyWatchesError         no more watches of health can be served
├── UnsupportedByModelError     the model cannot do what is asked for
├── QueueFullError              too many requests wait
├── TenantLimitError            too many requests of one tenant are being served
├── SlowReaderError             the caller stopped reading its stream
├── NotReadyError               loading, restarting or draining; nothing ran
├── RequestLostError            the server could not run the request to its end
├── QueueTimeoutError           the request waited longer than it allows
├── AbortedByOperatorError      AdminService.AbortRequest
└── NumericalError              the model computed NaN or infinity
"""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from server.engine import EngineUnavailableError

DOMAIN = "pagewire"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

# Receivers refuse trailing metadata beyond 8 KiB. The message travels twice: percent-encoded, which may
# triple it, and within the details, which base64 lengthens by a third.
_MAX_MESSAGE_BYTES = 640
_MAX_VIOLATIONS_BYTES = 2048


class ServiceError(Exception):
    """Base of the errors whose text is written for the caller."""


@dataclass(frozen=True)
class Violation:
    """A refused field: its path, such as "spec.sampling.temperature", and what was expected."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


class UnauthenticatedError(ServiceError):
    """The caller shows no key that is in force."""


class InvalidRequestError(ServiceError):
    """Fields of the request were refused."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room in the context for an output."""


class NotFoundError(ServiceError):
    """The request names something that does not exist."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnsupportedByModelError(ServiceError):
    """The model is not of the kind that can do what is asked for."""


class AlreadyExistsError(ServiceError):
    """The name is in use."""


class AdaptersOffError(ServiceError):
    """The server was started without LoRA adapters."""


class TooManyAdaptersError(ServiceError):
    """As many adapters are loaded as may be."""


class TooManyWatchesError(ServiceError):
    """As many calls watch health as may."""


class QueueFullError(ServiceError):
    """Too many requests wait already."""


class TenantLimitError(ServiceError):
    """As many requests of the tenant are being served as may be."""


class SlowReaderError(ServiceError):
    """The caller does not read its stream."""


class NotReadyError(ServiceError):
    """No request can be taken now; nothing ran, so it may be tried again."""


class RequestLostError(ServiceError):
    """The request was accepted, but the server had to stop before its end."""


class QueueTimeoutError(ServiceError):
    """The request waited in the queue for longer than it allows."""


class AbortedByOperatorError(ServiceError):
    """An operator ended the request."""


class NumericalError(ServiceError):
    """The model computed values that are not numbers."""


@dataclass(frozen=True)
class _Rule:
    code: grpc.StatusCode
    reason: str
    retry_delay_s: int | None = None


_TABLE: dict[type[BaseException], _Rule] = {
    UnauthenticatedError: _Rule(grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY"),
    InvalidRequestError: _Rule(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ContextLengthError: _Rule(grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED"),
    NotFoundError: _Rule(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    UnsupportedByModelError: _Rule(grpc.StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_BY_MODEL"),
    AlreadyExistsError: _Rule(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
    AdaptersOffError: _Rule(grpc.StatusCode.FAILED_PRECONDITION, "ADAPTERS_OFF"),
    TooManyAdaptersError: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ADAPTERS"),
    TooManyWatchesError: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES"),
    QueueFullError: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay_s=1),
    TenantLimitError: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_LIMIT", retry_delay_s=1),
    SlowReaderError: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER"),
    NotReadyError: _Rule(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry_delay_s=1),
    RequestLostError: _Rule(grpc.StatusCode.UNAVAILABLE, "REQUEST_LOST"),
    EngineUnavailableError: _Rule(grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE"),
    QueueTimeoutError: _Rule(grpc.StatusCode.DEADLINE_EXCEEDED, "QUEUE_TIMEOUT"),
    AbortedByOperatorError: _Rule(grpc.StatusCode.CANCELLED, "ABORTED_BY_OPERATOR"),
    NumericalError: _Rule(grpc.StatusCode.INTERNAL, "NUMERICAL_ERROR"),
}
_UNEXPECTED = _Rule(grpc.StatusCode.INTERNAL, "INTERNAL")


@dataclass(frozen=True)
class Status:
    """A gRPC status as it goes on the wire."""

    code: grpc.StatusCode
    reason: str
    """A stable name of the cause, as in the details."""
    message: str
    details: bytes = field(repr=False)
    """A serialised google.rpc.Status."""
    retry_delay_s: int | None = None
    """How long to wait before trying again, where that may help."""


def is_expected(error: BaseException) -> bool:
    """Whether the table knows the error, so that it is the caller's or the operator's matter."""
    return type(error) in _TABLE


def status_of(error: BaseException, request_id: str) -> Status:
    """Return what the caller is told. Text of unexpected errors stays in our log."""
    rule = _TABLE.get(type(error), _UNEXPECTED)
    message = str(error) if is_expected(error) else f"internal error; request id {request_id}"
    message = message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
    status = status_pb2.Status(code=rule.code.value[0], message=message)
    reason = error.reason if isinstance(error, NotFoundError) else rule.reason
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"request_id": request_id})
    status.details.append(_pack(info))
    if rule.retry_delay_s is not None:
        delay = duration_pb2.Duration(seconds=rule.retry_delay_s)
        status.details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    if isinstance(error, InvalidRequestError):
        status.details.append(_pack(_bad_request(error.violations, _MAX_VIOLATIONS_BYTES)))
    return Status(rule.code, reason, message, status.SerializeToString(), rule.retry_delay_s)


def _bad_request(violations: list[Violation], max_bytes: int) -> error_details_pb2.BadRequest:
    """List the violations, the first ones where not all fit."""
    bad_request = error_details_pb2.BadRequest()
    for violation in violations:
        bad_request.field_violations.add(field=violation.field, description=violation.description)
        if bad_request.ByteSize() > max_bytes:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _pack(message: error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
