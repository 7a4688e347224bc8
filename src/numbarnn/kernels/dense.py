"""Products of whole matrices for the dense layers around the recurrent ones.

BLAS may sum in another order when it has other threads or other rows to work on; here the bits of a row
depend on that row alone, as in the recurrent layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels.compiler import kernel
from numbarnn.kernels.gemm import gemm
from numbarnn.kernels.threads import post, ranges, run_tasks, worthwhile_threads
from numbarnn.simd import VECTOR_BYTES, lanes_of

DEPTH = 128  # rows of b at a time


@kernel
def _product(signal, r0, r1, depth, columns, a, a_row, a_k, b, c):
    """Set rows r0 to r1 of c (rows, columns) to a b, b (depth, columns), columns a multiple of the lanes."""
    post(signal)
    for k in range(0, depth, DEPTH):
        gemm(columns // lanes_of(c), r1 - r0, 1, k > 0, a, r0 * a_row + k * a_k, a_row, 0, a_k,
             b, k * columns, columns, 1, min(DEPTH, depth - k), c, r0 * columns, columns)


def matmul(a: NDArray, b: NDArray, n_jobs: int | None = None) -> NDArray:
    """Multiply two matrices of one dtype, float32 or float64.

    Parameters
    ----------
    a : ndarray of shape (n, m)
        C-contiguous, or the transpose of such an array, of which no copy is made.
    b : ndarray of shape (m, k)
    n_jobs : int or None, default=None
        Number of threads.

    Returns
    -------
    c : ndarray of shape (n, k)
        C-contiguous; a row has the same bits whatever other rows there are.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.kernels.dense import matmul
    >>> matmul(np.ones((2, 3)), np.ones((3, 2)))
    array([[3., 3.],
           [3., 3.]])
    """
    (rows, depth), columns = a.shape, b.shape[1]
    lanes = VECTOR_BYTES // b.itemsize
    padded = -(-columns // lanes) * lanes
    if padded != columns:
        b, narrow = np.zeros((depth, padded), b.dtype), b
        b[:, :columns] = narrow
    if a.flags.c_contiguous:
        flat, a_row, a_k = a.reshape(-1), depth, 1
    else:
        flat, a_row, a_k = np.ascontiguousarray(a.T).reshape(-1), 1, rows
    c = np.empty((rows, padded), b.dtype)
    threads = worthwhile_threads(rows * depth * padded, n_jobs)
    arguments = (depth, padded, flat, a_row, a_k, np.ascontiguousarray(b).reshape(-1), c.reshape(-1))
    run_tasks(_product, [(*share, *arguments) for share in ranges(rows, threads)], threads)
    return c if padded == columns else np.ascontiguousarray(c[:, :columns])
