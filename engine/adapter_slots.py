"""Which LoRA adapters lie on the device, and who may use them.

There may be more adapters in memory than slots. A sequence that runs holds its adapter's slot; a slot that
nobody holds keeps its adapter until another one needs the place, the longest unused first.
"""

from __future__ import annotations

NO_SLOT = 0


class AdapterSlots:
    """Grants slots by number, from 1; the tensors lie elsewhere."""

    def __init__(self, num_slots: int) -> None:
        self._num_holders = [0] * (num_slots + 1)
        self._adapters = [0] * (num_slots + 1)
        self._last_uses = [0] * (num_slots + 1)
        self._num_uses = 0

    def find(self, adapter: int) -> int | None:
        """Return the slot that the adapter has or could have now; None while others hold all of them.

        No adapter, which is 0, needs none: that is slot 0.
        """
        if not adapter:
            return NO_SLOT
        slots = range(1, len(self._adapters))
        for slot in slots:
            if self._adapters[slot] == adapter:
                return slot
        idle = [slot for slot in slots if not self._num_holders[slot]]
        return min(idle, key=self._last_uses.__getitem__, default=None)

    def hold(self, adapter: int, slot: int) -> None:
        """Let one more sequence use the adapter in the slot that `find` named."""
        if slot == NO_SLOT:
            return
        assert self._adapters[slot] == adapter or not self._num_holders[slot], (adapter, slot)
        self._num_uses += 1
        self._adapters[slot] = adapter
        self._last_uses[slot] = self._num_uses
        self._num_holders[slot] += 1

    def release(self, slot: int) -> None:
        """Take back what `hold` gave."""
        if slot != NO_SLOT:
            assert self._num_holders[slot] > 0, slot
            self._num_holders[slot] -= 1
