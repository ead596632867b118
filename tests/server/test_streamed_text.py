"""Thousands of random outputs: what is streamed in pieces is what one answer would hold, and no more waits.

These say the same as the properties of the detokenizer and of the stop strings, over many more cases and
through the choice that gathers deltas.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import tiny_tokenizer
from fakes import fake_model

from engine.messages import FinishReason, RequestOutput
from pagewire.v1 import inference_pb2
from server.choice import Choice
from server.detokenizer import Detokenizer
from server.stop_strings import StopStrings
from server.tokenizer import Tokenizer
from server.tokenizer_source import TokenizerSource
from server.validation import validate

NUM_CASES = 5000
NUM_SHARDS = 5
MAX_HELD_TOKENS = 4
BYTE_LEVEL = Tokenizer(TokenizerSource(tiny_tokenizer.byte_level()))
BYTES = {BYTE_LEVEL.token_bytes(token_id): token_id for token_id in range(3, 259)}
PROMPT = BYTE_LEVEL.encode("The prompt.", add_special_tokens=False)
# Emoji of several code points, joiners, CJK, combining marks, and bytes that begin or continue nothing.
SCRAPS = [
    text.encode() for text in ("👩\u200d👩\u200d👧", "🎉", "東京", "e\u0301", "नि", "a", " the", "\u200d")
] + [
    b"\xf0",
    b"\xe6\x9d",
    b"\x80",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
]


def random_tokens(dice: random.Random) -> list[int]:
    """Bytes of scraps one by one, whole scraps as the vocabulary has them, and any tokens at all."""
    token_ids: list[int] = []
    for _ in range(dice.randrange(12)):
        match dice.randrange(3):
            case 0:
                token_ids += [BYTES[bytes([byte])] for byte in dice.choice(SCRAPS)]
            case 1:
                text = dice.choice(SCRAPS).decode(errors="ignore")
                token_ids += BYTE_LEVEL.encode(text, add_special_tokens=False)
            case _:
                token_ids.append(dice.randrange(BYTE_LEVEL.vocab_size))
    return token_ids


MODEL = fake_model(tokenizer=BYTE_LEVEL)
REQUEST = validate(inference_pb2.GenerationSpec(text="x"), MODEL, 20)


def make_choice(stop: tuple[str, ...] = ()) -> Choice:
    return Choice(0, replace(REQUEST, stop=stop), BYTE_LEVEL, PROMPT)


def answer(choice: Choice, token_ids: list[int], dice: random.Random | None = None) -> str:
    """The text of an output: in pieces and deltas of any sizes, or, without dice, all at once."""
    text, position = "", 0
    while choice.end is None:
        size = dice.randint(1, 4) if dice else len(token_ids)
        piece = token_ids[position : position + size]
        position += size
        is_last = position >= len(token_ids)
        choice.take(RequestOutput("r", piece, finish_reason=FinishReason.LENGTH if is_last else None))
        if dice and dice.random() < 0.5:
            text += pop_text(choice)
    return text + pop_text(choice)


def pop_text(choice: Choice) -> str:
    delta = choice.pop_delta()
    return "" if delta is None else delta.text


@pytest.mark.check("R16", "R05")
@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_a_stream_is_the_unary_answer_and_breaks_no_character(shard: int) -> None:
    dice = random.Random(shard)
    for _ in range(NUM_CASES // NUM_SHARDS):
        token_ids = random_tokens(dice)
        whole = BYTE_LEVEL.decode(PROMPT + token_ids, skip_special_tokens=True).removeprefix("The prompt.")
        assert answer(make_choice(), token_ids) == whole, token_ids
        assert answer(make_choice(), token_ids, dice) == whole, token_ids


@pytest.mark.check("R16")
@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_at_most_four_tokens_wait(shard: int) -> None:
    """All but the last four tokens are in the text, up to a character that may still be completed."""
    dice = random.Random(shard)
    for _ in range(NUM_CASES // NUM_SHARDS):
        token_ids = [one for one in random_tokens(dice) if not BYTE_LEVEL.is_special(one)]
        detokenizer, text = Detokenizer(BYTE_LEVEL, PROMPT), ""
        for count, token_id in enumerate(token_ids, 1):
            text += detokenizer.push([token_id]).text
            older = PROMPT + token_ids[: max(0, count - MAX_HELD_TOKENS)]
            certain = BYTE_LEVEL.decode(older, skip_special_tokens=True).removeprefix("The prompt.")
            assert text.startswith(certain.rstrip("\ufffd")), token_ids


def random_stops(dice: random.Random, letters: str) -> tuple[str, ...]:
    return tuple("".join(dice.choices(letters, k=dice.randint(1, 6))) for _ in range(dice.randrange(5)))


def cut_at_first_stop(text: str, stops: tuple[str, ...]) -> str:
    """The text before the stop string that is complete first, of those the longest."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not ends:
        return text
    end, length = min(ends)
    return text[: end + length]


@pytest.mark.check("R17")
@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_the_output_ends_at_the_first_stop_string(shard: int) -> None:
    """Few letters, so that stop strings overlap with the text and with each other."""
    dice = random.Random(shard)
    for _ in range(NUM_CASES // NUM_SHARDS):
        letters = dice.choice(["ab", "ab👩", "東e\u0301"])
        text, stops = "".join(dice.choices(letters, k=dice.randrange(40))), random_stops(dice, letters)
        expected = cut_at_first_stop(text, stops)
        token_ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
        assert answer(make_choice(stops), token_ids) == expected, (text, stops)
        assert answer(make_choice(stops), token_ids, dice) == expected, (text, stops)


@pytest.mark.check("R17")
@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_only_a_proper_prefix_of_a_stop_string_waits(shard: int) -> None:
    dice = random.Random(shard)
    for _ in range(NUM_CASES // NUM_SHARDS):
        text, stops = "".join(dice.choices("ab", k=dice.randrange(40))), random_stops(dice, "ab")
        matcher, released, position = StopStrings(stops), "", 0
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))} | {""}
        while position < len(text):
            size = dice.randint(1, 5)
            part = matcher.push(text[position : position + size])
            position += size
            released += part.text
            if part.stop is not None:
                break
            held = text[len(released) : position]
            assert held in beginnings, (text, stops)
            assert len(held) <= max((len(stop) for stop in stops), default=1) - 1
        assert cut_at_first_stop(text, stops).startswith(released), (text, stops)
