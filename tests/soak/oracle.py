"""What each question is answered with when nobody else asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagewire import AsyncClient

LENGTHS = (4, 24, 200)
"""Tokens of an answer."""
_SHARED = "the capital of France is Paris and the model answers user and assistant in the system "
_ENDINGS = ("a", "the", "user", "Paris", "capital of", "system and", "model answers the", "is is is")


@dataclass(frozen=True)
class Question:
    """A prompt and how many tokens are wanted, greedily, whatever they are."""

    prompt: str
    is_chat: bool
    num_tokens: int

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


@dataclass(frozen=True)
class Answer:
    token_ids: tuple[int, ...]
    text: str


def questions() -> list[Question]:
    """Prompts of three shared beginnings, long and short."""
    prompts = [_SHARED * repeats + ending for repeats in (0, 1, 3) for ending in _ENDINGS]
    return [
        Question(prompt, is_chat, num_tokens)
        for prompt in prompts
        for is_chat in (False, True)
        for num_tokens in LENGTHS
    ]


async def ask_alone(client: AsyncClient, question: Question) -> Answer:
    """Ask with a cold cache."""
    response = await client.generate(
        None if question.is_chat else question.prompt,
        messages=question.messages if question.is_chat else None,
        max_tokens=question.num_tokens,
        temperature=0.0,
        ignore_eos=True,
        token_ids=True,
        bypass_prefix_cache=True,
    )
    (choice,) = response.choices
    assert len(choice.token_ids) == question.num_tokens
    return Answer(tuple(choice.token_ids), choice.text)
