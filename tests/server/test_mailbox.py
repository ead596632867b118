from __future__ import annotations

import asyncio
import contextlib

import pytest

from engine.messages import FinishReason, RequestOutput, TokenLogprobs
from server.mailbox import Mailbox, merge


def output(*token_ids: int, end: FinishReason | None = None, cached: int | None = None) -> RequestOutput:
    logprobs = [TokenLogprobs(token_id, -0.5, 1, []) for token_id in token_ids]
    return RequestOutput("r", list(token_ids), logprobs, num_cached_tokens=cached, finish_reason=end)


class Aborts:
    """Counts its calls."""

    num = 0

    def __call__(self) -> None:
        self.num += 1


def test_merge_keeps_all_that_both_said() -> None:
    merged = merge(output(1, 2, cached=0), output(3, end=FinishReason.STOP))
    assert merged.token_ids == [1, 2, 3]
    assert [one.token_id for one in merged.logprobs] == [1, 2, 3]
    assert merged.num_cached_tokens == 0
    assert merged.finish_reason is FinishReason.STOP


async def test_outputs_that_come_while_the_reader_is_away_are_one() -> None:
    aborts = Aborts()
    mailbox = Mailbox(aborts)
    mailbox.put(output(1, cached=2))
    mailbox.put(output(2))
    outputs = mailbox.outputs()
    assert (await anext(outputs)).token_ids == [1, 2]
    mailbox.put(output(3))
    mailbox.put(output(end=FinishReason.LENGTH))
    last = await anext(outputs)
    assert (last.token_ids, last.finish_reason) == ([3], FinishReason.LENGTH)
    with pytest.raises(StopAsyncIteration):
        await anext(outputs)
    assert aborts.num == 0


async def test_an_error_comes_after_what_had_arrived() -> None:
    aborts = Aborts()
    mailbox = Mailbox(aborts)
    mailbox.put(output(1))
    mailbox.fail(KeyError("gone"))
    outputs = mailbox.outputs()
    assert (await anext(outputs)).token_ids == [1]
    with pytest.raises(KeyError):
        await anext(outputs)
    assert aborts.num == 0


@pytest.mark.parametrize("cancels", [True, False])
async def test_leaving_early_aborts(cancels: bool) -> None:
    aborts = Aborts()
    mailbox = Mailbox(aborts)
    mailbox.put(output(1))
    outputs = mailbox.outputs()
    await anext(outputs)
    if cancels:
        reading = asyncio.ensure_future(anext(outputs))
        await asyncio.sleep(0)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    else:
        await outputs.aclose()
    assert aborts.num == 1
