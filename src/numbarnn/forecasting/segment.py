"""`SegmentNetwork`: segments of the context are read one by one, those of the forecast written all at once.

References
----------
.. [1] Lin, Lin, Wu, Zhao, Mo and Zhang, "SegRNN: segment recurrent neural network for long-term time series
   forecasting" (2023), arXiv 2308.11200: equations 2 to 5, and "parallel multi-step forecasting".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numbarnn.blocks import as_state, states_of
from numbarnn.forecasting.base import SegmentReader
from numbarnn.forecasting.fan import FanOut
from numbarnn.forecasting.windows import Batch
from numbarnn.parameters import dense_shapes

__all__ = ["SegmentNetwork"]


class SegmentNetwork(SegmentReader):
    """Segment-wise encoder and parallel decoder.

    Each segment of the context is embedded by a dense layer with a rectifier and read by the recurrent
    layers. From their last state they take one further step for each segment of the forecast, with a learned
    vector of the segment's position beside one of the series as input; a dense head makes a segment of each
    result. A layer of static covariates, and one (with a rectifier) of those known of the segment, are added
    to the input.

    Parameters
    ----------
    layout, n_channels, n_raw, n_ids, widths, cell, hidden_size, num_layers, dropout
    series_embedding, dtype, random_state, n_jobs
        See `numbarnn.forecasting.base.ForecastNetwork`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.segment import SegmentNetwork
    >>> from numbarnn.forecasting.windows import Batch, Layout
    >>> network = SegmentNetwork(Layout(96, 48, 24, 24), n_channels=1, hidden_size=8, random_state=0)
    >>> batch = Batch(np.zeros((5, 4, 24), "float32"), None, np.zeros(5, "int64"))
    >>> network.forward(batch).shape
    (5, 48, 1)
    """

    _fans_out = True  # whether the decoder's products are shared, where they can be

    @property
    def n_written(self) -> int:
        """Number of segments of the forecast."""
        return -(-self.layout.horizon // self.layout.decode)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        layout, units = self.layout, self.hidden_size
        shapes = self._embed_shapes()
        shapes["position"] = self.n_written, units - self.n_embedded
        if self.widths.static:
            shapes |= dense_shapes("static", self.widths.static, units)
        if self.widths.future:
            shapes |= dense_shapes("future", layout.decode * self.widths.future, units)
        return shapes | dense_shapes("head", units, layout.decode * self.n_channels * self.n_raw)

    def _build(self) -> None:
        self.embed, self.head = self._dense("embed", relu=True), self._dense("head")
        self.static = self._dense("static") if self.widths.static else None
        self.future = self._dense("future", relu=True) if self.widths.future else None
        self._position, self._dposition = self._store["position"]
        plain = self.encoder.cell.is_plain
        if self._fans_out and plain and self.config["num_layers"] == 1 and self.future is None:
            own = self.hidden_size - self.n_embedded
            parameters = {name: self._store[f"encoder.{name}"][0] for name in self.encoder.parameters}
            start = 0 if self.static is not None else own
            self.decoder = FanOut(self.encoder.cell, parameters, own, start, self._n_jobs)
            self.dropout.inplace = True  # what a FanOut returns is used by nobody else
        else:
            # the encoder's parameters once more: an object keeps the tape of one forward
            self.decoder = self._recurrent(0)
            values = self._store.flat("encoder.")[0]
            self.decoder.bind(values, np.zeros_like(values))
        self._parts.append(self.decoder)

    def _forward(self, batch: Batch, training: bool) -> NDArray:
        """See `ForecastNetwork.forward`."""
        n, state = len(batch.context), self._read(batch, training)
        hidden = self.dropout.forward(self._decode(batch, state, training), training)  # (n * m, D)
        written = self.head.forward(hidden, training).reshape(n, -1, self.n_channels * self.n_raw)
        return np.ascontiguousarray(written[:, : self.layout.horizon])

    def _decode(self, batch, state, training):
        """Take one step for each segment of the forecast, from the same state: (n * m, D)."""
        if isinstance(self.decoder, FanOut):
            return self.decoder.forward(state, self._position, self._row_inputs(batch, training), training)
        inputs = self._decoder_inputs(batch, training)
        n, m, units = inputs.shape
        repeated = as_state([np.repeat(part, m, axis=1) for part in states_of(state)])
        output, _ = self.decoder.forward(inputs.reshape(n * m, 1, units), repeated, training=training)
        return output.reshape(n * m, units)

    def _decoder_inputs(self, batch, training):
        """Put position beside series, and add the covariates: (n, m, D)."""
        n, m, units = len(batch.context), self.n_written, self.hidden_size
        inputs = np.zeros((n, m, units), self.dtype)
        inputs[:, :, : units - self.n_embedded] = self._position
        own = self._row_inputs(batch, training)
        if own is not None:
            inputs[:, :, -own.shape[1] :] += own[:, np.newaxis]
        if self.future is not None:
            inputs += self.future.forward(batch.future.reshape(n * m, -1), training).reshape(n, m, units)
        return inputs

    def _row_inputs(self, batch, training):
        """Return the last columns of the input, a row's own for all its segments; None if it has none."""
        series = None if self.series is None else self.series.forward(batch.series, training)
        if self.static is None:
            return series
        static = self.static.forward(batch.static, training)
        if series is not None:
            static[:, -self.n_embedded :] += series
        return static

    def _backward(self, draw: NDArray) -> None:
        """See `ForecastNetwork.backward`."""
        n, layout, width = len(draw), self.layout, self.n_channels * self.n_raw
        dwritten = np.zeros((n, self.n_written * layout.decode, width), self.dtype)
        dwritten[:, : layout.horizon] = draw.reshape(n, layout.horizon, width)
        dhidden = self.head.backward(dwritten.reshape(n * self.n_written, layout.decode * width))
        dstate = self._decode_backward(self.dropout.backward(dhidden))
        dembedded, _ = self.encoder.backward(None, dstate)  # overwrites the gradients that it shares
        for name, gradient in self.decoder.gradients.items():
            self._store[f"encoder.{name}"][1][...] += gradient
        self._embed_backward(dembedded)

    def _decode_backward(self, dhidden):
        """Go back through the steps, (n * m, D), to the state that they began at."""
        m, units = self.n_written, self.hidden_size
        own = units - self.n_embedded
        if isinstance(self.decoder, FanOut):
            self._dposition[...], drow, dstate = self.decoder.backward(dhidden)
            self._row_backward(drow)
            return dstate
        dinputs, drepeated = self.decoder.backward(dhidden[:, np.newaxis])
        np.sum(dinputs[:, :, :own].reshape(-1, m, own), axis=0, out=self._dposition)
        self._row_backward(dinputs.reshape(-1, m, units).sum(axis=1))
        if self.future is not None:
            self.future.backward(dinputs.reshape(-1, units), input_gradient=False)
        return as_state([part.reshape(len(part), -1, m, units).sum(axis=2) for part in states_of(drepeated)])

    def _row_backward(self, drow):
        """Fill the gradients of what `_row_inputs` is made from."""
        if self.series is not None:
            self.series.backward(drow[:, -self.n_embedded :])
        if self.static is not None:
            self.static.backward(drow, input_gradient=False)
