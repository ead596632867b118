"""Tenants share no cached prefix: neither by chance nor by trying. A real scheduler decides what is a hit."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from fakes import FakeEngine, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire import AsyncClient, InvalidRequestError
from server.engine_process import EngineProcess
from server.tenants import salt_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.check("S14")

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "engine_program.py"))
PROMPT = [2 + (7 * place + place // 31) % 30 for place in range(512)]
TIMES = 200
AT_ONCE = 25
# The last two are no tenants by name: each key is one by itself.
KEYS = ("a:key-of-a", "b:key-of-b", "0:key-of-0", "key-of-nobody", "key-of-another")


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[str]:
    """The target of a server before an engine process."""
    engine = EngineProcess(lambda *_: None, lambda: None, command=COMMAND)
    running = asyncio.create_task(engine.run(EngineConfig(model_path="", max_num_seqs=AT_ONCE)))
    await engine.loaded()
    try:
        ring = KeyRing([parse_key(key) for key in KEYS])
        async with serve(cast("FakeEngine", engine), keys=ring) as server:
            yield server.target
    finally:
        await engine.stop(10.0)
        await running


async def num_cached(client: AsyncClient, **options: Any) -> int:
    """Tokens of the prompt that the cache had."""
    response = await client.generate(PROMPT, max_tokens=1, **options)
    assert response.usage.num_prompt_tokens == len(PROMPT)
    return response.usage.num_cached_tokens


async def test_a_tenant_hits_its_own_cache_and_nobody_elses() -> None:
    async with house() as target, contextlib.AsyncExitStack() as stack:
        a, b, zero, nobody, another = [
            await stack.enter_async_context(AsyncClient(target, api_key=key.rpartition(":")[2]))
            for key in KEYS
        ]
        first = await num_cached(a)
        hits = [first]
        while len(hits) < TIMES:
            hits += await asyncio.gather(*(num_cached(a) for _ in range(min(AT_ONCE, TIMES - len(hits)))))
        assert first == 0
        assert sum(hits) >= 0.95 * TIMES * len(PROMPT)
        # Each is the first of its tenant with its salt, and has what A put into the cache before its eyes.
        for salt in ("", "a", "0", "a.", "key-of-a"):
            assert await num_cached(b, cache_salt=salt) == 0
        for client in (zero, nobody, another):
            assert await num_cached(client) == 0
        for salt in ("a/", "/a", "0/a/", "../a/"):
            with pytest.raises(InvalidRequestError, match="salt"):
                await num_cached(b, cache_salt=salt)
        rest = await asyncio.gather(*(num_cached(b) for _ in range(AT_ONCE)))
        assert min(rest) >= 0.95 * len(PROMPT)


NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,8}", fullmatch=True)
SALTS = st.text(st.characters(exclude_characters="@/\\\0", exclude_categories=["Cs"]), max_size=8)


@settings(derandomize=True, deadline=None)
@given(st.tuples(NAMES | st.just(""), SALTS), st.tuples(NAMES | st.just(""), SALTS))
def test_salts_of_two_tenants_never_meet(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (salt_of(*one) == salt_of(*other)) == (one == other)
