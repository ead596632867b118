"""A process that compiles grammars, `python -m server.grammar_worker`: a bad one costs nobody else anything.

Frames on standard input and output are four-byte little-endian lengths and msgpack: a vocabulary and its
size in the model come in, then one grammar after another, and a `Compiled` goes out for each of these frames.
The process ends with its input, when it needs too much memory, or long after anyone waits for its answer.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from typing import TYPE_CHECKING

import msgspec
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from engine.grammar_compiler import GrammarCompiler, GrammarError
from engine.messages import Vocabulary

if TYPE_CHECKING:
    from typing import BinaryIO

LENGTH = struct.Struct("<I")
MAX_MEMORY_BYTES = 1 << 30
"""Beyond what the process has mapped when it is ready."""
MAX_SECONDS = 10
NICENESS = 5


class Compiled(msgspec.Struct, frozen=True):
    """What came of a frame."""

    text: str = ""
    """The grammar as the engine takes it."""
    error: str = ""
    """Why it cannot be used; empty where it can."""


def main() -> None:
    """Answer until the input ends."""
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    first = _read(requests)
    if first is None:
        return
    compiler = GrammarCompiler(*msgspec.msgpack.decode(first, type=tuple[Vocabulary, int]))
    os.nice(NICENESS)
    _limit_memory()
    _write(replies, Compiled())
    while (request := _read(requests)) is not None:
        signal.alarm(MAX_SECONDS)
        _write(replies, compile_text(compiler, request.decode()))
        signal.alarm(0)


def compile_text(compiler: GrammarCompiler, text: str) -> Compiled:
    """Compile the text of a `Grammar`, whose parts may be in llama.cpp's notation."""
    grammar = json.loads(text)
    try:
        for part in grammar["grammars"]:
            if "gbnf" in part:
                part["lark_grammar"] = gbnf_to_lark(part.pop("gbnf"))
        text = json.dumps(grammar)
        compiler.compile(text)
    except RecursionError:
        return Compiled(error="it is nested too deeply")
    except (GbnfToLarkError, GrammarError) as error:
        return Compiled(error=str(error))
    return Compiled(text)


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        num_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit = num_bytes + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read(file: BinaryIO) -> bytes | None:
    head = file.read(LENGTH.size)
    return file.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def _write(file: BinaryIO, compiled: Compiled) -> None:
    payload = msgspec.msgpack.encode(compiled)
    file.write(LENGTH.pack(len(payload)) + payload)
    file.flush()


if __name__ == "__main__":
    main()
