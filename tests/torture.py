"""Makes a coroutine fail at the n-th time it waits, for every n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


@dataclass
class Plan:
    """What happens to the next call of a method, and whether it has."""

    method: str = ""
    fault: Callable[[], BaseException] | None = None
    at: int = 0
    """At which wait, the first being 0."""
    has_happened: bool = False


class Tortured:
    """A coroutine that is run, until it waits for the time of the plan."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], plan: Plan) -> None:
        self._coroutine = coroutine
        self._plan = plan

    def __await__(self) -> Generator[Any, Any, Any]:
        plan, steps = self._plan, self._coroutine.__await__()
        num_waits = 0
        try:
            waits_for = next(steps)
            while True:
                if plan.fault is not None and not plan.has_happened and num_waits == plan.at:
                    plan.has_happened = True
                    waits_for = steps.throw(plan.fault())
                else:
                    num_waits += 1
                    try:
                        yield waits_for
                    except BaseException as raised:  # noqa: BLE001 - a task is cancelled by throwing into it
                        waits_for = steps.throw(raised)
                    else:
                        waits_for = next(steps)
        except StopIteration as end:
            return end.value


class TorturedServicer:
    """Another servicer whose methods fail as the plan says."""

    def __init__(self, servicer: object, plan: Plan) -> None:
        self._servicer = servicer
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._servicer, name)
        if name != self._plan.method and self._plan.method:
            return method

        async def tortured(*arguments: Any) -> Any:
            return await Tortured(method(*arguments), self._plan)

        return tortured
