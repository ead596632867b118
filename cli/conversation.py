"""A conversation with a model, printed as it comes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pagewire import Client
    from pagewire.v1 import inference_pb2

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Options(TypedDict, total=False):
    """What is asked of every answer."""

    max_tokens: int
    temperature: float


class Conversation:
    """The messages so far, and how to ask for the next."""

    def __init__(self, client: Client, system: str | None, options: Options) -> None:
        self._client = client
        self._options = options
        self._messages: list[Mapping[str, object]] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})

    def say(self, text: str) -> str:
        """Print the answer as it comes, and return a line of figures about it.

        An answer that is broken off by an error or by Ctrl-C is forgotten, with its question.

        Raises:
            PagewireError: the call failed.
        """
        messages: list[Mapping[str, object]] = [*self._messages, {"role": "user", "content": text}]
        answer = _Answer()
        try:
            with self._client.stream(messages=messages, **self._options) as stream:
                for event in stream:
                    for choice in event.delta.choices:
                        if choice.index == 0:
                            answer.take(choice)
        finally:
            answer.end_line()
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        assert stream.finished is not None
        return answer.figures(stream.finished.usage.num_completion_tokens)


class _Answer:
    """Text goes to standard output; reasoning, dimmed, to standard error where that is a terminal."""

    def __init__(self) -> None:
        self.text = ""
        self._num_tokens = 0
        self._start_s = time.perf_counter()
        self._first: tuple[float, int] | None = None
        self._open_line: TextIO | None = None

    def take(self, choice: inference_pb2.ChoiceDelta) -> None:
        """Print what is new."""
        self._num_tokens += choice.num_tokens
        if self._first is None and (choice.text or choice.reasoning_text):
            self._first = time.perf_counter(), self._num_tokens
        if choice.reasoning_text and sys.stderr.isatty():
            self._print(f"{_DIM}{choice.reasoning_text}{_PLAIN}", sys.stderr)
        if choice.text:
            self.text += choice.text
            self._print(choice.text, sys.stdout)

    def end_line(self) -> None:
        """Let what is printed next begin a line."""
        if self._open_line is not None:
            print(file=self._open_line, flush=True)
            self._open_line = None

    def figures(self, num_tokens: int) -> str:
        """Describe the pace of an answer that has just ended, as far as there was one."""
        figures = ["1 token" if num_tokens == 1 else f"{num_tokens} tokens"]
        if self._first is not None:
            first_s, num_first = self._first
            figures.insert(0, f"time to first token {first_s - self._start_s:.3f} s")
            if num_tokens > num_first:
                rate = (num_tokens - num_first) / (time.perf_counter() - first_s)
                figures.append(f"{rate:.1f} tokens/s")
        return ", ".join(figures)

    def _print(self, text: str, stream: TextIO) -> None:
        if self._open_line is not stream:
            self.end_line()
        print(text, end="", file=stream, flush=True)
        self._open_line = stream
