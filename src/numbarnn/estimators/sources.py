"""Sources of batches for training: arrays that hold all samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numbarnn.blocks import reach

if TYPE_CHECKING:
    from numbarnn.training import Batch, Source

__all__ = ["ArraySource", "Subset"]


class ArraySource:
    """Batches of arrays, gathered into buffers that are used again; the arrays are never copied as a whole.

    Whatever has n_timesteps may be `Sequences`, which are padded batch by batch; there are lengths then.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_timesteps, n_features)
        C-contiguous, of any number type.
    y : ndarray of shape (n_samples, ...)
    sample_weight : ndarray of shape (n_samples,) or (n_samples, n_timesteps), default=None
    lengths : ndarray of int of shape (n_samples,) or of bool of shape (n_samples, n_timesteps), default=None
        Number of valid steps of each sample, or which of them are valid.
    dtype : dtype, default="float32"
        What `x` and the weights are turned into, batch by batch.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.estimators.sources import ArraySource
    >>> source = ArraySource(np.zeros((10, 7, 2)), np.arange(10.0)[:, np.newaxis])
    >>> x, y, sample_weight, lengths = source.gather(np.array([3, 1]))
    >>> x.shape, x.dtype, y.ravel().tolist()
    ((2, 7, 2), dtype('float32'), [3.0, 1.0])
    """

    def __init__(self, x, y, sample_weight=None, lengths=None, dtype="float32") -> None:
        self.n_samples = len(x)
        self._x, self._y, self._lengths = x, y, lengths
        self._dtype = np.dtype(dtype)
        self._weight = None if sample_weight is None else sample_weight.astype(dtype)
        self._taken = self._batch = np.empty((0, *x.shape[1:]), dtype)

    def gather(self, indices: np.ndarray) -> Batch:
        """See `numbarnn.training.Source.gather`."""
        n = len(indices)
        weight = None if self._weight is None else self._weight[indices]  # [n] or [n, T]
        if self._lengths is not None:
            # no step beyond the longest sample of the batch is worth computing
            lengths, steps = steps_that_count(self._lengths, indices)
            y = self._y[indices, :steps] if self._y.ndim == 3 else self._y[indices]
            if weight is not None and weight.ndim == 2:
                weight = weight[:, :steps]
            return self._x[indices, :steps].astype(self._dtype, copy=False), y, weight, lengths
        if len(self._batch) < n:
            self._batch = np.empty((n, *self._x.shape[1:]), self._dtype)
            same = self._x.dtype == self._dtype
            self._taken = self._batch if same else np.empty(self._batch.shape, self._x.dtype)
        # the indices are known to be good; mode="raise" would gather into a buffer of its own first
        np.take(self._x, indices, axis=0, out=self._taken[:n], mode="clip")
        if self._taken is not self._batch:
            self._batch[:n] = self._taken[:n]
        return self._batch[:n], self._y[indices], weight, None


def steps_that_count(valid, rows):
    """Return which steps of some samples are valid, and how many steps there are up to the last such."""
    here = valid[rows, :] if valid.ndim == 2 else valid[rows]
    steps = reach(here)
    return here[:, :steps] if here.ndim == 2 else here, steps


class Subset:
    """Some samples of another source, as a source.

    Parameters
    ----------
    source : numbarnn.training.Source
    indices : ndarray of int of shape (n_samples,)
    """

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.n_samples = len(indices)
        self._source, self._indices = source, indices

    def gather(self, indices: np.ndarray) -> Batch:
        """See `numbarnn.training.Source.gather`."""
        return self._source.gather(self._indices[indices])
