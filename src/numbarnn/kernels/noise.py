"""Noise on the states inside the time loop: recurrent dropout and zoneout.

Recurrent dropout multiplies h, before the recurrent weights see it, by one mask for a whole sequence (Gal and
Ghahramani 2016); zoneout lets some units keep the state that they had (Krueger et al. 2017):

    state = z old + (1 - z) new

with z of 0 and 1 in training, and its mean otherwise. Both are chosen by the type of the cell (`Cell.noisy`),
so that a loop without them is compiled without them.

What they need lies in one flat array n, with W = (1 + E) Hp numbers for all states of a row:

    h    (x_slots, B, Hp)   with recurrent dropout: h as it is; the rows of x have it multiplied by the mask
    rm   (B, Hp)            that mask
    dd   (B, Hp)            gradient of h multiplied by the mask
    nk   (g_slots, B, W)    with zoneout: the new states of the cell, before they are mixed with the old
    zm   (g_slots, B, W)    z
    ds   (B, W)             z times the gradient of the states
"""

from __future__ import annotations

from numba.extending import overload, register_jitable

from numbarnn.simd import INLINED, add_row, lanes_of, load, store, takes_step


@register_jitable(**INLINED)
def _mix(n, nk, zm, count, old, at, a, to):
    """Keep the new values a[to:] at n[nk:], and mix them with the old by the z of n[zm:]."""
    for u in range(0, count, lanes_of(n)):
        new, z = load(a, to + u), load(n, zm + u)
        store(n, nk + u, new)
        store(a, to + u, z * load(old, at + u) + (1.0 - z) * new)  # exactly one of them in training


def disturb(cell, sizes, r0, r1, t, lengths, before, after, x, h, c, n):
    """Mix the states after step t with those before it, and mask what the next product sees."""
    raise NotImplementedError


@overload(disturb, inline="always")
def _disturb(cell, sizes, r0, r1, t, lengths, before, after, x, h, c, n):
    zones, drops = cell.zones, cell.drops

    def noise(cell, sizes, r0, r1, t, lengths, before, after, x, h, c, n):
        padded, LH, R = sizes.J * sizes.U, sizes.LH, sizes.R
        LC = sizes.E * padded
        if zones:
            for r in range(r0, r1):
                if takes_step(sizes.masked, sizes.B, lengths, t, r):
                    here = (t % sizes.g_slots * sizes.B + r) * (padded + LC)
                    nk, zm = sizes.nk + here, sizes.zm + here
                    _mix(n, nk, zm, R, h, (before + r) * LH, h, (after + r) * LH)
                    _mix(n, nk + padded, zm + padded, LC, c, (before + r) * LC, c, (after + r) * LC)
        if drops:
            for r in range(r0, r1):
                for u in range(0, R, lanes_of(n)):
                    masked = load(h, (after + r) * LH + u) * load(n, sizes.rm + r * padded + u)
                    store(x, (after + r) * sizes.LX + u, masked)

    def nothing(cell, sizes, r0, r1, t, lengths, before, after, x, h, c, n):
        pass

    return noise if zones or drops else nothing


def split_gradient(cell, sizes, r0, r1, t, lengths, d, e, n):
    """Before the way back through the cell: set aside what goes past it to the old states."""
    raise NotImplementedError


@overload(split_gradient, inline="always")
def _split_gradient(cell, sizes, r0, r1, t, lengths, d, e, n):
    def split(cell, sizes, r0, r1, t, lengths, d, e, n):
        padded = sizes.J * sizes.U
        W = (1 + sizes.E) * padded
        for r in range(r0, r1):
            if takes_step(sizes.masked, sizes.B, lengths, t, r):
                z = sizes.zm + (t * sizes.B + r) * W
                _set_aside(n, z, d, r * padded, sizes.ds + r * W, padded)
                _set_aside(n, z + padded, e, r * (W - padded), sizes.ds + r * W + padded, W - padded)

    def nothing(cell, sizes, r0, r1, t, lengths, d, e, n):
        pass

    return split if cell.zones else nothing


@register_jitable(**INLINED)
def _set_aside(n, z, d, at, to, count):
    """n[to:] = z d[at:] and d[at:] -= n[to:], `count` numbers."""
    for u in range(0, count, lanes_of(n)):
        gradient = load(d, at + u)
        aside = gradient * load(n, z + u)
        store(n, to + u, aside)
        store(d, at + u, gradient - aside)


def join_gradient(cell, sizes, r0, r1, t, lengths, d, e, n):
    """After the way back through cell and product: add what went past them, and what came by the mask."""
    raise NotImplementedError


@overload(join_gradient, inline="always")
def _join_gradient(cell, sizes, r0, r1, t, lengths, d, e, n):
    zones, drops = cell.zones, cell.drops

    def join(cell, sizes, r0, r1, t, lengths, d, e, n):
        padded = sizes.J * sizes.U
        W = (1 + sizes.E) * padded
        for r in range(r0, r1):
            if takes_step(sizes.masked, sizes.B, lengths, t, r):
                if zones:
                    add_row(padded, n, sizes.ds + r * W, d, r * padded)
                    add_row(W - padded, n, sizes.ds + r * W + padded, e, r * (W - padded))
                if drops:
                    for u in range(0, padded, lanes_of(n)):
                        at = r * padded + u
                        through = load(n, sizes.dd + at) * load(n, sizes.rm + at)
                        store(d, at, load(d, at) + through)

    def nothing(cell, sizes, r0, r1, t, lengths, d, e, n):
        pass

    return join if zones or drops else nothing
