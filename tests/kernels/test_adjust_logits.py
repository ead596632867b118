from __future__ import annotations

import pytest
import torch
from sampling_tables import make_state, moved

from kernels.adjust_logits import adjust_logits_reference, adjust_logits_triton
from kernels.sampling_state import ADJUSTED, EDITED, MASKED, PENALISED, TILE


@pytest.mark.parametrize("flags", [PENALISED.value, MASKED.value, EDITED.value, ADJUSTED.value])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_adjusted_as_on_the_cpu(device: torch.device, dtype: torch.dtype, flags: int) -> None:
    """To the last bit, so that greedy rows choose the same."""
    vocab = TILE + 300
    state = make_state(4, vocab, flags=flags)
    state.flags.copy_(torch.tensor([flags, 0, flags, flags]))
    logits, rows = (3 * torch.randn(5, vocab)).to(dtype), torch.tensor([2, 1, -1, 0, 3])
    adjusted, raw_peaks = adjust_logits_triton(logits.to(device), rows.to(device), moved(state, device))
    computed = [0, 3, 4]
    expected = adjust_logits_reference(logits[computed], rows[computed], state)
    assert torch.equal(adjusted.cpu()[computed], expected)
    assert torch.equal(raw_peaks.cpu()[computed].amax(-1), logits[computed].float().amax(-1))


def test_one_row_by_hand() -> None:
    state = make_state(1, 6, flags=0)
    state.flags.fill_(ADJUSTED.value)
    state.penalties.copy_(torch.tensor([[2.0, 0.5, 0.25]]))
    state.counts.copy_(torch.tensor([[0, -1, 2, -1, 0, 1]]))
    state.masks.fill_(0b110111)
    state.edit_tokens[0, :3] = torch.tensor([0, 5, 4])
    state.edit_values[0, :3] = torch.tensor([3.0, 1.0, -torch.inf])
    state.restrained_until.fill_(2)
    logits = torch.tensor([[1.0, 4.0, 4.0, 4.0, 4.0, -1.0]])
    rows = torch.zeros(1, dtype=torch.int64)
    assert adjust_logits_reference(logits, rows, state).tolist() == [
        [4.0, 2.0, 1.0, -torch.inf, -torch.inf, -1.75]
    ]
    state.num_tokens.fill_(2)
    assert adjust_logits_reference(logits, rows, state)[0, 4] == 4.0
