"""Log probabilities of the model's raw distribution, as a response reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.messages import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


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
            top_first = sorted(zip(listed, values, strict=True), key=lambda pair: -pair[1])
            described[row] = msgspec.structs.replace(described[row], top=top_first)
    return described
