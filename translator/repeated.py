"""What an answer repeats of its prompts: counted when a generation begins, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from translator.errors import ApiError
from translator.sse import encode_json

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2

# A request of some kilobytes may ask for 128 copies of a prompt that a million log probabilities describe. An
# answer of this size is written in a second or two, in a thread; a prompt of 32,768 tokens with all log
# probabilities that may be asked for takes 55 MB.
MAX_REPEATED_BYTES = 64 * 1024 * 1024
# What JSON takes for each, about.
LOGPROB_BYTES = 32
PROMPT_LOGPROB_BYTES = 80
_TOKEN_ID_BYTES = 8


class Repeated:
    """Counts what one answer repeats."""

    def __init__(self, num_choices: int, prompt_name: str) -> None:
        """Count for so many choices of each prompt; `prompt_name` is the parameter that has the prompts."""
        self._name = "n" if num_choices > 1 else prompt_name
        self._who = f"{num_choices} choices" if num_choices > 1 else "the answer"
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count more.

        Raises:
            ApiError: 400; it is too much for one answer.
        """
        self._num_bytes += num_bytes
        if self._num_bytes > MAX_REPEATED_BYTES:
            raise ApiError(
                400,
                f"{self._name}: {self._who} would repeat {self._num_bytes} bytes of the prompt;"
                f" expected at most {MAX_REPEATED_BYTES} in one answer.",
                param=self._name,
            )


def num_text_bytes(text: str) -> int:
    """What a text takes in JSON."""
    return len(encode_json(text))


def num_prompt_bytes(started: inference_pb2.Started) -> int:
    """What a prompt's text and token ids take in JSON, as far as they were asked for."""
    return num_text_bytes(started.prompt_text) + _TOKEN_ID_BYTES * len(started.prompt_token_ids)


def num_logprob_bytes(started: inference_pb2.Started, num_top: int | None, num_bytes_of_one: int) -> int:
    """What a prompt's log probabilities take with so many alternatives; None: nothing."""
    return 0 if num_top is None else len(started.prompt_logprobs) * (num_top + 1) * num_bytes_of_one
