"""Flags for TLS on both doors, and for the clients of the gRPC one."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from cli.flags import Flag, UsageError
from cli.values import choice, existing_file
from gate.certificates import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc


def _file(name: str, help_text: str) -> Flag:
    return Flag(name=name, field=name.replace("-", "_"), help=help_text, parse=existing_file, metavar="FILE")


GRPC_TLS = (
    _file("grpc-ssl-certfile", "The gRPC ports' certificate, in PEM: they speak TLS. Read when it changes."),
    _file("grpc-ssl-keyfile", "Its key, if it is in a file of its own."),
    _file("grpc-ssl-ca-certs", "Roots of clients: each must show a certificate of theirs."),
)
HTTP_TLS = (
    _file("ssl-certfile", "The HTTP port's certificate, in PEM: it speaks TLS. Read when it changes."),
    _file("ssl-keyfile", "Its key, if it is in a file of its own."),
    _file("ssl-ca-certs", "Roots of clients, which must show a certificate of theirs."),
    Flag(
        name="ssl-cert-reqs",
        field="ssl_cert_reqs",
        help="With --ssl-ca-certs: whether a client's certificate is required, optional, or none.",
        parse=choice(
            {"none": "none", "optional": "optional", "required": "required", "0": "none", "1": "optional",
             "2": "required"}
        ),
        metavar="WHICH",
        default="required",
    ),
)  # fmt: skip
CLIENT_TLS = (
    _file("grpc-ca-certs", "Roots to trust: calls to the gRPC server use TLS."),
    _file("grpc-client-certfile", "Certificate to show to the gRPC server."),
    _file("grpc-client-keyfile", "Its key."),
)


def certificate_files(values: Mapping[str, Any], prefix: str) -> CertificateFiles | None:
    """Return what a listener shows, from the flags that begin with `prefix`; None without TLS.

    Raises:
        UsageError: a flag is given without the certificate.
    """
    chain, key, authorities = (
        values.get(f"{prefix}ssl_{name}") for name in ("certfile", "keyfile", "ca_certs")
    )
    if chain is None:
        for name, value in (("keyfile", key), ("ca-certs", authorities)):
            if value is not None:
                flag = f"--{prefix.replace('_', '-')}ssl-"
                raise UsageError(f"{flag}{name}: expected {flag}certfile beside it")
        return None
    return CertificateFiles(chain, key or chain, authorities)


def client_credentials(values: Mapping[str, Any]) -> grpc.ChannelCredentials | None:
    """Return what a client of the gRPC door shows and trusts; None without TLS.

    Raises:
        UsageError: a certificate without a key or without roots.
    """
    ca_certs, certfile, keyfile = (values.get(flag.field) for flag in CLIENT_TLS)
    if ca_certs is None:
        if certfile is not None or keyfile is not None:
            raise UsageError("--grpc-client-certfile: expected --grpc-ca-certs beside it")
        return None
    if (certfile is None) != (keyfile is None):
        raise UsageError("--grpc-client-certfile: expected --grpc-client-keyfile beside it")
    from pagewire.channel import tls_credentials

    return tls_credentials(ca_certs, certfile, keyfile)


def https_context(values: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return a context that trusts `--grpc-ca-certs` for HTTPS too; None: the machine's own."""
    ca_certs, certfile, keyfile = (values.get(flag.field) for flag in CLIENT_TLS)
    if ca_certs is None:
        return None
    context = ssl.create_default_context(cafile=str(ca_certs))
    if certfile is not None:
        context.load_cert_chain(certfile, keyfile)
    return context


def probe_context(files: CertificateFiles | None) -> ssl.SSLContext | None:
    """Return a context for one's own HTTPS port: it trusts and shows that certificate, by any name."""
    if files is None:
        return None
    context = ssl.create_default_context(cafile=str(files.chain))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    context.load_cert_chain(files.chain, files.key)
    return context
