"""200 readers who do not read: what they cost, when they are cut, and what others notice, in figures.

For a machine that does nothing else: what others notice is a tenth of a step of 50 ms at most.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fake_house import TEMPLATE, FakeHouse
from figures import in_ms, percentile, show
from idle_readers import READERS
from processes import num_files, resident_bytes
from steady_readers import SteadyReaders
from tiny_tokenizer import byte_level, write_folder

from pagewire.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.check("R09"), pytest.mark.slow, pytest.mark.timeout(600)]

NUM_READERS = 200
NUM_OTHERS = 4
LONG_TOKEN = "words " * 160
LITTLE, MUCH = 300, 392
"""Tokens: some letters, and the long one."""
WORDS = {LITTLE: "little", MUCH: "much"}
MAX_TOKENS = 8000
MAX_GROWTH_BYTES = 64 << 20
"""Of each process."""
CUT_AFTER_S = 30.0
PATIENCE_S = 60.0
"""For a machine that is slower, or does more."""
MOST_DELAY = 1.1
"""Of the others, in the median and in the 99th percentile."""
MOST_ROUNDS = 3
"""What else a machine does only adds to delays, so one round without shows what is ours."""
ALONE_S = 10.0
LOOK_S = 0.25
SPARE_FILES = 20

Span = tuple[float, float]
"""From a time to a time, on the clock of `time.monotonic`."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    folder = tmp_path_factory.mktemp("readers")
    tokenizer = byte_level()
    tokenizer.add_tokens([LONG_TOKEN])
    assert tokenizer.token_to_id(LONG_TOKEN) == MUCH
    (folder / "words").mkdir()
    configs: dict[str, Any] = {"config": {}, "tokenizer_config": {"chat_template": TEMPLATE}}
    settings: dict[str, Any] = {
        "model": str(write_folder(folder / "words" / "tiny-model", tokenizer, **configs)),
        "engine": {"max_num_seqs": NUM_READERS + NUM_OTHERS},
        "engine_program": "repeating_engine_program.py",
    }
    with FakeHouse(folder, **settings) as house:
        house.wait_until_served()
        yield house


class Watch:
    """What the two servers hold, beyond what they held when it began."""

    def __init__(self, house: FakeHouse, admin: admin_pb2_grpc.AdminServiceStub) -> None:
        self._admin = admin
        self._pids = {"server": house.server.pid, "translator": house.translator.pid}
        self._bytes = {name: resident_bytes(pid) for name, pid in self._pids.items()}
        self._num_files = num_files(house.translator.pid)
        self.most_bytes = dict.fromkeys(self._pids, 0)

    def look(self) -> bool:
        """Return whether nothing runs for them, and the translator has closed their connections."""
        for name, pid in self._pids.items():
            grown = resident_bytes(pid) - self._bytes[name]
            self.most_bytes[name] = max(self.most_bytes[name], grown)
        engine = self._admin.GetStats(admin_pb2.GetStatsRequest(), timeout=10).engine
        num_readers = engine.num_running + engine.num_waiting - NUM_OTHERS
        num_more_files = num_files(self._pids["translator"]) - self._num_files
        return num_readers <= 0 and num_more_files < SPARE_FILES


def look_on(watch: Watch, seconds: float) -> Span:
    """Look as often as while there are readers: to be looked at costs something, too."""
    began_s = time.monotonic()
    while time.monotonic() < began_s + seconds:
        watch.look()
        time.sleep(LOOK_S)
    return began_s, time.monotonic()


def sit_out(watch: Watch, house: FakeHouse, kind: str, token: int) -> Span:
    """Have so many readers, each of whom does each second what he does, until all are cut."""
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        readers = [READERS[kind](house, [token], MAX_TOKENS) for _ in range(NUM_READERS)]
        for reader in readers:
            stack.callback(reader.close)
        house.wait_until_running(NUM_READERS + NUM_OTHERS)
        next_look_s = time.monotonic()
        for reader in itertools.cycle(readers):
            reader.read_a_byte()
            time.sleep(1.0 / NUM_READERS)
            if time.monotonic() < next_look_s:
                continue
            next_look_s += LOOK_S
            if watch.look():
                return began_s, time.monotonic()
            assert time.monotonic() < began_s + CUT_AFTER_S + PATIENCE_S, vars(watch)
    raise AssertionError("there are readers")


CASES = [
    *((kind, MUCH) for kind in READERS),
    *((kind, LITTLE) for kind in ("gRPC, no window", "HTTP, stopped")),
]


@pytest.mark.parametrize(("kind", "token"), CASES, ids=[f"{kind}, {WORDS[token]}" for kind, token in CASES])
def test_they_cost_little_and_are_cut_and_others_do_not_notice(
    house: FakeHouse, kind: str, token: int
) -> None:
    delays = [delay_of_others(house, kind, token)]
    while min(delays) >= MOST_DELAY and len(delays) < MOST_ROUNDS:
        delays.append(delay_of_others(house, kind, token))
    assert min(delays) < MOST_DELAY


def delay_of_others(house: FakeHouse, kind: str, token: int) -> float:
    """One round of slow readers. Return how many times longer the others waited, at worst."""
    others = SteadyReaders(house, NUM_OTHERS, [LITTLE], MAX_TOKENS)
    with others.reading(), grpc.insecure_channel(house.admin_target) as channel:
        watch = Watch(house, admin_pb2_grpc.AdminServiceStub(channel))
        alone = look_on(watch, ALONE_S)
        beside = sit_out(watch, house, kind, token)
    alone_s, beside_s = others.gaps_s(*alone), others.gaps_s(*beside)
    delays = {share: percentile(beside_s, share) / percentile(alone_s, share) for share in (0.5, 0.99)}
    show(
        "R09",
        readers=f"{NUM_READERS} x {kind}, {WORDS[token]}",
        cut_after_s=round(beside[1] - beside[0], 1),
        kib_each={name: round(most / NUM_READERS / 1024) for name, most in watch.most_bytes.items()},
        others_alone_ms=in_ms(alone_s),
        others_beside_ms=in_ms(beside_s),
        delays={f"p{round(100 * share)}": round(delay, 3) for share, delay in delays.items()},
    )
    assert max(watch.most_bytes.values()) < MAX_GROWTH_BYTES
    return max(delays.values())
