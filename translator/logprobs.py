"""Log probabilities in OpenAI's two forms, and prompt log probabilities in vLLM's."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FLOOR = -9999.0


class TokenNames:
    """How tokens are written in log probabilities."""

    def __init__(self, as_token_ids: bool) -> None:
        """Write tokens as "token_id:123" if `as_token_ids`, else as text."""
        self._as_token_ids = as_token_ids

    def text(self, token_id: int, token_bytes: bytes) -> str:
        """Return the token as text; bytes that are no characters become U+FFFD."""
        if self._as_token_ids:
            return f"token_id:{token_id}"
        return token_bytes.decode(errors="replace")

    def unique(self, token_id: int, token_bytes: bytes) -> str:
        """Return the token as text that no other token has: a key."""
        if self._as_token_ids:
            return f"token_id:{token_id}"
        try:
            return token_bytes.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)


def with_top(tokens: Iterable[inference_pb2.TokenLogprob], num_top: int) -> list[inference_pb2.TokenLogprob]:
    """Return tokens with no more than so many of their most likely alternatives."""
    return [token if len(token.top) <= num_top else _cut(token, num_top) for token in tokens]


def _cut(token: inference_pb2.TokenLogprob, num_top: int) -> inference_pb2.TokenLogprob:
    cut = inference_pb2.TokenLogprob()
    cut.CopyFrom(token)
    del cut.top[num_top:]
    return cut


def chat_logprobs(tokens: Iterable[inference_pb2.TokenLogprob], names: TokenNames) -> list[dict[str, Any]]:
    """Return the `content` list of chat's log probabilities."""
    return [
        {
            **_chat_entry(token, names),
            "top_logprobs": [_chat_entry(alternative, names) for alternative in token.top],
        }
        for token in tokens
    ]


def _chat_entry(
    token: inference_pb2.TokenLogprob | inference_pb2.Alternative, names: TokenNames
) -> dict[str, Any]:
    return {
        "token": names.text(token.token_id, token.token_bytes),
        "logprob": max(token.logprob, _FLOOR),
        "bytes": list(token.token_bytes),
    }


class CompletionLogprobs:
    """Builds the lists of the legacy form, one run of tokens after another."""

    def __init__(self, names: TokenNames) -> None:
        self._names = names
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def copy(self) -> CompletionLogprobs:
        """Return another one that goes on after the same tokens."""
        copied = CompletionLogprobs(self._names)
        copied._decoder.setstate(self._decoder.getstate())
        copied._offset = self._offset
        return copied

    def add(self, tokens: Iterable[inference_pb2.TokenLogprob]) -> dict[str, list[Any]]:
        """Return the lists for the next tokens. Offsets count characters of the whole text."""
        lists: dict[str, list[Any]] = {
            "text_offset": [],
            "token_logprobs": [],
            "tokens": [],
            "top_logprobs": [],
        }
        for token in tokens:
            name = self._names.unique(token.token_id, token.token_bytes)
            lists["text_offset"].append(self._offset)
            lists["tokens"].append(name)
            lists["token_logprobs"].append(None if token.absent else max(token.logprob, _FLOOR))
            lists["top_logprobs"].append(None if token.absent else self._top(token, name))
            self._offset += len(self._decoder.decode(token.token_bytes))
        return lists

    def _top(self, token: inference_pb2.TokenLogprob, name: str) -> dict[str, float]:
        """The most likely tokens, and the chosen one whether or not it is among them."""
        top = {
            self._names.unique(alternative.token_id, alternative.token_bytes): max(
                alternative.logprob, _FLOOR
            )
            for alternative in token.top
        }
        top.setdefault(name, max(token.logprob, _FLOOR))
        return top


def prompt_logprobs(
    tokens: Sequence[inference_pb2.TokenLogprob], names: TokenNames
) -> list[dict[str, dict[str, Any]] | None]:
    """Return vLLM's `prompt_logprobs`: for each prompt token its alternatives by token id."""
    return [None if token.absent else _prompt_entry(token, names) for token in tokens]


def _prompt_entry(token: inference_pb2.TokenLogprob, names: TokenNames) -> dict[str, dict[str, Any]]:
    entries = {
        str(token.token_id): {
            "logprob": max(token.logprob, _FLOOR),
            "rank": token.rank,
            "decoded_token": names.text(token.token_id, token.token_bytes),
        }
    }
    for rank, alternative in enumerate(token.top, start=1):
        entries.setdefault(
            str(alternative.token_id),
            {
                "logprob": max(alternative.logprob, _FLOOR),
                "rank": rank,
                "decoded_token": names.text(alternative.token_id, alternative.token_bytes),
            },
        )
    return entries
