"""The engine process: `python -m engine --channel-fd N --config JSON`, started by the server.

It ends with code 0 when the server says so or is gone, and with 1 after a Fatal frame.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.channel import EngineChannel
from engine.config import EngineConfig
from engine.core import HEARTBEAT_INTERVAL_S, EngineCore
from engine.encoder_config import EncoderConfig
from engine.encoder_scheduler import EncoderScheduler
from engine.errors import ChannelClosedError, ModelLoadError
from engine.grammars import Grammars
from engine.host import limit_spinning
from engine.messages import EngineStats, Fatal, FatalCause, Heartbeat, Loading
from engine.pulse import Pulse
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.core import Runner

    OnProgress = Callable[[str, int, int], None]
    Load = Callable[[EngineConfig, OnProgress], Runner]

ORPHAN_GRACE_S = 5.0
"""How long loading or a step may go on after the server has gone."""

logger = logging.getLogger("engine")


def main(argv: Sequence[str] | None = None, load: Load | None = None) -> int:
    """Run the engine process. Return its exit code."""
    arguments = _parse(argv)
    limit_spinning()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too, but the server decides
    connection = socket.socket(fileno=arguments.channel_fd)
    connection.set_inheritable(False)  # or a child of ours could hide our end from the server
    channel = EngineChannel(connection)
    threading.Thread(target=_end_orphan, args=(channel,), name="engine-orphan", daemon=True).start()
    try:
        _serve(msgspec.json.decode(arguments.config, type=EngineConfig), load or _load_model, channel)
    except ChannelClosedError:
        logger.info("the server is gone")
    except Exception as error:  # noqa: BLE001 - the border of the process
        _report(error, channel)
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engine", description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True, help="descriptor of a stream socket")
    parser.add_argument("--config", required=True, help="an EngineConfig as JSON")
    return parser.parse_args(argv)


def _load_model(config: EngineConfig, on_progress: OnProgress) -> Runner:
    # torch takes seconds to import: the server waits for frames
    encoder = EncoderConfig.find(Path(config.model_path))
    if encoder is not None:
        from engine.encoder_runner import EncoderRunner

        return EncoderRunner.load(config, encoder, on_progress)
    from engine.model_runner import ModelRunner

    return ModelRunner.load(config, on_progress)


def _serve(config: EngineConfig, load: Load, channel: EngineChannel) -> None:
    with _beating(channel):
        runner = load(config, lambda stage, done, total: channel.send(Loading(stage, done, total)))
    scheduler = _make_scheduler(config, runner)
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector need not walk it in the middle of a step
    core = EngineCore(runner, scheduler, channel, Grammars(runner.info.vocab_size, channel.wake))
    threading.Thread(target=_beat, args=(channel, core), name="engine-pulse", daemon=True).start()
    try:
        core.run()
    finally:
        gc.unfreeze()  # or extension modules take what is left at exit for leaks, and say so


def _make_scheduler(config: EngineConfig, runner: Runner) -> Scheduler | EncoderScheduler:
    info = runner.info
    if not info.can_generate:
        return EncoderScheduler(runner.max_num_seqs, runner.max_num_batched_tokens, info.max_model_len)
    return Scheduler(
        info.num_blocks,
        info.block_size,
        runner.max_num_seqs,
        runner.max_num_batched_tokens,
        info.max_model_len,
        config.enable_prefix_caching,
        config.max_loras,
        config.long_prefill_token_threshold,
    )


@contextlib.contextmanager
def _beating(channel: EngineChannel) -> Iterator[None]:
    """Show the server that the process is alive, however long it loads."""
    is_over = threading.Event()

    def beat() -> None:
        with contextlib.suppress(ChannelClosedError):
            while not is_over.wait(HEARTBEAT_INTERVAL_S):
                channel.send(Heartbeat(EngineStats()))

    beating = threading.Thread(target=beat, name="engine-loading", daemon=True)
    beating.start()
    try:
        yield
    finally:
        is_over.set()
        beating.join()


def _beat(channel: EngineChannel, core: EngineCore) -> None:
    """Show the server that the loop is alive, also while a step takes its time."""
    pulse = Pulse(lambda: core.num_turns)
    with contextlib.suppress(ChannelClosedError):
        while True:
            time.sleep(HEARTBEAT_INTERVAL_S)
            if pulse.beats():
                channel.send(Heartbeat(core.stats))


def _report(error: Exception, channel: EngineChannel) -> None:
    if isinstance(error, ModelLoadError):
        logger.error("%s", error)
        message = str(error)
    else:
        logger.error("the engine failed", exc_info=error)
        message = f"{type(error).__name__}: {error}"
    with contextlib.suppress(ChannelClosedError):
        channel.send(Fatal(message, _cause_of(error)))


def _cause_of(error: Exception) -> FatalCause:
    """What anybody may be told. torch's errors are known by name, as torch may not be imported."""
    if isinstance(error, ModelLoadError):
        return FatalCause.LOADING
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FatalCause.OUT_OF_MEMORY
    if type(error).__name__ == "AcceleratorError":
        return FatalCause.DEVICE
    return FatalCause.INTERNAL


def _end_orphan(channel: EngineChannel) -> None:
    channel.wait_closed()
    time.sleep(ORPHAN_GRACE_S)
    os._exit(1)  # loading or a step hangs, and nobody is left to end us


if __name__ == "__main__":
    sys.exit(main())
