"""Tenants share no cached prefix: neither by chance nor by trying. A real scheduler decides what is a hit."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from fakes import serve
from figures import auc, in_ms, show
from hypothesis import given, settings
from hypothesis import strategies as st
from real_engine import real_engine

from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire import AsyncClient, InvalidRequestError
from server.tenants import salt_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fakes import FakeEngine

pytestmark = pytest.mark.check("S14")

PROMPT = [2 + (7 * place + place // 31) % 30 for place in range(512)]
TIMES = 200
AT_ONCE = 25
TOKENS_AT_ONCE = 128
"""So that a prompt which is not in the cache takes four steps, and one that is takes one."""
NUM_GUESSES = 600
MOST_KNOWN = 0.05
"""By which a guess may beat a coin: three times as much as chance alone gives to so many."""
# The last two are no tenants by name: each key is one by itself.
KEYS = ("a:key-of-a", "b:key-of-b", "0:key-of-0", "key-of-nobody", "key-of-another")


@contextlib.asynccontextmanager
async def house(max_num_seqs: int = AT_ONCE) -> AsyncIterator[str]:
    """The target of a server before an engine process."""
    ring = KeyRing([parse_key(key) for key in KEYS])
    async with (
        real_engine(max_num_seqs) as engine,
        serve(cast("FakeEngine", engine), keys=ring) as server,
    ):
        yield server.target


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


async def wait_s(client: AsyncClient, prompt: Sequence[int]) -> float:
    """Ask for the first token, and see how long it takes."""
    began_s = time.perf_counter()
    await client.generate(prompt, max_tokens=1)
    return time.perf_counter() - began_s


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nobody_can_tell_by_time_what_another_tenant_has_asked() -> None:
    """B asks what A has just asked and what nobody has, in random order. What B itself asked it can tell."""
    dice = random.Random(0)
    others: list[float] = []
    nobodys: list[float] = []
    own: list[float] = []
    async with house(TOKENS_AT_ONCE) as target, contextlib.AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(AsyncClient(target, api_key=key.rpartition(":")[2]))
            for key in KEYS[:2]
        ]
        for _ in range(NUM_GUESSES):
            asked, new = (dice.choices(range(2, 32), k=len(PROMPT)) for _ in range(2))
            await wait_s(a, asked)
            for times, prompt in dice.sample([(others, asked), (nobodys, new)], 2):
                times.append(await wait_s(b, prompt))
            own.append(await wait_s(b, asked))
    show(
        "S14",
        auc_of_others=round(auc(others, nobodys), 4),
        auc_of_own=round(auc(own, nobodys), 4),
        others_ms=in_ms(others),
        nobodys_ms=in_ms(nobodys),
        own_ms=in_ms(own),
    )
    assert auc(own, nobodys) > 0.95
    assert abs(auc(others, nobodys) - 0.5) <= MOST_KNOWN


NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,8}", fullmatch=True)
SALTS = st.text(st.characters(exclude_characters="@/\\\0", exclude_categories=["Cs"]), max_size=8)


@settings(derandomize=True, deadline=None)
@given(st.tuples(NAMES | st.just(""), SALTS), st.tuples(NAMES | st.just(""), SALTS))
def test_salts_of_two_tenants_never_meet(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (salt_of(*one) == salt_of(*other)) == (one == other)
