"""One layer in one direction: its parameters in the kernels' layout, and the arrays of the time loop."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import Cell
from numbarnn.kernels import pack
from numbarnn.kernels.gemm import panel_depth, panel_vectors
from numbarnn.kernels.sizes import batch_sizes, layer_sizes, weight_gradient_blocks
from numbarnn.kernels.threads import ranges, run_tasks
from numbarnn.simd import VECTOR_BYTES

PARALLEL_PARAMETERS = 100_000  # fewer are packed by one thread sooner than by two


class Buffers:
    """Arrays that are used from call to call and only ever grow.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of all of them.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._arrays: dict[str, NDArray] = {}

    def get(self, name: str, *shape: int) -> NDArray:
        """Return a flat array of that many elements; its content is what the last call for it left there."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = np.zeros(size, self._dtype)
        return array[:size]


class Direction:
    """One layer in one direction; `numbarnn.kernels.scan` has the shapes of the arrays.

    Parameters
    ----------
    cell : Cell
    n_inputs, hidden_size : int
    bias : bool
        Whether there are ``bias_ih`` and ``bias_hh``.
    dtype : numpy.dtype
        float32 or float64.
    reverse : bool
        Whether it runs backward in time.

    Attributes
    ----------
    parameters, gradients : ndarray of shape (n_parameters,)
        weight_ih, weight_hh, bias_ih and bias_hh, one behind the other; given by `Recurrent.bind`.
    layer_sizes, sizes : Sizes
        Those of the layer, and those of the batch that `prepare` made room for.
    wx, wh, wht, wxt, dwx, dwh : ndarray
        Packed weights and their gradients.
    x, c, g, d, e : ndarray
        States, gates and gradients of the states, as `prepare` and `prepare_gradient` laid them out.
    padded, padded_inputs : int
        hidden_size and n_inputs up to whole blocks and whole registers.
    input_panel, input_group : int
        Columns of a panel of wxt, and the blocks of it that one product goes through.
    """

    def __init__(
        self, cell: Cell, n_inputs: int, hidden_size: int, bias: bool, dtype: np.dtype, reverse: bool
    ) -> None:
        self.cell, self.bias = cell, bias
        self.layer_sizes = sizes = layer_sizes(cell, n_inputs, hidden_size, dtype.itemsize, reverse)
        self.sizes = sizes
        self.padded = sizes.J * sizes.U
        lanes = VECTOR_BYTES // dtype.itemsize
        vectors = -(-n_inputs // lanes)
        self.input_panel = panel_vectors(vectors) * lanes
        self.input_group = max(1, panel_depth(self.input_panel, dtype.itemsize) // sizes.Sx)
        self.padded_inputs = vectors * lanes
        self._lay_out_weights(dtype)
        self.buffers = Buffers(dtype)
        self.ones: tuple[int, ...] = ()  # shape of the state rows that have their ones
        self.parameters = self.gradients = np.zeros(0, dtype)

    def _lay_out_weights(self, dtype: np.dtype) -> None:
        """Make room for the packed weights and their gradients, and the plans that fill it."""
        sizes, x_gates, h_gates = self.layer_sizes, self.cell.x_gates, self.cell.h_gates
        H, U, J, inputs, rows = sizes.H, sizes.U, sizes.J, sizes.I, len(self.cell.gates) * sizes.H
        depth_x, depth_h = inputs + 1, self.padded + 1
        parts = (J * depth_x * sizes.Sx, J * depth_h * sizes.Sh,
                 self.padded * J * sizes.Sh, self.padded_inputs * J * sizes.Sx)
        ends = np.cumsum((0, *parts))
        packed, gradients = np.zeros(ends[4], dtype), np.zeros(ends[2], dtype)
        self.packed, self.packed_gradients = packed, gradients
        self.wx, self.wh, self.wht, self.wxt = (packed[a:b] for a, b in pairwise(ends))
        self.dwx, self.dwh = gradients[: ends[1]], gradients[ends[1] :]
        weight_hh = rows * inputs
        biases = weight_hh + rows * H
        bias_ih, bias_hh = (biases, biases + rows) if self.bias else (None, None)
        forward = pack.weight_plan(x_gates, H, U, inputs, depth_x, 0, bias_ih, 0)
        forward += pack.weight_plan(h_gates, H, U, H, depth_h, weight_hh, bias_hh, ends[1])
        backward = pack.transposed_plan(h_gates, H, U, J, H, sizes.P, weight_hh, ends[2])
        to_inputs = pack.transposed_plan(x_gates, H, U, J, inputs, self.input_panel, 0, ends[3])
        self.plan = np.array(forward + backward, np.int64)
        self.n_forward = len(forward)
        self.input_plan = np.array(to_inputs, np.int64)
        self.gradient_plan = pack.reversed_plan(self.plan[: self.n_forward])

    def prepare(
        self, n_timesteps: int, n_samples: int, training: bool, state: tuple[NDArray, ...] | None
    ) -> None:
        """Make room for a batch, the initial state in its slot.

        Parameters
        ----------
        n_timesteps, n_samples : int
        training : bool
            Whether all time steps are kept for the way back.
        state : tuple of ndarray of shape (n_samples, hidden_size), or None
            None is zeros.
        """
        self.sizes = sizes = batch_sizes(self.layer_sizes, n_timesteps, n_samples, training)
        get, B = self.buffers.get, n_samples
        self.x = get("x", sizes.x_slots, B, sizes.LX)
        self.c = get("c", sizes.x_slots, B, sizes.E * self.padded)
        self.g = get("g", sizes.J, sizes.g_slots, B, sizes.S)
        rows = self.x.reshape(sizes.x_slots, B, sizes.LX)
        if self.ones != rows.shape:  # nothing ever overwrites them while rows lie where they lay
            rows[:, :, self.padded] = 1
            self.ones = rows.shape
        first = n_timesteps * sizes.reverse % sizes.x_slots
        h, further = rows[first], self.c.reshape(sizes.x_slots, B, sizes.E, self.padded)[first]
        h[:, : self.padded] = 0
        further[...] = 0
        if state is not None:
            h[:, : sizes.H] = state[0]
            for e, values in enumerate(state[1:]):
                further[:, e, : sizes.H] = values

    def final_state(self) -> list[NDArray]:
        """Return views (n_samples, hidden_size) of the states after the last step of the direction."""
        sizes = self.sizes
        last = (0 if sizes.reverse else sizes.T) % sizes.x_slots
        h = self.x.reshape(sizes.x_slots, sizes.B, sizes.LX)[last, :, : sizes.H]
        further = self.c.reshape(sizes.x_slots, sizes.B, sizes.E, self.padded)[last]
        return [h, *(further[:, e, : sizes.H] for e in range(sizes.E))]

    def pack(self, threads: int, training: bool) -> None:
        """Bring the parameters into the layout of the kernels, for the way back as well if `training`."""
        plan = self.plan[: len(self.plan) if training else self.n_forward]
        self._move(plan, self.parameters, self.packed, threads)

    def pack_inputs_transposed(self, threads: int) -> None:
        """Likewise fill wxt, which the gradient of the input takes."""
        self._move(self.input_plan, self.parameters, self.packed, threads)

    def unpack(self, threads: int) -> None:
        """Bring the gradients into the layout of the parameters."""
        self._move(self.gradient_plan, self.packed_gradients, self.gradients, threads)

    def _move(self, plan: NDArray, source: NDArray, target: NDArray, threads: int) -> None:
        boxes = ranges(len(plan), threads if self.parameters.size > PARALLEL_PARAMETERS else 1)
        run_tasks(pack.move, [(*box, plan, source, target) for box in boxes], threads)

    def prepare_gradient(self, dstate: tuple[NDArray, ...] | None) -> None:
        """Make room for the gradient of the states, that of the final one in it; None is zeros."""
        sizes = self.sizes
        self.d = self.buffers.get("d", sizes.B, self.padded)
        self.e = self.buffers.get("e", sizes.B, sizes.E * self.padded)
        self.d[:] = 0
        self.e[:] = 0
        if dstate is not None:
            for view, values in zip(self.state_gradient(), dstate, strict=True):
                view[...] = values

    def state_gradient(self) -> list[NDArray]:
        """Return views (n_samples, hidden_size) of the gradient of the states."""
        sizes = self.sizes
        h = self.d.reshape(sizes.B, self.padded)[:, : sizes.H]
        further = self.e.reshape(sizes.B, sizes.E, self.padded)
        return [h, *(further[:, e, : sizes.H] for e in range(sizes.E))]

    def weight_gradient_tasks(self, z: NDArray, threads: int) -> list[tuple]:
        """List the arguments of `scan.weight_gradient` that fill dwh and dwx, from the input rows `z`."""
        sizes, itemsize = self.sizes, z.itemsize
        tasks = []
        for a, a_at, stride, depth, first, columns, dw in (
            (self.x, sizes.reverse * sizes.B * sizes.LX, sizes.LX, self.padded + 1, 0, sizes.Sh, self.dwh),
            (z, 0, sizes.LZ, sizes.I + 1, sizes.S - sizes.Sx, sizes.Sx, self.dwx),
        ):
            for block in weight_gradient_blocks(sizes, depth, columns, itemsize, threads):
                tasks.append((sizes, *block, a, a_at, stride, depth, self.g, first, columns, dw))
        return tasks
