"""Directions of layers with their packed weights, and what runs them on batches of one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import Cell
from numbarnn.kernels import pack, scan
from numbarnn.kernels.gemm import panel_depth, panel_vectors
from numbarnn.kernels.sizes import (
    LINE_BYTES,
    Sizes,
    aligned_zeros,
    batch_sizes,
    layer_sizes,
    weight_gradient_blocks,
)
from numbarnn.kernels.threads import Program, Slot, ranges
from numbarnn.limits import check_count
from numbarnn.simd import VECTOR_BYTES

PARALLEL_PARAMETERS = 100_000  # fewer are packed by one thread sooner than by two


class Buffers:
    """Arrays that are used from call to call and only ever grow.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of all of them.

    Attributes
    ----------
    n_grown : int
        How often there was another array under a name than before.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self.n_grown = 0
        self._arrays: dict[str, NDArray] = {}

    def get(self, name: str, *shape: int) -> NDArray:
        """Return a flat array of that many elements; its content is what the last call for it left there."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            self.n_grown += array is not None
            array = self._arrays[name] = aligned_zeros(size, self._dtype)
        return array[:size]


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

    Attributes
    ----------
    parameters, gradients : ndarray of shape (n_parameters,)
        weight_ih, weight_hh, bias_ih and bias_hh, one behind the other; given by `Recurrent.bind`.
    sizes : Sizes
        Those of the layer, without a batch.
    wx, wh, wht, wxt, dwx, dwh : ndarray
        Packed weights and their gradients, as in `numbarnn.kernels.scan`.
    padded, padded_inputs : int
        hidden_size and n_inputs up to whole blocks and whole registers.
    """

    def __init__(
        self, cell: Cell, n_inputs: int, hidden_size: int, bias: bool, dtype: np.dtype, reverse: bool
    ) -> None:
        # its weights at least, before there is any room for them
        check_count(hidden_size * (len({*cell.x_gates}) * n_inputs + len({*cell.h_gates}) * hidden_size))
        self.cell, self.bias, self.dtype = cell, bias, dtype
        self.sizes = sizes = layer_sizes(cell, n_inputs, hidden_size, dtype.itemsize, reverse)
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
        sizes, x_gates, h_gates = self.sizes, self.cell.x_gates, self.cell.h_gates
        H, U, J, inputs, rows = sizes.H, sizes.U, sizes.J, sizes.I, len(self.cell.gates) * sizes.H
        depth_x, depth_h = inputs + 1, self.padded + 1
        self.joined = sizes.D > depth_h  # wx is part of wh
        parts = (0 if self.joined else J * depth_x * sizes.Sx, J * sizes.D * sizes.Sh,
                 self.padded * J * sizes.Sh, self.padded_inputs * J * sizes.Sx)
        line = LINE_BYTES // dtype.itemsize
        ends = np.cumsum([0, *(-(-part // line) * line for part in parts)])
        packed, gradients = aligned_zeros(ends[4], dtype), aligned_zeros(ends[2], dtype)
        self.packed, self.packed_gradients = packed, gradients
        self.wx, self.wh, self.wht, self.wxt = (packed[a:b] for a, b in pairwise(ends))
        self.dwx, self.dwh = gradients[: ends[1]], gradients[ends[1] :]
        weight_hh = rows * inputs
        biases = weight_hh + rows * H
        bias_ih, bias_hh = (biases, biases + rows) if self.bias else (None, None)
        to_x = (depth_h * sizes.Sh, sizes.D) if self.joined else (0, depth_x)
        forward = pack.weight_plan(x_gates, H, U, inputs, depth_x, 0, bias_ih, *to_x)
        forward += pack.weight_plan(h_gates, H, U, H, depth_h, weight_hh, bias_hh, ends[1], sizes.D)
        backward = pack.transposed_plan(h_gates, H, U, J, H, sizes.P, weight_hh, ends[2])
        to_inputs = pack.transposed_plan(x_gates, H, U, J, inputs, self.input_panel, 0, ends[3])
        self.plan = np.array(forward + backward, np.int64)
        self.forward_plan = self.plan[: len(forward)]
        self.input_plan = np.array(to_inputs, np.int64)
        self.gradient_plan = pack.reversed_plan(self.forward_plan)

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


class Pass:
    """Layers on batches of one shape: the arrays of their time loops, and the programs of both ways.

    A forward program packs the weights, copies the inputs and goes up through the layers; a backward program
    comes down again. Threads work on shares of the batch.

    Parameters
    ----------
    layers : list of list of Direction
        The directions of each layer.
    n_timesteps, n_samples : int
    training : bool
        Whether all time steps are kept for the way back.
    dropout : bool
        Whether the outputs of all layers but the last are multiplied by `masks`.
    threads : list of int
        How many threads work on each layer.
    buffers : Buffers
        Where the arrays come from: a pass is undone by the next one on the same buffers.

    Attributes
    ----------
    forward : Program
        Its slots are ``"x"``, ``"lengths"`` and ``"out"``; the last may be empty.
    initial, final : list of list of ndarray of shape (n_samples, hidden_size)
        For each direction of each layer the states before the first and after the last step.
    dstates : list of list of ndarray of shape (n_samples, hidden_size)
        Likewise the gradient of the final states, and after the way back that of the initial ones.
    masks : list of ndarray of shape (n_timesteps * n_samples, n_inputs)
        Factors of the inputs of each layer but the first.
    """

    def __init__(
        self, layers: list[list[Direction]], n_timesteps: int, n_samples: int, training: bool, dropout: bool,
        threads: list[int], buffers: Buffers,
    ) -> None:
        self.layers, self.T, self.B = layers, n_timesteps, n_samples
        self._threads, self._buffers, self._dtype = threads, buffers, layers[0][0].dtype
        self.initial, self.final, self.dstates, self.masks = [], [], [], []
        self._whole_initial: list[NDArray] = []
        self._whole_dstates: list[NDArray] = []
        self._loops = [
            [self._make_loop(f"{k}.{i}", direction, training) for i, direction in enumerate(layer)]
            for k, layer in enumerate(layers)
        ]
        self._inputs = [self._make_inputs(k, layer[0].sizes) for k, layer in enumerate(layers)]
        if dropout:
            shapes = [(n_timesteps * n_samples, layer[0].sizes.I) for layer in layers[1:]]
            self.masks = [buffers.get(f"mask{k}", *shape).reshape(shape) for k, shape in enumerate(shapes)]
        self.forward = self._forward_program(training)
        self._backward: dict[bool, Program] = {}

    def _make_loop(self, name: str, direction: Direction, training: bool) -> _Loop:
        """Make room for the time loop of a direction, and views of its states."""
        sizes = batch_sizes(direction.sizes, self.T, self.B, training)
        get, B, slots, padded = self._buffers.get, self.B, sizes.x_slots, direction.padded
        x, c = get("x" + name, slots, B, sizes.LX), get("c" + name, slots, B, sizes.E, padded)
        g = get("g" + name, sizes.J, sizes.g_slots, B, sizes.S)
        d, e = get("d" + name, B, padded), get("e" + name, B, sizes.E, padded)
        h, further = x.reshape(slots, B, sizes.LX), c.reshape(slots, B, sizes.E, padded)
        h[:, :, padded] = 1  # nothing ever overwrites these
        first, last = self.T * sizes.reverse % slots, self.T * (1 - sizes.reverse) % slots
        for views, slot in ((self.initial, first), (self.final, last)):
            views.append(_states(h[slot], further[slot], sizes.H))
        self.dstates.append(_states(d.reshape(B, padded), e.reshape(B, sizes.E, padded), sizes.H))
        self._whole_initial += h[first, :, :padded], further[first]
        self._whole_dstates += d, e
        return _Loop(direction, sizes, x, c, g, d, e)

    def _make_inputs(self, k: int, sizes: Sizes) -> NDArray:
        """Make room for the rows [x | 1] that layer k reads, the ones in their place."""
        z = self._buffers.get(f"z{k}", self.T, self.B, sizes.LZ)
        z.reshape(-1, sizes.LZ)[:, sizes.I] = 1
        return z

    def _forward_program(self, training: bool) -> Program:
        lengths, top = Slot("lengths"), len(self.layers) - 1
        first = self._loops[0][0].sizes
        rows = ranges(self.B, self._threads[0], 2)
        start = [(scan.copy_inputs, first, *r, lengths, Slot("x"), self._inputs[0]) for r in rows]
        phases = [start]
        for k, (loops, z, threads) in enumerate(zip(self._loops, self._inputs, self._threads, strict=True)):
            width = first.H * len(loops)
            if k == top:
                out, out_t, out_r = None, width, self.T * width
            else:
                out, out_r = self._inputs[k + 1], self._loops[k + 1][0].sizes.LZ
                out_t = self.B * out_r
            scans = []
            for i, (direction, sizes, x, c, g, _, _) in enumerate(loops):
                start += direction.pack(training, threads)
                to = Slot("out", i * sizes.H) if out is None else out[i * sizes.H :]
                arguments = (z, direction.wx, direction.wh, x, g, c, to, out_t, out_r)
                scans += [
                    (scan.scan_forward, direction.cell, sizes, *r, lengths, *arguments)
                    for r in ranges(self.B, threads, 2)
                ]
            phases.append(scans)
            if self.masks and k < top:
                phases.append(self._mask(k, out, out_r))
        return Program(self._dtype, max(self._threads), phases)

    def _mask(self, k: int, rows: NDArray, stride: int) -> list[tuple]:
        """List the tasks that multiply rows of outputs of layer k, or of their gradient, by the mask."""
        mask = self.masks[k]
        pieces = ranges(self.T * self.B, self._threads[k])
        return [(scan.multiply_rows, *piece, mask.shape[1], mask, rows, stride) for piece in pieces]

    def start(self, state: Sequence[NDArray] | None) -> None:
        """Set the initial states, each (layers * directions, n_samples, hidden_size); None is zeros."""
        _fill(self._whole_initial, self.initial, state)

    def start_back(self, dstate: Sequence[NDArray] | None) -> None:
        """Set the gradient of the final states likewise."""
        _fill(self._whole_dstates, self.dstates, dstate)

    def backward(self, input_gradient: bool) -> Program:
        """Return the program of the way back; its slots are ``"lengths"`` and ``"dout"``, perhaps empty."""
        if input_gradient not in self._backward:
            self._backward[input_gradient] = self._backward_program(input_gradient)
        return self._backward[input_gradient]

    def _backward_program(self, input_gradient: bool) -> Program:
        phases, top = [], len(self.layers) - 1
        dout, dout_r = None, self._loops[0][0].sizes.H * len(self.layers[0]) * self.T
        dout_t = dout_r // self.T
        for k in range(top, -1, -1):
            loops, z, threads = self._loops[k], self._inputs[k], self._threads[k]
            rows = ranges(self.B, threads, 2)
            if self.masks and k < top:
                phases.append(self._mask(k, dout, dout_r))
            scans, weights, after = [], [], []
            for i, (direction, sizes, x, c, g, d, e) in enumerate(loops):
                come = Slot("dout", i * sizes.H) if dout is None else dout[i * sizes.H :]
                arguments = (come, dout_t, dout_r, direction.wht, x, g, c, d, e)
                scans += [
                    (scan.scan_backward, direction.cell, sizes, *r, Slot("lengths"), *arguments) for r in rows
                ]
                weights += loops[i].weight_gradient(z, threads)
                after += direction.unpack(threads)
            phases += scans, weights, after
            if k > 0 or input_gradient:
                dz = self.input_gradient_rows(k)
                for i, (direction, sizes, _, _, g, _, _) in enumerate(loops):
                    weights += direction.pack_inputs_transposed(threads)
                    panels = direction.padded_inputs, direction.input_panel, direction.input_group
                    tasks = [
                        (scan.input_gradient, sizes, *r, i, direction.wxt, g, dz, *panels) for r in rows
                    ]
                    if i == 0:
                        after += tasks
                    else:
                        phases.append(tasks)  # adds to what the other direction wrote
                dout, dout_r = dz, loops[0].direction.padded_inputs
                dout_t = self.B * dout_r
        return Program(self._dtype, max(self._threads), phases)

    def input_gradient_rows(self, k: int = 0) -> NDArray:
        """Return the gradient of what layer k reads, (n_timesteps, n_samples, padded_inputs), flat."""
        return self._buffers.get(f"dz{k}", self.T, self.B, self.layers[k][0].padded_inputs)


class _Loop(NamedTuple):
    """The time loop of a direction; `numbarnn.kernels.scan` has the shapes of the arrays."""

    direction: Direction
    sizes: Sizes
    x: NDArray
    c: NDArray
    g: NDArray
    d: NDArray
    e: NDArray

    def weight_gradient(self, z: NDArray, threads: int) -> list[tuple]:
        """List the tasks that fill dwh and dwx, from the input rows `z`."""
        direction, sizes = self.direction, self.sizes
        before = sizes.reverse * sizes.B * sizes.LX
        products = [(self.x, before, sizes.LX, sizes.D, 0, sizes.Sh, direction.dwh)]
        if not direction.joined:
            columns = sizes.S - sizes.Sx, sizes.Sx
            products.append((z, 0, sizes.LZ, sizes.I + 1, *columns, direction.dwx))
        tasks = []
        for a, a_at, stride, depth, first, columns, dw in products:
            for block in weight_gradient_blocks(sizes, depth, columns, z.itemsize, threads):
                arguments = (a, a_at, stride, depth, self.g, first, columns, dw)
                tasks.append((scan.weight_gradient, sizes, *block, *arguments))
        return tasks


def _states(h: NDArray, further: NDArray, hidden_size: int) -> list[NDArray]:
    """Return views (n_samples, hidden_size) of the states in h (B, >= H) and further (B, E, >= H)."""
    return [h[:, :hidden_size], *(further[:, e, :hidden_size] for e in range(further.shape[1]))]


def _fill(whole: list[NDArray], views: list[list[NDArray]], state: Sequence[NDArray] | None) -> None:
    for array in whole:
        array.fill(0)  # what lies past the units as well
    if state is not None:
        for i, parts in enumerate(views):
            for view, values in zip(parts, state, strict=True):
                view[...] = values[i]
