from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernels.decode_inputs import DecodeInputs, decode_inputs, decode_inputs_reference, decode_inputs_triton

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_ROWS = 9


def check(compute: Callable[..., None], block_size: int, max_blocks: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(block_size)
    max_tokens = block_size * max_blocks
    token_table = torch.randint(1000, (NUM_ROWS, max_tokens), generator=generator, dtype=torch.int32)
    block_table = torch.randint(99, (NUM_ROWS, max_blocks), generator=generator, dtype=torch.int32)
    num_tokens = torch.randint(1, max_tokens, (NUM_ROWS,), generator=generator)
    num_tokens[2], num_tokens[3], num_tokens[4] = 1, block_size, max_tokens
    rows = torch.tensor([4, 2, -1, 8, 3, -1])
    out = DecodeInputs.allocate(8, max_blocks, device).head(len(rows))
    for tensor in out:
        tensor.fill_(-7)
    tables = [each.to(device) for each in (rows, num_tokens, token_table, block_table)]
    compute(*tables, block_size, out)
    for seq, row in enumerate(rows.tolist()):
        if row < 0:
            assert out.slots[seq] == -1
            assert out.token_ids[seq] == out.positions[seq] == out.context_lens[seq] == 0
            continue
        context = int(num_tokens[row])
        block = int(block_table[row, (context - 1) // block_size])
        assert out.token_ids[seq] == token_table[row, context - 1]
        assert out.positions[seq] == context - 1
        assert out.slots[seq] == block * block_size + (context - 1) % block_size
        assert out.context_lens[seq] == context
        used = -(-context // block_size)
        assert out.block_tables[seq, :used].tolist() == block_table[row, :used].tolist()


SIZES = [(1, 5), (16, 3), (64, 300)]


@pytest.mark.parametrize(("block_size", "max_blocks"), SIZES)
def test_inputs_of_the_last_known_tokens(device: torch.device, block_size: int, max_blocks: int) -> None:
    check(decode_inputs_triton, block_size, max_blocks, device)


@pytest.mark.parametrize(("block_size", "max_blocks"), SIZES)
def test_inputs_on_the_cpu(block_size: int, max_blocks: int) -> None:
    check(decode_inputs_reference, block_size, max_blocks, torch.device("cpu"))
    check(decode_inputs, block_size, max_blocks, torch.device("cpu"))
