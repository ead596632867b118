"""Keys: how they are written, kept, compared and replaced."""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
import random
import statistics
import textwrap
import time
from typing import TYPE_CHECKING

import pytest
from figures import show
from scarce_descriptors import no_descriptors

from gate import key_ring, keys
from gate.credentials import bearer_secret, is_loopback
from gate.key_ring import KeyRing
from gate.keys import KeyFileError, parse_key, parse_literal, read_keys

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.check("S04")

SECRET = "sk-a-very-secret-key"


class Clock:
    """Each look at it finds that two seconds have passed."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 2.0
        return self.now_s


def test_a_key_is_kept_as_its_hash_alone() -> None:
    key = parse_key(f"team-a:{SECRET}")
    assert key.tenant == "team-a"
    assert key.digest == hashlib.sha256(SECRET.encode()).digest()
    assert SECRET not in repr(KeyRing([key]).__dict__) + repr(key)


def test_a_key_without_a_name_is_a_tenant_by_itself() -> None:
    first, second = parse_key("one"), parse_key("two")
    assert first.tenant != second.tenant
    assert first.tenant == parse_key("one").tenant


@pytest.mark.parametrize("text", [SECRET, "my:secret", "a,b", "sha256=" + "0" * 64])
def test_a_literal_key_is_opened_by_itself_alone(text: str) -> None:
    secret = parse_literal(text)
    ring = KeyRing([secret.key])
    assert secret.shown == text
    assert text not in repr(secret)
    assert ring.tenant_of(text.encode()) == secret.key.tenant
    for part in text.replace(":", ",").split(",") if text != SECRET else ["0" * 64]:
        assert part == text or ring.tenant_of(part.encode()) is None


def test_a_key_may_be_given_as_its_hash() -> None:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert parse_key(f"a:sha256={digest}") == parse_key(f"a:{SECRET}")


@pytest.mark.parametrize(
    "text", ["", " ", "a:", ":key", "a b:key", "key,other", "two words", "schlüssel", "a/b:k"]
)
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="TENANT:KEY") as raised:
        parse_key(text)
    assert str(raised.value) == keys.EXPECTED


def test_a_file_holds_one_key_a_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\n a:one # the old one\na:two\nthree\r\n")
    assert read_keys(path) == (parse_key("a:one"), parse_key("a:two"), parse_key("three"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least one key"),
        (b"# nothing\n", "expected at least one key"),
        (b"good\n\nbad key\n", "line 3: expected KEY or TENANT:KEY"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"x" * (keys.MAX_FILE_BYTES + 1), "expected at most"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_refused_and_nothing_of_it_is_shown(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=message) as raised:
        KeyRing(file=path)
    assert "bad key" not in str(raised.value)


def test_several_keys_open_and_others_do_not() -> None:
    ring = KeyRing([parse_key("a:one"), parse_key("b:two")])
    assert [ring.tenant_of(secret) for secret in (b"one", b"two")] == ["a", "b"]
    wrong = [None, b"", b"on", b"onee", b"One", b"\0", "schlüssel".encode(), b"x" * (1 << 20), b"a:one"]
    assert [ring.tenant_of(secret) for secret in wrong] == [None] * len(wrong)


def test_a_ring_without_keys_is_open() -> None:
    assert KeyRing().is_open
    assert KeyRing().tenant_of(None) == ""


def test_keys_of_a_file_are_replaced_while_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("a:old\n")
    ring = KeyRing([parse_key("b:given")], path, Clock())
    assert ring.tenant_of(b"old") == "a"
    path.write_text("a:old\na:new\n")
    assert [ring.tenant_of(key) for key in (b"old", b"new", b"given")] == ["a", "a", "b"]
    (tmp_path / "next").write_text("a:newer\n")
    (tmp_path / "next").replace(path)
    assert [ring.tenant_of(key) for key in (b"old", b"newer", b"given")] == [None, "a", "b"]
    assert "newer" not in caplog.text


@pytest.mark.parametrize("content", ["", "two words\n", None])
def test_a_file_that_goes_bad_leaves_the_old_keys_and_is_logged_once(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("a:old\n")
    ring = KeyRing(file=path, clock=Clock())
    path.unlink() if content is None else path.write_text(content)
    for _ in range(3):
        assert ring.tenant_of(b"old") == "a"
        assert ring.tenant_of(b"") is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    path.write_text("a:new\n")
    assert ring.tenant_of(b"new") == "a"


def test_keys_that_cannot_be_read_for_a_moment_are_read_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, now_s = tmp_path / "keys", 0.0
    path.write_text("a:old\n")
    ring = KeyRing(file=path, clock=lambda: now_s)
    path.write_text("a:new\n")
    for _ in range(3):
        now_s += 20.0
        with no_descriptors():
            assert ring.tenant_of(b"old") == "a"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    now_s += 20.0
    assert ring.tenant_of(b"old") is None
    assert ring.tenant_of(b"new") == "a"


def test_keys_are_compared_in_constant_time_and_all_of_them() -> None:
    """No early exit, and hashes alone: what is compared is of one length and says nothing of the key."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(key_ring.KeyRing.tenant_of)))
    (loop,) = (node for node in ast.walk(tree) if isinstance(node, ast.For))
    assert not [node for node in ast.walk(loop) if isinstance(node, ast.Break | ast.Return)]
    calls = [node.func for node in ast.walk(loop) if isinstance(node, ast.Call)]
    assert [call.attr for call in calls if isinstance(call, ast.Attribute)] == ["compare_digest"]
    assert not [node for node in ast.walk(loop) if isinstance(node, ast.Compare)]


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ([b"Bearer key"], b"key"),
        ([b"bearer  key "], b"key"),
        ([], None),
        ([b""], None),
        ([b"Bearer"], None),
        ([b"Bearer "], None),
        ([b"Basic key"], None),
        ([b"key"], None),
        ([b"Bearer key", b"Bearer key"], None),
    ],
)
def test_a_key_comes_in_one_header_of_the_scheme_bearer(values: list[bytes], secret: bytes | None) -> None:
    assert bearer_secret(values) == secret


def test_loopback_is_told_from_wider_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "", "10.0.0.1", "example.org"]))


@pytest.mark.slow
def test_the_time_of_a_look_says_nothing_of_how_much_was_guessed() -> None:
    """What a busy machine feigns is gone the next time; what is there is there each time."""
    assert min(abs(welch_t_of_guesses()) for _ in range(3)) < 4.5


def welch_t_of_guesses() -> float:
    """Welch's t over 20,000 looks of each kind, mixed by chance, without the slowest tenth of them."""
    ring = KeyRing([parse_key(f"a:{SECRET}"), parse_key("b:another-key")])
    guesses = [SECRET[:-1].encode() + b"?", b"?" + SECRET[1:].encode()]
    times: list[list[int]] = [[], []]
    order = [0, 1] * 20_000
    random.Random(0).shuffle(order)
    for kind in order:
        begun = time.perf_counter_ns()
        ring.tenant_of(guesses[kind])
        times[kind].append(time.perf_counter_ns() - begun)
    kept = [sorted(taken)[: len(taken) * 9 // 10] for taken in times]
    means = [statistics.fmean(taken) for taken in kept]
    spread = sum(statistics.variance(taken) / len(taken) for taken in kept) ** 0.5
    welch_t: float = (means[0] - means[1]) / spread
    show("S04", welch_t=round(welch_t, 2), means_ns=[round(mean) for mean in means])
    return welch_t
