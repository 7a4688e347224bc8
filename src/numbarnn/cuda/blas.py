"""Products by cuBLAS, on strided parts of flat arrays; in the simulator by the BLAS of SciPy.

Both are called with the same arguments, so that what the simulator proves is the call as it is made. cuBLAS
is taken from nvmath-python, which has it as plain functions of addresses (CuPy's refuse to be recorded in a
graph). Its sums have one order for one shape on one device, and without being asked to it does not compute in
TF32.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from numbarnn.cuda.driver import (
    LEAST_DRIVER,
    SIMULATED,
    DeviceUnavailableError,
    cuda,
    driver_version,
    empty,
    pointer,
)

__all__ = ["Matrix", "allocate_workspace", "load", "product"]

_NORMAL, _TRANSPOSED = 0, 1  # of cublasOperation_t
_WORKSPACE = 32 * 2**20  # bytes, which NVIDIA recommends for Hopper
_ALLOCATING = threading.Lock()


class Matrix(NamedTuple):
    """Rows in a flat array.

    Attributes
    ----------
    array : device array
    at : int
        Where the first begins.
    stride : int
        From one to the next.
    transposed : bool
        Whether the factor is this matrix transposed.
    """

    array: Any
    at: int
    stride: int
    transposed: bool = False

    @property
    def T(self) -> Matrix:
        """The same, as a transposed factor."""
        return self._replace(transposed=not self.transposed)


def product(m: int, n: int, k: int, a: Matrix, b: Matrix, c: Matrix, add: bool) -> Callable[[int], None]:
    """Make ready c = a b, or c += a b; all that can be known beforehand is.

    Parameters
    ----------
    m, n, k : int
        c is (m, n), a (m, k), b (k, n).
    a, b, c : Matrix
    add : bool

    Returns
    -------
    run : callable
        ``run(stream)`` with the address of a stream, 0 for the default one.
    """
    real = a.array.dtype
    one, beta = np.ones(1, real), np.full(1, float(add), real)
    # row by row is column by column transposed: c' = b' a'
    operations = [_TRANSPOSED if each.transposed else _NORMAL for each in (b, a)]
    places = [pointer(each.array) + each.at * real.itemsize for each in (b, a, c)]
    gemm = load()[real.itemsize]
    arguments = (*operations, n, m, k, one.ctypes.data, places[0], b.stride, places[1], a.stride,
                 beta.ctypes.data, places[2], c.stride)  # fmt: skip

    def run(stream: int, alive: tuple = (a, b, c, one, beta)) -> None:
        gemm(stream, *arguments)

    return run


def load() -> dict[int, Callable]:
    """Return the products for float32 and float64 on the device in use, by the bytes of a number.

    Each is called with a stream and what ``cublasSgemm`` takes behind the handle.

    Raises
    ------
    DeviceUnavailableError
        If the library is not installed.
    """
    return _simulated() if SIMULATED else _cublas(cuda.get_current_device().id)


@cache
def _cublas(device: int) -> dict[int, Callable]:
    """Return those of a device, to which a handle belongs, for as long as the process lives."""
    # an older driver lets kernels be compiled, and only then refuses to load them
    major, minor = driver_version()
    if major < LEAST_DRIVER:
        raise DeviceUnavailableError(
            f"device was 'cuda', whose driver is for CUDA {major}.{minor}; expected 'cpu', or an NVIDIA "
            f"driver for CUDA {LEAST_DRIVER}"
        )
    try:
        from nvmath.bindings import cublas

        handle = cublas.create()
    except (ImportError, RuntimeError) as error:  # of which kind are those of a library that is not found
        raise DeviceUnavailableError(
            f"device was 'cuda'; expected 'cpu', as cuBLAS cannot be loaded by nvmath-python ({error}): "
            'pip install "numbarnn[cuda]"'
        ) from error
    cublas.set_math_mode(handle, cublas.Math.DEFAULT_MATH)
    lock = threading.Lock()  # all threads share the handle, which has one stream

    def with_stream(gemm: Callable) -> Callable:
        def run(stream: int, *arguments: int) -> None:
            with lock:
                if not stream:
                    gemm(handle, *arguments)
                    return
                try:
                    cublas.set_stream(handle, stream)
                    # else each recording allocates one; the stream that is set forgets what the handle had
                    cublas.set_workspace(handle, pointer(_workspace(device)), _WORKSPACE)
                    gemm(handle, *arguments)
                finally:  # the stream of a recording does not live long
                    cublas.set_stream(handle, 0)

        return run

    return {4: with_stream(cublas.sgemm), 8: with_stream(cublas.dgemm)}


def allocate_workspace() -> None:
    """Allocate what products of recordings need, before one begins: in it would be the wrong time."""
    with _ALLOCATING:  # of two at a time the cache would keep one, and the other's address be recorded
        _workspace(cuda.get_current_device().id)


@cache
def _workspace(device: int) -> Any:
    """Return memory that products of recordings may use, one after the other."""
    return empty(_WORKSPACE, np.uint8)


@cache
def _simulated() -> dict[int, Callable]:
    """Return SciPy's, whose arguments are those of cuBLAS by reference."""
    from numba.extending import get_cython_function_address

    def named(name: str) -> Callable:
        address = get_cython_function_address("scipy.linalg.cython_blas", name)
        gemm = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(address)

        def run(stream, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
            letters = [ctypes.c_char(b"T" if each == _TRANSPOSED else b"N") for each in (transa, transb)]
            sizes = [ctypes.c_int(each) for each in (m, n, k, lda, ldb, ldc)]
            ta, tb, m, n, k, lda, ldb, ldc = (ctypes.addressof(each) for each in (*letters, *sizes))
            gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)

        return run

    return {4: named("sgemm"), 8: named("dgemm")}
