"""Likelihoods: losses whose raw output describes a whole distribution, from which paths are sampled.

`LIKELIHOODS` is the table name -> class. Raw output has K parameters of each target, ``raw[..., K]`` for
``y[..., 1]``. Everything is computed in float64, since differences of gamma functions need it; gradients
come back in the dtype of the raw output.

References
----------
.. [1] Salinas et al., "DeepAR: Probabilistic forecasting with autoregressive recurrent networks",
   International Journal of Forecasting 36 (2020), 1181-1191, section 3.1.
.. [2] Lange, Little and Taylor, "Robust statistical modeling using the t distribution", Journal of the
   American Statistical Association 84 (1989), 881-896.
.. [3] Hilbe, "Negative binomial regression", 2nd edition (2011), section 8.2 (the form called NB2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy.special import digamma, expit, gammaln, ndtri, stdtrit

from numbarnn.losses import Loss

__all__ = ["LIKELIHOODS", "Gaussian", "Likelihood", "NegativeBinomial", "StudentT"]

# a distribution narrower than this (in units of the normalised window) is not told from it
MINIMUM_SIGMA = 1e-3
# log mean and log r of the negative binomial: a mean up to 5e8, and r beyond which it is a Poisson
LARGEST_LOG_MEAN, LARGEST_LOG_R = 20.0, 15.0
# NumPy's Poisson numbers are int64
LARGEST_RATE = 1e18


class Likelihood(Loss):
    """What the likelihoods share; the loss is minus the logarithm of the density.

    A subclass gives `terms`, `mean`, `sample` and `quantile`.
    """

    n_parameters: ClassVar[int]
    limits: ClassVar[tuple[float, ...]]  # the constants in `terms`, for who computes it elsewhere

    def n_raw(self, n_targets: int) -> int:
        """Return K times the number of targets; see `Loss.n_raw`."""
        return n_targets * self.n_parameters

    def predict(self, raw_output: np.ndarray) -> np.ndarray:
        """Return the median, of shape (..., 1)."""
        return self.quantile(raw_output, [0.5])

    def mean(self, raw: np.ndarray) -> np.ndarray:
        """Return the mean.

        Parameters
        ----------
        raw : ndarray of shape (..., K)

        Returns
        -------
        ndarray of float64 of shape (...)
        """
        raise NotImplementedError

    def sample(self, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw one number from each distribution.

        Parameters
        ----------
        raw : ndarray of shape (..., K)
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of float64 of shape (...)
        """
        raise NotImplementedError

    def quantile(self, raw: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Return quantiles.

        Parameters
        ----------
        raw : ndarray of shape (..., K)
        levels : sequence of q floats between 0 and 1

        Returns
        -------
        ndarray of float64 of shape (..., q)
        """
        raise NotImplementedError


class Gaussian(Likelihood):
    """Normal distribution: K = 2, the mean and s with standard deviation softplus(s) + 0.001 [1]_.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.likelihoods import Gaussian
    >>> loss = Gaussian()
    >>> raw = np.array([[1.0, 0.0]])
    >>> loss.mean(raw), loss.quantile(raw, [0.025, 0.975]).round(2)
    (array([1.]), array([[-0.36,  2.36]]))
    """

    n_parameters = 2
    limits = (MINIMUM_SIGMA,)

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        location, sigma, slope = _location_and_sigma(raw_output)
        z = (y_true[..., 0] - location) / sigma
        losses = 0.5 * z * z + np.log(sigma) + 0.5 * np.log(2 * np.pi)
        return losses[..., None], _stack(raw_output, -z / sigma, (1 - z * z) / sigma * slope)

    def mean(self, raw):
        """See `Likelihood.mean`."""
        return _location_and_sigma(raw)[0]

    def sample(self, raw, rng):
        """See `Likelihood.sample`."""
        location, sigma, _ = _location_and_sigma(raw)
        return location + sigma * rng.standard_normal(location.shape)

    def quantile(self, raw, levels):
        """See `Likelihood.quantile`."""
        location, sigma, _ = _location_and_sigma(raw)
        return location[..., None] + sigma[..., None] * ndtri(_levels(levels))


class StudentT(Likelihood):
    """Student's t [2]_: K = 3, location, s with scale softplus(s) + 0.001, d with 2 + softplus(d) degrees.

    With more than two degrees of freedom there is a variance.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.likelihoods import StudentT
    >>> StudentT().quantile(np.array([[1.0, 0.0, 0.0]]), [0.025, 0.975]).round(2)
    array([[-1.36,  3.36]])
    """

    n_parameters = 3
    limits = (MINIMUM_SIGMA,)

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        location, sigma, slope = _location_and_sigma(raw_output)
        degrees, degrees_slope = _degrees(raw_output)
        z = (y_true[..., 0] - location) / sigma
        share = z * z / degrees
        half = 0.5 * (degrees + 1)
        losses = (
            half * np.log1p(share) + gammaln(0.5 * degrees) - gammaln(half)
            + 0.5 * np.log(degrees * np.pi) + np.log(sigma)
        )  # fmt: skip
        dz = 2 * half * z / (degrees + z * z)
        ddegrees = 0.5 * (
            np.log1p(share) - 2 * half / degrees * (share / (1 + share))
            + digamma(0.5 * degrees) - digamma(half) + 1 / degrees
        )  # fmt: skip
        gradient = _stack(
            raw_output, -dz / sigma, (1 - dz * z) / sigma * slope, ddegrees * degrees_slope
        )
        return losses[..., None], gradient

    def mean(self, raw):
        """See `Likelihood.mean`."""
        return _location_and_sigma(raw)[0]

    def sample(self, raw, rng):
        """See `Likelihood.sample`."""
        location, sigma, _ = _location_and_sigma(raw)
        return location + sigma * rng.standard_t(_degrees(raw)[0])

    def quantile(self, raw, levels):
        """See `Likelihood.quantile`."""
        location, sigma, _ = _location_and_sigma(raw)
        return location[..., None] + sigma[..., None] * stdtrit(_degrees(raw)[0][..., None], _levels(levels))


class NegativeBinomial(Likelihood):
    """Negative binomial for counts [1]_ [3]_: K = 2, log mean and log r; the variance is mean + mean^2 / r.

    Both are clipped, to +-20 and +-15. Outside, the gradient is that of the border where it leads back
    inside, and 0 where it leads further out.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.likelihoods import NegativeBinomial
    >>> loss = NegativeBinomial()
    >>> raw = np.log([[4.0, 2.0]])
    >>> loss.mean(raw).round(6), loss.quantile(raw, [0.1, 0.9])
    (array([4.]), array([[0., 9.]]))
    """

    n_parameters = 2
    limits = LARGEST_LOG_MEAN, LARGEST_LOG_R

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        y = np.asarray(y_true, np.float64)[..., 0]
        log_mean, log_r = _mean_and_r(raw_output)
        r, difference = np.exp(log_r), log_mean - log_r
        many, few = np.logaddexp(0, difference), np.logaddexp(0, -difference)
        up, down = expit(difference), expit(-difference)
        losses = gammaln(r) + gammaln(y + 1) - gammaln(y + r) + r * many + y * few
        slope = r * up - y * down
        gradient = _stack(raw_output, slope, r * (many + digamma(r) - digamma(y + r)) - slope)
        outward = np.stack([log_mean, log_r], axis=-1) - raw_output
        gradient[outward * gradient > 0] = 0  # a step against it would go further out
        return losses[..., None], gradient

    def mean(self, raw):
        """See `Likelihood.mean`."""
        return np.exp(_mean_and_r(raw)[0])

    def sample(self, raw, rng):
        """See `Likelihood.sample`: a Poisson number whose rate is a gamma number."""
        log_mean, log_r = _mean_and_r(raw)
        rate = rng.gamma(np.exp(log_r), np.exp(log_mean - log_r))
        return rng.poisson(np.minimum(rate, LARGEST_RATE)).astype(np.float64)

    def quantile(self, raw, levels):
        """See `Likelihood.quantile`."""
        from scipy.stats import nbinom  # slow to import, and seldom needed

        log_mean, log_r = _mean_and_r(raw)
        # r / (r + mean), without overflow
        success = expit(log_r - log_mean)
        return nbinom.ppf(_levels(levels), np.exp(log_r)[..., None], success[..., None])

    def check(self, y_true):
        """See `Loss.check`; missing values (NaN) pass."""
        y = np.asarray(y_true, np.float64)
        wrong = (y < 0) | (y != np.floor(y)) & ~np.isnan(y)
        if wrong.any():
            raise ValueError(
                f"y had the value {y[wrong][0]}; loss='negative_binomial' expects counts: 0, 1, 2, ..."
            )


def _location_and_sigma(raw):
    """Location, scale, and the derivative of the scale with respect to its raw output."""
    raw = np.asarray(raw, np.float64)
    return raw[..., 0], np.logaddexp(0, raw[..., 1]) + MINIMUM_SIGMA, expit(raw[..., 1])


def _degrees(raw):
    """Degrees of freedom, and their derivative."""
    raw = np.asarray(raw, np.float64)[..., 2]
    return 2 + np.logaddexp(0, raw), expit(raw)


def _mean_and_r(raw):
    """Log mean and log r, clipped."""
    raw = np.asarray(raw, np.float64)
    return (
        np.clip(raw[..., 0], -LARGEST_LOG_MEAN, LARGEST_LOG_MEAN),
        np.clip(raw[..., 1], -LARGEST_LOG_R, LARGEST_LOG_R),
    )


def _stack(raw_output, *parts):
    """Put the gradients of the parameters beside each other, in the dtype of the raw output."""
    return np.stack(parts, axis=-1).astype(raw_output.dtype)


def _levels(levels):
    """Return levels as an array, or say what is wrong."""
    levels = np.asarray(levels, np.float64)
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"levels was {levels.tolist()!r}; expected numbers between 0 and 1")
    return levels


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "negative_binomial": NegativeBinomial,
}
