"""The values that cross the pipe between the server and the engine process.

They are immutable, encoded as msgpack arrays, and equal in both processes: both run one version.
"""

from __future__ import annotations

import enum
from array import array
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    TokenIds = Sequence[int]
    """Any sequence may be sent. What arrives is an `array` of four-byte integers, see `channel.py`."""
else:
    TokenIds = array


class _Value(msgspec.Struct, frozen=True, array_like=True):
    """An immutable value with a compact encoding."""


class _Tagged(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An immutable value that says its own type, so that a union of them can be decoded."""


class SamplingParams(_Value, frozen=True):
    """How one sequence's tokens are chosen and when it ends, with every default filled in.

    The server has validated the ranges given in `inference.proto`.
    """

    max_tokens: int
    """Most tokens to generate, at least 1."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 keeps all tokens."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    """Together with a token's position it determines that token's random draw."""
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    """EOS and stop tokens cannot be chosen before this many tokens were generated."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end the sequence silently; empty where EOS is ignored."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the sequence and are reported as the match."""
    num_logprobs: int | None = None
    """How many most likely tokens to report beside the chosen one; None reports nothing."""
    num_prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""
    allowed_token_ids: tuple[int, ...] = ()
    """Only these may be chosen; empty allows all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not be generated: the last one is masked where the others precede it."""
    logprob_token_ids: tuple[int, ...] = ()
    """With `num_logprobs`: the tokens to report instead of the most likely ones."""


class Pooling(enum.Enum):
    """How the vectors of a sequence's tokens become one."""

    LAST = "last"
    MEAN = "mean"
    CLS = "cls"
    """The first token's."""


class EngineRequest(_Value, frozen=True):
    """One sequence to generate. A request for n choices is n of these."""

    request_id: str
    """Unique among live sequences."""
    prompt_token_ids: TokenIds
    sampling: SamplingParams
    priority: int = 0
    """Lower runs earlier."""
    cache_salt: str = ""
    """Sequences share cached blocks only with sequences of an equal salt."""
    bypass_prefix_cache: bool = False
    grammar: str = ""
    """What the output must look like: a grammar in llguidance's JSON notation that compiles. Empty: any."""
    adapter: int = 0
    """Id of a loaded LoRA adapter; 0 is the base model alone."""
    pooling: Pooling | None = None
    """Asks for an embedding instead of tokens."""
    tenant: str = ""
    """Whose it is. Tenants are served in turn, so that none of them waits for all that another one sent."""
    weight: float = 1.0
    """The tenant's share of the tokens is to those of others as their weights."""
    deadline_s: float | None = None
    """When it is too late to begin, on the clock that the processes of a machine share (`time.monotonic`)."""


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"
    """Ended by an Abort command."""
    EXPIRED = "expired"
    """Its deadline passed before it began."""
    COMPLETE = "complete"
    """Its grammar allows nothing more. No token says so: the last one belongs to the text."""
    FAILED = "failed"
    """Ended by an error; `RequestOutput.error` says which."""


class TokenLogprobs(_Value, frozen=True):
    """Log probabilities at one position, of the model's raw distribution."""

    token_id: int
    logprob: float
    rank: int
    """Place of `token_id` among all tokens, from 1."""
    top: list[tuple[int, float]]
    """The most likely (token id, log probability), best first."""


class RequestOutput(_Value, frozen=True):
    """What one step brought for one sequence.

    A sequence's outputs are: one that sets `num_cached_tokens` (it got its blocks), any number with
    tokens, and exactly one with a `finish_reason`. They may coincide.
    """

    request_id: str
    token_ids: list[int] = []
    """Includes the EOS or stop token that ended the sequence."""
    logprobs: list[TokenLogprobs] = []
    """One for each of `token_ids` if they were asked for."""
    num_cached_tokens: int | None = None
    """Set once, on admission: prompt tokens found in the prefix cache."""
    prompt_logprobs: list[TokenLogprobs] | None = None
    """Set once, with the first token: one for each prompt token but the first."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The member of `stop_token_ids` that ended the sequence."""
    error: str | None = None
    """A stable name of the error, where `finish_reason` is FAILED: "numerical_error", "request_too_large",
    "bad_grammar" (it does not compile or became too complex) or "no_token" (what the request allows has
    nothing in common)."""
    embedding: bytes | None = None
    """With the finish reason of a pooled sequence: its vector, not normalised, in little-endian float32."""
    began_s: float | None = None
    """Set with `num_cached_tokens`: when the first step that ran the sequence began, on the clock that the
    processes of a machine share (`time.monotonic`)."""


class EngineStats(_Value, frozen=True):
    """Gauges of this moment and counters since the engine started; see `admin.proto`."""

    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int = 0
    num_owned_blocks: int = 0
    num_cached_blocks: int = 0
    block_size: int = 0
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_prefix_query_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_finished: int = 0
    num_aborted: int = 0
    num_failed: int = 0


class EngineInfo(_Value, frozen=True):
    """What the engine loaded and measured."""

    architecture: str
    dtype: str
    device: str
    vocab_size: int
    max_model_len: int
    block_size: int
    num_blocks: int
    load_seconds: float
    num_step_weights: int = 0
    """Weights that a token is multiplied with."""
    step_weight_bytes: int = 0
    """Of these, in memory."""
    kv_bytes_per_token: int = 0
    can_generate: bool = True
    embedding_dimensions: int = 0
    """Components of the vectors that it pools; 0 where it pools none."""
    poolings: tuple[Pooling, ...] = ()
    """The ways of pooling that it knows, first its own."""
    normalizes_embeddings: bool = True
    """Whether its embeddings are meant to have length 1."""


# Commands, from the server to the engine.


class Vocabulary(_Tagged, frozen=True):
    """What the tokens stand for. Sent once, before any sequence with a grammar."""

    tokens: list[bytes]
    """By id; empty where there is none."""
    special_token_ids: list[int]
    """Marks for the model, which are no text."""
    eos_token_ids: list[int]
    """Tokens that may end a text where its grammar lets it end."""


class Submit(_Tagged, frozen=True):
    """Takes a sequence into the waiting queue."""

    request: EngineRequest


class Abort(_Tagged, frozen=True):
    """Ends a sequence and frees its blocks before the next step. Unknown ids are ignored."""

    request_id: str


class ResetPrefixCache(_Tagged, frozen=True):
    """Forgets all cached blocks that no running sequence owns."""


class LoadAdapter(_Tagged, frozen=True):
    """Reads a LoRA adapter into memory, beside the steps. AdapterLoaded or AdapterRefused answers."""

    adapter: int
    """Its id from now on: at least 1, and never given twice, so that it tells what cached blocks hold."""
    path: str
    """A folder in PEFT's format."""


class UnloadAdapter(_Tagged, frozen=True):
    """Forgets an adapter that no sequence uses any more."""

    adapter: int


class Shutdown(_Tagged, frozen=True):
    """Ends the engine process after the current step."""


Command = Vocabulary | Submit | Abort | ResetPrefixCache | LoadAdapter | UnloadAdapter | Shutdown

# Frames, from the engine to the server.


class Loading(_Tagged, frozen=True):
    """Progress of start-up."""

    stage: str
    """What is being done, for a person to read."""
    done: int
    total: int
    """Units (bytes or items) of the stage; 0 where unknown."""


class Ready(_Tagged, frozen=True):
    """The model is loaded and a forward pass has run."""

    info: EngineInfo


class StepWork(_Value, frozen=True):
    """What a step took."""

    num_tokens: int
    """Computed, of prompts and outputs."""
    host_s: float
    """What the engine's loop did since the last frame: following commands, planning, launching, sending."""
    device_s: float
    """How long it then waited for the step to end."""
    busy_s: float | None = None
    """How long a GPU was at the step; None on a CPU. See `engine/device_span.py`."""


class StepOutputs(_Tagged, frozen=True):
    """All that one step brought, and the state after it."""

    outputs: list[RequestOutput]
    stats: EngineStats
    work: StepWork | None = None
    """None where something ended without a step."""


class AdapterLoaded(_Tagged, frozen=True):
    """Sequences may name the adapter from now on."""

    adapter: int
    rank: int
    """Of its largest matrices."""


class AdapterRefused(_Tagged, frozen=True):
    """The adapter cannot be used. The text says why, for the operator who named it."""

    adapter: int
    message: str


class Heartbeat(_Tagged, frozen=True):
    """Sent about once a second, also while a step runs or the model loads: the process is alive."""

    stats: EngineStats


class FatalCause(enum.StrEnum):
    """What an engine may fail by, in words that anybody may read."""

    LOADING = "the model cannot be loaded"
    OUT_OF_MEMORY = "out of memory"
    DEVICE = "an error of the device"
    INTERNAL = "an internal error"


class Fatal(_Tagged, frozen=True):
    """The engine cannot go on; its process ends."""

    message: str
    """For the operator's log."""
    cause: FatalCause = FatalCause.INTERNAL


Frame = Loading | Ready | StepOutputs | AdapterLoaded | AdapterRefused | Heartbeat | Fatal
