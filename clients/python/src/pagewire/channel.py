"""How a channel to the server is set up: keep-alive, message sizes, retries."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import grpc

from pagewire.errors import REQUEST_ID_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 600.0
MAX_RECEIVE_BYTES = 64 * 1024 * 1024

# The server's first message commits a call, and it is sent on admission: an UNAVAILABLE before it
# means that nothing ran. Nothing else is retried here.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "pagewire.v1.InferenceService"},
                    {"service": "pagewire.v1.ModelService"},
                ],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a peer that froze is found after a minute
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", _SERVICE_CONFIG),
)


def call_metadata(request_id: str | None, metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return a call's metadata, with a fresh request id where none is given."""
    return (
        (REQUEST_ID_KEY, request_id or uuid.uuid4().hex),
        *(() if metadata is None else metadata.items()),
    )


def with_key(metadata: Mapping[str, str] | None, api_key: str | None) -> Mapping[str, str] | None:
    """Return the metadata of all calls, with the key where there is one."""
    return metadata if api_key is None else {**(metadata or {}), "authorization": f"Bearer {api_key}"}


def tls_credentials(
    ca_certs: Path | None = None, certfile: Path | None = None, keyfile: Path | None = None
) -> grpc.ChannelCredentials:
    """Return a client's credentials for TLS, from files in PEM.

    Args:
        ca_certs: roots to trust. None: those that gRPC brings.
        certfile: the client's own certificate and those up to its root, where the server asks for one.
        keyfile: its key.

    Raises:
        OSError: a file cannot be read.
    """
    ca, key, chain = (None if path is None else path.read_bytes() for path in (ca_certs, keyfile, certfile))
    return grpc.ssl_channel_credentials(ca, key, chain)
