"""gRPC and HTTP lead to the same model and give the same answers."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from processes import House

    from pagewire import Client

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
BODY = {"model": "smollm2-135m-instruct", "messages": QUESTION, "temperature": 0, "max_tokens": 20}


def post(house: House, body: dict[str, object]) -> httpx.Response:
    response = httpx.post(f"{house.base_url}/v1/chat/completions", json=body, timeout=100)
    assert response.status_code == 200, response.text
    return response


def test_the_last_line_of_up_says_what_to_do_next(house: House) -> None:
    assert house.process.stdout is not None
    line = house.process.stdout.readline()
    pattern = r"Ready in \d+\.\d s: model smollm2-135m-instruct at (\S+) and gRPC (\S+)\. Try: (curl .*)\n"
    match = re.fullmatch(pattern, line)
    assert match is not None, line
    assert match[1] == f"{house.base_url}/v1"
    assert match[2] == house.grpc_target
    done = subprocess.run(
        [*shlex.split(match[3]), "--silent"], capture_output=True, text=True, timeout=110, check=True
    )
    assert "Paris" in json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_all_ways_give_the_same_answer(house: House, client: Client) -> None:
    assert client.chat(QUESTION, temperature=0, max_tokens=20).choices[0].text == ANSWER
    assert "".join(client.stream(messages=QUESTION, temperature=0, max_tokens=20).texts()) == ANSWER
    assert post(house, BODY).json()["choices"][0]["message"]["content"] == ANSWER
    lines = [line for line in post(house, {**BODY, "stream": True}).text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == ANSWER


def test_usage_is_the_same(house: House, client: Client) -> None:
    usage = client.chat(QUESTION, temperature=0, max_tokens=20).usage
    other = post(house, BODY).json()["usage"]
    assert other["prompt_tokens"] == usage.num_prompt_tokens
    assert other["completion_tokens"] == usage.num_completion_tokens


def test_a_seed_gives_the_same_text_by_both_doors(house: House, client: Client) -> None:
    response = client.chat(QUESTION, seed=11, temperature=1, max_tokens=16)
    body = {**BODY, "seed": 11, "temperature": 1, "max_tokens": 16}
    assert post(house, body).json()["choices"][0]["message"]["content"] == response.choices[0].text


def test_the_model_is_listed_by_both_doors(house: House, client: Client) -> None:
    names = [model.name for model in client.models()]
    listed = httpx.get(f"{house.base_url}/v1/models", timeout=30).json()["data"]
    assert [model["id"] for model in listed] == names == ["smollm2-135m-instruct"]


def test_a_request_id_comes_back_in_errors_of_both_doors(house: House) -> None:
    response = httpx.post(
        f"{house.base_url}/v1/chat/completions",
        json={**BODY, "temperature": 9},
        headers={"x-request-id": "my-id-7"},
        timeout=30,
    )
    assert response.status_code == 400
    assert response.headers["x-request-id"] == "my-id-7"
    assert response.json()["error"]["param"] == "temperature"
