"""Reads a model's text while it is still being written.

Parsers of formats are generators over a `Reader`. Where the text so far is not enough to go on, they yield,
and are resumed when there is more. So each reads like a parser of whole text, whatever the pieces are, and
looks at each character a bounded number of times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from server.stop_strings import StopStrings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    Result = TypeVar("Result")
    Steps = Generator[None, None, Result]


class Reader:
    """The text that has come and was not read yet."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._num_dropped = 0
        self._ended = False
        self._noted: list[str] | None = None

    @property
    def position(self) -> int:
        """How many characters were read."""
        return self._num_dropped + self._at

    @property
    def rest(self) -> str:
        """What has come and was not read."""
        return self._text[self._at :]

    def feed(self, text: str) -> None:
        """Add the next piece."""
        self._num_dropped += self._at
        self._text = self.rest + text
        self._at = 0

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True

    def note(self) -> None:
        """Keep what is read from now on, to give it back as text if need be."""
        self._noted = []

    def forget(self) -> None:
        """Stop keeping what is read."""
        self._noted = None

    def noted(self) -> str:
        """Return what was read since `note`, and stop keeping it."""
        noted = "".join(self._noted or ())
        self._noted = None
        return noted

    def read(self, count: int) -> str:
        """Read characters that are there."""
        text = self._text[self._at : self._at + count]
        self._at += len(text)
        if self._noted is not None:
            self._noted.append(text)
        return text

    def peek(self) -> Steps[str]:
        """Return the next character without reading it; empty at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def skip_space(self) -> Steps[None]:
        """Read white space."""
        while (yield from self.peek()).isspace():
            self.read(1)

    def take(self, literal: str) -> Steps[bool]:
        """Read a literal, if it is what comes next. Otherwise nothing is read."""
        while len(self._text) - self._at < len(literal):
            if self._ended or not literal.startswith(self.rest):
                return False
            yield
        if not self._text.startswith(literal, self._at):
            return False
        self.read(len(literal))
        return True

    def until(self, marks: Sequence[str], on_text: Callable[[str], None]) -> Steps[str]:
        """Read up to and including the first of some marks, and return it; empty at the end.

        Args:
            marks: none empty. With none, all is read.
            on_text: takes the text before the mark, as soon as it is certain.
        """
        finder = StopStrings(marks)
        while True:
            if (yield from self.peek()) == "":
                on_text(finder.flush())
                return ""
            released = finder.push(self.read(len(self._text) - self._at))
            on_text(released.text)
            if released.stop is not None:
                self._unread(len(released.rest))
                return released.stop

    def _unread(self, count: int) -> None:
        self._at -= count
        if self._noted is not None and count:
            self._noted[-1] = self._noted[-1][:-count]
