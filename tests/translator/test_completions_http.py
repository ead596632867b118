"""POST /v1/completions over a real socket, against a scripted gRPC server."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from exposition import Scrape
from scripted_backend import MODEL, abort, delta, finished, plays, reason, refuses, retry_in, started

from pagewire.v1 import inference_pb2
from translator import repeated
from translator.logprobs import TokenNames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

PATH = "/v1/completions"
HEAD = f'"object":"text_completion","created":0,"model":"{MODEL}","system_fingerprint":"pagewire-0"'


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post(PATH, json={"prompt": "hi"} | fields, headers={"x-request-id": "r-1"})


def transcript(response: httpx.Response) -> list[str]:
    frames = response.text.removesuffix("\n\n").split("\n\n")
    frames = [re.sub(r'"created":\d+', '"created":0', frame) for frame in frames]
    return [re.sub(r"pagewire-[^\"]+", "pagewire-0", frame) for frame in frames]


def chunk(text: str, index: int = 0, finish: str | None = None) -> str:
    members = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    if finish is not None:
        members["stop_reason"] = None
    choice = json.dumps(members, separators=(",", ":"))
    return f'data: {{"id":"cmpl-r-1",{HEAD},"choices":[{choice}]}}'


def logprob(token_id: int, text: bytes, value: float, *top: tuple[int, bytes, float]) -> Any:
    token = inference_pb2.TokenLogprob(token_id=token_id, logprob=value, token_bytes=text)
    for other_id, other_text, other_value in top:
        token.top.add(token_id=other_id, logprob=other_value, token_bytes=other_text)
    return token


async def echoes_prompt(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
    """Answers "<prompt>:<choice>" for each choice."""
    prompt = spec.text or ",".join(map(str, spec.token_ids.ids))
    yield started(prompt_text=prompt, num_prompt_tokens=3, num_cached_tokens=1)
    for index in reversed(range(spec.sampling.n or 1)):
        yield delta(f"{prompt}:{index}", index)
    yield finished(spec.sampling.n or 1)


def test_golden_stream(http: httpx.Client) -> None:
    response = post(http, stream=True)
    assert transcript(response) == [
        chunk("Hel"),
        chunk("lo"),
        chunk("", finish="stop"),
        "data: [DONE]",
    ]


def test_golden_whole(http: httpx.Client, house: House) -> None:
    body = post(http).json()
    assert body.pop("created") > 1_700_000_000
    assert body.pop("system_fingerprint").startswith("pagewire-")
    assert body == {
        "id": "cmpl-r-1",
        "object": "text_completion",
        "model": MODEL,
        "choices": [
            {"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert house.servicer.specs[0].stopping.max_tokens == 16


def test_choices_are_ordered_by_prompt_then_index(http: httpx.Client, house: House) -> None:
    house.servicer.script = echoes_prompt
    body = post(http, prompt=["a", "b", "c"], n=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["a:0", "a:1", "b:0", "b:1", "c:0", "c:1"]
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert body["usage"]["prompt_tokens"] == 9
    assert body["usage"]["completion_tokens"] == 6
    ids = sorted(metadata["x-request-id"] for metadata in house.servicer.metadata)
    assert ids == ["r-1-0", "r-1-1", "r-1-2"]


def test_token_ids_are_prompts(http: httpx.Client, house: House) -> None:
    house.servicer.script = echoes_prompt
    assert post(http, prompt=[1, 2]).json()["choices"][0]["text"] == "1,2:0"
    texts = [choice["text"] for choice in post(http, prompt=[[1, 2], [3]]).json()["choices"]]
    assert texts == ["1,2:0", "3:0"]


def test_several_prompts_share_one_stream(http: httpx.Client, house: House) -> None:
    house.servicer.script = echoes_prompt
    response = post(http, prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True})
    frames = transcript(response)
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]
    texts: dict[int, str] = {}
    finishes: dict[int, str] = {}
    for choice in (each["choices"][0] for each in chunks[:-1]):
        assert choice["index"] not in finishes
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            finishes[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "a:0", 1: "a:1", 2: "b:0", 3: "b:1"}
    assert finishes == dict.fromkeys(range(4), "stop")
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert frames[-1] == "data: [DONE]"


def test_one_refused_prompt_refuses_all(http: httpx.Client, house: House) -> None:
    async def refuses_b(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        if spec.text == "b":
            violation = refuses(("spec.text", "too long"))
            code = grpc.StatusCode.INVALID_ARGUMENT
            await abort(context, code, "text", reason("CONTEXT_LENGTH_EXCEEDED"), violation)
        async for event in echoes_prompt(spec, context):
            yield event

    house.servicer.script = refuses_b
    for stream in (False, True):
        response = post(http, prompt=["a", "b"], stream=stream)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


def test_one_failed_prompt_ends_the_stream(http: httpx.Client, house: House) -> None:
    async def loses_b(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started()
        if spec.text == "b":
            await abort(context, grpc.StatusCode.UNAVAILABLE, "lost", reason("REQUEST_LOST"))
        yield delta("x")
        await asyncio.Event().wait()
        yield finished()

    house.servicer.script = loses_b
    frames = transcript(post(http, prompt=["a", "b"], stream=True))
    assert '"code":"request_lost"' in frames[-1]
    for _ in range(2):
        assert house.servicer.left.acquire(timeout=20)


class Room:
    """A script that refuses who comes while `size` are inside. These stay until `num_calls` have come."""

    def __init__(self, size: int, num_calls: int = 0) -> None:
        self.size = size
        self.num_calls = 0
        self._num_inside = 0
        self._num_expected = num_calls
        self._all_came = asyncio.Event()

    async def __call__(self, spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        self.num_calls += 1
        if self.num_calls >= self._num_expected:
            self._all_came.set()
        if self._num_inside >= self.size:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            await abort(context, code, "full", reason("QUEUE_FULL"), retry_in(1))
        self._num_inside += 1
        try:
            await self._all_came.wait()
            async for event in echoes_prompt(spec, context):
                yield event
        finally:
            self._num_inside -= 1


@pytest.mark.parametrize("size", [1, 2, 6])
def test_prompts_that_find_no_room_follow_the_others(size: int, http: httpx.Client, house: House) -> None:
    prompts = list("abcdefg")
    house.servicer.script = room = Room(size, len(prompts))
    body = post(http, prompt=prompts, n=2).json()
    texts = [choice["text"] for choice in body["choices"]]
    assert texts == [f"{prompt}:{index}" for prompt in prompts for index in (0, 1)]
    assert body["usage"]["prompt_tokens"] == 21
    assert body["usage"]["completion_tokens"] == 14
    assert room.num_calls > len(prompts)


def test_a_stream_goes_on_with_prompts_that_found_no_room(http: httpx.Client, house: House) -> None:
    prompts = list("abcde")
    house.servicer.script = Room(2, len(prompts))
    response = post(http, prompt=prompts, stream=True, echo=True, stream_options={"include_usage": True})
    *chunks, last = (json.loads(frame.removeprefix("data: ")) for frame in transcript(response)[:-1])
    texts = dict.fromkeys(range(5), "")
    for (choice,) in (each["choices"] for each in chunks):
        texts[choice["index"]] += choice["text"]
    assert texts == {index: f"{prompt}{prompt}:0" for index, prompt in enumerate(prompts)}
    assert last["usage"]["prompt_tokens"] == 15
    assert last["usage"]["completion_tokens"] == 5


def test_prompts_wait_for_the_room_that_others_hold(http: httpx.Client, house: House) -> None:
    """After the pause that the server asks for, not in a loop."""

    class Held(Room):
        async def __call__(self, spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            self.size = 0 if self.num_calls in (1, 2) else 1
            async for event in super().__call__(spec, context):
                yield event

    house.servicer.script = room = Held(1)
    texts = [choice["text"] for choice in post(http, prompt=["a", "b"]).json()["choices"]]
    assert texts == ["a:0", "b:0"]
    assert room.num_calls == 4


def test_prompts_that_wait_for_room_have_the_same_deadline(http: httpx.Client, house: House) -> None:
    class Shut(Room):
        async def __call__(self, spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            self.size = 1 - bool(self.num_calls)
            async for event in super().__call__(spec, context):
                yield event

    house.servicer.script = Shut(1)
    response = http.post(PATH, json={"prompt": ["a", "b"]}, headers={"X-Request-Timeout": "1"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"


def test_prompts_are_refused_where_there_is_room_for_none(http: httpx.Client, house: House) -> None:
    def num_refused() -> float:
        return Scrape(http.get("/metrics").text).value("pagewire:request_failures_total", status="429")

    before = num_refused()
    house.servicer.script = Room(2, 3)
    assert post(http, prompt=["a", "b", "c"]).status_code == 200
    assert num_refused() == before
    house.servicer.script = room = Room(0)
    for stream in (False, True):
        response = post(http, prompt=["a", "b"], stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        assert response.headers["retry-after"] == "1"
    assert room.num_calls == 4
    assert num_refused() == before + 4


def test_echo_with_logprobs_scores_the_prompt(http: httpx.Client, house: House) -> None:
    """What evaluation harnesses send for multiple choice."""
    prompt = [logprob(1, b"a\xc3", 0), logprob(2, b"\xa9", -1.0, (3, b"\xaa", -0.5))]
    prompt[0].absent = True
    house.servicer.script = plays(
        started(prompt_text="aé", prompt_logprobs=prompt),
        delta(" b", logprobs=[logprob(4, b" b", -2.0, (4, b" b", -2.0))]),
        finished(reason=inference_pb2.FINISH_REASON_LENGTH),
    )
    fields = {"prompt": [[1, 2]], "echo": True, "max_tokens": 1, "logprobs": 1, "temperature": 0}
    choice = post(http, **fields).json()["choices"][0]
    assert choice["text"] == "aé b"
    assert choice["logprobs"] == {
        "text_offset": [0, 1, 2],
        "tokens": ["bytes:\\x61\\xc3", "bytes:\\xa9", " b"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"bytes:\\xaa": -0.5, "bytes:\\xa9": -1.0}, {" b": -2.0}],
    }
    output = house.servicer.specs[0].output
    assert (output.logprobs, output.prompt_logprobs, output.prompt_text) == (1, 1, True)

    frames = transcript(post(http, **fields, stream=True))
    choices = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames[:-1]]
    assert [each["text"] for each in choices] == ["aé", " b", ""]
    assert [each["logprobs"] and each["logprobs"]["text_offset"] for each in choices] == [[0, 1], [2], None]


@pytest.mark.parametrize(("num_top", "num_prompt_top"), [(1, 3), (3, 1), (0, 2), (2, 0)])
def test_both_forms_of_the_prompts_logprobs_have_as_many_as_they_ask_for(
    http: httpx.Client, house: House, num_top: int, num_prompt_top: int
) -> None:
    others = [(7, b"x", -1.0), (8, b"y", -2.0), (9, b"z", -3.0)]
    prompt = [logprob(1, b"a", 0), logprob(2, b"b", -4.0, *others[: max(num_top, num_prompt_top)])]
    prompt[0].absent = True
    house.servicer.script = plays(
        started(prompt_text="ab", prompt_logprobs=prompt),
        delta("c", logprobs=[logprob(4, b"c", -2.5, *others[:num_top])]),
        finished(),
    )
    fields = {"echo": True, "logprobs": num_top, "prompt_logprobs": num_prompt_top}
    choice = post(http, **fields).json()["choices"][0]
    assert [each and len(each) for each in choice["logprobs"]["top_logprobs"]] == [None, *[num_top + 1] * 2]
    assert [each and len(each) for each in choice["prompt_logprobs"]] == [None, num_prompt_top + 1]
    assert house.servicer.specs[0].output.prompt_logprobs == max(num_top, num_prompt_top)


def test_choices_share_what_describes_their_prompt(
    http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rendered once, however many choices repeat it, and each goes on after it by itself."""
    rendered: list[int] = []
    text = TokenNames.text
    unique = TokenNames.unique

    def counts_text(names: TokenNames, token_id: int, token_bytes: bytes) -> str:
        rendered.append(token_id)
        return text(names, token_id, token_bytes)

    def counts_unique(names: TokenNames, token_id: int, token_bytes: bytes) -> str:
        rendered.append(token_id)
        return unique(names, token_id, token_bytes)

    monkeypatch.setattr(TokenNames, "text", counts_text)
    monkeypatch.setattr(TokenNames, "unique", counts_unique)
    prompt = [logprob(1, b"a", 0), logprob(2, b"b\xc3", -1.0, (3, b"c", -0.5))]
    prompt[0].absent = True
    news = [
        delta("x", 0, logprobs=[logprob(4, b"x", -2.0)]),
        delta("é", 2, logprobs=[logprob(5, b"\xa9", -3.0)]),
    ]
    house.servicer.script = plays(started(prompt_text="ab", prompt_logprobs=prompt), *news, finished(3))
    fields = {"prompt": [[1, 2]], "n": 3, "echo": True, "logprobs": 1}
    choices = post(http, **fields, prompt_logprobs=1).json()["choices"]
    assert sorted(rendered) == [1, 2, 2, 3, 3, 4, 5]
    tokens = ["a", "bytes:\\x62\\xc3"]
    expected = [(["x"], [2]), ([], []), (["bytes:\\xa9"], [2])]
    for choice, (names, offsets) in zip(choices, expected, strict=True):
        assert choice["logprobs"]["tokens"] == [*tokens, *names]
        assert choice["logprobs"]["text_offset"] == [0, 1, *offsets]
        assert choice["prompt_logprobs"] == choices[0]["prompt_logprobs"]
    assert [each and sorted(each) for each in choices[0]["prompt_logprobs"]] == [None, ["2", "3"]]

    rendered.clear()
    frames = transcript(post(http, **fields, stream=True))
    assert sorted(rendered) == [1, 2, 3, 4, 5]
    chunks = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames[:-1]]
    lists = [(each["index"], each["logprobs"]) for each in chunks if each["logprobs"]]
    assert [(index, each["tokens"]) for index, each in lists] == [
        *((index, tokens) for index in range(3)),
        (0, ["x"]),
        (2, ["bytes:\\xa9"]),
    ]
    assert [each["text_offset"] for _, each in lists[3:]] == [offsets for _, offsets in expected if offsets]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("param", "num_tokens", "fields"),
    [
        ("n", 800, {"n": 128, "logprobs": 20}),
        ("n", 66_000, {"n": 128, "return_token_ids": True}),
        ("n", 540_000, {"n": 128}),
        ("prompt", 8192, {"prompt": ["hi"] * 13, "logprobs": 20}),
    ],
    ids=["log probabilities", "token ids", "text", "prompts"],
)
def test_what_an_answer_repeats_is_bounded(
    http: httpx.Client, house: House, stream: bool, param: str, num_tokens: int, fields: dict[str, Any]
) -> None:
    """The refusal is a status, of streams too, and nothing goes on behind it."""

    def num_refused() -> float:
        return Scrape(http.get("/metrics").text).value("pagewire:request_failures_total", status="400")

    tokens = [logprob(1, b"", 0)] * num_tokens if "logprobs" in fields else []
    ids = [1] * num_tokens if "return_token_ids" in fields else []
    text = "" if tokens or ids else "x" * num_tokens
    cancelled = threading.Semaphore(0)

    async def waits(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started(prompt_text=text, prompt_token_ids=ids, prompt_logprobs=tokens)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.release()
            raise
        yield finished(spec.sampling.n or 1)

    house.servicer.script = waits
    before = num_refused()
    response = post(http, **fields, echo=True, stream=stream)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert "67108864 in one answer" in response.json()["error"]["message"]
    for _ in range(len(house.servicer.specs)):
        assert cancelled.acquire(timeout=20)
    assert num_refused() == before + len(house.servicer.specs)


def test_one_long_prompt_may_be_described_in_full(http: httpx.Client, house: House) -> None:
    tokens = [logprob(1, b"x", 0)] * 8192
    house.servicer.script = plays(started(prompt_text="x" * 8192, prompt_logprobs=tokens), finished())
    choice = post(http, echo=True, logprobs=20, prompt_logprobs=20).json()["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == len(choice["prompt_logprobs"]) == 8192


def test_prompts_that_follow_count_too(
    http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeated, "MAX_REPEATED_BYTES", 100)
    for stream in (False, True):
        house.servicer.script = Room(1, 2)
        response = post(http, prompt=["a" * 20, "b" * 20], n=3, echo=True, stream=stream)
        assert response.status_code == (200 if stream else 400)
        last = transcript(response)[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["param"] == "n"


def test_scoring_alone_returns_the_prompt(http: httpx.Client, house: House) -> None:
    token = logprob(1, b"a", 0)
    token.absent = True
    house.servicer.script = plays(
        started(prompt_text="a", prompt_logprobs=[token], num_prompt_tokens=1),
        delta("b", logprobs=[logprob(2, b"b", -1.0)]),
        finished(reason=inference_pb2.FINISH_REASON_LENGTH),
    )
    body = post(http, echo=True, max_tokens=0, logprobs=0).json()
    assert body["choices"][0]["text"] == "a"
    assert body["choices"][0]["logprobs"]["tokens"] == ["a"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    frames = transcript(post(http, echo=True, max_tokens=0, stream=True))
    assert frames == [chunk("a"), chunk("", finish="length"), "data: [DONE]"]


def test_token_ids_are_returned_when_asked_for(http: httpx.Client, house: House) -> None:
    house.servicer.script = plays(
        started(prompt_token_ids=[5, 6]), delta("x", token_ids=[7]), delta("y", token_ids=[8]), finished()
    )
    choice = post(http, return_token_ids=True).json()["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([5, 6], [7, 8])
    frames = transcript(post(http, return_token_ids=True, stream=True))
    choices = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames[:-1]]
    assert choices[0]["prompt_token_ids"] == [5, 6]
    assert [each.get("token_ids") for each in choices] == [[], [7], [8], None]
