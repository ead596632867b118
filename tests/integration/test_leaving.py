"""A client that leaves gives its blocks back, whichever door it came by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from processes import wait_until

import pagewire

if TYPE_CHECKING:
    from processes import House

LONG = [{"role": "user", "content": "Count from one to one thousand."}]


def running(house: House) -> int:
    return house.stats().engine.num_running


def test_closing_a_grpc_stream_frees_its_blocks(house: House, client: pagewire.Client) -> None:
    house.wait_until_idle()
    aborted = house.stats().engine.num_aborted
    with client.stream(messages=LONG, ignore_eos=True, max_tokens=4000) as stream:
        next(stream.texts())
        assert running(house) == 1
        assert house.stats().engine.num_owned_blocks > 0
    house.wait_until_idle()
    assert house.stats().engine.num_aborted == aborted + 1


def test_leaving_an_http_stream_frees_its_blocks(house: House) -> None:
    house.wait_until_idle()
    body = {"model": "smollm2-135m-instruct", "messages": LONG, "stream": True, "ignore_eos": True}
    url = f"{house.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=100) as response:
        assert response.status_code == 200
        next(response.iter_lines())
        wait_until(lambda: running(house) == 1, "the request runs")
    house.wait_until_idle()


def test_a_deadline_frees_the_blocks(house: House, client: pagewire.Client) -> None:
    house.wait_until_idle()
    with pytest.raises(pagewire.DeadlineExceededError):
        client.chat(LONG, ignore_eos=True, max_tokens=4000, timeout=1)
    house.wait_until_idle()
