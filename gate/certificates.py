"""Certificates in files, which their owners replace while we run."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gate.watched_file import WatchedFiles

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
logger = logging.getLogger(__name__)


class CertificateError(Exception):
    """Files of certificates cannot be used; the text names them."""


class CertificateFiles(msgspec.Struct, frozen=True):
    """What one end of a TLS connection shows, and whom it trusts."""

    chain: Path
    """Its certificate, then those up to the root, in PEM."""
    key: Path
    authorities: Path | None = None
    """The roots whose certificates the other end must show; None: it need not show one."""

    @property
    def paths(self) -> list[Path]:
        """All of the files."""
        return [path for path in (self.chain, self.key, self.authorities) if path is not None]

    def show_in(self, context: ssl.SSLContext) -> None:
        """Let a context show the certificate.

        Raises:
            CertificateError: certificate and key cannot be read, or do not belong together.
        """
        try:
            context.load_cert_chain(self.chain, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise CertificateError(f"{self.chain}, {self.key}: cannot be used: {error}") from error

    def trust_in(self, context: ssl.SSLContext) -> None:
        """Let a context trust the authorities, if there are any.

        Raises:
            CertificateError: they cannot be read.
        """
        if self.authorities is None:
            return
        try:
            context.load_verify_locations(self.authorities)
        except OSError as error:
            raise CertificateError(f"{self.authorities}: cannot be used: {error}") from error

    def check(self) -> None:
        """Try the files.

        Raises:
            CertificateError: they cannot be read, or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.show_in(context)
        self.trust_in(context)


class WatchedCertificates:
    """Takes new files when they come."""

    def __init__(self, files: CertificateFiles, watched: WatchedFiles | None = None) -> None:
        self._files = files
        self._watched = watched or WatchedFiles(files.paths)

    def renew(self, use: Callable[[], T]) -> T | None:
        """Return what `use` makes of files that have come; None where there are none that can be used.

        Those that cannot are logged, and tried again.
        """
        if not self._watched.changed():
            return None
        try:
            self._files.check()
            used = use()
        except (CertificateError, OSError) as error:
            if self._watched.retry():
                logger.error("%s; the old certificates stay in force", error)
            return None
        logger.warning("%s: read again", self._files.chain)
        return used


def _no_password() -> bytes:
    raise ValueError("the key is encrypted")
