"""Losses: from the network's raw output to a number to minimise, its gradient, and a prediction.

`LOSSES` is the table name -> class. A loss is called as ``loss(y_true, raw_output, sample_weight)``; it
returns the loss and the gradient with respect to `raw_output`, in the data type of `raw_output`.

References
----------
.. [1] Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964),
   73-101.
.. [2] Koenker and Bassett, "Regression quantiles", Econometrica 46 (1978), 33-50.
.. [3] Chernozhukov, Fernandez-Val and Galichon, "Quantile and probability curves without crossing",
   Econometrica 78 (2010), 1093-1125.
.. [4] McCullagh and Nelder, "Generalized linear models", 2nd edition (1989), table 2.1 and section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, xlogy

__all__ = ["LOSSES", "Loss"]


class Loss:
    """What all losses share: the weighted sum over samples, the mean over outputs.

    A subclass gives `terms`; and `n_raw`, `predict`, `check` where the defaults do not hold: one raw output
    for each target, the identity as link, any finite target.
    """

    def __call__(
        self, y_true: np.ndarray, raw_output: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Loss and gradient.

        Parameters
        ----------
        y_true : ndarray of shape (..., n_targets)
            Targets; for cross-entropy the number of the class, with n_targets = 1. The leading dimensions
            are (n_samples,) or (n_samples, n_timesteps).
        raw_output : ndarray of shape (..., n_raw)
            Output of the network.
        sample_weight : ndarray of the leading shape of `y_true`, default=None
            Factor of each sample (or step) in the sum. None stands for 1 / (number of them), so that the
            sum is the mean.

        Returns
        -------
        loss : float
            Sum over samples of weight times the mean over outputs.
        gradient : ndarray of the shape and dtype of `raw_output`
        """
        losses, gradient = self.terms(y_true, raw_output)
        if sample_weight is None:
            share = 1.0 / losses.size
            gradient *= share
            return float(losses.sum()) * share, gradient
        share = sample_weight[..., np.newaxis] / losses.shape[-1]
        gradient *= share
        losses *= share
        return float(losses.sum()), gradient

    def terms(self, y_true: np.ndarray, raw_output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of every element and its derivative, as fresh arrays."""
        raise NotImplementedError

    def n_raw(self, n_targets: int) -> int:
        """Return how many raw outputs are needed for this many targets; of a classifier, classes."""
        return n_targets

    def predict(self, raw_output: np.ndarray) -> np.ndarray:
        """Return the prediction that belongs to a raw output (the inverse link function)."""
        return raw_output

    def check(self, y_true: np.ndarray) -> None:
        """Raise ValueError for targets that the loss is not defined for."""


class SquaredError(Loss):
    """Half the squared error, as in `sklearn.neural_network.MLPRegressor`: (raw - y)^2 / 2.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.losses import LOSSES
    >>> loss = LOSSES["squared_error"]()
    >>> value, gradient = loss(np.array([[1.0], [2.0]]), np.array([[3.0], [2.0]]))
    >>> value
    1.0
    >>> gradient.tolist()
    [[1.0], [0.0]]
    """

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        error = raw_output - y_true
        return 0.5 * error * error, error


class AbsoluteError(Loss):
    """Absolute error, |raw - y|; its minimum is the median."""

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        error = raw_output - y_true
        return np.abs(error), np.sign(error)


class Huber(Loss):
    """Half the squared error for errors up to `delta`, linear beyond [1]_.

    Parameters
    ----------
    delta : float, default=1.0
        Where the quadratic part ends, in units of y; above 0.
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = float(delta)  # one of NumPy would make errors of float32 float64
        if not self.delta > 0:
            raise ValueError(f"delta was {delta!r}; expected a number above 0")

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        error = raw_output - y_true
        clipped = np.clip(error, -self.delta, self.delta)
        return clipped * (error - 0.5 * clipped), clipped


class Quantile(Loss):
    """Quantile (pinball) loss for one level or several levels at once [2]_.

    Parameters
    ----------
    level : float or sequence of float, default=0.5
        Levels of the quantiles, each between 0 and 1. Several levels make several raw outputs per target,
        level by level beside each other; `predict` then has one more dimension, of size n_levels.

    Notes
    -----
    Predictions of several levels are sorted along the levels, so that a higher level never has a lower
    quantile; that never makes them worse [3]_.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.losses import LOSSES
    >>> loss = LOSSES["quantile"](level=[0.1, 0.9])
    >>> loss.n_raw(1)
    2
    >>> value, gradient = loss(np.array([[1.0]]), np.array([[0.0, 0.0]]))
    >>> round(value, 3), gradient.tolist()
    (0.5, [[-0.05, -0.45]])
    """

    def __init__(self, level: float | Sequence[float] = 0.5) -> None:
        self.level = level
        self._levels = np.atleast_1d(np.asarray(level, dtype=float))
        if self._levels.ndim != 1 or not ((self._levels > 0) & (self._levels < 1)).all():
            raise ValueError(f"quantile was {level!r}; expected one or several numbers between 0 and 1")

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        # [k * q] -> [k, q]: the levels of one target lie beside each other
        raw = raw_output.reshape(*y_true.shape, len(self._levels))
        levels = self._levels.astype(raw.dtype)
        error = y_true[..., np.newaxis] - raw
        slope = np.where(error > 0, -levels, 1 - levels)
        return (-slope * error).reshape(raw_output.shape), slope.reshape(raw_output.shape)

    def n_raw(self, n_targets):
        """See `Loss.n_raw`."""
        return n_targets * len(self._levels)

    def predict(self, raw_output):
        """See `Loss.predict`."""
        if np.ndim(self.level) == 0:
            return raw_output
        raw = raw_output.reshape(*raw_output.shape[:-1], -1, len(self._levels))
        by_size = np.argsort(np.argsort(self._levels))
        return np.sort(raw, axis=-1)[..., by_size]


class Poisson(Loss):
    """Half the Poisson deviance with the logarithm as link [4]_: exp(raw) - y raw + y log(y) - y.

    The prediction is exp(raw). Targets must not be negative.
    """

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        mean = np.exp(raw_output)
        return mean - y_true * raw_output + xlogy(y_true, y_true) - y_true, mean - y_true

    def predict(self, raw_output):
        """See `Loss.predict`."""
        return np.exp(raw_output)

    def check(self, y_true):
        """See `Loss.check`."""
        if (y_true < 0).any():
            raise ValueError(f"y had the value {y_true.min()}; loss='poisson' expects y >= 0")


class LogLoss(Loss):
    """Cross-entropy: one raw output and the logistic function for two classes, softmax for more.

    Targets are the numbers of the classes, 0 to n_classes - 1, in an array of shape (..., 1). `predict`
    returns the probabilities, shape (..., n_classes).

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.losses import LOSSES
    >>> loss = LOSSES["log_loss"]()
    >>> loss.n_raw(2), loss.n_raw(3)
    (1, 3)
    >>> loss.predict(np.array([[0.0]])).tolist()
    [[0.5, 0.5]]
    """

    def terms(self, y_true, raw_output):
        """See `Loss.terms`."""
        if raw_output.shape[-1] == 1:
            target = y_true.astype(raw_output.dtype)
            # log(1 + exp(raw)) without overflow
            losses = np.logaddexp(raw_output.dtype.type(0), raw_output) - target * raw_output
            return losses, expit(raw_output) - target
        shifted = raw_output - raw_output.max(axis=-1, keepdims=True)
        gradient = np.exp(shifted)
        total = gradient.sum(axis=-1, keepdims=True)
        gradient /= total
        losses = np.log(total) - np.take_along_axis(shifted, y_true, -1)
        hit = np.take_along_axis(gradient, y_true, -1)
        np.put_along_axis(gradient, y_true, hit - 1, -1)
        return losses, gradient

    def n_raw(self, n_targets):
        """See `Loss.n_raw`."""
        return 1 if n_targets == 2 else n_targets

    def predict(self, raw_output):
        """See `Loss.predict`."""
        if raw_output.shape[-1] == 1:
            return np.concatenate([expit(-raw_output), expit(raw_output)], axis=-1)
        probability = np.exp(raw_output - raw_output.max(axis=-1, keepdims=True))
        probability /= probability.sum(axis=-1, keepdims=True)
        return probability


LOSSES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "quantile": Quantile,
    "poisson": Poisson,
    "log_loss": LogLoss,
}
