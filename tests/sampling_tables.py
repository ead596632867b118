"""Tables of rows that ask for all kinds of sampling, for tests of its kernels."""

from __future__ import annotations

import random

import torch

from kernels.sampling_state import EDITED, FILTERED, MASKED, PENALISED, REPORTED, SamplingState
from kernels.uniform import seed_keys

TEMPERATURES = (0.0, 1.0, 0.6, 2.0)


def make_state(num_rows: int, vocab: int, *, flags: int, seed: int = 0) -> SamplingState:
    """Return tables on the CPU, in which each row has some of the flags."""
    numbers = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    state = SamplingState.allocate(
        torch.tensor([TEMPERATURES[row % 4] for row in range(num_rows)]),
        seed_keys([seed + 1000 * row for row in range(num_rows)], torch.device("cpu")),
        torch.arange(num_rows) % 5 + 1,
        torch.full((num_rows, 12), -5, dtype=torch.int32),
        vocab,
    )
    info = torch.iinfo(torch.int32)
    state.masks.copy_(torch.randint(info.min, info.max, state.masks.shape, generator=generator))
    state.counts.copy_(torch.randint(-1, 3, state.counts.shape, generator=generator))
    state.edit_tokens.fill_(-1)
    state.listed.fill_(-1)
    for row in range(num_rows):
        asked = sum(flag.value for flag in (PENALISED, MASKED, EDITED, REPORTED) if numbers.random() < 0.6)
        asked |= FILTERED.value if state.temperatures[row] > 0 and numbers.random() < 0.7 else 0
        state.flags[row] = asked & flags
        state.penalties[row] = torch.tensor(
            numbers.choice(((1.3, 0.5, 0.7), (1.0, -0.5, 0.0), (0.8, 0.0, 0.3)))
        )
        state.filters[row] = torch.tensor(
            (numbers.choice((0, 1, 3, 50)), numbers.choice((1.0, 0.9, 0.3)), numbers.choice((0.0, 0.1, 0.5)))
        )
        token, other = numbers.randrange(vocab), numbers.randrange(vocab)
        state.edit_tokens[row, :2] = torch.tensor((token, token))  # a bias, and held back at first
        state.edit_values[row, :2] = torch.tensor((5.0, -torch.inf))
        state.restrained_until[row] = numbers.choice((0, 4))
        state.num_top[row] = min(vocab, numbers.choice((0, 1, 5)))
        state.listed[row, :2] = torch.tensor((token, other))
    return state


def moved(state: SamplingState, device: torch.device) -> SamplingState:
    """Return a copy on a device."""
    return SamplingState(*(each.clone().to(device) for each in state))
