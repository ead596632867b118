"""Whether requests are welcome: the model is loaded, the engine runs, and nobody wants us to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.engine import Engine
    from server.served_model import ModelSlot


class Readiness:
    """One truth for health checks, admission and operators."""

    def __init__(self, engine: Engine, models: ModelSlot) -> None:
        self._engine = engine
        self._models = models
        self.refusal: str | None = None
        """Why nothing is taken any more, not even what needs no engine."""
        self._next_change = asyncio.Event()

    @property
    def not_ready_reason(self) -> str | None:
        """Why no request can be taken; None while requests are welcome."""
        if self.refusal is not None:
            return self.refusal
        if not self._models.is_loaded:
            return "the model is loading"
        return self._engine.not_ready_reason

    @property
    def next_change(self) -> asyncio.Event:
        """Set when readiness may have changed. Take it before reading the reason, to miss no change."""
        return self._next_change

    def refresh(self) -> None:
        """Note that the reason may have changed."""
        self._next_change.set()
        self._next_change = asyncio.Event()

    def refuse_new(self, reason: str = "the server is draining") -> None:
        """Be not ready from now on."""
        self.refusal = reason
        self.refresh()
