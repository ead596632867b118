"""A whole answer: the fold of the same events that a stream sends one by one."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pagewire.v1 import inference_pb2
from translator.chunks import FINISH_REASONS, stop_reason
from translator.tool_calls import ToolCalls
from translator.usage import UsageTally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from translator.generation_group import GenerationGroup


@dataclass(slots=True)
class FoldedChoice:
    """One choice, while it gathers."""

    texts: list[str] = field(default_factory=list)
    reasoning_texts: list[str] = field(default_factory=list)
    calls: ToolCalls = field(default_factory=ToolCalls)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[inference_pb2.TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """The stop text or stop token that ended it."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        """The whole reasoning."""
        return "".join(self.reasoning_texts)


@dataclass(frozen=True, slots=True)
class Folded:
    """All choices of a request."""

    choices: list[list[FoldedChoice]]
    """By prompt, then by index."""
    starts: dict[int, inference_pb2.Started]
    """By prompt."""
    tally: UsageTally


async def fold(
    group: GenerationGroup, starts: Mapping[int, inference_pb2.Started], num_choices: int
) -> Folded:
    """Read a request's events to their end.

    Raises:
        ApiError: a generation failed.
    """
    choices = [[FoldedChoice() for _ in range(num_choices)] for _ in range(len(group))]
    folded = Folded(choices, dict(starts), UsageTally())
    async with aclosing(group.events()) as events:
        async for prompt, event in events:
            match event:
                case inference_pb2.Delta():
                    _add(folded.choices[prompt], event, folded.tally)
                case inference_pb2.Finished():
                    _end(folded.choices[prompt], event)
                    folded.tally.add_reasoning(event.usage)
                case _:
                    folded.starts[prompt] = event
    for started in folded.starts.values():
        folded.tally.add_prompt(started)
    return folded


def _end(choices: list[FoldedChoice], finished: inference_pb2.Finished) -> None:
    for end in finished.choices:
        choice = choices[end.index]
        choice.finish_reason = FINISH_REASONS[end.finish_reason]
        choice.stop_reason = stop_reason(end)


def _add(choices: list[FoldedChoice], delta: inference_pb2.Delta, tally: UsageTally) -> None:
    for new in delta.choices:
        choice = choices[new.index]
        choice.texts.append(new.text)
        choice.reasoning_texts.append(new.reasoning_text)
        choice.calls.add(new.tool_calls)
        choice.token_ids.extend(new.token_ids)
        choice.logprobs.extend(new.logprobs)
        tally.add(new.num_tokens)
