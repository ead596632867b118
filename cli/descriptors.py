"""How many files and connections a process may have open at once."""

from __future__ import annotations

import resource

MAX_DESCRIPTORS = 65_536


def raise_descriptor_limit() -> None:
    """Let this process, and those that it starts, have `MAX_DESCRIPTORS` open, or as many as it may.

    The usual limit is 1024, for programs that use select(); a connection each is soon more than that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
