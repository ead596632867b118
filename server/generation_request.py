"""A generation that was checked: what the rest of the server can rely on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from engine.messages import SamplingParams
    from server.chat.output_reader import OutputFormat
    from server.chat_tools import ToolUse
    from server.grammars import Grammar
    from server.prompts import Prompt, Truncation
    from server.reasoning_fields import ReasoningUse

_INT64 = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A checked request."""

    prompt: Prompt
    truncation: Truncation | None
    sampling: SamplingParams
    """Of choice 0. `max_tokens` is what was asked for; see `for_prompt`."""
    num_choices: int
    output: OutputFormat
    """What is looked for in the outputs. The prompt tells the stage of the reasoning; see `output_after`."""
    constraint: Grammar | None
    """What answers must look like."""
    tools: ToolUse
    reasoning: ReasoningUse | None
    """None: outputs are not looked through for reasoning."""
    length_penalty: float | None
    """Of beam search; None samples."""
    stop: tuple[str, ...]
    include_stop_text: bool
    skip_special_tokens: bool
    returns_token_ids: bool
    returns_prompt_token_ids: bool
    returns_prompt_text: bool
    min_delta_tokens: int
    priority: int
    queue_timeout_s: float | None
    cache_salt: str
    bypass_prefix_cache: bool

    def for_prompt(self, num_prompt_tokens: int, max_model_len: int) -> SamplingParams:
        """The sampling values of choice 0 once the prompt's length is known."""
        max_tokens = min(self.sampling.max_tokens, max_model_len - num_prompt_tokens)
        min_tokens = min(self.sampling.min_tokens, max_tokens)
        return msgspec.structs.replace(self.sampling, max_tokens=max_tokens, min_tokens=min_tokens)

    def for_choice(self, sampling: SamplingParams, index: int) -> SamplingParams:
        """The sampling values of one choice: choice i draws from seed + i, within int64.

        Choice 0 alone describes the prompt, the same for all; the others may read the prefix cache.
        """
        seed = (sampling.seed + index + _INT64 // 2) % _INT64 - _INT64 // 2
        num_prompt_logprobs = sampling.num_prompt_logprobs if index == 0 else None
        return msgspec.structs.replace(sampling, seed=seed, num_prompt_logprobs=num_prompt_logprobs)
