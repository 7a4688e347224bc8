"""Errors of forecasts and of their intervals. Missing truths (NaN) are left out of every mean.

All functions take arrays that broadcast, and an axis to take the mean over; None is all of them.

References
----------
.. [1] Hyndman and Koehler, "Another look at measures of forecast accuracy", International Journal of
   Forecasting 22 (2006), 679-688.
.. [2] Koenker and Bassett, "Regression quantiles", Econometrica 46 (1978), 33-50.
"""

from __future__ import annotations

import numpy as np

__all__ = ["bias", "coverage", "mae", "mase", "naive_error", "pinball", "rmse", "width"]

Axis = int | tuple[int, ...] | None


def mae(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> np.ndarray | float:
    """Return the mean absolute error.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.metrics import mae
    >>> float(mae(np.array([1.0, np.nan, 3.0]), np.array([2.0, 2.0, 5.0])))
    1.5
    """
    return _mean(np.abs(truth - forecast), axis)


def rmse(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> np.ndarray | float:
    """Return the root of the mean squared error."""
    return np.sqrt(_mean(np.square(truth - forecast), axis))


def bias(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> np.ndarray | float:
    """Return the mean of forecast minus truth: positive where forecasts are too high."""
    return _mean(forecast - truth, axis)


def mase(
    truth: np.ndarray, forecast: np.ndarray, naive: np.ndarray | float, axis: Axis = None
) -> np.ndarray | float:
    """Return the mean absolute scaled error [1]_.

    Parameters
    ----------
    truth, forecast : ndarray
    naive : ndarray or float
        `naive_error` of each series in training, in a shape that broadcasts. Where it is 0 or NaN the error
        has no scale and is left out.
    axis : int, tuple of int or None, default=None

    Returns
    -------
    ndarray or float
    """
    naive = np.asarray(naive, np.float64)
    return _mean(np.abs(truth - forecast) / np.where(naive > 0, naive, np.nan), axis)


def naive_error(values: np.ndarray, season_length: int = 1) -> float:
    """Return the mean absolute error of the forecast that repeats the last season, one season ahead [1]_.

    Parameters
    ----------
    values : ndarray of shape (n_timesteps,)
        One series in training; NaN is missing.
    season_length : int, default=1
        Steps; where the series has no two seasons, 1.

    Returns
    -------
    float
        NaN if no two values can be compared.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.metrics import naive_error
    >>> naive_error(np.array([1.0, 5.0, 2.0, 6.0]), 2)
    1.0
    """
    lag = season_length if len(values) >= 2 * season_length else 1
    return float(_mean(np.abs(values[lag:] - values[:-lag]), None))


def pinball(
    truth: np.ndarray, quantile: np.ndarray, level: float | np.ndarray, axis: Axis = None
) -> np.ndarray | float:
    """Return the pinball loss of a quantile [2]_ of a level between 0 and 1; of the median half the MAE.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.metrics import pinball
    >>> float(pinball(np.array([3.0]), np.array([1.0]), 0.9))
    1.8
    """
    error = truth - quantile
    return _mean(np.maximum(level * error, (level - 1) * error), axis)


def coverage(
    truth: np.ndarray, lower: np.ndarray, upper: np.ndarray, axis: Axis = None
) -> np.ndarray | float:
    """Return the part of the truths that lie within their bounds, these included.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.metrics import coverage
    >>> float(coverage(np.array([1.0, 5.0, np.nan]), 0.0, 2.0))
    0.5
    """
    inside = ((truth >= lower) & (truth <= upper)).astype(np.float64)
    return _mean(np.where(np.isnan(truth), np.nan, inside), axis)


def width(lower: np.ndarray, upper: np.ndarray, axis: Axis = None) -> np.ndarray | float:
    """Return the mean width of intervals."""
    return _mean(upper - lower, axis)


def _mean(values, axis):
    """Mean of what is not NaN; NaN, without a warning, where nothing is."""
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)[()]
