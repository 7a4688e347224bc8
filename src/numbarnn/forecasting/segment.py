"""`SegmentNetwork`: segments of the context are read one by one, those of the forecast written all at once.

References
----------
.. [1] Lin, Lin, Wu, Zhao, Mo and Zhang, "SegRNN: segment recurrent neural network for long-term time series
   forecasting" (2023), arXiv 2308.11200: equations 2 to 5, and "parallel multi-step forecasting".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numbarnn.forecasting.base import ForecastNetwork, as_state, states_of
from numbarnn.forecasting.blocks import dense_shapes
from numbarnn.forecasting.windows import Batch

__all__ = ["SegmentNetwork"]


class SegmentNetwork(ForecastNetwork):
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

    def _input_size(self) -> int:
        return self.hidden_size

    @property
    def n_written(self) -> int:
        """Number of segments of the forecast."""
        return -(-self.layout.horizon // self.layout.decode)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        layout, units = self.layout, self.hidden_size
        shapes = dense_shapes("embed", layout.segment * self.n_features, units)
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
        # the encoder's parameters once more: an object keeps the tape of one forward
        self.decoder = self._recurrent(0)
        self._shared = np.zeros(self.decoder.n_parameters, self.dtype)
        self.decoder.bind(self._store.flat("encoder.")[0], self._shared)
        self._parts.append(self.decoder)

    def _forward(self, batch: Batch, training: bool) -> NDArray:
        """See `ForecastNetwork.forward`."""
        n, steps, width = batch.context.shape
        embedded = self.embed.forward(batch.context.reshape(n * steps, width), training)
        _, state = self.encoder.forward(
            embedded.reshape(n, steps, -1), lengths=batch.lengths, training=training, return_output=False
        )
        hidden = self.dropout.forward(self._decode(batch, state, training), training)  # (n * m, D)
        written = self.head.forward(hidden, training).reshape(n, -1, self.n_channels * self.n_raw)
        return np.ascontiguousarray(written[:, : self.layout.horizon])

    def _decode(self, batch, state, training):
        """Take one step for each segment of the forecast, from the same state: (n * m, D)."""
        inputs = self._decoder_inputs(batch, training)
        n, m, units = inputs.shape
        repeated = as_state([np.repeat(part, m, axis=1) for part in states_of(state)])
        output, _ = self.decoder.forward(inputs.reshape(n * m, 1, units), repeated, training=training)
        return output.reshape(n * m, units)

    def _decoder_inputs(self, batch, training):
        """Put position beside series, and add the covariates: (n, m, D)."""
        n, m, units = len(batch.context), self.n_written, self.hidden_size
        own = units - self.n_embedded
        inputs = np.empty((n, m, units), self.dtype)
        inputs[:, :, :own] = self._position
        if self.series is not None:
            inputs[:, :, own:] = self.series.forward(batch.series, training)[:, np.newaxis]
        if self.static is not None:
            inputs += self.static.forward(batch.static, training)[:, np.newaxis]
        if self.future is not None:
            inputs += self.future.forward(batch.future.reshape(n * m, -1), training).reshape(n, m, units)
        return inputs

    def _backward(self, draw: NDArray) -> None:
        """See `ForecastNetwork.backward`."""
        n, layout, width = len(draw), self.layout, self.n_channels * self.n_raw
        dwritten = np.zeros((n, self.n_written * layout.decode, width), self.dtype)
        dwritten[:, : layout.horizon] = draw.reshape(n, layout.horizon, width)
        dhidden = self.head.backward(dwritten.reshape(n * self.n_written, layout.decode * width))
        dstate = self._decode_backward(self.dropout.backward(dhidden))
        dembedded, _ = self.encoder.backward(None, dstate)  # overwrites the gradients that it shares
        self._store.flat("encoder.")[1][...] += self._shared
        self.embed.backward(dembedded.reshape(-1, self.hidden_size), input_gradient=False)

    def _decode_backward(self, dhidden):
        """Go back through the steps, (n * m, D), to the state that they began at."""
        m, units = self.n_written, self.hidden_size
        dinputs, drepeated = self.decoder.backward(dhidden[:, np.newaxis])
        self._inputs_backward(dinputs.reshape(-1, m, units))
        return as_state([part.reshape(len(part), -1, m, units).sum(axis=2) for part in states_of(drepeated)])

    def _inputs_backward(self, dinputs):
        """Fill the gradients of all that the decoder's inputs are made from."""
        own = self.hidden_size - self.n_embedded
        np.sum(dinputs[:, :, :own], axis=0, out=self._dposition)
        of_row = dinputs.sum(axis=1)
        if self.series is not None:
            self.series.backward(of_row[:, own:])
        if self.static is not None:
            self.static.backward(of_row, input_gradient=False)
        if self.future is not None:
            self.future.backward(dinputs.reshape(-1, self.hidden_size), input_gradient=False)
