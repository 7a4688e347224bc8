"""`DirectNetwork`: one dense head for the whole horizon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numbarnn.blocks import states_of
from numbarnn.forecasting.base import SegmentReader, top_gradient
from numbarnn.forecasting.windows import Batch
from numbarnn.parameters import dense_shapes

__all__ = ["DirectNetwork"]


class DirectNetwork(SegmentReader):
    """Segment-wise encoder, and one dense layer from what it found to the whole forecast.

    The head reads the last state of the top layer, the vector of the series, static covariates, and a dense
    layer with a rectifier of all that is known of the future.

    Parameters
    ----------
    layout, n_channels, n_raw, n_ids, widths, cell, hidden_size, num_layers, dropout
    series_embedding, dtype, random_state, n_jobs
        See `numbarnn.forecasting.base.ForecastNetwork`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.direct import DirectNetwork
    >>> from numbarnn.forecasting.windows import Batch, Layout
    >>> network = DirectNetwork(Layout(96, 48, 24, 24), n_channels=1, hidden_size=8, random_state=0)
    >>> batch = Batch(np.zeros((5, 4, 24), "float32"), None, np.zeros(5, "int64"))
    >>> network.forward(batch).shape
    (5, 48, 1)
    """

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        layout, units, widths = self.layout, self.hidden_size, self.widths
        shapes = self._embed_shapes()
        n_read = units + self.n_embedded + widths.static
        if widths.future:
            steps = -(-layout.horizon // layout.decode) * layout.decode
            shapes |= dense_shapes("future", steps * widths.future, units)
            n_read += units
        return shapes | dense_shapes("head", n_read, layout.horizon * self.n_channels * self.n_raw)

    def _build(self) -> None:
        self.embed, self.head = self._dense("embed", relu=True), self._dense("head")
        self.future = self._dense("future", relu=True) if self.widths.future else None

    def _forward(self, batch: Batch, training: bool) -> NDArray:
        """See `ForecastNetwork.forward`."""
        n, self._state = len(batch.context), self._read(batch, training)
        parts = [states_of(self._state)[0][-1]]
        if self.series is not None:
            parts.append(self.series.forward(batch.series, training))
        if self.widths.static:
            parts.append(batch.static)
        if self.future is not None:
            parts.append(self.future.forward(batch.future.reshape(n, -1), training))
        read = np.concatenate(parts, axis=1)
        return self.head.forward(self.dropout.forward(read, training), training)

    def _backward(self, draw: NDArray) -> None:
        """See `ForecastNetwork.backward`."""
        units = self.hidden_size
        dread = self.dropout.backward(self.head.backward(draw.reshape(len(draw), -1)))
        dembedded, _ = self.encoder.backward(None, top_gradient(dread[:, :units], self._state))
        self._embed_backward(dembedded)
        if self.series is not None:
            self.series.backward(dread[:, units : units + self.n_embedded])
        if self.future is not None:
            self.future.backward(dread[:, -units:], input_gradient=False)
