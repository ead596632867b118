from __future__ import annotations

import pytest

from engine.grammar_compiler import GrammarCompiler, GrammarError
from engine.messages import Vocabulary
from server.grammars import Grammar, json_part, lark_part, regex_part

END, MARK, PAIR = 256, 257, 258
TOKENS = [bytes([byte]) for byte in range(256)] + [b"<end>", b"<mark>", b"ab"]
VOCAB_SIZE = 300


def vocabulary(eos_token_ids: list[int] | None = None) -> Vocabulary:
    return Vocabulary(TOKENS, [END, MARK], [END] if eos_token_ids is None else eos_token_ids)


def regex(pattern: str) -> str:
    return Grammar("", "start: @answer", (("answer", regex_part(pattern)),)).text


def allowed(mask: bytes | None) -> set[int]:
    assert mask is not None
    assert len(mask) == -(-VOCAB_SIZE // 32) * 4
    return {token_id for token_id in range(len(mask) * 8) if mask[token_id // 8] >> (token_id % 8) & 1}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(vocabulary(), VOCAB_SIZE)


def test_a_mask_allows_every_spelling_of_what_may_come(compiler: GrammarCompiler) -> None:
    matcher, mask = compiler.compile(regex("abc?"))
    assert allowed(mask) == {ord("a"), PAIR}
    assert allowed(compiler.advance(matcher, PAIR)) == {ord("c"), END}
    assert compiler.advance(matcher, ord("c")) is None


def test_an_end_token_may_come_only_where_the_text_may_end(compiler: GrammarCompiler) -> None:
    matcher, mask = compiler.compile(regex("a+"))
    assert END not in allowed(mask)
    assert allowed(compiler.advance(matcher, ord("a"))) == {ord("a"), END}
    assert compiler.advance(matcher, END) is None


def test_marks_and_missing_tokens_never_come(compiler: GrammarCompiler) -> None:
    _, mask = compiler.compile(regex("(.|\n)+"))
    assert allowed(mask).isdisjoint({END, MARK, *range(len(TOKENS), VOCAB_SIZE)})
    assert {ord("<"), ord("\n"), PAIR, 0xC3} <= allowed(mask)


def test_a_model_without_an_end_token_ends_by_the_grammar() -> None:
    compiler = GrammarCompiler(vocabulary(eos_token_ids=[]), VOCAB_SIZE)
    matcher, mask = compiler.compile(regex("ab?"))
    assert allowed(mask) == {ord("a"), PAIR}
    assert allowed(compiler.advance(matcher, ord("a"))) & set(range(VOCAB_SIZE)) == {ord("b")}
    assert compiler.advance(matcher, ord("b")) is None


def test_several_end_tokens_may_come() -> None:
    compiler = GrammarCompiler(vocabulary(eos_token_ids=[MARK, END]), VOCAB_SIZE)
    matcher, _ = compiler.compile(regex("a+"))
    assert {MARK, END} <= allowed(compiler.advance(matcher, ord("a")))


def test_tokens_beyond_the_model_never_come() -> None:
    compiler = GrammarCompiler(vocabulary(eos_token_ids=[]), 200)
    _, mask = compiler.compile(regex("(.|\n)+"))
    assert len(mask) == 28


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        (regex("(a"), "unclosed group"),
        (regex(""), "no text but the empty one"),
        (Grammar("", "start: @answer", (("answer", json_part({"$ref": "#"})),)).text, "matches no text"),
        (Grammar("", "start: @answer", (("answer", lark_part("start: a\na: a")),)).text, "matches no text"),
        (Grammar("", "start: @answer", (("answer", json_part({"not": {}})),)).text, 'keys: ["not"]'),
        ("not even JSON", "JSON"),
    ],
)
def test_bad_grammars_are_refused_with_a_reason(
    compiler: GrammarCompiler, grammar: str, problem: str
) -> None:
    with pytest.raises(GrammarError) as raised:
        compiler.compile(grammar)
    assert problem.lower() in str(raised.value).lower()
    assert "\n" not in str(raised.value)


def test_a_token_that_the_mask_forbids_is_an_error(compiler: GrammarCompiler) -> None:
    matcher, _ = compiler.compile(regex("ab"))
    with pytest.raises(GrammarError):
        compiler.advance(matcher, ord("x"))


def test_a_grammar_that_becomes_too_complex_is_an_error(compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {f"p{index}": {} for index in range(2500)}}
    matcher, mask = compiler.compile(Grammar("", "start: @answer", (("answer", json_part(schema)),)).text)
    assert allowed(mask) == {ord("{")}
    with pytest.raises(GrammarError):
        compiler.advance(matcher, ord("{"))
