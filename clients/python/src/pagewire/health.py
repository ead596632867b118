"""The standard health check, grpc.health.v1, without its generated stubs.

Its two messages are wire twins of protobuf's own wrappers: a string in field 1 asks for a service, an
enum in field 1 answers.
"""

from __future__ import annotations

from google.protobuf import wrappers_pb2

CHECK_METHOD = "/grpc.health.v1.Health/Check"
LIVE = "live"
"""The service that stands for the process alone, whatever its engine does."""
_SERVING = 1


def check_request(service: str) -> bytes:
    """Encode a HealthCheckRequest. The empty name asks for the server as a whole."""
    return wrappers_pb2.StringValue(value=service).SerializeToString()


def is_serving(response: bytes) -> bool:
    """Decode a HealthCheckResponse."""
    return wrappers_pb2.Int32Value.FromString(response).value == _SERVING
