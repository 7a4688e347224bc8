"""`RecursiveNetwork`: one step at a time, on what was there in training, on its own output in prediction.

References
----------
.. [1] Salinas, Flunkert, Gasthaus and Januschowski, "DeepAR: probabilistic forecasting with autoregressive
   recurrent networks", International Journal of Forecasting 36 (2020), 1181-1191: section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from numbarnn.blocks import as_state, states_of
from numbarnn.forecasting.base import ForecastNetwork
from numbarnn.forecasting.windows import Batch
from numbarnn.parameters import dense_shapes
from numbarnn.recurrent import State

__all__ = ["RecursiveNetwork"]


class RecursiveNetwork(ForecastNetwork):
    """Recurrent layers over single steps, with a dense head on each: a step's output is of the next value.

    The input of a step is that of `Batch.context` with the vector of the series and static covariates behind
    it. In training the whole window is read at once (teacher forcing). For a forecast, `generate` feeds back
    what was forecast, or a sample of it [1]_.

    Parameters
    ----------
    layout, n_channels, n_raw, n_ids, widths, cell, hidden_size, num_layers, dropout
    series_embedding, dtype, random_state, n_jobs
        See `numbarnn.forecasting.base.ForecastNetwork`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.recursive import RecursiveNetwork
    >>> from numbarnn.forecasting.windows import Batch, Layout
    >>> network = RecursiveNetwork(Layout(6, 4, 1, 1, stepwise=True), n_channels=1, hidden_size=8)
    >>> series = np.zeros(5, "int64")
    >>> network.forward(Batch(np.zeros((5, 9, 1), "float32"), None, series)).shape  # in training
    (5, 9, 1)
    >>> network.generate(Batch(np.zeros((5, 6, 1), "float32"), None, series), 4).shape
    (5, 4, 1)
    """

    def _input_size(self) -> int:
        return self.n_features + self.n_embedded + self.widths.static

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return dense_shapes("head", self.hidden_size, self.n_channels * self.n_raw)

    def _build(self) -> None:
        self.head = self._dense("head")

    def _forward(self, batch: Batch, training: bool) -> NDArray:
        """See `ForecastNetwork.forward`."""
        inputs = self._inputs(batch, training)
        self._shape = n, steps, _ = inputs.shape
        output, _ = self.encoder.forward(inputs, lengths=batch.lengths, training=training)
        hidden = self.dropout.forward(output.reshape(n * steps, -1), training)
        return self.head.forward(hidden, training)

    def _inputs(self, batch, training=False):
        """Put the vector of the series and static covariates behind what changes from step to step."""
        parts = [batch.context]
        if self.series is not None:
            parts.append(self.series.forward(batch.series, training)[:, np.newaxis])
        if self.widths.static:
            parts.append(batch.static[:, np.newaxis])
        steps = batch.context.shape[:2]
        return np.concatenate([np.broadcast_to(part, (*steps, part.shape[2])) for part in parts], axis=2)

    def _backward(self, draw: NDArray) -> None:
        """See `ForecastNetwork.backward`."""
        n, steps, _ = self._shape
        dhidden = self.head.backward(draw.reshape(n * steps, -1))
        doutput = self.dropout.backward(dhidden).reshape(n, steps, -1)
        dinputs, _ = self.encoder.backward(doutput, input_gradient=self.series is not None)
        if self.series is not None:
            start = self.n_features
            self.series.backward(dinputs[:, :, start : start + self.n_embedded].sum(axis=1))

    # ---- forecasts

    def start(self, batch: Batch) -> tuple[NDArray, State]:
        """Read the contexts.

        Parameters
        ----------
        batch : Batch
            Contexts of n rows, as for a prediction.

        Returns
        -------
        raw_output : ndarray of shape (n, C, K)
            Of the first step of the forecast.
        state : ndarray or tuple of ndarray
            For `step`.
        """
        _, state = self.encoder.forward(self._inputs(batch), lengths=batch.lengths, return_output=False)
        return self._raw(state, batch.offset), state

    def step(
        self, y_prev: NDArray, batch: Batch, state: State, future: NDArray | None = None
    ) -> tuple[NDArray, State]:
        """Advance by one step.

        Parameters
        ----------
        y_prev : ndarray of shape (n, C)
            Values of the step before, on the scale of the inputs.
        batch : Batch
            Contexts of the same rows; past covariates stay as they last were.
        state : ndarray or tuple of ndarray
            What `start` or the last `step` returned.
        future : ndarray of shape (n, F) or None, default=None
            Known-future covariates of this step.

        Returns
        -------
        raw_output : ndarray of shape (n, C, K)
        state : ndarray or tuple of ndarray
        """
        flags = self.n_channels + self.widths.observed
        row = np.empty((len(y_prev), 1, self.n_features), self.dtype)
        row[:, 0, : self.n_channels] = y_prev
        row[:, 0, self.n_channels : flags] = 1  # what was forecast counts as observed
        if self.widths.future:
            row[:, 0, flags : flags + self.widths.future] = future
        if self.widths.past:
            row[:, 0, -self.widths.past :] = self._last(batch)[:, -self.widths.past :]
        # not `Recurrent.step`: this one uses all threads, and a row has the bits that it has alone
        inputs = self._inputs(batch._replace(context=row))
        _, state = self.encoder.forward(inputs, state, return_output=False)
        return self._raw(state, batch.offset), state

    def _last(self, batch):
        """Return the last valid input of each context, (n, n_features)."""
        if batch.lengths is None:
            return batch.context[:, -1]
        return batch.context[np.arange(len(batch.context)), batch.lengths - 1]

    def _raw(self, state, offset):
        """Apply the head to h of the top layer: (n, C, K)."""
        raw = self.head.forward(np.ascontiguousarray(states_of(state)[0][-1]))
        raw = raw.reshape(len(raw), self.n_channels, self.n_raw)
        return raw if offset is None else raw + offset

    def generate(
        self, batch: Batch, n_steps: int, feed: Callable[[NDArray], NDArray] | None = None, n_paths: int = 1,
        scale: NDArray | None = None,
    ) -> NDArray:
        """Forecast step by step, each on what was made of the one before.

        Parameters
        ----------
        batch : Batch
            Contexts of n rows. ``batch.future`` has at least `n_steps` steps, if there are such covariates.
        n_steps : int
        feed : callable, default=None
            Makes values, of shape (N, C) or (N, C, 1), of a raw output (N, C, K), N = n * n_paths: the
            prediction of a loss, or a sample of a likelihood. None is the (first) raw output itself.
        n_paths : int, default=1
            How many forecasts are made of each row; they differ if `feed` draws them.
        scale : ndarray of shape (n, C) or broadcast to it, default=None
            What values are divided by before they are read (counts, which are forecast as they are); None: 1.

        Returns
        -------
        values : ndarray of shape (n, n_steps * C, n_paths)
            In the dtype that `feed` makes.

        Raises
        ------
        ValueError
            If ``batch.future`` has too few steps.
        """
        width = self.widths.future
        if width and (batch.future is None or batch.future.shape[1] < n_steps):
            shape = None if batch.future is None else batch.future.shape
            raise ValueError(f"batch.future had shape {shape}; expected (n, {n_steps}, {width})")
        n, channels = len(batch.context), self.n_channels
        raw, state = self.start(batch)
        # all that is still needed of the contexts is their last step
        last = batch._replace(context=self._last(batch)[:, np.newaxis], lengths=None, future=None)
        last = Batch(*(None if part is None else np.repeat(part, n_paths, axis=0) for part in last))
        raw = np.repeat(raw, n_paths, axis=0)
        state = as_state([np.repeat(part, n_paths, axis=1) for part in states_of(state)])
        divisor = 1 if scale is None else np.repeat(np.broadcast_to(scale, (n, channels)), n_paths, axis=0)
        values = []
        for k in range(n_steps):
            if k:
                future = np.repeat(batch.future[:, k], n_paths, axis=0) if width else None
                raw, state = self.step(values[-1] / divisor, last, state, future)
            made = raw[..., 0] if feed is None else np.asarray(feed(raw))
            values.append(made.reshape(n * n_paths, channels))
        return np.stack(values, axis=1).reshape(n, n_paths, -1).transpose(0, 2, 1)
