"""A `numbarnn.network.Network` on the device: the same layers between the same dense ones, both ways."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from numbarnn.blocks import valid_steps
from numbarnn.cuda import pointwise
from numbarnn.cuda.blas import Matrix
from numbarnn.cuda.dense import Dense, DenseWay
from numbarnn.cuda.driver import DeviceMemoryError, download, empty, free_bytes, naming_errors, upload
from numbarnn.cuda.layers import Layers, Shape, Way, check_options
from numbarnn.cuda.noise import noise_of
from numbarnn.cuda.program import Program
from numbarnn.parameters import starts_of

if TYPE_CHECKING:
    from numbarnn.network import Network

__all__ = ["DeviceNetwork", "NetworkWay"]

_PART_OF_MEMORY = 0.5  # of what is free, for the arrays of a prediction
_MOST_ROWS = 4096  # a batch of more is no faster


class NetworkWay(DenseWay):
    """The arrays of a network on batches of one shape, and both ways through it.

    Rows are time-major: (T, B) of them where there is an output for every step, else B.

    Attributes
    ----------
    inputs : device array of shape (T, B, F)
        What is read. To be filled, like `valid`, before a program runs.
    valid : device array of uint8, (T, B)
    raw, draw : device array of shape (rows, n_outputs)
        The output, and the gradient of the loss with respect to it.
    rows : int
    """

    def __init__(self, network: DeviceNetwork, T: int, B: int, training: bool, masked: bool) -> None:
        self._network, self.T, self.B = network, T, B
        config, layers, dtype = network.config, network.layers, network.dtype
        self.training, self.masked, self.sequences = training, masked, config["return_sequences"]
        self.by_output = self.sequences or config["residual"]
        self._drops = training and config["dropout"] > 0
        self._goes_on = config["stateful"]
        self._random_starts = training and config["initial_state"] == "random"
        starts = self._goes_on or self._random_starts or config["initial_state"] == "learned"
        dropout = self._drops and len(layers.inputs) > 1
        noise = noise_of(network.recurrent, training)
        self.way = Way(layers, Shape(T, B, training, masked, dropout, self.by_output, starts, noise))
        if self._goes_on:  # from where the batch before has left its states
            self.way.initial = self.way.final = network.carried_states(B)
        self.valid, self.steps, self._ones = self.way.valid, T * B, self.way.ones
        self.rows = self.steps if self.sequences else B
        self._embeds = bool(network.tables)
        self.inputs = self.way.rows[0]
        if self._embeds or network.stem:
            self.inputs = empty(self.steps * config["input_size"], dtype)
        # what each dense layer reads, and last what the recurrent layers do, or the output
        width = network.stem[0].inputs if network.stem else layers.inputs[0]
        self._read = [self.inputs] if not self._embeds else [empty(self.steps * width, dtype)]
        self._read += [empty(self.steps * each.outputs, dtype) for each in network.stem]
        if self._embeds or network.stem:
            self._read[-1] = self.way.rows[0]
        features = self.way.rows[-1] if self.sequences else empty(B * layers.output_size, dtype)
        self._head = [features] + [empty(self.rows * each.outputs, dtype) for each in network.head]
        self.raw, self.draw = self._head[-1], None
        self._masks = [
            [empty(rows * each.outputs * self._drops, dtype) for each in dense]
            for rows, dense in ((self.steps, network.stem), (self.rows, network.head[:-1]))
        ]
        self._ends = [empty(B * layers.output_size, dtype) for _ in range(2)]  # where two are merged
        if training:
            self._dread = [empty(each.size, dtype) for each in self._read[:-1]] + self.way.drows[:1]
            dfeatures = self.way.drows[-1] if self.sequences else empty(features.size, dtype)
            self._dhead = [dfeatures] + [empty(each.size, dtype) for each in self._head[1:]]
            self.draw = self._dhead[-1]
            self._dends = [empty(each.size, dtype) for each in self._ends]

    def draw_noise(self, begins: bool = True, steps: int | None = None) -> None:
        """Draw what is random in this batch as `Network` would: by the same generator, in the same order.

        Parameters
        ----------
        begins : bool, default=True
            Whether it begins in new states, not in those of the batch before.
        steps : int, default=None
            How many of the T steps are in use; the network draws for no more.
        """
        network, B = self._network, self.B
        if begins and self._random_starts:
            self.way.initial.copy_to_device(network.draw_states(B))
        self._draw_dense(network.stem, self._masks[0], True, steps)
        self.way.draw(network.recurrent, steps)
        self._draw_dense(network.head[:-1], self._masks[1], self.sequences, steps)

    def _draw_dense(
        self, dense: list[Dense], masks: list[Any], by_step: bool, steps: int | None
    ) -> None:
        """Draw the masks of dense layers."""
        for mask, each in zip(masks, dense, strict=True) if self._drops else ():
            if by_step:
                drawn = np.zeros((self.T, self.B, each.outputs), self._network.dtype)
                shape = self.B, steps or self.T, each.outputs
                drawn[:steps] = self._network.draw_mask(shape).transpose(1, 0, 2)
            else:
                drawn = self._network.draw_mask((self.B, each.outputs))
            mask.copy_to_device(drawn.ravel())

    # ---- forward

    def forward(self, program: Program, begins: bool = True) -> None:
        """Add what goes from `inputs` to `raw`; see `draw_noise`."""
        network, config = self._network, self._network.config
        rows, inputs = self.steps, config["input_size"]
        if self._embeds:
            to, width = self._read[0], network.step_size
            columns = network.numeric_columns
            if network.n_numeric:
                program.each(pointwise.take_columns, rows * network.n_numeric, rows, inputs, width, columns,
                             self.inputs, to)  # fmt: skip
            for feature, column, size, _, at in network.tables:
                arguments = rows, inputs, width, feature, column, size, network.parameters, at
                program.each(pointwise.embed, rows * size, *arguments, self.inputs, to)
        self._dense(program, rows, network.stem, self._read, self._masks[0], len(network.stem))
        if begins:
            self._begin(program)
        self.way.forward(program)
        if self._goes_on:
            self.way.collect(program)
        if not self.sequences:
            self._features(program)
        self._dense(program, self.rows, network.head, self._head, self._masks[1], len(network.head) - 1)

    def _begin(self, program: Program) -> None:
        """Add what sets the initial states that are not zeros by themselves, and not drawn."""
        network, initial = self._network, self.way.initial
        for at, position, H, many in network.learned:
            states = initial[position * self.B : (position + many * H) * self.B]
            count = many * H * self.B
            program.each(pointwise.repeat_states, count, count, self.B, H, network.parameters, at, states)
        if self._goes_on and not (network.learned or self._random_starts):
            program.each(pointwise.fill, initial.size, initial.size, network.zero, initial)

    def _features(self, program: Program) -> None:
        """Add what brings the ends of the directions together."""
        layers, B, features = self._network.layers, self.B, self._head[0]
        merge, width = layers.merge, layers.output_size
        if self.by_output:
            steps = (self.T, B, width)
            masked = int(self.masked), self.valid, self.way.rows[-1]
            if merge == 0:
                turn = width // 2 if layers.per_layer == 2 else width
                program.each(pointwise.join_ends, B * width, *steps, turn, *masked, features)
                return
            for turn, ends in zip((width, 0), self._ends, strict=True):
                program.each(pointwise.join_ends, B * width, *steps, turn, *masked, ends)
            pair = self._ends[0], 0, self._ends[1], 0
        else:
            tops = [(own.h, at) for own, at, _ in self.way.ends()[-layers.per_layer :]]
            if layers.per_layer == 1:
                program.each(pointwise.copy, B * width, B * width, *tops[0], features, 0)
                return
            pair = *tops[0], *tops[1]
            if merge == 0:
                program.each(pointwise.join_columns, B * width // 2, B, width // 2, *pair, features)
                return
        program.each(pointwise.merge, B * width, B * width, merge, self._network.half, *pair, features)

    # ---- backward

    def backward(self, program: Program, begins: bool = True) -> None:
        """Add the way back from `draw` to the gradients of all parameters; see `draw_noise`."""
        network = self._network
        self._dense_back(
            program, self.rows, network.head, self._head, self._dhead, self._masks[1], len(network.head) - 1,
            True,
        )  # fmt: skip
        self.way.start_back(program, False)
        if not self.sequences:
            self._features_back(program)
        below = self._embeds or bool(network.stem)
        self.way.backward(program, self.by_output, below)
        if below:
            self._dense_back(
                program, self.steps, network.stem, self._read, self._dread, self._masks[0], len(network.stem),
                self._embeds,
            )  # fmt: skip
            for feature, column, size, count, at in network.tables:
                sizes = self.steps, network.config["input_size"], network.step_size, feature, column, size
                arrays = self.inputs, self._dread[0], network.gradients, at
                program.each(pointwise.embed_back, count, *sizes, count, network.zero, *arrays)
        if network.learned and not begins:
            for at, _, H, many in network.learned:
                slopes = network.gradients[at : at + many * H]
                program.each(pointwise.fill, many * H, many * H, network.zero, slopes)
        elif network.learned:
            self.way.collect_back(program)
            ones = Matrix(self.way.ones, 0, self.B)
            for at, position, H, many in network.learned:
                for k in range(many):
                    seen = Matrix(self.way.dinitial, (position + k * H) * self.B, H)
                    program.product(1, H, self.B, ones, seen, Matrix(network.gradients, at + k * H, H))

    def _features_back(self, program: Program) -> None:
        layers, B, dfeatures = self._network.layers, self.B, self._dhead[0]
        merge, width, half = layers.merge, layers.output_size, self._network.half
        if self.by_output:
            steps, dout = (self.T, B, width), self.way.drows[-1]
            if merge == 0:
                turn = width // 2 if layers.per_layer == 2 else width
                masked = int(self.masked), 0, self.valid, dfeatures, dout
                program.each(pointwise.split_ends, B * width, *steps, turn, *masked)
                return
            pair = self._ends[0], 0, self._ends[1], 0, *self._dends
            program.each(pointwise.split, B * width, B * width, merge, half, dfeatures, *pair)
            for adds, turn in enumerate((width, 0)):
                masked = int(self.masked), adds, self.valid, self._dends[adds], dout
                program.each(pointwise.split_ends, B * width, *steps, turn, *masked)
            return
        tops = self.way.ends()[-layers.per_layer :]
        if layers.per_layer == 1:
            program.each(pointwise.copy, B * width, B * width, dfeatures, 0, tops[0][0].d, 0)
            return
        (a, a_at, _), (b, b_at, _) = tops
        if merge == 0:
            program.each(pointwise.split_columns, B * width // 2, B, width // 2, dfeatures, a.d, b.d)
        else:
            pair = a.h, a_at, b.h, b_at, a.d, b.d
            program.each(pointwise.split, B * width, B * width, merge, half, dfeatures, *pair)


class DeviceNetwork:
    """A network whose parameters are on the device, and which computes there.

    Parameters
    ----------
    network : Network
        What it is made after. `download` brings parameters back to it.

    Attributes
    ----------
    config, dtype, recurrent
        The network's.
    parameters, gradients : device array
        In the order of the network's.

    Raises
    ------
    ValueError
        If the device has no kernel for an option; the message names it.
    DeviceError
        If there is no device, or it fails.
    """

    def __init__(self, network: Network) -> None:
        self.check_options(network)
        self._host, self.config, self.dtype = network, network.config, network.dtype
        self.recurrent = network.recurrent
        self.zero, self.half = self.dtype.type(0), self.dtype.type(0.5)
        with naming_errors():
            self.parameters = upload(network.parameters)
            self.gradients = upload(np.zeros_like(network.parameters))
            self.layers = Layers(network.recurrent, self.parameters, self.gradients)
            self._lay_out(network)
        self._ways: dict[tuple, NetworkWay] = {}
        self._carried: dict[int, Any] = {}  # states that are gone on from, for batches of so many samples
        self._known: tuple[NDArray, ...] | None = None  # the network's own that stand for them

    @staticmethod
    def outputs_of_row(network: Network) -> int:
        """Return how many raw outputs belong to one row of targets."""
        return network.config["n_outputs"]

    @staticmethod
    def check_options(network: Network) -> None:
        """Raise a ValueError for what there is no kernel for."""
        check_options(network.recurrent)

    def _lay_out(self, network: Network) -> None:
        """Find where each parameter is."""
        named = network.named_parameters
        starts = starts_of(named)
        config, layers = self.config, self.layers

        def dense(prefix: str, sizes: list[int], names: list[str]) -> list[Dense]:
            pairs = zip(names, pairwise(sizes), strict=True)
            return [
                Dense(starts[f"{prefix}{name}weight"], starts[f"{prefix}{name}bias"], *pair)
                for name, pair in pairs
            ]

        self.step_size = network._step_size
        stem, head = config["stem_sizes"], config["head_sizes"]
        self.stem = dense("stem.", [self.step_size, *stem], [f"{k}." for k in range(len(stem))])
        names = [f"{k}." for k in range(len(head))] + [""]
        self.head = dense("head.", [layers.output_size, *head, config["n_outputs"]], names)
        categorical = [entry[0] for entry in config["embedding"]]
        numeric = [k for k in range(config["input_size"]) if k not in categorical]
        self.n_numeric, self.numeric_columns = len(numeric), upload(np.array(numeric, np.int64))
        self.tables, at = [], len(numeric)
        for feature, count, size in config["embedding"]:
            self.tables.append((feature, at, size, count * size, starts[f"embedding.{feature}"]))
            at += size
        self.learned, position = [], 0
        if config["initial_state"] == "learned":
            for name in network.recurrent.cell.states:
                at, (many, H) = starts[f"initial_state.{name}"], named[f"initial_state.{name}"].shape
                self.learned.append((at, position, H, many))
                position += many * H

    # ---- states of a stateful network, which stay on the device from batch to batch

    def carried_states(self, n_samples: int) -> Any:
        """Return where those of batches of so many samples are."""
        if n_samples not in self._carried:
            size = sum(map(math.prod, self._host.recurrent.state_shapes(n_samples)))
            self._carried[n_samples] = empty(size, self.dtype)
        return self._carried[n_samples]

    def begins(self, n_samples: int) -> bool:
        """Whether the next batch begins in new states; if not, the network's are brought to the device.

        Raises
        ------
        ValueError
            If they are of another number of samples.
        """
        states = self._host._carried
        if states is None:
            return True
        self._host._initial_state(n_samples, False)  # which looks whether they fit
        if states is not self._known:
            flat = np.concatenate([part.ravel() for part in states])
            self.carried_states(n_samples).copy_to_device(flat)
            self._known = states
        return False

    def carry(self, n_samples: int) -> None:
        """Note that a batch has left its states; what the network has for them is filled in by `bring`."""
        if self.config["stateful"] and self._host._carried is None:
            shapes = self._host.recurrent.state_shapes(n_samples)
            self._host._carried = self._known = tuple(np.zeros(shape, self.dtype) for shape in shapes)

    def bring_states(self) -> None:
        """Bring the states that are gone on from to the network, if it has not begun anew."""
        known = self._known
        if known is not None and self._host._carried is known:
            found = download(self.carried_states(known[0].shape[1]))
            parts = np.split(found, np.cumsum([part.size for part in known])[:-1])
            # others than before, which somebody may have kept
            states = tuple(part.reshape(old.shape) for part, old in zip(parts, known, strict=True))
            self._host._carried = self._known = states

    # ---- random numbers, drawn on the host by the network's own generator

    def draw_states(self, n_samples: int) -> NDArray:
        """Draw initial states, as `Network` does."""
        return np.concatenate([part.ravel() for part in self._host._initial_state(n_samples, True)])

    def draw_mask(self, shape: tuple[int, ...]) -> NDArray:
        """Draw the factors of a `numbarnn.blocks.Dropout`."""
        return (self._host.stem.dropouts + self._host.hidden.dropouts)[0].draw(shape, self.dtype)

    # ---- the same interface as a network has

    def way(self, T: int, B: int, training: bool, masked: bool) -> NetworkWay:
        """Return the arrays for batches of a shape, made now or kept."""
        key = T, B, training, masked
        if key not in self._ways:
            self._ways[key] = NetworkWay(self, T, B, training, masked)
        return self._ways[key]

    def forward(self, x: NDArray, lengths: NDArray | None = None) -> NDArray:
        """Raw output of the head; see `Network.forward`. If memory is too small it takes a half at a time.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_timesteps, input_size)
        lengths : ndarray, default=None

        Returns
        -------
        raw : ndarray of shape (n_samples, n_outputs) or (n_samples, n_timesteps, n_outputs)
        """
        try:
            return self._forward(x, lengths)
        except DeviceMemoryError:
            self._ways.clear()
            if len(x) == 1 or self.config["stateful"]:
                raise
        parts = slice(0, len(x) // 2), slice(len(x) // 2, None)
        pieces = [(x[part], None if lengths is None else lengths[part]) for part in parts]
        return np.concatenate([self.forward(*piece) for piece in pieces])

    def _forward(self, x: NDArray, lengths: NDArray | None) -> NDArray:
        (B, T, F), masked = x.shape, lengths is not None
        with naming_errors():
            begins = self.begins(B)
            way, program = self.way(T, B, False, masked), Program()
            if masked:
                valid = valid_steps(lengths, T).T.astype(np.uint8)
                way.valid.copy_to_device(np.ascontiguousarray(valid).ravel())
            count = T * B * F
            arguments = T, B, F, int(masked), way.valid, upload(x), way.inputs
            program.each(pointwise.rows_in, count, *arguments)
            way.forward(program, begins)
            program.run()
            raw = download(way.raw)
            self.carry(B)
            self.bring_states()
        if way.sequences:
            return np.ascontiguousarray(raw.reshape(T, B, -1).transpose(1, 0, 2))
        return raw.reshape(B, -1)

    def rows_that_fit(self, n_timesteps: int) -> int:
        """Return how many samples a prediction may take at once."""
        layers, config = self.layers, self.config
        each = sum(layers.inputs) + layers.output_size + config["input_size"]
        each += layers.n_directions * layers.H * (layers.eq.X + 2 + (layers.merge > 0))
        each += layers.n_directions * layers.H * layers.eq.E * (layers.eq.M > 0)
        each += sum(dense.outputs + dense.inputs for dense in self.stem + self.head)
        room = free_bytes() * _PART_OF_MEMORY / (max(1, n_timesteps) * each * self.dtype.itemsize)
        return int(max(1, min(_MOST_ROWS, room)))
