"""TLS of the gRPC listeners."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import grpc

from gate.certificates import WatchedCertificates

if TYPE_CHECKING:
    from gate.certificates import CertificateFiles
    from gate.watched_file import WatchedFiles


def server_credentials(
    files: CertificateFiles, watched: WatchedFiles | None = None
) -> grpc.ServerCredentials:
    """Return credentials, for one port, that show what the files hold at each new connection.

    Where the files name authorities, a client must show a certificate of one of them.

    Raises:
        CertificateError: the files cannot be used.
    """
    files.check()
    renewals = WatchedCertificates(files, watched)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files),
        partial(renewals.renew, partial(_configuration, files)),  # type: ignore[arg-type] # the stub lacks None
        require_client_authentication=files.authorities is not None,
    )


def _configuration(files: CertificateFiles) -> grpc.ServerCertificateConfiguration:
    pair = files.key.read_bytes(), files.chain.read_bytes()
    roots = None if files.authorities is None else files.authorities.read_bytes()
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
