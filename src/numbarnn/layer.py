"""Directions of layers with their packed weights, and what runs them on batches of one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import Cell
from numbarnn.cells.base import Noisy
from numbarnn.kernels import between, pack, scan
from numbarnn.kernels.gemm import panel_depth, panel_vectors
from numbarnn.kernels.sizes import (
    EMPTY,
    Sizes,
    aligned_zeros,
    batch_sizes,
    layer_sizes,
    noise_sizes,
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
        check_count(self.n_parameters)  # before there is any room for them
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
    noise : tuple of bool
        Whether there are recurrent dropout and zoneout.
    masked : bool
        Whether a mask of steps stands behind the lengths.
    merge : {"concat", "sum", "mean", "product"}
        What becomes of the outputs of two directions.
    residual : bool
        Whether layers add their input to their output, where both are as wide.
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
    state_masks : list of ndarray of shape (n_samples, hidden_size)
        With recurrent dropout, of each direction of each layer the factors of h.
    zones : list of ndarray of shape (n_timesteps, n_samples, n_states, hidden_size)
        With zoneout, likewise the part of the old states in the new; one step stands for all if not training.
    """

    def __init__(
        self, layers: list[list[Direction]], n_timesteps: int, n_samples: int, training: bool, dropout: bool,
        noise: tuple[bool, bool], masked: bool, merge: str, residual: bool, threads: list[int],
        buffers: Buffers,
    ) -> None:
        self.layers, self.T, self.B = layers, n_timesteps, n_samples
        self._merge = between.MERGES.index(merge) if len(layers[0]) > 1 else 0
        self._residual = residual
        self._threads, self._buffers, self._dtype = threads, buffers, layers[0][0].dtype
        self.initial, self.final, self.dstates, self.masks = [], [], [], []
        self.state_masks, self.zones, self._seen = [], [], []
        self._noise, self._masked = noise, masked
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
        sizes = batch_sizes(direction.sizes, self.T, self.B, training, self._masked)
        sizes, n_noise = noise_sizes(sizes, *self._noise)
        B, slots, padded = self.B, sizes.x_slots, direction.padded
        # each with what only some cells have behind it, see `numbarnn.kernels.scan`
        x, h, m = self._get("x" + name, (slots, B, sizes.LX), (sizes.g_slots, B, sizes.LM))
        g, _, _ = self._get(
            "g" + name, (sizes.J, sizes.g_slots, B, sizes.S), (sizes.JR, sizes.g_slots, B, sizes.Sm)
        )
        c, further, _ = self._get("c" + name, (slots, B, sizes.E, padded))
        d, dh, _ = self._get("d" + name, (B, padded), (min(1, sizes.Sm), B, padded))
        e, dfurther, _ = self._get("e" + name, (B, sizes.E, padded), (B, sizes.K, padded))
        for rows, one in ((h, sizes.R), (m, padded)):
            rows[:, :, one : one + 1] = 1  # nothing ever overwrites these
        cell, n, flat_h, product = direction.cell, EMPTY[self._dtype], x, d
        first, last = self.T * sizes.reverse % slots, self.T * (1 - sizes.reverse) % slots
        if cell.loops:
            n = self._buffers.get("n" + name, cell.workspace(sizes))
        elif n_noise:
            cell, n = cell.noisy(*self._noise), self._buffers.get("n" + name, n_noise)
            if self._noise[0]:
                h = self._mask_views(sizes, n, h, first)
                flat_h, product = n, n[sizes.dd :]
            if self._noise[1]:
                n[sizes.zm : sizes.ds] = 0  # of the units past the last as well
                zones = n[sizes.zm : sizes.ds].reshape(sizes.g_slots, B, 1 + sizes.E, padded)
                self.zones.append(zones[..., : sizes.H])
        for views, slot in ((self.initial, first), (self.final, last)):
            views.append(_states(h[slot, :, : sizes.HR], further[slot], sizes.H))
        self.dstates.append(_states(dh[:, : sizes.HR], dfurther, sizes.H))
        self._whole_initial += h[first, :, : sizes.R], further[first]
        self._whole_dstates += d, e
        return _Loop(direction, cell, sizes, x, flat_h, g, c, d, product, e, n)

    def _mask_views(self, sizes: Sizes, n: NDArray, rows: NDArray, first: int) -> NDArray:
        """Note the mask of h, which is to be filled; return where h stands, (slots, n_samples, padded)."""
        mask = n[sizes.rm : sizes.dd].reshape(self.B, -1)
        mask[...] = 0
        h = n[: sizes.rm].reshape(*rows.shape[:2], -1)
        self.state_masks.append(mask[:, : sizes.HR])
        self._seen.append((rows[first, :, : sizes.R], h[first, :, : sizes.R], mask[:, : sizes.R]))
        return h

    def _get(
        self, name: str, shape: tuple[int, ...], behind: tuple[int, ...] = (0,)
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return a flat array, a view of its first part and one of what stands behind."""
        size = math.prod(shape)
        array = self._buffers.get(name, size + math.prod(behind))
        return array, array[:size].reshape(shape), array[size:].reshape(behind)

    def _make_inputs(self, k: int, sizes: Sizes) -> NDArray:
        """Make room for the rows [x | 1] that layer k reads, the ones in their place."""
        z = self._buffers.get(f"z{k}", self.T, self.B, sizes.LZ)
        z.reshape(-1, sizes.LZ)[:, sizes.I] = 1
        return z

    def _forward_program(self, training: bool) -> Program:
        lengths = Slot("lengths")
        first = self._loops[0][0].sizes
        rows = ranges(self.B, self._threads[0], 2)
        start = [(between.copy_inputs, first, *r, lengths, Slot("x"), self._inputs[0]) for r in rows]
        phases = [start]
        for k, (loops, z, threads) in enumerate(zip(self._loops, self._inputs, self._threads, strict=True)):
            output, scans, shares = self._output(k), [], ranges(self.B, threads, 2)
            for i, (direction, cell, sizes, x, h, g, c, _, _, _, n) in enumerate(loops):
                start += direction.pack(training, threads)
                to = self._own_output(k, i) if self._merge else output.part(i * sizes.HR)
                arguments = (z, direction.packed, x, h, g, c, n, *to)
                loop = direction.cell.loops[0] if direction.cell.loops else scan.scan_forward
                scans += [(loop, cell, sizes, *r, lengths, *arguments) for r in shares]
            phases.append(scans)
            sizes = loops[0].sizes
            if self._merge:
                own = [self._own_output(k, i).array for i in (0, 1)]
                phases.append([(between.merge_rows, sizes, *r, self._merge, *own, *output) for r in shares])
            if self._adds(k):
                through = (self._width, lengths, z, self.B * sizes.LZ, sizes.LZ, *output)
                phases.append([(between.add_rows, sizes, *r, *through) for r in shares])
            if self.masks and k < len(self.layers) - 1:
                phases.append(self._mask(k, output.array, output.r))
        return Program(self._dtype, max(self._threads), phases)

    @property
    def _width(self) -> int:
        """Number of outputs of a layer in a step."""
        return self._loops[0][0].sizes.HR * (1 if self._merge else len(self.layers[0]))

    def _output(self, k: int) -> _Rows:
        """Where the output of layer k goes: to the caller, or to the inputs of the next layer."""
        if k == len(self.layers) - 1:
            return _Rows(Slot("out"), self._width, self.T * self._width)
        stride = self._loops[k + 1][0].sizes.LZ
        return _Rows(self._inputs[k + 1], self.B * stride, stride)

    def _own_output(self, k: int, i: int, what: str = "o") -> _Rows:
        """Where the output of one of two directions of layer k is kept that are merged, or its gradient."""
        H = self._loops[k][i].sizes.HR
        return _Rows(self._buffers.get(f"{what}{k}.{i}", self.T, self.B, H), self.B * H, H)

    def _adds(self, k: int) -> bool:
        """Whether layer k adds its input to its output."""
        return self._residual and self._loops[k][0].sizes.I == self._width

    def _mask(self, k: int, rows: NDArray, stride: int) -> list[tuple]:
        """List the tasks that multiply rows of outputs of layer k, or of their gradient, by the mask."""
        mask = self.masks[k]
        pieces = ranges(self.T * self.B, self._threads[k])
        return [(between.multiply_rows, *piece, mask.shape[1], mask, rows, stride) for piece in pieces]

    def start(self, state: Sequence[NDArray] | None) -> None:
        """Set the initial states, each (layers * directions, n_samples, hidden_size); None is zeros.

        With recurrent dropout `state_masks` must have been filled.
        """
        _fill(self._whole_initial, self.initial, state)
        for rows, h, mask in self._seen:
            np.multiply(h, mask, out=rows)

    def start_back(self, dstate: Sequence[NDArray] | None) -> None:
        """Set the gradient of the final states likewise."""
        _fill(self._whole_dstates, self.dstates, dstate)

    def backward(self, input_gradient: bool) -> Program:
        """Return the program of the way back; its slots are ``"lengths"`` and ``"dout"``, perhaps empty."""
        if input_gradient not in self._backward:
            self._backward[input_gradient] = self._backward_program(input_gradient)
        return self._backward[input_gradient]

    def _backward_program(self, input_gradient: bool) -> Program:
        phases, lengths = [], Slot("lengths")
        gradient = _Rows(Slot("dout"), self._width, self.T * self._width)
        for k in range(len(self.layers) - 1, -1, -1):
            loops, z, threads = self._loops[k], self._inputs[k], self._threads[k]
            rows = ranges(self.B, threads, 2)
            if self.masks and k < len(self.layers) - 1:
                phases.append(self._mask(k, gradient.array, gradient.r))
            scans, weights, after = [], [], []
            if self._merge:
                own = [self._own_output(k, i, what).array for what in ("o", "do") for i in (0, 1)]
                split = (self._merge, lengths, *gradient, *own)
                phases.append([(between.split_rows, loops[0].sizes, *r, *split) for r in rows])
            for i, (direction, cell, sizes, _, *arrays) in enumerate(loops):
                come = self._own_output(k, i, "do") if self._merge else gradient.part(i * sizes.HR)
                arguments = (*come, direction.packed, *arrays)
                loop = direction.cell.loops[1] if direction.cell.loops else scan.scan_backward
                scans += [(loop, cell, sizes, *r, lengths, *arguments) for r in rows]
                weights += loops[i].weight_gradient(z, threads)
                after += direction.unpack(threads)
            phases += scans, weights, after
            if k > 0 or input_gradient:
                dz = self._input_gradient(k, rows, weights, after, phases)
                if self._adds(k):
                    through = (self._width, lengths, *gradient, *dz)
                    phases.append([(between.add_rows, loops[0].sizes, *r, *through) for r in rows])
                gradient = dz
        return Program(self._dtype, max(self._threads), phases)

    def _input_gradient(
        self, k: int, rows: list[tuple], weights: list[tuple], after: list[tuple], phases: list[list[tuple]]
    ) -> _Rows:
        """Add the tasks that fill the gradient of what layer k reads; return where it is."""
        dz = self.input_gradient_rows(k)
        for i, (direction, _, sizes, _, _, g, *_) in enumerate(self._loops[k]):
            weights += direction.pack_inputs_transposed(self._threads[k])
            panels = direction.padded_inputs, direction.input_panel, direction.input_group
            tasks = [(scan.input_gradient, sizes, *r, i, direction.wxt, g, dz, *panels) for r in rows]
            if i == 0:
                after += tasks
            else:
                phases.append(tasks)  # adds to what the other direction wrote
        return _Rows(dz, self.B * self.layers[k][0].padded_inputs, self.layers[k][0].padded_inputs)

    def input_gradient_rows(self, k: int = 0) -> NDArray:
        """Return the gradient of what layer k reads, (n_timesteps, n_samples, padded_inputs), flat."""
        return self._buffers.get(f"dz{k}", self.T, self.B, self.layers[k][0].padded_inputs)


class _Rows(NamedTuple):
    """Rows of a flat array, and how far apart two time steps are and two samples."""

    array: NDArray | Slot
    t: int
    r: int

    def part(self, at: int) -> _Rows:
        """Return the same rows from element `at` of each on."""
        array = self.array
        return self._replace(array=Slot(array.name, at) if isinstance(array, Slot) else array[at:])


class _Loop(NamedTuple):
    """The time loop of a direction; `numbarnn.kernels.scan` has the shapes of the arrays."""

    direction: Direction
    cell: Cell | Noisy
    sizes: Sizes
    x: NDArray
    h: NDArray
    g: NDArray
    c: NDArray
    d: NDArray
    dh: NDArray
    e: NDArray
    n: NDArray

    def weight_gradient(self, z: NDArray, threads: int) -> list[tuple]:
        """List the tasks that fill dwh and dwx, from the input rows `z`."""
        direction, sizes = self.direction, self.sizes
        B, padded, dw = sizes.B, direction.padded, direction.packed_gradients
        before, middle = sizes.reverse * B * sizes.LX, sizes.x_slots * B * sizes.LX
        second = sizes.J * sizes.T * B * sizes.S
        J, S = sizes.J, sizes.S
        products = [(J, self.x, before, sizes.LX, sizes.D, 0, S, sizes.Sh, dw[sizes.wh : sizes.wm])]
        if not direction.joined:
            products.append((J, z, 0, sizes.LZ, sizes.I + 1, S - sizes.Sx, S, sizes.Sx, dw[: sizes.wh]))
        place = middle, sizes.LM, padded + 1, second, sizes.Sm, sizes.Sm
        products.append((sizes.JR, self.x, *place, dw[sizes.wm : sizes.u]))
        tasks = []
        for n_blocks, a, a_at, stride, depth, g_at, g_stride, columns, part in products:
            if columns:
                for block in weight_gradient_blocks(n_blocks, depth, columns, z.itemsize, threads):
                    arguments = (a, a_at, stride, depth, self.g, g_at, g_stride, columns, part)
                    tasks.append((scan.weight_gradient, sizes, *block, *arguments))
        if sizes.K:
            n_scalars = len(direction.cell.scalars)
            tasks.append((scan.unit_gradient, sizes, n_scalars, self.e, dw[sizes.u : sizes.wht]))
        return tasks


def _states(h: NDArray, further: NDArray, hidden_size: int) -> list[NDArray]:
    """Return h and views (n_samples, hidden_size) of the further states, (B, E, >= H)."""
    return [h, *(further[:, e, :hidden_size] for e in range(further.shape[1]))]


def _fill(whole: list[NDArray], views: list[list[NDArray]], state: Sequence[NDArray] | None) -> None:
    for array in whole:
        array.fill(0)  # what lies past the units as well
    if state is not None:
        for i, parts in enumerate(views):
            for view, values in zip(parts, state, strict=True):
                view[...] = values[i]
