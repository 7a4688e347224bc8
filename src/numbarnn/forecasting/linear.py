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

__all__ = ["LinearForecast", "Reversion", "fit_linear", "regressions", "ridge"]

# strengths that are tried, as parts of the mean variance of a step of the context
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
USUAL = 0.3  # where nothing is held out to choose by
SHARES = np.linspace(0, 1, 21)  # that are tried
PARTS = np.linspace(0, 1, 5)  # of the reversion that are tried
FAR = 3.0  # deviations of a channel in training: contexts that are farther from its mean return to it less
MOST = 2**15  # windows of a channel that are regressed on
NUMBERS = 2**22  # in contexts and forecasts that a choice is made by
CHUNK = 2**11  # windows of a channel that are looked at together
REACH = 2048  # steps of a longer context that are read: the time goes with their third power
ROUNDS = 5  # of regressions where targets are missing


class Reversion(NamedTuple):
    """How forecasts are moved towards the mean that their channel had in training.

    The height of a context is how far its mean is above that, in deviations of the channel in training. Where
    it says more than `FAR` the move is a smaller one, and from twice as far on there is none: training knows
    no such level, and nothing tells that the channel returns from it.

    Attributes
    ----------
    steps : ndarray of shape (L,)
        By which the height is told from the distances of all values to the last.
    pull : ndarray of shape (H,)
        By which forecasts move for each unit of height beyond what is so told; not positive.
    """

    steps: NDArray
    pull: NDArray

    def shift(self, x: NDArray, height: NDArray, n_jobs: int | None = None) -> NDArray:
        """Return by how much the forecasts of contexts (N, L) of some heights (N, 1) are moved, (N, H)."""
        height = height - Products(x.dtype, most=1)(x - x[:, -1:], self.steps[:, np.newaxis], n_jobs)
        return height * np.clip(2 - np.abs(height) / x.dtype.type(FAR), 0, 1) * self.pull


class LinearForecast(NamedTuple):
    """A linear model, and the share of a network in means of both.

    Attributes
    ----------
    weights : ndarray of shape (L, H)
        By which the forecasts' distance from the last value of a channel's context is that of all its values,
        the same for all channels.
    share : float
        Of the network's forecasts, from 0 to 1.
    reversion : Reversion or None, default=None
        Of the means.

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
    reversion: Reversion | None = None

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
        return _beside(_apply(_lines(values, values), self.weights, n_jobs), values)

    def shift(self, values: NDArray, level: NDArray | None, n_jobs: int | None = None) -> NDArray | float:
        """Return by how much the reversion moves forecasts, (n, E), or 0.

        Parameters
        ----------
        values, n_jobs
            See `forecast`.
        level : ndarray of shape (n, 1, C) or None
            See `windows.Batch`.
        """
        if self.reversion is None:
            return 0.0
        return _beside(self.reversion.shift(*_contexts(values, level), n_jobs), values)


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
        What is held out: the penalty is that with the least squared error there; the share, and the part of
        the reversion, those with the least loss. The share is drawn to a half, or, of a network that was
        trained by another loss than the squared error, to 1, and the part to none: the more, the fewer
        windows there are that do not overlap. None: equal parts, without a reversion.

    Returns
    -------
    LinearForecast or None
        None if the network alone is best.
    """
    n_jobs, tried = model.network.n_jobs, regressions(training, model.network.n_jobs)
    if validation is None:
        weights = next(linear.weights for penalty, linear in tried if penalty == USUAL)
        return LinearForecast(weights, 0.5) if np.isfinite(weights).all() else None
    most = NUMBERS // (validation.layout.context + validation.layout.horizon)
    held = [
        [_lines(each, batch.values) for each in (batch.values, y, observed)]
        for batch, y, observed in _batches(validation, most)
    ]
    lowest, best = np.inf, None
    for _, linear in tried:
        error = sum(_squares(linear.weights, *lines, n_jobs) for lines in held)
        if error < lowest:
            lowest, best = error, linear
    if best is None:  # no error was finite
        return None
    best = _weigh(model, best, validation, most)
    return best if best.share < 1 or best.reversion is not None else None


def regressions(source: WindowSource, n_jobs: int | None = None) -> Iterator[tuple[float, LinearForecast]]:
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
    linear : LinearForecast
        In the dtype of the windows, with a share of 0; drawn to the mean of the context for all penalties,
        and then to its last value. With a reversion, if the level of windows is known.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import regressions
    >>> from numbarnn.forecasting.scaling import Normalizer, Standardizer
    >>> from numbarnn.forecasting.series import read
    >>> from numbarnn.forecasting.windows import Layout, WindowSource
    >>> data, _ = read(np.sin(np.arange(200) * 2 * np.pi / 12))
    >>> filled = Standardizer(np.zeros(1), np.ones(1)).transform(data, "float64")
    >>> windows = WindowSource(data, filled, None, Layout(24, 2, 2, 2), Normalizer("last"), n_raw=1)
    >>> penalty, linear = next(regressions(windows))
    >>> x, y, _, _ = windows.gather(np.arange(10))
    >>> error = linear.forecast(x.values) - y[:, :, 0]
    >>> penalty, bool(np.abs(error).max() < 0.01)
    (0.001, True)
    """
    whole, xx, xy = _moments(source, None, n_jobs)
    context, dtype = source.layout.context, source.dtype
    reach = min(context, REACH)

    def in_full(found):
        return np.pad(found, [(context - reach, 0)] + [(0, 0)] * (found.ndim - 1)).astype(dtype)

    def tried(penalties, centered):
        for weights, reversion in ridge(xx, xy, penalties, centered, level=len(xx) > reach):
            if reversion is not None:
                reversion = Reversion(in_full(reversion.steps), np.minimum(reversion.pull, 0).astype(dtype))
            yield LinearForecast(in_full(weights), 0.0, reversion)

    for _ in range(0 if whole else ROUNDS):
        (linear,) = tried([USUAL], centered=True)
        _, xx, xy = _moments(source, linear, n_jobs)
    for centered in (True, False):
        yield from zip(PENALTIES, tried(PENALTIES, centered), strict=True)


def ridge(
    xx: NDArray, xy: NDArray, penalties: Sequence[float], centered: bool, level: bool = False
) -> Iterator[tuple[NDArray, Reversion | None]]:
    """Find linear models by ridge regressions, given mean products.

    Parameters
    ----------
    xx : ndarray of float64 of shape (L, L)
        Of the steps of contexts, from each of which the last value is taken off. With a level, of shape
        (L + 1, L + 1): behind them the height of the mean of the context.
    xy : ndarray of float64 of shape (L, H) or (L + 1, H)
        Of these and what followed, from which the last value is taken off as well.
    penalties : sequence of float
        As parts of the mean variance of a step.
    centered : bool
        Whether it is the mean of the context that is forecast if nothing else is known, or the last value.
    level : bool, default=False
        Whether a reversion is wanted.

    Yields
    ------
    weights : ndarray of float64 of shape (L, H)
        For one penalty after the other.
    reversion : Reversion or None
        With it the model is that of contexts with one more step, the height of the mean, on which there is
        always the usual penalty: what is held out is of one season, and would have any.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import ridge
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> y = x @ [[2.0], [-1.0]]
    >>> ((weights, _),) = ridge(x.T @ x / 100, x.T @ y / 100, [1e-9], centered=False)
    >>> np.round(weights.ravel(), 6).tolist()
    [2.0, -1.0]
    """
    n, mean = len(xx) - level, 0.0
    if centered:
        mean = 1 / n
        xx, xy = xx.copy(), xy - xx[:, :n].mean(axis=1, keepdims=True)
        for products in (xy, xx, xx.T):
            products[:n] -= products[:n].mean(axis=0)
    sizes, axes = np.linalg.eigh(xx[:n, :n])
    sizes = np.maximum(sizes, 0)
    usual = max(sizes.mean(), np.finfo(float).tiny)
    seen = axes.T @ np.concatenate([xy[:n], xx[:n, n:]], axis=1)
    for penalty in penalties:
        found, reversion = axes @ (seen / (sizes + penalty * usual)[:, np.newaxis]), None
        if centered:
            found -= found.mean(axis=0)
        if level:
            found, steps = found[:, :-1], found[:, -1]
            untold = xx[n, n] - xx[n, :n] @ steps
            reversion = Reversion(steps, (xy[n] - xx[n, :n] @ found) / (untold + USUAL * usual))
        yield found + mean, reversion


def _weigh(model, linear, source, most):
    """Return a linear model with the share and the part of its reversion that have the least loss.

    At most so many windows of a channel are looked at.
    """
    parts = PARTS if linear.reversion is not None else PARTS[:1]
    losses, count, n_jobs = np.zeros((len(parts), len(SHARES))), 0, model.network.n_jobs
    for batch, y, observed in _batches(source, most):
        values = model.predict(batch)
        toward = linear.forecast(batch.values, n_jobs) - model.middle(values)
        shift = linear.shift(batch.values, batch.level, n_jobs)
        count += np.count_nonzero(observed)
        for i, k in np.ndindex(losses.shape):
            part, rest = parts[i].astype(values.dtype), (1 - SHARES[k]).astype(values.dtype)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is not taken
                raw = values + (rest * toward + part * shift)[..., np.newaxis]
                terms, _ = model.loss.terms(y[..., np.newaxis], raw)
                losses[i, k] += terms.sum(axis=2, where=observed[..., np.newaxis], dtype=np.float64).sum()
    losses /= max(count, 1)
    if not np.isfinite(losses).all():
        return linear._replace(share=1.0, reversion=None)
    # As if the share were known before, give or take a half, and the part to be none, give or take 0.7, and
    # forecasts that overlap erred as one. Random walks return to the mean of training, but not to that.
    usual = 0.5 if isinstance(model.loss, SquaredError) else 1.0
    doubt = 4 * source.layout.horizon / (source.n_samples * source.n_channels)
    losses += losses.min() * doubt * (np.square(SHARES - usual) + np.square(parts)[:, np.newaxis] / 2)
    i, k = np.unravel_index(losses.argmin(), losses.shape)
    reversion = linear.reversion._replace(pull=linear.reversion.pull * float(parts[i])) if i else None
    return linear._replace(share=float(SHARES[k]), reversion=reversion)


def _moments(source, linear, n_jobs):
    """Whether no target is missing, and mean products, see `ridge`; `linear` forecasts what is missing."""
    reach, parts = min(source.layout.context, REACH), []
    products, whole, n_lines = Products("float64", most=6), True, 0
    for batch, y, observed in _batches(source, MOST):
        x, height = _contexts(batch.values, batch.level)
        y, observed = (_lines(each, batch.values).astype(np.float64) for each in (y, observed))
        if not observed.all():
            whole = False
            if linear is not None:
                forecast = _apply(x, linear.weights, n_jobs)
                if linear.reversion is not None:
                    forecast += linear.reversion.shift(x, height, n_jobs)
                y = np.where(observed, y, forecast)
        last = x[:, -1:].astype(np.float64)
        x = x[:, -reach:] - last
        x = x if height is None else np.concatenate([x, height], axis=1)
        found = products(x.T, x, n_jobs, transposed=True), products(x.T, y - last, n_jobs, transposed=True)
        parts = [a + b for a, b in zip(parts, found, strict=True)] if parts else found
        n_lines += len(x)
    return whole, *(part / n_lines for part in parts)


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


def _contexts(values: NDArray, level: NDArray | None) -> tuple[NDArray, NDArray | None]:
    """Put channels under each other: contexts (N, L), and their heights (N, 1)."""
    x = _lines(values, values)
    return x, None if level is None else x.mean(axis=1, keepdims=True) + _lines(level, values)


def _lines(array: NDArray, values: NDArray) -> NDArray:
    """Put the channels of (n, T, C) or (n, T * C) under each other, (n * C, T); as many as `values` have."""
    n, _, n_channels = values.shape
    array = array.reshape(n, array[:1].size // n_channels, n_channels).swapaxes(1, 2)
    return np.ascontiguousarray(array).reshape(-1, array.shape[2])


def _beside(lines: NDArray, values: NDArray) -> NDArray:
    """Put (n * C, H) back: (n, E), for values (n, L, C)."""
    n, _, n_channels = values.shape
    return lines.reshape(n, n_channels, lines.shape[1]).swapaxes(1, 2).reshape(n, -1)
