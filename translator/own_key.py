"""The key that the translator itself shows to AdminService."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gate.keys import KeyFileError, read_secrets
from gate.watched_file import WatchedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gate.keys import Secret


class OwnKey:
    """The first operator's key that is known in full: of those given, then of a file, which may change."""

    def __init__(
        self,
        given: Sequence[Secret] = (),
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file.

        Raises:
            KeyFileError: it cannot be used.
        """
        self._given = tuple(given)
        self._file = file
        self._watched = WatchedFiles([] if file is None else [file], clock)
        self._shown = self._find()

    @property
    def shown(self) -> str | None:
        """The key now; None where none is known, or their hashes alone."""
        if self._watched.changed():
            try:
                self._shown = self._find()
            except KeyFileError:  # the old keys stay in force, as the server says
                self._watched.retry()
        return self._shown

    def _find(self) -> str | None:
        secrets = self._given + (() if self._file is None else read_secrets(self._file))
        return next((secret.shown for secret in secrets if secret.shown is not None), None)
