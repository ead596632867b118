"""200 readers who do not read: what they cost, when they are cut, and what others notice, in figures."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from fake_house import TEMPLATE, FakeHouse
from figures import in_ms, percentile, show
from idle_readers import READERS
from processes import num_files, resident_bytes
from steady_readers import SteadyReaders
from tiny_tokenizer import byte_level, write_folder

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
MOST_DELAY = 1.5
"""Of the others' median. Their 99th percentile is printed: it says more of the machine than of us."""
ALONE_S = 10.0
LOOK_S = 0.25
SPARE_FILES = 20


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

    def __init__(self, house: FakeHouse) -> None:
        self._house = house
        self._pids = {"server": house.server.pid, "translator": house.translator.pid}
        self._bytes = {name: resident_bytes(pid) for name, pid in self._pids.items()}
        self._num_files = num_files(house.translator.pid)
        self.most_bytes = dict.fromkeys(self._pids, 0)

    def look(self) -> bool:
        """Return whether nothing runs for them, and the translator has closed their connections."""
        for name, pid in self._pids.items():
            grown = resident_bytes(pid) - self._bytes[name]
            self.most_bytes[name] = max(self.most_bytes[name], grown)
        engine = self._house.stats().engine
        num_readers = engine.num_running + engine.num_waiting - NUM_OTHERS
        num_more_files = num_files(self._pids["translator"]) - self._num_files
        return num_readers <= 0 and num_more_files < SPARE_FILES


CASES = [
    *((kind, MUCH) for kind in READERS),
    *((kind, LITTLE) for kind in ("gRPC, no window", "HTTP, stopped")),
]


@pytest.mark.parametrize(("kind", "token"), CASES, ids=[f"{kind}, {WORDS[token]}" for kind, token in CASES])
async def test_they_cost_little_and_are_cut_and_others_do_not_notice(
    house: FakeHouse, kind: str, token: int
) -> None:
    others = SteadyReaders(house, NUM_OTHERS, [LITTLE], MAX_TOKENS)
    async with others.reading():
        await asyncio.sleep(ALONE_S)
        alone_s, others.gaps_s = others.gaps_s, []
        watch = Watch(house)
        with contextlib.ExitStack() as stack:
            readers = [READERS[kind](house, [token], MAX_TOKENS) for _ in range(NUM_READERS)]
            for reader in readers:
                stack.callback(reader.close)
            opened_s = time.monotonic()
            next_byte_s = opened_s
            await asyncio.to_thread(house.wait_until_running, NUM_READERS + NUM_OTHERS)
            others.gaps_s.clear()  # to accept so many calls at once takes a moment, whoever makes them
            while not await asyncio.to_thread(watch.look):
                await asyncio.sleep(LOOK_S)
                if time.monotonic() > next_byte_s:
                    next_byte_s += 1.0
                    for reader in readers:
                        reader.read_a_byte()
                assert time.monotonic() - opened_s < CUT_AFTER_S + PATIENCE_S, vars(watch)
    beside_s = others.gaps_s
    delays = {share: percentile(beside_s, share) / percentile(alone_s, share) for share in (0.5, 0.99)}
    show(
        readers=f"{NUM_READERS} x {kind}, {WORDS[token]}",
        cut_after_s=round(time.monotonic() - opened_s, 1),
        kib_each={name: round(most / NUM_READERS / 1024) for name, most in watch.most_bytes.items()},
        others_alone_ms=in_ms(alone_s),
        others_beside_ms=in_ms(beside_s),
        delays={f"p{round(100 * share)}": round(delay, 3) for share, delay in delays.items()},
    )
    assert max(watch.most_bytes.values()) < MAX_GROWTH_BYTES
    assert delays[0.5] < MOST_DELAY
