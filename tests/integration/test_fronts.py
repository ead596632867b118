"""`pagewire up` whose server has two fronts: both doors answer through them, and a dead one comes back."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import httpx
from processes import command_line, descendants, pagewire_up, wait_until

from pagewire import Client

if TYPE_CHECKING:
    from pathlib import Path

    from processes import House

TIMEOUT_S = 100.0


def fronts_of(house: House) -> set[int]:
    return {pid for pid in descendants(house.process.pid) if "server.front" in command_line(pid)}


def answers(house: House) -> list[str]:
    asked = {"model": "smollm2-135m-instruct", "prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0}
    answer = httpx.post(f"{house.base_url}/v1/completions", json=asked, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    with Client(house.grpc_target, timeout=TIMEOUT_S) as client:
        texts = client.stream("1, 2, 3,", max_tokens=4, temperature=0).texts()
        return [answer.json()["choices"][0]["text"], "".join(texts)]


def is_answered(house: House) -> bool:
    return httpx.get(f"{house.base_url}/health/ready", timeout=TIMEOUT_S).status_code == 200


def test_up_answers_through_two_fronts_and_starts_them_again(smollm2_path: Path, tmp_path: Path) -> None:
    with pagewire_up(tmp_path / "log", "--grpc-front-count=2") as house:
        house.wait_until_ready()
        wait_until(lambda: is_answered(house), "the translator is ready", TIMEOUT_S)
        first, second = fronts = fronts_of(house)
        said = answers(house)
        assert said[0] == said[1] != ""
        for pid in (first, second):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(fronts_of(house) - fronts) == 2, "two others have their places", TIMEOUT_S)
        wait_until(lambda: is_answered(house), "the translator has found them", TIMEOUT_S)
        assert answers(house) == said
        house.wait_until_idle()
