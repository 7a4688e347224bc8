"""Layers on batches of one shape: the arrays of their time loops, and the programs of both ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels import between, pack
from numbarnn.kernels.sizes import (
    EMPTY,
    Sizes,
    aligned_zeros,
    backward_blocks,
    batch_sizes,
    block_steps,
    count_chunks,
    kept_steps,
    noise_sizes,
)
from numbarnn.kernels.threads import Program, Slot, ranges
from numbarnn.layer import Direction
from numbarnn.loop import Loop, Rows


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


class Options(NamedTuple):
    """What layers do with a batch.

    Attributes
    ----------
    training : bool
        Whether all time steps are kept for the way back.
    dropout : bool
        Whether the outputs of all layers but the last are multiplied by masks.
    noise : tuple of bool
        Whether there are recurrent dropout and zoneout.
    masked : bool
        Whether a mask of steps stands behind the lengths.
    merge : {"concat", "sum", "mean", "product"}
        What becomes of the outputs of two directions.
    residual : bool
        Whether layers add their input to their output, where both are as wide.
    """

    training: bool
    dropout: bool
    noise: tuple[bool, bool]
    masked: bool
    merge: str
    residual: bool


def cut_rows(directions: Sequence[Direction], n_samples: int) -> list[tuple[int, int]]:
    """Return the rows from which, and up to which, the chunks of a batch go.

    Parameters
    ----------
    directions : sequence of Direction
    n_samples : int

    Returns
    -------
    cuts : list of tuple of int
    """
    most = max(direction.packed_gradients.nbytes for direction in directions)
    return ranges(n_samples, count_chunks(n_samples, most), 2)


class Pass:
    """Layers on batches of one shape.

    A forward program packs the weights, copies the inputs and goes up through the layers; a backward program
    comes down again. A batch is cut into chunks, see `numbarnn.kernels.sizes.count_chunks`, each with arrays
    of its own; threads work on shares of their rows.

    Parameters
    ----------
    layers : list of list of Direction
        The directions of each layer.
    n_timesteps, n_samples : int
    options : Options
    threads : list of int
        How many threads work on each layer.
    buffers : Buffers
        Where the arrays come from: a pass is undone by the next one on the same buffers.

    Attributes
    ----------
    T, B : int
        n_timesteps, n_samples.
    forward : Program
        Its slots are ``"x"``, ``"lengths"`` and ``"out"``; the last may be empty. The lengths are those that
        `lengths` returned.
    masks : list of ndarray of shape (n_timesteps * rows of a chunk, n_inputs)
        Factors of the inputs of each layer but the first, for `numbarnn.Recurrent` to fill.
    state_masks : list of ndarray of shape (rows of a chunk, hidden_size)
        With recurrent dropout, of each direction of each layer the factors of h.
    zones : list of ndarray of shape (n_timesteps, rows of a chunk, n_states, hidden_size)
        With zoneout, likewise the part of the old states in the new; one step stands for all if not training.
    """

    def __init__(
        self, layers: list[list[Direction]], n_timesteps: int, n_samples: int, options: Options,
        threads: list[int], buffers: Buffers,
    ) -> None:
        self.T, self.B = n_timesteps, n_samples
        self._directions = [*chain.from_iterable(layers)]
        self._layers, self._threads, self._dtype = layers, threads, layers[0][0].dtype
        cuts = cut_rows(self._directions, n_samples)
        each = [-(-count // len(cuts)) for count in threads]
        self._chunks = [
            _Chunk(layers, n_timesteps, cut, options, each, buffers, name)
            for name, cut in enumerate(cuts)
        ]
        self.masks = [mask for chunk in self._chunks for mask in chunk.masks]
        self.state_masks = [mask for chunk in self._chunks for mask in chunk.state_masks]
        self.zones = [zones for chunk in self._chunks for zones in chunk.zones]
        self.forward = self._forward_program(options.training)
        self._backward: dict[bool, Program] = {}

    def lengths(self, lengths: NDArray, mask: NDArray | None) -> NDArray:
        """Lay out lengths (n_samples,) and a mask (n_samples, n_timesteps) or None for the kernels."""
        if mask is None:
            return lengths
        cuts = [slice(chunk.first, chunk.first + chunk.B) for chunk in self._chunks]
        return np.concatenate([part for cut in cuts for part in (lengths[cut], mask[cut].T.ravel())])

    def start(self, state: Sequence[NDArray] | None) -> None:
        """Set the initial states, each (layers * directions, n_samples, hidden_size); None is zeros.

        With recurrent dropout `state_masks` must have been filled.
        """
        for chunk in self._chunks:
            chunk.start(state)

    def start_back(self, dstate: Sequence[NDArray] | None) -> None:
        """Set the gradient of the final states likewise."""
        for chunk in self._chunks:
            chunk.start_back(dstate)

    def read_final(self, states: Sequence[NDArray]) -> None:
        """Copy the states after the last step to arrays (layers * directions, n_samples, hidden_size)."""
        for chunk in self._chunks:
            chunk.read(chunk.final, states)

    def read_initial_gradient(self, dstates: Sequence[NDArray]) -> None:
        """Copy the gradient of the initial states likewise, after the way back."""
        for chunk in self._chunks:
            chunk.read(chunk.dstates, dstates)

    def read_input_gradient(self) -> NDArray:
        """Return the gradient of the input (n_samples, n_timesteps, n_inputs), after the way back."""
        n_inputs = self._layers[0][0].sizes.I
        dx = np.empty((self.B, self.T, n_inputs), self._dtype)
        for chunk in self._chunks:
            rows = chunk.input_gradient_rows().reshape(self.T, chunk.B, -1)[:, :, :n_inputs]
            dx[chunk.first : chunk.first + chunk.B] = rows.transpose(1, 0, 2)
        return dx

    def _forward_program(self, training: bool) -> Program:
        phases = self._in_step(lambda chunk: chunk.forward_phases())
        for layer, threads in zip(self._layers, self._threads, strict=True):
            for direction in layer:
                phases[0] += direction.pack(training, threads)
        return Program(self._dtype, max(self._threads), phases)

    def backward(self, input_gradient: bool) -> Program:
        """Return the program of the way back; its slots are ``"lengths"`` and ``"dout"``, perhaps empty."""
        if input_gradient not in self._backward:
            self._backward[input_gradient] = self._backward_program(input_gradient)
        return self._backward[input_gradient]

    def _backward_program(self, input_gradient: bool) -> Program:
        threads = max(self._threads)
        to_inputs = self._layers if input_gradient else self._layers[1:]
        packs = [direction.pack_inputs_transposed(threads) for layer in to_inputs for direction in layer]
        phases = [sum(packs, [])] if packs else []
        phases += self._in_step(lambda chunk: chunk.backward_phases(input_gradient))
        total, *others = (chunk.weight_gradients for chunk in self._chunks)
        for other in others:  # one after the other: the bits are the same for any number of threads
            pairs = zip(total, other, strict=True)
            phases.append([(pack.add_up, *r, *pair) for pair in pairs for r in ranges(pair[0].size, threads)])
        phases.append([task for direction in self._directions for task in direction.unpack(threads)])
        return Program(self._dtype, threads, phases)

    def _in_step(self, phases_of: Callable[[_Chunk], list[list[tuple]]]) -> list[list[tuple]]:
        """Let all chunks go through their phases at the same time."""
        return [sum(phase, []) for phase in zip(*map(phases_of, self._chunks), strict=True)]


class _Chunk:
    """Some rows of a batch, with arrays of their own.

    `initial`, `final` and `dstates` are for each direction of each layer the states before the first and
    after the last step, and the gradient of the final states, after the way back that of the initial ones:
    arrays (B, hidden_size). `weight_gradients` are packed, of every direction; other attributes are as of
    `Pass`.
    """

    def __init__(
        self, layers: list[list[Direction]], n_timesteps: int, rows: tuple[int, int], options: Options,
        threads: list[int], buffers: Buffers, name: int,
    ) -> None:
        self.layers, self.T, self.first, self.B = layers, n_timesteps, rows[0], rows[1] - rows[0]
        self._merge = between.MERGES.index(options.merge) if len(layers[0]) > 1 else 0
        self._residual, self._noise, self._masked = options.residual, options.noise, options.masked
        self._threads, self._buffers, self._dtype = threads, buffers, layers[0][0].dtype
        self._name = name
        self.initial, self.final, self.dstates, self.masks = [], [], [], []
        self.state_masks, self.zones, self._seen, self.weight_gradients = [], [], [], []
        self._whole_initial: list[NDArray] = []
        self._whole_dstates: list[NDArray] = []
        self._loops = [
            [self._make_loop(k, i, direction, options.training) for i, direction in enumerate(layer)]
            for k, layer in enumerate(layers)
        ]
        self._inputs = [self._make_inputs(k, layer[0].sizes) for k, layer in enumerate(layers)]
        if options.dropout:
            shapes = [(n_timesteps * self.B, layer[0].sizes.I) for layer in layers[1:]]
            self.masks = [self._buffer(f"mask{k}", *shape).reshape(shape) for k, shape in enumerate(shapes)]

    def _buffer(self, name: str, *shape: int) -> NDArray:
        return self._buffers.get(f"{self._name}: {name}", *shape)

    def _slot(self, name: str, each: int) -> Slot:
        """Stand for an array of the whole batch, from the chunk's first row on; a row has `each` numbers."""
        return Slot(name, self.first * each)

    @property
    def _lengths(self) -> Slot:
        return self._slot("lengths", 1 + self.T * self._masked)

    def _make_loop(self, k: int, i: int, direction: Direction, training: bool) -> Loop:
        """Make room for the time loop of direction i of layer k, and views of its states."""
        name, own = f"{k}.{i}", direction.packed_gradients
        sizes = batch_sizes(direction.sizes, self.T, self.B, training, self._masked)
        block = block_steps(sizes, own.itemsize, own.nbytes)
        if training and self._in_turn(k) and not (sizes.Sh or sizes.Sm or any(self._noise)):
            steps = kept_steps(sizes, own.itemsize, block)
            sizes = sizes._replace(g_slots=steps, x_slots=steps + 1)
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
            n = self._buffer("n" + name, cell.workspace(sizes))
        elif n_noise:
            cell, n = cell.noisy(*self._noise), self._buffer("n" + name, n_noise)
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
        # those of the other chunks are added to those of the first
        self.weight_gradients.append(own if self._name == 0 else self._buffer("dw" + name, own.size))
        width = B * (sizes.R + sizes.E * padded)
        kept = self._buffer("s" + name, -(-(self.T - sizes.g_slots) // block) if training else 0, width)
        return Loop(direction, cell, sizes, block, x, flat_h, g, c, d, product, e, n, kept)

    def _in_turn(self, k: int) -> bool:
        """Whether layer k goes back block by block of steps, each with all of its gradients.

        One thread has the whole chunk then, and there is no second direction that adds to the same rows.
        """
        return self._threads[k] == 1 and len(self.layers[k]) == 1

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
        array = self._buffer(name, size + math.prod(behind))
        return array, array[:size].reshape(shape), array[size:].reshape(behind)

    def _make_inputs(self, k: int, sizes: Sizes) -> NDArray:
        """Make room for the rows [x | 1] that layer k reads, the ones in their place."""
        z = self._buffer(f"z{k}", self.T, self.B, sizes.LZ)
        z.reshape(-1, sizes.LZ)[:, sizes.I] = 1
        return z

    def forward_phases(self) -> list[list[tuple]]:
        """List the tasks of the way up through the layers, phase after phase."""
        lengths, first = self._lengths, self._loops[0][0].sizes
        x = self._slot("x", self.T * first.I)
        rows = ranges(self.B, self._threads[0], 2)
        phases = [[(between.copy_inputs, first, *r, lengths, x, self._inputs[0]) for r in rows]]
        for k, (loops, z, threads) in enumerate(zip(self._loops, self._inputs, self._threads, strict=True)):
            output, scans, shares = self._output(k), [], ranges(self.B, threads, 2)
            for i, loop in enumerate(loops):
                to = self._own_output(k, i) if self._merge else output.part(i * loop.sizes.HR)
                scans += [loop.forward(r, lengths, z, to) for r in shares]
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
        return phases

    @property
    def _width(self) -> int:
        """Number of outputs of a layer in a step."""
        return self._loops[0][0].sizes.HR * (1 if self._merge else len(self.layers[0]))

    def _whole(self, name: str) -> Rows:
        """Rows of outputs, or of their gradient, of the whole batch."""
        return Rows(self._slot(name, self.T * self._width), self._width, self.T * self._width)

    def _output(self, k: int) -> Rows:
        """Where the output of layer k goes: to the caller, or to the inputs of the next layer."""
        if k == len(self.layers) - 1:
            return self._whole("out")
        stride = self._loops[k + 1][0].sizes.LZ
        return Rows(self._inputs[k + 1], self.B * stride, stride)

    def _own_output(self, k: int, i: int, what: str = "o") -> Rows:
        """Where the output of one of two directions of layer k is kept that are merged, or its gradient."""
        H = self._loops[k][i].sizes.HR
        return Rows(self._buffer(f"{what}{k}.{i}", self.T, self.B, H), self.B * H, H)

    def _adds(self, k: int) -> bool:
        """Whether layer k adds its input to its output."""
        return self._residual and self._loops[k][0].sizes.I == self._width

    def _mask(self, k: int, rows: NDArray, stride: int) -> list[tuple]:
        """List the tasks that multiply rows of outputs of layer k, or of their gradient, by the mask."""
        mask = self.masks[k]
        pieces = ranges(self.T * self.B, self._threads[k])
        return [(between.multiply_rows, *piece, mask.shape[1], mask, rows, stride) for piece in pieces]

    def start(self, state: Sequence[NDArray] | None) -> None:
        """Set the initial states from those of the whole batch."""
        self._fill(self._whole_initial, self.initial, state)
        for rows, h, mask in self._seen:
            np.multiply(h, mask, out=rows)

    def start_back(self, dstate: Sequence[NDArray] | None) -> None:
        """Set the gradient of the final states likewise."""
        self._fill(self._whole_dstates, self.dstates, dstate)

    def _fill(
        self, whole: list[NDArray], views: list[list[NDArray]], state: Sequence[NDArray] | None
    ) -> None:
        for array in whole:
            array.fill(0)  # what lies past the units as well
        if state is not None:
            for i, parts in enumerate(views):
                for view, values in zip(parts, state, strict=True):
                    view[...] = values[i, self.first : self.first + self.B]

    def read(self, views: list[list[NDArray]], state: Sequence[NDArray]) -> None:
        """Copy states to those of the whole batch."""
        for i, parts in enumerate(views):
            for view, values in zip(parts, state, strict=True):
                values[i, self.first : self.first + self.B] = view

    def backward_phases(self, input_gradient: bool) -> list[list[tuple]]:
        """List the tasks of the way down again, phase after phase."""
        phases, lengths, gradient = [], self._lengths, self._whole("dout")
        for k in range(len(self.layers) - 1, -1, -1):
            loops, rows = self._loops[k], ranges(self.B, self._threads[k], 2)
            if self.masks and k < len(self.layers) - 1:
                phases.append(self._mask(k, gradient.array, gradient.r))
            if self._merge:
                own = [self._own_output(k, i, what).array for what in ("o", "do") for i in (0, 1)]
                split = (self._merge, lengths, *gradient, *own)
                phases.append([(between.split_rows, loops[0].sizes, *r, *split) for r in rows])
            come = [
                self._own_output(k, i, "do") if self._merge else gradient.part(i * loops[i].sizes.HR)
                for i in range(len(loops))
            ]
            wanted = k > 0 or input_gradient
            phases += self._layer_backward(k, come, wanted)
            if wanted:
                stride = self.layers[k][0].padded_inputs
                dz = Rows(self.input_gradient_rows(k), self.B * stride, stride)
                if self._adds(k):
                    through = (self._width, lengths, *gradient, *dz)
                    phases.append([(between.add_rows, loops[0].sizes, *r, *through) for r in rows])
                gradient = dz
        return phases

    def _layer_backward(self, k: int, gradients: list[Rows], wanted: bool) -> list[list[Any]]:
        """List the tasks of the time loops of layer k and of the gradients of its weights and its inputs.

        The latter only if `wanted`. Sums are the same whether they are done in turn or not.
        """
        lengths, z, threads, whole = self._lengths, self._inputs[k], self._threads[k], (0, self.T)
        rows, scans, sums, inputs = ranges(self.B, threads, 2), [], [], []
        dz = self.input_gradient_rows(k) if wanted else None
        for i, (loop, gradient) in enumerate(zip(self._loops[k], gradients, strict=True)):
            dw = self.weight_gradients[k * len(gradients) + i]
            blocks = backward_blocks(loop.sizes, loop.block)
            pieces, units = loop.weight_gradient(z, threads, dw, blocks), loop.unit_gradient(dw)
            if threads == 1:
                turn = []
                for block, *parts in zip(blocks, *pieces, strict=True):
                    turn += loop.backward(rows[0], block, lengths, z, gradient)
                    if wanted and self._in_turn(k):
                        turn.append(loop.input_gradient(rows[0], block, 0, dz))
                    turn += parts
                scans.append(turn + units)
            else:
                scans += [task for r in rows for task in loop.backward(r, whole, lengths, z, gradient)]
                sums += pieces + units
            if wanted and not self._in_turn(k):  # the second direction adds to what the first one wrote
                inputs.append([loop.input_gradient(r, whole, i, dz) for r in rows])
        return [scans, sums, *inputs]

    def input_gradient_rows(self, k: int = 0) -> NDArray:
        """Return the gradient of what layer k reads, (n_timesteps, B, padded_inputs), flat."""
        return self._buffer(f"dz{k}", self.T, self.B, self.layers[k][0].padded_inputs)


def _states(h: NDArray, further: NDArray, hidden_size: int) -> list[NDArray]:
    """Return h and views (n_samples, hidden_size) of the further states, (B, E, >= H)."""
    return [h, *(further[:, e, :hidden_size] for e in range(further.shape[1]))]
