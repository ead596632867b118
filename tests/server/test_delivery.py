from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.messages import RequestOutput
from server.delivery import Delivery
from server.histogram import Histogram

if TYPE_CHECKING:
    import pytest


class Outlet:
    """Keeps all that comes."""

    def __init__(self) -> None:
        self.came: list[RequestOutput | BaseException] = []
        self.put = self.fail = self.came.append


def test_all_is_passed_on_and_the_gaps_between_tokens_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    gaps, outlet, error = Histogram((0.1, 1.0)), Outlet(), KeyError("gone")
    delivery = Delivery(outlet, gaps)
    outputs = []
    for seconds, tokens in ((0.0, [1]), (0.5, [2]), (0.5, []), (4.5, [3, 4]), (0.0625, [5])):
        now_s += seconds
        outputs.append(RequestOutput("r", tokens))
        delivery.put(outputs[-1])
    delivery.fail(error)
    assert outlet.came == [*outputs, error]
    assert gaps.samples() == ([("0.1", 1), ("1.0", 2), ("+Inf", 4)], 0.5 + 5.0 + 0.0625)
