"""Launches and products, made ready once for arrays of fixed places and run as often as wanted.

On a GPU a program may be recorded as a graph, which the driver then starts as a whole: launching from Python
costs more than most of these kernels take. Whether it is done is `RECORDS`, read when a program is made, and
off until it has been measured.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

from numbarnn.cuda.blas import Matrix, product
from numbarnn.cuda.driver import SIMULATED, DeviceLostError, DeviceMemoryError, cuda

__all__ = ["Graph", "Program"]

RECORDS = False  # `benchmarks/gpu.py` measures both
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
        self._graph: Graph | None = None
        self._records, self._runs = RECORDS and not SIMULATED, 0

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
        if self._records and self._runs == 1:
            self._graph = Graph(self._calls)
            self._graph.launch()
        else:
            for call in self._calls:
                call(0)
        self._runs += 1


class Graph:
    """What calls do on the device, recorded; nothing is done.

    Parameters
    ----------
    calls : list of callable
        Of the address of a stream.
    """

    def __init__(self, calls: list[Callable[[int], None]]) -> None:
        from cuda.bindings import driver

        # relaxed, as memory that Python frees meanwhile is nothing of the graph's
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING  # the default stream cannot be recorded
        stream = _checked(driver.cuStreamCreate(int(flags)))
        try:
            _checked(driver.cuStreamBeginCapture(stream, mode))
            try:
                for call in calls:
                    call(int(stream))
            finally:  # a stream must not be left recording
                code, graph = driver.cuStreamEndCapture(stream)
            _checked((code,))
            self._graph = _checked(driver.cuGraphInstantiate(graph, 0))
            driver.cuGraphDestroy(graph)
        finally:
            driver.cuStreamDestroy(stream)
        weakref.finalize(self, driver.cuGraphExecDestroy, self._graph).atexit = False
        self._launch = driver.cuGraphLaunch

    def launch(self) -> None:
        """Start it on the default stream."""
        _checked(self._launch(self._graph, 0))


def _checked(result: tuple) -> Any:
    """Return what a function of the driver has returned behind its code."""
    code, *values = result
    if int(code):
        name = getattr(code, "name", str(code))
        kind = DeviceMemoryError if "OUT_OF_MEMORY" in name else DeviceLostError
        raise kind(f"device was 'cuda', which failed to record or start a graph ({name}); expected 'cpu'")
    return values[0] if values else None


def _bind(kernel: Callable, blocks: int, threads: int, stream: int) -> Callable:
    with warnings.catch_warnings():
        # small grids are what small networks need
        warnings.filterwarnings("ignore", message="Grid size")
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0]
