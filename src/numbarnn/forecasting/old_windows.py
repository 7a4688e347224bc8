"""Windows of a long series: pairs of a context and what follows it, cut out when they are asked for.

`ArraySource` is a `numbarnn.training.Source`.

Shapes: B windows in a batch, L context length, C channels, H horizon, S segment length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# TODO: delete this module with the forecaster of one array, its last user
__all__ = ["ArraySource", "Normalizer", "to_segments"]

# a window that does not move is divided by this part of the deviation of its series, not by zero
MINIMUM_SCALE = 1e-3


@dataclass(frozen=True)
class Normalizer:
    """Shift and scale of each window, found from its context alone.

    Parameters
    ----------
    method : {"last", "window", "standard", None}
        "last" subtracts the last value of the context; "window" subtracts its mean and divides by its
        standard deviation; the others leave the window as it is.
    """

    method: str | None

    def __call__(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return centre and scale of contexts [..., L, C], each [..., 1, C]."""
        if self.method == "last":
            return context[..., -1:, :], np.ones_like(context[..., -1:, :])
        if self.method == "window":
            scale = context.std(axis=-2, keepdims=True)
            return context.mean(axis=-2, keepdims=True), np.maximum(scale, MINIMUM_SCALE)
        zero = np.zeros_like(context[..., -1:, :])
        return zero, zero + 1


def to_segments(context: np.ndarray, segment_length: int) -> np.ndarray:
    """Cut contexts into segments: one step of the network reads one segment.

    Where the length of the context is no multiple of `segment_length`, the first segment is filled up with
    the oldest value.

    Parameters
    ----------
    context : ndarray of shape (n_windows, n_timesteps, n_channels)
    segment_length : int

    Returns
    -------
    ndarray of shape (n_windows, ceil(n_timesteps / segment_length), segment_length * n_channels)

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.old_windows import to_segments
    >>> to_segments(np.arange(5.0).reshape(1, 5, 1), 2)
    array([[[0., 0.],
            [1., 2.],
            [3., 4.]]])
    """
    n_windows, n_timesteps, n_channels = context.shape
    missing = -n_timesteps % segment_length
    if missing:
        oldest = np.broadcast_to(context[:, :1], (n_windows, missing, n_channels))
        context = np.concatenate([oldest, context], axis=1)
    return np.ascontiguousarray(context).reshape(n_windows, -1, segment_length * n_channels)


@dataclass
class ArraySource:
    """Training windows as views into a series; only the windows of one batch are ever copied.

    Parameters
    ----------
    series : ndarray of shape (n_timesteps, n_channels)
    context_length, horizon, segment_length : int
    normalizer : Normalizer
    joint : bool
        True: a sample is a window of all channels. False: a sample is a window of one channel, and there are
        n_channels times as many.

    Attributes
    ----------
    n_samples : int

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.old_windows import ArraySource, Normalizer
    >>> source = ArraySource(np.arange(8.0)[:, None], 4, 2, 2, Normalizer("last"), joint=False)
    >>> source.n_samples
    3
    >>> x, y, _, _ = source.gather(np.array([1]))
    >>> x.tolist(), y.tolist()
    ([[[-3.0, -2.0], [-1.0, 0.0]]], [[1.0, 2.0]])
    """

    series: np.ndarray
    context_length: int
    horizon: int
    segment_length: int
    normalizer: Normalizer
    joint: bool
    n_samples: int = field(init=False)

    def __post_init__(self) -> None:
        """Lay the windows over the series."""
        # [n_windows, C, L + H]: a view, no copy
        self._windows = sliding_window_view(self.series, self.context_length + self.horizon, axis=0)
        self.n_samples = len(self._windows) * (1 if self.joint else self.series.shape[1])

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, None, None]:
        """Copy out the samples of one batch.

        Parameters
        ----------
        indices : ndarray of int of shape (n,)
            Numbers of samples, from 0 to `n_samples` - 1.

        Returns
        -------
        x : ndarray of shape (n, n_segments, n_inputs)
            Normalised contexts in segments.
        y : ndarray of shape (n, n_outputs)
            What followed them, on the same scale; n_outputs is horizon, times n_channels when `joint`.
        sample_weight, lengths : None
            All windows count the same and are equally long.
        """
        if self.joint:
            window = self._windows[indices].transpose(0, 2, 1)  # [B, L + H, C]
        else:
            channel, start = np.divmod(indices, len(self._windows))
            window = self._windows[start, channel][:, :, np.newaxis]
        context, future = window[:, : self.context_length], window[:, self.context_length :]
        center, scale = self.normalizer(context)
        x = to_segments((context - center) / scale, self.segment_length)
        y = (future - center) / scale
        return x, np.ascontiguousarray(y).reshape(len(y), -1), None, None
