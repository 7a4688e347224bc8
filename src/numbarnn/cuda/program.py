"""Launches and products, made ready once for arrays of fixed places and run as often as wanted.

From its second run on a program hands the driver parameters that were made once. It may also be recorded as a
graph, which the driver then starts as a whole. Whether it is done is `RECORDS`, read when a program is made,
and off until it has been measured.
"""

from __future__ import annotations

import ctypes
import warnings
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from numbarnn.cuda.blas import Matrix, allocate_workspace, product
from numbarnn.cuda.driver import SIMULATED, DeviceLostError, cuda, named_error

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
        self._calls.append(_Launch(kernel, blocks, threads, arguments))

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
        cuda.current_context()  # which a new thread has not, and neither driver nor cuBLAS asks for
        # the first run compiles and loads kernels, and what is run no more is not worth the preparation
        if self._runs == 1 and not SIMULATED:
            self._prepare()
        if self._graph is not None:
            self._graph.launch()
        else:
            for call in self._calls:
                call(0)
        self._runs += 1

    def _prepare(self) -> None:
        """Let this run and all later ones take the shortest way to the driver."""
        self._runs += 1  # also where the warning below is made an error: no later run is to record again
        self._calls = [call.prepared() if isinstance(call, _Launch) else call for call in self._calls]
        if self._records:
            try:
                self._graph = Graph(self._calls)
            except DeviceLostError:
                raise
            except Exception as error:  # recording does nothing, so all of the run is still to be done
                message = f"a program is launched call by call, as it cannot be recorded as a graph: {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=3)


class _Launch(NamedTuple):
    """A launch by numba-cuda; called with the address of a stream."""

    kernel: Any
    blocks: int
    threads: int
    arguments: tuple

    def __call__(self, stream: int) -> None:
        _configured(self.kernel, self.blocks, self.threads, stream)(*self.arguments)

    def prepared(self) -> Callable[[int], None]:
        """Return the same launch with parameters that are made once, or itself where that cannot be.

        numba-cuda makes the parameters, up to 69, anew for each launch: 30 to 57 us of Python, longer than
        most of these kernels run. What is private here, `_prepare_args` and `_codelibrary` of compiled
        kernels, is in numba-cuda 0.20, 0.22, 0.24 and 0.30.
        """
        from cuda.bindings import driver

        kernel, blocks, threads, arguments = self
        flat: list[Any] = []
        try:
            compiled = kernel.overloads[tuple(map(kernel.typeof_pyval, arguments))]
            for kind, value in zip(compiled.argument_types, arguments, strict=True):
                compiled._prepare_args(kind, value, 0, [], flat)
            function = driver.CUfunction(int(compiled._codelibrary.get_cufunc().handle))
            # sizes, strides and addresses of arrays come as they are, all else as what ctypes has for it
            values = [ctypes.c_int64(each) if isinstance(each, int) else each for each in flat]
            places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        except (AttributeError, KeyError, TypeError):
            return self
        launch, address = driver.cuLaunchKernel, ctypes.addressof(places)

        def run(stream: int, alive: tuple = (values, places, arguments, compiled)) -> None:
            _checked(launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, address, 0))

        return run


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
        allocate_workspace()
        stream, graph = _checked(driver.cuStreamCreate(int(flags))), None
        try:
            _checked(driver.cuStreamBeginCapture(stream, mode))
            try:
                for call in calls:
                    call(int(stream))
            finally:  # a stream must not be left recording
                code, graph = driver.cuStreamEndCapture(stream)
            _checked((code,))
            self._graph = _checked(driver.cuGraphInstantiate(graph, 0))
        finally:
            if graph is not None:
                driver.cuGraphDestroy(graph)
            driver.cuStreamDestroy(stream)
        weakref.finalize(self, driver.cuGraphExecDestroy, self._graph).atexit = False
        self._launch = driver.cuGraphLaunch

    def launch(self) -> None:
        """Start it on the default stream."""
        _checked(self._launch(self._graph, 0))


def _checked(result: tuple) -> Any:
    """Return what a function of the driver has returned behind its code."""
    code, *values = result
    if code:
        raise named_error(code.name)
    return values[0] if values else None


# a simulated kernel has only the last configuration that it was given; few are kept, as kernels and streams
# live as long as they are
@lru_cache(maxsize=0 if SIMULATED else 64)
def _configured(kernel: Any, blocks: int, threads: int, stream: int) -> Callable:
    """Return a kernel with its launch configuration; kept, as all threads share the filters of warnings."""
    with warnings.catch_warnings():
        # small grids are what small networks need
        warnings.filterwarnings("ignore", message="Grid size")
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0]
