"""The generations of one request end together, whatever ends them and whoever reads them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from exposition import Scrape
from scripted_backend import delta, started

from pagewire.v1 import inference_pb2
from translator.errors import ApiError, deadline_exceeded
from translator.fields import Endpoint
from translator.generation_group import GenerationGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

QUIET = "quiet"


async def talk(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
    """Answers without an end, or is silent after its start."""
    yield started()
    if spec.text == QUIET:
        await asyncio.Event().wait()
    while True:
        yield delta("x")
        await asyncio.sleep(0.001)


async def begin(house: House, *prompts: str) -> GenerationGroup:
    generations = [
        house.backend.generate(inference_pb2.GenerationSpec(text=prompt), f"r-{index}", Endpoint.COMPLETIONS)
        for index, prompt in enumerate(prompts)
    ]
    group = GenerationGroup(generations, lambda _: None)
    assert len(await group.start()) == len(prompts)
    return group


def test_a_deadline_in_the_turn_in_which_the_reader_leaves_holds_nobody_up(house: House) -> None:
    """Scenario: all wait for a reader who takes no more, but for one, which is ended while it waits for its
    server. Result: its error is not put where nobody reads."""
    house.servicer.script = talk

    async def leave() -> None:
        group = await begin(house, *["talk"] * 5, QUIET)
        events = group.events()
        await anext(events)
        await asyncio.sleep(0.2)  # there is no place left for what comes
        group._generations[-1].cut(deadline_exceeded())
        group.cancel()
        await events.aclose()

    house.call(leave())


@pytest.mark.parametrize("num_quiet", [1, 4])
def test_the_failure_of_one_is_counted_for_all(num_quiet: int, house: House, http: httpx.Client) -> None:
    def counted() -> dict[str, float]:
        scrape = Scrape(http.get("/metrics").text)
        return {
            status: scrape.value("pagewire:request_failures_total", status=status)
            for status in ("499", "504")
        }

    house.servicer.script = talk
    before = counted()

    async def fail() -> None:
        group = await begin(house, *[QUIET] * num_quiet)
        with pytest.raises(ApiError, match="deadline"):
            async for _ in group.events():
                pass
        group.cancel()

    async def cut_first() -> None:
        failing = asyncio.create_task(fail())
        while house.backend.num_running < num_quiet:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        next(iter(house.backend._running.values())).cut(deadline_exceeded())
        await failing

    house.call(cut_first())
    after = counted()
    assert after["504"] - before["504"] == num_quiet
    assert after["499"] == before["499"]
