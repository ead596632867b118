"""Whatever a model's log probabilities are, HTTP answers hold JSON: no infinity, no NaN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from said import strict
from scripted_backend import delta, finished, plays, started

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    import httpx
    from scripted_backend import House

pytestmark = pytest.mark.check("R15")

FLOOR = -9999.0
SAID = [{"role": "user", "content": "hi"}]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": SAID, "logprobs": True, "top_logprobs": 2}),
    "completion": ("/v1/completions", {"prompt": "hi", "logprobs": 2, "echo": True}),
    "response": ("/v1/responses", {"input": "hi", "top_logprobs": 2}),
}
values = st.sampled_from([-math.inf, math.inf, math.nan, -3e38, -1e-40, -0.0, 0.0, -0.5, -12345.0])
tokens = st.builds(
    lambda value, others, text: inference_pb2.TokenLogprob(
        token_id=1,
        logprob=value,
        rank=1,
        token_bytes=text,
        top=[
            inference_pb2.Alternative(token_id=2 + index, logprob=other, token_bytes=b"%d" % index)
            for index, other in enumerate(others)
        ],
    ),
    values,
    st.lists(values, max_size=2),
    st.sampled_from([b"a", b"\xff", "é\u2028".encode(), b"", b"\0"]),
)


def numbers(value: Any) -> list[Any]:
    """All that stands where a log probability may."""
    if isinstance(value, dict):
        found = [one for name, one in value.items() if name == "logprob"]
        found += list(value["token_logprobs"]) if "token_logprobs" in value else []
        tops = value.get("top_logprobs")
        for top in tops if isinstance(tops, list) else ():
            found += top.values() if isinstance(top, dict) and "token" not in top else []
        return found + [one for member in value.values() for one in numbers(member)]
    return [one for member in value for one in numbers(member)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(of_prompt=st.lists(tokens, max_size=2), of_output=st.lists(tokens, min_size=1, max_size=3))
def test_answers_are_json(
    http: httpx.Client,
    house: House,
    name: str,
    of_prompt: list[inference_pb2.TokenLogprob],
    of_output: list[inference_pb2.TokenLogprob],
) -> None:
    route, body = BODIES[name]
    first = inference_pb2.TokenLogprob(token_id=7, token_bytes=b"hi", absent=True)
    house.servicer.script = plays(
        started(prompt_text="hi", prompt_logprobs=[first, *of_prompt]),
        *(delta("a", logprobs=[token]) for token in of_output),
        finished(),
    )
    if name != "response":
        body = body | {"prompt_logprobs": 2}
    whole = strict(http.post(route, json=body).text)
    streamed = {field: value for field, value in body.items() if field != "prompt_logprobs"}
    frames = http.post(route, json=streamed | {"stream": True}).text.split("\n\n")
    data = [frame.rpartition("data: ")[2] for frame in frames if "data: {" in frame]
    found = numbers(whole) + numbers([strict(one) for one in data])
    assert found
    assert all(one is None or FLOOR <= one <= 0 for one in found)
    given_values = [token.logprob for token in (*of_prompt, *of_output)]
    if -math.inf in given_values and name != "response":
        assert FLOOR in found
