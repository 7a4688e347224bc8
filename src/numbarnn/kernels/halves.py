"""The second half of a step that has two products; nothing for other cells.

The first half ends with the middle vector; its product with wm, then `Cell.finish`, gives h. Where h is a
projection, the blocks of the second product are fewer than those of the first. The arrays are those of
`scan`.
"""

from __future__ import annotations

from numba.extending import overload

from numbarnn.kernels.equations import (
    cell_finish,
    cell_finish_backward,
    load_products,
    load_slots,
    load_states,
)
from numbarnn.kernels.gemm import gemm
from numbarnn.simd import clear_units, lanes_of, load, store, store_many, takes_step


def finish_forward(cell, sizes, r0, r1, t, lengths, active, w, x, h, g, c):
    """Do the second half of step t for rows r0 to r1; njit code only."""
    raise NotImplementedError


@overload(finish_forward, inline="always")
def _finish_forward(cell, sizes, r0, r1, t, lengths, active, w, x, h, g, c):
    def finish(cell, sizes, r0, r1, t, lengths, active, w, x, h, g, c):
        B, U, S, Sm, LM, LH = sizes.B, sizes.U, sizes.S, sizes.Sm, sizes.LM, sizes.LH
        lanes = lanes_of(g)
        padded = sizes.J * U
        LC, depth = sizes.E * padded, padded + 1
        before = (t + sizes.reverse) % sizes.x_slots * B
        after = (t + 1 - sizes.reverse) % sizes.x_slots * B
        middle = sizes.x_slots * B * sizes.LX + t % sizes.g_slots * B * LM
        products = sizes.J * sizes.g_slots * B * S
        clear_units(sizes.H, padded, r1 - r0, x, middle + r0 * LM, LM, padded, 1)
        for r in range(r0, r1):
            if not takes_step(sizes.masked, B, lengths, t, r):
                clear_units(0, padded, 1, x, middle + r * LM, LM, padded, 1)
        for j in range(sizes.JR):
            block = (j * sizes.g_slots + t % sizes.g_slots) * B
            if active:
                for k in range(0, depth, sizes.km):
                    gemm(Sm // lanes, r1 - r0, sizes.sums, k > 0, x, middle + r0 * LM + k, LM, 0, 1,
                         w, sizes.wm + (j * depth + k) * Sm, Sm, 1, min(sizes.km, depth - k),
                         g, products + (block + r0) * Sm, Sm)
            for r in range(r0, r1):
                if takes_step(sizes.masked, B, lengths, t, r):
                    for i in range(0, U, lanes):
                        u = j * U + i
                        at, q_at = (block + r) * S + i, products + (block + r) * Sm + i
                        states = load_states(
                            cell, h, (before + r) * LH + u, c, (before + r) * LC + u, padded
                        )
                        q, kept = load_products(cell, g, q_at, U), load_slots(cell, g, at, U)
                        new_h, q, kept = cell_finish(cell, q, kept, states)
                        store_many(g, q_at, U, q)
                        store_many(g, at, U, kept)
                        store(h, (after + r) * LH + u, new_h)
            if (j + 1) * U > sizes.HR:
                slots = 0 if sizes.projects else S // U
                clear_units(sizes.HR - j * U, U, r1 - r0, g, (block + r0) * S, S, U, slots)
                clear_units(sizes.HR - j * U, U, r1 - r0, g, products + (block + r0) * Sm, Sm, U, Sm // U)

    def nothing(cell, sizes, r0, r1, t, lengths, active, w, x, h, g, c):
        pass

    return finish if cell.n_products else nothing


def start_backward(cell, sizes, r0, r1, t, lengths, w, h, g, c, d):
    """Go back through the second half of step t: d is then of h before, and of the middle vector."""
    raise NotImplementedError


@overload(start_backward, inline="always")
def _start_backward(cell, sizes, r0, r1, t, lengths, w, h, g, c, d):
    def back(cell, sizes, r0, r1, t, lengths, w, h, g, c, d):
        B, U, S, Sm, P, slots = sizes.B, sizes.U, sizes.S, sizes.Sm, sizes.PM, sizes.g_slots
        lanes = lanes_of(g)
        padded = sizes.J * U
        LC, LH = sizes.E * padded, sizes.LH
        before = (t + sizes.reverse) % sizes.x_slots * B
        products = sizes.J * slots * B * S
        for j in range(sizes.JR):
            block = (j * slots + t % slots) * B
            for r in range(r0, r1):
                if takes_step(sizes.masked, B, lengths, t, r):
                    for i in range(0, U, lanes):
                        u = j * U + i
                        at, q_at = (block + r) * S + i, products + (block + r) * Sm + i
                        states = load_states(
                            cell, h, (before + r) * LH + u, c, (before + r) * LC + u, padded
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
        for p in range(padded // P):
            for j in range(0, sizes.JR, sizes.group_m):
                gemm(P // lanes, r1 - r0, sizes.sums, j > 0,
                     g, products + ((j * slots + t % slots) * B + r0) * Sm, Sm, slots * B * Sm, 1,
                     w, sizes.wmt + (p * sizes.JR + j) * Sm * P, P, min(sizes.group_m, sizes.JR - j), Sm,
                     d, (B + r0) * padded + p * P, padded)

    def nothing(cell, sizes, r0, r1, t, lengths, w, h, g, c, d):
        pass

    return back if cell.n_products else nothing
