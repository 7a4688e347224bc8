"""Products of whole matrices for the dense layers around the recurrent ones.

BLAS may sum in another order when it has other threads or other rows to work on; here the bits of a row
depend on that row alone, as in the recurrent layers.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numbarnn.kernels.compiler import Reals, task
from numbarnn.kernels.gemm import gemm
from numbarnn.kernels.threads import Program, Slot, ranges, worthwhile_threads
from numbarnn.simd import VECTOR_BYTES, lanes_of

DEPTH = 128  # rows of b at a time
ROWS = 64  # rows of c that are finished while they are in a cache


@task
def _product(
    r0: int, r1: int, depth: int, columns: int, a: Reals, a_row: int, a_k: int, b: Reals, c: Reals,
    bias: Reals, relu: int,
):
    """Set rows r0 to r1 of c (rows, columns) to a b, b (depth, columns), columns a multiple of the lanes.

    If there is a bias (columns,) it is added, and if relu, what is negative then is set to zero.
    """
    for r in range(r0, r1, ROWS if bias.size > 0 else max(r1 - r0, 1)):
        end = min(r + ROWS, r1) if bias.size > 0 else r1
        for k in range(0, depth, DEPTH):
            gemm(columns // lanes_of(c), end - r, 1, k > 0, a, r * a_row + k * a_k, a_row, 0, a_k,
                 b, k * columns, columns, 1, min(DEPTH, depth - k), c, r * columns, columns)
        if bias.size > 0:
            for i in range(r, end):
                for u in range(columns):
                    value = c[i * columns + u] + bias[u]
                    c[i * columns + u] = 0 if relu > 0 and value < 0 else value


class Product:
    """The product of two matrices of given shapes, prepared once.

    Parameters
    ----------
    rows, depth, columns : int
    dtype : dtype
        float32 or float64.
    n_jobs : int or None, default=None
        Number of threads.
    transposed : bool, default=False
        Whether the left matrix comes as the transpose of a C-contiguous array, of which no copy is made.
    relu : bool, default=False
        Whether what is negative with its bias is set to zero.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.kernels.dense import Product
    >>> Product(2, 3, 2, "float64")(np.ones((2, 3)), np.ones((3, 2)))
    array([[3., 3.],
           [3., 3.]])
    """

    def __init__(
        self, rows: int, depth: int, columns: int, dtype: DTypeLike, n_jobs: int | None = None,
        transposed: bool = False, relu: bool = False,
    ) -> None:
        self._dtype, self._transposed, self._lock = np.dtype(dtype), transposed, threading.Lock()
        lanes = VECTOR_BYTES // self._dtype.itemsize
        padded = -(-columns // lanes) * lanes
        self._b, self._shape, self._columns = np.zeros((depth, padded), dtype), (rows, padded), columns
        self._bias, self._no_bias = np.zeros(padded, dtype), np.zeros(0, dtype)
        threads = worthwhile_threads(rows * depth * padded, n_jobs)
        a_row, a_k = (1, rows) if transposed else (depth, 1)
        arguments = depth, padded, Slot("a"), a_row, a_k, self._b, Slot("c"), Slot("bias"), int(relu)
        tasks = [(_product, *share, *arguments) for share in ranges(rows, threads)]
        self._program = Program(dtype, threads, [tasks])

    def __call__(self, a: NDArray, b: NDArray, bias: NDArray | None = None) -> NDArray:
        """Multiply.

        Parameters
        ----------
        a : ndarray of shape (rows, depth)
        b : ndarray of shape (depth, columns)
        bias : ndarray of shape (columns,), default=None
            Added to every row.

        Returns
        -------
        c : ndarray of shape (rows, columns)
            C-contiguous; a row has the same bits whatever other rows there are.
        """
        c = np.empty(self._shape, self._dtype)
        with self._lock:
            self._b[:, : self._columns] = b
            self._program.put("a", np.ascontiguousarray(a.T if self._transposed else a, self._dtype))
            self._program.put("c", c)
            if bias is not None:
                self._bias[: self._columns] = bias
            self._program.put("bias", self._no_bias if bias is None else self._bias)
            self._program.run()
        return c if self._columns == self._shape[1] else np.ascontiguousarray(c[:, : self._columns])


class Products:
    """Products of matrices of any shapes; those that came last are kept prepared.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    most : int
        How many shapes are kept; a dense layer has three for each batch size.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.kernels.dense import Products
    >>> Products("float64", 3)(np.ones((2, 3)), np.ones((3, 1))).ravel()
    array([3., 3.])
    """

    def __init__(self, dtype: DTypeLike, most: int) -> None:
        self._dtype, self._most = dtype, most
        self._prepared: dict[tuple, Product] = {}

    def __call__(
        self, a: NDArray, b: NDArray, n_jobs: int | None = None, transposed: bool = False,
        bias: NDArray | None = None, relu: bool = False,
    ) -> NDArray:
        """Multiply; arguments as of `Product`."""
        key = *a.shape, b.shape[1], n_jobs, transposed, relu
        product = self._prepared.get(key)
        if product is None:
            if len(self._prepared) >= self._most:
                self._prepared.clear()
            product = self._prepared[key] = Product(*key[:3], self._dtype, n_jobs, transposed, relu)
        return product(a, b, bias)
