"""Layers on the device: what `numbarnn.layer.Pass` is on a CPU, with the same options."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cuda import pointwise
from numbarnn.cuda.directions import Direction
from numbarnn.cuda.driver import check_device, download, empty, naming_errors, processors, upload
from numbarnn.cuda.functions import equations
from numbarnn.cuda.noise import Drawn, Noise, noise_of
from numbarnn.cuda.program import Program
from numbarnn.kernels.between import MERGES
from numbarnn.parameters import starts_of

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
    equations(recurrent._kernel_cell, recurrent.dtype)


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
    initial, final, dfinal, dinitial : device array
        Parts of states, (layers * directions, B, H) each, one behind the other.
    """

    def __init__(self, layers: Layers, shape: Shape, valid: Any = None) -> None:
        self.shape, self.T, self.B, self._layers = shape, shape.T, shape.B, layers
        T, B, dtype = shape.T, shape.B, layers.dtype
        self.widths = [*layers.inputs, layers.output_size]
        self.rows = [empty(T * B * width, dtype) for width in self.widths[:-1]]
        self.rows.append(empty(T * B * self.widths[-1] if shape.output else 1, dtype))
        self.drows = [empty(row.size, dtype) for row in self.rows] if shape.training else []
        self.valid = empty(T * B, np.uint8) if valid is None else valid
        self.masks = [empty(T * B * width, dtype) for width in layers.inputs[1:]] if shape.dropout else []
        n_states = layers.n_directions * B * (layers.HR + layers.eq.E * layers.H)
        self.initial, self.final = empty(n_states, dtype), empty(n_states, dtype)
        self.dfinal, self.dinitial = (empty(n_states if shape.training else 1, dtype) for _ in range(2))
        self.ones = upload(np.ones(max(T * B, layers.H), dtype))
        self._half = dtype.type(0.5)
        self._directions = [self._make_layer(k) for k in range(len(layers.inputs))]
        self._all = [*chain.from_iterable(self._directions)]

    def _make_layer(self, k: int) -> list[Direction]:
        layers, shape = self._layers, self.shape
        puts = shape.output or k < len(layers.inputs) - 1
        result = []
        for i in range(layers.per_layer):
            place = (layers.HR, 0) if layers.merge else (self.widths[k + 1], i * layers.HR)
            result.append(Direction(layers, shape, k, i, *place, puts, self.valid, self.ones))
        return result

    def draw(self, recurrent: Recurrent, steps: int | None = None) -> None:
        """Draw what is random in a batch of training, of whose T steps only the first may be in use."""
        shape = self.shape
        if not (shape.training and (shape.dropout or any(shape.noise))):
            return
        drawn = Drawn(recurrent, self.T, self.B, steps or self.T, shape.dropout, shape.noise)
        targets = [*zip(self.masks, drawn.between, strict=True)]
        for own, factors in zip(self._all, drawn.factors, strict=shape.noise.drops):
            targets.append((own.kept[own.factors :][: factors.size], factors))
        for own, parts in zip(self._all, drawn.parts, strict=shape.noise.zones):
            targets.append((own.kept[own.parts :][: parts.size], parts))
        for target, values in targets:
            target.copy_to_device(values.ravel())

    # ---- forward

    def forward(self, program: Program) -> None:
        """Add what goes from ``rows[0]`` and `initial` to the last of `rows` and the states."""
        layers, (T, B, _, masked, *_) = self._layers, self.shape
        for k, directions in enumerate(self._directions):
            inputs, out, width = self.rows[k], self.rows[k + 1], self.widths[k + 1]
            for each in directions:
                each.forward(program, self.initial, inputs, self.widths[k], each.own if layers.merge else out)
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

    def collect(self, program: Program) -> None:
        """Add what brings the final states to `final`."""
        for own in self._all:
            own.collect(program, self.final)

    def ends(self) -> list[tuple[Direction, int, int]]:
        """Return every direction, and where its final states begin in its h and its c."""
        return [(own, own.h_end, own.c_end) for own in self._all]

    # ---- backward

    def start_back(self, program: Program, given: bool) -> None:
        """Add what sets the gradient of the final states to `dfinal`, or to zero."""
        for own in self._all:
            own.start_back(program, given, self.dfinal)

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
                own.backward(program, own.down if layers.merge else dout, given)
                own.weight_gradients(program, self.rows[k], self.widths[k])
                if wanted:
                    own.input_gradient(program, self.drows[k], self.widths[k], add=i > 0)
            if wanted and given and layers.adds(k):
                arguments = B, width, int(masked), self.valid, dout, self.drows[k], count
                program.each(pointwise.add_rows, count, *arguments)

    def collect_back(self, program: Program) -> None:
        """Add what brings the gradient of the initial states to `dinitial`."""
        for own in self._all:
            own.collect_back(program, self.dinitial)


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
        self.dtype, self.H, self.cell = recurrent.dtype, recurrent.hidden_size, recurrent._kernel_cell
        self.HR = recurrent.proj_size or self.H  # the width of h
        self.eq = eq = equations(self.cell, recurrent.dtype)
        self.per_layer = 1 + recurrent.bidirectional
        self.n_directions = recurrent.num_layers * self.per_layer
        self.output_size = recurrent.output_size
        self.inputs = [recurrent.input_size] + [recurrent.output_size] * (recurrent.num_layers - 1)
        self.merge = MERGES.index(recurrent.merge) if recurrent.bidirectional else 0
        self._residual, self.zoneout = recurrent.residual, recurrent.zoneout
        self.n_processors = processors()
        first_x = eq.S - len(eq.x_gates)
        self.x_runs = [(first_x + slot, gate, many) for slot, gate, many in _runs(eq.x_gates)]
        self.h_runs, self.m_runs = _runs(eq.h_gates), _runs(eq.m_gates)
        # of weight_hh, what is multiplied by the state: all rows, if there is no other product in a step
        self.seen_runs = [(gate, many) for _, gate, many in self.h_runs] if eq.M else [(0, eq.R)]
        self.places = self._find_parameters(recurrent)
        size = recurrent.n_parameters
        self.parameters = empty(size, self.dtype) if parameters is None else parameters
        self.gradients = empty(size, self.dtype) if gradients is None else gradients

    def _find_parameters(self, recurrent: Recurrent) -> list[list[dict[str, int]]]:
        """Return where each parameter of each direction begins; "units" is where those of single units do."""
        starts, end, places = starts_of(recurrent.parameters), recurrent.n_parameters, []
        for k in range(recurrent.num_layers):
            layer = []
            for suffix in (f"_l{k}", f"_l{k}_reverse")[: self.per_layer]:
                units = [starts[name + suffix] for name in self.cell.units]
                products = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
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
            _part(download(way.final), final)
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
            _part(download(way.dinitial), dinitial)
            if not input_gradient:
                return None
            return np.ascontiguousarray(download(way.drows[0]).reshape(T, B, -1).transpose(1, 0, 2))

    def _way(self, shape: Shape) -> Way:
        if shape not in self._ways:
            if len(self._ways) == MOST_WAYS:
                del self._ways[next(iter(self._ways))]
            self._ways[shape] = Way(self._layers, shape)
        return self._ways[shape]


def _part(flat: NDArray, states: list[NDArray]) -> None:
    """Fill parts of states."""
    ends = np.cumsum([part.size for part in states])
    for part, values in zip(states, np.split(flat, ends[:-1]), strict=True):
        part[...] = values.reshape(part.shape)


def _runs(gates: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Cut slots into runs whose gates follow one another: (first slot, its gate, number)."""
    breaks = [k for k in range(1, len(gates)) if gates[k] != gates[k - 1] + 1]
    return [(a, gates[a], b - a) for a, b in pairwise([0, *breaks, len(gates)]) if b > a]
