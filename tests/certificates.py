"""A certificate authority of the tests, and files of certificates that it made."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

from gate.certificates import CertificateFiles

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """An authority and the folder of its files."""

    ca: trustme.CA
    folder: Path

    @property
    def roots(self) -> Path:
        """Its own certificate."""
        path = self.folder / "roots.pem"
        self.ca.cert_pem.write_to_path(path)
        return path

    def issue(
        self,
        name: str,
        *identities: str,
        not_after: datetime.datetime | None = None,
        authorities: Path | None = None,
    ) -> CertificateFiles:
        """Write a certificate and its key, over those of that name, as an operator's tool does."""
        made = self.ca.issue_cert(*(identities or ("127.0.0.1", "localhost")), not_after=not_after)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        made.private_key_pem.write_to_path(key)
        made.cert_chain_pems[0].write_to_path(chain)
        return CertificateFiles(chain, key, authorities)


def authority(folder: Path) -> Authority:
    """Make an authority."""
    folder.mkdir(exist_ok=True)
    return Authority(trustme.CA(), folder)


LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
