"""What happens to rows between layers: inputs, dropout, merging of two directions, residual connections.

The letters and arrays are those of `scan`. Where rows are given with two strides, that of time step t and
sample r stands at t times the first and r times the second.
"""

from __future__ import annotations

from numbarnn.kernels.compiler import Ints, Reals, kernel, task
from numbarnn.kernels.sizes import Sizes
from numbarnn.simd import address, takes_step

MERGES = ("concat", "sum", "mean", "product")  # the numbers that kernels know them by


@task
def copy_inputs(sizes: Sizes, r0: int, r1: int, lengths: Ints, inputs: Reals, z: Reals):
    """Copy rows r0 to r1 of the inputs (B, T, I) to the input rows, with zeros where they do not count."""
    source, target = address(inputs), address(z)  # an index of an array may be negative: slower
    for r in range(r0, r1):
        for t in range(sizes.T):
            to = (t * sizes.B + r) * sizes.LZ
            if takes_step(sizes.masked, sizes.B, lengths, t, r):
                at = (r * sizes.T + t) * sizes.I
                for i in range(sizes.I):
                    target[to + i] = source[at + i]
            else:
                for i in range(sizes.I):
                    target[to + i] = 0


@task
def multiply_rows(r0: int, r1: int, n: int, mask: Reals, rows: Reals, stride: int):
    """Multiply the first n elements of rows r0 to r1, which are `stride` apart, by those of the mask."""
    for r in range(r0, r1):
        for i in range(n):
            rows[r * stride + i] *= mask[r * n + i]


@kernel
def mask_elements(words, least, factors, x, y):
    """Set y to x times factors[1], where the word of an element is at least `least`; elsewhere factors[0]."""
    dropped, kept = factors[0], factors[1]
    for i in range(x.size):
        y[i] = x[i] * (kept if words[i] >= least else dropped)


@task
def merge_rows(
    sizes: Sizes, r0: int, r1: int, mode: int, a: Reals, b: Reals, out: Reals, out_t: int, out_r: int
):
    """Set rows r0 to r1 of out, unless it is empty, to the sum, mean or product of a and b (T, B, H)."""
    factor = 0.5 if mode == 2 else 1.0
    if out.size > 0:
        for t in range(sizes.T):
            for r in range(r0, r1):
                at, to = (t * sizes.B + r) * sizes.HR, t * out_t + r * out_r
                for u in range(sizes.HR):
                    if mode == 3:
                        out[to + u] = a[at + u] * b[at + u]
                    else:
                        out[to + u] = factor * (a[at + u] + b[at + u])


@task
def split_rows(
    sizes: Sizes, r0: int, r1: int, mode: int, lengths: Ints, dout: Reals, dout_t: int, dout_r: int, a: Reals,
    b: Reals, da: Reals, db: Reals,
):
    """Go back through `merge_rows`; an empty dout is zeros."""
    factor = 0.5 if mode == 2 else 1.0
    for t in range(sizes.T):
        for r in range(r0, r1):
            at, to = t * dout_t + r * dout_r, (t * sizes.B + r) * sizes.HR
            counts = dout.size > 0 and takes_step(sizes.masked, sizes.B, lengths, t, r)
            for u in range(sizes.HR):
                gradient = factor * dout[at + u] if counts else 0.0
                da[to + u] = gradient * b[to + u] if mode == 3 else gradient
                db[to + u] = gradient * a[to + u] if mode == 3 else gradient


@task
def add_rows(
    sizes: Sizes, r0: int, r1: int, n: int, lengths: Ints, a: Reals, a_t: int, a_r: int, b: Reals, b_t: int,
    b_r: int,
):
    """Add the first n elements of rows r0 to r1 of a to those of b, where they count; either may be empty."""
    if a.size > 0 and b.size > 0:
        for t in range(sizes.T):
            for r in range(r0, r1):
                if takes_step(sizes.masked, sizes.B, lengths, t, r):
                    for i in range(n):
                        b[t * b_t + r * b_r + i] += a[t * a_t + r * a_r + i]
