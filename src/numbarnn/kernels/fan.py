"""One step of a cell for each of n rows with each of m inputs; knows shapes and no cell.

The arrays are flat. U units (whole registers), S slots, E states; gates are summed from two parts:

    base (n, S, U)     what the slots of a row have for all its inputs
    inputs (m, S, U)   what those of an input have for all rows
    states (n, E, U)   the states before the step
    out (n, m, U)      h after it
    scratch (blocks, S + E, U)

and dbase, dstates, dout are their gradients. Nothing is kept from the way there to the way back: the cell is
computed again, in less time than n * m gates take from memory. Rows are worked on in blocks, and the gradient
of the inputs is summed over each block alone, dparts (blocks, m, S, U): so its bits do not depend on the
number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba.extending import register_jitable

from numbarnn.kernels.compiler import Reals, task
from numbarnn.kernels.equations import cell_backward, cell_forward, load_slots, load_states
from numbarnn.simd import INLINED, flush_subnormals, lanes_of, load, restore_mode, store, store_many

if TYPE_CHECKING:
    from numbarnn.cells import Cell

BLOCK = 32  # rows


@register_jitable(**INLINED)
def _sum_gates(count, base, at, inputs, k, scratch, to):
    """scratch[to:to + count] = base[at:at + count] + inputs[k:k + count]."""
    for i in range(0, count, lanes_of(base)):
        store(scratch, to + i, load(base, at + i) + load(inputs, k + i))


@register_jitable(**INLINED)
def _add(count, scratch, at, a, to):
    """a[to:to + count] += scratch[at:at + count], whole registers."""
    for i in range(0, count, lanes_of(a)):
        store(a, to + i, load(a, to + i) + load(scratch, at + i))


@task
def fan_forward(
    cell: Cell, b0: int, b1: int, n: int, m: int, U: int, S: int, E: int, scratch: Reals, base: Reals,
    inputs: Reals, states: Reals, out: Reals,
):
    """Set out of the rows of blocks b0 to b1."""
    for b in range(b0, b1):
        to = b * (S + E) * U
        for r in range(b * BLOCK, min(n, (b + 1) * BLOCK)):
            for k in range(m):
                _sum_gates(S * U, base, r * S * U, inputs, k * S * U, scratch, to)
                for u in range(0, U, lanes_of(base)):
                    at = r * E * U + u
                    old = load_states(cell, states, at, states, at + U, U)
                    new, _ = cell_forward(cell, load_slots(cell, scratch, to + u, U), old)
                    store(out, (r * m + k) * U + u, new[0])


@task
def fan_backward(
    cell: Cell, b0: int, b1: int, n: int, m: int, U: int, S: int, E: int, scratch: Reals, base: Reals,
    inputs: Reals, states: Reals, dout: Reals, dbase: Reals, dparts: Reals, dstates: Reals, nothing: Reals,
):
    """Add to dbase, dparts and dstates of blocks b0 to b1, as far as the cell goes; `nothing`: E U zeros."""
    mode = flush_subnormals()
    for b in range(b0, b1):
        to = b * (S + E) * U
        for r in range(b * BLOCK, min(n, (b + 1) * BLOCK)):
            for k in range(m):
                _sum_gates(S * U, base, r * S * U, inputs, k * S * U, scratch, to)
                for u in range(0, U, lanes_of(base)):
                    at = r * E * U + u
                    old = load_states(cell, states, at, states, at + U, U)
                    dnew = load_states(cell, dout, (r * m + k) * U + u, nothing, u, U)
                    new, kept = cell_forward(cell, load_slots(cell, scratch, to + u, U), old)
                    dgates, dold = cell_backward(cell, kept, old, new, dnew)
                    store_many(scratch, to + u, U, dgates)
                    store_many(scratch, to + S * U + u, U, dold)
                _add(S * U, scratch, to, dbase, r * S * U)
                _add(S * U, scratch, to, dparts, (b * m + k) * S * U)
                _add(E * U, scratch, to + S * U, dstates, r * E * U)
    restore_mode(mode)
