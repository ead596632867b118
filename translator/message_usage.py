"""Token counts and stop reasons, as Anthropic reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from pagewire.v1.inference_pb2 import ChoiceEnd, Started, Usage


class MessageUsage:
    """Counts the tokens of one message while they come.

    Anthropic splits the prompt: `input_tokens` are those that were not read from its cache, which it uses
    only where a request marks a prefix. Our cache is always used; what it gave is split off for requests
    that mark one. Of all others the whole prompt counts, and equals what count_tokens says.
    """

    def __init__(self, started: Started, marks_cache: bool) -> None:
        self._num_cached = started.num_cached_tokens if marks_cache else 0
        self._num_input = started.num_prompt_tokens - self._num_cached
        self._num_output = 0
        self._num_reasoning = 0

    def add(self, num_tokens: int) -> None:
        """Count generated tokens."""
        self._num_output += num_tokens

    def finish(self, usage: Usage) -> None:
        """Count what only a finished generation tells."""
        self._num_reasoning = usage.num_reasoning_tokens

    def as_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {
            "input_tokens": self._num_input,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self._num_cached,
            "output_tokens": self._num_output,
            "output_tokens_details": {"thinking_tokens": self._num_reasoning},
        }


def stop_of(end: ChoiceEnd, started: Started, max_tokens: int, *, has_calls: bool) -> dict[str, Any]:
    """Return why the message stopped, and the stop sequence if one was found.

    A forced call ends as OpenAI has it, with STOP; here every call that is whole waits for its result.
    """
    sequence = end.stop_text if end.WhichOneof("matched") == "stop_text" else None
    match end.finish_reason:
        case inference_pb2.FINISH_REASON_TOOL_CALLS:
            reason = "tool_use"
        case inference_pb2.FINISH_REASON_LENGTH if started.max_tokens and started.max_tokens < max_tokens:
            reason = "model_context_window_exceeded"
        case inference_pb2.FINISH_REASON_LENGTH:
            reason = "max_tokens"
        case _ if has_calls and sequence is None:
            reason = "tool_use"
        case _:
            reason = "end_turn" if sequence is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": sequence}
