"""The one matrix product: C (rows x vectors) (+)= A W, cut into register tiles.

Everything a recurrent layer multiplies is brought into this form by strides: the input and recurrent products
of a step, the gradient through them, the gradient of the weights (A transposed), a dense layer. Every row of
C is summed in the same order whatever tile it falls in, so a result does not depend on how rows are shared
out.
"""

from __future__ import annotations

from numba import types
from numba.extending import overload

from numbarnn.kernels.compiler import Shared
from numbarnn.simd import TILE_ROWS, VECTOR_BYTES, address, lanes_of, tile

# partial sums of the single row of a stream, see simd.TILE_SHAPES: its sums have an order of their own
ALONE = 2
TILE_ROWS_TABLE = (0, *(TILE_ROWS[vectors] for vectors in (1, 2, 3, 4)))
# of W: stays in the first-level cache while rows pass
PANEL_BYTES = 16 << 10 if VECTOR_BYTES <= 32 else 32 << 10


def panel_vectors(vectors: int) -> int:
    """Find the width, in registers, of the widest tiles that `vectors` can be cut into evenly."""
    return next(v for v in (4, 3, 2, 1) if vectors % v == 0)


def panel_depth(columns: int, itemsize: int, depth: int = 1 << 30) -> int:
    """Count the rows of a panel of W of so many columns that stay in the first-level cache.

    With the `depth` of W given, its panels are of nearly one size: a last one of a single row would cost as
    many loads and stores of C as a full one.

    >>> from numbarnn.kernels.gemm import PANEL_BYTES, panel_depth
    >>> panel_depth(PANEL_BYTES // 512, 4, depth=257)
    129
    """
    most = max(16, PANEL_BYTES // max(1, columns * itemsize))
    return -(-depth // max(1, round(depth / most)))


def gemm(vectors, rows, sums, add, a, a_at, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row):
    """Set C (rows x vectors) to (C if add else 0) + A W, for any rows and vectors; njit code only.

    Arguments as in `simd.tile`.
    """
    raise NotImplementedError


def _gemm(
    vectors, rows, sums, add, a, a_at, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row
):
    lanes = lanes_of(c)
    width = 3 if vectors % 4 != 0 and vectors % 3 == 0 and sums != ALONE else 4
    v = 0
    while v < vectors:
        n_vectors = min(width, vectors - v)
        if sums == ALONE and n_vectors < 4:
            n_vectors = 1
        most = TILE_ROWS_TABLE[n_vectors]
        # each tile brings its share of the panel of W that lies behind this one: memory answers a steady
        # stream, and would keep bursts waiting
        share = w_k * most // rows if rows > most else w_k
        next_at = blocks * depth * w_k
        r = 0
        while r < rows:
            left = rows - r
            if sums == ALONE:
                n_rows = 1
            elif most == 6 and n_vectors == 4 and (left == 4 or left == 5 or left == 8):
                n_rows = 4  # rather than in pairs, which keep the units waiting; 4 + 4 rather than 6 + 2
            else:
                # four rows are two pairs where a full tile is three: no lone row behind it
                n_rows = most if left >= most and (left != 4 or most != 3) else min(left, 2)
            tile(n_rows, n_vectors, sums, add, a, a_at + r * a_row, a_row, a_block, a_k,
                 w, w_at + v * lanes, w_k, blocks, depth, c, c_at + r * c_row + v * lanes, c_row,
                 next_at, share)
            r += n_rows
            next_at += blocks * depth * share
        v += n_vectors


def _signature(dtype):
    pointer, n = types.CPointer(dtype), types.intp
    return types.void(n, n, n, types.boolean, pointer, n, n, n, n, pointer, n, n, n, n, pointer, n, n)


_SHARED_GEMM = Shared(_gemm, _signature)


@overload(gemm)
def _call_gemm(
    vectors, rows, sums, add, a, a_at, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row
):
    function = _SHARED_GEMM.load(c.dtype)

    def call(
        vectors, rows, sums, add, a, a_at, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row
    ):
        function(vectors, rows, sums, add, address(a), a_at, a_row, a_block, a_k,
                 address(w), w_at, w_k, blocks, depth, address(c), c_at, c_row)

    return call
