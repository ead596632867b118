"""TLS of the HTTP port."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from gate.certificates import WatchedCertificates

if TYPE_CHECKING:
    from gate.certificates import CertificateFiles
    from gate.watched_file import WatchedFiles

_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class HttpTls:
    """The context of all connections; new ones get the certificate that lies in the files then."""

    def __init__(
        self, files: CertificateFiles, cert_reqs: str = "required", watched: WatchedFiles | None = None
    ) -> None:
        """`cert_reqs` is of clients, where the files name authorities: required, optional or none.

        Raises:
            CertificateError: the files cannot be used.
        """
        self._files = files
        self._renewals = WatchedCertificates(files, watched)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        files.show_in(self.context)
        files.trust_in(self.context)
        if files.authorities is not None:
            self.context.verify_mode = _MODES[cert_reqs]

    def refresh(self) -> None:
        """Take new files, if there are some that can be used."""
        self._renewals.renew(lambda: self._files.show_in(self.context))
