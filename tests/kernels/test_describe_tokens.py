from __future__ import annotations

import pytest
import torch
from sampling_tables import make_state, moved

from kernels.describe_tokens import Descriptions, describe_tokens_reference, describe_tokens_triton
from kernels.sampling_state import MAX_TOP, REPORTED, TILE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [3, 2 * TILE + 77])
def test_the_cpu_says_the_same(device: torch.device, vocab: int, dtype: torch.dtype) -> None:
    state = make_state(6, vocab, flags=0)
    state.flags.copy_(torch.tensor([REPORTED.value] * 5 + [0]))
    state.num_top.copy_(torch.tensor([0, 1, 3, min(vocab, 20), min(vocab, MAX_TOP), 3]))
    logits = (2 * torch.randn(7, vocab)).to(dtype)
    rows, token_ids = torch.tensor([4, 5, -1, 0, 3, 1, 2]), torch.tensor([0, 1, 2, -1, 2, vocab - 1, -2])
    actual, expected = Descriptions.allocate(7, device), Descriptions.allocate(7, torch.device("cpu"))
    describe_tokens_triton(
        logits.to(device), token_ids.to(device), rows.to(device), moved(state, device), actual
    )
    describe_tokens_reference(logits, token_ids, rows.clamp(min=0), state, expected)
    for seq, row in enumerate(rows.tolist()):
        if row < 0 or not state.flags[row]:
            continue
        count = int(state.num_top[row])
        assert actual.ranks[seq] == expected.ranks[seq]
        assert actual.top_ids[seq, :count].tolist() == expected.top_ids[seq, :count].tolist()
        for ours, theirs in (
            (actual.logprobs[seq], expected.logprobs[seq]),
            (actual.top_logprobs[seq, :count], expected.top_logprobs[seq, :count]),
            (actual.listed_logprobs[seq, :2], expected.listed_logprobs[seq, :2]),
        ):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)


def test_the_truth_is_the_logarithm_of_the_softmax() -> None:
    state = make_state(1, 50, flags=0)
    state.num_top.fill_(4)
    state.listed[0, :2] = torch.tensor([7, 9])
    logits, rows = torch.randn(1, 50), torch.zeros(1, dtype=torch.int64)
    logits[0, [11, 30]] = 5.0
    out = Descriptions.allocate(1, torch.device("cpu"))
    describe_tokens_reference(logits, torch.tensor([30]), rows, state, out)
    logprobs = logits.double().log_softmax(-1)[0]
    assert out.ranks.tolist() == [1]
    assert out.logprobs[0].item() == pytest.approx(float(logprobs[30]), abs=1e-5)
    assert out.top_ids[0, :2].tolist() == [11, 30]
    assert out.listed_logprobs[0, :2].tolist() == pytest.approx(logprobs[[7, 9]].tolist(), abs=1e-5)
