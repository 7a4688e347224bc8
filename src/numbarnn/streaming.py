"""`Stepper`: layers that advance by one time step, in microseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels import scan
from numbarnn.kernels.gemm import ALONE
from numbarnn.kernels.sizes import batch_sizes, noise_sizes
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
    n_samples : int
    """

    def __init__(
        self, directions: list[Direction], shapes: list[tuple[int, int, int]], zoneout: tuple[float, ...],
        residual: bool,
    ) -> None:
        self.n_samples = shapes[0][1]
        self._shapes, self._residual, self._dtype = shapes, residual, directions[0].dtype
        cell = directions[0].cell
        self._cell = cell.noisy(False, True) if any(zoneout) else cell
        self._layers = [self._make_layer(direction, zoneout) for direction in directions]
        self._lengths = np.ones(self.n_samples, np.int64)
        self._zeros = tuple(np.zeros(shape, self._dtype) for shape in shapes)

    def _make_layer(self, direction: Direction, zoneout: tuple[float, ...]) -> tuple:
        """Return what `scan.scan_step` takes of a layer: its sizes, input rows, weights and other arrays."""
        B, dtype, known = self.n_samples, self._dtype, direction.sizes
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
        return tuple(sizes), z, own.packed, x, g, c, n

    def run(self, x_t: NDArray, state: Sequence[NDArray] | None) -> tuple[NDArray, tuple[NDArray, ...]]:
        """Advance by a step: x_t is (n_samples, n_inputs); return the output and the new state, both new."""
        old = state or self._zeros
        new = tuple([np.empty(shape, self._dtype) for shape in self._shapes])
        below = x_t
        for k, (numbers, *arrays) in enumerate(self._layers):
            scan.scan_step(self._cell, numbers, k, below, old, self._lengths, *arrays, new)
            adds = self._residual and below.shape == new[0][k].shape
            below = new[0][k] + below if adds else new[0][k]
        return below if adds else below.copy(), new
