"""A step of one layer in one direction on a GPU, forward and backward; knows no cell.

Where a layer is too large for `numbarnn.cuda.loops`, a step is a product of the library and a launch of what
is here. Flat arrays, of both:

    valid (T, B)           of uint8: which steps count, where n.masked says that not all do
    p                      the parameters of the direction, as `numbarnn.layer.Direction` has them
    gx    (T, B, X, H)     products with the input, without biases
    gh    (B, R, H)        products of one step with the state
    h, c  (T + 1, B, H), (T + 1, B, E, H)   slot t holds the state before step t; in reverse, after it
    kept  (T, B, S, H)     what the cell keeps, then in place the gradient of its slots
    out   (T, B, width)    h where a step counts, else zero
    d, e  (B, H), (B, E, H)   gradient of the final states, in the end of the initial ones
    du    (B, K, H)        gradient of the parameters of single units, a row's share

and, where there is noise on the states, what `numbarnn.cuda.noise` has behind them.
A row whose step does not count keeps its state and has no gradient. Kernels are made for a cell and sizes by
functions, as what a thread holds in registers must be known when they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from numbarnn.cuda.driver import cuda, jit
from numbarnn.cuda.functions import Equations, inline, put_tuple, tuple_of
from numbarnn.cuda.noise import Noise, mixer, separator

__all__ = ["Scan", "backward_step", "cell_functions", "code", "forward_step", "input_sums"]


class Scan(NamedTuple):
    """Sizes and places of one direction of a layer on a batch; all are int.

    Attributes
    ----------
    T, B : int
    reverse, masked, biased, puts : int
        1 or 0: run backward in time; look at `valid`; there are biases; there is an `out` or `dout`.
    weight, bias_x, bias_h, units : int
        Where in p these begin.
    width, at : int
        Row length of out, and where in a row h stands.
    """

    T: int
    B: int
    reverse: int
    masked: int
    biased: int
    puts: int
    weight: int
    bias_x: int
    bias_h: int
    units: int
    width: int
    at: int


@cache
def cell_functions(eq: Equations, H: int) -> tuple[Callable, Callable]:
    """Return both functions of a cell on values that stand in arrays, with the parameters of its units."""
    gates, states = tuple_of(eq.S), tuple_of(eq.E)
    vectors, scalars = tuple_of(eq.V), tuple_of(eq.K - eq.V)
    cell_forward, cell_backward, V = eq.forward, eq.backward, eq.V

    def forward(p, units, u, a, h_prev, further, at):
        return cell_forward(gates(a, 0, 1), (h_prev,) + states(further, at, H))

    def forward_with_units(p, units, u, a, h_prev, further, at):
        own = vectors(p, units + u, H) + scalars(p, units + V * H, 1)
        return cell_forward(gates(a, 0, 1), (h_prev,) + states(further, at, H), own)

    def backward(p, units, u, a, h_prev, h, c, before, c_new, after, dh, de, at):
        old, new = (h_prev,) + states(c, before, H), (h,) + states(c_new, after, H)
        dgates, dstates = cell_backward(gates(a, 0, 1), old, new, (dh,) + states(de, at, H))
        return dgates, dstates, ()

    def backward_with_units(p, units, u, a, h_prev, h, c, before, c_new, after, dh, de, at):
        old, new = (h_prev,) + states(c, before, H), (h,) + states(c_new, after, H)
        own = vectors(p, units + u, H) + scalars(p, units + V * H, 1)
        return cell_backward(gates(a, 0, 1), old, new, (dh,) + states(de, at, H), own)

    if eq.K:
        return inline(forward_with_units), inline(backward_with_units)
    return inline(forward), inline(backward)


def code(gates: tuple[int, ...]) -> int:
    """Write gates as one number, of which kernels take digits: (code >> 4 q) & 15 is that of slot q.

    An index into a tuple would do the same, if the compiler for GPUs took it.
    """
    return sum(gate << 4 * q for q, gate in enumerate(gates))


@cache
def input_sums(eq: Equations, H: int) -> Callable:
    """Return ``sums(n, t, b, u, p, gx, a)``: it sets the slots a to products with the input, and biases."""
    S, X, NH = eq.S, eq.X, len(eq.h_gates)
    first_x, h_code, x_code, zero = S - len(eq.x_gates), code(eq.h_gates), code(eq.x_gates), eq.real(0)

    def sums(n, t, b, u, p, gx, a):
        for q in range(S):
            value = zero
            if q >= first_x:
                gate = (x_code >> 4 * (q - first_x) & 15) * H + u
                value += gx[(t * n.B + b) * X * H + gate]
                if n.biased:
                    value += p[n.bias_x + gate]
            if q < NH and n.biased:
                value += p[n.bias_h + (h_code >> 4 * q & 15) * H + u]
            a[q] = value

    return inline(sums)


@cache
def forward_step(eq: Equations, H: int, keeps: bool, noise: Noise) -> Callable:
    """Make the kernel of one step whose product with the state has been done.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, gx, gh, h, c, kept, out)``.
    """
    S, E, R, NH, h_code, zero, real = eq.S, eq.E, eq.R, len(eq.h_gates), code(eq.h_gates), eq.real(0), eq.real
    advance, sums = cell_functions(eq, H)[0], input_sums(eq, H)
    put_kept, put_states, put_fresh = put_tuple(S), put_tuple(E), put_tuple(1 + E)
    n_states, (drops, zones), mix = 1 + E, noise, mixer(eq, H, H, keeps, noise)

    def forward(n, t, valid, p, gx, gh, h, c, kept, out):
        a = cuda.local.array(S, real)
        fresh = cuda.local.array(n_states, real)
        for j in range(cuda.grid(1), n.B * H, cuda.gridsize(1)):
            b, u = j // H, j % H
            before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
            counts = n.masked == 0 or valid[t * n.B + b] > 0
            c_at = (before if keeps else b) * E * H + u
            c_to = (after if keeps else b) * E * H + u
            if counts:
                sums(n, t, b, u, p, gx, a)
                for q in range(NH):
                    a[q] += gh[b * R * H + (h_code >> 4 * q & 15) * H + u]
                new, keep = advance(p, n.units, u, a, h[before * H + u], c, c_at)
                if zones:
                    put_fresh(new, fresh, 0, 1)
                    h[after * H + u] = mix(n, t, b, u, kept, 0, fresh[0], h[before * H + u])
                    for k in range(E):
                        c[c_to + k * H] = mix(n, t, b, u, kept, 1 + k, fresh[1 + k], c[c_at + k * H])
                else:
                    h[after * H + u] = new[0]
                    put_states(new[1:], c, c_to, H)
                if keeps:
                    put_kept(keep, kept, (t * n.B + b) * S * H + u, H)
            else:
                h[after * H + u] = h[before * H + u]
                for k in range(E):
                    c[c_to + k * H] = c[c_at + k * H]
            if drops:
                factor = kept[n.T * n.B * S * H + j]
                h[((n.T + 1) * n.B + after) * H + u] = factor * h[after * H + u]
            if n.puts:
                out[(t * n.B + b) * n.width + n.at + u] = h[after * H + u] if counts else zero

    return jit(forward, "forward" if keeps else "predict")


@cache
def backward_step(eq: Equations, H: int, noise: Noise) -> Callable:
    """Make the kernel of one step back: d becomes what does not pass the recurrent weights.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, h, c, kept, dout, d, e, du)``; du is added to.
    """
    S, E, K, n_units, zero, real = eq.S, eq.E, eq.K, max(1, eq.K), eq.real(0), eq.real
    retreat, put_gates, put_states, put_units = (
        cell_functions(eq, H)[1], put_tuple(S), put_tuple(E), put_tuple(K)
    )
    n_states, (drops, zones), separate = 1 + E, noise, separator(eq, H, H, noise)[1]

    def backward(n, t, valid, p, h, c, kept, dout, d, e, du):
        a = cuda.local.array(S, real)
        own = cuda.local.array(n_units, real)
        aside = cuda.local.array(n_states, real)
        for j in range(cuda.grid(1), n.B * H, cuda.gridsize(1)):
            b, u = j // H, j % H
            at = (t * n.B + b) * S * H + u
            if drops:
                d[j] += d[n.B * H + j] * kept[n.T * n.B * S * H + j]
            if n.masked == 0 or valid[t * n.B + b] > 0:
                gradient = d[j]
                if n.puts:
                    gradient += dout[(t * n.B + b) * n.width + n.at + u]
                for q in range(S):
                    a[q] = kept[at + q * H]
                before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
                if zones:
                    nk = separate(n, t, b, u, kept, gradient, aside, e, b * E * H + u)
                    dgates, dstates, dunits = retreat(
                        p, n.units, u, a, h[before * H + u], kept[nk], c, before * E * H + u, kept, nk + H,
                        gradient - aside[0], e, b * E * H + u,
                    )  # fmt: skip
                else:
                    dgates, dstates, dunits = retreat(
                        p, n.units, u, a, h[before * H + u], h[after * H + u], c, before * E * H + u, c,
                        after * E * H + u, gradient, e, b * E * H + u,
                    )  # fmt: skip
                put_gates(dgates, kept, at, H)
                d[j] = dstates[0]
                put_states(dstates[1:], e, b * E * H + u, H)
                if zones:
                    d[j] += aside[0]
                    for k in range(E):
                        e[(b * E + k) * H + u] += aside[1 + k]
                put_units(dunits, own, 0, 1)
                for k in range(K):
                    du[(b * K + k) * H + u] += own[k]
            else:
                for q in range(S):
                    kept[at + q * H] = zero

    return jit(backward, "backward")
