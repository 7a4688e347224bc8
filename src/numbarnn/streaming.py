"""`Stepper`: layers that advance by one time step, in microseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels import scan
from numbarnn.kernels.gemm import ALONE
from numbarnn.kernels.sizes import aligned_zeros, batch_sizes, noise_sizes, whole_lines
from numbarnn.kernels.threads import Program
from numbarnn.layer import Direction


class Stepper:
    """Layers with their weights packed as they are now, and buffers apart from those of whole sequences.

    Parameters
    ----------
    directions : list of Direction
        One for each layer.
    shapes : list of tuple of int
        Of each part of the state, (n_layers, n_samples, width).
    zoneout : tuple of float
        Part of each old state in the new one.
    residual : bool
        Whether layers add their input to their output, where both are as wide.

    Attributes
    ----------
    shapes : list of tuple of int
    """

    def __init__(
        self, directions: list[Direction], shapes: list[tuple[int, int, int]], zoneout: tuple[float, ...],
        residual: bool,
    ) -> None:
        self.shapes = shapes
        self._residual, self._dtype = residual, directions[0].dtype
        cell = directions[0].cell
        self._cell = cell.noisy(False, True) if any(zoneout) else cell
        layers = [self._make_layer(direction, zoneout) for direction in directions]
        self._numbers = np.zeros((len(layers), scan.N_SIZES + len(layers[0])), np.int64)
        used = 0
        for row, (sizes, *arrays) in zip(self._numbers, layers, strict=True):
            row[: scan.N_SIZES] = sizes
            row[scan.N_SIZES :] = used + np.cumsum([0, *[whole_lines(a.size, a.itemsize) for a in arrays]])
            used = row[-1]
        self._memory = aligned_zeros(used, self._dtype)
        for row, (_, *arrays) in zip(self._numbers, layers, strict=True):
            for start, array in zip(row[scan.N_SIZES :], arrays, strict=False):
                self._memory[start : start + array.size] = array
        self._lengths = np.ones(shapes[0][1], np.int64)
        self._zeros = tuple(np.zeros(shape, self._dtype) for shape in shapes)

    def _make_layer(self, direction: Direction, zoneout: tuple[float, ...]) -> tuple:
        """Return the sizes of a layer, and its input rows, weights and other arrays as a step finds them."""
        B, dtype, known = self.shapes[0][1], self._dtype, direction.sizes
        own = Direction(
            direction.cell, known.I, known.H, direction.bias, dtype, False, known.projects * known.HR
        )
        own.parameters = direction.parameters
        Program(dtype, 1, [own.pack(False, 1)]).run()
        sizes = batch_sizes(own.sizes, 1, B, False)._replace(sums=ALONE if B == 1 else 1)
        z, x = np.ones(B * sizes.LZ, dtype), np.ones(B * (2 * sizes.LX + sizes.LM), dtype)
        x[: 2 * B * sizes.LX].reshape(-1, sizes.LX)[:, : sizes.R] = 0
        g = np.zeros(sizes.J * B * (sizes.S + sizes.Sm), dtype)
        c = np.zeros(2 * B * sizes.E * own.padded, dtype)
        sizes, n_noise = noise_sizes(sizes, False, any(zoneout))
        n = np.zeros(n_noise, dtype)
        if n_noise:
            mixed = n[sizes.zm : sizes.ds].reshape(B, 1 + sizes.E, own.padded)
            mixed[:, :, : sizes.H] = np.array(zoneout)[:, np.newaxis]
        return sizes, z, own.packed, x, g, c, n

    def run(self, x_t: NDArray, state: Sequence[NDArray] | None) -> tuple[NDArray, tuple[NDArray, ...]]:
        """Advance by a step: x_t is (n_samples, n_inputs); return the output and the new state, both new."""
        output = np.empty(self.shapes[0][1:], self._dtype)
        new = tuple([np.empty(shape, self._dtype) for shape in self.shapes])
        scan.scan_step(
            self._cell, self._numbers, self._residual, self._memory, self._lengths, x_t, state or self._zeros,
            new, output,
        )
        return output, new
