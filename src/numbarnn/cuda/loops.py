"""The time loop of one layer in one direction as one launch, with the recurrent weights on the chip.

A block has a few rows of the batch and takes them through all time steps. Its threads hold the weights in
registers (`numbarnn.cuda.plans`); states, gradients and the parts of sums are in shared memory. A step has
two halves, with a barrier behind each: the product, in which a thread has parts of sums, and the cell, in
which it has units. Arrays are those of `numbarnn.cuda.scan`.

Kernels are made for a cell and sizes by functions: what is held in registers must be known when they are
compiled, and arrays of a thread stay in registers only where every index is a constant once loops are
unrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numbarnn.cuda.driver import cuda, jit
from numbarnn.cuda.functions import Equations, inline, put_tuple
from numbarnn.cuda.noise import Noise, mixer, separator
from numbarnn.cuda.plans import Mapping
from numbarnn.cuda.scan import cell_functions, code, input_sums

__all__ = ["backward_loop", "forward_loop"]


@cache
def _product(mapping: Mapping, zero: float) -> Callable:
    """Return ``product(weights, total, group, part, vector, at, parts, to)`` of one row.

    ``parts[to + part * stride + output]`` becomes this thread's part of each of its sums.
    """
    Q, P, L, G, stride = mapping.Q, mapping.P, mapping.L, mapping.groups, mapping.stride

    def product(weights, total, group, part, vector, at, parts, to):
        for q in range(Q):
            total[q] = zero
        for i in range(L):
            value = vector[at + i * P + part]
            for q in range(Q):
                total[q] += weights[i * Q + q] * value
        for q in range(Q):
            parts[to + part * stride + q * G + group] = total[q]

    return inline(product)


@cache
def _sum_of(mapping: Mapping) -> Callable:
    """Return ``sum_of(value, parts, at)``: value plus the parts of one sum, in their order."""
    P, stride = mapping.P, mapping.stride

    def sum_of(value, parts, at):
        for k in range(P):
            value += parts[at + k * stride]
        return value

    return inline(sum_of)


@cache
def forward_loop(  # noqa: C901
    eq: Equations, H: int, rows: int, mapping: Mapping, keeps: bool, noise: Noise
) -> Callable:
    """Make the kernel that takes `rows` rows a block through all steps.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, mapping.threads](n, valid, p, gx, h, c, kept, out)``; without `keeps`, nothing is
        stored in kept and c but the final states, in slot 0.
    """
    S, E, NH, h_code, zero, real = eq.S, eq.E, len(eq.h_gates), code(eq.h_gates), eq.real(0), eq.real
    Q, P, L, G, stride, ROWS = mapping.Q, mapping.P, mapping.L, mapping.groups, mapping.stride, rows
    D = max(mapping.depth, H)
    n_weights, n_seen, n_further, n_parts = max(1, Q * L), rows * D, max(1, rows * E * H), rows * P * stride
    product, sum_of, sums = _product(mapping, zero), _sum_of(mapping), input_sums(eq, H)
    advance, put_kept, put_states = cell_functions(eq, H)[0], put_tuple(S), put_tuple(E)
    n_states, (drops, zones), mix = 1 + E, noise, mixer(eq, H, H, keeps, noise)
    put_fresh = put_tuple(n_states)

    def forward(n, valid, p, gx, h, c, kept, out):  # noqa: C901
        weights = cuda.local.array(n_weights, real)
        a = cuda.local.array(S, real)
        total = cuda.local.array(Q, real)
        fresh = cuda.local.array(n_states, real)
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
                at = n.weight + ((h_code >> 4 * q & 15) * H + group) * H + k
                weights[i * Q + q] = p[at] if k < H and group < G else zero
        slot = n.T * n.reverse
        for j in range(thread, count * D, threads):
            r, u = j // D, j % D
            seen[j] = h[(slot * n.B + row + r) * H + u] if u < H else zero
            if drops and u < H:
                seen[j] *= kept[n.T * n.B * S * H + (row + r) * H + u]
                h[((n.T + 1 + slot) * n.B + row + r) * H + u] = seen[j]
        slot = slot if keeps else 0
        for j in range(thread, count * E * H, threads):
            further[j] = c[(slot * n.B + row) * E * H + j]
        cuda.syncthreads()
        for s in range(n.T):
            t = n.T - 1 - s if n.reverse else s
            if NH > 0:
                if group < G:
                    for r in range(count):
                        product(weights, total, group, part, seen, r * D, parts, r * P * stride)
                cuda.syncthreads()
            for j in range(thread, count * H, threads):
                r, u = j // H, j % H
                b, own, c_own = row + r, r * D + u, r * E * H + u
                counts = n.masked == 0 or valid[t * n.B + b] > 0
                if drops:  # as it is, which this thread has stored
                    seen[own] = h[((t + n.reverse) * n.B + b) * H + u]
                if counts:
                    sums(n, t, b, u, p, gx, a)
                    for q in range(NH):
                        a[q] = sum_of(a[q], parts, r * P * stride + q * G + u)
                    new, keep = advance(p, n.units, u, a, seen[own], further, c_own)
                    if zones:
                        put_fresh(new, fresh, 0, 1)
                        seen[own] = mix(n, t, b, u, kept, 0, fresh[0], seen[own])
                        for k in range(E):
                            old = further[c_own + k * H]
                            further[c_own + k * H] = mix(n, t, b, u, kept, 1 + k, fresh[1 + k], old)
                    else:
                        seen[own] = new[0]
                        put_states(new[1:], further, c_own, H)
                    if keeps:
                        put_kept(keep, kept, (t * n.B + b) * S * H + u, H)
                after = (t + 1 - n.reverse) * n.B + b
                h[after * H + u] = seen[own]
                if keeps:
                    for k in range(E):
                        c[(after * E + k) * H + u] = further[c_own + k * H]
                if n.puts:
                    out[(t * n.B + b) * n.width + n.at + u] = seen[own] if counts else zero
                if drops:
                    seen[own] *= kept[n.T * n.B * S * H + b * H + u]
                    h[((n.T + 1) * n.B + after) * H + u] = seen[own]
            if NH > 0:
                cuda.syncthreads()
        if not keeps:
            cuda.syncthreads()
            for j in range(thread, count * E * H, threads):
                c[row * E * H + j] = further[j]

    return jit(forward, "forward" if keeps else "predict", mapping.registers)


@cache
def backward_loop(  # noqa: C901
    eq: Equations, H: int, rows: int, mapping: Mapping, noise: Noise
) -> Callable:
    """Make the kernel that takes `rows` rows a block back through all steps.

    Returns
    -------
    kernel : callable
        ``kernel[blocks, mapping.threads](n, valid, p, h, c, kept, dout, d, e, du)``.
    """
    S, E, K, NH, zero, real = eq.S, eq.E, eq.K, len(eq.h_gates), eq.real(0), eq.real
    h_code = code(eq.h_gates)
    Q, P, L, G, stride, ROWS = mapping.Q, mapping.P, mapping.L, mapping.groups, mapping.stride, rows
    D = mapping.depth
    n_weights, n_slopes, n_parts = max(1, Q * L), rows * D, rows * P * stride
    n_h, n_further, n_units = rows * H, max(1, rows * E * H), max(1, K)
    product, sum_of, retreat = _product(mapping, zero), _sum_of(mapping), cell_functions(eq, H)[1]
    put_gates, put_states, put_units = put_tuple(S), put_tuple(E), put_tuple(K)
    n_states, (drops, zones), separate = 1 + E, noise, separator(eq, H, H, noise)[1]

    def backward(n, valid, p, h, c, kept, dout, d, e, du):  # noqa: C901
        weights = cuda.local.array(n_weights, real)
        a = cuda.local.array(S, real)
        own = cuda.local.array(n_units, real)
        total = cuda.local.array(Q, real)
        aside = cuda.local.array(n_states, real)
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
                k, u = i * P + part, q * G + group
                at = n.weight + ((h_code >> 4 * (k // H) & 15) * H + k % H) * H + u
                weights[i * Q + q] = p[at] if k < NH * H and group < G and u < H else zero
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
                b, e_own = row + r, r * E * H + u
                gradient = dh[j]
                if drops:
                    through = sum_of(zero, parts, r * P * stride + u)
                    gradient += through * kept[n.T * n.B * S * H + b * H + u]
                elif NH > 0:
                    gradient = sum_of(gradient, parts, r * P * stride + u)
                at = (t * n.B + b) * S * H + u
                if n.masked == 0 or valid[t * n.B + b] > 0:
                    for q in range(S):
                        a[q] = kept[at + q * H]
                    if n.puts:
                        gradient += dout[(t * n.B + b) * n.width + n.at + u]
                    before, after = (t + n.reverse) * n.B + b, (t + 1 - n.reverse) * n.B + b
                    if zones:
                        nk = separate(n, t, b, u, kept, gradient, aside, de, e_own)
                        dgates, dstates, dunits = retreat(
                            p, n.units, u, a, h[before * H + u], kept[nk], c, before * E * H + u, kept,
                            nk + H, gradient - aside[0], de, e_own,
                        )  # fmt: skip
                    else:
                        dgates, dstates, dunits = retreat(
                            p, n.units, u, a, h[before * H + u], h[after * H + u], c, before * E * H + u, c,
                            after * E * H + u, gradient, de, e_own,
                        )  # fmt: skip
                    put_gates(dgates, a, 0, 1)
                    gradient = dstates[0]
                    put_states(dstates[1:], de, e_own, H)
                    if zones:
                        gradient += aside[0]
                        for k in range(E):
                            de[e_own + k * H] += aside[1 + k]
                    put_units(dunits, own, 0, 1)
                    for k in range(K):
                        du[(b * K + k) * H + u] += own[k]
                else:
                    for q in range(S):
                        a[q] = zero
                for q in range(S):
                    kept[at + q * H] = a[q]
                for q in range(NH):
                    slopes[r * D + q * H + u] = a[q]
                dh[j] = gradient
            if NH > 0:
                cuda.syncthreads()
                if group < G:
                    for r in range(count):
                        product(weights, total, group, part, slopes, r * D, parts, r * P * stride)
                cuda.syncthreads()
        for j in range(thread, count * H, threads):
            gradient = dh[j]
            if drops:
                through = sum_of(zero, parts, (j // H) * P * stride + j % H)
                gradient += through * kept[n.T * n.B * S * H + row * H + j]
            elif NH > 0:
                gradient = sum_of(gradient, parts, (j // H) * P * stride + j % H)
            d[row * H + j] = gradient
        cuda.syncthreads()
        for j in range(thread, count * E * H, threads):
            e[row * E * H + j] = de[j]

    return jit(backward, "backward", mapping.registers)
