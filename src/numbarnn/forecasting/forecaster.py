"""RNNForecaster: many steps ahead from one long series, with a recurrent network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from numbarnn.losses import LOSSES
from numbarnn.network import Network
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.schedules import SCHEDULES, Schedule
from numbarnn.training import History, make_trainer

from .windows import Normalizer, WindowSource, to_segments

__all__ = ["RNNForecaster"]


class RNNForecaster(BaseEstimator):
    """Forecast a time series with a recurrent network that reads segments of its past.

    Fitted on one long series with one or several channels. Every window of it, `context_length` steps of
    context and `horizon` steps that follow, is a training sample; windows are views into the series, so
    memory grows with the series and not with windows x length. The context is cut into segments that the
    recurrent layers read one by one [1]_, and a dense head gives the whole horizon at once.

    Parameters
    ----------
    horizon : int
        Steps that are forecast at once.
    context_length : int or "auto", default="auto"
        Steps that the network looks back upon. "auto" is seven times the horizon, between 48 and 720 steps
        (never below the horizon), and at most a third of the series.
    cell : str, default="gru"
        A name in `numbarnn.cells.CELLS`.
    hidden_size : int, default=64
        Units of each recurrent layer.
    num_layers : int, default=1
        Recurrent layers.
    dropout : float, default=0.0
        Between recurrent layers, in training.
    segment_length : int or "auto", default="auto"
        Steps that the network reads at once; 1 reads step by step. "auto" is the horizon, at least the square
        root of the context and at most a quarter of it.
    normalize : {"last", "window", "standard", None}, default="last"
        How each window is scaled: "last" subtracts the last value of its context, "window" subtracts the
        context's mean and divides by its standard deviation, "standard" leaves it. In these three, each
        channel is first standardised as a whole. None takes the values as they are.
    multivariate : {"independent", "joint"}, default="independent"
        "independent": all channels share one network that sees one of them at a time; "joint": the network
        reads and forecasts all channels together.
    loss : {"squared_error", "absolute_error", "huber"}, default="squared_error"
    solver : {"adam", "adamw", "rmsprop", "sgd"}, default="adam"
    learning_rate_init : float, default=1e-3
    learning_rate : str or Schedule, default="constant"
        A name in `numbarnn.schedules.SCHEDULES`, or a schedule.
    alpha : float, default=0.0
        Strength of the L2 penalty.
    batch_size : int or "auto", default="auto"
        "auto" is about a hundredth of the windows, a power of two from 32 to 256.
    max_iter : int, default=100
        Most epochs.
    tol : float, default=0.0
    n_iter_no_change : int or inf, default=10
        Training ends when the loss (of the validation part, if there is one) did not fall by `tol` in this
        many epochs in a row. With inf it goes on to `max_iter`, and there is no warning that it was reached.
    early_stopping : bool, default=True
        Hold out the last part of the series, never a random one, and keep the weights that forecast it best.
    validation_fraction : float, default=0.1
        Size of that part; it is at least `horizon` steps long.
    max_grad_norm : float or None, default=1.0
        Bound of the gradient's norm.
    dtype : {"float32", "float64"}, default="float32"
    n_jobs : int or None, default=None
        Threads of the kernels; None and -1 take all cores.
    random_state : int, RandomState instance or None, default=None
    verbose : int, default=0
        If not 0, show progress.
    callbacks : callable, list of callable or None, default=None
        Called after every batch and epoch; see `numbarnn.training.Trainer`.

    Attributes
    ----------
    context_length_, segment_length_, horizon_ : int
        The lengths in use.
    context_ : ndarray of shape (context_length_, n_channels)
        The end of the series, from which `predict` goes on.
    center_, scale_ : ndarray of shape (n_channels,)
        What each channel was standardised with.
    network_ : Network
    loss_curve_ : list of float
        Mean training loss of each epoch, on the scale of the normalised windows.
    loss_, best_loss_ : float
        The last and the lowest of them.
    validation_scores_ : list of float or None
        With early stopping, minus the loss of the held-out part after each epoch.
    best_validation_score_ : float or None
    n_iter_ : int
        Epochs.
    n_features_in_ : int
        Channels.

    Notes
    -----
    With early stopping the last part of the series shapes the weights only through the choice of the epoch,
    but `predict` goes on from the very end of the series.

    References
    ----------
    .. [1] Lin et al., "SegRNN: Segment Recurrent Neural Network for Long-Term Time Series Forecasting",
       arXiv 2308.11200 (2023), section 4.2: segments in place of steps. (Its parallel decoder is not used
       here.)

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import RNNForecaster
    >>> y = np.sin(np.arange(600) * 2 * np.pi / 12)
    >>> forecaster = RNNForecaster(12, learning_rate_init=0.02, n_iter_no_change=3, n_jobs=1, random_state=0)
    >>> forecast = forecaster.fit(y[:-12]).predict()
    >>> forecast.shape, bool(np.abs(forecast - y[-12:]).max() < 0.1)
    ((12,), True)
    """

    _parameter_constraints: ClassVar[dict] = {
        "horizon": [Interval(Integral, 1, None, closed="left")],
        "context_length": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "cell": [str],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "num_layers": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "segment_length": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "normalize": [StrOptions({"last", "window", "standard"}), None],
        "multivariate": [StrOptions({"independent", "joint"})],
        "loss": [StrOptions({"squared_error", "absolute_error", "huber"})],
        "solver": [StrOptions(set(OPTIMIZERS))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [StrOptions(set(SCHEDULES)), Schedule],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "dtype": [StrOptions({"float32", "float64"})],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "callbacks": [callable, list, tuple, None],
    }

    def __init__(
        self,
        horizon: int,
        context_length: int | str = "auto",
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        segment_length: int | str = "auto",
        normalize: str | None = "last",
        multivariate: str = "independent",
        loss: str = "squared_error",
        solver: str = "adam",
        learning_rate_init: float = 1e-3,
        learning_rate: str | Schedule = "constant",
        alpha: float = 0.0,
        batch_size: int | str = "auto",
        max_iter: int = 100,
        tol: float = 0.0,
        n_iter_no_change: int = 10,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        max_grad_norm: float | None = 1.0,
        dtype: str = "float32",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        callbacks: Callable | Sequence[Callable] | None = None,
    ) -> None:
        self.horizon = horizon
        self.context_length = context_length
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.segment_length = segment_length
        self.normalize = normalize
        self.multivariate = multivariate
        self.loss = loss
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.max_grad_norm = max_grad_norm
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    def fit(self, y: ArrayLike) -> Self:
        """Train the network on a series.

        Parameters
        ----------
        y : array-like of shape (n_timesteps,) or (n_timesteps, n_channels)
            Evenly spaced in time, oldest first.

        Returns
        -------
        RNNForecaster
            Itself.

        Raises
        ------
        ValueError
            If `y` is too short, is no series, or holds anything but finite numbers; if a parameter has no
            such value.
        FloatingPointError
            If training diverges. After any error the forecaster is as before.
        """
        self._validate_params()
        y, n_dims = _check_series("y", y, (1, 2))
        n_valid = self._validation_length(len(y))
        length = self._context_length(len(y), n_valid)
        segment = self._segment_length(length)
        n_train = len(y) - n_valid
        center, scale = self._standardization(y[:n_train])
        series = ((y - center) / scale).astype(self.dtype)
        sources = [
            WindowSource(
                part, length, self.horizon, segment, Normalizer(self.normalize), self.multivariate == "joint"
            )
            for part in ([series[:n_train], series[n_train - length :]] if n_valid else [series])
        ]
        network, history = self._train(*sources)

        # nothing is kept before everything has worked: a fit that fails leaves the forecaster as it was
        self.network_ = network
        self.center_, self.scale_ = center, scale
        self.context_length_, self.segment_length_, self.horizon_ = length, segment, self.horizon
        self.context_ = y[len(y) - length :].copy()
        self.n_features_in_ = y.shape[1]
        self.loss_curve_ = history.loss_curve
        self.loss_, self.best_loss_ = history.loss_curve[-1], min(history.loss_curve)
        self.validation_scores_ = [-loss for loss in history.validation_curve] if n_valid else None
        self.best_validation_score_ = max(self.validation_scores_) if n_valid else None
        self.n_iter_ = len(history.loss_curve)
        self._one_channel = n_dims == 1
        self._normalizer, self._joint = Normalizer(self.normalize), self.multivariate == "joint"
        return self

    def predict(self, h: int | None = None, *, context: ArrayLike | None = None) -> np.ndarray:
        """Forecast what follows the series seen in `fit`, or what follows other histories.

        Parameters
        ----------
        h : int, default=None
            Steps to forecast; None takes the horizon. Beyond the horizon, forecasts are fed back as if they
            were observed, one horizon at a time, and errors add up.
        context : array-like, default=None
            Histories to go on from, in the units of `y`, each at least `context_length_` steps (what is
            older is not looked at): one of shape (n_timesteps,) or (n_timesteps, n_channels), or many at
            once of shape (n_windows, n_timesteps, n_channels). None goes on from the end of the series seen
            in `fit`.

        Returns
        -------
        ndarray of shape (h,), (h, n_channels) or (n_windows, h, n_channels)
            As many dimensions as the history had.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If `h` is no positive number, or `context` is too short, has another number of channels than `y`
            or a value that is not finite.
        """
        check_is_fitted(self)
        h = self.horizon_ if h is None else h
        if not isinstance(h, Integral) or h < 1:
            raise ValueError(f"h was {h!r}; expected a number of steps from 1, or None")
        windows, n_dims = self._check_context(context)
        self.network_.recurrent.n_jobs = self.n_jobs
        history = ((windows - self.center_) / self.scale_).astype(self.network_.dtype)
        blocks = []
        for _ in range(math.ceil(h / self.horizon_)):
            blocks.append(self._next_block(history))
            history = np.concatenate([history, blocks[-1]], axis=1)[:, -self.context_length_ :]
        forecast = np.concatenate(blocks, axis=1)[:, :h] * self.scale_ + self.center_  # [n_windows, h, C]
        return forecast if n_dims == 3 else forecast[0] if n_dims == 2 else forecast[0, :, 0]

    def _next_block(self, history):
        """Forecast one horizon [n, H, C] from standardised histories [n, L, C]."""
        n_windows, length, n_channels = history.shape
        if not self._joint:
            history = history.transpose(0, 2, 1).reshape(-1, length, 1)
        center, scale = self._normalizer(history)
        raw = self.network_.forward(to_segments((history - center) / scale, self.segment_length_))
        block = raw.reshape(len(raw), self.horizon_, -1) * scale + center
        if not self._joint:
            block = block.reshape(n_windows, n_channels, -1).transpose(0, 2, 1)
        return block

    def _check_context(self, context):
        """Return windows [n, context_length_, C], and how many dimensions the answer is to have."""
        if context is None:
            return self.context_[np.newaxis], 1 if self._one_channel else 2
        context, n_dims = _check_series("context", context, (1, 2, 3))
        if n_dims < 3:
            context = context[np.newaxis]
        if context.shape[2] != self.n_features_in_:
            raise ValueError(
                f"context has {context.shape[2]} channels; expected {self.n_features_in_}, as in fit"
            )
        if context.shape[1] < self.context_length_:
            raise ValueError(
                f"context has {context.shape[1]} time steps; expected at least context_length_ = "
                f"{self.context_length_}"
            )
        return context[:, -self.context_length_ :], n_dims

    def _validation_length(self, n_timesteps):
        """Return how many steps at the end of the series are held out."""
        if not self.early_stopping:
            return 0
        return max(math.ceil(self.validation_fraction * n_timesteps), self.horizon)

    def _context_length(self, n_timesteps, n_valid):
        """Resolve "auto", and see that there is at least one window to learn from."""
        n_train = n_timesteps - n_valid
        length = self.context_length
        if length == "auto":
            wanted = min(max(7 * self.horizon, 48), max(720, self.horizon))
            length = max(1, min(wanted, n_train // 3))
        if n_train >= length + self.horizon:
            return length
        needed, parts = length + self.horizon, f"a context of {length} and a horizon of {self.horizon}"
        if n_valid:
            needed = max(needed + self.horizon, math.ceil(needed / (1 - self.validation_fraction)))
            parts += f", and validation_fraction={self.validation_fraction} held out for early_stopping"
        raise ValueError(f"y has {n_timesteps} time steps; expected at least {needed}: {parts}")

    def _segment_length(self, length):
        """Resolve "auto"."""
        if self.segment_length == "auto":
            return min(max(self.horizon, math.isqrt(length)), max(length // 4, 1))
        if self.segment_length > length:
            raise ValueError(
                f"segment_length was {self.segment_length}; expected at most the context length {length}"
            )
        return self.segment_length

    def _standardization(self, y):
        """Mean and standard deviation of each channel; a constant channel is divided by one."""
        if self.normalize is None:
            return np.zeros(y.shape[1]), np.ones(y.shape[1])
        scale = y.std(axis=0)
        # rounding leaves a constant channel a tiny deviation
        constant = scale <= 1e-12 * np.abs(y).max(axis=0)
        return y.mean(axis=0), np.where(constant, 1.0, scale)

    def _train(self, data: WindowSource, validation: WindowSource | None = None) -> tuple[Network, History]:
        """Make a network and train it."""
        random = check_random_state(self.random_state)
        x, target = data.gather(np.zeros(1, dtype=int))[:2]
        network = Network(
            self.cell, x.shape[2], self.hidden_size, target.shape[1], num_layers=self.num_layers,
            dropout=self.dropout, dtype=self.dtype, random_state=random.randint(2**31 - 1),
            n_jobs=self.n_jobs,
        )  # fmt: skip
        rng = np.random.default_rng(random.randint(2**31 - 1))
        trainer = make_trainer(self, data.n_samples, LOSSES[self.loss](), rng)
        optimizer = OPTIMIZERS[self.solver](network.parameters.size, network.dtype)
        return network, trainer.fit(network, optimizer, data, validation)


def _check_series(name: str, values: ArrayLike, allowed: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Return one or several series as float64 [..., T, C], and its dimensions, or say what is wrong."""
    try:
        n_dims = np.ndim(values)
        # one memory layout, so that sums run in one order and a table gives the same bits as an array
        if n_dims in allowed:
            values = check_array(
                values, dtype=np.float64, order="C", ensure_2d=False, allow_nd=True, input_name=name
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if n_dims not in allowed:
        shapes = ("(n_timesteps,)", "(n_timesteps, n_channels)", "(n_windows, n_timesteps, n_channels)")
        expected = " or ".join(shapes[n - 1] for n in allowed)
        raise ValueError(f"{name} has {n_dims} dimensions; expected shape {expected}")
    return (values[:, np.newaxis] if n_dims == 1 else values), n_dims
