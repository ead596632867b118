"""The store of responses: what it keeps, and what it lets go first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translator.response_store import ResponseStore


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_store(clock: Clock, size: int = 3, num_bytes: int = 100_000, age_s: float = 10) -> ResponseStore:
    return ResponseStore(size, num_bytes, age_s, clock)


def body(response_id: str, text: str = "") -> dict[str, Any]:
    return {"id": response_id, "output": [{"id": f"msg_{response_id}", "text": text}]}


def put(store: ResponseStore, *response_ids: str, owner: str = "", text: str = "") -> None:
    for response_id in response_ids:
        store.put(owner, body(response_id, text), [{"id": f"in_{response_id}"}])


def kept(store: ResponseStore, response_ids: str, owner: str = "") -> str:
    return "".join(one for one in response_ids if store.get(owner, one) is not None)


def test_what_is_put_comes_back(clock: Clock) -> None:
    store = make_store(clock)
    put(store, "a", text="hé")
    stored = store.get("", "a")
    assert stored is not None
    assert stored.body() == body("a", "hé")
    assert stored.input_items() == [{"id": "in_a"}]
    assert store.get("", "b") is None


def test_the_least_recently_used_goes_first(clock: Clock) -> None:
    store = make_store(clock)
    put(store, "a", "b", "c")
    store.get("", "a")
    put(store, "d")
    assert kept(store, "abcd") == "acd"


def test_bytes_are_bounded(clock: Clock) -> None:
    store = make_store(clock, size=100, num_bytes=10_000)
    put(store, *"abcdef", text="x" * 3000)
    assert kept(store, "abcdef") == "ef"
    assert store.num_bytes <= 10_000
    put(store, "g", text="x" * 20_000)
    assert kept(store, "efg") == "ef"


def test_an_unused_response_expires(clock: Clock) -> None:
    store = make_store(clock)
    put(store, "a", "b")
    clock.now_s = 8
    assert kept(store, "a") == "a"
    clock.now_s = 16
    assert kept(store, "ab") == "a"
    clock.now_s = 27
    assert kept(store, "a") == ""
    assert store.num_bytes == 0


def test_owners_do_not_see_each_other(clock: Clock) -> None:
    store = make_store(clock)
    put(store, "a", owner="one")
    assert kept(store, "a", owner="two") == ""
    assert store.find_item("two", "msg_a") is None
    assert not store.delete("two", "a")
    assert store.find_item("one", "msg_a") is not None


def test_items_are_found_while_their_response_is_kept(clock: Clock) -> None:
    store = make_store(clock)
    put(store, "a")
    assert store.find_item("", "in_a") == {"id": "in_a"}
    assert store.find_item("", "msg_a") == {"id": "msg_a", "text": ""}
    assert store.delete("", "a")
    assert store.find_item("", "in_a") is None


def test_an_item_is_found_while_one_of_its_responses_is_kept(clock: Clock) -> None:
    store = make_store(clock)
    put(store, "a")
    item = store.find_item("", "msg_a")
    assert item is not None
    store.put("", {"id": "b", "output": []}, [item, item])
    store.put("", {"id": "c", "output": []}, [item])
    for response_id in ("c", "a"):
        assert store.find_item("", "msg_a") == item
        assert store.delete("", response_id)
    assert store.find_item("", "msg_a") == item
    assert store.delete("", "b")
    assert store.find_item("", "msg_a") is None


def test_a_store_of_size_zero_keeps_nothing(clock: Clock) -> None:
    store = make_store(clock, size=0)
    put(store, "a")
    assert not store.is_on
    assert kept(store, "a") == ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "delete", "wait"]), st.sampled_from("abcdef"), st.integers(0, 4000)
        ),
        max_size=40,
    )
)
def test_the_bounds_hold_always(steps: list[tuple[str, str, int]]) -> None:
    clock = Clock()
    store = make_store(clock, size=4, num_bytes=12_000)
    for step, response_id, number in steps:
        match step:
            case "put":
                put(store, response_id, text="x" * number)
            case "get":
                store.get("", response_id)
            case "delete":
                store.delete("", response_id)
                assert store.get("", response_id) is None
            case "wait":
                clock.now_s += number / 500
        alive = [one for one in "abcdef" if store.get("", one) is not None]
        stored = [store.get("", one) for one in alive]
        assert store.num_bytes == sum(one.num_bytes for one in stored if one is not None) <= 12_000
        assert len(store) == len(alive) <= 4
