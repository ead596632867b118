"""`Reasoning` of the contract: checked, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2
    from server.fields import Fields
    from server.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class ReasoningUse:
    """What becomes of a model's reasoning."""

    is_separate: bool = True
    is_excluded: bool = False
    max_tokens: int | None = None


def parse_reasoning(
    fields: Fields, spec: inference_pb2.GenerationSpec, model: ServedModel
) -> ReasoningUse | None:
    """Check how reasoning is to be treated. None: the output is not looked through for any.

    Only a chat has reasoning by itself; for another prompt `reasoning` must be given.
    """
    given = spec.reasoning
    form = model.reasoning_format
    max_tokens = given.max_tokens if given.HasField("max_tokens") else None
    is_separate = not given.HasField("separate") or given.separate
    if form is None:
        needed = "the model has no reasoning format"
        fields.require(max_tokens is None, "spec.reasoning.max_tokens", needed)
        return None
    marks_are_tokens = model.tokenizer.token_id(form.closing) is not None
    if max_tokens is not None and not marks_are_tokens:
        fields.refuse("spec.reasoning.max_tokens", f"{form.closing} is not a token of this model")
    if given.exclude and not is_separate:
        fields.refuse("spec.reasoning.exclude", "excludes `separate` being false")
    if not spec.HasField("chat") and not spec.HasField("reasoning"):
        return None
    return ReasoningUse(is_separate, given.exclude, max_tokens)
