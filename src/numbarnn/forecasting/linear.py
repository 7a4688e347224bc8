"""`LinearForecast`: a linear model of windows, and how much a network's forecasts count beside its own.

Letters: n windows, L context, H horizon, C channels, E = H * C elements of a forecast.

References
----------
.. [1] Toner and Darlow, "An analysis of linear time series forecasting models", ICML 2024, arXiv 2403.14587:
   the linear forecasters in use are ordinary regressions, and best found in closed form.
.. [2] Bates and Granger, "The combination of forecasts", Operational Research Quarterly 20 (1969), 451-468.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels.dense import Products

from .windows import WindowSource

if TYPE_CHECKING:
    from .model import ForecastModel
    from .windows import Batch

__all__ = ["LinearForecast", "Moments", "best_map", "fit_linear", "ridge"]

# strengths that are tried, as parts of the mean variance of a step of the context
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
USUAL = 0.3  # where nothing is held out to choose by
MOST = 2**15  # contexts of one channel that are looked at
CHUNK = 2**11  # windows that are looked at together
REACH = 2048  # steps of a longer context that are read: the time goes with their third power


class LinearForecast(NamedTuple):
    """A linear model, and the share of a network in means of both.

    Attributes
    ----------
    weights : ndarray of shape (L, H)
        What the normalised values of one channel's context are multiplied by, the same for all channels.
    share : float
        Of the network's forecasts, from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import LinearForecast
    >>> linear = LinearForecast(np.array([[0.0], [2.0]]), share=0.25)
    >>> linear.combine(np.array([[10.0]]), np.array([[[5.0], [1.0]]]))
    array([[4.]])
    """

    weights: NDArray
    share: float

    def forecast(self, values: NDArray, n_jobs: int | None = None) -> NDArray:
        """Forecast contexts.

        Parameters
        ----------
        values : ndarray of shape (n, L, C)
            Normalised, in the dtype of the weights.
        n_jobs : int or None, default=None
            Number of threads; bits are the same for every number, and for every n.

        Returns
        -------
        ndarray of shape (n, E)
        """
        n, _, n_channels = values.shape
        found = Products(self.weights.dtype, most=1)(_lines(values), self.weights, n_jobs)
        return found.reshape(n, n_channels, -1).swapaxes(1, 2).reshape(n, -1)

    def combine(self, forecasts: NDArray, values: NDArray, n_jobs: int | None = None) -> NDArray:
        """Return means of a network's forecasts (n, E) and those of the contexts; see `forecast`."""
        own = self.forecast(values, n_jobs)
        return own + own.dtype.type(self.share) * (forecasts - own)


class Moments(NamedTuple):
    """Mean products of contexts, of contexts and what followed, and of what followed.

    Attributes
    ----------
    xx : ndarray of float64 of shape (L, L)
    xy : ndarray of float64 of shape (L, H)
    yy : ndarray of float64 of shape (H,)
        Of what was observed of a step; the contexts count in any case.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import Moments, ridge
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> y = x @ [[2.0], [-1.0]]
    >>> moments = Moments(x.T @ x / 100, x.T @ y / 100, np.square(y).mean(axis=0))
    >>> (found,) = ridge(moments, [1e-9], centered=False)
    >>> np.round(found.ravel(), 6).tolist(), bool(abs(moments.error(found)) < 1e-9)
    ([2.0, -1.0], True)
    """

    xx: NDArray
    xy: NDArray
    yy: NDArray

    @classmethod
    def of(cls, source: WindowSource, n_jobs: int | None = None) -> Self:
        """Take them of the windows of a source, or of some if they are many.

        Parameters
        ----------
        source : WindowSource
            With at least one sample.
        n_jobs : int or None, default=None

        Returns
        -------
        Moments
        """
        context, horizon = min(source.layout.context, REACH), source.layout.horizon
        xx, xy = np.zeros((context, context)), np.zeros((context, horizon))
        yy, counts, n_rows = np.zeros(horizon), np.zeros(horizon), 0
        products = Products(source.dtype, most=4)
        for batch, y, observed in _batches(source):
            x = _lines(batch.values)[:, -context:]
            y, observed = (_lines(each.reshape(len(y), horizon, -1)) for each in (y, observed))
            xx += products(x.T, x, n_jobs, transposed=True)
            xy += products(x.T, y, n_jobs, transposed=True)
            yy += np.square(y, dtype=np.float64).sum(axis=0)
            counts += observed.sum(axis=0)
            n_rows += len(x)
        counts = np.maximum(counts, 1)
        return cls(xx / n_rows, xy / counts, yy / counts)

    def error(self, weights: NDArray) -> float:
        """Return the mean squared error of a linear model."""
        return float((self.yy - ((2 * self.xy - self.xx @ weights) * weights).sum(axis=0)).mean())


def fit_linear(
    model: ForecastModel, training: WindowSource, validation: WindowSource | None
) -> LinearForecast | None:
    """Find a linear model, and the share of a trained network whose means with it are best.

    Parameters
    ----------
    model : ForecastModel
        Without a linear forecast.
    training, validation : WindowSource
        `validation` is what the share has the least squared error on, and the penalty of the regression;
        None: both have equal parts.

    Returns
    -------
    LinearForecast or None
        None if the network alone is best.
    """
    n_jobs = model.network.n_jobs
    linear = LinearForecast(best_map(training, validation, n_jobs), 0.5)
    if validation is None:
        return linear
    sums = np.zeros(4)  # of d d, d e, e e, 1: d from the linear model to the network, e from it to the truth
    for batch, y, observed in _batches(validation):
        own = linear.forecast(batch.values, n_jobs)
        d, e = (((each - own) * observed).ravel() for each in (model.middle(model.predict(batch)), y))
        sums += d @ d, d @ e, e @ e, np.count_nonzero(observed)
    share = _share(*sums.tolist(), validation.layout.horizon)
    return linear._replace(share=share) if share < 1 else None


def _share(dd: float, de: float, ee: float, count: float, horizon: int) -> float:
    """Return the share with the least squared error, drawn to a half where there is little to judge by.

    As if it were known before to be 0.5, plus or minus 0.5. The windows overlap, so that as many as the
    horizon is long count as one.
    """
    if dd == 0:
        return 1.0
    variance = max(ee - de * de / dd, 0.0) / count  # of errors that no share takes away
    known = horizon * variance / 0.5**2
    return min(max((de + 0.5 * known) / (dd + known), 0.0), 1.0)


def best_map(training: WindowSource, validation: WindowSource | None, n_jobs: int | None = None) -> NDArray:
    """Find a linear model by ridge regression.

    The strength of the penalty is the one that forecasts what is held out best, and so is what the forecast
    is drawn to where the windows say little: the mean of the context, or the centre of its normalisation.

    Parameters
    ----------
    training, validation : WindowSource
        Not stepwise. `validation` is what is held out, None for nothing.
    n_jobs : int or None, default=None

    Returns
    -------
    weights : ndarray of shape (L, H)
        In the dtype of the windows.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import best_map
    >>> from numbarnn.forecasting.scaling import Normalizer, Standardizer
    >>> from numbarnn.forecasting.series import read
    >>> from numbarnn.forecasting.windows import Layout, WindowSource
    >>> data, _ = read(np.sin(np.arange(200) * 2 * np.pi / 12))
    >>> filled = Standardizer(np.zeros(1), np.ones(1)).transform(data, "float64")
    >>> windows = WindowSource(data, filled, None, Layout(24, 2, 2, 2), Normalizer("last"), n_raw=1)
    >>> weights = best_map(windows, windows)
    >>> x, y, _, _ = windows.gather(np.arange(10))
    >>> bool(np.abs(x.values[:, :, 0] @ weights - y[:, :, 0]).max() < 0.01)
    True
    """
    known = Moments.of(training, n_jobs)
    if validation is None:
        found = next(ridge(known, [USUAL], centered=True))
    else:
        held = Moments.of(validation, n_jobs)
        tried = [each for centered in (True, False) for each in ridge(known, PENALTIES, centered)]
        found = min(tried, key=held.error)
    unread = training.layout.context - len(found)
    return np.pad(found, ((unread, 0), (0, 0))).astype(training.dtype)


def ridge(moments: Moments, penalties: Sequence[float], centered: bool) -> Iterator[NDArray]:
    """Find linear models by ridge regression.

    Parameters
    ----------
    moments : Moments
    penalties : sequence of float
        As parts of the mean variance of a step.
    centered : bool
        Whether the mean of a context is taken off and is what it forecasts itself if nothing else is known.

    Yields
    ------
    weights : ndarray of float64 of shape (L, H)
        For one penalty after the other.
    """
    xx, xy, mean = moments.xx, moments.xy, 0.0
    if centered:
        mean = 1 / len(xx)
        by_mean = xx.mean(axis=0)  # products of steps and the mean of the context
        xx = xx - by_mean - by_mean[:, np.newaxis] + by_mean.mean()
        xy = xy - by_mean[:, np.newaxis]
        xy = xy - xy.mean(axis=0)
    sizes, axes = np.linalg.eigh(xx)
    usual = max(sizes.mean(), np.finfo(float).tiny)
    seen = axes.T @ xy
    for penalty in penalties:
        found = axes @ (seen / (np.maximum(sizes, 0) + penalty * usual)[:, np.newaxis])
        yield found - found.mean(axis=0) + mean if centered else found


def _batches(source: WindowSource) -> Iterator[tuple[Batch, NDArray, NDArray]]:
    """Yield windows, what followed (n, E), zero where it was not observed, and where it was."""
    samples, most = np.arange(source.n_samples), max(1, MOST // source.n_channels)
    if len(samples) > most:  # drawn, since a stride might be in step with a season
        samples = np.sort(np.random.default_rng(0).choice(len(samples), most, replace=False))
    for start in range(0, len(samples), CHUNK):
        batch, y, weight, _ = source.gather(samples[start : start + CHUNK])
        y = y[..., 0]
        observed = np.ones(y.shape, bool) if weight is None else weight > 0
        yield batch, y * observed, observed


def _lines(values: NDArray) -> NDArray:
    """Put channels under each other: from (n, T, C) to (n * C, T)."""
    return np.ascontiguousarray(values.swapaxes(1, 2)).reshape(-1, values.shape[1])
