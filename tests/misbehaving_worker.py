"""Speaks the protocol of `server.grammar_worker`, and dies or hangs where the grammar says so.

The optional argument names a file to which each grammar is added as a line.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
from pathlib import Path

import msgspec

LENGTH = struct.Struct("<I")


def main() -> None:
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    is_first = True
    while head := requests.read(LENGTH.size):
        request = requests.read(LENGTH.unpack(head)[0])
        text = "" if is_first else request.decode()
        if sys.argv[1:] and not is_first:
            with Path(sys.argv[1]).open("a", encoding="utf-8") as log:
                print(text, file=log)
        if "die" in text:
            os._exit(1)
        if "killed" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in text:
            threading.Event().wait()
        is_first = False
        payload = msgspec.msgpack.encode({"text": text, "error": ""})
        replies.write(LENGTH.pack(len(payload)) + payload)
        replies.flush()


if __name__ == "__main__":
    main()
