"""Layers on the device: what `numbarnn.layer.Pass` is on a CPU, with the same options."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cuda import loops, pointwise, scan
from numbarnn.cuda.blas import Matrix
from numbarnn.cuda.driver import check_device, download, empty, naming_errors, processors, upload
from numbarnn.cuda.functions import equations
from numbarnn.cuda.noise import Drawn, Noise, noise_of, size_of
from numbarnn.cuda.plans import Plan, plan
from numbarnn.cuda.program import Program
from numbarnn.kernels.between import MERGES

if TYPE_CHECKING:
    from numbarnn.recurrent import Recurrent

__all__ = ["HostLayers", "Layers", "Shape", "Way", "check_options"]

MOST_WAYS = 4  # shapes of batches whose arrays are kept


def check_options(recurrent: Recurrent) -> None:
    """Raise a ValueError for what there is no kernel for; the message names it.

    Raises
    ------
    ValueError
    """
    if recurrent.proj_size:
        raise ValueError(f"proj_size was {recurrent.proj_size}; device='cuda' expects 0")
    equations(recurrent.cell, recurrent.dtype)


class Shape(NamedTuple):
    """What arrays and programs are made for.

    Attributes
    ----------
    T, B : int
    training : bool
        Whether all time steps are kept for the way back.
    masked : bool
        Whether there are steps that do not count.
    dropout : bool
        Whether outputs of all layers but the last are multiplied by masks.
    output : bool
        Whether more than the final state is wanted of the last layer.
    starts : bool
        Whether sequences begin in states that are given, else in zeros.
    noise : Noise
        Which noise there is on the states.
    """

    T: int
    B: int
    training: bool = False
    masked: bool = False
    dropout: bool = False
    output: bool = True
    starts: bool = False
    noise: Noise = Noise()


class _Direction(NamedTuple):
    """One direction of a layer on the device: where its parameters are, and its arrays."""

    n: scan.Scan
    plan: Plan | None
    index: int  # among the directions of all layers
    weight_ih: int
    gx: Any
    gh: Any
    h: Any
    c: Any
    kept: Any
    own: Any  # its output, where directions are merged
    d: Any
    e: Any
    du: Any
    down: Any  # gradient of `own`


class Way:
    """The arrays of all layers on batches of one shape, and both ways through them.

    Attributes
    ----------
    rows : list of device array
        Of each layer what it reads, (T, B, its inputs), and last what the top layer puts out.
    drows : list of device array
        The gradients of the same, if training.
    valid : device array of uint8, (T, B)
    masks : list of device array
        With dropout, factors of what each layer but the first reads.
    initial, final, dfinal, dinitial : device array of shape (states, layers * directions, B, H)
    """

    def __init__(self, layers: Layers, shape: Shape, valid: Any = None) -> None:
        self.shape, self.T, self.B, self._layers = shape, shape.T, shape.B, layers
        T, B, eq, H = shape.T, shape.B, layers.eq, layers.H
        dtype = layers.dtype
        self.widths = [*layers.inputs, layers.output_size]
        self.rows = [empty(T * B * width, dtype) for width in self.widths[:-1]]
        self.rows.append(empty(T * B * self.widths[-1] if shape.output else 1, dtype))
        self.drows = [empty(row.size, dtype) for row in self.rows] if shape.training else []
        self.valid = empty(T * B, np.uint8) if valid is None else valid
        self.masks = [empty(T * B * width, dtype) for width in layers.inputs[1:]] if shape.dropout else []
        n_states = (1 + eq.E) * layers.n_directions * B * H
        self.initial, self.final = empty(n_states, dtype), empty(n_states, dtype)
        self.dfinal, self.dinitial = (empty(n_states if shape.training else 1, dtype) for _ in range(2))
        self.ones = upload(np.ones(max(T * B, H), dtype))
        self._half, self._zero = dtype.type(0.5), dtype.type(0)
        self._directions = [
            [self._make_direction(k, i) for i in range(layers.per_layer)] for k in range(len(layers.inputs))
        ]

    def _make_direction(self, k: int, i: int) -> _Direction:
        layers, (T, B, training, masked, _, output, _, noise) = self._layers, self.shape
        eq, H, at = layers.eq, layers.H, layers.places[k][i]
        merged = layers.merge > 0
        puts = output or k < len(layers.inputs) - 1
        place = (H, 0) if merged else (self.widths[k + 1], i * H)
        n = scan.Scan(
            T, B, i, int(masked), int("bias_ih" in at), int(puts), at.get("weight_hh", 0),
            at.get("bias_ih", 0), at.get("bias_hh", 0), at["units"], *place,
        )  # fmt: skip
        found = plan(eq, H, B, layers.n_processors)
        dtype, back, keeps = layers.dtype, int(training), T * training
        own = merged and puts
        if training:
            kept = empty(T * B * eq.S * H + size_of(noise, eq, H, T, B), dtype)
        else:  # nothing but the means of zoneout, if there is any
            kept = upload(np.array(layers.zoneout, dtype))
        return _Direction(
            n, found, k * layers.per_layer + i, at["weight_ih"],
            gx=empty(T * B * eq.X * H, dtype),
            gh=empty(0 if found or not eq.R else B * eq.R * H, dtype),
            h=upload(np.zeros((1 + noise.drops) * (T + 1) * B * H, dtype)),
            c=upload(np.zeros((keeps + 1) * B * eq.E * H, dtype)),
            kept=kept,
            own=empty(T * B * H * own, dtype),
            d=empty((1 + noise.drops) * B * H * back, dtype), e=empty(B * eq.E * H * back, dtype),
            du=empty(B * eq.K * H * back, dtype),
            down=empty(T * B * H * own * back, dtype),
        )  # fmt: skip

    def draw(self, recurrent: Recurrent, steps: int | None = None) -> None:
        """Draw what is random in a batch of training, of whose T steps only the first may be in use."""
        shape, B, H = self.shape, self.B, self._layers.H
        if not (shape.training and (shape.dropout or any(shape.noise))):
            return
        drawn = Drawn(recurrent, self.T, B, steps or self.T, shape.dropout, shape.noise)
        directions = [each for layer in self._directions for each in layer]
        targets = [*zip(self.masks, drawn.between, strict=True)]
        for own, factors in zip(directions, drawn.factors, strict=shape.noise.drops):
            targets.append((own.kept[self._behind_kept :][: factors.size], factors))
        at = self._behind_kept + shape.noise.drops * B * H
        for own, parts in zip(directions, drawn.parts, strict=shape.noise.zones):
            targets.append((own.kept[at:][: parts.size], parts))
        for target, values in targets:
            target.copy_to_device(values.ravel())

    @property
    def _behind_kept(self) -> int:
        """Where in `kept` of a direction what noise needs begins."""
        return self.T * self.B * self._layers.eq.S * self._layers.H * self.shape.training

    # ---- forward

    def forward(self, program: Program) -> None:
        """Add what goes from ``rows[0]`` and `initial` to the last of `rows` and the states."""
        layers, (T, B, _, masked, *_) = self._layers, self.shape
        for k, directions in enumerate(self._directions):
            inputs, out, width = self.rows[k], self.rows[k + 1], self.widths[k + 1]
            for each in directions:
                self._forward_loop(program, each, inputs, self.widths[k], each.own if layers.merge else out)
            count = T * B * width
            if not directions[0].n.puts:
                continue
            if layers.merge:
                own = directions[0].own, 0, directions[1].own, 0
                program.each(pointwise.merge, count, count, layers.merge, self._half, *own, out)
            if layers.adds(k):
                program.each(pointwise.add_rows, count, B, width, int(masked), self.valid, inputs, out, count)
            if self.masks and k < len(self.masks):
                program.each(pointwise.multiply, count, count, self.masks[k], out)

    def _forward_loop(self, program: Program, own: _Direction, inputs: Any, width: int, out: Any) -> None:
        layers, n, (T, B, training, *_, starts, noise) = self._layers, own.n, self.shape
        eq, H, p = layers.eq, layers.H, layers.parameters
        if starts or not training:  # in training nothing writes over the zeros that are there
            first = T * n.reverse
            place = own.h, first * B * H, own.c, first * B * eq.E * H * training
            arguments = (B, H, eq.E, own.index, int(starts), self._zero, self.initial, *place)
            program.each(pointwise.place_states, (1 + eq.E) * B * H, *arguments)
        weights = Matrix(p, own.weight_ih, width).T
        gates = eq.X * H
        program.product(T * B, gates, width, Matrix(inputs, 0, width), weights, Matrix(own.gx, 0, gates))
        if own.plan is not None:
            kernel = loops.forward_loop(eq, H, own.plan.rows, own.plan.forward, training, noise)
            blocks = -(-B // own.plan.rows)
            arrays = self.valid, p, own.gx, own.h, own.c, own.kept, out
            program.launch(kernel, blocks, own.plan.forward.threads, n, *arrays)
            return
        kernel, rows, seen = scan.forward_step(eq, H, training, noise), eq.R * H, self._seen(n)
        if noise.drops:
            first = T * n.reverse * B * H
            place = own.h, first, own.kept, self._behind_kept, own.h, seen + first
            program.each(pointwise.multiply_to, B * H, B * H, 0, *place)
        for s in range(T):
            t = T - 1 - s if n.reverse else s
            state = Matrix(own.h, seen + (t + n.reverse) * B * H, H)
            program.product(B, rows, H, state, Matrix(p, n.weight, H).T, Matrix(own.gh, 0, rows))
            arrays = self.valid, p, own.gx, own.gh, own.h, own.c, own.kept, out
            program.each(kernel, B * H, n, t, *arrays)

    def _seen(self, n: scan.Scan) -> int:
        """Return where in h that begins which the recurrent weights see."""
        return self.shape.noise.drops * (n.T + 1) * n.B * self._layers.H

    def collect(self, program: Program) -> None:
        """Add what brings the final states to `final`."""
        for own, h_at, c_at in self.ends():
            layers, B = self._layers, self.shape.B
            arguments = B, layers.H, layers.eq.E, own.index, self.final, own.h, h_at, own.c, c_at
            program.each(pointwise.collect_states, (1 + layers.eq.E) * B * layers.H, *arguments)

    def ends(self) -> list[tuple[_Direction, int, int]]:
        """Return every direction, and where its final states begin in its h and its c."""
        T, B, training = self.shape[:3]
        step, result = B * self._layers.H, []
        for own in (each for directions in self._directions for each in directions):
            slot = T * (1 - own.n.reverse)
            result.append((own, slot * step, slot * step * self._layers.eq.E * training))
        return result

    def top(self) -> list[_Direction]:
        """Return the directions of the last layer."""
        return self._directions[-1]

    # ---- backward

    def start_back(self, program: Program, given: bool) -> None:
        """Add what sets the gradient of the final states to `dfinal`, or to zero."""
        layers, B = self._layers, self.shape.B
        for own in (each for directions in self._directions for each in directions):
            arguments = B, layers.H, layers.eq.E, own.index, int(given), self._zero, self.dfinal
            count = (1 + layers.eq.E) * B * layers.H
            program.each(pointwise.place_states, count, *arguments, own.d, 0, own.e, 0)

    def backward(self, program: Program, output_gradient: bool, input_gradient: bool) -> None:
        """Add the way back from the last of `drows` and d, e to the gradients.

        Parameters
        ----------
        program : Program
        output_gradient : bool
            Whether the output has a gradient, or only the final states.
        input_gradient : bool
            Whether ``drows[0]`` is wanted.
        """
        layers, (T, B, _, masked, *_) = self._layers, self.shape
        for k in range(len(self._directions) - 1, -1, -1):
            directions, width, last = self._directions[k], self.widths[k + 1], k == len(self._directions) - 1
            dout, given, count = self.drows[k + 1], output_gradient or not last, T * B * width
            if self.masks and not last:
                program.each(pointwise.multiply, count, count, self.masks[k], dout)
            if layers.merge and given:
                pair = directions[0].own, 0, directions[1].own, 0, directions[0].down, directions[1].down
                program.each(pointwise.split, count, count, layers.merge, self._half, dout, *pair)
            wanted = k > 0 or input_gradient
            for i, own in enumerate(directions):
                self._backward_loop(program, own, own.down if layers.merge else dout, given)
                self._weight_gradients(program, own, layers.places[k][i], self.rows[k], self.widths[k])
                if wanted:
                    self._input_gradient(program, own, self.drows[k], self.widths[k], add=i > 0)
            if wanted and given and layers.adds(k):
                arguments = B, width, int(masked), self.valid, dout, self.drows[k], count
                program.each(pointwise.add_rows, count, *arguments)

    def _backward_loop(self, program: Program, own: _Direction, dout: Any, given: bool) -> None:
        layers, (T, B, *_, noise) = self._layers, self.shape
        eq, H, p = layers.eq, layers.H, layers.parameters
        n = own.n._replace(puts=int(given))
        arrays = self.valid, p, own.h, own.c, own.kept, dout, own.d, own.e, own.du
        if own.plan is not None:
            kernel = loops.backward_loop(eq, H, own.plan.rows, own.plan.backward, noise)
            program.launch(kernel, -(-B // own.plan.rows), own.plan.backward.threads, n, *arrays)
            return
        if eq.K:
            program.each(pointwise.fill, B * eq.K * H, B * eq.K * H, layers.dtype.type(0), own.du)
        kernel, through = scan.backward_step(eq, H, noise), B * H * noise.drops
        if noise.drops:
            program.each(pointwise.fill, B * H, B * H, self._zero, own.d[B * H :])
        for s in range(T - 1, -1, -1):
            t = T - 1 - s if n.reverse else s
            program.each(kernel, B * H, n, t, *arrays)
            for i, (slot, gate, many) in enumerate(layers.h_runs):
                slopes = Matrix(own.kept, (t * B * eq.S + slot) * H, eq.S * H)
                weights, to = Matrix(p, n.weight + gate * H * H, H), Matrix(own.d, through, H)
                program.product(B, H, many * H, slopes, weights, to, add=i > 0 or not noise.drops)
        if noise.drops:
            place = own.d, through, own.kept, self._behind_kept, own.d, 0
            program.each(pointwise.multiply_to, B * H, B * H, 1, *place)

    def _weight_gradients(
        self, program: Program, own: _Direction, at: dict[str, int], inputs: Any, width: int
    ) -> None:
        """Add the products over all steps and rows: of the gates' gradient with what the weights saw."""
        layers, (T, B, *_) = self._layers, self.shape
        eq, H, g, N = layers.eq, layers.H, layers.gradients, T * B
        before = Matrix(own.h, self._seen(own.n) + own.n.reverse * B * H, H)
        kinds = (("ih", layers.x_runs, Matrix(inputs, 0, width), width), ("hh", layers.h_runs, before, H))
        for kind, runs, seen, columns in kinds:
            for slot, gate, many in runs:
                slopes = Matrix(own.kept, slot * H, eq.S * H)
                to = Matrix(g, at[f"weight_{kind}"] + gate * H * columns, columns)
                program.product(many * H, columns, N, slopes.T, seen, to)
                if f"bias_{kind}" in at:
                    to = Matrix(g, at[f"bias_{kind}"] + gate * H, many * H)
                    program.product(1, many * H, N, Matrix(self.ones, 0, N), slopes, to)
        if eq.K:
            row, vectors, ones = eq.K * H, eq.V * H, Matrix(self.ones, 0, B)
            program.product(1, vectors, B, ones, Matrix(own.du, 0, row), Matrix(g, at["units"], row))
            for k in range(eq.V, eq.K):
                sums = Matrix(empty(H, layers.dtype), 0, H)
                program.product(1, H, B, ones, Matrix(own.du, k * H, row), sums)
                to = Matrix(g, at["units"] + vectors + k - eq.V, 1)
                program.product(1, 1, H, sums, Matrix(self.ones, 0, 1), to)

    def _input_gradient(self, program: Program, own: _Direction, dinputs: Any, width: int, add: bool) -> None:
        layers, (T, B, *_) = self._layers, self.shape
        eq, H = layers.eq, layers.H
        for i, (slot, gate, many) in enumerate(layers.x_runs):
            slopes = Matrix(own.kept, slot * H, eq.S * H)
            weights = Matrix(layers.parameters, own.weight_ih + gate * H * width, width)
            program.product(T * B, width, many * H, slopes, weights, Matrix(dinputs, 0, width), add or i > 0)

    def collect_back(self, program: Program) -> None:
        """Add what brings the gradient of the initial states to `dinitial`."""
        layers, B = self._layers, self.shape.B
        for own in (each for directions in self._directions for each in directions):
            arguments = B, layers.H, layers.eq.E, own.index, self.dinitial, own.d, 0, own.e, 0
            program.each(pointwise.collect_states, (1 + layers.eq.E) * B * layers.H, *arguments)


class Layers:
    """The layers of a `Recurrent` on the device.

    Parameters
    ----------
    recurrent : Recurrent
        What they are made after; its parameters are the first ones of `parameters`.
    parameters, gradients : device array, default=None
        None for arrays of their own.

    Raises
    ------
    ValueError
        If the device has no kernel for an option.
    DeviceError
        If there is no device.
    """

    def __init__(self, recurrent: Recurrent, parameters: Any = None, gradients: Any = None) -> None:
        check_device()
        check_options(recurrent)
        self.dtype, self.H, self.cell = recurrent.dtype, recurrent.hidden_size, recurrent.cell
        self.eq = eq = equations(recurrent.cell, recurrent.dtype)
        self.per_layer = 1 + recurrent.bidirectional
        self.n_directions = recurrent.num_layers * self.per_layer
        self.output_size = recurrent.output_size
        self.inputs = [recurrent.input_size] + [recurrent.output_size] * (recurrent.num_layers - 1)
        self.merge = MERGES.index(recurrent.merge) if recurrent.bidirectional else 0
        self._residual, self.zoneout = recurrent.residual, recurrent.zoneout
        self.n_processors = processors()
        first_x = eq.S - len(eq.x_gates)
        self.x_runs = [(first_x + slot, gate, many) for slot, gate, many in _runs(eq.x_gates)]
        self.h_runs = _runs(eq.h_gates)
        self.places = self._find_parameters(recurrent)
        size = recurrent.n_parameters
        self.parameters = empty(size, self.dtype) if parameters is None else parameters
        self.gradients = empty(size, self.dtype) if gradients is None else gradients

    def _find_parameters(self, recurrent: Recurrent) -> list[list[dict[str, int]]]:
        """Return where each parameter of each direction begins; "units" is where those of single units do."""
        shapes = {name: array.shape for name, array in recurrent.parameters.items()}
        starts = dict(zip(shapes, np.cumsum([0, *map(math.prod, shapes.values())]).tolist(), strict=False))
        end, places = sum(map(math.prod, shapes.values())), []
        for k in range(recurrent.num_layers):
            layer = []
            for suffix in (f"_l{k}", f"_l{k}_reverse")[: self.per_layer]:
                units = [starts[name + suffix] for name in self.cell.units]
                products = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                at = {kind: starts[kind + suffix] for kind in products if kind + suffix in starts}
                layer.append({**at, "units": units[0] if units else end})
            places.append(layer)
        return places

    def adds(self, k: int) -> bool:
        """Whether layer k adds its input to its output."""
        return self._residual and self.inputs[k] == self.output_size


class HostLayers:
    """What `Recurrent` asks on ``device="cuda"``: NumPy arrays in and out.

    Parameters
    ----------
    recurrent : Recurrent
    """

    def __init__(self, recurrent: Recurrent) -> None:
        with naming_errors():
            self._layers = Layers(recurrent)
        self._recurrent = recurrent
        self._ways: dict[Shape, Way] = {}

    def forward(
        self, x: NDArray, state: tuple[NDArray, ...] | None, lengths: NDArray, mask: NDArray | None,
        training: bool, output: NDArray | None, final: list[NDArray],
    ) -> Way:
        """Go forward on checked arguments: `output` (or nobody) and `final` receive the results.

        Parameters
        ----------
        x, state, lengths, mask, training, output, final
            See `Recurrent.forward`.

        Returns
        -------
        way : Way
            What `backward` is to be given.
        """
        B, T, width = x.shape
        valid = np.arange(T)[:, np.newaxis] < lengths
        if mask is not None:
            valid &= mask.T
        masked, starts = not valid.all(), state is not None
        dropout = training and self._recurrent.dropout > 0 and len(self._layers.inputs) > 1
        noise = noise_of(self._recurrent, training)
        shape = Shape(T, B, training, masked, dropout, output is not None, starts, noise)
        with naming_errors():
            self._layers.parameters.copy_to_device(self._recurrent._flat)
            way = self._way(shape)
            way.valid.copy_to_device(valid.astype(np.uint8).ravel())
            if starts:
                way.initial.copy_to_device(np.concatenate([part.ravel() for part in state]))
            way.draw(self._recurrent)
            program, count = Program(), T * B * width
            arguments = T, B, width, int(masked), way.valid, upload(x), way.rows[0]
            program.each(pointwise.rows_in, count, *arguments)
            way.forward(program)
            way.collect(program)
            program.run()
            if output is not None:
                output[...] = download(way.rows[-1]).reshape(T, B, -1).transpose(1, 0, 2)
            for part, values in zip(final, np.split(download(way.final), len(final)), strict=True):
                part[...] = values.reshape(part.shape)
        return way

    def backward(
        self, way: Way, doutput: NDArray | None, dstate: tuple[NDArray, ...] | None, input_gradient: bool,
        dinitial: list[NDArray], gradients: NDArray,
    ) -> NDArray | None:
        """Go back likewise; `dinitial` and `gradients` receive results, that of the input is returned."""
        T, B = way.T, way.B
        given = doutput is not None and way.shape.output
        with naming_errors():
            if dstate is not None:
                way.dfinal.copy_to_device(np.concatenate([part.ravel() for part in dstate]))
            if given:
                way.drows[-1].copy_to_device(np.ascontiguousarray(doutput.transpose(1, 0, 2)).ravel())
            program = Program()
            way.start_back(program, dstate is not None)
            way.backward(program, given, input_gradient)
            way.collect_back(program)
            program.run()
            gradients[...] = download(self._layers.gradients)
            for part, values in zip(dinitial, np.split(download(way.dinitial), len(dinitial)), strict=True):
                part[...] = values.reshape(part.shape)
            if not input_gradient:
                return None
            return np.ascontiguousarray(download(way.drows[0]).reshape(T, B, -1).transpose(1, 0, 2))

    def _way(self, shape: Shape) -> Way:
        if shape not in self._ways:
            if len(self._ways) == MOST_WAYS:
                del self._ways[next(iter(self._ways))]
            self._ways[shape] = Way(self._layers, shape)
        return self._ways[shape]


def _runs(gates: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Cut slots into runs whose gates follow one another: (first slot, its gate, number)."""
    breaks = [k for k in range(1, len(gates)) if gates[k] != gates[k - 1] + 1]
    return [(a, gates[a], b - a) for a, b in pairwise([0, *breaks, len(gates)]) if b > a]
