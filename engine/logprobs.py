"""Log probabilities of the model's raw distribution, as a response reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.messages import TokenLogprobs
from engine.upload import to_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from engine.messages import SamplingParams
    from kernels.describe_tokens import Descriptions


def token_logprobs(
    logits: Tensor,
    token_ids: Tensor,
    num_top: Sequence[int],
    listed_ids: Sequence[Sequence[int]] | None = None,
) -> list[TokenLogprobs]:
    """Describe one token of each row.

    Args:
        logits: [num_rows, vocab] float32, as the model gave them.
        token_ids: [num_rows] int64, each in the vocabulary.
        num_top: how many most likely tokens each row reports.
        listed_ids: the tokens that each row reports instead, where it lists any.
    """
    if not num_top:
        return []
    normaliser = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, token_ids[:, None])
    logprobs = (chosen - normaliser)[:, 0].tolist()
    ranks = ((logits > chosen).sum(-1) + 1).tolist()
    top = logits.topk(min(max(num_top), logits.shape[-1]), dim=-1)
    top_logprobs = (top.values - normaliser).tolist()
    top_ids = top.indices.tolist()
    described = [
        TokenLogprobs(
            token_id=token_id,
            logprob=logprobs[row],
            rank=ranks[row],
            top=list(zip(top_ids[row][:count], top_logprobs[row][:count], strict=True)),
        )
        for row, (token_id, count) in enumerate(zip(token_ids.tolist(), num_top, strict=True))
    ]
    for row, listed in enumerate(listed_ids or ()):
        if listed:
            values = (logits[row, list(listed)] - normaliser[row]).tolist()
            described[row] = msgspec.structs.replace(described[row], top=_best_first(listed, values))
    return described


class PendingLogprobs:
    """Descriptions of a step's tokens, on their way to the host.

    Args:
        descriptions: of the step's tokens, on the device; they may be overwritten by later steps.
        asked: what the tokens' sequences ask for, of those that ask, by place in the step; not empty.
        vocab_size: no sequence gets more than all tokens.
    """

    def __init__(
        self, descriptions: Descriptions, asked: Mapping[int, SamplingParams], vocab_size: int
    ) -> None:
        most = max(sampling.num_logprobs or 0 for sampling in asked.values())
        most_listed = max(len(sampling.logprob_token_ids) for sampling in asked.values())
        self._asked = asked
        self._vocab_size = vocab_size
        self._logprobs = to_host(descriptions.logprobs)
        self._ranks = to_host(descriptions.ranks)
        self._top_ids = to_host(descriptions.top_ids[:, :most])
        self._top_logprobs = to_host(descriptions.top_logprobs[:, :most])
        self._listed_logprobs = to_host(descriptions.listed_logprobs[:, :most_listed])

    def collect(self, token_ids: Sequence[int]) -> dict[int, TokenLogprobs]:
        """Describe the tokens, by place, once the copies are there."""
        return {index: self._describe(index, token_ids[index]) for index in self._asked}

    def _describe(self, index: int, token_id: int) -> TokenLogprobs:
        sampling = self._asked[index]
        if sampling.logprob_token_ids:
            listed = sampling.logprob_token_ids
            top = _best_first(listed, self._listed_logprobs[index, : len(listed)].tolist())
        else:
            count = min(sampling.num_logprobs or 0, self._vocab_size)
            logprobs = self._top_logprobs[index, :count].tolist()
            top = list(zip(self._top_ids[index, :count].tolist(), logprobs, strict=True))
        return TokenLogprobs(
            token_id=max(token_id, 0),
            logprob=self._logprobs[index].item(),
            rank=int(self._ranks[index]),
            top=top,
        )


def _best_first(token_ids: Sequence[int], logprobs: Sequence[float]) -> list[tuple[int, float]]:
    return sorted(zip(token_ids, logprobs, strict=True), key=lambda pair: -pair[1])
