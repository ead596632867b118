"""How the HTTP translator runs. Built once, at the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gate.certificates import CertificateFiles
    from gate.keys import Key, Secret


class Worker(msgspec.Struct, frozen=True):
    """Which one of a translator's processes this is. They share a port, and answer as one."""

    index: int
    count: int
    """At least 2."""
    folder: str
    """Its path: where they find each other. Nobody else may look into it."""

    @property
    def connections_file(self) -> Path:
        """Holds how many connections each of them has."""
        return Path(self.folder, "connections")

    def socket_of(self, index: int) -> str:
        """The gRPC target by which one of them is asked by the others."""
        return f"unix:{self.folder}/{index}"


class TranslatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one translator process."""

    worker: Worker | None = None
    """None: it is the only one."""
    grpc_target: str = "127.0.0.1:50051"
    """Where the gRPC server listens."""
    admin_target: str | None = None
    """Where its AdminService listens. None: adapters cannot be loaded over HTTP."""
    stats_target: str | None = None
    """Where to ask AdminService for the console's figures, and for nothing else. None: `admin_target`."""
    api_keys: tuple[Key, ...] = ()
    """With no key and no file of keys the door is open to all, as far as the model server lets them."""
    api_key_file: Path | None = None
    """A file of more keys, read again when it changes."""
    admin_secrets: tuple[Secret, ...] = ()
    """Operators' keys. The first one is shown to AdminService for the console's figures."""
    admin_api_key_file: Path | None = None
    tls: CertificateFiles | None = None
    """What the HTTP port shows, and whose certificates its clients show. None: clear text."""
    ssl_cert_reqs: str = "required"
    """Whether clients' certificates are required, optional or none, where `tls` names authorities."""
    grpc_ca_certs: Path | None = None
    """Roots of the gRPC server. None: it is called in clear text."""
    grpc_client_certfile: Path | None = None
    grpc_client_keyfile: Path | None = None
    otlp_traces_endpoint: str | None = None
    """The OpenTelemetry collector that spans are sent to. None: none are made."""
    open_metrics: bool = False
    """Whether /metrics is open to all."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    max_body_bytes: int = 4 * 1024 * 1024
    """A larger request body is refused with 413."""
    header_timeout_s: float = 10.0
    """How long a connection may take to send a request's headers, from the first byte on."""
    body_timeout_s: float = 30.0
    """How long a request's body may take. A body that no handler reads has as long, once it is answered."""
    keep_alive_s: int = 65
    """How long a connection may stay idle between requests: longer than load balancers keep theirs."""
    request_timeout_s: float = 600.0
    """Deadline of one request."""
    sse_keep_alive_s: float = 15.0
    """A comment is sent after this much silence in a stream. 0 sends none."""
    force_include_usage: bool = False
    """Whether every chunk of a stream holds the usage so far, asked for or not."""
    allowed_origins: tuple[str, ...] = ()
    """Origins that browsers may call from (CORS). Empty: none."""
    drain_timeout_s: float = 30.0
    """How long open requests may go on after SIGTERM."""
    response_store_size: int = 1024
    """Finished responses kept for later turns. 0 keeps none."""
    response_store_bytes: int = 64 * 1024 * 1024
    """What they may take together."""
    response_store_age_s: float = 86_400.0
    """How long a response is kept after its last use."""
