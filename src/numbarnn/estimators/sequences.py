"""Sequences of unequal length, without padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numbarnn.blocks import valid_steps

__all__ = ["Sequences", "all_steps", "on_steps"]


class Sequences:
    """What stands in place of an array (n_samples, n_timesteps, ...) whose samples differ in length.

    All steps lie one behind the other, so that one long sequence among short ones costs its own steps and not
    as many in every sample. Indexed by rows it gives some of the sequences; by rows and ``:stop`` an array of
    them, zero past their ends, as is also assigned to.

    Parameters
    ----------
    steps : ndarray of shape (sum of lengths, ...)
    lengths : ndarray of int of shape (n_samples,)
        Steps of each sequence, from 1.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.estimators.sequences import Sequences
    >>> sequences = Sequences(np.arange(1, 7), np.array([1, 3, 2]))
    >>> sequences.shape
    (3, 3)
    >>> sequences[[2, 0], :2]
    array([[5, 6],
           [1, 0]])
    """

    def __init__(self, steps: NDArray, lengths: NDArray) -> None:
        self.steps, self.lengths = steps, lengths
        self._starts = np.cumsum(lengths) - lengths
        self.shape = (len(lengths), int(lengths.max()), *steps.shape[1:])
        self.dtype, self.ndim = steps.dtype, len(self.shape)

    @classmethod
    def unpadded(cls, array: NDArray, lengths: NDArray) -> Sequences:
        """Take what an array (n_samples, n_timesteps, ...) holds up to the ends of its samples."""
        return cls(array[valid_steps(lengths, array.shape[1])], lengths)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[NDArray]:
        """Yield each sequence, as a view."""
        return iter(self._views(slice(None)))

    def _views(self, rows: Any, stop: int | None = None) -> list[NDArray]:
        places = zip(self._starts[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        return [self.steps[start : start + n][:stop] for start, n in places]

    def __getitem__(self, index: Any) -> Sequences | NDArray:
        """Return the sequences of some rows, or with ``[rows, :stop]`` an array of their first steps."""
        if not isinstance(index, tuple):
            return Sequences(np.concatenate(self._views(index)), self.lengths[index])
        rows, stop = index[0], index[1].stop
        lengths = self.lengths[rows]
        padded = np.zeros((len(lengths), stop or lengths.max(), *self.shape[2:]), self.dtype)
        for row, view in zip(padded, self._views(rows, stop), strict=True):
            row[: len(view)] = view
        return padded

    def __setitem__(self, index: tuple[Any, slice], padded: NDArray) -> None:
        """Take the steps of some rows from an array; what it has past their ends is left out."""
        rows, steps = index
        for row, view in zip(padded, self._views(rows, steps.stop), strict=True):
            view[...] = row[: len(view)]

    def sum(self, axis: int | None = None) -> Any:
        """Return the sum of all steps, or with ``axis=1`` of each sequence."""
        if axis is None:
            return self.steps.sum()
        return np.add.reduceat(self.steps, self._starts, dtype=np.result_type(self.dtype, np.intp))

    def astype(self, dtype: DTypeLike, copy: bool = True) -> Sequences:
        """See `numpy.ndarray.astype`."""
        return Sequences(self.steps.astype(dtype, copy=copy), self.lengths)


def all_steps(array: NDArray | Sequences) -> NDArray:
    """Return an array as it is, and of sequences all steps one behind the other."""
    return array.steps if isinstance(array, Sequences) else array


def on_steps(function: Callable, array: NDArray | Sequences, *per_sample: NDArray) -> NDArray | Sequences:
    """Apply a function that treats every step alike.

    Parameters
    ----------
    function : callable
        ``function(steps, *values)``, on arrays that broadcast against each other.
    array : ndarray of shape (n_samples, n_timesteps, ...) or Sequences
    per_sample : ndarray of shape (n_samples,)
        Values that all steps of a sample have in common; for an array without further dimensions.
    """
    if isinstance(array, Sequences):
        values = [np.repeat(each, array.lengths) for each in per_sample]
        return Sequences(function(array.steps, *values), array.lengths)
    return function(array, *(each[:, np.newaxis] for each in per_sample))
