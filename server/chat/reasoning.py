"""Reasoning that a model writes before its answer, between marks: <think>…</think>."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.chat.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.chat.reader import Steps


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How a model marks its reasoning. White space next to a mark belongs to the mark."""

    name: str
    is_implied: bool
    """Whether an output that does not begin with the opening mark is reasoning all the same."""
    opening: str = "<think>"
    closing: str = "</think>"


DEEPSEEK_R1 = ReasoningFormat("deepseek_r1", is_implied=True)
QWEN3 = ReasoningFormat("qwen3", is_implied=False)
REASONING_FORMATS = {one.name: one for one in (DEEPSEEK_R1, QWEN3)} | {"deepseek-r1": DEEPSEEK_R1}
"""By the names that an operator may give."""


class Stage(enum.Enum):
    """Where the reasoning stands."""

    BEFORE = enum.auto()
    """Nothing has been said; it may begin."""
    WITHIN = enum.auto()
    """It has begun: the prompt ends with the opening mark, or the format implies it."""
    AFTER = enum.auto()
    """There is none, or no more."""


def stage_after(prompt: str, form: ReasoningFormat) -> Stage:
    """Where the reasoning stands at the end of a prompt: templates open it, and close it to forbid it."""
    prompt = prompt.rstrip()
    if prompt.endswith(form.closing):
        return Stage.AFTER
    return Stage.WITHIN if form.is_implied or prompt.endswith(form.opening) else Stage.BEFORE


class ReasoningReader:
    """Separates the reasoning from the answer."""

    def __init__(
        self,
        form: ReasoningFormat,
        stage: Stage,
        on_reasoning: Callable[[str], None],
        on_answer: Callable[[str], None],
        keeps_marks: bool = False,
    ) -> None:
        """Start at the end of a prompt.

        Args:
            form: how reasoning is marked.
            stage: where it stands.
            on_reasoning: takes reasoning that is certain, as soon as it is.
            on_answer: takes the answer in the same way.
            keeps_marks: whether the marks, and white space next to them, count as reasoning.
        """
        self.stage = stage
        self.start = 0
        """Where the reasoning starts in the output, in characters."""
        self.end: int | None = None
        """Where it ends; None until that is known."""
        self._form = form
        self._on_reasoning = on_reasoning
        self._on_answer = on_answer
        self._keeps_marks = keeps_marks
        self._space = ""
        self._reader = Reader()
        self._steps = self._read()
        next(self._steps)

    def push(self, text: str) -> None:
        """Take the next piece of the output."""
        self._reader.feed(text)
        next(self._steps)

    def flush(self) -> None:
        """Nothing more follows."""
        self._reader.end()
        next(self._steps, None)

    def _read(self) -> Steps[None]:
        reader = self._reader
        if self.stage is not Stage.AFTER:
            reader.note()
            yield from reader.skip_space()
            is_opened = yield from reader.take(self._form.opening)
            if is_opened or self.stage is Stage.WITHIN:
                self.start = reader.position if is_opened else 0
                yield from self._read_reasoning()
            else:
                self._on_answer(reader.noted())
        self.stage = Stage.AFTER
        self.end = self.start if self.end is None else self.end
        yield from reader.until([], self._on_answer)

    def _read_reasoning(self) -> Steps[None]:
        reader = self._reader
        before = reader.noted()
        self.stage = Stage.WITHIN
        if self._keeps_marks:
            self._on_reasoning(before)
            closing = yield from reader.until([self._form.closing], self._on_reasoning)
            self.end = reader.position - len(closing)
            self._on_reasoning(closing)
            return
        yield from reader.skip_space()
        closing = yield from reader.until([self._form.closing], self._give_reasoning)
        self.end = reader.position - len(closing)
        yield from reader.skip_space()

    def _give_reasoning(self, text: str) -> None:
        kept = text.rstrip()
        if kept:
            self._on_reasoning(self._space + kept)
            self._space = ""
        self._space += text[len(kept) :]
