"""Compares a model on the paged cache with what transformers computes by itself.

A config does not say all that a model does with its tokens. So before a model of the general path serves, two
short sequences are computed in chunks, side by side, and their logits compared with those of whole sequences
under transformers' eager attention. A model that keeps state outside attention, counts positions by itself
or adds to its attention what we do not know, gives others.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from engine.batch import Batch
from engine.errors import ModelLoadError
from engine.kv_cache import KVCacheShape
from engine.messages import SamplingParams
from engine.step import Admission, Chunk, StepPlan

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.general import GeneralCausalLM

NUM_TOKENS = 24
BLOCK_SIZE = 4
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.1}
"""Length of the difference of two rows of logits, as a share of a row's length."""
MAX_SHARE_OF_OUTLIERS = 0.25
"""Rounding may send a token to another expert."""


@torch.inference_mode()
def check_against_eager(model: GeneralCausalLM, max_model_len: int) -> None:
    """Compare the model with itself.

    Raises:
        ModelLoadError: the paged cache gives other logits.
    """
    longer, shorter = min(NUM_TOKENS, max_model_len), min(NUM_TOKENS // 2, max_model_len)
    choose = random.Random(0)
    vocab = range(model.config.vocab_size)
    sequences = [choose.choices(vocab, k=length) for length in (longer, shorter)]
    device = next(model.parameters()).device
    expected = [model.eager_logits(torch.tensor(tokens, device=device)) for tokens in sequences]
    if any(logits.shape[1] != model.config.vocab_size for logits in expected):
        raise ModelLoadError(f"it has logits of other than its {model.config.vocab_size} tokens")
    found = torch.cat(paged_logits(model, sequences)).float()
    tolerance = TOLERANCES[expected[0].dtype]
    errors = relative_errors(found, torch.cat(expected).float())
    num_outliers = int((~(errors <= tolerance)).sum())
    if num_outliers > MAX_SHARE_OF_OUTLIERS * len(errors):
        raise ModelLoadError(
            f"on the paged cache, {num_outliers} of {len(errors)} tokens have other logits than transformers "
            f"gives (they differ by up to {errors.max().item():.2g} of their size)"
        )


def relative_errors(found: Tensor, expected: Tensor) -> Tensor:
    """Return for each row of logits [num_rows, vocab_size] how far it is off, up to an added constant."""
    expected = expected - expected.mean(1, keepdim=True)
    found = found - found.mean(1, keepdim=True)
    errors: Tensor = (found - expected).square().sum(1) / expected.square().sum(1)
    return errors.sqrt()


def paged_logits(model: GeneralCausalLM, sequences: list[list[int]]) -> list[Tensor]:
    """Compute two sequences in three steps: chunks beside each other, then a decode beside a chunk."""
    device = next(model.parameters()).device
    longest = max(len(tokens) for tokens in sequences)
    batch = Batch(len(sequences), longest, BLOCK_SIZE, device)
    blocks_each = -(-longest // BLOCK_SIZE)
    shape = KVCacheShape.of(model.kv_sizes, BLOCK_SIZE, model.empty_logits(1).dtype)
    caches = shape.allocate(len(sequences) * blocks_each, device)
    greedy = SamplingParams(max_tokens=1, temperature=0.0)
    admissions = tuple(Admission(row, tokens, len(tokens), greedy) for row, tokens in enumerate(sequences))
    longer, shorter = (len(tokens) for tokens in sequences)
    cuts = [(0, longer // 2, longer - 1, longer), (0, shorter - 1, shorter, shorter)]
    rows: list[list[Tensor]] = [[] for _ in sequences]
    for step in range(3):
        chunks = []
        for row in (1, 0):
            start, stop = cuts[row][step : step + 2]
            new = tuple(range(row * blocks_each, (row + 1) * blocks_each)) if start == 0 < stop else ()
            if stop > start:
                chunks.append(Chunk(row, start, stop - start, new, samples=False))
        chunks.sort(key=lambda chunk: chunk.num_tokens > 1)
        batch.apply(
            StepPlan(released_rows=(), admissions=admissions if step == 0 else (), chunks=tuple(chunks))
        )
        hidden = model(batch.inputs(chunks).forward, caches)
        logits = torch.split(model.project(hidden), [chunk.num_tokens for chunk in chunks])
        for chunk, part in zip(chunks, logits, strict=True):
            rows[chunk.row].append(part)
    return [torch.cat(parts) for parts in rows]
