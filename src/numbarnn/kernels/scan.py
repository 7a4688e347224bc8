"""The time loop of one layer in one direction, forward and backward; knows shapes and no cell.

Letters: T time steps, B batch, I inputs, H hidden units, V lanes of a register. Hidden units are cut into J
blocks of U units (a multiple of V); Hp = J U. The arrays are flat; their shapes, with the names of `Sizes`:

    z    (T, B, LZ)            input rows [x | 1]: the one makes the bias the last row of the weights
    x    (x_slots, B, LX)      state rows [h (R) | 1], R as Hp; slot t holds the state before step t, slot
                               t + 1 that after it (in the reverse direction the other way round). Few inputs
                               that all slots see stand behind them: [h | 1 | x | 1]
    h                          x again; with recurrent dropout what x would be without it, see `noise`
    c    (x_slots, B, E Hp)    the E further states, side by side
    g    (J, g_slots, B, S)    a block's S columns: its U units for each of the cell's slots. Sums, then what
                               the cell keeps of its gates, then, in place, their gradient: the right operand
                               of dW as it lies
    d, e (B, Hp), (B, E Hp)    gradient of h and of the further states
    dz   (T, B, LD)            gradient of the input rows
    w                          all packed weights, one behind the other; `Sizes` has where:
      wx   (J, I + 1, Sx)      of the slots that see the input, the last Sx columns of a block
      wh   (J, D, Sh)          of the slots that see the state, the first Sh columns of a block; D is R + 1,
                               or R + 1 + I + 1 where wx is part of it
      wm   (J, Hp + 1, Sm)     of the second product
      u    (K, Hp)             the parameters of single units
      wht  (R / P, J, Sh, P)   wh transposed, without the bias, in panels of P columns; wmt is wm likewise
      wxt  (LD / P, J, Sx, P)  wx likewise, with a P of its own; LD is I up to whole registers
    dw                         gradients of wx, wh, wm and u, shaped like them

A cell whose step has a second product, or parameters of single units, has more, which stands behind what is
alike, so that no kernel takes more arrays for it:

    behind x   m   (g_slots, B, LM)     rows [middle vector (Hp) | 1]
    behind g   q   (J, g_slots, B, Sm)  the second products, then what is kept of them, then their gradient
    behind d   dm  (B, Hp)              gradient of the middle vector
    behind e   du  (B, K Hp)            gradient of the parameters of single units, a row's share

In training x and c have T + 1 slots and g has T; otherwise two, and as many as there are steps whose input
product is done at once, used in turn. A cell without recurrent product may have fewer in training too: what
is overwritten is computed again on the way back, from the states that `keep_states` put aside. A row past its
length keeps its state, puts out zeros and has no gradient.

A row is summed in one order, which follows from the sizes of the layer alone: its bits depend neither on the
number of threads nor on the rows that share its batch. Only a row that streams alone (`scan_step` with
`gemm.ALONE`) is summed in another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from numbarnn.kernels.compiler import Ints, Reals, kernel, task
from numbarnn.kernels.equations import advance, retreat
from numbarnn.kernels.gemm import gemm
from numbarnn.kernels.halves import finish_forward, start_backward
from numbarnn.kernels.noise import disturb, join_gradient, split_gradient
from numbarnn.kernels.sizes import Sizes
from numbarnn.simd import (
    INLINED,
    add_row,
    address,
    clear_units,
    copy_row,
    fetch_row,
    flush_subnormals,
    lanes_of,
    restore_mode,
    takes_step,
)

if TYPE_CHECKING:
    from numbarnn.cells import Cell

# Outputs lie by samples, so that a step writes to as many places as there are rows. The processor does not
# foresee the next ones, and is told so many steps before.
AHEAD = 4
N_SIZES = len(Sizes._fields)


@njit(**INLINED)
def input_product(sizes, j, r0, r1, s0, s1, z, w, g):
    """Set steps s0 to s1 of block j of g to [x | 1] wx, in slots that do not see the input to zero."""
    T, B, S, Sx = sizes.T, sizes.B, sizes.S, sizes.Sx
    lanes = lanes_of(g)
    depth = sizes.I + 1
    for k in range(0, depth, sizes.kx):
        for s in range(s0, s1):
            t = T - 1 - s if sizes.reverse else s
            to = ((j * sizes.g_slots + t % sizes.g_slots) * B + r0) * S
            gemm(Sx // lanes, r1 - r0, sizes.sums, k > 0, z, (t * B + r0) * sizes.LZ + k, sizes.LZ, 0, 1,
                 w, (j * depth + k) * Sx, Sx, 1, min(sizes.kx, depth - k),
                 g, to + S - Sx, S)
    if Sx < S:
        target = address(g)  # an index of an array may be negative: slower
        for s in range(s0, s1):
            t = T - 1 - s if sizes.reverse else s
            to = ((j * sizes.g_slots + t % sizes.g_slots) * B + r0) * S
            for r in range(r1 - r0):
                for i in range(S - Sx):
                    target[to + r * S + i] = 0


@njit(inline="always")
def _hold(masked, B, R, LH, LC, r0, r1, t, lengths, before, after, h, c):
    """Let the states of rows that do not take step t be as they were."""
    for r in range(r0, r1):
        if not takes_step(masked, B, lengths, t, r):
            copy_row(R, h, (before + r) * LH, h, (after + r) * LH)
            copy_row(LC, c, (before + r) * LC, c, (after + r) * LC)


@njit(**INLINED)
def _step_forward(cell, sizes, r0, r1, s, lengths, active, all_run, z, w, x, h, g, c, n):
    """Do step s of rows r0 to r1: both products (the recurrent one only if `active`), then the cell.

    `all_run` tells that no row is past its end or masked. Where `sizes.steps` says that several steps have
    their input product at once, it has been done.
    """
    B, U, S, Sh, LX, LH = sizes.B, sizes.U, sizes.S, sizes.Sh, sizes.LX, sizes.LH
    lanes = lanes_of(g)
    t = sizes.T - 1 - s if sizes.reverse else s
    padded = sizes.J * U
    joined = sizes.D > sizes.R + 1
    LC = sizes.E * padded
    before = (t + sizes.reverse) % sizes.x_slots * B
    after = (t + 1 - sizes.reverse) % sizes.x_slots * B
    middle = sizes.x_slots * B * LX + t % sizes.g_slots * B * sizes.LM
    if joined:
        for r in range(r0, r1):
            copy_row(sizes.I + 1, z, (t * B + r) * sizes.LZ, x, (before + r) * LX + sizes.R + 1)
    for j in range(sizes.J):
        block = (j * sizes.g_slots + t % sizes.g_slots) * B
        if sizes.steps == 1 and not joined:  # here, while the block stays in the first-level cache
            input_product(sizes, j, r0, r1, s, s + 1, z, w, g)
        if active and Sh > 0:
            for k in range(0, sizes.D, sizes.kh):
                gemm(Sh // lanes, r1 - r0, sizes.sums, k > 0 or not joined, x, (before + r0) * LX + k,
                     LX, 0, 1, w, sizes.wh + (j * sizes.D + k) * Sh, Sh, 1, min(sizes.kh, sizes.D - k),
                     g, (block + r0) * S, S)
        for r in range(r0, r1):
            if all_run or takes_step(sizes.masked, B, lengths, t, r):
                for i in range(0, U, lanes):
                    u = j * U + i
                    c_at, c_to = (before + r) * LC + u, (after + r) * LC + u
                    advance(cell, U, padded, w, sizes.u + u, g, (block + r) * S + i, h, (before + r) * LH + u,
                            (after + r) * LH + u, c, c_at, c_to, x, middle + r * sizes.LM + u)
        if (j + 1) * U > sizes.H:
            clear_units(sizes.H, padded, r1 - r0, c, (after + r0) * LC, LC, padded, sizes.E)
            clear_units(sizes.H - j * U, U, r1 - r0, g, (block + r0) * S, S, U, S // U)
    finish_forward(cell, sizes, r0, r1, t, lengths, active, w, x, h, g, c)
    _hold(sizes.masked, B, sizes.R, LH, LC, r0, r0 if all_run else r1, t, lengths, before, after, h, c)
    if sizes.HR < sizes.R:
        clear_units(sizes.HR, sizes.R, r1 - r0, h, (after + r0) * LH, LH, 0, 1)
    disturb(cell, sizes, r0, r1, t, lengths, before, after, x, h, c, n)


@task
def scan_forward(
    cell: Cell, sizes: Sizes, r0: int, r1: int, s0: int, s1: int, lengths: Ints, z: Reals, w: Reals,
    x: Reals, h: Reals, g: Reals, c: Reals, n: Reals, out: Reals, out_t: int, out_r: int,
):
    """Take rows r0 to r1 from step s0 to step s1; out[t out_t + r out_r + unit] = h, unless out is empty."""
    first, last, ahead = sizes.T, 0, -AHEAD if sizes.reverse else AHEAD
    for r in range(r0, r1):
        first, last = min(first, lengths[r]), max(last, lengths[r])
    for start in range(s0, s1, sizes.steps):
        end = min(s1, start + sizes.steps)
        if sizes.steps > 1:
            for j in range(sizes.J):
                input_product(sizes, j, r0, r1, start, end, z, w, g)
        for s in range(start, end):
            t = sizes.T - 1 - s if sizes.reverse else s
            all_run = t < first and sizes.masked == 0
            _step_forward(cell, sizes, r0, r1, s, lengths, t < last, all_run, z, w, x, h, g, c, n)
            if out.size > 0:
                after = (t + 1 - sizes.reverse) % sizes.x_slots * sizes.B
                for r in range(r0, r1):
                    at, to = (after + r) * sizes.LH, t * out_t + r * out_r
                    fetch_row(sizes.HR, out, to + ahead * out_t)
                    if all_run or takes_step(sizes.masked, sizes.B, lengths, t, r):
                        copy_row(sizes.HR, h, at, out, to)
                    else:
                        for u in range(sizes.HR):
                            out[to + u] = 0


@task
def keep_states(
    sizes: Sizes, r0: int, r1: int, slot: int, back: int, h: Reals, c: Reals, kept: Reals, at: int
):
    """Copy the states in a slot, rows r0 to r1, to (B, R + E Hp) from element `at` of kept on, or `back`."""
    LC = sizes.E * sizes.J * sizes.U
    for r in range(r0, r1):
        row, to = slot * sizes.B + r, at + r * (sizes.R + LC)
        if back:
            copy_row(sizes.R, kept, to, h, row * sizes.LH)
            copy_row(LC, kept, to + sizes.R, c, row * LC)
        else:
            copy_row(sizes.R, h, row * sizes.LH, kept, to)
            copy_row(LC, c, row * LC, kept, to + sizes.R)


@njit(**INLINED)
def _cell_backward(cell, sizes, r0, r1, t, lengths, w, h, g, c, d, e, n):
    """Go back through the cell: gates in g become their gradient, d and e that of the states before."""
    B, U, S, LH = sizes.B, sizes.U, sizes.S, sizes.LH
    lanes = lanes_of(g)
    padded = sizes.J * U
    LC = sizes.E * padded
    before = (t + sizes.reverse) % sizes.x_slots * B
    after = (t + 1 - sizes.reverse) % sizes.x_slots * B
    for j in range(sizes.J):
        block = (j * sizes.g_slots + t % sizes.g_slots) * B
        for r in range(r0, r1):
            if takes_step(sizes.masked, B, lengths, t, r):
                for i in range(0, U, lanes):
                    u = j * U + i
                    c_at, c_to = (before + r) * LC + u, (after + r) * LC + u
                    du_at = B * LC + r * sizes.K * padded + u
                    n_at = sizes.nk + (t * B + r) * (padded + LC) + u
                    retreat(cell, U, padded, w, sizes.u + u, g, (block + r) * S + i, h, (before + r) * LH + u,
                            (after + r) * LH + u, c, c_at, c_to, d, r * padded + u, (B + r) * padded + u,
                            e, r * LC + u, du_at, n, n_at)
            else:
                for i in range(S):
                    g[(block + r) * S + i] = 0


@task
def scan_backward(
    cell: Cell, sizes: Sizes, r0: int, r1: int, s0: int, s1: int, lengths: Ints, dout: Reals, dout_t: int,
    dout_r: int, w: Reals, h: Reals, g: Reals, c: Reals, d: Reals, dh: Reals, e: Reals, n: Reals,
):
    """Take rows r0 to r1 back from step s1 to step s0.

    dout is strided as `out` in `scan_forward` and may be empty. d and e hold the gradient of the states after
    these steps at first and before them in the end. dh is what the product adds to: d, or a part of n where a
    mask comes in between.
    """
    mode = flush_subnormals()
    T, B, S, Sh, P, slots = sizes.T, sizes.B, sizes.S, sizes.Sh, sizes.P, sizes.g_slots
    padded = sizes.J * sizes.U
    last, ahead = 0, -AHEAD if sizes.reverse else AHEAD
    for r in range(r0, r1):
        last = max(last, lengths[r])
    for s in range(s1 - 1, s0 - 1, -1):
        t = T - 1 - s if sizes.reverse else s
        if dout.size > 0:
            for r in range(r0, r1):
                fetch_row(sizes.HR, dout, (t - ahead) * dout_t + r * dout_r)
                if takes_step(sizes.masked, B, lengths, t, r):
                    add_row(sizes.HR, dout, t * dout_t + r * dout_r, d, r * padded)
        split_gradient(cell, sizes, r0, r1, t, lengths, d, e, n)
        start_backward(cell, sizes, r0, r1, t, lengths, w, h, g, c, d)
        _cell_backward(cell, sizes, r0, r1, t, lengths, w, h, g, c, d, e, n)
        if t < last and Sh > 0:
            for p in range(sizes.R // P):
                for j in range(0, sizes.J, sizes.group):
                    gemm(P // lanes_of(g), r1 - r0, sizes.sums, j > 0 or sizes.dd == 0,
                         g, ((j * slots + t % slots) * B + r0) * S, S, slots * B * S, 1,
                         w, sizes.wht + (p * sizes.J + j) * Sh * P, P, min(sizes.group, sizes.J - j), Sh,
                         dh, r0 * padded + p * P, padded)
        join_gradient(cell, sizes, r0, r1, t, lengths, d, e, n)
    restore_mode(mode)


@task
def input_gradient(
    sizes: Sizes, r0: int, r1: int, t0: int, t1: int, add: int, wxt: Reals, g: Reals, dz: Reals, LD: int,
    P: int, group: int,
):
    """Set dz to (dz if add else 0) + dgates wx', for rows r0 to r1 of steps t0 to t1.

    The gradient of the gates is what `scan_backward` left in g.
    """
    mode = flush_subnormals()
    B, S, Sx, slots = sizes.B, sizes.S, sizes.Sx, sizes.g_slots
    for start in range(t0, t1, sizes.back):  # as many steps as stay in the cache while the panels pass
        for p in range(LD // P):
            for j in range(0, sizes.J, group):
                for t in range(start, min(start + sizes.back, t1)):
                    gemm(P // lanes_of(g), r1 - r0, sizes.sums, add > 0 or j > 0,
                         g, ((j * slots + t % slots) * B + r0) * S + S - Sx, S, slots * B * S, 1,
                         wxt, (p * sizes.J + j) * Sx * P, P, min(group, sizes.J - j), Sx,
                         dz, (t * B + r0) * LD + p * P, LD)
    restore_mode(mode)


@task
def weight_gradient(
    sizes: Sizes, j0: int, j1: int, m0: int, m1: int, t0: int, t1: int, add: int, a: Reals, a_at: int,
    a_stride: int, depth: int, g: Reals, g_at: int, g_stride: int, columns: int, dw: Reals,
):
    """Set rows m0 to m1 of blocks j0 to j1 of dw (J, depth, columns) to the sum over t and b of a' dgates.

    The sum is that over the time steps t0 to t1, and is added to dw if `add` says so. Row (t, b) of `a`
    stands at a_at + (t B + b) a_stride: an input row for dwx, the state row before the step for dwh, the
    middle vector for dwm. The gradient of the slots that see it, of block j, stands at
    g_at + ((j g_slots + t % g_slots) B + b) g_stride; those of these steps lie side by side.
    """
    mode = flush_subnormals()
    lanes, slots = lanes_of(g), sizes.g_slots
    first, last, depth_n = t0 * sizes.B, t1 * sizes.B, sizes.kn
    here = g_at + (t0 % slots - t0) * sizes.B * g_stride
    for n in range(first, last, depth_n):
        for k in range(n + depth_n, min(n + 2 * depth_n, last)):  # the next rows: no pattern to foresee
            fetch_row(m1 - m0, a, a_at + k * a_stride + m0)
        for j in range(j0, j1):
            gemm(columns // lanes, m1 - m0, 1, add > 0 or n > first,
                 a, a_at + n * a_stride + m0, 1, 0, a_stride,
                 g, here + (j * slots * sizes.B + n) * g_stride, g_stride, 1, min(depth_n, last - n),
                 dw, (j * depth + m0) * columns, columns)
    restore_mode(mode)


@task
def unit_gradient(sizes: Sizes, scalars: int, e: Reals, du: Reals):
    """Set du (K, Hp) to the sum over rows of what `scan_backward` left behind e; the last K are scalars.

    The gradient of a scalar, summed over the units, stands in the place of the first.
    """
    padded = sizes.J * sizes.U
    width = sizes.K * padded
    for i in range(width):
        total = e[sizes.B * sizes.E * padded + i]
        for r in range(1, sizes.B):
            total += e[sizes.B * sizes.E * padded + r * width + i]
        du[i] = total
    for k in range(sizes.K - scalars, sizes.K):
        total = du[k * padded]
        for u in range(1, sizes.H):
            total += du[k * padded + u]
        du[k * padded] = total


@kernel
def scan_step(cell, numbers, residual, memory, lengths, x_t, states, new_states, output):
    """Do one step of all layers, each on the output of the one before: x_t (B, I) to output (B, HR).

    `states` and `new_states` are tuples of arrays (layers, B, units). A row of `numbers` has the Sizes of a
    layer, and behind them where in `memory` its z, w, x, g, c and n begin and the last of them ends: handing
    over as many arrays would take Python longer than a small layer takes for its step.
    """
    below = x_t
    for layer in range(len(numbers)):
        sizes = Sizes(*to_fixed_tuple(numbers[layer, :N_SIZES], N_SIZES))
        at = numbers[layer, N_SIZES:]
        z, w, x = memory[at[0] : at[1]], memory[at[1] : at[2]], memory[at[2] : at[3]]
        g, c, n = memory[at[3] : at[4]], memory[at[4] : at[5]], memory[at[5] : at[6]]
        B, H, padded = sizes.B, sizes.H, sizes.J * sizes.U
        adds = residual and sizes.I == sizes.HR
        for r in range(B):
            for i in range(sizes.I):
                z[r * sizes.LZ + i] = below[r, i]
            for u in range(sizes.HR):
                x[r * sizes.LX + u] = states[0][layer, r, u]
            for s in range(sizes.E):
                for u in range(H):
                    c[(r * sizes.E + s) * padded + u] = states[s + 1][layer, r, u]
        _step_forward(cell, sizes, 0, B, 0, lengths, True, True, z, w, x, x, g, c, n)
        for r in range(B):
            for u in range(sizes.HR):
                h = x[(B + r) * sizes.LX + u]
                new_states[0][layer, r, u] = h
                output[r, u] = h + below[r, u] if adds else h
            for s in range(sizes.E):
                for u in range(H):
                    new_states[s + 1][layer, r, u] = c[((B + r) * sizes.E + s) * padded + u]
        below = output
