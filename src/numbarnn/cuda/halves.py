"""A step of a cell that has two products, in two halves; knows no cell.

`numbarnn.kernels.halves` is the same on a CPU. The first half ends with the middle vector, whose product with
the second weights the other half takes. Where h is a projection it is narrower than the other states: it has
HR units, they have H. Arrays are those of `numbarnn.cuda.scan`, with HR in place of H for h and d, and

    m    (T, B, H)       middle vectors
    q    (T, B, M, HR)    second products, then what is kept of them, then their gradient
    dm   (B, H)          gradient of the middle vector

Without `keeps` there is one step of m, q and kept. Of c there are all, as the second half sees the old ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numbarnn.cuda.driver import cuda, jit
from numbarnn.cuda.functions import Equations, inline, put_tuple, tuple_of
from numbarnn.cuda.noise import Noise, mixer, separator
from numbarnn.cuda.scan import cell_functions, code, input_sums

__all__ = ["finish", "finish_back", "first_half", "first_half_back"]


@cache
def first_half(eq: Equations, H: int, HR: int, keeps: bool, noise: Noise) -> Callable:
    """Make the kernel of the first half of a step, whose product with the state has been done.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, gx, gh, h, c, kept, m)``.
    """
    S, E, NH, h_code, zero, real = eq.S, eq.E, len(eq.h_gates), code(eq.h_gates), eq.real(0), eq.real
    rows, n_further, zones = eq.R * H, max(1, eq.E), noise.zones
    advance, sums, mix = cell_functions(eq, H)[0], input_sums(eq, H), mixer(eq, H, HR, keeps, noise)
    put_kept, put_states = put_tuple(S), put_tuple(E)

    def forward(n, t, valid, p, gx, gh, h, c, kept, m):
        a = cuda.local.array(S, real)
        fresh = cuda.local.array(n_further, real)
        for j in range(cuda.grid(1), n.B * H, cuda.gridsize(1)):
            b, u = j // H, j % H
            before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
            row = t * n.B + b if keeps else b
            c_at, c_to = before * E * H + u, after * E * H + u
            if n.masked == 0 or valid[t * n.B + b] > 0:
                sums(n, t, b, u, p, gx, a)
                for q in range(NH):
                    a[q] += gh[b * rows + (h_code >> 4 * q & 15) * H + u]
                h_prev = h[before * HR + u] if u < HR else zero
                middle, further, keep = advance(p, n.units, u, a, h_prev, c, c_at)
                m[row * H + u] = middle
                put_kept(keep, kept, row * S * H + u, H)
                if zones:
                    put_states(further, fresh, 0, 1)
                    for k in range(E):
                        c[c_to + k * H] = mix(n, t, b, u, kept, 1 + k, fresh[k], c[c_at + k * H])
                else:
                    put_states(further, c, c_to, H)
            else:
                m[row * H + u] = zero
                for k in range(E):
                    c[c_to + k * H] = c[c_at + k * H]

    return jit(forward, "first_half" if keeps else "predict_first_half")


@cache
def finish(eq: Equations, H: int, HR: int, keeps: bool, noise: Noise) -> Callable:
    """Make the kernel of the second half of a step, whose second product has been done.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, h, c, kept, q, out)``.
    """
    S, E, M, m_code, zero, real = eq.S, eq.E, eq.M, code(eq.m_gates), eq.real(0), eq.real
    (drops, zones), mix = noise, mixer(eq, H, HR, keeps, noise)
    cell_finish, biased = eq.finish, not eq.projects
    products, slots, states = tuple_of(M), tuple_of(S), tuple_of(E)
    put_products, put_kept = put_tuple(M), put_tuple(S)

    def forward(n, t, valid, p, h, c, kept, q, out):
        a = cuda.local.array(M, real)
        for j in range(cuda.grid(1), n.B * HR, cuda.gridsize(1)):
            b, u = j // HR, j % HR
            before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
            row = t * n.B + b if keeps else b
            value, counts = h[before * HR + u], n.masked == 0 or valid[t * n.B + b] > 0
            if counts:
                at, q_at = row * S * H + u, row * M * HR + u
                for k in range(M):
                    a[k] = q[q_at + k * HR]
                    if biased and n.biased:
                        a[k] += p[n.bias_h + (m_code >> 4 * k & 15) * H + u]
                old = (value,) + states(c, before * E * H + u, H)
                new, keep_q, keep = cell_finish(products(a, 0, 1), slots(kept, at, H), old)
                if keeps:
                    put_products(keep_q, q, q_at, HR)
                    put_kept(keep, kept, at, H)
                value = mix(n, t, b, u, kept, 0, new, value) if zones else new
            h[after * HR + u] = value
            if drops:
                h[((n.T + 1) * n.B + after) * HR + u] = value * kept[n.T * n.B * S * H + j]
            if n.puts:
                out[(t * n.B + b) * n.width + n.at + u] = value if counts else zero

    return jit(forward, "finish" if keeps else "predict_finish")


@cache
def finish_back(eq: Equations, H: int, HR: int, noise: Noise) -> Callable:
    """Make the kernel that goes back through the second half: q becomes the gradient of the products.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, h, c, kept, q, dout, d)``; of z of h it leaves what goes past
        the cell.
    """
    S, E, M, zero = eq.S, eq.E, eq.M, eq.real(0)
    (drops, zones), cell_backward, place = noise, eq.finish_backward, separator(eq, H, HR, noise)[0]
    products, slots, states = tuple_of(M), tuple_of(S), tuple_of(E)
    put_products, put_kept = put_tuple(M), put_tuple(S)

    def backward(n, t, valid, h, c, kept, q, dout, d):
        for j in range(cuda.grid(1), n.B * HR, cuda.gridsize(1)):
            b, u = j // HR, j % HR
            row, before = t * n.B + b, (t + n.reverse) * n.B + b
            at, q_at = row * S * H + u, row * M * HR + u
            gradient = d[j]
            if drops:
                gradient += d[n.B * HR + j] * kept[n.T * n.B * S * H + j]
            if n.masked == 0 or valid[row] > 0:
                if n.puts:
                    gradient += dout[row * n.width + n.at + u]
                if zones:
                    z_at = place(n, t, b, u)
                    aside = kept[z_at] * gradient
                    gradient -= aside
                    kept[z_at] = aside
                old = (h[before * HR + u],) + states(c, before * E * H + u, H)
                dq, keep, gradient = cell_backward(products(q, q_at, HR), slots(kept, at, H), old, gradient)
                put_products(dq, q, q_at, HR)
                put_kept(keep, kept, at, H)
            else:
                for k in range(M):
                    q[q_at + k * HR] = zero
            d[j] = gradient

    return jit(backward, "finish_back")


@cache
def _cell_backward(eq: Equations, H: int) -> Callable:
    """Return the first half's way back on values that stand in arrays."""
    slots, states, vectors, scalars = (tuple_of(many) for many in (eq.S, eq.E, eq.V, eq.K - eq.V))
    cell_backward, V = eq.backward, eq.V

    def backward(p, units, u, a, h_prev, h, c, before, c_new, after, dh, de, at, dm):
        old, new = (h_prev,) + states(c, before, H), (h,) + states(c_new, after, H)
        dgates, dstates = cell_backward(slots(a, 0, 1), old, new, (dh,) + states(de, at, H), dm)
        return dgates, dstates, ()

    def backward_with_units(p, units, u, a, h_prev, h, c, before, c_new, after, dh, de, at, dm):
        old, new = (h_prev,) + states(c, before, H), (h,) + states(c_new, after, H)
        own = vectors(p, units + u, H) + scalars(p, units + V * H, 1)
        return cell_backward(slots(a, 0, 1), old, new, (dh,) + states(de, at, H), dm, own)

    return inline(backward_with_units if eq.K else backward)


@cache
def first_half_back(eq: Equations, H: int, HR: int, noise: Noise) -> Callable:
    """Make the kernel that goes back through the first half: d becomes what passes no weights.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, h, c, kept, d, dm, e, du)``; du is added to.
    """
    S, E, K, n_units, zero, real = eq.S, eq.E, eq.K, max(1, eq.K), eq.real(0), eq.real
    n_states, zones, retreat = 1 + E, noise.zones, _cell_backward(eq, H)
    place, separate = separator(eq, H, HR, noise)
    put_gates, put_states, put_units = put_tuple(S), put_tuple(E), put_tuple(K)

    def backward(n, t, valid, p, h, c, kept, d, dm, e, du):
        a = cuda.local.array(S, real)
        own = cuda.local.array(n_units, real)
        aside = cuda.local.array(n_states, real)
        for j in range(cuda.grid(1), n.B * H, cuda.gridsize(1)):
            b, u = j // H, j % H
            at, e_at = (t * n.B + b) * S * H + u, b * E * H + u
            if n.masked == 0 or valid[t * n.B + b] > 0:
                for q in range(S):
                    a[q] = kept[at + q * H]
                before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
                h_prev = h[before * HR + u] if u < HR else zero
                gradient = d[b * HR + u] if u < HR else zero
                if zones:
                    nk = separate(n, t, b, u, kept, zero, aside, e, e_at)
                    h_new = kept[nk] if u < HR else zero
                    dgates, dstates, dunits = retreat(
                        p, n.units, u, a, h_prev, h_new, c, before * E * H + u, kept, nk + H, gradient, e,
                        e_at, dm[j],
                    )  # fmt: skip
                else:
                    h_new = h[after * HR + u] if u < HR else zero
                    dgates, dstates, dunits = retreat(
                        p, n.units, u, a, h_prev, h_new, c, before * E * H + u, c, after * E * H + u,
                        gradient, e, e_at, dm[j],
                    )  # fmt: skip
                put_gates(dgates, kept, at, H)
                put_states(dstates[1:], e, e_at, H)
                if u < HR:
                    d[b * HR + u] = dstates[0]
                if zones:
                    if u < HR:  # what the other half has left
                        d[b * HR + u] += kept[place(n, t, b, u)]
                    for k in range(E):
                        e[e_at + k * H] += aside[1 + k]
                put_units(dunits, own, 0, 1)
                for k in range(K):
                    du[(b * K + k) * H + u] += own[k]
            else:
                for q in range(S):
                    kept[at + q * H] = zero

    return jit(backward, "first_half_back")
