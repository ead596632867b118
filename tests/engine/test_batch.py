from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.batch import Batch
from engine.messages import SamplingParams
from engine.step import Admission, Chunk, StepPlan

BLOCK_SIZE = 4
MAX_LEN = 40
SAMPLING = SamplingParams(max_tokens=1)


def blocks_for(row: int) -> tuple[int, ...]:
    """Blocks in an order that no formula could guess."""
    return tuple(100 * row + (7 * column) % 11 for column in range(-(-MAX_LEN // BLOCK_SIZE)))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 19)), min_size=1, max_size=6))
def test_inputs_say_where_each_token_is(sizes: list[tuple[int, int]]) -> None:
    batch = Batch(8, MAX_LEN, BLOCK_SIZE, torch.device("cpu"))
    sizes.sort(key=lambda size: size[1] > 1)
    rows = [7 - index for index in range(len(sizes))]
    admissions = tuple(
        Admission(row, [1000 * row + position for position in range(MAX_LEN)], 1, SAMPLING) for row in rows
    )
    chunks = tuple(
        Chunk(row, start, length, blocks_for(row), samples=True)
        for row, (start, length) in zip(rows, sizes, strict=True)
    )
    batch.apply(StepPlan((), admissions, chunks))
    inputs = batch.inputs(chunks)
    forward, attention = inputs.forward, inputs.forward.attention

    places = [
        (row, position)
        for row, (start, length) in zip(rows, sizes, strict=True)
        for position in range(start, start + length)
    ]
    assert forward.token_ids.tolist() == [1000 * row + position for row, position in places]
    assert forward.positions.tolist() == [position for _, position in places]
    assert forward.slots.tolist() == [
        blocks_for(row)[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
        for row, position in places
    ]
    assert inputs.rows.tolist() == rows
    assert inputs.ends.tolist() == attention.context_lens.tolist() == attention.context_lens_list
    assert [places[index] for index in inputs.last_tokens.tolist()] == [
        (row, end - 1) for row, end in zip(rows, attention.context_lens_list, strict=True)
    ]
    assert attention.query_start.diff().tolist() == attention.query_lens == [length for _, length in sizes]
    assert attention.query_start[0] == 0
    assert attention.num_decodes == sum(length == 1 for _, length in sizes)
    width = attention.block_tables.shape[1]
    assert width == -(-max(attention.context_lens_list) // BLOCK_SIZE)
    assert attention.block_tables.tolist() == [list(blocks_for(row)[:width]) for row in rows]


def test_a_row_can_be_released_and_taken_in_one_plan() -> None:
    batch = Batch(1, MAX_LEN, BLOCK_SIZE, torch.device("cpu"))
    first, second = Admission(0, [1, 2, 3], 3, SAMPLING), Admission(0, [4, 5], 1, SAMPLING)
    batch.apply(StepPlan((), (first,), (Chunk(0, 0, 3, (9,), samples=True),)))
    chunk = Chunk(0, 0, 2, (3,), samples=True)
    batch.apply(StepPlan((0,), (second,), (chunk,)))
    inputs = batch.inputs([chunk])
    assert inputs.forward.token_ids.tolist() == [4, 5]
    assert inputs.forward.slots.tolist() == [12, 13]
    assert batch.row(0).num_prompt_tokens == 1


def test_a_sampled_token_is_the_next_input() -> None:
    batch = Batch(2, MAX_LEN, BLOCK_SIZE, torch.device("cpu"))
    chunk = Chunk(1, 0, 2, (3,), samples=True)
    batch.apply(StepPlan((), (Admission(1, [4, 5], 2, SAMPLING),), (chunk,)))
    inputs = batch.inputs([chunk])
    batch.append(inputs.rows, inputs.ends, torch.tensor([77]))
    assert batch.inputs([Chunk(1, 2, 1, (), samples=True)]).forward.token_ids.tolist() == [77]
