"""What a model's text is made of: text for the reader, reasoning, and tool calls."""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """Text of the answer."""

    text: str


class ReasoningText(NamedTuple):
    """Text of the reasoning."""

    text: str


class CallStart(NamedTuple):
    """The beginning of the next tool call."""

    name: str


class CallArguments(NamedTuple):
    """The next part of a call's arguments. Joined, they are JSON."""

    text: str


Piece = Text | ReasoningText | CallStart | CallArguments


class Answer:
    """Gathers the pieces of an answer.

    White space before, between and after calls belongs to their format, so it is dropped. Therefore white
    space is held back until something follows it. So does the beginning of a mark or of a further call that
    the end of the output cuts off.
    """

    def __init__(self, max_calls: int | None = None, is_forced: bool = False) -> None:
        """Start empty.

        Args:
            max_calls: calls beyond these are dropped. None keeps all.
            is_forced: whether the answer is calls alone. Text then is what a cut left of one, and is dropped.
        """
        self.num_calls = 0
        self.is_within_call = False
        """Whether the last call that was kept lacks a part of its arguments."""
        self.is_held_back = False
        """Whether text that comes now was held back until the end, as a mark or a call may begin with it."""
        self._max_calls = max_calls
        self._is_forced = is_forced
        self._follows_call = False
        self._pieces: list[Piece] = []
        self._space = ""

    def text(self, text: str) -> None:
        """Take text."""
        if self._is_forced or (self.is_held_back and self._follows_call):
            return
        kept = text.rstrip()
        if kept:
            self._pieces.append(Text(self._space + kept))
            self._space = ""
            self._follows_call = False
        self._space += text[len(kept) :]

    def start_call(self, name: str) -> None:
        """Take the name of the next call."""
        self._space = ""
        self._follows_call = False
        self.num_calls += 1
        if not self._is_dropped:
            self.is_within_call = True
            self._pieces.append(CallStart(name))

    def arguments(self, text: str) -> None:
        """Take a part of the last call's arguments."""
        if text and not self._is_dropped:
            self._pieces.append(CallArguments(text))

    def end_call(self) -> None:
        """The last call's arguments are whole."""
        self._follows_call = True
        if not self._is_dropped:
            self.is_within_call = False

    def end(self) -> None:
        """Nothing more follows."""
        if self._space and not self.num_calls:
            self._pieces.append(Text(self._space))
        self._space = ""

    def pop(self) -> list[Piece]:
        """Return the pieces since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    @property
    def _is_dropped(self) -> bool:
        return self._max_calls is not None and self.num_calls > self._max_calls
