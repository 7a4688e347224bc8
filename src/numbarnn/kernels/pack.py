"""Between PyTorch's parameter layout and the blocks the time loop reads: see `scan` for the shapes.

PyTorch's `weight` is (gates * H, inputs) with a row of H for each gate, `bias` (gates * H,) or empty. `gates` says which of
them each slot of a block is.
"""

from __future__ import annotations

from numbarnn.kernels.compiler import kernel
from numbarnn.kernels.threads import post


@kernel
def pack(signal, j0, j1, weight, bias, gates, H, U, w, depth):
    """w (J, depth, slots U) = weight transposed, with the bias as its last row; padding is left as it was (zero)."""
    post(signal)
    columns = gates.size * U
    for j in range(j0, j1):
        units = min(U, H - j * U)
        for s in range(gates.size):
            row = gates[s] * H + j * U
            to = j * depth * columns + s * U
            for k in range(weight.shape[1]):
                for i in range(units):
                    w[to + k * columns + i] = weight[row + i, k]
            if bias.size > 0:
                for i in range(units):
                    w[to + (depth - 1) * columns + i] = bias[row + i]


@kernel
def pack_transposed(signal, j0, j1, weight, gates, H, U, J, wt, P, panels):
    """wt (panels, J, slots U, P) = weight, P of its columns side by side; padding is left as it was (zero)."""
    post(signal)
    columns = gates.size * U
    for j in range(j0, j1):
        for s in range(gates.size):
            for i in range(min(U, H - j * U)):
                row = gates[s] * H + j * U + i
                for p in range(panels):
                    to = ((p * J + j) * columns + s * U + i) * P
                    for q in range(min(P, weight.shape[1] - p * P)):
                        wt[to + q] = weight[row, p * P + q]


@kernel
def unpack(signal, j0, j1, w, depth, gates, H, U, weight, bias):
    """The inverse of `pack`, for gradients."""
    post(signal)
    columns = gates.size * U
    for j in range(j0, j1):
        units = min(U, H - j * U)
        for s in range(gates.size):
            row = gates[s] * H + j * U
            at = j * depth * columns + s * U
            for k in range(weight.shape[1]):
                for i in range(units):
                    weight[row + i, k] = w[at + k * columns + i]
            if bias.size > 0:
                for i in range(units):
                    bias[row + i] = w[at + (depth - 1) * columns + i]
