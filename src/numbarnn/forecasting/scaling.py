"""Scales: of whole series (`Standardizer`), of covariates (`CovariateScaler`), of windows (`Normalizer`).

All statistics are of training steps, or of a window's context, only.

Shapes: R = n_series * C rows (a row is one channel of one series), S steps of all series together, n windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from .series import SeriesSet

__all__ = ["CovariateScaler", "Filled", "Normalizer", "ScaledCovariates", "Standardizer"]

# a window that does not move is divided by this part of the deviation of its series, not by zero
MINIMUM_SCALE = 1e-3
# a series that is constant in training is divided by this part of its size: it may move later on
CONSTANT_SCALE = 0.1
# rounding leaves a constant series a deviation; what is below this part of its size is none
ROUNDING = 1e-12


class Filled(NamedTuple):
    """Standardised values without holes.

    Attributes
    ----------
    values : ndarray of shape (C * S,)
        As `SeriesSet.values`; a missing value is the last one before it, or where there is none the first
        after it.
    observed : ndarray of bool of shape (C * S,) or None
        Where the values are true ones; None if everywhere.
    """

    values: np.ndarray
    observed: np.ndarray | None


class Standardizer(NamedTuple):
    """Centre and scale of each row.

    Attributes
    ----------
    center, scale : ndarray of float64 of shape (R,)

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.scaling import Standardizer
    >>> scaler = Standardizer(center=np.array([10.0, 0.0]), scale=np.array([2.0, 1.0]))
    >>> scaler.inverse(np.ones((1, 3, 1)), np.array([[0]]))[0, :, 0].tolist()
    [12.0, 12.0, 12.0]
    """

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(
        cls, data: SeriesSet, ends: np.ndarray, method: str | None, size: float | None = None
    ) -> Self:
        """Find mean and standard deviation of what was observed in training.

        Parameters
        ----------
        data : SeriesSet
        ends : ndarray of int of shape (n_series,)
            Steps of each series that belong to training.
        method : str or None
            Method of the `Normalizer`. For None and "mean", which take values as they are, centre 0 and
            scale 1.
        size : float or None, default=None
            Size of rows of zeros; None: the median scale of the rows that move, or 1.

        Returns
        -------
        Standardizer
            Rows that are constant have a tenth of their size as scale, so that units do not matter; rows
            without an observed value have centre 0.
        """
        center, scale = np.zeros(data.n_rows), np.ones(data.n_rows)
        if method in (None, "mean"):
            return cls(center, scale)
        for row in range(data.n_rows):
            values = data.row(row)[: ends[row // data.n_channels]]
            center[row], scale[row] = _moments(values)
        still = scale == 0
        if still.any():
            size = size or (1.0 if still.all() else np.median(scale[~still]))
            level = np.abs(center[still])
            scale[still] = CONSTANT_SCALE * np.where(level > 0, level, size)
        return cls(center, scale)

    def transform(self, data: SeriesSet, dtype: str | np.dtype) -> Filled:
        """Standardise in float64, then round to `dtype`, and fill the holes.

        Parameters
        ----------
        data : SeriesSet
            With as many rows as the one fitted on (see `take`).
        dtype : dtype of the result

        Returns
        -------
        Filled

        Raises
        ------
        ValueError
            If the number of rows is another one, or a value is too far from those of training for `dtype`.
        """
        if data.n_rows != len(self.center):
            raise ValueError(f"data has {data.n_rows} rows; expected {len(self.center)}, as in fit")
        values = np.empty(data.values.shape, dtype)
        position = 0
        for row in range(data.n_rows):
            source = data.row(row)
            # float64 first: a level of 1e9 leaves nothing of the movement in float32
            with np.errstate(over="ignore"):
                part = (source - self.center[row]) / self.scale[row]
            if max(np.fmax.reduce(part, initial=0), -np.fmin.reduce(part, initial=0)) > np.finfo(dtype).max:
                far = source[np.nanargmax(np.abs(part))]
                raise ValueError(
                    f"the value {far:g} is too far for {np.dtype(dtype)} from those of training, which are "
                    f"about {self.center[row]:g} with a deviation of {self.scale[row]:g}"
                )
            values[position : position + len(source)] = part
            position += len(source)
        observed = None
        if data.has_missing:
            observed = ~np.isnan(data.values)
            _fill(values, observed, np.repeat(data.lengths, data.n_channels))
        return Filled(values, observed)

    def inverse(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Bring standardised values back to the scale of the data.

        Parameters
        ----------
        values : ndarray of shape (n, h, C, ...)
        rows : ndarray of int of shape (n, C)

        Returns
        -------
        ndarray of float64 of the shape of `values`
        """
        shape = (len(rows), 1, -1) + (1,) * (np.ndim(values) - 3)
        return values * self.scale[rows].reshape(shape) + self.center[rows].reshape(shape)

    def take(self, rows: np.ndarray) -> Self:
        """Return the scales of some rows, in their order."""
        return type(self)(self.center[rows], self.scale[rows])


@dataclass(frozen=True)
class Normalizer:
    """Shift and scale of each window, found from its context alone.

    Parameters
    ----------
    method : {"last", "window", "standard", "mean", None}
        "last" subtracts the last observed value of the context; "window" subtracts its mean and divides by
        its standard deviation; "mean" divides by one plus the mean size of its values, as is right for
        counts; the others leave the window as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.scaling import Normalizer
    >>> context = np.array([1.0, 2.0, 6.0]).reshape(1, 3, 1)
    >>> [array.item() for array in Normalizer("last")(context)]
    [6.0, 1.0]
    >>> [array.item() for array in Normalizer("mean")(context)]
    [0.0, 4.0]
    """

    method: str | None
    least: ClassVar[float] = MINIMUM_SCALE  # of the scales of "window"

    @property
    def betrays_context(self) -> bool:
        """Whether a normalised context is known before it is read: its end, the last value, is then 0.

        The mean and deviation of a window say less of each step, and training on its context helps.
        """
        return self.method == "last"

    def __call__(
        self, context: np.ndarray, observed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return centre and scale.

        Parameters
        ----------
        context : ndarray of shape (..., L, C)
        observed : ndarray of bool of shape (..., L, C), default=None
            What counts; None: everything. Where nothing does, the last value and `MINIMUM_SCALE` stand in.

        Returns
        -------
        center, scale : ndarray of shape (..., 1, C)
        """
        last = context[..., -1:, :]
        if self.method == "last":
            if observed is not None:
                # first True from the end; index 0 (the last value) where nothing was observed
                back = np.argmax(observed[..., ::-1, :], axis=-2, keepdims=True)
                last = np.take_along_axis(context, context.shape[-2] - 1 - back, axis=-2)
            return last.copy(), np.ones_like(last)
        if self.method not in ("window", "mean"):
            return np.zeros_like(last), np.ones_like(last)
        if observed is None:
            weight, count = None, context.dtype.type(context.shape[-2])
        else:
            weight = observed.astype(context.dtype)
            count = weight.sum(axis=-2, keepdims=True)

        def mean(values, nothing):
            values = values if weight is None else values * weight
            total = values.sum(axis=-2, keepdims=True)
            return np.where(count > 0, total / np.maximum(count, 1), nothing)

        zero = np.zeros_like(last)
        if self.method == "mean":
            return zero, 1 + mean(np.abs(context), zero)
        center = mean(context, last)
        deviation = np.sqrt(mean(np.square(context - center), zero))
        return center, np.maximum(deviation, context.dtype.type(self.least))


class ScaledCovariates(NamedTuple):
    """Covariates in the network's dtype.

    Attributes
    ----------
    past : ndarray of shape (S, P) or None
    future : ndarray of shape (S, F) or None
    static : ndarray of shape (n_series, n_static) or None
    """

    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None


class CovariateScaler(NamedTuple):
    """Centre and scale of the columns of each kind of covariate.

    A column of nothing but zeros and ones is left as it is; a constant one is only shifted.

    Attributes
    ----------
    past, future, static : tuple of (ndarray of shape (P,), ndarray of shape (P,)) or None
        Centre and scale; None where there are no such covariates.
    """

    past: tuple[np.ndarray, np.ndarray] | None = None
    future: tuple[np.ndarray, np.ndarray] | None = None
    static: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def fit(cls, data: SeriesSet, ends: np.ndarray) -> Self:
        """Find the scales over the first ``ends[i]`` steps of each series (static ones: over all series).

        Parameters
        ----------
        data : SeriesSet
        ends : ndarray of int of shape (n_series,)

        Returns
        -------
        CovariateScaler
        """
        step = np.arange(data.offsets[-1]) - np.repeat(data.offsets[:-1], data.lengths)
        training = step < np.repeat(ends, data.lengths)
        timed = [None if a is None else _column_scales(a[training]) for a in (data.past, data.future)]
        return cls(*timed, None if data.static is None else _column_scales(data.static))

    def transform(self, data: SeriesSet, dtype: str | np.dtype) -> ScaledCovariates:
        """Scale all covariates of `data`."""
        return ScaledCovariates(*(self.apply(kind, getattr(data, kind), dtype) for kind in self._fields))

    def apply(self, kind: str, values: np.ndarray | None, dtype: str | np.dtype) -> np.ndarray | None:
        """Scale covariates of one kind, "past", "future" or "static", of shape (..., columns)."""
        scales = getattr(self, kind)
        if scales is None or values is None:
            return None
        return ((values - scales[0]) / scales[1]).astype(dtype)


def below_one(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Divide finite values by a power of two, so that they can be squared; return it as its exponent too.

    It changes no bit of what is computed of them; squares of values as large as 1e160 would be infinite.

    >>> import numpy as np
    >>> from numbarnn.forecasting.scaling import below_one
    >>> values, exponent = below_one(np.array([-3.0, 1.0]))
    >>> values.tolist(), int(exponent)
    ([-0.75, 0.25], 2)
    """
    exponent = np.frexp(max(values.max(), -values.min()))[1]
    return np.ldexp(values, -exponent), exponent


def _moments(values):
    """Mean and standard deviation of what is not NaN; deviation 0 of constants."""
    if np.isnan(values).any():
        values = values[~np.isnan(values)]
    if not len(values):
        return 0.0, 0.0
    values, exponent = below_one(values)
    deviation = values.std()
    constant = deviation <= ROUNDING * np.abs(values).max()
    return np.ldexp(values.mean(), exponent), 0.0 if constant else np.ldexp(deviation, exponent)


def _column_scales(columns):
    """Centre and scale of each column of (N, k)."""
    center, scale = np.zeros(columns.shape[1]), np.ones(columns.shape[1])
    for k, column in enumerate(columns.T):
        if not np.isin(column, (0.0, 1.0)).all():
            center[k], scale[k] = _moments(column)
    return center, np.where(scale > 0, scale, 1.0)


def _fill(values, observed, lengths):
    """Carry values forward over what is not observed, in place; before a row's first, carry that back."""
    starts = np.cumsum(lengths) - lengths
    source = np.where(observed, np.arange(len(values)), -1)
    np.maximum.accumulate(source, out=source)
    ours = np.repeat(starts, lengths)
    where = np.append(np.flatnonzero(observed), len(values))
    # the first observed value from the row's start on; it may be another row's, if the row has none
    first = where[np.searchsorted(where, starts)]
    first = np.where(first < starts + lengths, first, starts)
    np.copyto(source, np.repeat(first, lengths), where=source < ours)
    values[:] = values[source]
    values[np.isnan(values)] = 0  # rows without any
