"""API keys. A key's text is forgotten as soon as it is read; what is kept is its SHA-256."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 1 << 20
EXPECTED = "KEY or TENANT:KEY, of visible characters other than commas"

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-+\--~]{1,1024}")
_LITERAL = re.compile(r"[!-~]{1,1024}")
_DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")


class KeyFileError(Exception):
    """A file of keys cannot be used. The text names file and line, and no key."""


class Key(msgspec.Struct, frozen=True):
    """One key that opens the door."""

    tenant: str
    """Whose it is. A key without a name is a tenant by itself."""
    digest: bytes
    """The SHA-256 of its text."""

    def __repr__(self) -> str:
        return f"Key({self.tenant!r})"


class Secret(msgspec.Struct, frozen=True):
    """A key in full, for those who must show it themselves."""

    text: str
    """KEY or TENANT:KEY."""
    literal: str | None = None
    """The key itself, where `text` has its hash."""

    @property
    def key(self) -> Key:
        """What it opens doors as."""
        return parse_key(self.text)

    @property
    def shown(self) -> str | None:
        """What a caller shows: the key without its tenant; None where only its hash is known."""
        if self.literal is not None:
            return self.literal
        shown = self.text.strip().rpartition(":")[2]
        return None if _DIGEST.fullmatch(shown) else shown

    def __repr__(self) -> str:
        return "Secret(...)"


def parse_secret(text: str) -> Secret:
    """Read KEY or TENANT:KEY and keep it in full. Raises ValueError, without the key."""
    parse_key(text)
    return Secret(text)


def parse_literal(text: str) -> Secret:
    """Read a key that may hold colons and commas, and has no tenant. Raises ValueError, without the key."""
    if not _LITERAL.fullmatch(text):
        raise ValueError("one key, of visible characters")
    return Secret(f"sha256={digest_of(text.encode()).hex()}", text)


def digest_of(secret: bytes) -> bytes:
    """Return the SHA-256 of a key's text."""
    return hashlib.sha256(secret).digest()


def is_secret(secret: bytes) -> bool:
    """Whether this may be what a caller shows."""
    return bool(_LITERAL.fullmatch(secret.decode("latin-1")))


def is_tenant(name: str) -> bool:
    """Whether this may be a tenant's name."""
    return bool(_TENANT.fullmatch(name))


def parse_key(text: str) -> Key:
    """Read KEY or TENANT:KEY. KEY may be sha256=HEX, the key's hash instead of itself.

    Raises:
        ValueError: it says what is expected, without the key.
    """
    tenant, separator, secret = text.strip().rpartition(":")
    if not _SECRET.fullmatch(secret) or (separator and not _TENANT.fullmatch(tenant)):
        raise ValueError(EXPECTED)
    hashed = _DIGEST.fullmatch(secret)
    digest = bytes.fromhex(hashed[1]) if hashed else digest_of(secret.encode())
    return Key(tenant or f"key-{digest.hex()[:12]}", digest)


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys and keep their hashes. Raises KeyFileError."""
    return tuple(secret.key for secret in read_secrets(path))


def read_secrets(path: Path) -> tuple[Secret, ...]:
    """Read a file of keys: one a line, with comments after #. Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise KeyFileError(f"{path}: cannot be read: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")
    secrets = []
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                secrets.append(parse_secret(entry))
            except ValueError as error:
                raise KeyFileError(f"{path}: line {number}: expected {error}") from None
    if not secrets:
        raise KeyFileError(f"{path}: expected at least one key")
    return tuple(secrets)
