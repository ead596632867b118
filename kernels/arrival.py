"""Programs that share a result, and leave what is left to do to the last of them.

Where each program makes a part of a result, it stores the part and asks `is_last`. The one that is told so
sees all parts and makes the result of them, in an order that does not depend on who came when. That spares a
second kernel. Each group of programs has a counter, which is zero between kernels.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

MAX_NUM_GROUPS = 4096


@triton.jit
def is_last(counter_ptr, num_programs):
    """Whether the other programs of this group have all been here; what they stored before is then visible.

    Each of the group's `num_programs` calls this once. The last leaves the counter at zero.
    """
    tl.debug_barrier()  # all threads have stored
    num_before = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    if num_before == num_programs - 1:
        tl.store(counter_ptr, 0)
    return num_before == num_programs - 1


@cache
def arrival_counters(device: torch.device) -> torch.Tensor:
    """Return MAX_NUM_GROUPS int32 zeros, always the same.

    All kernels of a device share them, so no two of these may run at the same time. The first call may not
    be one that a CUDA graph captures.
    """
    assert device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
    return torch.zeros(MAX_NUM_GROUPS, dtype=torch.int32, device=device)
