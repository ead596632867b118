"""What the scheduler decides and what the model runner answers: the two values of one step.

A running sequence holds a *row*: an index into the runner's per-sequence state (token ids, block
table, sampling parameters). The runner keeps that state up to date from the plans alone, and writes
each token that it samples into its row by itself, so a plan names only what changed. Plans are carried
out in their order, but the next may be made before the last one's result is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.messages import Pooling, SamplingParams, TokenLogprobs


class Admission(msgspec.Struct, frozen=True):
    """A sequence takes a row, for the first time or again after preemption."""

    row: int
    token_ids: Sequence[int]
    """All known tokens: the prompt, and what was generated before a preemption."""
    num_prompt_tokens: int
    sampling: SamplingParams
    adapter: int = 0
    """Id of the LoRA adapter; 0 is none."""
    adapter_slot: int = 0
    """Where that adapter lies on the device, from 1; what lay there before is used by no row. 0 is none."""
    pooling: Pooling | None = None
    """Asks for a vector instead of tokens."""


class Chunk(msgspec.Struct, frozen=True):
    """The tokens that one row computes in this step: positions [start, start + num_tokens)."""

    row: int
    start: int
    """The row's number of computed tokens, which is also the position of the chunk's first token."""
    num_tokens: int
    """At least 1."""
    new_block_ids: tuple[int, ...]
    """Appended to the row's block table before the step; includes prefix-cache hits on admission."""
    samples: bool
    """Whether the chunk reaches the row's last known token, so that a new token is sampled. Pooled rows
    sample none."""

    mask: bytes | None = None
    """Where the new token must follow a grammar: a bit for each token that may come."""


class StepPlan(msgspec.Struct, frozen=True):
    """One step. Released rows are given up before admissions are made; a row may be in both."""

    released_rows: tuple[int, ...]
    admissions: tuple[Admission, ...]
    chunks: tuple[Chunk, ...]
    """Rows are distinct. Single-token chunks come first."""


class SampledToken(msgspec.Struct, frozen=True):
    """The token sampled for one row, already written into the runner's state."""

    row: int
    token_id: int
    """-1 where the row's logits held NaN or +inf, or nothing finite, and -2 where all tokens were forbidden:
    the sequence must fail. Until its row is released, some other token stands in for it."""
    logprobs: TokenLogprobs | None = None


class StepResult(msgspec.Struct, frozen=True):
    """What a step computed."""

    sampled: tuple[SampledToken, ...]
    """One for each chunk with `samples`, in the plan's order."""
    prompt_logprobs: dict[int, list[TokenLogprobs]]
    """For rows that ask for them: those of the prompt tokens at positions start + 1 up to
    start + num_tokens, as far as they lie in the prompt."""
    embeddings: dict[int, bytes | None] = {}
    """For pooled rows whose last token was computed: the vector in float32; None where it is not finite."""
    busy_s: float | None = None
    """How long a GPU was at it, from its inputs to the copy of its tokens, in seconds; None on a CPU."""
