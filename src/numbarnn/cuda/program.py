"""Launches and products, made ready once for arrays of fixed places and run as often as wanted.

On a GPU a program may be recorded as a graph, which the driver then starts as a whole: launching from Python
costs more than most of these kernels take. Whether it is done is `RECORDS`, off until it has been measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from numbarnn.cuda.blas import Matrix, product
from numbarnn.cuda.driver import SIMULATED, cuda

__all__ = ["Program"]

RECORDS = False  # see `benchmarks/gpu.py --graphs`
THREADS, MOST_BLOCKS = (2, 2) if SIMULATED else (256, 1024)


class Program:
    """A list of what is to be done on the device, in this order.

    Attributes
    ----------
    launches : list of (kernel, threads, arguments)
    """

    def __init__(self) -> None:
        self._calls: list[Callable[[int], None]] = []
        self.launches: list[tuple[Callable, int, tuple]] = []
        self._graph: Any = None
        self._runs = 0

    def launch(self, kernel: Callable, blocks: int, threads: int, *arguments: Any) -> None:
        """Add a launch."""
        self.launches.append((kernel, threads, arguments))
        bound: dict[int, Callable] = {}

        def call(stream: int) -> None:
            if SIMULATED or stream not in bound:
                bound[stream] = _bind(kernel, blocks, threads, stream)
            bound[stream](*arguments)

        self._calls.append(call)

    def each(self, kernel: Callable, count: int, *arguments: Any) -> None:
        """Add a launch of a kernel that goes through `count` elements with ``cuda.grid(1)``."""
        blocks = max(1, min(MOST_BLOCKS, -(-count // THREADS)))
        self.launch(kernel, blocks, THREADS, *arguments)

    def product(self, m: int, n: int, k: int, a: Matrix, b: Matrix, c: Matrix, add: bool = False) -> None:
        """Add c = a b, or c += a b, where there is anything to compute."""
        if m and n and k:
            self._calls.append(product(m, n, k, a, b, c, add))

    def __len__(self) -> int:
        """Return the number of launches and products."""
        return len(self._calls)

    def run(self) -> None:
        """Do it all; the host does not wait for the end."""
        if self._graph is not None:
            self._graph.launch()
            return
        # kernels are compiled and loaded in the first run, which no recording could hold
        if RECORDS and not SIMULATED and self._runs == 1:
            self._graph = self._record()
            self._graph.launch()
        else:
            for call in self._calls:
                call(0)
        self._runs += 1

    def _record(self) -> Any:
        import cupy

        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            for call in self._calls:
                call(stream.ptr)
            return stream.end_capture()


def _bind(kernel: Callable, blocks: int, threads: int, stream: int) -> Callable:
    with warnings.catch_warnings():
        # small grids are what small networks need
        warnings.filterwarnings("ignore", message="Grid size")
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0]
