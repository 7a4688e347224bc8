"""The time loop of one layer in one direction on a GPU, forward and backward, and a single step of it.

On the chip a launch goes through all time steps: a block has a few rows of the batch, its threads hold the
recurrent weights (`numbarnn.cuda.plans`), states and sums are in shared memory. Elsewhere a step is a product
of the library and a launch of the same equations. Flat arrays:

    valid (T, B)           of uint8: which steps count, where n.masked says that not all do
    p                      the parameters of the direction, as `numbarnn.layer.Direction` has them
    gx    (T, B, X, H)     products with the input, without biases
    gh    (B, R, H)        of a step that is no loop: products with the state
    h, c  (T + 1, B, H), (T + 1, B, E, H)   slot t holds the state before step t; in reverse, after it
    kept  (T, B, S, H)     what the cell keeps, then in place the gradient of its slots
    out   (T, B, width)    h where a step counts, else zero
    d, e  (B, H), (B, E, H)   gradient of the final states, in the end of the initial ones
    du    (B, K, H)        gradient of the parameters of single units, a row's share

A row whose step does not count keeps its state and has no gradient. Kernels are made for a cell and sizes by
functions, as what a thread holds in registers must be known when they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from numbarnn.cuda.driver import cuda, jit
from numbarnn.cuda.functions import Equations, inline, put_tuple, tuple_of
from numbarnn.cuda.plans import Mapping

__all__ = ["Scan", "backward_loop", "backward_step", "forward_loop", "forward_step"]


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
def _cell(eq: Equations, H: int) -> tuple[Callable, Callable]:
    """Return both functions of a cell on values that stand in arrays, with the parameters of its units."""
    gates, states = tuple_of(eq.S), tuple_of(eq.E)
    vectors, scalars = tuple_of(eq.V), tuple_of(eq.K - eq.V)
    cell_forward, cell_backward, V = eq.forward, eq.backward, eq.V

    def forward(p, units, u, a, h_prev, further, at):
        return cell_forward(gates(a, 0, 1), (h_prev,) + states(further, at, H))

    def forward_with_units(p, units, u, a, h_prev, further, at):
        own = vectors(p, units + u, H) + scalars(p, units + V * H, 1)
        return cell_forward(gates(a, 0, 1), (h_prev,) + states(further, at, H), own)

    def backward(p, units, u, a, h_prev, h, c, before, after, dh, de, at):
        old, new = (h_prev,) + states(c, before, H), (h,) + states(c, after, H)
        dgates, dstates = cell_backward(gates(a, 0, 1), old, new, (dh,) + states(de, at, H))
        return dgates, dstates, ()

    def backward_with_units(p, units, u, a, h_prev, h, c, before, after, dh, de, at):
        old, new = (h_prev,) + states(c, before, H), (h,) + states(c, after, H)
        own = vectors(p, units + u, H) + scalars(p, units + V * H, 1)
        return cell_backward(gates(a, 0, 1), old, new, (dh,) + states(de, at, H), own)

    if eq.K:
        return inline(forward_with_units), inline(backward_with_units)
    return inline(forward), inline(backward)


@cache
def forward_loop(eq: Equations, H: int, rows: int, mapping: Mapping, keeps: bool) -> Callable:
    """Make the kernel that takes `rows` rows a block through all steps.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, mapping.threads](n, valid, p, gx, h, c, kept, out)``; without `keeps`, nothing is
        stored in kept and c but the final states, in slot 0.
    """
    S, E, X, NH = eq.S, eq.E, eq.X, len(eq.h_gates)
    first_x, h_gates, x_gates, zero, real = S - len(eq.x_gates), eq.h_gates, eq.x_gates, eq.real(0), eq.real
    Q, P, L, G, depth, stride = mapping.Q, mapping.P, mapping.L, mapping.groups, mapping.depth, mapping.stride
    n_weights, n_seen = max(1, Q * L), rows * max(depth, H)
    n_further, n_parts, D, ROWS = max(1, rows * E * H), rows * P * stride, max(depth, H), rows
    advance, put_kept, put_states = _cell(eq, H)[0], put_tuple(S), put_tuple(E)

    def forward(n, valid, p, gx, h, c, kept, out):
        weights = cuda.local.array(n_weights, real)
        a = cuda.local.array(S, real)
        total = cuda.local.array(Q, real)
        seen = cuda.shared.array(n_seen, real)
        further = cuda.shared.array(n_further, real)
        parts = cuda.shared.array(n_parts, real)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        group, part = thread // P, thread % P
        row = cuda.blockIdx.x * ROWS
        count = min(ROWS, n.B - row)
        for i in range(L):
            for q in range(Q):
                k = i * P + part
                weights[i * Q + q] = (
                    p[n.weight + (h_gates[q] * H + group) * H + k] if k < H and group < G else zero
                )
        slot = n.T * n.reverse
        for j in range(thread, count * D, threads):
            r, u = j // D, j % D
            seen[j] = h[(slot * n.B + row + r) * H + u] if u < H else zero
        slot = slot if keeps else 0
        for j in range(thread, count * E * H, threads):
            further[j] = c[(slot * n.B + row) * E * H + j]
        cuda.syncthreads()
        for s in range(n.T):
            t = n.T - 1 - s if n.reverse else s
            if NH > 0:
                if group < G:
                    for r in range(count):
                        for q in range(Q):
                            total[q] = zero
                        for i in range(L):
                            value = seen[r * D + i * P + part]
                            for q in range(Q):
                                total[q] += weights[i * Q + q] * value
                        for q in range(Q):
                            parts[(r * P + part) * stride + q * G + group] = total[q]
                cuda.syncthreads()
            for j in range(thread, count * H, threads):
                r, u = j // H, j % H
                b = row + r
                counts = n.masked == 0 or valid[t * n.B + b] > 0
                own = r * D + u
                if counts:
                    for q in range(S):
                        value = zero
                        if q >= first_x:
                            gate = x_gates[q - first_x] * H + u
                            value = gx[(t * n.B + b) * X * H + gate]
                            if n.biased:
                                value += p[n.bias_x + gate]
                        if q < NH:
                            if n.biased:
                                value += p[n.bias_h + h_gates[q] * H + u]
                            for k in range(P):
                                value += parts[(r * P + k) * stride + q * G + u]
                        a[q] = value
                    new, keep = advance(p, n.units, u, a, seen[own], further, r * E * H + u)
                    seen[own] = new[0]
                    put_states(new[1:], further, r * E * H + u, H)
                    if keeps:
                        put_kept(keep, kept, (t * n.B + b) * S * H + u, H)
                after = (t + 1 - n.reverse) * n.B + b
                h[after * H + u] = seen[own]
                if keeps:
                    for k in range(E):
                        c[(after * E + k) * H + u] = further[(r * E + k) * H + u]
                if n.puts:
                    out[(t * n.B + b) * n.width + n.at + u] = seen[own] if counts else zero
            if NH > 0:
                cuda.syncthreads()
        if not keeps:
            cuda.syncthreads()
            for j in range(thread, count * E * H, threads):
                c[row * E * H + j] = further[j]

    return jit(forward, mapping.registers)


@cache
def backward_loop(eq: Equations, H: int, rows: int, mapping: Mapping) -> Callable:
    """Make the kernel that takes `rows` rows a block back through all steps.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, mapping.threads](n, valid, p, h, c, kept, dout, d, e, du)``.
    """
    S, E, K, NH, zero, real = eq.S, eq.E, eq.K, len(eq.h_gates), eq.real(0), eq.real
    # of each gradient that a product takes: the place of its rows in weight_hh
    h_gates = eq.h_gates or (0,)
    Q, P, L, G, depth, stride = mapping.Q, mapping.P, mapping.L, mapping.groups, mapping.depth, mapping.stride
    n_weights, n_slopes, n_parts = max(1, Q * L), rows * depth, rows * P * stride
    n_h, n_further, ROWS = rows * H, max(1, rows * E * H), rows
    retreat, put_gates, put_states, put_units = _cell(eq, H)[1], put_tuple(S), put_tuple(E), put_tuple(K)

    def backward(n, valid, p, h, c, kept, dout, d, e, du):
        weights = cuda.local.array(n_weights, real)
        a = cuda.local.array(S, real)
        own = cuda.local.array(max(1, K), real)
        total = cuda.local.array(Q, real)
        slopes = cuda.shared.array(n_slopes, real)
        dh = cuda.shared.array(n_h, real)
        de = cuda.shared.array(n_further, real)
        parts = cuda.shared.array(n_parts, real)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        group, part = thread // P, thread % P
        row = cuda.blockIdx.x * ROWS
        count = min(ROWS, n.B - row)
        for i in range(L):
            for q in range(Q):
                k, r = i * P + part, q * G + group
                inside = k < NH * H and group < G and r < H
                at = (h_gates[k // H] * H + k % H) * H + r if inside else 0
                weights[i * Q + q] = p[n.weight + at] if inside else zero
        for j in range(thread, n_slopes, threads):
            slopes[j] = zero
        for j in range(thread, n_parts, threads):
            parts[j] = zero
        for j in range(thread, count * H, threads):
            dh[j] = d[row * H + j]
        for j in range(thread, count * E * H, threads):
            de[j] = e[row * E * H + j]
        for j in range(thread, count * K * H, threads):
            du[row * K * H + j] = zero
        cuda.syncthreads()
        for s in range(n.T - 1, -1, -1):
            t = n.T - 1 - s if n.reverse else s
            for j in range(thread, count * H, threads):
                r, u = j // H, j % H
                b = row + r
                gradient = dh[j]
                if NH > 0:
                    for k in range(P):
                        gradient += parts[(r * P + k) * stride + u]
                at = (t * n.B + b) * S * H + u
                if n.masked == 0 or valid[t * n.B + b] > 0:
                    if n.puts:
                        gradient += dout[(t * n.B + b) * n.width + n.at + u]
                    for q in range(S):
                        a[q] = kept[at + q * H]
                    before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
                    dgates, dstates, dunits = retreat(
                        p, n.units, u, a, h[before * H + u], h[after * H + u], c, before * E * H + u,
                        after * E * H + u, gradient, de, r * E * H + u,
                    )  # fmt: skip
                    put_gates(dgates, a, 0, 1)
                    gradient = dstates[0]
                    put_states(dstates[1:], de, r * E * H + u, H)
                    put_units(dunits, own, 0, 1)
                    for k in range(K):
                        du[(b * K + k) * H + u] += own[k]
                else:
                    for q in range(S):
                        a[q] = zero
                for q in range(S):
                    kept[at + q * H] = a[q]
                    if q < NH:
                        slopes[r * depth + q * H + u] = a[q]
                dh[j] = gradient
            if NH > 0:
                cuda.syncthreads()
                if group < G:
                    for r in range(count):
                        for q in range(Q):
                            total[q] = zero
                        for i in range(L):
                            value = slopes[r * depth + i * P + part]
                            for q in range(Q):
                                total[q] += weights[i * Q + q] * value
                        for q in range(Q):
                            parts[(r * P + part) * stride + q * G + group] = total[q]
                cuda.syncthreads()
        for j in range(thread, count * H, threads):
            gradient = dh[j]
            if NH > 0:
                for k in range(P):
                    gradient += parts[((j // H) * P + k) * stride + j % H]
            d[row * H + j] = gradient
        cuda.syncthreads()
        for j in range(thread, count * E * H, threads):
            e[row * E * H + j] = de[j]

    return jit(backward, mapping.registers)


@cache
def forward_step(eq: Equations, H: int, keeps: bool) -> Callable:
    """Make the kernel of one step whose product with the state has been done.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, gx, gh, h, c, kept, out)``.
    """
    S, E, X, R, NH = eq.S, eq.E, eq.X, eq.R, len(eq.h_gates)
    first_x, h_gates, x_gates, zero, real = S - len(eq.x_gates), eq.h_gates or (0,), eq.x_gates, eq.real(0), eq.real
    advance, put_kept, put_states = _cell(eq, H)[0], put_tuple(S), put_tuple(E)

    def forward(n, t, valid, p, gx, gh, h, c, kept, out):
        a = cuda.local.array(S, real)
        for j in range(cuda.grid(1), n.B * H, cuda.gridsize(1)):
            b, u = j // H, j % H
            before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
            counts = n.masked == 0 or valid[t * n.B + b] > 0
            c_at = (before if keeps else b) * E * H + u
            c_to = (after if keeps else b) * E * H + u
            if counts:
                for q in range(S):
                    value = zero
                    if q >= first_x:
                        gate = x_gates[q - first_x] * H + u
                        value = gx[(t * n.B + b) * X * H + gate]
                        if n.biased:
                            value += p[n.bias_x + gate]
                    if q < NH:
                        gate = h_gates[q] * H + u
                        if n.biased:
                            value += p[n.bias_h + gate]
                        value += gh[b * R * H + gate]
                    a[q] = value
                new, keep = advance(p, n.units, u, a, h[before * H + u], c, c_at)
                h[after * H + u] = new[0]
                put_states(new[1:], c, c_to, H)
                if keeps:
                    put_kept(keep, kept, (t * n.B + b) * S * H + u, H)
            else:
                h[after * H + u] = h[before * H + u]
                for k in range(E):
                    c[c_to + k * H] = c[c_at + k * H]
            if n.puts:
                out[(t * n.B + b) * n.width + n.at + u] = h[after * H + u] if counts else zero

    return jit(forward)


@cache
def backward_step(eq: Equations, H: int) -> Callable:
    """Make the kernel of one step back: d becomes what does not pass the recurrent weights.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, threads](n, t, valid, p, h, c, kept, dout, d, e, du)``; du is added to.
    """
    S, E, K, zero, real = eq.S, eq.E, eq.K, eq.real(0), eq.real
    retreat, put_gates, put_states, put_units = _cell(eq, H)[1], put_tuple(S), put_tuple(E), put_tuple(K)

    def backward(n, t, valid, p, h, c, kept, dout, d, e, du):
        a = cuda.local.array(S, real)
        own = cuda.local.array(max(1, K), real)
        for j in range(cuda.grid(1), n.B * H, cuda.gridsize(1)):
            b, u = j // H, j % H
            at = (t * n.B + b) * S * H + u
            if n.masked == 0 or valid[t * n.B + b] > 0:
                gradient = d[j]
                if n.puts:
                    gradient += dout[(t * n.B + b) * n.width + n.at + u]
                for q in range(S):
                    a[q] = kept[at + q * H]
                before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
                dgates, dstates, dunits = retreat(
                    p, n.units, u, a, h[before * H + u], h[after * H + u], c, before * E * H + u,
                    after * E * H + u, gradient, e, b * E * H + u,
                )  # fmt: skip
                put_gates(dgates, kept, at, H)
                d[j] = dstates[0]
                put_states(dstates[1:], e, b * E * H + u, H)
                put_units(dunits, own, 0, 1)
                for k in range(K):
                    du[(b * K + k) * H + u] += own[k]
            else:
                for q in range(S):
                    kept[at + q * H] = zero

    return jit(backward)
