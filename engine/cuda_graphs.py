"""Captures device work once, so that the host can launch it again as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


class CapturedGraph:
    """Work that reads and writes the same memory each time."""

    def __init__(self, graph: torch.cuda.CUDAGraph, output: Tensor) -> None:
        self._graph = graph
        self._output = output

    def replay(self) -> Tensor:
        """Launch the work; returns its output, which the next replay overwrites."""
        self._graph.replay()
        return self._output


class GraphCapturer:
    """Captures graphs that never run at the same time, into one pool of memory.

    Capture the largest first: the others find their memory in its pool.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, compute: Callable[[], Tensor]) -> CapturedGraph:
        """Run some work once, and capture it. The work must not wait for the device."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute()  # what is compiled or loaded at first use cannot be captured
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            output = compute()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return CapturedGraph(graph, output)


def rounded_up(sizes: list[int]) -> Iterator[int]:
    """For each number from 0 to the largest of the ascending `sizes`, yield the size that it is padded to."""
    first = 0
    for size in sizes:
        yield from [size] * (size + 1 - first)
        first = size + 1
