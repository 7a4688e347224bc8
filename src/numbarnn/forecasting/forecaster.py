"""RNNForecaster: many steps ahead, of one or many series, with a recurrent network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from numbarnn.optimizers import OPTIMIZERS, Optimizer
from numbarnn.schedules import SCHEDULES, ExponentialSchedule, Schedule
from numbarnn.training import History, make_trainer

from .evaluation import Evaluation
from .likelihoods import LIKELIHOODS
from .linear import fit_linear
from .metrics import naive_error
from .model import ForecastModel, View, gaps_before, usual_gap
from .networks import DECODERS, Widths, make_network
from .prediction import Prediction, calibrate, with_calendar_ahead
from .preparation import (
    check_values,
    find_members,
    held_out,
    make_layout,
    make_loss,
    read_more,
    read_training,
    with_static,
)
from .scaling import CovariateScaler, Normalizer, Standardizer
from .series import Form, SeriesSet
from .windows import Sampled, WindowSource

__all__ = ["RNNForecaster"]

# windows shown in an epoch: one of a large data set need not see them all, and one of a small data set would
# be over after a few updates, for which neither the learning rate nor the patience was made
SAMPLES_PER_EPOCH = 1600, 2**16


class RNNForecaster(Prediction, Evaluation, BaseEstimator):
    """Forecast time series with a recurrent network that reads segments of their past.

    Fitted on one or many series. Every window, `context_length` steps and the `horizon` steps that follow, is
    a training sample; windows are views into the series, so memory grows with the series and not with
    windows x length. By default the context is cut into segments that recurrent layers read one by one, and
    all segments of the horizon are decoded from the last state at once [1]_.

    Parameters
    ----------
    horizon : int
        Steps that are forecast at once.
    context_length : int or "auto", default="auto"
        Steps that the network looks back upon. "auto" is three times the horizon, between 168 and 720 steps
        (never below the horizon), and at most a third of the training part of the longest series. Shorter
        series are read as far as they go.
    cell : str, default="gru"
        A name in `numbarnn.cells.CELLS`.
    hidden_size : int, default=128
        Units of each recurrent layer.
    num_layers : int, default=1
        Recurrent layers.
    dropout : float, default=0.1
        Before the head, in training.
    decoder : {"segment", "direct", "recursive"}, default="segment"
        How the horizon comes out of the last state: segment by segment, all of them at once; by one dense
        layer; or step by step, each forecast read as if it had been observed.
    segment_length : int or "auto", default="auto"
        Steps that the network reads at once. "auto" is 24, at most the horizon and a quarter of the context,
        and so many that there are no more than 64 segments. Always 1 with ``decoder="recursive"``.
    normalize : {"last", "window", "standard", None}, default="last"
        How each window is scaled: "last" subtracts the last observed value of its context, "window" subtracts
        the context's mean and divides by its standard deviation, "standard" leaves it. In these three, each
        series is first standardised as a whole (one that is constant in training is divided by a tenth of its
        size). None takes the values as they are. Counts of a negative binomial distribution are none of this:
        they are divided by one plus the context's mean [2]_.
    linear : bool or "auto", default="auto"
        Whether forecasts are weighted means of the network's and those of a linear model: a ridge regression
        of the horizon on the context, the same for all channels [3]_. Its penalty is the one with the least
        squared error on the part held out, the weight the one with the least loss; of little that is held out
        not much is concluded, the weight is then near a half (of another loss than the squared error: nearly
        all is the network's). "auto": if there is such a part; with True both have equal weight where there
        is none. All quantiles are moved as the median is. Not for ``decoder="recursive"``.
    multivariate : {"independent", "joint"}, default="independent"
        "independent": all channels share one network that sees one of them at a time; "joint": the network
        reads and forecasts all channels together.
    series_embedding : int, "auto" or None, default="auto"
        Size of the learned vector that tells the series apart. "auto" depends on how many there are; with
        None or 0 there is none, and series that were not there in `fit` can be forecast.
    loss : str, default="squared_error"
        "squared_error", "absolute_error", "huber" or "quantile"; with ``decoder="recursive"`` in place of
        "quantile" the likelihoods "gaussian", "student_t" and "negative_binomial" (for counts) [2]_. The
        forecast of quantiles and likelihoods is the median: of rare counts it is 0, and the mean of
        `sample_paths` is not.
    delta : float, default=1.0
        Where "huber" goes over from quadratic to linear, on the scale of the normalised windows.
    quantiles : sequence of float or None, default=None
        Of the quantile loss; if given, the loss is "quantile". None: 0.025, 0.1, 0.5, 0.9, 0.975. The median
        is the forecast and is added where it is missing.
    intervals : {"auto", "adaptive", "split", None}, default="auto"
        Where the bounds for `level` come from: "split" and "adaptive" are conformal, from errors of forecasts
        of the part held out, the second going on with `update`; "auto" is the network's own quantiles where
        it has any, else "adaptive".
    past_covariates, future_covariates, static_covariates : sequence of str or int, default=None
        Columns that are known up to the present, known for the future too, or of a whole series. Of an array
        `X` all columns are known for the future but those named as past.
    calendar : "auto", sequence of str or None, default=None
        Calendar features of the times that are made as known-future covariates, see
        `numbarnn.forecasting.calendar.calendar_features`. "auto" is hour, dayofweek, dayofmonth, dayofyear or
        month, as far as they go on from step to step and the data go through all of it about twice.
    id_col, time_col, target_col : str, default="unique_id", "ds", "y"
        Columns of a long data frame.
    freq : str, int or None, default=None
        Distance of two steps, as pandas or polars write it; None finds it. Data that lack more than half of
        their steps need it; a warning tells where all times suit a wider distance.
    season_length : int or "auto", default="auto"
        Steps of a season, for the scale of the MASE. "auto" goes by the frequency, 1 without times.
    solver : {"adam", "adamw", "rmsprop", "sgd"}, default="adam"
    learning_rate_init : float, default=1e-3
    learning_rate : str or Schedule, default="auto"
        A name in `numbarnn.schedules.SCHEDULES`, or a schedule; "auto" is
        ``ExponentialSchedule(0.8, after=3)``.
    alpha : float, default=0.0
        Strength of the L2 penalty.
    batch_size : int or "auto", default="auto"
        Windows of one series or channel; "auto" is about a hundredth of all, a power of two from 32 to 256.
    max_iter : int, default=30
        Most epochs.
    samples_per_epoch : int, "auto" or None, default="auto"
        Windows shown in an epoch: others in each if there are more, or each of them several times. "auto" is
        how many there are, at least 1600 and at most 65536; None is all, once.
    tol : float, default=0.0
    n_iter_no_change : int or inf, default=5
        Training ends when the loss (of the part held out, if there is one) did not fall by `tol` in this
        many epochs in a row.
    early_stopping : bool, default=True
        Hold out the last part of each series, never a random one, and keep the weights that forecast it best.
    validation_fraction : float, default=0.1
        Size of that part; it is at least `horizon` steps long.
    max_grad_norm : float or None, default=1.0
        Bound of the gradient's norm.
    ema_momentum : float or None, default=None
        If given, the weights are averaged over the updates of `fit`, exponentially with this momentum, for
        example 0.97: those of the last 1 / (1 - 0.97), about 30, count most. The part held out is forecast by
        averages, and averages are kept: they depend less on the epoch at which training stops. Best with a
        learning rate that stays high. Without effect in `partial_fit`.
    dtype : {"float32", "float64"}, default="float32"
    device : {"cpu", "cuda"}, default="cpu"
        Where training is done; forecasts are made on the CPU. See docs/cuda.md for what "cuda" needs, and
        what it refuses.
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
    history_ : SeriesSet
        The end of each series, from which `predict` goes on.
    ids_ : tuple
        Names of the series.
    center_, scale_ : ndarray of shape (n_rows,)
        What each channel of each series was standardised with.
    network_ : ForecastNetwork
    conformal_ : Conformal or None
        Errors of the forecasts of the part held out.
    frequency_ : Frequency or None
    season_length_ : int
    naive_error_ : ndarray of shape (n_rows,)
        Mean absolute error of the seasonal naive forecast in training: the scale of the MASE.
    loss_curve_ : list of float
        Mean training loss of each epoch, on the scale of the normalised windows.
    loss_, best_loss_ : float
        The last and the lowest of them.
    validation_scores_ : list of float or None
        With a part held out, minus its loss after each epoch, on the same scale.
    best_validation_score_ : float or None
    n_iter_ : int
        Epochs.
    n_features_in_ : int
        Channels.

    Notes
    -----
    The part held out shapes the forecasts only through the choice of the epoch, of the linear model's penalty
    and of its weight, and `predict` goes on from the very end of the series. The intervals are calibrated on
    that part as well; these choices make them narrower by far less than their error.

    References
    ----------
    .. [1] Lin et al., "SegRNN: Segment Recurrent Neural Network for Long-Term Time Series Forecasting",
       arXiv 2308.11200 (2023), section 4.
    .. [2] Salinas et al., "DeepAR: Probabilistic forecasting with autoregressive recurrent networks",
       International Journal of Forecasting 36 (2020), 1181-1191.
    .. [3] Toner and Darlow, "An Analysis of Linear Time Series Forecasting Models", arXiv 2403.14587 (2024);
       weights by errors: Bates and Granger, "The Combination of Forecasts", Operational Research Quarterly
       20 (1969), 451-468.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import RNNForecaster
    >>> y = np.sin(np.arange(600) * 2 * np.pi / 12)
    >>> forecaster = RNNForecaster(12, hidden_size=16, learning_rate_init=0.02, n_jobs=1, random_state=0)
    >>> forecast = forecaster.fit(y[:-12]).predict()
    >>> forecast.shape, bool(np.abs(forecast - y[-12:]).max() < 0.2)
    ((12,), True)
    """

    _parameter_constraints: ClassVar[dict] = {
        "horizon": [Interval(Integral, 1, None, closed="left")],
        "context_length": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "cell": [str],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "num_layers": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "decoder": [StrOptions(set(DECODERS))],
        "segment_length": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "normalize": [StrOptions({"last", "window", "standard"}), None],
        "linear": ["boolean", StrOptions({"auto"})],
        "multivariate": [StrOptions({"independent", "joint"})],
        "series_embedding": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"}), None],
        "loss": [StrOptions({"squared_error", "absolute_error", "huber", "quantile", *LIKELIHOODS})],
        "delta": [Interval(Real, 0, None, closed="neither")],
        "quantiles": ["array-like", None],
        "intervals": [StrOptions({"auto", "adaptive", "split"}), None],
        "past_covariates": [list, tuple, None],
        "future_covariates": [list, tuple, None],
        "static_covariates": [list, tuple, None],
        "calendar": [StrOptions({"auto"}), list, tuple, None],
        "id_col": [str],
        "time_col": [str],
        "target_col": [str],
        "freq": [str, Integral, None],
        "season_length": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "solver": [StrOptions(set(OPTIMIZERS))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [StrOptions({"auto", *SCHEDULES}), Schedule],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "samples_per_epoch": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema_momentum": [Interval(Real, 0, 1, closed="left"), None],
        "dtype": [StrOptions({"float32", "float64"})],
        "device": [StrOptions({"cpu", "cuda"})],
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
        hidden_size: int = 128,
        num_layers: int = 1,
        dropout: float = 0.1,
        *,
        decoder: str = "segment",
        segment_length: int | str = "auto",
        normalize: str | None = "last",
        linear: bool | str = "auto",
        multivariate: str = "independent",
        series_embedding: int | str | None = "auto",
        loss: str = "squared_error",
        delta: float = 1.0,
        quantiles: Sequence[float] | None = None,
        intervals: str | None = "auto",
        past_covariates: Sequence | None = None,
        future_covariates: Sequence | None = None,
        static_covariates: Sequence | None = None,
        calendar: str | Sequence[str] | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        freq: str | int | None = None,
        season_length: int | str = "auto",
        solver: str = "adam",
        learning_rate_init: float = 1e-3,
        learning_rate: str | Schedule = "auto",
        alpha: float = 0.0,
        batch_size: int | str = "auto",
        max_iter: int = 30,
        samples_per_epoch: int | str | None = "auto",
        tol: float = 0.0,
        n_iter_no_change: int = 5,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        max_grad_norm: float | None = 1.0,
        ema_momentum: float | None = None,
        dtype: str = "float32",
        device: str = "cpu",
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
        self.decoder = decoder
        self.segment_length = segment_length
        self.normalize = normalize
        self.linear = linear
        self.multivariate = multivariate
        self.series_embedding = series_embedding
        self.loss = loss
        self.delta = delta
        self.quantiles = quantiles
        self.intervals = intervals
        self.past_covariates = past_covariates
        self.future_covariates = future_covariates
        self.static_covariates = static_covariates
        self.calendar = calendar
        self.id_col = id_col
        self.time_col = time_col
        self.target_col = target_col
        self.freq = freq
        self.season_length = season_length
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.samples_per_epoch = samples_per_epoch
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.max_grad_norm = max_grad_norm
        self.ema_momentum = ema_momentum
        self.dtype = dtype
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    def fit(self, y: Any, X: Any = None, *, static: Any = None, validation: Any = None) -> Self:
        """Train the network.

        Parameters
        ----------
        y : array-like, list of array-like, data frame or dict of columns
            One series of shape (n_timesteps,) or, with several channels, (n_timesteps, n_channels), evenly
            spaced in time, oldest first; a list of such series; a wide frame with a column for each channel;
            or a long frame with the columns `id_col`, `time_col` and `target_col`. NaN is a missing value.
            Of a pandas Series or wide frame, an index of times or whole numbers is the times, unless it is
            0, 1, 2, ...; what it leaves out is missing. Ids are numbered as they first come: in another order
            another network is trained. In answers, ids are texts or integers of 64 bits, whatever column of
            categories or integers they came from, and times that were texts are dates.
        X : array-like, list of array-like, data frame or dict of columns, default=None
            Covariates of the same steps: an array for each series (a frame beside an array counts as one, its
            columns by their order), or a frame that is joined on id and time. With a frame they may stand in
            `y` as well.
        static : array-like of shape (n_series, n_static), data frame or dict, default=None
            Covariates of whole series.
        validation : float or later data in the form of `y`, default=None
            What is held out: this part of each series in place of `validation_fraction`, or these data, which
            follow those in `y` (and `predict` goes on from their end). Of an array `X`, the rows behind those
            of `y` belong to them.

        Returns
        -------
        RNNForecaster
            Itself.

        Raises
        ------
        ValueError
            If `y` is too short, is no series, or holds what is no number; if a parameter has no such value.
        FloatingPointError
            If training diverges. After any error the forecaster is as before.

        Warns
        -----
        UserWarning
            If the data are too short for a part to be held out.
        """
        self._validate_params()
        data, later, form = read_training(self, y, X, static, validation)
        return self._fit(data, later, form, validation)

    def _fit(
        self, data: SeriesSet, later: SeriesSet | None, form: Form, validation: float | None = None
    ) -> Self:
        """Train on data that were read; `later` are the same with those to validate on behind them."""
        n_valid = held_out(self, data, later, validation)
        data = data if later is None else later
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=3)
        model = self._make_model(data, data.lengths - n_valid, seeds[0])
        view, rng = model.view(data), np.random.default_rng(seeds[1])
        sources = self._sources(view, n_valid)
        optimizer = OPTIMIZERS[self.solver](model.network.parameters.size, model.network.dtype)
        history = self._train(model, *sources, optimizer, rng, self.samples_per_epoch)
        wanted = self.linear != "auto" or sources[1] is not None
        if self.linear and wanted and not model.layout.stepwise:
            model = replace(model, linear=fit_linear(model, *sources))
            view = view._replace(model=model)
        own = self.intervals == "auto" and model.is_distribution
        conformal = None
        if n_valid.any() and self.intervals is not None and not (own and model.samples):
            method = "split" if self.intervals == "split" else "adaptive"
            known = with_calendar_ahead(view, _calendar_of(data, form), self.horizon)
            conformal = calibrate(known, data.lengths - n_valid, self.horizon, method)

        # nothing is kept before everything has worked: a fit that fails leaves the forecaster as it was
        self._keep(data, n_valid, model, form)
        self._keep_history(history)
        self.conformal_, self._own_intervals = conformal, own
        self._optimizer, self._rng, self._seed = optimizer, rng, int(seeds[2])
        return self

    def partial_fit(self, y: Any, X: Any = None, *, static: Any = None) -> Self:
        """Show every window of the data to the network once.

        The first call settles scales, lengths and ids; there is no part held out, hence there are no
        conformal intervals. Later calls, also after `fit`, may bring any data of the same series: these need
        not follow the history. They are the history then, as after `update`. A linear model and its weight
        stay as they were found first.

        Parameters
        ----------
        y, X, static
            See `fit`; `static` is looked at in the first call only.

        Returns
        -------
        RNNForecaster
            Itself.

        Raises
        ------
        ValueError, FloatingPointError
            See `fit`.
        """
        self._validate_params()
        if not hasattr(self, "model_"):
            # one epoch without a part held out; what it warns of or lacks is no matter here
            first = clone(self).set_params(
                early_stopping=False, max_iter=1, n_iter_no_change=np.inf, ema_momentum=None,
                samples_per_epoch=None,
            )  # fmt: skip
            first.callbacks = self.callbacks
            first.fit(y, X, static=static)
            parameters = self.get_params(deep=False)
            vars(self).update(vars(first) | parameters)
            return self
        data = read_more(self, y, X, "y")
        members = find_members(self, data, "y")
        data = with_static(self, data, members)
        model, before = self.model_, self.model_.network.snapshot()
        optimizer, rng = copy.deepcopy((self._optimizer, self._rng))
        nothing = np.zeros(data.n_series, np.int64)
        try:
            history = self._train(
                model, *self._sources(model.view(data, members), nothing), optimizer, rng,
                samples_per_epoch=None, max_iter=1, n_iter_no_change=np.inf, ema_momentum=None,
            )  # fmt: skip
            emptied, starts = self.history_.lengths, self.history_.starts
            emptied[members] = 0
            if starts is not None:  # of the series that came, the new data need not follow the old
                starts = starts.copy()
                starts[members] = data.starts
            history_ = replace(self.history_.cut(emptied), starts=starts).append(data, "y")
        except BaseException:
            model.network.restore(before)
            raise
        self._optimizer, self._rng, self.history_ = optimizer, rng, self._tail(history_)
        self._keep_history(history, self.loss_curve_)
        return self

    def update(self, y: Any, X: Any = None) -> Self:
        """Go on from later data, without a change of the weights; adaptive intervals adapt.

        Parameters
        ----------
        y : as in `fit`
            The steps that follow the history, of all series or of some.
        X : as in `fit`, default=None
            Covariates of these steps.

        Returns
        -------
        RNNForecaster
            Itself.

        Raises
        ------
        ValueError
            If the data do not follow the history, or are of unknown series.
        """
        check_is_fitted(self)
        joined = self.history_.append(read_more(self, y, X, "y"), "y")
        history = self._tail(joined)
        self._learn(joined, self.history_.lengths)
        self.history_ = history
        return self

    def _make_model(self, data: SeriesSet, ends: np.ndarray, seed: int) -> ForecastModel:
        """Make an untrained model, with scales from the first ``ends[i]`` steps of each series."""
        loss, layout = make_loss(self), make_layout(self, int(ends.max()))
        counts = self.loss == "negative_binomial"
        check_values(loss, data, "y")
        normalizer = Normalizer("mean" if counts else self.normalize)
        n_channels, n_ids = (data.n_channels, data.n_series) if layout.joint else (1, data.n_rows)
        n_columns = {
            kind: 0 if (columns := getattr(data, kind)) is None else columns.shape[1]
            for kind in ("past", "future", "static")
        }
        network = make_network(
            self.decoder, layout, n_channels, n_raw=loss.n_raw(1), n_ids=n_ids,
            widths=Widths(**n_columns, observed=n_channels if data.has_missing else 0), cell=self.cell,
            hidden_size=self.hidden_size, num_layers=self.num_layers, dropout=self.dropout,
            series_embedding=self.series_embedding or None, dtype=self.dtype, random_state=int(seed),
            n_jobs=self.n_jobs,
        )  # fmt: skip
        return ForecastModel(
            network, layout, loss, normalizer, Standardizer.fit(data, ends, normalizer.method),
            CovariateScaler.fit(data, ends), data.has_missing, usual_gap(data),
        )  # fmt: skip

    def _sources(self, view: View, n_valid: np.ndarray) -> tuple[WindowSource, WindowSource | None]:
        """Return windows before the last ``n_valid[i]`` steps of each series, and in them, if any."""
        lengths, horizon = view.data.lengths, view.model.layout.horizon
        training, validation = view.source(last=lengths - n_valid - horizon), None
        if not training.n_samples:
            missing, freq = np.isnan(view.data.values).mean(), view.data.frequency
            raise ValueError(
                "y has no window with an observed value both in its context and in its horizon: "
                f"{missing:.0%} of all steps{f' (frequency {freq})' if freq else ''} are missing"
            )
        if n_valid.any():
            # none of a series of which nothing is held out
            first = np.where(n_valid > 0, lengths - n_valid, 1)
            validation = view.source(first, np.where(n_valid > 0, lengths - horizon, 0))
        return training, validation if validation is not None and validation.n_samples else None

    def _train(
        self,
        model: ForecastModel,
        source: WindowSource,
        validation: WindowSource | None,
        optimizer: Optimizer,
        rng: np.random.Generator,
        samples_per_epoch: int | str | None,
        **changes: Any,
    ) -> History:
        """Train the network of a model on windows."""
        automatic = self.learning_rate == "auto"
        schedule = ExponentialSchedule(0.8, after=3) if automatic else self.learning_rate
        # the automatic rate is near zero at the end: there is nothing left to converge
        trainer = make_trainer(
            self, source.n_samples, model.loss, rng, learning_rate=schedule, warn=not automatic, **changes
        )
        least, most = samples_per_epoch, samples_per_epoch
        if samples_per_epoch == "auto":
            least, most = SAMPLES_PER_EPOCH
        elif samples_per_epoch is None:
            least, most = 0, np.inf
        shown = min(max(source.n_samples, least), most)
        if shown != source.n_samples:
            source = Sampled(source, shown, rng)
            trainer.between_epochs = source.advance
        if validation is not None and validation.n_samples > most // 4:
            validation = Sampled(validation, max(most // 4, 1), rng)
        model.network.n_jobs = self.n_jobs
        if self.device == "cuda":
            from numbarnn.cuda.training import on_device

            trainer = on_device(trainer, model.network)
        return trainer.fit(model.network, optimizer, source, validation)

    def _keep(self, data: SeriesSet, n_valid: np.ndarray, model: ForecastModel, form: Form) -> None:
        """Set what is known of data and model."""
        layout = model.layout
        self.model_, self.network_ = model, model.network
        self.center_, self.scale_ = model.standardizer
        self.context_length_, self.segment_length_ = layout.context, layout.segment
        self.horizon_, self.n_features_in_ = layout.horizon, data.n_channels
        self.ids_, self.frequency_ = data.ids, data.frequency
        self.season_length_ = self.season_length
        if self.season_length == "auto":
            self.season_length_ = 1 if data.frequency is None else data.frequency.season_length
        ends = np.repeat(data.lengths - n_valid, data.n_channels)
        self.naive_error_ = np.array(
            [naive_error(data.row(r)[: ends[r]], self.season_length_) for r in range(data.n_rows)]
        )
        self._form, self._calendar = form, _calendar_of(data, form)
        # forecasts look back one context, calibration over the part held out, adaptation over a horizon
        self._kept = layout.context + np.maximum(n_valid, layout.horizon)
        self.history_ = self._tail(data)

    def _keep_history(self, history: History, before: Sequence[float] = ()) -> None:
        """Set what is known of the training."""
        self.loss_curve_ = [*before, *history.loss_curve]
        self.loss_, self.best_loss_ = self.loss_curve_[-1], min(self.loss_curve_)
        self.n_iter_, self._stopped = len(self.loss_curve_), history.stopped
        if not before:
            self.validation_scores_ = [-loss for loss in history.validation_curve] or None
            self.best_validation_score_ = max(self.validation_scores_) if self.validation_scores_ else None

    def _tail(self, data: SeriesSet) -> SeriesSet:
        """Return the part of the data that is kept; a copy, so that the whole may go."""
        # forecasts begin behind the last observed value
        gaps = gaps_before(data, data.lengths, self._kept - self.model_.layout.context)
        tail = data.tail(self._kept + gaps)
        return replace(tail, values=tail.values.copy())


def _calendar_of(data: SeriesSet, form: Form) -> tuple[str, ...]:
    """Return the features of the calendar behind other covariates: there is a pair of waves for each."""
    return tuple(name.removeprefix("sin_") for name in data.names.future[len(form.columns.future) :: 2])
