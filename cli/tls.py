"""Flags for TLS on both doors, and for the clients of the gRPC one."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.flags import Flag, UsageError
from cli.values import choice, existing_file
from gate.certificates import CertificateError, CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

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
        UsageError: a flag is given without the certificate, or a file cannot be used.
    """
    chain, key, authorities = (
        values.get(f"{prefix}ssl_{name}") for name in ("certfile", "keyfile", "ca_certs")
    )
    flag = f"--{prefix.replace('_', '-')}ssl-"
    if chain is None:
        for name, value in (("keyfile", key), ("ca-certs", authorities)):
            if value is not None:
                raise UsageError(f"{flag}{name}: expected {flag}certfile beside it")
        return None
    files = CertificateFiles(chain, key or chain, authorities)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _naming(f"{flag}certfile"):
        files.show_in(context)
    with _naming(f"{flag}ca-certs"):
        files.trust_in(context)
    return files


def client_credentials(values: Mapping[str, Any]) -> grpc.ChannelCredentials | None:
    """Return what a client of the gRPC door shows and trusts; None without TLS.

    Raises:
        UsageError: a certificate without a key or without roots, or a file cannot be used.
    """
    if https_context(values) is None:
        return None
    from pagewire.channel import tls_credentials

    return tls_credentials(*(values.get(flag.field) for flag in CLIENT_TLS))


def https_context(values: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return a context that trusts `--grpc-ca-certs` for HTTPS too; None: the machine's own.

    Raises:
        UsageError: a certificate without a key or without roots, or a file cannot be used.
    """
    ca_certs, certfile, keyfile = (values.get(flag.field) for flag in CLIENT_TLS)
    if ca_certs is None:
        if certfile is not None or keyfile is not None:
            raise UsageError("--grpc-client-certfile: expected --grpc-ca-certs beside it")
        return None
    if (certfile is None) != (keyfile is None):
        raise UsageError("--grpc-client-certfile: expected --grpc-client-keyfile beside it")
    with _naming("--grpc-ca-certs"):
        context = _trusting(ca_certs)
    if certfile is not None and keyfile is not None:
        with _naming("--grpc-client-certfile"):
            CertificateFiles(certfile, keyfile).show_in(context)
    return context


def probe_context(files: CertificateFiles | None) -> ssl.SSLContext | None:
    """Return a context for one's own HTTPS port: it trusts and shows that certificate, by any name.

    Raises:
        CertificateError: the files cannot be used: they are being replaced, for example.
    """
    if files is None:
        return None
    context = _trusting(files.chain)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    files.show_in(context)
    return context


def _trusting(roots: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(roots))
    except OSError as error:
        raise CertificateError(f"{roots}: cannot be used: {error}") from error


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    """Blame a flag for files that cannot be used."""
    try:
        yield
    except CertificateError as error:
        raise UsageError(f"{flag}: {error}") from error
