"""The ways through networks of `numbarnn.forecasting.networks` on the device: their encoder and decoders.

Letters are those of `numbarnn.forecasting.base`: B rows of a batch, T segments read, D hidden units, m
segments written. The steps of a segment decoder are rows of one batch of the encoder's layers: what they
share is computed for each, but all products are single ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from numbarnn.cuda import pointwise
from numbarnn.cuda.blas import Matrix
from numbarnn.cuda.dense import DenseWay
from numbarnn.cuda.driver import empty, upload
from numbarnn.cuda.layers import Layers, Shape, Way
from numbarnn.cuda.program import Program

if TYPE_CHECKING:
    from numbarnn.cuda.forecasters import DeviceForecaster

__all__ = ["WAYS", "ForecastWay"]


class ForecastWay(DenseWay):
    """The arrays of a network on batches of one shape, and both ways through it.

    A subclass has a decoder: `_decode` from the states of `way` to `_read`, which the head reads, and
    `_decode_back` from `_dread` to the gradients of these states. `_encode` and `_encode_back` stand between
    `inputs` and what the recurrent layers read.

    Attributes
    ----------
    inputs : device array of shape (T, B, w * features)
        What is read (stepwise w = 1). To be filled, like the following, before a program runs.
    valid : device array of uint8, (T, B)
    series : device array of int64, (B,)
    static : device array of shape (B, S)
    future : device array of shape (B, m, decode * F)
    raw, draw : device array of shape (rows, K)
        The output, and the gradient of the loss with respect to it.
    offset : device array of shape (B, C, K) or None
        What is added to the raw output of every step.
    rows : int
        Elements of all forecasts.
    """

    sequences = False  # a step that does not count has weight 0, and is one of those that a mean is over
    _by_output = False  # whether the decoder reads more than the final states
    _drops = False  # rectified layers have no dropout here

    def __init__(self, network: DeviceForecaster, T: int, B: int, training: bool, masked: bool) -> None:
        self._network, self.B, self._training = network, B, training
        layout, widths, dtype = network.host.layout, network.host.widths, network.dtype
        self.way = Way(network.layers, Shape(T, B, training, masked, output=self._by_output))
        self.valid, self._T, self._m = self.way.valid, T, -(-layout.horizon // layout.decode)
        width = network.embed.inputs if network.embed else network.host.n_features
        self.inputs, self.offset = empty(T * B * width, dtype), None
        self.series, self.static = empty(B, np.int64), empty(B * widths.static, dtype)
        self.future = empty(B * self._m * layout.decode * widths.future, dtype)
        self.rows = B * (T if layout.stepwise else layout.horizon) * network.host.n_channels
        self._ones = upload(np.ones(max(T, self._m) * B, dtype))

    def _make_head(self, rows: int, read: Any, dread: Any) -> None:
        """Make arrays of the head, which reads so many rows, and of dropout before it."""
        network, head, dtype = self._network, self._network.head, self._network.dtype
        self._head_rows, self._read, self._dread = rows, read, dread
        self._mask = empty(rows * head.inputs if self._training and network.drops else 0, dtype)
        self._written = self.raw = empty(rows * head.outputs, dtype)
        # what is written beyond the horizon is cut off, and has no gradient
        self._sizes = rows * head.outputs // self.B, self.rows * network.host.n_raw // self.B
        cuts = self._sizes[0] > self._sizes[1]
        if cuts:
            self.raw = empty(self.B * self._sizes[1], dtype)
        if self._training:
            self._dwritten = self.draw = upload(np.zeros(self._written.size, dtype))
            if cuts:
                self.draw = empty(self.raw.size, dtype)

    def draw_noise(self, begins: bool = True, steps: int | None = None) -> None:
        """Draw what is random in this batch, as the network would; see `NetworkWay.draw_noise`."""
        network = self._network
        if self._training and network.drops:
            shape = self._head_rows, network.head.inputs
            self._mask.copy_to_device(network.host.dropout.draw(shape, network.dtype).ravel())

    # ---- forward

    def forward(self, program: Program, begins: bool = True) -> None:
        """Add what goes from `inputs` to `raw`; every window begins in zeros."""
        network = self._network
        self._encode(program)
        self.way.forward(program)
        self._decode(program)
        count = self._head_rows * network.head.inputs
        if self._training and network.drops:
            program.each(pointwise.multiply, count, count, self._mask, self._read)
        self._dense(program, self._head_rows, [network.head], [self._read, self._written], [], 0)
        if self.raw is not self._written:
            whole, kept = self._sizes
            arguments = self.B, kept, self._written, 0, whole, self.raw, 0, kept
            program.each(pointwise.columns, self.B * kept, *arguments)
        if self.offset is not None:
            arguments = self.raw.size, self.offset.size, self.offset, self.raw
            program.each(pointwise.add_offsets, self.raw.size, *arguments)

    def _encode(self, program: Program) -> None:
        """Add the layer that embeds segments."""
        pairs = [self.inputs, self.way.rows[0]]
        self._dense(program, self._T * self.B, [self._network.embed], pairs, [], 1)

    # ---- backward

    def backward(self, program: Program, begins: bool = True) -> None:
        """Add the way back from `draw` to the gradients of all parameters."""
        network = self._network
        if self.raw is not self._written:
            whole, kept = self._sizes
            arguments = self.B, kept, self.draw, 0, kept, self._dwritten, 0, whole
            program.each(pointwise.columns, self.B * kept, *arguments)
        pairs = [self._read, self._written], [self._dread, self._dwritten]
        self._dense_back(program, self._head_rows, [network.head], *pairs, [], 0, True)
        count = self._head_rows * network.head.inputs
        if network.drops:
            program.each(pointwise.multiply, count, count, self._mask, self._dread)
        self._decode_back(program)
        self._encode_back(program)

    def _encode_back(self, program: Program) -> None:
        """Add the way back through the recurrent layers and the layer that embeds segments."""
        self.way.backward(program, False, True)
        pairs = [self.inputs, self.way.rows[0]], [self.inputs, self.way.drows[0]]
        self._dense_back(program, self._T * self.B, [self._network.embed], *pairs, [], 1, False)

    def _series_back(self, program: Program, width: int, at: int, drows: Any) -> None:
        """Add what sums the gradient of the vectors of series: of columns `at` on in rows so wide."""
        network, size = self._network, self._network.host.n_embedded
        if size:
            count = network.host.n_ids * size
            arguments = self.B, 1, width, 0, at, size, count, network.zero
            arrays = self.series, drows, network.gradients, network.places["series"]
            program.each(pointwise.embed_back, count, *arguments, *arrays)

    def _decode(self, program: Program) -> None:
        raise NotImplementedError

    def _decode_back(self, program: Program) -> None:
        raise NotImplementedError


class SegmentWay(ForecastWay):
    """The way through a `SegmentNetwork`: the decoder is the layers on B * m rows of one further step."""

    def __init__(self, network: DeviceForecaster, T: int, B: int, training: bool, masked: bool) -> None:
        super().__init__(network, T, B, training, masked)
        rows, D, dtype = B * self._m, network.layers.H, network.dtype
        # gradients of its own, as every way overwrites them
        if training:
            size = network.host.encoder.n_parameters
            self._again = upload(np.zeros(size, dtype))
        else:
            self._again = network.gradients
        layers = Layers(network.host.encoder, network.parameters, self._again)
        self._decoder = Way(layers, Shape(1, rows, training, starts=True))
        self._static_sum = empty(B * D if network.static else 0, dtype)
        self._future_sum = empty(rows * D if network.future else 0, dtype)
        self._drow = empty(B * D if training else 0, dtype)
        self._make_head(rows, self._decoder.rows[-1], self._decoder.drows[-1] if training else None)

    def _decode(self, program: Program) -> None:
        network, (B, m, D) = self._network, (self.B, self._m, self._network.layers.H)
        if network.static:
            self._dense(program, B, [network.static], [self.static, self._static_sum], [], 0)
        if network.future:
            self._dense(program, B * m, [network.future], [self.future, self._future_sum], [], 1)
        count, places = B * m * D, network.places
        arrays = network.parameters, places["position"], places.get("series", 0), self.series
        sums = int(bool(network.static)), self._static_sum, int(bool(network.future)), self._future_sum
        own = D - network.host.n_embedded
        program.each(
            pointwise.segment_inputs, count, count, m, D, own, *arrays, *sums, self._decoder.rows[0]
        )
        self.way.collect(program)
        states = self._decoder.initial
        program.each(pointwise.repeat_rows, states.size, states.size, m, D, self.way.final, states)
        self._decoder.forward(program)

    def _decode_back(self, program: Program) -> None:
        network, (B, m, D) = self._network, (self.B, self._m, self._network.layers.H)
        own, decoder = D - network.host.n_embedded, self._decoder
        decoder.start_back(program, False)
        decoder.backward(program, True, True)
        decoder.collect_back(program)
        states = self.way.dfinal
        arguments = states.size, m, D, network.zero, decoder.dinitial, states
        program.each(pointwise.sum_rows, states.size, *arguments)
        self.way.start_back(program, True)
        dinputs, ones = decoder.drows[0], Matrix(self._ones, 0, B)
        for j in range(m):
            to = Matrix(network.gradients, network.places["position"] + j * own, own)
            program.product(1, own, B, ones, Matrix(dinputs, j * D, m * D), to)
        if network.host.n_embedded or network.static:
            arguments = B * D, m, D, network.zero, dinputs, self._drow
            program.each(pointwise.sum_rows, B * D, *arguments)
        self._series_back(program, D, own, self._drow)
        if network.static:
            pairs = [self.static, self._static_sum], [self.static, self._drow]
            self._dense_back(program, B, [network.static], *pairs, [], 0, False)
        if network.future:
            pairs = [self.future, self._future_sum], [self.future, dinputs]
            self._dense_back(program, B * m, [network.future], *pairs, [], 1, False)

    def backward(self, program: Program, begins: bool = True) -> None:
        """See `ForecastWay.backward`."""
        super().backward(program)
        size = self._again.size
        program.each(pointwise.add, size, size, self._again, self._network.gradients)


class DirectWay(ForecastWay):
    """The way through a `DirectNetwork`: the head reads the last state beside all else that is known."""

    def __init__(self, network: DeviceForecaster, T: int, B: int, training: bool, masked: bool) -> None:
        super().__init__(network, T, B, training, masked)
        host, D, dtype, read = network.host, network.layers.H, network.dtype, B * network.head.inputs
        # what is written is no more than the horizon: one row of a window
        self._make_head(B, empty(read, dtype), empty(read if training else 0, dtype))
        self._future_read, self._future_back = (
            empty(B * D if network.future else 0, dtype) for _ in range(2)
        )
        self._static_at = D + host.n_embedded
        self._future_at = self._static_at + host.widths.static

    def _decode(self, program: Program) -> None:
        network, B, D = self._network, self.B, self._network.layers.H
        width, host = network.head.inputs, network.host
        own, at, _ = self.way.ends()[-1]
        program.each(pointwise.columns, B * D, B, D, own.h, at, D, self._read, 0, width)
        if host.n_embedded:
            size, table = host.n_embedded, network.places["series"]
            arguments = B, 1, width, 0, D, size, network.parameters, table, self.series, self._read
            program.each(pointwise.embed, B * size, *arguments)
        static = host.widths.static
        if static:
            arguments = B, static, self.static, 0, static, self._read, self._static_at, width
            program.each(pointwise.columns, B * static, *arguments)
        if network.future:
            self._dense(program, B, [network.future], [self.future, self._future_read], [], 1)
            arguments = B, D, self._future_read, 0, D, self._read, self._future_at, width
            program.each(pointwise.columns, B * D, *arguments)

    def _decode_back(self, program: Program) -> None:
        network, B, D = self._network, self.B, self._network.layers.H
        width = network.head.inputs
        self.way.start_back(program, False)
        own, *_ = self.way.ends()[-1]
        program.each(pointwise.columns, B * D, B, D, self._dread, 0, width, own.d, 0, D)
        self._series_back(program, width, D, self._dread)
        if network.future:
            arguments = B, D, self._dread, self._future_at, width, self._future_back, 0, D
            program.each(pointwise.columns, B * D, *arguments)
            pairs = [self.future, self._future_read], [self.future, self._future_back]
            self._dense_back(program, B, [network.future], *pairs, [], 1, False)


class RecursiveWay(ForecastWay):
    """The way through a `RecursiveNetwork` in training: the head reads every step; rows are time-major."""

    _by_output = True

    def __init__(self, network: DeviceForecaster, T: int, B: int, training: bool, masked: bool) -> None:
        super().__init__(network, T, B, training, masked)
        self._width = network.layers.inputs[0]
        self._alone = self._width == network.host.n_features  # nothing stands behind what changes
        if self._alone:
            self.inputs = self.way.rows[0]
        self._drow = empty(B * self._width if training else 0, network.dtype)
        self._make_head(T * B, self.way.rows[-1], self.way.drows[-1] if training else None)

    def draw_noise(self, begins: bool = True, steps: int | None = None) -> None:
        """See `ForecastWay.draw_noise`."""
        network = self._network
        if self._training and network.drops:
            drawn = network.host.dropout.draw((self.B, self._T, network.head.inputs), network.dtype)
            self._mask.copy_to_device(np.ascontiguousarray(drawn.transpose(1, 0, 2)).ravel())

    def _encode(self, program: Program) -> None:
        if not self._alone:
            host, count = self._network.host, self._T * self.B * self._width
            numbers = self.B, self._width, host.n_features, host.n_embedded
            arrays = self._network.parameters, self._network.places.get("series", 0), self.series, self.static
            arguments = *numbers, *arrays, self.inputs, self.way.rows[0]
            program.each(pointwise.step_inputs, count, count, *arguments)

    def _decode(self, program: Program) -> None:
        pass  # what the head reads is what the layers put out

    def _decode_back(self, program: Program) -> None:
        self.way.start_back(program, False)

    def _encode_back(self, program: Program) -> None:
        host, width = self._network.host, self._width
        self.way.backward(program, True, host.n_embedded > 0)
        if host.n_embedded:
            columns, ones = self.B * width, Matrix(self._ones, 0, self._T)
            steps, to = Matrix(self.way.drows[0], 0, columns), Matrix(self._drow, 0, columns)
            program.product(1, columns, self._T, ones, steps, to)
            self._series_back(program, width, host.n_features, self._drow)


# by the name of the network's class
WAYS: dict[str, type[ForecastWay]] = {
    "SegmentNetwork": SegmentWay, "DirectNetwork": DirectWay, "RecursiveNetwork": RecursiveWay,
}  # fmt: skip
