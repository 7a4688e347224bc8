"""The time loop of one layer in one direction, forward and backward; knows shapes and no cell.

Letters: T time steps, B batch, I inputs, H hidden units, V lanes of a register. Hidden units are cut into J
blocks of U units (a multiple of V); Hp = J U. The arrays are flat; their shapes, with the names of `Sizes`:

    z    (T, B, LZ)            input rows [x | 1]: the one makes the bias the last row of the weights
    x    (x_slots, B, LX)      state rows [h (Hp) | 1]; slot t holds the state before step t, slot t + 1 that
                               after it (in the reverse direction the other way round). Few inputs that all
                               slots see stand behind them: [h | 1 | x | 1]
    c    (x_slots, B, E Hp)    the E further states, side by side
    g    (J, g_slots, B, S)    a block's S columns: its U units for each of the cell's slots. Sums, then what
                               the cell keeps of its gates, then, in place, their gradient: the right operand
                               of dW as it lies
    d, e (B, Hp), (B, E Hp)    gradient of h and of the further states
    dz   (T, B, LD)            gradient of the input rows
    w                          all packed weights, one behind the other; `Sizes` has where:
      wx   (J, I + 1, Sx)      of the slots that see the input, the last Sx columns of a block
      wh   (J, D, Sh)          of the slots that see the state, the first Sh columns of a block; D is Hp + 1,
                               or Hp + 1 + I + 1 where wx is part of it
      wm   (J, Hp + 1, Sm)     of the second product
      u    (K, Hp)             the parameters of single units
      wht  (Hp / P, J, Sh, P)  wh transposed, without the bias, in panels of P columns; wmt is wm likewise
      wxt  (LD / P, J, Sx, P)  wx likewise, with a P of its own; LD is I up to whole registers
    dw                         gradients of wx, wh, wm and u, shaped like them

A cell whose step has a second product, or parameters of single units, has more, which stands behind what is
alike, so that no kernel takes more arrays for it:

    behind x   m   (g_slots, B, LM)     rows [middle vector (Hp) | 1]
    behind g   q   (J, g_slots, B, Sm)  the second products, then what is kept of them, then their gradient
    behind d   dm  (B, Hp)              gradient of the middle vector
    behind e   du  (B, K Hp)            gradient of the parameters of single units, a row's share

In training x and c have T + 1 slots and g has T; otherwise two, and as many as there are steps whose input
product is done at once, used in turn. A row past its length keeps its state, puts out zeros and has no
gradient.

A row is summed in one order, which follows from the sizes of the layer alone: its bits depend neither on the
number of threads nor on the rows that share its batch. Only a row that streams alone (`scan_step` with
`gemm.ALONE`) is summed in another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba import njit
from numba.extending import overload, register_jitable

from numbarnn.kernels.compiler import Ints, Reals, kernel, task
from numbarnn.kernels.equations import (
    cell_backward,
    cell_finish,
    cell_finish_backward,
    cell_first_backward,
    cell_forward,
    load_products,
    load_slots,
    load_states,
    load_units,
)
from numbarnn.kernels.gemm import gemm
from numbarnn.kernels.noise import (
    disturb,
    h_array,
    h_stride,
    join_gradient,
    new_states,
    product_target,
    runs,
    split_gradient,
)
from numbarnn.kernels.sizes import Sizes
from numbarnn.simd import INLINED, address, flush_subnormals, lanes_of, load, restore_mode, store, store_many

if TYPE_CHECKING:
    from numbarnn.cells import Cell

inline = njit(inline="always")  # into the kernel it is part of: compiled once, there


@register_jitable(**INLINED)
def _copy_row(n, a, at, b, to):
    """b[to:to + n] = a[at:at + n]."""
    lanes = lanes_of(a)
    whole = n // lanes * lanes
    for i in range(0, whole, lanes):
        store(b, to + i, load(a, at + i))
    for i in range(whole, n):
        b[to + i] = a[at + i]


@register_jitable(**INLINED)
def _add_row(n, a, at, b, to):
    """b[to:to + n] += a[at:at + n]."""
    lanes = lanes_of(a)
    whole = n // lanes * lanes
    for i in range(0, whole, lanes):
        store(b, to + i, load(b, to + i) + load(a, at + i))
    for i in range(whole, n):
        b[to + i] += a[at + i]


@inline
def _input_product(sizes, j, r0, r1, s0, s1, z, w, g):
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
        for s in range(s0, s1):
            t = T - 1 - s if sizes.reverse else s
            to = ((j * sizes.g_slots + t % sizes.g_slots) * B + r0) * S
            for r in range(r1 - r0):
                for i in range(S - Sx):
                    g[to + r * S + i] = 0


def _advance(cell, sizes, units, gates_at, states, h, to, c, c_to, x, m_to, g):
    """Take a register of units from their sums and old states to the new ones; all that is kept is stored.

    Of a step with two products this is the first half, in which the middle vector goes to x[m_to].
    """
    raise NotImplementedError


@overload(_advance, jit_options=INLINED)
def _advance_of(cell, sizes, units, gates_at, states, h, to, c, c_to, x, m_to, g):
    def whole(cell, sizes, units, gates_at, states, h, to, c, c_to, x, m_to, g):
        states, kept = cell_forward(cell, load_slots(cell, g, gates_at, sizes.U), states, units)
        store_many(g, gates_at, sizes.U, kept)
        store(h, to, states[0])
        store_many(c, c_to, sizes.J * sizes.U, states[1:])

    def first_half(cell, sizes, units, gates_at, states, h, to, c, c_to, x, m_to, g):
        gates = load_slots(cell, g, gates_at, sizes.U)
        middle, further, kept = cell_forward(cell, gates, states, units)
        store_many(g, gates_at, sizes.U, kept)
        store(x, m_to, middle)
        store_many(c, c_to, sizes.J * sizes.U, further)

    return first_half if cell.n_products else whole


def _hold(cell, sizes, states, h, to, c, c_to, x, m_to):
    """Let a register of units of a row past its length stay as it is."""
    raise NotImplementedError


@overload(_hold, jit_options=INLINED)
def _hold_of(cell, sizes, states, h, to, c, c_to, x, m_to):
    def both(cell, sizes, states, h, to, c, c_to, x, m_to):
        store(h, to, states[0])
        store_many(c, c_to, sizes.J * sizes.U, states[1:])

    def and_middle(cell, sizes, states, h, to, c, c_to, x, m_to):
        both(cell, sizes, states, h, to, c, c_to, x, m_to)
        store(x, m_to, states[0])  # a number, which no gradient reaches

    both = register_jitable(**INLINED)(both)
    return and_middle if cell.n_products else both


@inline
def _step_forward(cell, sizes, r0, r1, s, lengths, active, z, w, x, g, c, n):
    """Do step s of rows r0 to r1: both products (the recurrent one only if `active`), then the cell.

    Where `sizes.steps` says that several steps have their input product at once, it has been done.
    """
    B, U, S, Sh, LX = sizes.B, sizes.U, sizes.S, sizes.Sh, sizes.LX
    lanes = lanes_of(g)
    t = sizes.T - 1 - s if sizes.reverse else s
    padded = sizes.J * U
    joined = sizes.D > padded + 1
    LC = sizes.E * padded
    before = (t + sizes.reverse) % sizes.x_slots * B
    after = (t + 1 - sizes.reverse) % sizes.x_slots * B
    middle = sizes.x_slots * B * LX + t % sizes.g_slots * B * sizes.LM
    hs, LH = h_array(cell, x, n), h_stride(cell, sizes)
    if joined:
        source, target = address(z), address(x)
        for r in range(r0, r1):
            at, to = (t * B + r) * sizes.LZ, (before + r) * LX + padded + 1
            for i in range(sizes.I + 1):
                target[to + i] = source[at + i]
    for j in range(sizes.J):
        block = (j * sizes.g_slots + t % sizes.g_slots) * B
        if sizes.steps == 1 and not joined:  # here, while the block stays in the first-level cache
            _input_product(sizes, j, r0, r1, s, s + 1, z, w, g)
        if active and Sh > 0:
            for k in range(0, sizes.D, sizes.kh):
                gemm(Sh // lanes, r1 - r0, sizes.sums, k > 0 or not joined, x, (before + r0) * LX + k,
                     LX, 0, 1, w, sizes.wh + (j * sizes.D + k) * Sh, Sh, 1, min(sizes.kh, sizes.D - k),
                     g, (block + r0) * S, S)
        for r in range(r0, r1):
            for i in range(0, U, lanes):
                u = j * U + i
                at, c_at = (before + r) * LH + u, (before + r) * LC + u
                to, c_to = (after + r) * LH + u, (after + r) * LC + u
                m_to = middle + r * sizes.LM + u
                states = load_states(cell, hs, at, c, c_at, padded)
                if runs(sizes, lengths, t, r):
                    units = load_units(cell, w, sizes.u + u, padded)
                    _advance(cell, sizes, units, (block + r) * S + i, states, hs, to, c, c_to, x, m_to, g)
                else:
                    _hold(cell, sizes, states, hs, to, c, c_to, x, m_to)
        if (j + 1) * U > sizes.H:
            _clear_padding(sizes, r1 - r0, hs, (after + r0) * LH, LH, padded, 1)
            _clear_padding(sizes, r1 - r0, x, middle + r0 * sizes.LM, sizes.LM, padded, min(1, sizes.Sm))
            _clear_padding(sizes, r1 - r0, c, (after + r0) * LC, LC, padded, sizes.E)
            _clear_padding(sizes, r1 - r0, g, (block + r0) * S - j * U, S, U, S // U)
    _finish_forward(cell, sizes, r0, r1, t, lengths, active, w, x, g, c, hs)
    disturb(cell, sizes, r0, r1, t, lengths, before, after, x, c, n)


def _finish_forward(cell, sizes, r0, r1, t, lengths, active, w, x, g, c, hs):
    """Do the second half of step t, where the cell has one: the product with the middle vector, then h."""
    raise NotImplementedError


@overload(_finish_forward, inline="always")
def _finish_forward_of(cell, sizes, r0, r1, t, lengths, active, w, x, g, c, hs):
    if not cell.n_products:
        return lambda cell, sizes, r0, r1, t, lengths, active, w, x, g, c, hs: None

    def finish(cell, sizes, r0, r1, t, lengths, active, w, x, g, c, hs):
        B, U, S, Sm, LX, LM = sizes.B, sizes.U, sizes.S, sizes.Sm, sizes.LX, sizes.LM
        lanes = lanes_of(g)
        padded = sizes.J * U
        LC, LH = sizes.E * padded, h_stride(cell, sizes)
        before = (t + sizes.reverse) % sizes.x_slots * B
        after = (t + 1 - sizes.reverse) % sizes.x_slots * B
        middle = sizes.x_slots * B * LX + t % sizes.g_slots * B * LM
        products = sizes.J * sizes.g_slots * B * S
        for j in range(sizes.J):
            block = (j * sizes.g_slots + t % sizes.g_slots) * B
            if active:
                for k in range(0, padded + 1, sizes.km):
                    gemm(Sm // lanes, r1 - r0, sizes.sums, k > 0, x, middle + r0 * LM + k, LM, 0, 1,
                         w, sizes.wm + (j * (padded + 1) + k) * Sm, Sm, 1, min(sizes.km, padded + 1 - k),
                         g, products + (block + r0) * Sm, Sm)
            for r in range(r0, r1):
                if runs(sizes, lengths, t, r):
                    for i in range(0, U, lanes):
                        u = j * U + i
                        at, q_at = (block + r) * S + i, products + (block + r) * Sm + i
                        states = load_states(
                            cell, hs, (before + r) * LH + u, c, (before + r) * LC + u, padded
                        )
                        q, gates = load_products(cell, g, q_at, U), load_slots(cell, g, at, U)
                        h, q, gates = cell_finish(cell, q, gates, states)
                        store_many(g, q_at, U, q)
                        store_many(g, at, U, gates)
                        store(hs, (after + r) * LH + u, h)
            if (j + 1) * U > sizes.H:
                _clear_padding(sizes, r1 - r0, hs, (after + r0) * LH, LH, padded, 1)
                _clear_padding(sizes, r1 - r0, g, (block + r0) * S - j * U, S, U, S // U)
                _clear_padding(sizes, r1 - r0, g, products + (block + r0) * Sm - j * U, Sm, U, Sm // U)

    return finish


@register_jitable(**INLINED)
def _clear_padding(sizes, rows, a, at, stride, part, parts):
    """Zero the units past H of `parts` parts of rows: what zero weights make of an inf is NaN.

    A row is `stride` elements, a part of it `part`, and unit u stands at place u of it.
    """
    for r in range(rows):
        for k in range(parts):
            for u in range(sizes.H, sizes.J * sizes.U):
                a[at + r * stride + k * part + u] = 0


@task
def scan_forward(
    cell: Cell, sizes: Sizes, r0: int, r1: int, lengths: Ints, z: Reals, w: Reals, x: Reals, g: Reals,
    c: Reals, n: Reals, out: Reals, out_t: int, out_r: int,
):
    """Take rows r0 to r1 through all time steps; out[t out_t + r out_r + unit] = h, unless out is empty."""
    last = 0
    for r in range(r0, r1):
        last = max(last, lengths[r])
    for s0 in range(0, sizes.T, sizes.steps):
        s1 = min(sizes.T, s0 + sizes.steps)
        if sizes.steps > 1:
            for j in range(sizes.J):
                _input_product(sizes, j, r0, r1, s0, s1, z, w, g)
        for s in range(s0, s1):
            t = sizes.T - 1 - s if sizes.reverse else s
            _step_forward(cell, sizes, r0, r1, s, lengths, t < last, z, w, x, g, c, n)
            if out.size > 0:
                after = (t + 1 - sizes.reverse) % sizes.x_slots * sizes.B
                for r in range(r0, r1):
                    at, to = (after + r) * h_stride(cell, sizes), t * out_t + r * out_r
                    if runs(sizes, lengths, t, r):
                        _copy_row(sizes.H, h_array(cell, x, n), at, out, to)
                    else:
                        for u in range(sizes.H):
                            out[to + u] = 0


@inline
def _cell_backward(cell, sizes, r0, r1, t, lengths, w, x, g, c, d, e, n):
    """Go back through the cell: gates in g become their gradient, d and e that of the states before."""
    B, U, S, LH = sizes.B, sizes.U, sizes.S, h_stride(cell, sizes)
    lanes = lanes_of(g)
    padded = sizes.J * U
    LC = sizes.E * padded
    hs = h_array(cell, x, n)
    before = (t + sizes.reverse) * B
    after = (t + 1 - sizes.reverse) * B
    for j in range(sizes.J):
        block = (j * sizes.T + t) * B
        for r in range(r0, r1):
            if runs(sizes, lengths, t, r):
                for i in range(0, U, lanes):
                    u = j * U + i
                    states = load_states(cell, hs, (before + r) * LH + u, c, (before + r) * LC + u, padded)
                    new = new_states(cell, sizes, t, r, after + r, u, x, c, n)
                    dstates = load_states(cell, d, r * padded + u, e, r * LC + u, padded)
                    kept = load_slots(cell, g, (block + r) * S + i, U)
                    units = load_units(cell, w, sizes.u + u, padded)
                    dgates, dstates, dunits = _back(
                        cell, kept, states, new, dstates, d, (B + r) * padded + u, units
                    )
                    store_many(g, (block + r) * S + i, U, dgates)
                    store(d, r * padded + u, dstates[0])
                    store_many(e, r * LC + u, padded, dstates[1:])
                    _add_units(cell, sizes, dunits, e, B * LC + r * sizes.K * padded + u)
            else:
                for i in range(S):
                    g[(block + r) * S + i] = 0
        if (j + 1) * U > sizes.H:
            _clear_padding(sizes, r1 - r0, g, (block + r0) * S - j * U, S, U, S // U)
            _clear_padding(sizes, r1 - r0, d, r0 * padded, padded, padded, 1)
            _clear_padding(sizes, r1 - r0, e, r0 * LC, LC, padded, sizes.E)


def _back(cell, kept, states, new_states, dstates, d, dm_at, units):
    """Give (dgates, dstates, dunits); of a first half d[dm_at] is the middle vector's gradient."""
    raise NotImplementedError


@overload(_back, jit_options=INLINED)
def _back_of(cell, kept, states, new_states, dstates, d, dm_at, units):
    def whole(cell, kept, states, new_states, dstates, d, dm_at, units):
        return cell_backward(cell, kept, states, new_states, dstates, units)

    def first_half(cell, kept, states, new_states, dstates, d, dm_at, units):
        return cell_first_backward(cell, kept, states, new_states, dstates, load(d, dm_at), units)

    return first_half if cell.n_products else whole


def _add_units(cell, sizes, dunits, e, at):
    """Add to the gradients of the parameters of single units, if the cell has any."""
    raise NotImplementedError


@overload(_add_units, jit_options=INLINED)
def _add_units_of(cell, sizes, dunits, e, at):
    if not cell.n_units:
        return lambda cell, sizes, dunits, e, at: None

    def add(cell, sizes, dunits, e, at):
        padded = sizes.J * sizes.U
        for k in range(len(dunits)):
            store(e, at + k * padded, load(e, at + k * padded) + dunits[k])

    return add


def _finish_backward(cell, sizes, r0, r1, t, lengths, w, hs, g, c, d):
    """Go back through the second half of step t, where the cell has one: d is then of h before, and dm."""
    raise NotImplementedError


@overload(_finish_backward, inline="always")
def _finish_backward_of(cell, sizes, r0, r1, t, lengths, w, hs, g, c, d):
    if not cell.n_products:
        return lambda cell, sizes, r0, r1, t, lengths, w, hs, g, c, d: None

    def back(cell, sizes, r0, r1, t, lengths, w, hs, g, c, d):
        T, B, U, S, Sm, P = sizes.T, sizes.B, sizes.U, sizes.S, sizes.Sm, sizes.P
        lanes = lanes_of(g)
        padded = sizes.J * U
        LC, LH = sizes.E * padded, h_stride(cell, sizes)
        before = (t + sizes.reverse) * B
        products = sizes.J * T * B * S
        for j in range(sizes.J):
            block = (j * T + t) * B
            for r in range(r0, r1):
                if runs(sizes, lengths, t, r):
                    for i in range(0, U, lanes):
                        u = j * U + i
                        at, q_at = (block + r) * S + i, products + (block + r) * Sm + i
                        states = load_states(
                            cell, hs, (before + r) * LH + u, c, (before + r) * LC + u, padded
                        )
                        q, kept = load_products(cell, g, q_at, U), load_slots(cell, g, at, U)
                        dh = load(d, r * padded + u)
                        dq, kept, dh = cell_finish_backward(cell, q, kept, states, dh)
                        store_many(g, q_at, U, dq)
                        store_many(g, at, U, kept)
                        store(d, r * padded + u, dh)
                else:
                    for i in range(Sm):
                        g[products + (block + r) * Sm + i] = 0
            if (j + 1) * U > sizes.H:
                _clear_padding(sizes, r1 - r0, g, products + (block + r0) * Sm - j * U, Sm, U, Sm // U)
        for p in range(padded // P):
            for j in range(0, sizes.J, sizes.group_m):
                gemm(P // lanes, r1 - r0, sizes.sums, j > 0,
                     g, products + ((j * T + t) * B + r0) * Sm, Sm, T * B * Sm, 1,
                     w, sizes.wmt + (p * sizes.J + j) * Sm * P, P, min(sizes.group_m, sizes.J - j), Sm,
                     d, (B + r0) * padded + p * P, padded)

    return back


@task
def scan_backward(
    cell: Cell, sizes: Sizes, r0: int, r1: int, lengths: Ints, dout: Reals, dout_t: int, dout_r: int,
    w: Reals, x: Reals, g: Reals, c: Reals, d: Reals, e: Reals, n: Reals,
):
    """Take rows r0 to r1 back through all time steps.

    dout is strided as `out` in `scan_forward` and may be empty. d and e hold the gradient of the final states
    at first and of the initial states in the end.
    """
    mode = flush_subnormals()
    T, B, S, Sh, P = sizes.T, sizes.B, sizes.S, sizes.Sh, sizes.P
    padded = sizes.J * sizes.U
    last = 0
    for r in range(r0, r1):
        last = max(last, lengths[r])
    for s in range(T - 1, -1, -1):
        t = T - 1 - s if sizes.reverse else s
        if dout.size > 0:
            for r in range(r0, r1):
                if runs(sizes, lengths, t, r):
                    _add_row(sizes.H, dout, t * dout_t + r * dout_r, d, r * padded)
        split_gradient(cell, sizes, r0, r1, t, lengths, d, e, n)
        _finish_backward(cell, sizes, r0, r1, t, lengths, w, h_array(cell, x, n), g, c, d)
        _cell_backward(cell, sizes, r0, r1, t, lengths, w, x, g, c, d, e, n)
        if t < last and Sh > 0:
            for p in range(padded // P):
                for j in range(0, sizes.J, sizes.group):
                    gemm(P // lanes_of(g), r1 - r0, sizes.sums, j > 0 or sizes.dd == 0,
                         g, ((j * T + t) * B + r0) * S, S, T * B * S, 1,
                         w, sizes.wht + (p * sizes.J + j) * Sh * P, P, min(sizes.group, sizes.J - j), Sh,
                         product_target(cell, d, n), sizes.dd + r0 * padded + p * P, padded)
        join_gradient(cell, sizes, r0, r1, t, lengths, d, e, n)
    restore_mode(mode)


@task
def input_gradient(
    sizes: Sizes, r0: int, r1: int, add: int, wxt: Reals, g: Reals, dz: Reals, LD: int, P: int, group: int
):
    """Set dz to (dz if add else 0) + dgates wx', for rows r0 to r1, from what `scan_backward` left in g."""
    mode = flush_subnormals()
    T, B, S, Sx = sizes.T, sizes.B, sizes.S, sizes.Sx
    for p in range(LD // P):
        for j in range(0, sizes.J, group):
            for t in range(T):
                gemm(P // lanes_of(g), r1 - r0, sizes.sums, add > 0 or j > 0,
                     g, ((j * T + t) * B + r0) * S + S - Sx, S, T * B * S, 1,
                     wxt, (p * sizes.J + j) * Sx * P, P, min(group, sizes.J - j), Sx,
                     dz, (t * B + r0) * LD + p * P, LD)
    restore_mode(mode)


@task
def weight_gradient(
    sizes: Sizes, j0: int, j1: int, m0: int, m1: int, a: Reals, a_at: int, a_stride: int, depth: int,
    g: Reals, g_at: int, g_stride: int, columns: int, dw: Reals,
):
    """Set rows m0 to m1 of blocks j0 to j1 of dw (J, depth, columns) to the sum over t and b of a' dgates.

    Row (t, b) of `a` stands at a_at + (t B + b) a_stride: an input row for dwx, the state row before the step
    for dwh, the middle vector for dwm. The gradient of the slots that see it, of block j, stands at
    g_at + ((j T + t) B + b) g_stride.
    """
    mode = flush_subnormals()
    lanes = lanes_of(g)
    N = sizes.T * sizes.B
    depth_n = sizes.kn
    for n in range(0, N, depth_n):
        for j in range(j0, j1):
            gemm(columns // lanes, m1 - m0, 1, n > 0, a, a_at + n * a_stride + m0, 1, 0, a_stride,
                 g, g_at + (j * N + n) * g_stride, g_stride, 1, min(depth_n, N - n),
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
def scan_step(cell, numbers, layer, x_t, states, lengths, z, w, x, g, c, n, new_states):
    """Do one step of one layer: x_t (B, I); `states` and `new_states` are tuples of arrays (layers, B, H).

    `numbers` are the Sizes as a plain tuple, which a call from Python hands over in a third of the time.
    """
    sizes = Sizes(*numbers)
    B, H, padded = sizes.B, sizes.H, sizes.J * sizes.U
    for r in range(B):
        for i in range(sizes.I):
            z[r * sizes.LZ + i] = x_t[r, i]
        for u in range(H):
            x[r * sizes.LX + u] = states[0][layer, r, u]
        for s in range(sizes.E):
            for u in range(H):
                c[(r * sizes.E + s) * padded + u] = states[s + 1][layer, r, u]
    _step_forward(cell, sizes, 0, B, 0, lengths, True, z, w, x, g, c, n)
    for r in range(B):
        for u in range(H):
            new_states[0][layer, r, u] = x[(B + r) * sizes.LX + u]
        for s in range(sizes.E):
            for u in range(H):
                new_states[s + 1][layer, r, u] = c[((B + r) * sizes.E + s) * padded + u]
