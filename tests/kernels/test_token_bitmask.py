from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernels.token_bitmask import token_bitmask, token_bitmask_reference, token_bitmask_triton

if TYPE_CHECKING:
    from collections.abc import Callable


def random_masks(num_masks: int, vocab: int) -> torch.Tensor:
    info = torch.iinfo(torch.int32)
    return torch.randint(info.min, info.max, (num_masks, -(-vocab // 32)), dtype=torch.int32)


def is_allowed(masks: torch.Tensor, mask: int, token: int) -> bool:
    return bool(int(masks[mask, token // 32]) >> (token % 32) & 1)


def check(compute: Callable[..., None], device: torch.device, vocab: int, dtype: torch.dtype) -> None:
    logits = torch.randn(5, vocab).to(dtype)
    rows = torch.tensor([4, 0, 2])
    masks = random_masks(len(rows), vocab)
    actual = logits.to(device)
    compute(actual, rows.to(device), masks.to(device))
    expected = logits.clone()
    for mask, row in enumerate(rows.tolist()):
        for token in range(vocab):
            if not is_allowed(masks, mask, token):
                expected[row, token] = -torch.inf
    assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 31, 32, 300, 5000])
def test_forbidden_tokens_become_impossible(device: torch.device, vocab: int, dtype: torch.dtype) -> None:
    check(token_bitmask_triton, device, vocab, dtype)


@pytest.mark.parametrize("vocab", [1, 31, 32, 300])
def test_the_cpu_computes_the_same(vocab: int) -> None:
    check(token_bitmask_reference, torch.device("cpu"), vocab, torch.float32)
    check(token_bitmask, torch.device("cpu"), vocab, torch.float32)


def test_padded_rows_and_masks_keep_their_strides(device: torch.device) -> None:
    logits = torch.randn(2, 128, device=device)[:, :100]
    before = logits.clone()
    masks = torch.zeros(2, 16, dtype=torch.int32, device=device)[:, :4]
    token_bitmask_triton(logits, torch.tensor([1], device=device), masks[:1])
    assert torch.equal(logits[0], before[0])
    assert (logits[1] == -torch.inf).all()


def test_no_mask_changes_nothing(device: torch.device) -> None:
    logits = torch.randn(2, 40, device=device)
    before = logits.clone()
    empty = torch.empty(0, dtype=torch.int64, device=device)
    token_bitmask_triton(logits, empty, torch.empty(0, 2, dtype=torch.int32, device=device))
    assert torch.equal(logits, before)
