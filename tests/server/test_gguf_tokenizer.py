from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_tokenizer
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from server.gguf_tokenizer import read_gguf_tokenizer, tokenizer_from_metadata
from server.tokenizer import Tokenizer
from server.tokenizer_source import TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

    import tokenizers

BYTE_LEVEL = tiny_tokenizer.byte_level()
SENTENCEPIECE = tiny_tokenizer.sentencepiece()
FROM_SCORES = tokenizer_from_metadata(
    tiny_tokenizer.gguf_metadata(
        SENTENCEPIECE, "llama", bos_token_id=1, eos_token_id=2, unknown_token_id=0, chat_template="{{ 1 }}"
    )
)


def backend_with(pre: str, **entries: Any) -> tokenizers.Tokenizer:
    return tokenizer_from_metadata(
        tiny_tokenizer.gguf_metadata(BYTE_LEVEL, "gpt2", pre=pre, **entries)
    ).backend


def words(pre: str, text: str) -> list[str]:
    """How the pre-tokenizer cuts a text of ASCII letters."""
    pre_tokenizer = backend_with(pre).pre_tokenizer
    assert pre_tokenizer is not None
    return [word.replace("Ġ", " ").replace("Ċ", "\n") for word, _ in pre_tokenizer.pre_tokenize_str(text)]


def test_default_model_encodes_as_its_makers_tokenizer(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm2_path)
    ids = [788, 216, 33, 41, 41, 40, 28, 216, 35, 28, 33, 36, 33, 7680, 30]
    assert tokenizer.encode("In 1998, 3,141 cats.", add_special_tokens=True) == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "In 1998, 3,141 cats."


def test_default_model_knows_its_marks_and_its_template(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm2_path)
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (49152, 1, (2,))
    assert tokenizer.chat_template is not None
    prompt = tokenizer.chat_template.render([{"role": "user", "content": "Hi"}])
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 3, 2)
    assert tokenizer.decode(ids, skip_special_tokens=False) == prompt


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["I", "'ve", " ", "1", "2", "3", "4", " cats", "!", "\n", "\n", "x"]),
        ("gpt-2", ["I", "'ve", " 1234", " cats", "!", "\n", "\n", "x"]),
        ("llama-bpe", ["I", "'ve", " ", "123", "4", " cats", "!\n\n", "x"]),
        ("qwen2", ["I", "'ve", " ", "1", "2", "3", "4", " cats", "!\n\n", "x"]),
    ],
)
def test_pre_tokenizers_cut_as_the_original_models_do(pre: str, expected: list[str]) -> None:
    assert words(pre, "I've 1234 cats!\n\nx") == expected


@given(st.text())
def test_byte_level_metadata_gives_the_tokenizer_back(text: str) -> None:
    assert GPT2.encode(text).ids == BYTE_LEVEL.encode(text).ids


@given(st.text(st.sampled_from("The capital of France is Paris. 東京🎉\n"), max_size=40))
def test_sentencepiece_scores_give_the_tokenizer_back(text: str) -> None:
    ids = FROM_SCORES.backend.encode(text, add_special_tokens=False).ids
    assert ids == SENTENCEPIECE.encode(text).ids
    assert FROM_SCORES.backend.decode(ids) == text


def test_sentencepiece_adds_bos_unless_the_file_says_no() -> None:
    assert FROM_SCORES.backend.encode("The").ids[0] == 1
    metadata = tiny_tokenizer.gguf_metadata(SENTENCEPIECE, "llama", bos_token_id=1, add_bos_token=False)
    assert tokenizer_from_metadata(metadata).backend.encode("The").ids[0] != 1


def test_sentencepiece_without_a_space_prefix() -> None:
    metadata = tiny_tokenizer.gguf_metadata(SENTENCEPIECE, "llama", add_space_prefix=False)
    backend = tokenizer_from_metadata(metadata).backend
    assert backend.decode(backend.encode(" The").ids) == " The"
    assert backend.encode("The").ids != SENTENCEPIECE.encode("The").ids


def test_llama3_adds_bos_and_the_file_can_ask_for_eos() -> None:
    assert backend_with("llama-bpe", bos_token_id=0).encode("x").ids[0] == 0
    both = backend_with("gpt-2", bos_token_id=0, eos_token_id=1, add_bos_token=True, add_eos_token=True)
    assert both.encode("x").ids[::2] == [0, 1]


def test_qwen2_composes_characters() -> None:
    assert backend_with("qwen2").encode("e\u0301").ids == backend_with("qwen2").encode("é").ids


def test_marks_are_special_and_found_in_text() -> None:
    source = tokenizer_from_metadata(tiny_tokenizer.gguf_metadata(BYTE_LEVEL, "gpt2", pre="gpt-2"))
    assert Tokenizer(source).encode("<|user|>", add_special_tokens=False) == [1]
    assert Tokenizer(source).is_special(1)


def test_every_token_that_ends_an_output_is_known() -> None:
    metadata = tiny_tokenizer.gguf_metadata(
        BYTE_LEVEL, "gpt2", pre="gpt-2", eos_token_id=0, eot_token_id=2, eom_token_id=0
    )
    assert tokenizer_from_metadata(metadata).eos_token_ids == (0, 2)


def test_several_chat_templates() -> None:
    entries = {"chat_template": "a", "chat_templates": ["tool_use"], "chat_template.tool_use": "b"}
    metadata = tiny_tokenizer.gguf_metadata(BYTE_LEVEL, "gpt2", pre="gpt-2")
    metadata |= {f"tokenizer.{name}": value for name, value in entries.items()}
    assert tokenizer_from_metadata(metadata).chat_templates == {"default": "a", "tool_use": "b"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "rwkv"),
        ({"tokenizer.ggml.pre": "viking"}, "viking"),
    ],
)
def test_unknown_kinds_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    metadata = tiny_tokenizer.gguf_metadata(BYTE_LEVEL, "gpt2", pre="gpt-2") | change
    with pytest.raises(TokenizerError, match=named):
        tokenizer_from_metadata(metadata)


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    writer = GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(TokenizerError, match=r"bare\.gguf: no entry 'tokenizer\.ggml\.model'"):
        read_gguf_tokenizer(path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("hello")
    with pytest.raises(TokenizerError, match=r"text\.gguf"):
        read_gguf_tokenizer(path)


GPT2 = backend_with("gpt-2")
