"""A model's output, taken apart while it comes: reasoning, text and tool calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.chat.pieces import Answer, ReasoningText, Text
from server.chat.reader import Reader
from server.chat.reasoning import ReasoningReader, Stage

if TYPE_CHECKING:
    from server.chat.pieces import Piece
    from server.chat.reasoning import ReasoningFormat
    from server.chat.tool_formats import ToolFormat

# Some steps cost time in proportion to the piece, so that pieces must not be long.
_MAX_PIECE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """What is looked for in an output."""

    tools: ToolFormat | None = None
    """None: no calls."""
    tool_names: frozenset[str] = frozenset()
    max_calls: int | None = None
    """Further calls are dropped. None keeps all."""
    is_forced: bool = False
    """Whether the answer is calls alone, and has no text."""
    reasoning: ReasoningFormat | None = None
    """None: no reasoning."""
    stage: Stage = Stage.BEFORE
    """Of the reasoning, at the end of the prompt."""
    separates_reasoning: bool = True
    """If not, reasoning and its marks are text."""

    @property
    def marks(self) -> frozenset[str]:
        """Texts that must not be dropped from the output as special tokens."""
        marks = self.tools.marks if self.tools else ()
        return frozenset(
            (*marks, self.reasoning.opening, self.reasoning.closing) if self.reasoning else marks
        )


class OutputReader:
    """Reads one output. How it is cut into pieces changes nothing but the pieces that come back."""

    def __init__(self, form: OutputFormat) -> None:
        self._form = form
        self._answer = Answer(form.max_calls, form.is_forced)
        self._pieces: list[Piece] = []
        self._calls = _CallReader(form, self._answer) if form.tools else None
        self._reasoning = (
            ReasoningReader(
                form.reasoning,
                form.stage,
                self._take_reasoning,
                self._take_answer,
                keeps_marks=not form.separates_reasoning,
            )
            if form.reasoning
            else None
        )

    @property
    def num_calls(self) -> int:
        """How many calls have begun."""
        return self._answer.num_calls

    @property
    def is_within_call(self) -> bool:
        """Whether the last call has begun and its arguments are not whole."""
        return self._answer.is_within_call

    @property
    def reasoning_span(self) -> tuple[int, int | None]:
        """Where the reasoning starts and ends, in characters of the output. The end is None until known."""
        return (self._reasoning.start, self._reasoning.end) if self._reasoning else (0, 0)

    @property
    def is_reasoning(self) -> bool:
        """Whether the reasoning has begun and not ended."""
        return self._reasoning is not None and self._reasoning.stage is Stage.WITHIN

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of the output and return what is certain."""
        for start in range(0, len(text), _MAX_PIECE):
            piece = text[start : start + _MAX_PIECE]
            if self._reasoning is not None:
                self._reasoning.push(piece)
            else:
                self._take_answer(piece)
        return self._pop()

    def flush(self) -> list[Piece]:
        """Return what was held back: nothing more follows."""
        if self._reasoning is not None:
            self._reasoning.flush()
        if self._calls is not None:
            self._calls.flush()
        return self._pop()

    def _take_reasoning(self, text: str) -> None:
        if text:
            self._pieces.append(ReasoningText(text) if self._form.separates_reasoning else Text(text))

    def _take_answer(self, text: str) -> None:
        if self._calls is None:
            if text:
                self._pieces.append(Text(text))
            return
        self._calls.push(text)
        self._pieces += self._answer.pop()

    def _pop(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces + self._answer.pop()


class _CallReader:
    """Runs the parser of a tool format."""

    def __init__(self, form: OutputFormat, answer: Answer) -> None:
        assert form.tools is not None
        self._answer = answer
        self._reader = Reader()
        self._steps = form.tools.parse(self._reader, answer, form.tool_names)
        next(self._steps)

    def push(self, text: str) -> None:
        if text:
            self._reader.feed(text)
            next(self._steps)

    def flush(self) -> None:
        self._reader.end()
        self._answer.is_held_back = True
        next(self._steps, None)
        self._answer.end()
