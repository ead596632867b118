"""One request through both doors, and what each answered in a form that can be compared."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import httpx
from google.protobuf import json_format

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}
Answer = dict[str, Any]


def same(one: Any, other: Any) -> bool:
    """Whether two answers are equal, but for the last bits of numbers that were computed in other batches."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-3)
    return bool(one == other)


def spec_of(fields: dict[str, Any]) -> inference_pb2.GenerationSpec:
    """The contract's message from its fields by dotted path."""
    tree: dict[str, Any] = {}
    for path, value in fields.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return json_format.ParseDict(tree, inference_pb2.GenerationSpec())


def folded(events: Iterable[inference_pb2.StreamGenerateResponse]) -> inference_pb2.GenerateResponse:
    """What the events of a stream say together."""
    response = inference_pb2.GenerateResponse()
    choices: dict[int, inference_pb2.Choice] = {}
    for event in events:
        if event.HasField("started"):
            response.started.CopyFrom(event.started)
        for delta in event.delta.choices:
            choice = choices.setdefault(delta.index, inference_pb2.Choice())
            choice.text += delta.text
            choice.token_ids.extend(delta.token_ids)
            choice.logprobs.extend(delta.logprobs)
        for end in event.finished.choices:
            choices.setdefault(end.index, inference_pb2.Choice()).end.CopyFrom(end)
        if event.HasField("finished"):
            response.usage.CopyFrom(event.finished.usage)
    response.choices.extend(choices[index] for index in sorted(choices))
    return response


def from_grpc(
    response: inference_pb2.GenerateResponse, *, echo: bool, echo_top: int | None, prompt_top: int | None
) -> Answer:
    """The answer of the gRPC server, as HTTP gives it.

    Args:
        response: what the server answered.
        echo: whether the prompt stands before the text.
        echo_top: alternatives of the prompt's tokens before those of the output. None: they are not there.
        prompt_top: alternatives of the prompt's tokens by themselves.
    """
    started = response.started
    return {
        "choices": [
            {
                "text": (started.prompt_text if echo else "") + choice.text,
                "finish": _FINISH_REASONS[choice.end.finish_reason],
                "stop": getattr(choice.end, choice.end.WhichOneof("matched") or "", None),
                "token_ids": list(choice.token_ids),
                "logprobs": [
                    *([] if echo_top is None else _logprobs(started.prompt_logprobs, echo_top)),
                    *_logprobs(choice.logprobs),
                ],
            }
            for choice in response.choices
        ],
        "prompt_token_ids": list(started.prompt_token_ids),
        "prompt_logprobs": [
            None if one.absent else {one.token_id: one.logprob, **_top(one, prompt_top)}
            for one in (() if prompt_top is None else started.prompt_logprobs)
        ],
        "usage": [
            response.usage.num_prompt_tokens,
            response.usage.num_completion_tokens,
            response.usage.num_cached_tokens,
        ],
        "model": started.model,
    }


def _top(one: inference_pb2.TokenLogprob, num_top: int | None = None) -> dict[int, float]:
    return {other.token_id: other.logprob for other in one.top[:num_top]}


def _logprobs(tokens: Sequence[inference_pb2.TokenLogprob], num_top: int | None = None) -> list[Any]:
    """Of each token its id, and the values of itself and of its alternatives, or so many, by their ids."""
    return [
        [one.token_id, {} if one.absent else _top(one, num_top) | {one.token_id: one.logprob}]
        for one in tokens
    ]


def ask_http(base_url: str, path: str, body: dict[str, Any]) -> Answer:
    """Send a request by HTTP, with tokens named by their ids, and fold what comes."""
    response = httpx.post(base_url + path, json={**body, "return_tokens_as_token_ids": True}, timeout=100)
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        return _from_body(response.json())
    frames = response.text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    return _from_body(_fold([json.loads(frame.removeprefix("data: ")) for frame in frames]))


def _fold(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The body that the chunks of a stream stand for."""
    body = {**chunks[-1], "choices": []}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        body |= {name: chunk[name] for name in ("prompt_token_ids",) if name in chunk}
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {"text": "", "token_ids": [], "logprobs": None})
            choice["text"] += part.get("text", part.get("delta", {}).get("content")) or ""
            choice["token_ids"] += part.get("token_ids") or []
            choice |= {name: part[name] for name in ("finish_reason", "stop_reason") if name in part}
            choice |= {name: part[name] for name in ("prompt_token_ids",) if name in part}
            for name, values in (part["logprobs"] or {}).items():
                choice["logprobs"] = choice["logprobs"] or {}
                choice["logprobs"][name] = (choice["logprobs"].get(name) or []) + (values or [])
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def _from_body(body: dict[str, Any]) -> Answer:
    first, usage = body["choices"][0], body["usage"]
    return {
        "choices": [
            {
                "text": choice["message"]["content"] if "message" in choice else choice["text"],
                "finish": choice["finish_reason"],
                "stop": choice["stop_reason"],
                "token_ids": choice.get("token_ids") or [],
                "logprobs": _from_json(choice["logprobs"]),
            }
            for choice in body["choices"]
        ],
        "prompt_token_ids": body.get("prompt_token_ids") or first.get("prompt_token_ids") or [],
        "prompt_logprobs": [
            entry and {int(token_id): one["logprob"] for token_id, one in entry.items()}
            for entry in body.get("prompt_logprobs") or first.get("prompt_logprobs") or []
        ],
        "usage": [
            usage["prompt_tokens"],
            usage["completion_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
        ],
        "model": body["model"],
    }


def _from_json(logprobs: dict[str, Any] | None) -> list[Any]:
    """OpenAI's log probabilities of either form, as `_logprobs` has them."""
    if not logprobs:
        return []
    if "content" in logprobs:
        return [
            [
                _id(one["token"]),
                {_id(each["token"]): each["logprob"] for each in (*one["top_logprobs"], one)},
            ]
            for one in logprobs["content"]
        ]
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return [
        [
            _id(name),
            {} if value is None else {_id(each): one for each, one in top.items()} | {_id(name): value},
        ]
        for name, value, top in rows
    ]


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))
