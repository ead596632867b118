"""A sequence on its way through the engine: known tokens, and how many of them are computed.

There are no phases. A prompt in chunks, a decode step, a cache hit and a restart after preemption are
all `num_computed_tokens` catching up with the number of `token_ids`. Steps may be in flight: planned, and
their results not known. Then planning goes on from what they will have computed.
"""

from __future__ import annotations

from array import array
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from engine.block_pool import extend_keys
from engine.messages import FinishReason, Pooling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.account import Account
    from engine.messages import EngineRequest, SamplingParams, TokenLogprobs
    from engine.token_matcher import TokenMatcher

Rank = tuple[int, int, int]
"""Place in the order of service, see `waiting_queue.py`."""


class Request:
    """The mutable state of one sequence, owned by the engine's thread."""

    __slots__ = (
        "account",
        "adapter",
        "adapter_slot",
        "block_ids",
        "block_keys",
        "cache_salt",
        "deadline_s",
        "is_announced",
        "matcher",
        "max_num_tokens",
        "num_bypasses",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_expected_tokens",
        "num_planned_blocks",
        "num_planned_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "pooling",
        "prompt_logprobs",
        "rank",
        "request_id",
        "row",
        "sampling",
        "tenant",
        "token_ids",
        "uses_cache",
        "weight",
    )

    account: Account
    """Of its tenant, from the first time in the queue on."""

    def __init__(
        self,
        source: EngineRequest,
        rank: Rank,
        max_model_len: int,
        uses_cache: bool,
        matcher: TokenMatcher | None = None,
    ) -> None:
        assert source.prompt_token_ids, "the server refuses empty prompts"
        self.request_id = source.request_id
        self.sampling: SamplingParams = source.sampling
        self.pooling = source.pooling
        """Asks for a vector: nothing is sampled, and the sequence ends with its prompt."""
        self.tenant = source.tenant
        self.weight = source.weight
        self.deadline_s = source.deadline_s
        """When it is too late to begin, on the clock of `time.monotonic`."""
        self.adapter = source.adapter
        self.adapter_slot = 0
        """Where the adapter lies while the sequence holds its row; see `adapter_slots.py`."""
        self.cache_salt = f"{source.adapter}/{source.cache_salt}"
        self.uses_cache = uses_cache
        self.matcher = matcher
        """Follows the sequence's grammar, if it has one."""
        self.rank = rank
        """Lower is served earlier and preempted later. Unique."""
        self.token_ids = array("I", source.prompt_token_ids)
        """All known tokens: the prompt, then what was generated."""
        self.num_prompt_tokens = len(self.token_ids)
        self.max_num_tokens = min(self.num_prompt_tokens + self.sampling.max_tokens, max_model_len)
        if self.pooling is not None:
            self.max_num_tokens = self.num_prompt_tokens + 1
        """The sequence ends when it has this many tokens. The last one is never computed."""
        self.num_computed_tokens = 0
        self.num_planned_tokens = 0
        """Computed once the steps in flight are."""
        self.num_expected_tokens = self.num_prompt_tokens
        """Known once the steps in flight are computed: `token_ids`, and those that they sample."""
        self.row: int | None = None
        """Index into the runner's state; None while waiting."""
        self.block_ids: list[int] = []
        """Append-only while the sequence holds its row."""
        self.num_planned_blocks = 0
        """How many of `block_ids` the runner has been told."""
        self.block_keys: list[bytes] = []
        """Prefix-cache keys of the leading full blocks of known tokens, as far as they were needed."""
        self.num_cached_tokens = 0
        """Prompt tokens found in the cache at the first admission."""
        self.is_announced = False
        """Whether `num_cached_tokens` was reported."""
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.num_bypasses = 0
        """Sequences behind this one in the queue that were admitted before it."""
        self.num_preemptions = 0

    @property
    def num_unplanned_tokens(self) -> int:
        """Expected tokens that no step computes yet: 0 once the step that samples the last one is planned."""
        if self.num_expected_tokens >= self.max_num_tokens:
            return 0
        return self.num_expected_tokens - self.num_planned_tokens

    def is_too_late(self, clock: Callable[[], float]) -> bool:
        """Whether the sequence has not begun, and may not any more."""
        return self.deadline_s is not None and not self.num_preemptions and clock() >= self.deadline_s

    @property
    def is_held(self) -> bool:
        """Whether nothing can be planned until a token is known, and what its grammar lets follow."""
        if self.matcher is None:
            return False
        return self.num_expected_tokens > len(self.token_ids) or self.matcher.mask is None

    @property
    def ending(self) -> FinishReason | None:
        """Why the sequence's grammar ends it here."""
        return None if self.matcher is None else self.matcher.ending

    @property
    def is_in_flight(self) -> bool:
        """Whether a step computes tokens of this sequence now."""
        return self.num_planned_tokens > self.num_computed_tokens

    @property
    def reads_cache(self) -> bool:
        """Whether cached blocks may stand in for computing.

        Prompt log probabilities need all logits, and a mean needs all vectors.
        """
        needs_all_tokens = self.sampling.num_prompt_logprobs is not None or self.pooling is Pooling.MEAN
        return self.uses_cache and not needs_all_tokens

    def extend_block_keys(self, block_size: int, num_blocks: int) -> None:
        """Bring `block_keys` up to so many blocks, all full of known tokens."""
        extend_keys(self.block_keys, self.cache_salt, self.token_ids, block_size, num_blocks)

    def reusable_keys(self, block_size: int) -> Iterator[bytes]:
        """Yield the keys of the blocks that may come from the prefix cache, each made when it is asked for.

        The last known token is always computed, for its logits are needed.
        """
        if not self.reads_cache:
            return
        num_reusable = (len(self.token_ids) - 1) // block_size
        yield from islice(self.block_keys, num_reusable)
        for index in range(len(self.block_keys), num_reusable):
            self.extend_block_keys(block_size, index + 1)
            yield self.block_keys[index]

    def next_key(self, block_size: int) -> bytes | None:
        """Key of the block that is being computed; None where it has none yet, or never will."""
        index = self.num_computed_tokens // block_size
        if not self.uses_cache or (index + 1) * block_size > len(self.token_ids):
            return None
        self.extend_block_keys(block_size, index + 1)
        return self.block_keys[index]

    def plan(self, num_tokens: int) -> bool:
        """Let the next step compute so many tokens. Return whether it samples one."""
        self.num_planned_tokens += num_tokens
        samples = self.num_planned_tokens == self.num_expected_tokens and self.pooling is None
        self.num_expected_tokens += samples
        return samples

    def start(self, num_cached_tokens: int) -> None:
        """Begin after the tokens that the prefix cache holds."""
        self.num_computed_tokens = self.num_planned_tokens = num_cached_tokens

    def take_blocks(self) -> tuple[int, ...]:
        """Return the blocks that were added since the last call."""
        if self.num_planned_blocks == len(self.block_ids):
            return ()
        new_block_ids = tuple(self.block_ids[self.num_planned_blocks :])
        self.num_planned_blocks = len(self.block_ids)
        return new_block_ids

    def take_num_cached_tokens(self) -> int | None:
        """Return the cache hit of the first admission, once."""
        if self.is_announced:
            return None
        self.is_announced = True
        return self.num_cached_tokens

    def take_prompt_logprobs(self) -> list[TokenLogprobs] | None:
        """Return what the whole prompt brought, if that was asked for; from then on it is not."""
        if self.sampling.num_prompt_logprobs is None:
            return None
        self.sampling = msgspec.structs.replace(self.sampling, num_prompt_logprobs=None)
        return self.prompt_logprobs

    def append(self, token_id: int) -> tuple[FinishReason | None, int | None]:
        """Take in a generated token. Return whether it ends the sequence, and the stop token it is."""
        self.token_ids.append(token_id)
        if len(self.token_ids) - self.num_prompt_tokens > self.sampling.min_tokens:
            if token_id in self.sampling.eos_token_ids:
                return FinishReason.STOP, None
            if token_id in self.sampling.stop_token_ids:
                return FinishReason.STOP, token_id
        if len(self.token_ids) >= self.max_num_tokens:
            return FinishReason.LENGTH, None
        if self.matcher is not None:
            self.matcher.take(token_id)
        return None, None

    def restart(self) -> None:
        """Go back to nothing computed, after a preemption; the known tokens stay."""
        assert not self.is_in_flight, self.request_id
        self.num_preemptions += 1
        self.start(0)
        self.prompt_logprobs = []
