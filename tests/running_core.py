"""The engine's loop on a thread, and the server's end of its channel."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from server_end import ServerEnd

from engine.channel import EngineChannel
from engine.core import EngineCore
from engine.grammars import Grammars
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from engine.core import Runner
    from engine.messages import Command


class RunningCore:
    def __init__(self, runner: Runner) -> None:
        self.server = ServerEnd()
        info = runner.info
        scheduler = Scheduler(
            info.num_blocks,
            info.block_size,
            runner.max_num_seqs,
            runner.max_num_batched_tokens,
            info.max_model_len,
        )
        self._channel = channel = EngineChannel(self.server.theirs)
        self._core = EngineCore(runner, scheduler, channel, Grammars(info.vocab_size, channel.wake))
        self._thread = threading.Thread(target=self._run)
        self._error: Exception | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self._core.run()
        except Exception as error:  # noqa: BLE001 - handed to the test's thread
            self._error = error

    def deliver(self, command: Command) -> None:
        """Send a command, and wait until it lies in the engine's inbox."""
        self.server.send(command)
        while not self._channel._commands:
            time.sleep(0.001)

    def wait_ended(self) -> Exception | None:
        self._thread.join(30.0)
        assert not self._thread.is_alive()
        return self._error
