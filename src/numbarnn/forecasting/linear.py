"""`LinearForecast`: a linear model of windows, and how much a network's forecasts count beside its own.

Letters: n windows, N windows of one channel each, L context, H horizon, C channels, E = H * C elements of a
forecast.

References
----------
.. [1] Toner and Darlow, "An analysis of linear time series forecasting models", ICML 2024, arXiv 2403.14587:
   the linear forecasters in use are ordinary regressions, and best found in closed form.
.. [2] Bates and Granger, "The combination of forecasts", Operational Research Quarterly 20 (1969), 451-468.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels.dense import Products
from numbarnn.losses import SquaredError

from .windows import WindowSource

if TYPE_CHECKING:
    from .model import ForecastModel
    from .windows import Batch

__all__ = ["LinearForecast", "fit_linear", "regressions", "ridge"]

# strengths that are tried, as parts of the mean variance of a step of the context
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
USUAL = 0.3  # where nothing is held out to choose by
SHARES = np.linspace(0, 1, 21)  # that are tried
MOST = 2**15  # windows of a channel that are regressed on
NUMBERS = 2**22  # in contexts and forecasts that a choice is made by
CHUNK = 2**11  # windows of a channel that are looked at together
REACH = 2048  # steps of a longer context that are read: the time goes with their third power
ROUNDS = 5  # of regressions where targets are missing


class LinearForecast(NamedTuple):
    """A linear model, and the share of a network in means of both.

    Attributes
    ----------
    weights : ndarray of shape (L, H)
        By which the forecasts' distance from the last value of a channel's context is that of all its values,
        the same for all channels.
    share : float
        Of the network's forecasts, from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import LinearForecast
    >>> linear = LinearForecast(np.array([[0.5], [0.0]]), share=0.25)
    >>> linear.forecast(np.array([[[5.0], [1.0]]]))
    array([[3.]])
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
        found = _apply(_lines(values, n_channels), self.weights, n_jobs)
        return found.reshape(n, n_channels, self.weights.shape[1]).swapaxes(1, 2).reshape(n, -1)


def fit_linear(
    model: ForecastModel, training: WindowSource, validation: WindowSource | None
) -> LinearForecast | None:
    """Find a linear model, and the share of a trained network in the best means of both.

    Parameters
    ----------
    model : ForecastModel
        Without a linear forecast. Not stepwise.
    training : WindowSource
        What the regression is made on.
    validation : WindowSource or None
        What is held out: the penalty is that with the least squared error there, the share that with the
        least loss. The share is drawn to a half, or, of a network that was trained by another loss than the
        squared error, to 1: the more, the fewer windows there are that do not overlap. None: equal parts.

    Returns
    -------
    LinearForecast or None
        None if the network alone is best.
    """
    n_jobs, tried = model.network.n_jobs, regressions(training, model.network.n_jobs)
    if validation is None:
        weights = next(weights for penalty, weights in tried if penalty == USUAL)
        return LinearForecast(weights, 0.5) if np.isfinite(weights).all() else None
    most = NUMBERS // (validation.layout.context + validation.layout.horizon)
    held = [
        [_lines(each, validation.n_channels) for each in (batch.values, y, observed)]
        for batch, y, observed in _batches(validation, most)
    ]
    lowest, weights = np.inf, None
    for _, each in tried:
        error = sum(_squares(each, *lines, n_jobs) for lines in held)
        if error < lowest:
            lowest, weights = error, each
    if weights is None:  # no error was finite
        return None
    linear = LinearForecast(weights, 1.0)
    share = _best_share(model, linear, validation, most)
    return linear._replace(share=share) if share < 1 else None


def regressions(source: WindowSource, n_jobs: int | None = None) -> Iterator[tuple[float, NDArray]]:
    """Find linear models by ridge regressions.

    Missing targets are taken for those that the regression before forecasts, and at first for the last value
    observed, so that what is found in the end is a regression on the others.

    Parameters
    ----------
    source : WindowSource
        With at least one sample. If there are many, some are drawn.
    n_jobs : int or None, default=None

    Yields
    ------
    penalty : float
    weights : ndarray of shape (L, H)
        In the dtype of the windows; drawn to the mean of the context for all penalties, and then to its last
        value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import LinearForecast, regressions
    >>> from numbarnn.forecasting.scaling import Normalizer, Standardizer
    >>> from numbarnn.forecasting.series import read
    >>> from numbarnn.forecasting.windows import Layout, WindowSource
    >>> data, _ = read(np.sin(np.arange(200) * 2 * np.pi / 12))
    >>> filled = Standardizer(np.zeros(1), np.ones(1)).transform(data, "float64")
    >>> windows = WindowSource(data, filled, None, Layout(24, 2, 2, 2), Normalizer("last"), n_raw=1)
    >>> penalty, weights = next(regressions(windows))
    >>> x, y, _, _ = windows.gather(np.arange(10))
    >>> error = LinearForecast(weights, 0.0).forecast(x.values) - y[:, :, 0]
    >>> penalty, bool(np.abs(error).max() < 0.01)
    (0.001, True)
    """
    whole, xx, xy = _moments(source, None, n_jobs)
    for _ in range(0 if whole else ROUNDS):
        (weights,) = ridge(xx, xy, [USUAL], centered=True)
        _, xx, xy = _moments(source, weights, n_jobs)
    unread = source.layout.context - len(xx)
    for centered in (True, False):
        for penalty, weights in zip(PENALTIES, ridge(xx, xy, PENALTIES, centered), strict=True):
            yield penalty, np.pad(weights, ((unread, 0), (0, 0))).astype(source.dtype)


def ridge(xx: NDArray, xy: NDArray, penalties: Sequence[float], centered: bool) -> Iterator[NDArray]:
    """Find linear models by ridge regressions, given mean products.

    Parameters
    ----------
    xx : ndarray of float64 of shape (L, L)
        Of the steps of contexts, from each of which the last value is taken off.
    xy : ndarray of float64 of shape (L, H)
        Of these and what followed, from which it is taken off as well.
    penalties : sequence of float
        As parts of the mean variance of a step.
    centered : bool
        Whether it is the mean of the context that is forecast if nothing else is known, or the last value.

    Yields
    ------
    weights : ndarray of float64 of shape (L, H)
        For one penalty after the other.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import ridge
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> y = x @ [[2.0], [-1.0]]
    >>> (weights,) = ridge(x.T @ x / 100, x.T @ y / 100, [1e-9], centered=False)
    >>> np.round(weights.ravel(), 6).tolist()
    [2.0, -1.0]
    """
    mean = 0.0
    if centered:
        mean = 1 / len(xx)
        by_mean = xx.mean(axis=0)  # products of steps and the mean of the context
        xx = xx - by_mean - by_mean[:, np.newaxis] + by_mean.mean()
        xy = xy - by_mean[:, np.newaxis]
        xy = xy - xy.mean(axis=0)
    sizes, axes = np.linalg.eigh(xx)
    sizes = np.maximum(sizes, 0)
    usual = max(sizes.mean(), np.finfo(float).tiny)
    seen = axes.T @ xy
    for penalty in penalties:
        found = axes @ (seen / (sizes + penalty * usual)[:, np.newaxis])
        yield found - found.mean(axis=0) + mean if centered else found


def _best_share(model, linear, source, most):
    """Return the share of the network with the least loss, on so many windows of a channel at most."""
    losses, count = np.zeros(len(SHARES)), 0
    for batch, y, observed in _batches(source, most):
        values = model.predict(batch)
        toward = linear.forecast(batch.values, model.network.n_jobs) - model.middle(values)
        count += np.count_nonzero(observed)
        for k, share in enumerate(SHARES.astype(values.dtype)):
            raw = values + ((1 - share) * toward)[..., np.newaxis]
            terms, _ = model.loss.terms(y[..., np.newaxis], raw)
            losses[k] += terms.sum(axis=2, where=observed[..., np.newaxis], dtype=np.float64).sum()
    losses /= max(count, 1)
    # As if the share were known before, give or take a half, and forecasts that overlap erred as one.
    usual = 0.5 if isinstance(model.loss, SquaredError) else 1.0
    doubt = 4 * source.layout.horizon / (source.n_samples * source.n_channels)
    losses += losses.min() * doubt * np.square(SHARES - usual)
    return float(SHARES[np.argmin(losses)]) if np.isfinite(losses).all() else 1.0


def _moments(source, weights, n_jobs):
    """Whether no target is missing, and mean products, see `ridge`; `weights` forecast what is missing."""
    context, horizon = min(source.layout.context, REACH), source.layout.horizon
    xx, xy = np.zeros((context, context)), np.zeros((context, horizon))
    products, whole, n_lines = Products("float64", most=6), True, 0
    for batch, y, observed in _batches(source, MOST):
        x, y, observed = (_lines(each, source.n_channels) for each in (batch.values, y, observed))
        x = x[:, -context:].astype(np.float64)
        if not observed.all():
            whole = False
            y = y if weights is None else np.where(observed, y, _apply(x, weights, n_jobs))
        last = x[:, -1:].copy()
        x -= last
        xx += products(x.T, x, n_jobs, transposed=True)
        xy += products(x.T, y - last, n_jobs, transposed=True)
        n_lines += len(x)
    return whole, xx / n_lines, xy / n_lines


def _apply(x, weights, n_jobs):
    """Forecast lines (N, L) in the dtype of the weights: (N, H)."""
    last = x[:, -1:]
    return last + Products(weights.dtype, most=1)(x - last, weights, n_jobs)


def _squares(weights, x, y, observed, n_jobs):
    """Sum of the squared errors of lines where they are observed."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is not taken
        error = (_apply(x, weights, n_jobs) - y) * observed
        return float(np.square(error, dtype=np.float64).sum())


def _batches(source: WindowSource, most: int) -> Iterator[tuple[Batch, NDArray, NDArray]]:
    """Yield windows, what followed (n, E), and where it was observed; `most` windows of a channel in all."""
    samples, most = np.arange(source.n_samples), max(1, most // source.n_channels)
    if len(samples) > most:  # drawn, since a stride might be in step with a season
        samples = np.sort(np.random.default_rng(0).choice(len(samples), most, replace=False))
    size = max(1, CHUNK // source.n_channels)
    for start in range(0, len(samples), size):
        batch, y, weight, _ = source.gather(samples[start : start + size])
        yield batch, y[..., 0], np.ones(y.shape[:2], bool) if weight is None else weight > 0


def _lines(values: NDArray, n_channels: int) -> NDArray:
    """Put channels under each other: from (n, T, C) or (n, T * C) to (n * C, T)."""
    values = values.reshape(len(values), values[:1].size // n_channels, n_channels).swapaxes(1, 2)
    return np.ascontiguousarray(values).reshape(-1, values.shape[2])
