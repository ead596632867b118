"""The keys that open a door now."""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING

from gate.keys import KeyFileError, digest_of, read_keys
from gate.watched_file import WatchedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gate.keys import Key

logger = logging.getLogger(__name__)


class KeyRing:
    """Keys given once, and those of a file, which is read again when it changes.

    A ring without keys and without a file is open: it lets everybody in, as the tenant "".
    """

    def __init__(
        self, keys: Sequence[Key] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file.

        Raises:
            KeyFileError: it cannot be used.
        """
        self._given = tuple(keys)
        self._file = file
        self._watched = WatchedFiles([] if file is None else [file], clock)
        self._keys = self._given + (() if file is None else read_keys(file))

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._keys

    def tenant_of(self, secret: bytes | None) -> str | None:
        """Return whose key this is; None if it opens nothing.

        How long this takes does not depend on how much of a key was guessed.
        """
        self._refresh()
        if self.is_open:
            return ""
        if not secret:
            return None
        digest = digest_of(secret)
        tenant = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                tenant = key.tenant
        return tenant

    def _refresh(self) -> None:
        """Take the keys of a file that has changed. If it cannot be used, the old keys stay in force."""
        if self._file is None or not self._watched.changed():
            return
        try:
            keys = read_keys(self._file)
        except KeyFileError as error:
            if self._watched.retry():
                logger.error("%s; the old keys stay in force", error)
            return
        self._keys = self._given + keys
        logger.warning("%s: read again; %d keys are in force", self._file, len(self._keys))
