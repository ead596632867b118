from __future__ import annotations

import pytest
import tiny_tokenizer
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models

from server.token_bytes import TokenBytes
from server.tokenizer_source import TokenizerError

BYTE_LEVEL = tiny_tokenizer.byte_level()
SENTENCEPIECE = tiny_tokenizer.sentencepiece()


def spelled(backend: tokenizers.Tokenizer, token: str) -> bytes:
    token_id = backend.token_to_id(token)
    assert token_id is not None
    return TokenBytes(backend)(token_id)


# Sentencepiece reads its own mark for a space as a space.
@given(st.text(st.characters(codec="utf-8", exclude_characters="▁")))
@pytest.mark.parametrize("backend", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte level", "sentencepiece"])
def test_the_bytes_of_a_text_are_those_of_its_tokens(backend: tokenizers.Tokenizer, text: str) -> None:
    token_bytes = TokenBytes(backend)
    joined = b"".join(map(token_bytes, backend.encode(text, add_special_tokens=False).ids)).decode()
    assert (joined.removeprefix(" ") if token_bytes.strips_leading_space else joined) == text


def test_byte_level_covers_every_byte() -> None:
    alphabet = {spelled(BYTE_LEVEL, token) for token in BYTE_LEVEL.get_vocab() if len(token) == 1}
    assert alphabet == {bytes([byte]) for byte in range(256)}


def test_sentencepiece_bytes_and_spaces() -> None:
    assert spelled(SENTENCEPIECE, "<0x0A>") == b"\n"
    assert spelled(SENTENCEPIECE, "<0xFF>") == b"\xff"
    assert spelled(SENTENCEPIECE, "▁") == b" "
    assert spelled(SENTENCEPIECE, "<s>") == b"<s>"


def test_added_tokens_are_literal() -> None:
    backend = tiny_tokenizer.byte_level()
    backend.add_special_tokens(["<é>"])
    backend.add_tokens([AddedToken("ein Wort", special=False)])
    assert spelled(backend, "<é>") == "<é>".encode()
    assert spelled(backend, "ein Wort") == b"ein Wort"


def test_unknown_ids_have_no_bytes() -> None:
    assert TokenBytes(BYTE_LEVEL)(1_000_000) == b""


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (None, "none"),
        (decoders.CTC(), "CTC"),
        (decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse()]), "Replace"),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), "ByteLevel"),
    ],
)
def test_other_decoders_are_refused_by_name(decoder: decoders.Decoder | None, named: str) -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(TokenizerError, match=named):
        TokenBytes(backend)


def test_metaspace_strips_the_first_space_unless_it_never_adds_one() -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    assert TokenBytes(backend).strips_leading_space
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    assert not TokenBytes(backend).strips_leading_space


def test_word_pieces_make_words() -> None:
    vocab = {token: index for index, token in enumerate(["[UNK]", "play", "##ing", ".", "it"])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    token_bytes = TokenBytes(backend)
    assert b"".join(map(token_bytes, [1, 2, 4, 3])) == b" playing it."
    assert token_bytes.strips_leading_space
    assert backend.decode([1, 2, 4, 3]) == "playing it."
