"""Between PyTorch's parameter layout and the blocks the time loop reads (see `scan` for the shapes).

All parameters of a direction of a layer lie in one vector, all its packed weights in another. What goes where
is a plan, made once: a row for each box of numbers, which `move` copies one way to pack weights and the other
way to unpack gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels.compiler import Ints, Reals, task
from numbarnn.simd import add_row, address


@task
def move(first: int, last: int, plan: Ints, source: Reals, target: Reals):
    """Copy boxes `first` to `last` of the plan, which has one behind the other, each the names below.

    target[to + i t_i + j t_j + k t_k] = source[at + i a_i + j a_j + k a_k] for all i < n_i, j < n_j, k < n_k.
    """
    to_place, from_place = address(target), address(source)  # an index of an array may be negative: slower
    for b in range(11 * first, 11 * last, 11):
        n_i, n_j, n_k, at = plan[b], plan[b + 1], plan[b + 2], plan[b + 3]
        a_i, a_j, a_k, to = plan[b + 4], plan[b + 5], plan[b + 6], plan[b + 7]
        t_i, t_j, t_k = plan[b + 8], plan[b + 9], plan[b + 10]
        for i in range(n_i):
            for j in range(n_j):
                a, t = at + i * a_i + j * a_j, to + i * t_i + j * t_j
                for k in range(n_k):
                    to_place[t + k * t_k] = from_place[a + k * a_k]


@task
def add_up(first: int, last: int, total: Reals, other: Reals):
    """Add elements `first` to `last` of another array to those of `total`."""
    add_row(last - first, other, first, total, first)


def reversed_plan(plan: NDArray) -> NDArray:
    """Make the plan of the way back."""
    return np.ascontiguousarray(plan[:, [0, 1, 2, 7, 8, 9, 10, 3, 4, 5, 6]])


def line(at: int, to: int, count: int, repeat: bool = False) -> tuple[int, ...]:
    """Give the box of `count` elements that lie side by side, or of one that is repeated.

    >>> from numbarnn.kernels.pack import line
    >>> line(5, 32, 3)
    (1, 1, 3, 5, 0, 0, 1, 32, 0, 0, 1)
    """
    return (1, 1, count, at, 0, 0, 0 if repeat else 1, to, 0, 0, 1)


def _unit_boxes(hidden_size: int, units: int) -> list[tuple[int, int, int]]:
    """(first block, blocks, units in each) of the full blocks and of the one that is not."""
    full, rest = divmod(hidden_size, units)
    return [box for box in ((0, full, units), (full, 1, rest)) if box[1] * box[2] > 0]


def weight_plan(
    gates: Sequence[int], hidden_size: int, units: int, inputs: int, depth: int,
    weight_at: int, bias_at: int | None, to: int, rows: int | None = None,
) -> list[tuple[int, ...]]:
    """List the boxes of w (blocks, depth, slots units): weight (gates H, inputs) transposed, bias last.

    It may be part of blocks of more than `depth` rows.
    """
    columns, boxes = len(gates) * units, []
    block = (depth if rows is None else rows) * columns
    for slot, gate in enumerate(gates):
        for first, blocks, width in _unit_boxes(hidden_size, units):
            row, at = gate * hidden_size + first * units, to + first * block + slot * units
            boxes.append((blocks, inputs, width, weight_at + row * inputs, units * inputs, 1, inputs,
                          at, block, columns, 1))
            if bias_at is not None:
                boxes.append((blocks, 1, width, bias_at + row, units, 0, 1,
                              at + (depth - 1) * columns, block, 0, 1))
    return boxes


def transposed_plan(
    gates: Sequence[int], hidden_size: int, units: int, n_blocks: int, inputs: int, panel: int,
    weight_at: int, to: int,
) -> list[tuple[int, ...]]:
    """List the boxes of wt (panels, blocks, slots units, panel): weight as it is, `panel` columns wide."""
    columns, boxes = len(gates) * units, []
    for slot, gate in enumerate(gates):
        for first, blocks, width in _unit_boxes(hidden_size, units):
            for p in range(0, inputs, panel):
                at = weight_at + (gate * hidden_size + first * units) * inputs + p
                into = to + ((p // panel * n_blocks + first) * columns + slot * units) * panel
                boxes.append((blocks, width, min(panel, inputs - p), at, units * inputs, inputs, 1,
                              into, columns * panel, panel, 1))
    return boxes
