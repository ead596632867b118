"""The message of one choice: text, reasoning and tool calls, put into deltas as they become certain."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from server.chat.output_reader import OutputReader
from server.chat.pieces import CallArguments, CallStart, ReasoningText, Text
from server.gathered import CallFragment

if TYPE_CHECKING:
    from server.chat.output_reader import OutputFormat
    from server.chat.pieces import Piece
    from server.gathered import Gathered


class ChoiceMessage:
    """Reads one choice's text."""

    def __init__(self, form: OutputFormat, excludes_reasoning: bool) -> None:
        """`excludes_reasoning` leaves reasoning out of the deltas."""
        self.token_starts: list[int] = []
        """The place of each token's first character in the text, for the count of reasoning tokens."""
        self._form = form
        self._excludes_reasoning = excludes_reasoning
        self._reader = OutputReader(form)
        self._num_calls = 0

    @property
    def has_calls(self) -> bool:
        """Whether a tool was called."""
        return self._num_calls > 0

    @property
    def is_within_call(self) -> bool:
        """Whether the last call lacks a part of its arguments."""
        return self._reader.is_within_call

    @property
    def num_reasoning_tokens(self) -> int:
        """How many tokens stand between the marks of the reasoning. One stands where it begins."""
        start, end = self._reader.reasoning_span
        if end is None:
            end = self.token_starts[-1] + 1 if self._reader.is_reasoning and self.token_starts else 0
        return max(0, bisect_left(self.token_starts, end) - bisect_left(self.token_starts, start))

    def add(self, text: str, gathered: Gathered, is_last: bool) -> None:
        """Take the next text of the choice, and add what is certain to what was gathered."""
        for piece in self._reader.push(text):
            self._put(piece, gathered)
        if is_last:
            for piece in self._reader.flush():
                self._put(piece, gathered)

    def _put(self, piece: Piece, gathered: Gathered) -> None:
        match piece:
            case Text(text):
                gathered.text += text
            case ReasoningText(text):
                if not self._excludes_reasoning:
                    gathered.reasoning_text += text
            case CallStart(name):
                assert self._form.tools is not None, "only a tool format has calls"
                gathered.tool_calls.append(CallFragment(self._num_calls, self._form.tools.make_id(), name))
                self._num_calls += 1
            case CallArguments(text):
                _fragment(gathered, self._num_calls - 1).arguments += text


def _fragment(gathered: Gathered, index: int) -> CallFragment:
    """The gathered fragment of a call."""
    if not gathered.tool_calls or gathered.tool_calls[-1].index != index:
        gathered.tool_calls.append(CallFragment(index))
    return gathered.tool_calls[-1]
