"""Rolling-origin evaluation of a forecaster: what would have been forecast, and how wrong it would have been.

Letters: n windows of a series, h steps, C channels, q levels.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from . import metrics
from .calendar import FEATURES
from .model import gaps_before
from .native import frame_of
from .prediction import N_PATHS, NAME, Asked, bound_columns, by_series, check_levels, check_seed, truth_of
from .preparation import find_members, read_more, read_training, with_static
from .series import Form, SeriesSet, write

__all__ = ["CrossValidation", "Evaluation"]

# windows that the importance of covariates is found on, and paths of each, of a likelihood
MOST_WINDOWS, FEW_PATHS = 1000, 20


class CrossValidation(NamedTuple):
    """Forecasts of one series from several origins, beside what came.

    Attributes
    ----------
    cutoff : ndarray of int of shape (n,)
        Steps of the series that were known.
    y, forecast : ndarray of shape (n, h, C)
    lower, upper : ndarray of shape (n, h, C, q) or None
        Bounds, levels in the order asked for.
    """

    cutoff: np.ndarray
    y: np.ndarray
    forecast: np.ndarray
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None


class _Folds(NamedTuple):
    """Windows of all series."""

    data: SeriesSet
    form: Form
    cutoffs: np.ndarray  # (n_series, n)
    truth: np.ndarray  # (n_series, n, h, C)
    point: np.ndarray
    lower: np.ndarray | None  # (n_series, n, h, C, q)
    upper: np.ndarray | None
    levels: np.ndarray | None
    naive: np.ndarray  # (n_series, C)


class Evaluation:
    """The methods of `RNNForecaster` that evaluate; all but `score` and `feature_importance` fit a clone."""

    def cross_validation(
        self, y: Any, X: Any = None, *, n_windows: int = 5, step_size: int | None = None,
        h: int | None = None, refit: bool | int = False, level: ArrayLike | None = None, static: Any = None,
        verbose: int | None = None,
    ) -> Any:  # fmt: skip
        """Forecast from several origins near the end of the data, as if nothing after them were known.

        Parameters
        ----------
        y, X, static
            See `fit`.
        n_windows : int, default=5
            Origins of each series. A series that is too short for all of them is left out.
        step_size : int, default=None
            Steps between two origins; None: `h`.
        h : int, default=None
            Steps to forecast; None takes the horizon.
        refit : bool or int, default=False
            True trains anew at every origin, a number at every so many. False trains on what comes before
            the first origin, and goes on as `update` does.
        level : float or sequence of float, default=None
            Intervals, see `predict`; bounds in a `CrossValidation` always have the axis of levels.
        verbose : int, default=None
            If not 0, show progress: of the training where there is one, else by trainings. None takes the
            forecaster's.

        Returns
        -------
        CrossValidation, list of those, or frame
            For one array, a list of arrays, or a frame. The columns of a frame are id, time, "cutoff" (the
            last time that was known), the truth, "RNNForecaster" and bounds. If it had no times, steps are
            counted from 1 in "ds".

        Raises
        ------
        ValueError
            If no series is long enough; else see `fit` and `predict`.
        KeyboardInterrupt
            By Ctrl-C before the first forecasts. The forecaster itself never changes.

        Warns
        -----
        UserWarning
            If a series is too short, and left out.
        sklearn.exceptions.ConvergenceWarning
            By Ctrl-C later on: the windows that were finished are returned.
        """
        folds = self._folds(y, X, static, n_windows, step_size, h, refit, level, verbose)
        if folds.form.is_frame:
            return _write_folds(folds)
        found = [
            CrossValidation(
                folds.cutoffs[i], folds.truth[i], folds.point[i],
                *(None if each is None else each[i] for each in (folds.lower, folds.upper)),
            )
            for i in range(folds.data.n_series)
        ]  # fmt: skip
        return found if folds.form.kind == "list" else found[0]

    def backtest(
        self, y: Any, X: Any = None, *, n_windows: int = 5, step_size: int | None = None,
        h: int | None = None, refit: bool | int = False, level: ArrayLike | None = None, static: Any = None,
        verbose: int | None = None,
    ) -> Any:  # fmt: skip
        """Errors of `cross_validation` for each step ahead.

        Parameters
        ----------
        y, X, n_windows, step_size, h, refit, level, static, verbose
            See `cross_validation`.

        Returns
        -------
        frame, or dict of columns where `y` is no frame
            A row for each step and one, called "all", for all of them: mae, rmse, mase, bias (forecast minus
            truth), and for each level such as 80 coverage_80 (the part of truths within the bounds), width_80
            and pinball_80 (mean of both bounds). A series that is constant in training has no MASE and is
            left out of its mean. After Ctrl-C the table is of the windows that were finished.
        """
        folds = self._folds(y, X, static, n_windows, step_size, h, refit, level, verbose)
        truth, point = folds.truth, folds.point
        steps = [str(step + 1) for step in range(truth.shape[2])]
        naive = folds.naive[:, np.newaxis, np.newaxis]

        def each(metric, *arrays):
            by_step = metric(*arrays, axis=(0, 1, 3))
            return np.append(by_step, metric(*arrays))

        table = {
            "step": np.array([*steps, "all"]),
            "mae": each(metrics.mae, truth, point),
            "rmse": each(metrics.rmse, truth, point),
            "mase": each(metrics.mase, truth, point, naive),
            "bias": each(metrics.bias, truth, point),
        }
        for k, value in enumerate(() if folds.levels is None else folds.levels):
            lower, upper, tail = folds.lower[..., k], folds.upper[..., k], (1 - value / 100) / 2
            table[f"coverage_{value:g}"] = each(metrics.coverage, truth, lower, upper)
            table[f"width_{value:g}"] = each(metrics.width, lower, upper)
            below = each(metrics.pinball, truth, lower, tail)
            table[f"pinball_{value:g}"] = 0.5 * (below + each(metrics.pinball, truth, upper, 1 - tail))
        return _as_table(folds.form, table)

    def score(self, y: Any, X: Any = None, *, metric: str = "mase") -> float:
        """Error on data that follow those seen, forecast one horizon after the other; lower is better.

        scikit-learn's searches want the opposite: give them ``scoring=lambda f, y, _=None: -f.score(y)``, and
        `TimeSeriesSplit`.

        Parameters
        ----------
        y : as in `fit`
            What comes after the history. The last window may be shorter than the horizon.
        X : as in `fit`, default=None
            Covariates of these steps.
        metric : {"mase", "mae", "rmse"}, default="mase"
            The scale of "mase" is the error of the seasonal naive forecast in training.

        Returns
        -------
        float
            NaN where no series has a scale or a truth.

        Raises
        ------
        ValueError
            If the data do not follow the history.
        """
        check_is_fitted(self)
        measure = _measure(metric)
        new = read_more(self, y, X, "y")
        joined, horizon = self.history_.append(new, "y"), self.horizon_
        self.model_.network.n_jobs = self.n_jobs
        view = self.model_.view(joined)
        spans = [
            np.arange(start, end, horizon)
            for start, end in zip(self.history_.lengths, joined.lengths, strict=True)
        ]
        each = np.arange(view.n_samples)
        counts = np.array([len(spans[i]) for i in view.series_of(each)])
        rows = np.repeat(each, counts)
        origins = np.concatenate([spans[i] for i in view.series_of(each)])
        point = self.model_.middle(
            view.forecast(
                rows, origins, horizon, view.ahead(rows, origins, horizon), n_paths=N_PATHS, seed=self._seed
            )
        )
        truth = truth_of(joined, view.rows_of(rows), origins, horizon)
        return float(measure(truth, point, self.naive_error_[view.rows_of(rows)][:, np.newaxis]))

    def feature_importance(
        self, y: Any, X: Any = None, *, n_repeats: int = 5, metric: str = "mae",
        random_state: int | None = None,
    ) -> Any:  # fmt: skip
        """Find how much worse forecasts become when a covariate is that of another window.

        Parameters
        ----------
        y, X : as in `fit`
            Data with truths, preferably not those of the training. They need not follow the history.
        n_repeats : int, default=5
            How often the windows are shuffled.
        metric : {"mae", "rmse", "mase"}, default="mae"
        random_state : int, default=None

        Returns
        -------
        frame, or dict of columns where `y` is no frame
            Columns covariate, importance (mean increase of the error) and std. The indicators of a static
            covariate of texts are one covariate, and so are the two waves of a calendar feature.

        Raises
        ------
        ValueError
            If there are no covariates, or the data are shorter than the horizon and a step.
        """
        check_is_fitted(self)
        measure, horizon, model = _measure(metric), self.horizon_, self.model_
        rng = np.random.default_rng(check_seed(random_state))
        if not isinstance(n_repeats, Integral) or n_repeats < 1:
            raise ValueError(f"n_repeats was {n_repeats!r}; expected an integer from 1")
        data = read_more(self, y, X, "y")
        if not any(scales is not None for scales in model.covariates):
            raise ValueError("feature_importance needs covariates, and fit had none")
        members = find_members(self, data, "y")
        data = with_static(self, data, members)
        windows, kept, members = _windows(data, members, model.layout.context, horizon)
        model.network.n_jobs = self.n_jobs
        view = model.view(windows, members)
        rows = np.arange(view.n_samples)
        origins = np.full(len(rows), kept)
        truth = truth_of(windows, view.rows_of(rows), origins, horizon)
        n_channels = windows.n_channels
        fit_rows = view.rows_of(rows)
        fit_rows = n_channels * members[fit_rows // n_channels] + fit_rows % n_channels
        naive = self.naive_error_[fit_rows][:, np.newaxis]

        def error(covariates):
            mixed = view._replace(covariates=covariates)
            values = mixed.forecast(rows, origins, horizon, n_paths=FEW_PATHS, seed=self._seed)
            return float(measure(truth, model.middle(values), naive))

        n = windows.n_series
        baseline = error(view.covariates)
        names, mean, deviation = [], [], []
        for kind, values in view.covariates._asdict().items():
            for name, columns in _covariate_columns(self, kind).items():
                found = []
                for _ in range(n_repeats):
                    mixed = values.copy()
                    # whole windows, each with its course
                    course = mixed.reshape(n, -1, mixed.shape[1])
                    course[..., columns] = course[rng.permutation(n)][..., columns]
                    found.append(error(view.covariates._replace(**{kind: mixed})) - baseline)
                names.append(name)
                mean.append(np.mean(found))
                deviation.append(np.std(found))
        table = {"covariate": np.array(names), "importance": np.array(mean), "std": np.array(deviation)}
        return _as_table(self._form, table)

    # ---- windows of a rolling evaluation

    def _folds(self, y, X, static, n_windows, step_size, h, refit, level, verbose) -> _Folds:
        """Fit clones, and forecast from all origins."""
        self._validate_params()
        for name, value in (("n_windows", n_windows), ("step_size", step_size), ("h", h)):
            if value is None and name != "n_windows":
                continue
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} was {value!r}; expected an integer from 1")
        h = self.horizon if h is None else int(h)
        step_size = h if step_size is None else int(step_size)
        if not isinstance(refit, bool | Integral) or refit < 0:
            raise ValueError(f"refit was {refit!r}; expected True, False or a number of windows")
        levels = None if level is None else check_levels(level)
        data, _, form = read_training(self, y, X, static, None)
        span = h + step_size * (n_windows - 1)
        long_enough = data.lengths >= span + self.horizon + 1
        if not long_enough.any():
            raise ValueError(
                f"y has {data.lengths.max()} time steps; expected at least {span + self.horizon + 1}: "
                f"n_windows={n_windows} with step_size={step_size} and h={h}, and a horizon and a step to "
                "train on"
            )
        if not long_enough.all():
            short = data.ids[int(long_enough.argmin())]
            warnings.warn(
                f"{(~long_enough).sum()} of {data.n_series} series, the first {short!r}, have less than "
                f"{span + self.horizon + 1} time steps and are left out of the evaluation",
                UserWarning, stacklevel=3,
            )  # fmt: skip
            data = data.take(np.flatnonzero(long_enough))
        cutoffs = data.lengths[:, np.newaxis] - span + step_size * np.arange(n_windows)
        every = n_windows if not refit else int(refit)
        verbose = self.verbose if verbose is None else verbose
        found, naive = [], None
        blocks = [cutoffs[:, start : start + every] for start in range(0, n_windows, every)]
        for part in _with_progress(blocks, verbose):
            fitted = clone(self)
            fitted.callbacks = self.callbacks
            fitted.verbose = verbose if len(blocks) == 1 else 0  # else a fit is a step of the bar
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*training was interrupted", ConvergenceWarning)
                    fitted._fit(data.cut(part[:, 0]), None, form)
                if fitted._stopped == "interrupted":  # half trained, it would pass for one of the others
                    raise KeyboardInterrupt
                forecasts = fitted._walk(data, part, h, levels)
            except KeyboardInterrupt:
                if not found:
                    raise
                warnings.warn(
                    f"interrupted: the last {n_windows - len(found) * every} of {n_windows} windows are "
                    "left out", ConvergenceWarning, stacklevel=3,
                )  # fmt: skip
                break
            naive = fitted.naive_error_.reshape(data.n_series, -1) if naive is None else naive
            found.append(forecasts)
        point, lower, upper = (
            None if parts[0] is None else np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)
        )
        cutoffs = cutoffs[:, : point.shape[1]]
        rows = np.arange(data.n_rows)
        truth = truth_of(data, np.repeat(rows, cutoffs.shape[1])[:, np.newaxis],
                       np.repeat(cutoffs, data.n_channels, axis=0).ravel(), h)  # fmt: skip
        truth = truth.reshape(data.n_series, data.n_channels, -1, h).transpose(0, 2, 3, 1)
        return _Folds(data, form, cutoffs, truth, point, lower, upper, levels, naive)

    def _walk(self, data, cutoffs, h, levels):
        """Forecast from cutoffs (n_series, n) on; intervals learn from what has come by each of them."""
        view, n = self.model_.view(data), cutoffs.shape[1]
        rows = np.arange(view.n_samples)
        origins = cutoffs[view.series_of(rows)].T  # [n, n_samples]
        if self.model_.samples:  # as `predict` draws them: other origins would take a part of the numbers
            parts = [view.forecast(rows, each, h, n_paths=N_PATHS, seed=self._seed) for each in origins]
        else:
            parts = np.split(view.forecast(np.tile(rows, n), origins.ravel(), h), n)
        point, lower, upper = [], [], []
        for k, part in enumerate(parts):
            asked = Asked(view, rows, origins[k], h, None, np.arange(data.n_series), self._form)
            point.append(by_series(asked, self.model_.middle(part)))
            if levels is None:
                continue
            if k:
                # what `update` would do
                steps = cutoffs[0, k] - cutoffs[0, k - 1]
                kept = self.context_length_ + self.horizon_
                kept += gaps_before(data, cutoffs[:, k - 1], np.full(data.n_series, self.horizon_))
                known = data.cut(cutoffs[:, k]).tail(kept + steps)
                self._learn(known, np.maximum(known.lengths - steps, 0))
            for bounds, each in zip((lower, upper), self._bounds(asked, part, levels), strict=True):
                bounds.append(by_series(asked, each))
        return [np.stack(each, axis=1) if each else None for each in (point, lower, upper)]


def _windows(data, members, context, horizon):
    """Cut evenly spaced windows out, each a series of its own: (SeriesSet, steps of context, members)."""
    kept = int(min(context, data.lengths.max() - horizon))
    if kept < 1:
        raise ValueError(
            f"y has {data.lengths.max()} time steps; expected at least {horizon + 1}: a horizon of {horizon} "
            "and one step of context"
        )
    counts = np.maximum(data.lengths - horizon - kept + 1, 0)
    chosen = np.unique(np.linspace(0, counts.sum() - 1, MOST_WINDOWS).round().astype(np.int64))
    ends = np.cumsum(counts)
    series = np.searchsorted(ends, chosen, side="right")
    first = chosen - (ends - counts)[series]
    return data.pick(series, first, first + kept + horizon), kept, members[series]


def _covariate_columns(forecaster, kind):
    """Return the columns of each covariate of a kind: indicators of one, and waves of one clock, together."""
    labels, form = getattr(forecaster.history_.names, kind), forecaster._form
    parts = {}
    if kind == "static":
        parts = {f"{name}={value}": name for name, values in form.categories for value in values}
    elif kind == "future":
        waves = {f"{part}_{name}": name for name in FEATURES for part in ("sin", "cos")}
        parts = {label: waves[label] for label in labels[len(form.columns.future) :]}
    found: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        name = parts.get(label, label)
        # numbers of columns: those of static are none of X
        name = f"static {name}" if kind == "static" and isinstance(name, int) else str(name)
        found.setdefault(name, []).append(column)
    return found


def _measure(metric):
    """Return a function of truth, forecast and the naive error."""
    if metric == "mase":
        return metrics.mase
    if metric not in ("mae", "rmse"):
        raise ValueError(f"metric was {metric!r}; expected 'mase', 'mae' or 'rmse'")
    return lambda truth, forecast, naive: getattr(metrics, metric)(truth, forecast)


def _write_folds(folds: _Folds) -> Any:
    """Write windows as a long frame: id, time, cutoff, truth, forecast, bounds."""
    data, (n_series, n) = folds.data, folds.cutoffs.shape
    shape = (n_series * n, *folds.truth.shape[2:])
    series, ends = np.repeat(np.arange(n_series), n), folds.cutoffs.ravel()
    known = ends if data.starts is None else data.frequency.shift(data.starts[series], ends - 1)
    columns = {}
    if data.starts is None:  # steps counted from 1, as the cutoffs are
        columns["ds"] = np.broadcast_to((ends[:, np.newaxis] + np.arange(1, shape[1] + 1))[..., None], shape)
    columns |= {
        "cutoff": np.broadcast_to(known[:, np.newaxis, np.newaxis], shape),
        folds.form.columns.target or "y": folds.truth.reshape(shape),
        NAME: folds.point.reshape(shape),
    }
    if folds.levels is not None:
        bounds = (each.reshape(*shape, -1) for each in (folds.lower, folds.upper))
        columns |= bound_columns(folds.levels, *bounds)
    return write(folds.form, data, shape[1], columns, series=series, ends=ends, long=True)


def _as_table(form: Form, columns: dict[str, np.ndarray]) -> Any:
    """Make columns a frame of the library that the data came in."""
    if not form.is_frame:
        return columns
    return frame_of(columns, form.backend.with_columns())


def _with_progress(blocks: list, verbose: int) -> Iterable:
    """Go through blocks of windows, with a bar on a terminal and lines elsewhere."""
    if not verbose or len(blocks) == 1:
        return blocks
    if sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(blocks, desc="cross_validation", unit="fit")
    return _with_lines(blocks)


def _with_lines(blocks):
    for k, block in enumerate(blocks):
        print(f"cross_validation: fit {k + 1}/{len(blocks)}", file=sys.stderr, flush=True)
        yield block
