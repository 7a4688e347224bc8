"""Long short-term memory with layer normalisation (Ba, Kiros and Hinton 2016).

Of a row of units, LN takes away the mean and divides by the standard deviation:

    a = gain_h LN(W_hh h_prev) + gain_x LN(W_ih x) + shift        over the units of all four gates together
    c = sigmoid(f) c_prev + sigmoid(i) tanh(g)
    h = sigmoid(o) tanh(gain_c LN(c) + shift_c)

Of the shifts inside the two LN of a, and the bias beside them, only the sum counts: it alone is a parameter,
one for each unit of each gate. The products have no biases, which LN would see. The variance is that of the
row, not an estimate, and 1e-5 is added to it, as in torch.nn.LayerNorm; in a layer of one unit LN(c) is 0.

Units meet in the statistics of their row, so the cell brings time loops of its own. They leave in g the
normalised products in place of the sums. In n there is room for the gradients of the sums of one row in each
task; behind it, of every row of every step, stand h_scale, x_scale, c_mean and c_scale; a scale is 1 / the
deviation. There are eight slots, so that a block of units is one register. Units past the last are zero
everywhere.

References
----------
.. [1] Ba, Kiros and Hinton, "Layer normalization", arXiv:1607.06450 (2016), equations (20) to (22) of the
   supplementary material.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from numbarnn.cells.base import Cell
from numbarnn.kernels.compiler import Ints, Reals, task
from numbarnn.kernels.gemm import gemm
from numbarnn.kernels.scan import input_product
from numbarnn.kernels.sizes import Sizes
from numbarnn.simd import (
    INLINED,
    add_row,
    copy_row,
    first_lanes,
    flush_subnormals,
    lanes_of,
    load,
    restore_mode,
    sigmoid,
    store,
    sum_lanes,
    takes_step,
    tanh,
)

EPSILON = 1e-5  # that of torch.nn.LayerNorm
GATES = ("i", "f", "g", "o")
# where the parameters of single units begin; those of the gates are four each
GAIN_H, GAIN_X, SHIFT, GAIN_C, SHIFT_C = 0, 4, 8, 12, 13
jitable = register_jitable(**INLINED)


# ---- equations, on arrays


def _normalise(parts):
    """LN of arrays (n, H), taken together: the same arrays normalised, and 1 / standard deviation (n, 1)."""
    values = np.stack(parts)
    centred = values - values.mean(axis=(0, 2), keepdims=True)
    scale = 1.0 / np.sqrt((centred * centred).mean(axis=(0, 2), keepdims=True) + EPSILON)
    return tuple(centred * scale), scale[0]


def _normalise_backward(hats, scale, dhats):
    """Go back through `_normalise`: what moves the mean or the variance makes no difference to it."""
    hats, dhats = np.stack(hats), np.stack(dhats)
    mean, along = (values.mean(axis=(0, 2), keepdims=True) for values in (dhats, dhats * hats))
    return tuple(scale * (dhats - mean - along * hats))


def _gates(h_hats, x_hats, units):
    triples = zip(units[GAIN_H:GAIN_X], units[GAIN_X:SHIFT], units[SHIFT:GAIN_C], strict=True)
    pairs = zip(h_hats, x_hats, triples, strict=True)
    i, f, g, o = (gain_h * h + gain_x * x + shift for h, x, (gain_h, gain_x, shift) in pairs)
    return sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)


def layernorm_forward(gates, states, units):
    """Compute the equations above; the sums are kept."""
    _, c_prev = states
    h_hats, _ = _normalise(gates[:4])
    x_hats, _ = _normalise(gates[4:])
    i, f, g, o = _gates(h_hats, x_hats, units)
    c = f * c_prev + i * g
    (c_hat,), _ = _normalise((c,))
    return (o * tanh(units[GAIN_C] * c_hat + units[SHIFT_C]), c), gates


def layernorm_backward(kept, states, new_states, dstates, units):
    """Go back through `layernorm_forward` by the chain rule."""
    _, c_prev = states
    _, c = new_states
    dh, dc = dstates
    (h_hats, h_scale), (x_hats, x_scale) = _normalise(kept[:4]), _normalise(kept[4:])
    (c_hat,), c_scale = _normalise((c,))
    i, f, g, o = _gates(h_hats, x_hats, units)
    y = tanh(units[GAIN_C] * c_hat + units[SHIFT_C])
    dy = dh * o * (1.0 - y * y)
    (dc_by_h,) = _normalise_backward((c_hat,), c_scale, (dy * units[GAIN_C],))
    dc = dc + dc_by_h
    da = dc * g * i * (1.0 - i), dc * c_prev * f * (1.0 - f), dc * i * (1.0 - g * g), dh * y * o * (1.0 - o)
    dgates, dunits = (), ()
    for hats, scale, gains in ((h_hats, h_scale, units[:GAIN_X]), (x_hats, x_scale, units[GAIN_X:SHIFT])):
        dhats = [d * gain for d, gain in zip(da, gains, strict=True)]
        dgates += _normalise_backward(hats, scale, dhats)
        dunits += tuple(d * hat for d, hat in zip(da, hats, strict=True))
    return dgates, (dh * 0.0, dc * f), (*dunits, *da, dy * c_hat, dy)


# ---- the same for one row, block by block; that of block j begins at at + j * block


@jitable
def _statistics(H, U, J, parts, a, at, block):
    """Give mean and scale of `parts` parts of each block, U elements apart."""
    total = first_lanes(load(a, at), 0)
    for j in range(J):
        part = load(a, at + j * block)
        for p in range(1, parts):
            part = part + load(a, at + j * block + p * U)
        total = total + part
    mean = sum_lanes(total) / (parts * H)
    squares = first_lanes(total, 0)
    for j in range(J):
        centred = first_lanes(load(a, at + j * block) - mean, H - j * U)
        part = centred * centred
        for p in range(1, parts):
            centred = first_lanes(load(a, at + j * block + p * U) - mean, H - j * U)
            part = part + centred * centred
        squares = squares + part
    return mean, 1.0 / math.sqrt(sum_lanes(squares) / (parts * H) + EPSILON)


@jitable
def _normalise_part(left, a, at, mean, scale):
    """Normalise a register of which `left` units count; those past them become zero, whatever they were."""
    return first_lanes((load(a, at) - mean) * scale, left)


@jitable
def _sum(k, padded, w, u_at, h_hat, x_hat):
    """Give the sum of gate k."""
    gain_h, gain_x = load(w, u_at + (GAIN_H + k) * padded), load(w, u_at + (GAIN_X + k) * padded)
    return gain_h * h_hat + (gain_x * x_hat + load(w, u_at + (SHIFT + k) * padded))


@jitable
def _normalised_sum(k, U, padded, left, g, at, h_mean, h_scale, x_mean, x_scale, w, u_at):
    """Normalise the products of gate k in place, and give its sum."""
    h_hat = _normalise_part(left, g, at + k * U, h_mean, h_scale)
    x_hat = _normalise_part(left, g, at + (4 + k) * U, x_mean, x_scale)
    store(g, at + k * U, h_hat)
    store(g, at + (4 + k) * U, x_hat)
    return _sum(k, padded, w, u_at, h_hat, x_hat)


@jitable
def _kept_sum(k, U, padded, g, at, w, u_at):
    """Give the sum of gate k once more."""
    return _sum(k, padded, w, u_at, load(g, at + k * U), load(g, at + (4 + k) * U))


@jitable
def _row_forward(H, U, J, g, at, block, w, u_at, h, h_to, c, c_at, c_to, n, n_at):
    """Take a row from its products and the old c to the new h and c."""
    padded = J * U
    h_mean, h_scale = _statistics(H, U, J, 4, g, at, block)
    x_mean, x_scale = _statistics(H, U, J, 4, g, at + 4 * U, block)
    for j in range(J):
        u, left, here = j * U, H - j * U, at + j * block
        i, f, candidate, o = (
            _normalised_sum(0, U, padded, left, g, here, h_mean, h_scale, x_mean, x_scale, w, u_at + u),
            _normalised_sum(1, U, padded, left, g, here, h_mean, h_scale, x_mean, x_scale, w, u_at + u),
            _normalised_sum(2, U, padded, left, g, here, h_mean, h_scale, x_mean, x_scale, w, u_at + u),
            _normalised_sum(3, U, padded, left, g, here, h_mean, h_scale, x_mean, x_scale, w, u_at + u),
        )
        i, f, candidate, o = sigmoid(i), sigmoid(f), tanh(candidate), sigmoid(o)
        store(c, c_to + u, f * load(c, c_at + u) + i * candidate)
        store(h, h_to + u, o)  # where h will be
    c_mean, c_scale = _statistics(H, U, J, 1, c, c_to, U)
    for u in range(0, padded, U):
        c_hat = _normalise_part(H - u, c, c_to + u, c_mean, c_scale)
        y = tanh(load(w, u_at + GAIN_C * padded + u) * c_hat + load(w, u_at + SHIFT_C * padded + u))
        store(h, h_to + u, load(h, h_to + u) * y)
    n[n_at], n[n_at + 1], n[n_at + 2], n[n_at + 3] = h_scale, x_scale, c_mean, c_scale


@jitable
def _add(a, at, value):
    store(a, at, load(a, at) + value)


@jitable
def _row_backward(H, U, J, g, at, block, w, u_at, c, c_at, c_to, d, e, d_at, du_at, n, n_at, sums_at):
    """Take a row from the gradients of its new states, in d and e, to those of its products and the old c."""
    mean, along = _output_backward(
        H, U, J, g, at, block, w, u_at, c, c_to, d, d_at, e, du_at, n, n_at, sums_at
    )
    _state_backward(
        H, U, J, g, at, block, w, u_at, c, c_at, c_to, d, e, d_at, du_at, n, n_at, sums_at, mean, along
    )
    for k in range(2):  # the slots of h, those of x
        gains = 4 * k * J * U
        _products_backward(
            H, U, J, g, at + 4 * k * U, block, w, u_at + gains, e, du_at + gains, n, sums_at, n[n_at + k]
        )


@jitable
def _output_backward(H, U, J, g, at, block, w, u_at, c, c_at, d, d_at, e, du_at, n, n_at, sums_at):
    """Go back from h to the sum of o and to the normalised c, whose gradient takes the place of that of h.

    Gives the mean of the latter and its mean along the normalised c.
    """
    padded = J * U
    total = first_lanes(load(d, d_at), 0)
    along = total
    for j in range(J):
        u, left = j * U, H - j * U
        o = sigmoid(_kept_sum(3, U, padded, g, at + j * block, w, u_at + u))
        c_hat = _normalise_part(left, c, c_at + u, n[n_at + 2], n[n_at + 3])
        gain = load(w, u_at + GAIN_C * padded + u)
        y = tanh(gain * c_hat + load(w, u_at + SHIFT_C * padded + u))
        dh = first_lanes(load(d, d_at + u), left)
        dy = dh * o * (1.0 - y * y)
        dhat = dy * gain
        store(n, sums_at + 3 * padded + u, dh * y * o * (1.0 - o))
        store(d, d_at + u, dhat)
        _add(e, du_at + GAIN_C * padded + u, dy * c_hat)
        _add(e, du_at + SHIFT_C * padded + u, dy)
        total, along = total + dhat, along + dhat * c_hat
    return sum_lanes(total) / H, sum_lanes(along) / H


@jitable
def _state_backward(
    H, U, J, g, at, block, w, u_at, c, c_at, c_to, d, e, d_at, du_at, n, n_at, sums_at, mean, along
):
    """Go back from c to the sums of the other gates and to the old c; nothing of h is left then."""
    padded = J * U
    for j in range(J):
        u, here = j * U, at + j * block
        i = sigmoid(_kept_sum(0, U, padded, g, here, w, u_at + u))
        f = sigmoid(_kept_sum(1, U, padded, g, here, w, u_at + u))
        candidate = tanh(_kept_sum(2, U, padded, g, here, w, u_at + u))
        c_hat = _normalise_part(H - u, c, c_to + u, n[n_at + 2], n[n_at + 3])
        dhat = load(d, d_at + u)
        dc = load(e, d_at + u) + (dhat - mean - c_hat * along) * n[n_at + 3]
        dc = first_lanes(dc, H - u)
        store(n, sums_at + u, dc * candidate * i * (1.0 - i))
        store(n, sums_at + padded + u, dc * load(c, c_at + u) * f * (1.0 - f))
        store(n, sums_at + 2 * padded + u, dc * i * (1.0 - candidate * candidate))
        store(e, d_at + u, dc * f)
        store(d, d_at + u, first_lanes(dc, 0))
        for k in range(4):
            _add(e, du_at + (SHIFT + k) * padded + u, load(n, sums_at + k * padded + u))


@jitable
def _products_backward(H, U, J, g, at, block, w, gain_at, e, dgain_at, n, sums_at, scale):
    """Go back from the sums to the products with h, or those with x: their gradient takes their place."""
    padded = J * U
    total = first_lanes(load(g, at), 0)
    along = total
    for j in range(J):
        part = first_lanes(total, 0)
        part_along = part
        for k in range(4):
            u = k * padded + j * U
            hat, d = load(g, at + j * block + k * U), load(n, sums_at + u)
            dhat = d * load(w, gain_at + u)
            _add(e, dgain_at + u, d * hat)
            part, part_along = part + dhat, part_along + dhat * hat
        total, along = total + part, along + part_along
    mean, mean_along = sum_lanes(total) / (4 * H), sum_lanes(along) / (4 * H)
    for j in range(J):
        for k in range(4):
            u, here = k * padded + j * U, at + j * block + k * U
            dhat = load(n, sums_at + u) * load(w, gain_at + u)
            store(g, here, first_lanes((dhat - mean - load(g, here) * mean_along) * scale, H - j * U))


# ---- the time loops


def workspace(sizes: Sizes) -> int:
    """Count the numbers in n."""
    return sizes.B * 4 * (sizes.J * sizes.U + sizes.g_slots)


@jitable
def _recurrent_product(sizes, r0, r1, h, h_at, w, g, at, block):
    """Add the product with h to the slots of rows r0 to r1 that see it."""
    Sh, D = sizes.Sh, sizes.D
    for j in range(sizes.J):
        for k in range(0, D, sizes.kh):
            gemm(Sh // lanes_of(g), r1 - r0, sizes.sums, True, h, h_at + k, sizes.LH, 0, 1,
                 w, sizes.wh + (j * D + k) * Sh, Sh, 1, min(sizes.kh, D - k),
                 g, at + j * block, sizes.S)  # fmt: skip


@task
def layernorm_scan_forward(
    cell: Cell, sizes: Sizes, r0: int, r1: int, s0: int, s1: int, lengths: Ints, z: Reals, w: Reals,
    x: Reals, h: Reals, g: Reals, c: Reals, n: Reals, out: Reals, out_t: int, out_r: int,
):  # fmt: skip
    """Take rows r0 to r1 from step s0 to step s1, as `scan.scan_forward`."""
    T, B, H, U, J, S, LH = sizes.T, sizes.B, sizes.H, sizes.U, sizes.J, sizes.S, sizes.LH
    padded, block = J * U, sizes.g_slots * B * S
    last = 0
    for r in range(r0, r1):
        last = max(last, lengths[r])
    for start in range(s0, s1, sizes.steps):
        end = min(s1, start + sizes.steps)
        for j in range(J):
            input_product(sizes, j, r0, r1, start, end, z, w, g)
        for s in range(start, end):
            t = T - 1 - s if sizes.reverse else s
            here = t % sizes.g_slots * B
            before = (t + sizes.reverse) % sizes.x_slots * B
            after = (t + 1 - sizes.reverse) % sizes.x_slots * B
            if t < last:
                _recurrent_product(sizes, r0, r1, h, (before + r0) * LH, w, g, (here + r0) * S, block)
            for r in range(r0, r1):
                at, to = before + r, after + r
                if takes_step(sizes.masked, B, lengths, t, r):
                    n_at = 4 * (B * padded + here + r)
                    _row_forward(
                        H, U, J, g, (here + r) * S, block, w, sizes.u, h, to * LH,
                        c, at * padded, to * padded, n, n_at,
                    )  # fmt: skip
                    if out.size > 0:
                        copy_row(H, h, to * LH, out, t * out_t + r * out_r)
                else:
                    copy_row(padded, h, at * LH, h, to * LH)
                    copy_row(padded, c, at * padded, c, to * padded)
                    if out.size > 0:
                        for u in range(H):
                            out[t * out_t + r * out_r + u] = 0


@task
def layernorm_scan_backward(
    cell: Cell, sizes: Sizes, r0: int, r1: int, s0: int, s1: int, lengths: Ints, dout: Reals, dout_t: int,
    dout_r: int, w: Reals, h: Reals, g: Reals, c: Reals, d: Reals, dh: Reals, e: Reals, n: Reals,
):  # fmt: skip
    """Take rows r0 to r1 back from step s1 to step s0, as `scan.scan_backward`."""
    mode = flush_subnormals()
    T, B, H, U, J, S, Sh, P = sizes.T, sizes.B, sizes.H, sizes.U, sizes.J, sizes.S, sizes.Sh, sizes.P
    padded, block = J * U, T * B * S
    last = 0
    for r in range(r0, r1):
        last = max(last, lengths[r])
    for s in range(s1 - 1, s0 - 1, -1):
        t = T - 1 - s if sizes.reverse else s
        before, after = (t + sizes.reverse) * B, (t + 1 - sizes.reverse) * B
        for r in range(r0, r1):
            at = (t * B + r) * S
            if takes_step(sizes.masked, B, lengths, t, r):
                if dout.size > 0:
                    add_row(H, dout, t * dout_t + r * dout_r, d, r * padded)
                _row_backward(
                    H, U, J, g, at, block, w, sizes.u, c, (before + r) * padded, (after + r) * padded,
                    d, e, r * padded, (B + r * sizes.K) * padded, n, 4 * (B * padded + t * B + r),
                    4 * r0 * padded,
                )  # fmt: skip
            else:
                for j in range(J):
                    for i in range(S):
                        g[j * block + at + i] = 0
        if t < last:
            for p in range(padded // P):
                for j in range(0, J, sizes.group):
                    gemm(P // lanes_of(g), r1 - r0, sizes.sums, True,
                         g, j * block + (t * B + r0) * S, S, block, 1,
                         w, sizes.wht + (p * J + j) * Sh * P, P, min(sizes.group, J - j), Sh,
                         d, r0 * padded + p * P, padded)  # fmt: skip
    restore_mode(mode)


_GAINS = (*(f"gain_{product}{gate}" for product in "hx" for gate in GATES), "gain_c")
_SHIFTS = (*(f"shift_{gate}" for gate in GATES), "shift_c")

LSTM_LAYERNORM = Cell(
    name="lstm_layernorm",
    gates=GATES,
    slots=tuple((gate, products) for products in "hx" for gate in GATES),
    forward=layernorm_forward,
    backward=layernorm_backward,
    states=("h", "c"),
    forget_gate="shift_f",
    vectors=_GAINS[:-1] + _SHIFTS[:-1] + (_GAINS[-1], _SHIFTS[-1]),
    initial=dict.fromkeys(_GAINS, (1.0, 1.0)) | dict.fromkeys(_SHIFTS, (0.0, 0.0)),
    biases=False,
    loops=(layernorm_scan_forward, layernorm_scan_backward),
    workspace=workspace,
)
