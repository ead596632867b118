"""transformers' attention interface on the paged cache.

transformers' models call the attention function that their config names. Ours finds the step's inputs and
caches in a context variable, which `PagedPass.running` sets around a forward pass. The calls of a pass come
in a fixed order, and each has a cache.

A second function, the survey's, computes nothing and notes what each call asks for. It gets its masks from
transformers, and so learns which tokens each layer sees.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from engine.errors import ModelLoadError
from kernels.attention_variant import PLAIN, AttentionVariant
from kernels.fp8_quantize import FP8
from kernels.kv_write import kv_write
from kernels.paged_attention import paged_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from engine.forward_inputs import ForwardInputs
    from engine.kv_cache import LayerCache

PAGED, SURVEY = "pagewire_paged", "pagewire_survey"
KNOWN_ARGUMENTS = {
    *("scaling", "softcap", "s_aux", "dropout"),
    "sliding_window",  # the mask has it
    *("position_ids", "cache_position", "use_cache"),
}
"""What models pass to their attention function and is taken into account, or means nothing here."""


@dataclass(slots=True)
class PagedPass:
    """One forward pass over the cache."""

    inputs: ForwardInputs
    caches: Sequence[LayerCache]
    windows: Sequence[int | None]
    """Of each layer: tokens that a query sees at most."""
    _num_calls: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Give this pass to the attention calls of the block."""
        token = _paged_pass.set(self)
        try:
            yield
        finally:
            _paged_pass.reset(token)
        if self._num_calls != len(self.caches):
            raise RuntimeError(f"{self._num_calls} attention calls instead of {len(self.caches)} in a pass")

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
    ) -> Tensor:
        """Store and attend q, k and v, each [num_tokens, heads, head_dim]; returns the shape of q."""
        layer, self._num_calls = self._num_calls, self._num_calls + 1
        cache, window = self.caches[layer], self.windows[layer]
        dtype = v.dtype if cache.keys.dtype == FP8 else cache.keys.dtype  # some models turn in float32
        q, k, v = (each.to(dtype).contiguous() for each in (q, k, v))
        kv_write(k, v, cache.keys, cache.values, self.inputs.slots)
        is_plain = window is None and softcap is None and sinks is None
        variant = PLAIN if is_plain else AttentionVariant(window, softcap, sinks)
        return paged_attention(q, cache.keys, cache.values, self.inputs.attention, scale, variant)


_paged_pass: ContextVar[PagedPass] = ContextVar("paged_pass")


def attend_paged(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with query [1, num_heads, num_tokens, head_dim]; returns it with heads and tokens swapped.

    Whatever else may be passed, the survey has seen it.
    """
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    out = _paged_pass.get().attend(q, k, v, scale, softcap, s_aux)
    return out.unsqueeze(0).to(query.dtype), None


@dataclass(frozen=True, slots=True)
class SurveyedSizes:
    """What a token leaves in the KV cache."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


@dataclass(slots=True)
class Survey:
    """What a model's attention calls ask for.

    Raises ModelLoadError from within the model's forward pass, where the paged cache cannot give it.
    """

    reach: int
    """Longest sequence to look at, in tokens."""
    windows: list[int | None] = field(default_factory=list)
    """Of each call: tokens that a query sees at most; None sees all."""
    _shapes: list[tuple[int, int]] = field(default_factory=list)
    _masks: list[tuple[Tensor, int | None]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Give this survey to the attention calls of the block."""
        token = _survey.set(self)
        try:
            yield
        finally:
            _survey.reset(token)

    @property
    def sizes(self) -> SurveyedSizes:
        """What a token leaves in the KV cache.

        Raises:
            ModelLoadError: no layer asked for attention, or they differ.
        """
        if not self._shapes:
            raise ModelLoadError("it does not use transformers' attention interface")
        if len(set(self._shapes)) > 1:
            raise ModelLoadError("its layers have key/value heads of different numbers or sizes")
        return SurveyedSizes(len(self._shapes), *self._shapes[0])

    def note_mask(self, mask_function: Callable[..., Tensor], mask: Tensor) -> None:
        """Find out which tokens a mask lets through."""
        self._masks.append((mask, window_of(mask_function, self.reach, mask.device)))

    def note_call(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        """Note the shapes and the window of a call, all [1, heads, num_tokens, head_dim]."""
        if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
            raise ModelLoadError("queries, keys and values have heads of different sizes")
        if key.shape[1] != value.shape[1] or query.shape[2] != key.shape[2]:
            raise ModelLoadError("its attention mixes keys and values from elsewhere")
        windows = [window for known, window in self._masks if known is mask]
        if not windows:
            raise ModelLoadError("it does not take its attention mask from transformers' mask interface")
        self.windows.append(windows[0])
        self._shapes.append((key.shape[1], key.shape[3]))


_survey: ContextVar[Survey] = ContextVar("survey")


def survey_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Note a call, and return zeros."""
    others = sorted(
        name
        for name, value in arguments.items()
        if name not in KNOWN_ARGUMENTS and value is not None and value is not False
    )
    if others:
        raise ModelLoadError(f"its attention depends on {', '.join(others)}")
    if is_causal is False:
        raise ModelLoadError("its attention is not causal")
    _survey.get().note_call(query, key, value, attention_mask)
    return torch.zeros_like(query.transpose(1, 2)), None


def survey_mask(
    q_length: int, kv_length: int, mask_function: Callable[..., Tensor], device: torch.device, **_: Any
) -> Tensor:
    """Note which tokens a mask lets through, and return an object to know it by."""
    mask = torch.zeros(1, 1, q_length, kv_length, device=device)
    _survey.get().note_mask(mask_function, mask)
    return mask


def window_of(mask_function: Callable[..., Tensor], reach: int, device: torch.device) -> int | None:
    """Return how many tokens a query sees at most, None for all.

    Raises:
        ModelLoadError: the mask is something else than causal, with or without a sliding window.
    """
    last = reach - 1
    keys = torch.arange(reach, device=device)
    queries = torch.tensor(
        sorted({0, min(1, last), last // 3, last // 2, max(last - 1, 0), last}), device=device
    )
    queries = queries.unsqueeze(1)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    seen = mask_function(zero, zero, queries, keys).expand(len(queries), reach)
    window = int(seen[-1].sum())
    if not torch.equal(seen, (keys <= queries) & (keys > queries - window)):
        raise ModelLoadError("its attention mask is neither causal nor a sliding window")
    return window if window < reach else None


AttentionInterface.register(PAGED, attend_paged)
AttentionInterface.register(SURVEY, survey_attention)
AttentionMaskInterface.register(SURVEY, survey_mask)
