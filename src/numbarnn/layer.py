"""Directions of layers with their packed weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import Cell
from numbarnn.kernels import pack
from numbarnn.kernels.gemm import panel_depth, panel_vectors
from numbarnn.kernels.sizes import aligned_zeros, layer_sizes
from numbarnn.kernels.threads import ranges
from numbarnn.limits import check_count
from numbarnn.simd import VECTOR_BYTES

PARALLEL_PARAMETERS = 100_000  # fewer are packed by one thread sooner than by two


class Direction:
    """One layer in one direction: its parameters, and the same packed for the kernels.

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
    proj_size : int, default=0
        Size of the projection that h is; 0 for none.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Of the parameters: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr (as far as there are such), then
        those of single units.
    parameters, gradients : ndarray of shape (n_parameters,)
        All of them, one behind the other; given by `Recurrent.bind`.
    sizes : Sizes
        Those of the layer, without a batch.
    packed, packed_gradients, wxt : ndarray
        Packed weights, their gradients and the last of the weights, as in `numbarnn.kernels.scan`.
    padded, padded_inputs : int
        hidden_size and n_inputs up to whole blocks and whole registers.
    """

    def __init__(
        self, cell: Cell, n_inputs: int, hidden_size: int, bias: bool, dtype: np.dtype, reverse: bool,
        proj_size: int = 0,
    ) -> None:
        self.cell, self.bias, self.dtype = cell, bias, dtype
        self.sizes = sizes = layer_sizes(cell, n_inputs, hidden_size, dtype.itemsize, reverse, proj_size)
        self.padded = sizes.J * sizes.U
        lanes = VECTOR_BYTES // dtype.itemsize
        vectors = -(-n_inputs // lanes)
        self.input_panel = panel_vectors(vectors) * lanes
        self.input_group = max(1, panel_depth(self.input_panel, dtype.itemsize) // sizes.Sx)
        self.padded_inputs = vectors * lanes
        self._lay_out_weights(dtype)
        self.parameters = self.gradients = np.zeros(0, dtype)

    def _lay_out_weights(self, dtype: np.dtype) -> None:
        """Make room for the packed weights and their gradients, and the plans that fill it."""
        sizes, cell = self.sizes, self.cell
        H, U, J, inputs, seen = sizes.H, sizes.U, sizes.J, sizes.I, sizes.HR
        depth_x, depth_h, depth_m = inputs + 1, sizes.R + 1, self.padded + 1
        self.joined = sizes.D > depth_h  # wx is part of wh
        self.shapes = self._parameter_shapes()
        ends = np.cumsum([0, *(math.prod(shape) for shape in self.shapes.values())]).tolist()
        at = dict(zip(self.shapes, ends[:-1], strict=True))
        self.n_parameters = ends[-1]
        # before there is any room for them
        check_count(self.n_parameters, f"input_size was {inputs} and hidden_size {H}")
        self.packed = aligned_zeros(sizes.wxt + self.padded_inputs * J * sizes.Sx, dtype)
        self.packed_gradients = aligned_zeros(sizes.wht, dtype)
        self.wxt = self.packed[sizes.wxt :]
        weight_hh, bias_ih, bias_hh = at.get("weight_hh", 0), at.get("bias_ih"), at.get("bias_hh")
        to_x = (sizes.wh + depth_h * sizes.Sh, sizes.D) if self.joined else (0, depth_x)
        forward = pack.weight_plan(cell.x_gates, H, U, inputs, depth_x, at["weight_ih"], bias_ih, *to_x)
        weights_h = cell.h_gates, H, U, seen, depth_h, weight_hh, bias_hh
        forward += pack.weight_plan(*weights_h, sizes.wh, sizes.D)
        second = (at["weight_hr"], None) if sizes.projects else (weight_hh, bias_hh)
        forward += pack.weight_plan(cell.m_gates, seen, U, H, depth_m, *second, sizes.wm)
        places = [(at[name], sizes.u + k * self.padded) for k, name in enumerate(cell.units)]
        vectors, scalars = places[: len(cell.vectors)], places[len(cell.vectors) :]
        weights = forward + [pack.line(*place, H) for place in vectors]
        forward = weights + [pack.line(*place, H, repeat=True) for place in scalars]
        backward = pack.transposed_plan(cell.h_gates, H, U, J, seen, sizes.P, weight_hh, sizes.wht)
        backward += pack.transposed_plan(
            cell.m_gates, seen, U, sizes.JR, H, sizes.PM, second[0], sizes.wmt
        )
        to_inputs = pack.transposed_plan(
            cell.x_gates, H, U, J, inputs, self.input_panel, at["weight_ih"], sizes.wxt
        )
        self.plan = np.array(forward + backward, np.int64)
        self.forward_plan = self.plan[: len(forward)]
        self.input_plan = np.array(to_inputs, np.int64)
        back = weights + [pack.line(*place, 1) for place in scalars]
        self.gradient_plan = pack.reversed_plan(np.array(back, np.int64))

    def _parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        cell, sizes = self.cell, self.sizes
        x_rows, h_rows = len(cell.x_rows) * sizes.H, len(cell.h_rows) * sizes.H
        shapes = {"weight_ih": (x_rows, sizes.I)}
        if h_rows:
            shapes["weight_hh"] = (h_rows, sizes.HR)
        if self.bias and cell.biases:
            shapes["bias_ih"] = (x_rows,)
            if h_rows:
                shapes["bias_hh"] = (h_rows,)
        if sizes.projects:
            shapes["weight_hr"] = (sizes.HR, sizes.H)
        return shapes | dict.fromkeys(cell.vectors, (sizes.H,)) | dict.fromkeys(cell.scalars, (1,))

    def pack(self, training: bool, threads: int) -> list[tuple]:
        """List the tasks that pack the parameters, for the way back as well if `training`."""
        plan = self.plan if training else self.forward_plan
        return self._moves(plan, self.parameters, self.packed, threads)

    def pack_inputs_transposed(self, threads: int) -> list[tuple]:
        """List the tasks that fill wxt, which the gradient of the input takes."""
        return self._moves(self.input_plan, self.parameters, self.packed, threads)

    def unpack(self, threads: int) -> list[tuple]:
        """List the tasks that bring the gradients into the layout of the parameters."""
        return self._moves(self.gradient_plan, self.packed_gradients, self.gradients, threads)

    def _moves(self, plan: NDArray, source: NDArray, target: NDArray, threads: int) -> list[tuple]:
        # the boxes differ in size: pieces enough that no thread waits for another
        boxes = ranges(len(plan), 4 * threads if self.parameters.size > PARALLEL_PARAMETERS else 1)
        return [(pack.move, *box, plan, source, target) for box in boxes]
