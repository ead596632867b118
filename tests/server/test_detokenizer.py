"""Properties R16 and R17: streamed text equals the text of the whole, whatever the tokens and the pieces."""

from __future__ import annotations

import tracemalloc

import pytest
import tiny_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.detokenizer import Detokenizer, Piece
from server.tokenizer import Tokenizer
from server.tokenizer_source import TokenizerSource

BACKEND = tiny_tokenizer.byte_level()
BYTE_LEVEL = Tokenizer(TokenizerSource(BACKEND))
SENTENCEPIECE = Tokenizer(TokenizerSource(tiny_tokenizer.sentencepiece()))
PROMPT = BYTE_LEVEL.encode("The prompt.", add_special_tokens=False)

TOKEN_IDS = st.lists(st.integers(0, 399), max_size=40)
EMOJI = st.text(st.sampled_from("👩\u200d👧🎉e\u0301東a "), max_size=12)
CUTS = st.lists(st.integers(1, 5), max_size=40)


def stream(detokenizer: Detokenizer, token_ids: list[int], sizes: list[int]) -> tuple[str, int, str | None]:
    """Push the tokens in pieces of these sizes, then the rest. Return text, tokens counted, stop."""
    text, count, position = "", 0, 0
    for size in [*sizes, len(token_ids)]:
        piece = detokenizer.push(token_ids[position : position + size])
        position += size
        text += piece.text
        count += piece.num_tokens
        if piece.stop_text is not None:
            return text, count, piece.stop_text
    return text + detokenizer.flush(), count, None


@pytest.mark.check("R16")
@given(TOKEN_IDS, CUTS, st.booleans())
@settings(max_examples=300)
def test_random_tokens_stream_to_the_text_of_the_whole(ids: list[int], sizes: list[int], skips: bool) -> None:
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        prompt = tokenizer.encode("x", add_special_tokens=False)
        detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=skips)
        whole = tokenizer.decode(prompt + ids, skips).removeprefix("x")
        assert stream(detokenizer, ids, sizes) == (whole, len(ids), None)


@given(TOKEN_IDS)
@settings(max_examples=300)
def test_byte_level_text_is_that_of_the_tokenizers_library(ids: list[int]) -> None:
    expected = BACKEND.decode(ids, skip_special_tokens=True)
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=True) == expected


@pytest.mark.check("R16")
@given(EMOJI, CUTS)
def test_no_replacement_character_where_the_text_has_none(text: str, sizes: list[int]) -> None:
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        ids = tokenizer.encode(text, add_special_tokens=False)
        detokenizer = Detokenizer(tokenizer, PROMPT)
        streamed, _, _ = stream(detokenizer, ids, sizes)
        assert streamed == (" " + text if text and tokenizer.strips_leading_space else text)


@pytest.mark.check("R16")
@given(TOKEN_IDS)
def test_at_most_three_tokens_wait_for_the_rest_of_their_character(ids: list[int]) -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, PROMPT)
    pushed, emitted = b"", ""
    for token_id in ids:
        pushed += b"" if BYTE_LEVEL.is_special(token_id) else BYTE_LEVEL.token_bytes(token_id)
        emitted += detokenizer.push([token_id]).text
        certain = pushed[:-3].decode(errors="replace") if len(pushed) > 3 else ""
        assert len(emitted) >= len(certain.rstrip("\ufffd"))


@pytest.mark.check("R17")
@given(
    EMOJI,
    st.lists(st.text(st.sampled_from("👩\u200d👧e東a "), min_size=1, max_size=3), max_size=4),
    CUTS,
    st.booleans(),
    st.just(0) | st.integers(0, 20),
)
@example("a東👩", ["東"], [1], True, 0)
@example("a東a東a", ["東a"], [3], False, 4)
@settings(max_examples=300)
def test_output_is_the_text_up_to_the_first_stop_string(
    text: str, stops: list[str], sizes: list[int], includes: bool, min_tokens: int
) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(BYTE_LEVEL, PROMPT, stops, includes, min_tokens=min_tokens)
    streamed, count, stop = stream(detokenizer, ids, sizes)
    # Only what is complete after so many tokens ends the text, even where it begins before.
    early = len(b"".join(map(BYTE_LEVEL.token_bytes, ids[:min_tokens])).decode(errors="ignore"))
    starts = [text.find(stop, max(0, early + 1 - len(stop))) for stop in stops]
    ends = [start + len(stop) for start, stop in zip(starts, stops, strict=True) if start >= 0]
    if not ends:
        assert (streamed, count, stop) == (text, len(ids), None)
        return
    cut = text[: min(ends)]
    longest = max((s for s in stops if cut.endswith(s)), key=len)
    assert count > min_tokens
    assert stop == longest
    assert streamed == (cut if includes else cut.removesuffix(longest))
    # The tokens that count are those up to the one that completes the stop string.
    assert longest in BYTE_LEVEL.decode(ids[:count], skip_special_tokens=True)
    shorter = BYTE_LEVEL.decode(ids[: count - 1], skip_special_tokens=True)
    assert not any(shorter.find(s, max(0, early + 1 - len(s))) >= 0 for s in stops)


def test_a_stop_string_within_one_push_cuts_its_tokens() -> None:
    ids = BYTE_LEVEL.encode("In 1998, 3", add_special_tokens=False)
    texts = [BYTE_LEVEL.decode([token_id], skip_special_tokens=True) for token_id in ids]
    end = next(i for i in range(len(ids)) if "99" in "".join(texts[: i + 1]))
    assert Detokenizer(BYTE_LEVEL, PROMPT, ["99"]).push(ids) == Piece("In 1", end + 1, "99")


def test_held_back_text_comes_with_the_flush() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, PROMPT, ["catsup"])
    ids = BYTE_LEVEL.encode("my cats", add_special_tokens=False)
    piece = detokenizer.push(ids)
    assert (piece.text, piece.num_tokens) == ("my ", len(ids))
    assert detokenizer.flush() == "cats"
    assert detokenizer.flush() == ""


def test_special_tokens_are_text_only_if_asked_for() -> None:
    ids = [BYTE_LEVEL.encode("<|end|>", add_special_tokens=False)[0]]
    assert Detokenizer(BYTE_LEVEL, PROMPT).push(ids).text == ""
    assert Detokenizer(BYTE_LEVEL, PROMPT, skip_special_tokens=False).push(ids).text == "<|end|>"


def test_a_special_token_does_not_break_a_character() -> None:
    mark = BYTE_LEVEL.encode("<|end|>", add_special_tokens=False)
    split = bytes_as_tokens("é".encode())
    assert Detokenizer(BYTE_LEVEL, PROMPT).push([split[0], *mark, split[1]]).text == "é"


def test_a_character_that_the_prompt_began_is_completed() -> None:
    first, *rest = bytes_as_tokens("🎉".encode())
    assert Detokenizer(BYTE_LEVEL, [*PROMPT, first]).push(rest).text == "🎉"


def test_sentencepiece_drops_the_first_space_only_where_the_text_begins() -> None:
    word = SENTENCEPIECE.encode("The", add_special_tokens=False)
    bos = SENTENCEPIECE.encode("<s>", add_special_tokens=False)[-1:]
    assert Detokenizer(SENTENCEPIECE, bos).push(word).text == "The"
    assert Detokenizer(SENTENCEPIECE, bos + word).push(word).text == " The"
    assert Detokenizer(SENTENCEPIECE, bos, skip_special_tokens=False).push(word).text == " The"


def test_bytes_that_are_no_text_become_replacement_characters_at_the_end() -> None:
    (lead,) = bytes_as_tokens(b"\xf0")
    detokenizer = Detokenizer(BYTE_LEVEL, PROMPT)
    assert detokenizer.push([lead]).text == ""
    assert detokenizer.flush() == "\ufffd"


def test_nothing_may_follow_a_stop_string() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, PROMPT, ["a"])
    ids = BYTE_LEVEL.encode("a", add_special_tokens=False)
    assert detokenizer.push(ids).stop_text == "a"
    assert detokenizer.flush() == ""
    with pytest.raises(AssertionError):
        detokenizer.push(ids)


def test_holds_no_more_the_longer_the_text_grows() -> None:
    ids = BYTE_LEVEL.encode("The capital of France. ", add_special_tokens=False)
    detokenizer = Detokenizer(BYTE_LEVEL, PROMPT, ["never said"])
    detokenizer.push(ids * 10)
    tracemalloc.start()
    for _ in range(500):
        detokenizer.push(ids)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10_000


def bytes_as_tokens(data: bytes) -> list[int]:
    """The single-byte tokens of these bytes."""
    by_bytes = {BYTE_LEVEL.token_bytes(i): i for i in range(3, 259)}
    return [by_bytes[bytes([byte])] for byte in data]
