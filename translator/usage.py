"""Token counts of a request, as OpenAI reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagewire.v1 import inference_pb2


class UsageTally:
    """Counts the tokens of one request over all its prompts and choices, while they come."""

    def __init__(self, starts: Iterable[inference_pb2.Started] = ()) -> None:
        self._num_prompt = 0
        self._num_cached = 0
        self._num_completion = 0
        self._num_reasoning = 0
        for started in starts:
            self.add_prompt(started)

    def add_prompt(self, started: inference_pb2.Started) -> None:
        """Count the tokens of a prompt."""
        self._num_prompt += started.num_prompt_tokens
        self._num_cached += started.num_cached_tokens

    def add(self, num_tokens: int) -> None:
        """Count generated tokens."""
        self._num_completion += num_tokens

    def add_reasoning(self, usage: inference_pb2.Usage) -> None:
        """Count what only a finished generation tells."""
        self._num_reasoning += usage.num_reasoning_tokens

    def as_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {
            "prompt_tokens": self._num_prompt,
            "completion_tokens": self._num_completion,
            "total_tokens": self._num_prompt + self._num_completion,
            "prompt_tokens_details": {"cached_tokens": self._num_cached},
            "completion_tokens_details": {"reasoning_tokens": self._num_reasoning},
        }

    def encode(self) -> bytes:
        """Return the counts so far as JSON."""
        return msgspec.json.encode(self.as_dict())
