from __future__ import annotations

import pytest
import torch
import triton


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let a test draw the same numbers every time, so that it passes always or never."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a kernel runs: each test runs on the CPU's interpreter and on the GPU, where there is one."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return torch.device("cuda")
    if not triton.knobs.runtime.interpret:
        assert torch.cuda.is_available(), "Triton was imported before tests/conftest.py set TRITON_INTERPRET"
        pytest.skip("kernels are compiled in this process")
    return torch.device("cpu")
