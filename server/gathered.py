"""What a choice has brought and its reader has not taken yet, in little memory."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

_CALL_BYTES = 400


@dataclass(slots=True)
class CallFragment:
    """A part of a tool call. The first one of a call has its id and name."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Gathered:
    """Gathers until it is made a message. A message that grows keeps every text that it ever held."""

    __slots__ = ("_logprobs", "num_tokens", "reasoning_text", "text", "token_ids", "tool_calls")

    def __init__(self) -> None:
        self.num_tokens = 0
        self.text = ""
        self.reasoning_text = ""
        self.tool_calls: list[CallFragment] = []
        self.token_ids: array[int] | None = None
        self._logprobs = b""  # messages that hold nothing else, one after the other: read as one they are one

    def __bool__(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.num_tokens or self.text or self.reasoning_text or self.tool_calls)

    @property
    def num_bytes(self) -> int:
        """What it takes, about."""
        return (
            sys.getsizeof(self.text)
            + sys.getsizeof(self.reasoning_text)
            + sum(_CALL_BYTES + sys.getsizeof(call.arguments) for call in self.tool_calls)
            + sys.getsizeof(self.token_ids)
            + len(self._logprobs)
        )

    def add_token_ids(self, token_ids: Iterable[int]) -> None:
        """Add ids of tokens."""
        if self.token_ids is None:
            self.token_ids = array("I")
        self.token_ids.extend(token_ids)

    def add_logprobs(self, logprobs: Iterable[inference_pb2.TokenLogprob]) -> None:
        """Add the log probabilities of tokens."""
        self._logprobs += inference_pb2.ChoiceDelta(logprobs=logprobs).SerializeToString()

    def message(self, index: int) -> inference_pb2.ChoiceDelta:
        """Return it as the delta of a choice."""
        delta = inference_pb2.ChoiceDelta(
            index=index, num_tokens=self.num_tokens, text=self.text, reasoning_text=self.reasoning_text
        )
        if self.token_ids is not None:
            delta.token_ids.extend(self.token_ids)
        if self._logprobs:
            delta.MergeFromString(self._logprobs)
        for call in self.tool_calls:
            delta.tool_calls.add(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
        return delta
