"""`linear_map`: a linear forecast of windows, found in closed form, which a network goes on from.

Letters: n contexts of one channel, L context, H horizon. A map is a matrix (L, H); the forecast of contexts
(n, L), on the scale of the normalised window, is their product with it.

References
----------
.. [1] Lai, Chang, Yang and Liu, "Modeling long- and short-term temporal patterns with deep neural networks",
   SIGIR 2018, arXiv 1703.07015: a recurrent network with a linear autoregressive part beside it.
.. [2] Toner and Darlow, "An analysis of linear time series forecasting models", ICML 2024, arXiv 2403.14587:
   the linear forecasters in use are ordinary regressions, and best found in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from numbarnn.kernels.dense import Products

from .windows import WindowSource

__all__ = ["Moments", "linear_map", "ridge"]

# strengths that are tried, as parts of the mean variance of a step of the context
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
USUAL = 0.3  # where nothing is held out to choose by
MOST = 2**15  # contexts that moments are taken of
CHUNK = 2**11  # windows that are looked at together
REACH = 2048  # steps of a longer context that are read: the time goes with their third power


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
        layout, n_rows = source.layout, 0
        context, horizon = min(layout.context, REACH), layout.horizon
        xx, xy = np.zeros((context, context)), np.zeros((context, horizon))
        yy, counts = np.zeros(horizon), np.zeros(horizon)
        products = None
        for x, y, observed in _windows(source):
            x = x[:, -context:]
            if products is None:
                products = Products(x.dtype, most=4)
            xx += products(x.T, x, n_jobs, transposed=True)
            xy += products(x.T, y, n_jobs, transposed=True)
            yy += np.square(y, dtype=np.float64).sum(axis=0)
            n_rows += len(x)
            counts += len(x) if observed is None else observed.sum(axis=0)
        counts = np.maximum(counts, 1)
        return cls(xx / n_rows, xy / counts, yy / counts)

    def error(self, found: NDArray) -> float:
        """Return the mean squared error of a map."""
        return float((self.yy - ((2 * self.xy - self.xx @ found) * found).sum(axis=0)).mean())


def linear_map(
    training: WindowSource, validation: WindowSource | None, n_jobs: int | None = None, always: bool = True
) -> NDArray | None:
    """Find a linear forecast by ridge regression.

    The strength of the penalty is the one that forecasts what is held out best, and so is what the map is
    drawn to where the windows say little: the mean of the context, or the centre of its normalisation.

    Parameters
    ----------
    training, validation : WindowSource
        `validation` is what is held out, None for nothing. Not stepwise.
    n_jobs : int or None, default=None
        Number of threads of the products.
    always : bool, default=True
        Whether it is wanted even if it is no better than the centre on what is held out, or nothing is.

    Returns
    -------
    found : ndarray of shape (L, H) or None
        In the dtype of the windows; None if it is not wanted.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.linear import linear_map
    >>> from numbarnn.forecasting.scaling import Normalizer, Standardizer
    >>> from numbarnn.forecasting.series import read
    >>> from numbarnn.forecasting.windows import Layout, WindowSource
    >>> data, _ = read(np.sin(np.arange(200) * 2 * np.pi / 12))
    >>> filled = Standardizer(np.zeros(1), np.ones(1)).transform(data, "float64")
    >>> windows = WindowSource(data, filled, None, Layout(24, 2, 2, 2), Normalizer("last"), n_raw=1)
    >>> found = linear_map(windows, windows)
    >>> x, y, _, _ = windows.gather(np.arange(10))
    >>> bool(np.abs(x.values[:, :, 0] @ found - y[:, :, 0]).max() < 0.01)
    True
    """
    if validation is None and not always:
        return None
    known = Moments.of(training, n_jobs)
    if validation is None:
        found = next(ridge(known, [USUAL], centered=True))
    else:
        held = Moments.of(validation, n_jobs)
        lowest, found = np.inf if always else held.yy.mean(), None
        for centered in (True, False):
            for each in ridge(known, PENALTIES, centered):
                error = held.error(each)
                if error < lowest:
                    lowest, found = error, each
    if found is None:
        return None
    unread = training.layout.context - len(found)
    return np.pad(found, ((unread, 0), (0, 0))).astype(training.dtype)


def ridge(moments: Moments, penalties: NDArray, centered: bool) -> Iterator[NDArray]:
    """Find maps by ridge regression.

    Parameters
    ----------
    moments : Moments
    penalties : sequence of float
        As parts of the mean variance of a step.
    centered : bool
        Whether the mean of a context is taken off and is what it forecasts itself if nothing else is known.

    Yields
    ------
    found : ndarray of float64 of shape (L, H)
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


def _windows(source):
    """Yield contexts (n, L), what followed (n, H), zero where it was not observed, and where it was."""
    horizon, n_channels = source.layout.horizon, source.n_channels
    samples, most = np.arange(source.n_samples), max(1, MOST // n_channels)
    if len(samples) > most:  # drawn, since a stride might be in step with a season
        samples = np.sort(np.random.default_rng(0).choice(len(samples), most, replace=False))
    for start in range(0, len(samples), CHUNK):
        x, y, weight, _ = source.gather(samples[start : start + CHUNK])

        def lines(each, steps):
            return np.ascontiguousarray(each.reshape(-1, steps, n_channels).swapaxes(1, 2)).reshape(-1, steps)

        y = lines(y, horizon)
        observed = None if weight is None else lines(weight, horizon) > 0
        yield lines(x.values, source.layout.context), y if observed is None else y * observed, observed
