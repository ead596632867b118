"""Which tokens min_p, top_k and top_p leave, in this order, and the draw among them.

    kept = tokens of at least min_p times the largest probability
    kept = tokens at least as probable as the top_k-th most probable
    kept = the shortest head of the kept, by probability, whose mass reaches top_p of theirs

Each is a threshold on the probability, so tokens that tie at the edge stay together. The draw inverts the
cumulative distribution in the vocabulary's order. Plain torch: the CPU path, and the truth for the kernels of
`find_threshold.py`, which look for the same thresholds without sorting.
"""

from __future__ import annotations

import torch

NUM_TOP_P_CANDIDATES = 256
"""Tokens that top_p sorts at first; a row whose p they do not reach is sorted as a whole."""


def draw_reference(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    filters: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """Draw one token id for each row of logits.

    Args:
        logits: [num_rows, vocab] float32. Rows that are not finite draw from a flat distribution.
        temperature: [num_rows, 1], above 0.
        filters: top_k, top_p and min_p, each [num_rows, 1]; None where no row filters.
        uniform: [num_rows] float64 in [0, 1).
    """
    # Differences to the maximum can be divided by any temperature.
    scaled = (logits - logits.amax(-1, keepdim=True)).div_(temperature)
    probs = torch.softmax(scaled.nan_to_num_(nan=0.0, posinf=0.0), dim=-1)
    if filters is not None:
        probs = probs * (probs >= least_kept(probs, *filters))
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]


def least_kept(
    probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """Return the least probability [num_rows, 1] that passes; 0, 1 and 0 keep all tokens."""
    vocab_size = probs.shape[-1]
    threshold = min_p * probs.amax(-1, keepdim=True)
    max_top_k, has_top_p = int(top_k.max()), bool((top_p < 1).any())
    num_candidates = max(max_top_k, NUM_TOP_P_CANDIDATES if has_top_p else 0)
    if num_candidates == 0:
        return threshold
    candidates = probs.topk(min(num_candidates, vocab_size), dim=-1).values
    if max_top_k:
        kth = candidates.gather(1, (top_k - 1).clamp(0, candidates.shape[1] - 1))
        threshold = torch.where(top_k > 0, torch.maximum(threshold, kth), threshold)
    if not has_top_p:
        return threshold
    mass = top_p * (probs * (probs >= threshold)).sum(-1, keepdim=True, dtype=torch.float64)
    nucleus = _nucleus_edge(candidates, mass)
    unreached = (candidates.sum(-1, keepdim=True, dtype=torch.float64) < mass) & (top_p < 1)
    if num_candidates < vocab_size and unreached.any():
        index = unreached[:, 0].nonzero()[:, 0]
        nucleus[index] = _nucleus_edge(probs[index].sort(-1, descending=True).values, mass[index])
    return torch.where(top_p < 1, torch.maximum(threshold, nucleus), threshold)


def _nucleus_edge(descending: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Return the smallest member [num_rows, 1] of the shortest head whose sum reaches `mass`."""
    cumulative = descending.cumsum(-1, dtype=torch.float64)
    num_below = (cumulative < mass).sum(-1, keepdim=True)
    return descending.gather(1, num_below.clamp(max=descending.shape[1] - 1))
