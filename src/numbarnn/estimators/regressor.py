"""RNNRegressor."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from numbarnn.estimators import validation
from numbarnn.estimators.base import BaseRNN, can_partial_fit
from numbarnn.estimators.document import document
from numbarnn.estimators.sequences import all_steps, on_steps
from numbarnn.losses import LOSSES

__all__ = ["RNNRegressor"]


@document(
    loss="squared_error",
    losses='"squared_error" (half of it, as in MLPRegressor), "absolute_error", "huber", "quantile"\n'
    '        or "poisson" (logarithm as link).',
)
class RNNRegressor(MultiOutputMixin, RegressorMixin, BaseRNN):
    """Recurrent neural network for regression.

    Parameters
    ----------
    <parameters>
    delta : float, default=1.0
        Where the Huber loss becomes linear.
    quantile : float or sequence of float, default=0.5
        Level of the quantile loss; several levels predict as many quantiles at once, in one more dimension.

    Attributes
    ----------
    <attributes>

    See Also
    --------
    RNNClassifier : The same network for classes.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import RNNRegressor
    >>> X = np.random.default_rng(0).normal(size=(200, 12, 2))    # samples, steps, features
    >>> y = X[:, -3:, 0].sum(axis=1)
    >>> model = RNNRegressor(hidden_size=16, learning_rate_init=0.01, max_iter=60, tol=0, random_state=0)
    >>> from sklearn.exceptions import ConvergenceWarning
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", ConvergenceWarning)
    ...     model = model.fit(X, y)
    >>> model.score(X, y) > 0.9
    True

    One long series, cut into consecutive windows, with the state carried on from each to the next:

    >>> series = np.sin(np.arange(1201) / 10)
    >>> X, y = series[:-1].reshape(60, 20, 1), series[1:].reshape(60, 20)
    >>> model = RNNRegressor(hidden_size=16, return_sequences=True, stateful=True, learning_rate_init=0.01,
    ...                      max_iter=10, n_iter_no_change=np.inf, random_state=0).fit(X[:50], y[:50])
    >>> past = model.predict(X[:50])                              # the next call goes on from here
    >>> model.score(X[50:], y[50:]) > 0.99
    True
    >>> model.reset_states().predict(X[:50]).tolist() == past.tolist()
    True
    """

    _parameter_constraints: dict[str, list] = {
        **BaseRNN._parameter_constraints,
        "loss": [StrOptions(set(LOSSES) - {"log_loss"})],
        "delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither"), "array-like"],
    }

    def __init__(
        self, cell="gru", hidden_size=64, *, num_layers=1, bidirectional=False, dropout=0.0,
        loss="squared_error", solver="adam", learning_rate_init=1e-3, learning_rate="constant", alpha=0.0,
        batch_size="auto", max_iter=100, tol=1e-4, n_iter_no_change=10, early_stopping=False,
        validation_fraction=0.1, max_grad_norm=1.0, ema_momentum=None, initial_state="zeros",
        return_sequences=False, n_channels=1, shuffle=True, warm_start=False, dtype="float32", device="cpu",
        n_jobs=None, random_state=None, verbose=0, momentum=0.0, nesterovs_momentum=True, beta_1=0.9,
        beta_2=0.999, epsilon=1e-8, weight_decay=0.01, init="uniform", forget_bias=None, callbacks=None,
        embedding=None, stem_sizes=(), head_sizes=(), residual=False, merge="concat", recurrent_dropout=0.0,
        zoneout=0.0, stateful=False, proj_size=0, delta=1.0, quantile=0.5,
    ) -> None:  # fmt: skip
        vars(self).update({name: value for name, value in locals().items() if name != "self"})

    def _loss(self):
        options = {"huber": {"delta": self.delta}, "quantile": {"level": self.quantile}}
        with validation.naming("quantile"):
            if np.size(self.quantile) == 0:
                raise ValueError(f"quantile was {self.quantile!r}; expected at least one level")
            return LOSSES[self.loss](**options.get(self.loss, {}))

    def _encode(self, y, x, weight, lengths, valid, reset):
        loss = self._loss()
        with validation.naming("y"):
            y, flat = validation.check_targets(
                y, x, lengths, valid, self.return_sequences, self.dtype
            )
            values = all_steps(y)
            loss.check(values)
            with np.errstate(over="ignore", invalid="ignore"):
                raw = np.zeros((*values.shape[:-1], loss.n_raw(y.shape[-1])), y.dtype)
                untrained, _ = loss(values, raw)
            if not np.isfinite(untrained):
                raise ValueError(
                    f"y had values up to {np.abs(values).max():.3g} in size, where {self.loss} is infinite "
                    f"in {y.dtype}; expected smaller ones: divide them by a constant"
                )
        if reset:
            self._flat, self.n_outputs_ = flat, y.shape[-1]
        return y, weight, y.shape[-1]

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, lengths: Any = None, mask: Any = None
    ) -> RNNRegressor:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_timesteps, n_features), list of array-like of shape \
(T_i, n_features), or array-like of shape (n_samples, n_timesteps * n_channels)
            Each minibatch of a list is padded to its longest sequence, by "lbfgs" of 256 samples; with
            ``device="cuda"``, where the data lie on the device, all are padded to the longest.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            With ``return_sequences=True`` a target for each step: (n_samples, n_timesteps) or
            (n_samples, n_timesteps, n_outputs), or a list of such of unequal length.
        sample_weight : array-like of shape (n_samples,), default=None
        lengths : array-like of int of shape (n_samples,), default=None
            Valid steps of each sample of an array that is padded at the end.
        mask : array-like of bool of shape (n_samples, n_timesteps), or list of (T_i,), default=None
            False for steps that are missing, wherever they are in a sequence: states are held there, and
            neither X nor a target of the step is looked at, which may be NaN. At least one step of each
            sample is True. Where X is a list, a list, or an array that is padded at the end.

        Returns
        -------
        self : RNNRegressor

        Raises
        ------
        FloatingPointError
            If the loss is no longer finite. The estimator is then as before the call.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If `max_iter` came before convergence, or Ctrl-C ended training, after the batch at work: the
            estimator is then fitted as far as training came. A second Ctrl-C raises KeyboardInterrupt.
        """
        with self._unchanged_on_error():
            return self._fit(X, y, sample_weight, lengths, mask)

    @available_if(can_partial_fit)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, lengths: Any = None, mask: Any = None
    ) -> RNNRegressor:
        """Train for one epoch on these samples, going on from the last call.

        If the solver or its options are others than in the call before, its running means begin anew. Ctrl-C
        raises KeyboardInterrupt, and leaves the estimator as it was.

        Parameters
        ----------
        X, y, sample_weight, lengths, mask
            As in `fit`.

        Returns
        -------
        self : RNNRegressor
        """
        with self._unchanged_on_error():
            return self._partial_fit(X, y, sample_weight, lengths, mask)

    def predict(self, X: Any, lengths: Any = None, mask: Any = None) -> np.ndarray | list[np.ndarray]:
        """Predict the targets.

        Parameters
        ----------
        X, lengths, mask
            As in `fit`; sequences may have other numbers of steps, but two-dimensional X as many columns.

        Returns
        -------
        y : ndarray of the shape of y in `fit`
            One more dimension for several quantiles; a list where X is a list and ``return_sequences=True``.
            Predictions are 0 at steps that `mask` leaves out, and in an array past the end of a sequence.
        """
        result, _, _ = self._predict(X, lengths, mask)
        if self._flat:
            axis = -1 - np.ndim(getattr(self._trained_loss, "level", 0))  # quantiles stand behind the target
            result = on_steps(lambda steps: steps.squeeze(axis), result)
        return self._hand_back(result, X)

    def score(
        self, X: Any, y: Any, sample_weight: Any = None, lengths: Any = None, mask: Any = None
    ) -> float:
        """Coefficient of determination R^2, over all valid steps with ``return_sequences=True``.

        Parameters
        ----------
        X, y, sample_weight, lengths, mask
            As in `fit`.

        Returns
        -------
        score : float

        Notes
        -----
        `GridSearchCV` and the like hand on `lengths` and `mask` where they are asked to: with
        ``sklearn.set_config(enable_metadata_routing=True)`` and
        ``model.set_fit_request(lengths=True).set_score_request(lengths=True)``. Otherwise `fit` gets them,
        but not `score`, which then takes padding for steps.
        """
        from sklearn.metrics import r2_score

        check_is_fitted(self)
        level = getattr(self._trained_loss, "level", 0)
        if np.ndim(level):
            raise ValueError(
                f"quantile was {level!r} in fit; score expects a single number, as R^2 is of one prediction "
                "of each target"
            )
        result, lengths, valid = self._predict(X, lengths, mask)
        if not self.network_.return_sequences:
            return r2_score(y, result, sample_weight=sample_weight)
        with validation.naming("y"):
            y, _ = validation.check_targets(y, result, lengths, valid, True, np.float64)
        valid = validation.valid_in(result, valid)
        weight = validation.check_weights(sample_weight, result)
        weight = None if weight is None else np.repeat(weight, valid.sum(axis=1))
        y, result = (all_steps(array)[all_steps(valid)] for array in (y, result))
        return r2_score(y, result, sample_weight=weight)
