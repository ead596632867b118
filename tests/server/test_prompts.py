"""A text that never fits is refused by its beginning; others are encoded whole. Token ids are packed."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from fakes import INFO, byte_tokenizer, fake_model
from hypothesis import given
from hypothesis import strategies as st

from pagewire.v1 import inference_pb2
from server.errors import ContextLengthError
from server.prompts import Prompt, Truncation, encode_to_fit, packed
from server.tokenizer import Tokenizer

LIMIT = INFO.max_model_len
MODEL = fake_model()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that the tokenizer gets."""
    lengths: list[int] = []
    encode = Tokenizer.encode

    def noted(tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
        lengths.append(len(text))
        return encode(tokenizer, text, add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", noted)
    return lengths


@pytest.mark.check("S12")
def test_a_text_that_never_fits_is_not_read_to_its_end(encoded: list[int]) -> None:
    with pytest.raises(ContextLengthError, match="more than 2048 tokens") as raised:
        encode_to_fit(Prompt("spec.text", text="a" * 1_000_000), None, MODEL)
    assert raised.value.violations[0].field == "spec.text"
    assert encoded == [16 * LIMIT]


def test_what_may_fit_or_is_to_be_cut_is_encoded_whole(encoded: list[int]) -> None:
    text = "a" * (16 * LIMIT)
    assert len(encode_to_fit(Prompt("spec.text", text=text), None, MODEL).token_ids) == len(text)
    longer = Prompt("spec.text", text=text + "b")
    assert len(encode_to_fit(longer, Truncation(5, keeps_end=True), MODEL).token_ids) == len(text) + 1
    assert encoded == [len(text), len(text) + 1]


def test_a_long_text_of_few_tokens_is_encoded_whole(encoded: list[int]) -> None:
    mark = "<" + "-" * 30 + ">"  # 32 characters, one token
    model = replace(MODEL, tokenizer=byte_tokenizer(mark))
    text = mark * LIMIT
    assert len(encode_to_fit(Prompt("spec.text", text=text), None, model).token_ids) == LIMIT
    assert encoded == [16 * LIMIT, 32 * LIMIT]


def test_token_ids_are_taken_as_they_are(encoded: list[int]) -> None:
    token_ids = array("I", [1] * 999)
    assert encode_to_fit(Prompt("spec.token_ids", token_ids=token_ids), None, MODEL).token_ids == token_ids
    assert encoded == []


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_packed_token_ids_are_those_of_the_message(token_ids: list[int]) -> None:
    message = inference_pb2.TokenIds.FromString(inference_pb2.TokenIds(ids=token_ids).SerializeToString())
    assert packed(message.ids) == array("I", token_ids)
