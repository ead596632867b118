from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import tiny_tokenizer
from fakes import make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from server.tokenizer import InvalidTextError, Tokenizer
from server.tokenizer_source import TokenizerError, TokenizerSource

if TYPE_CHECKING:
    from pathlib import Path

BYTE_LEVEL = tiny_tokenizer.byte_level()
TOKENIZER = Tokenizer(TokenizerSource(BYTE_LEVEL))
END, USER, ASSISTANT = range(3)


def load(folder: Path, **configs: dict[str, Any]) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer.write_folder(folder, BYTE_LEVEL, **configs))


@given(st.text())
def test_decode_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, True), skip_special_tokens=False) == text


def test_decode_can_drop_special_tokens() -> None:
    ids = TOKENIZER.encode("<|user|>Hi<|end|>", add_special_tokens=False)
    assert (ids[0], ids[-1]) == (USER, END)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "Hi"


def test_nul_is_text_and_a_lone_surrogate_is_not() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\0b", False), skip_special_tokens=True) == "a\0b"
    with pytest.raises(InvalidTextError, match="lone surrogate at character 2"):
        TOKENIZER.encode("ab\ud800", add_special_tokens=False)


def test_describes_its_tokens() -> None:
    space = TOKENIZER.encode(" ", add_special_tokens=False)[0]
    assert (TOKENIZER.token_text(space), TOKENIZER.token_bytes(space)) == ("Ġ", b" ")
    assert TOKENIZER.token_text(10**6) == ""
    assert TOKENIZER.token_bytes(10**6) == b""
    assert TOKENIZER.is_special(USER)
    assert not TOKENIZER.is_special(space)
    assert TOKENIZER.vocab_size == BYTE_LEVEL.get_vocab_size()


def test_fingerprint_covers_vocabulary_and_template() -> None:
    def fingerprint(vocab_size: int, template: str | None) -> str:
        templates = {"default": template} if template else {}
        backend = tiny_tokenizer.byte_level(vocab_size)
        return Tokenizer(TokenizerSource(backend, chat_templates=templates)).fingerprint

    prints = {fingerprint(300, None), fingerprint(300, "a"), fingerprint(300, "b"), fingerprint(301, "a")}
    assert len(prints) == 4
    assert fingerprint(300, "a") in prints


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_bos_is_added_where_transformers_adds_it(
    tmp_path: Path, flags: dict[str, bool], adds_bos: bool
) -> None:
    backend = tiny_tokenizer.byte_level()
    if adds_bos:
        backend.post_processor = TemplateProcessing(single="<|user|> $A", special_tokens=[("<|user|>", USER)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|user|>", **flags}
    tiny_tokenizer.write_folder(tmp_path, backend, tokenizer_config=config)
    tokenizer, oracle = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for add_special_tokens in (True, False):
        ids = tokenizer.encode("Paris", add_special_tokens)
        assert ids == oracle.encode("Paris", add_special_tokens=add_special_tokens)
        assert (ids[0] == tokenizer.bos_token_id) == (adds_bos and add_special_tokens)


def test_a_special_token_that_is_only_in_the_config_is_found_in_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, tokenizer_config={"eos_token": "Ġ", "pad_token": "<not in the vocabulary>"})
    (space,) = tokenizer.eos_token_ids
    assert tokenizer.is_special(space)
    assert tokenizer.vocab_size == BYTE_LEVEL.get_vocab_size()


def test_eos_ids_are_those_of_tokenizer_and_generation_config(tmp_path: Path) -> None:
    tokenizer = load(
        tmp_path,
        tokenizer_config={"eos_token": "<|end|>"},
        generation_config={"eos_token_id": [ASSISTANT, END]},
        config={"eos_token_id": USER},
    )
    assert tokenizer.eos_token_ids == (END, ASSISTANT)


def test_eos_id_of_the_model_config_counts_where_there_is_no_other(tmp_path: Path) -> None:
    assert load(tmp_path / "a", config={"eos_token_id": USER}).eos_token_ids == (USER,)
    assert load(tmp_path / "b").eos_token_ids == ()


def test_older_special_tokens_map_is_read(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, special_tokens_map={"bos_token": {"content": "<|user|>"}})
    assert tokenizer.bos_token_id == USER


def template_of(tokenizer: Tokenizer, tools: bool = False) -> str:
    assert tokenizer.chat_template is not None
    tool = {"type": "function", "function": {"name": "f"}}
    return tokenizer.chat_template.render([{"role": "user", "content": "x"}], [tool] if tools else None)


def test_template_files_go_before_the_config(tmp_path: Path) -> None:
    configs = {"tokenizer_config": {"chat_template": "from tokenizer_config.json"}}
    assert template_of(load(tmp_path, **configs)) == "from tokenizer_config.json"
    configs["chat_template"] = {"chat_template": "from chat_template.json"}
    assert template_of(load(tmp_path, **configs)) == "from chat_template.json"
    (tmp_path / "chat_template.jinja").write_text("from chat_template.jinja")
    assert template_of(load(tmp_path, **configs)) == "from chat_template.jinja"
    (tmp_path / "mine.jinja").write_text("mine: {{ messages[0].content }}")
    assert template_of(Tokenizer.load(tmp_path, tmp_path / "mine.jinja")) == "mine: x"
    assert template_of(Tokenizer.load(tmp_path, "itself: {{ messages[0].content }}")) == "itself: x"


def test_a_template_of_its_own_for_tools(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }}"},
    ]
    tokenizer = load(tmp_path, tokenizer_config={"chat_template": named})
    assert (template_of(tokenizer), template_of(tokenizer, tools=True)) == ("plain", "1")


def test_additional_chat_templates_are_read(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    tokenizer = load(tmp_path, tokenizer_config={"chat_template": "plain"})
    assert (template_of(tokenizer), template_of(tokenizer, tools=True)) == ("plain", "with tools")


def test_templates_get_the_special_tokens(tmp_path: Path) -> None:
    config = {"bos_token": "<|user|>", "chat_template": "{{ bos_token }}{{ eos_token is defined }}"}
    assert template_of(load(tmp_path, tokenizer_config=config)) == "<|user|>False"


def test_a_folder_need_not_have_a_template(tmp_path: Path) -> None:
    assert load(tmp_path).chat_template is None


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path: Path) -> None:
    backend = tiny_tokenizer.byte_level()
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.load(tiny_tokenizer.write_folder(tmp_path, backend))
    assert tokenizer.encode("a, b, c", True) == BYTE_LEVEL.encode("a, b, c").ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("generation_config.json", "\ud800"),
        ("tokenizer_config.json", '{"chat_template": "{% if %}"}'),
        ("chat_template.jinja", "{% endfor %}"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    tiny_tokenizer.write_folder(tmp_path, BYTE_LEVEL)
    (tmp_path / name).write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_missing_template_file_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer.write_folder(tmp_path, BYTE_LEVEL)
    with pytest.raises(TokenizerError, match="absent"):
        Tokenizer.load(tmp_path, tmp_path / "absent.jinja")


def test_older_files_are_converted(tmp_path: Path) -> None:
    tiny_tokenizer.write_folder(
        tmp_path,
        BYTE_LEVEL,
        tokenizer_config={"tokenizer_class": "GPT2Tokenizer"},
        config={"model_type": "gpt2"},
    )
    BYTE_LEVEL.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    ids = Tokenizer.load(tmp_path).encode("In 1998", add_special_tokens=False)
    assert ids == BYTE_LEVEL.encode("In 1998").ids


def test_the_server_process_need_not_import_torch_or_transformers() -> None:
    code = (
        "import server.tokenizer, server.detokenizer, server.model_store, server.generation_defaults, sys;"
        "print({'torch', 'transformers', 'numpy'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_others_go_on_while_a_long_text_is_encoded() -> None:
    """The event loop is one of them."""
    encoding = threading.Thread(target=make_tokenizer().encode, args=("a b " * 500_000, False))
    encoding.start()
    num_turns = 0
    while encoding.is_alive():
        num_turns += 1
        time.sleep(0.001)
    assert num_turns > 10
