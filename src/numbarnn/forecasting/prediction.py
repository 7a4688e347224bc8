"""Forecasts, quantiles and paths of a fitted forecaster, and the errors that its intervals are made of.

Letters: n windows, h steps, C channels, q levels, R rows (a row is one channel of one series).
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from .arrays import numbers
from .conformal import Conformal
from .model import View
from .preparation import calendar_ahead, check_values, find_members, with_calendar, with_static
from .series import Form, SeriesSet, context_form, read_contexts, read_future, write
from .sets import NAME

__all__ = ["Forecast", "Prediction", "calibrate", "truth_of", "window_residuals", "with_calendar_ahead"]

N_PATHS = 200  # that quantiles of a likelihood are taken from
# latest origins of a series, and windows and numbers in all, that intervals are calibrated on
MOST_ORIGINS, MOST_WINDOWS, MOST_RESIDUALS = 1000, 200_000, 10_000_000


class Forecast(NamedTuple):
    """A forecast with its intervals.

    Attributes
    ----------
    forecast : ndarray or list of ndarray
    lower, upper : ndarray of shape (..., n_levels), or list of those
        Bounds, levels in the order asked for; of a level that was a number, without that axis.
    """

    forecast: Any
    lower: Any
    upper: Any


class Asked(NamedTuple):
    """Windows to be forecast.

    Attributes
    ----------
    view : View
    rows, origins : ndarray of int of shape (n,)
    h : int
    ahead : ndarray of shape (n, h, F) or None
    members : ndarray of int of shape (n_series,)
        Which series of `fit` those of the view are; -1 for new ones.
    form : Form
        Of the answer.
    """

    view: View
    rows: np.ndarray
    origins: np.ndarray
    h: int
    ahead: np.ndarray | None
    members: np.ndarray
    form: Form


class Prediction:
    """The methods of `RNNForecaster` that forecast."""

    def predict(
        self, h: int | None = None, X: Any = None, level: ArrayLike | None = None, context: Any = None
    ) -> Any:
        """Forecast what follows the data seen so far, or what follows other histories.

        Parameters
        ----------
        h : int, default=None
            Steps to forecast; None takes the horizon. Beyond the horizon, forecasts are fed back as if they
            were observed, one horizon at a time (``decoder="recursive"``: step by step), and errors add up.
            Intervals are conformal there, but those of likelihoods.
        X : array-like or frame, default=None
            Known-future covariates of the next `h` steps: (h, n_future), a list of those, or a frame with id
            and time, as `make_future` gives it. With `context` those of the context stand in front, past ones
            too. If `h` is below the horizon, they are taken to stay as they last are. An array has the order
            of the columns of `X` in `fit`; where that was a frame, past and then known-future covariates, as
            they were named.
        level : float or sequence of float, default=None
            Intervals in percent, such as ``[80, 95]``. A number is the same as a list of it, but bounds that
            are arrays then have the shape of the forecast, without an axis of levels.
        context : array-like or frame, default=None
            Histories to go on from, in the units of `y`: one of shape (n_timesteps,) or (n_timesteps,
            n_channels), or many at once of shape (n_windows, n_timesteps, n_channels) or in a list; or a
            frame like `y`. After a fit on a list of series, a list has histories of these in their order.
            What is older than `context_length_` is not looked at, but for a value that is missing at its very
            beginning. What is missing at the end is forecast too, from the last observed value on; steps
            further behind it than any whose errors are known have the intervals of the last of these. None
            goes on from the end of the data seen.

        Returns
        -------
        ndarray of shape (h,), (h, n_channels) or (n_windows, h, n_channels); list of those; or frame
            In the form of the history; of a frame with future times, and the forecast in a column
            "RNNForecaster" (wide: in the columns of the channels). With `level` arrays come as a `Forecast`,
            and frames have further columns such as "RNNForecaster-lo-80" and "RNNForecaster-hi-80".

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If `h` is no positive number, covariates are missing, `context` does not fit to the data of `fit`,
            or there are too few errors to calibrate a level on.
        """
        asked = self._ask(h, X, context)
        levels = None if level is None else check_levels(level)
        values = self._values(asked)
        point = by_series(asked, self.model_.middle(values))
        if levels is None:
            return write(asked.form, asked.view.data, asked.h, {NAME: point})
        bounds = [by_series(asked, each) for each in self._bounds(asked, values, levels)]
        if np.ndim(level) == 0 and not asked.form.is_frame:
            bounds = [each[..., 0] for each in bounds]
        return answer(asked, point, levels, *bounds)

    def predict_quantiles(
        self, quantiles: ArrayLike, h: int | None = None, X: Any = None, context: Any = None
    ) -> Any:
        """Forecast quantiles.

        Parameters
        ----------
        quantiles : float or sequence of float
            Between 0 and 1.
        h, X, context
            See `predict`.

        Returns
        -------
        ndarray of shape (..., n_quantiles), list of those, or frame
            As `predict`, with one axis more unless `quantiles` is a number; frames have columns such as
            "RNNForecaster-ql0.1".

        Raises
        ------
        ValueError
            See `predict`.
        """
        asked = self._ask(h, X, context)
        wanted = np.atleast_1d(numbers("quantiles", quantiles))
        if wanted.ndim != 1 or not wanted.size or not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"quantiles was {quantiles!r}; expected numbers between 0 and 1")
        found = by_series(asked, self._quantiles(asked, self._values(asked), wanted))
        if asked.form.is_frame:
            columns = {f"{NAME}-ql{q:g}": found[..., k] for k, q in enumerate(wanted)}
            return write(asked.form, asked.view.data, asked.h, columns)
        found = found if np.ndim(quantiles) else found[..., 0]
        return write(asked.form, asked.view.data, asked.h, {NAME: found})

    def sample_paths(
        self,
        n_paths: int = 100,
        h: int | None = None,
        X: Any = None,
        context: Any = None,
        random_state: int | None = None,
    ) -> Any:
        """Draw whole futures, whose steps belong together.

        A likelihood is sampled step by step, each channel for itself; forecasts of other networks are moved
        by errors of whole windows of the part held out, of all channels of a series at the same time. Where
        few of these windows have all their truths, those with half of them serve too, interpolated.

        Parameters
        ----------
        n_paths : int, default=100
        h, X, context
            See `predict`.
        random_state : int, default=None
            None: one that `fit` drew, so that the same call gives the same paths.

        Returns
        -------
        ndarray of shape (n_paths, h), (n_paths, h, n_channels) or (n_paths, n_windows, h, n_channels); list \
of those; or long frame
            A frame has a column "sample".

        Raises
        ------
        ValueError
            See `predict`; and if nothing was held out in `fit`.
        """
        asked = self._ask(h, X, context)
        if not isinstance(n_paths, Integral) or n_paths < 1:
            raise ValueError(f"n_paths was {n_paths!r}; expected a number of paths from 1")
        seed = self._seed if random_state is None else check_seed(random_state)
        values = self._values(asked, n_paths, seed)
        if not self.model_.samples:
            conformal, rng = self._calibrated(asked.h, whole=True), np.random.default_rng(seed)
            point = by_series(asked, self.model_.middle(values))
            paths = np.repeat(point[..., np.newaxis], n_paths, axis=-1)
            # channels of a series are moved together
            rows, units = (each.reshape(len(paths), -1) for each in self._fit_rows(asked))
            steps = self._steps_after(asked, conformal.horizon).reshape(len(paths), -1, 1, asked.h)
            for i, row in enumerate(rows):
                drawn = conformal.paths(row, n_paths, asked.h, rng)
                drawn = np.take_along_axis(drawn, steps[i], axis=2)  # each channel may end elsewhere
                paths[i] += (drawn * units[i, :, np.newaxis, np.newaxis]).transpose(2, 0, 1)
        else:
            paths = by_series(asked, values)
        return write_paths(asked, paths)

    def make_future(self, h: int | None = None) -> Any:
        """Return the ids and times that known-future covariates are needed for.

        Parameters
        ----------
        h : int, default=None
            Steps; None takes the horizon.

        Returns
        -------
        frame
            Like the one in `fit`, with the columns of id and time.

        Raises
        ------
        ValueError
            If the data have no times.
        """
        check_is_fitted(self)
        if self.history_.starts is None:
            raise ValueError("make_future needs times, and y had none; X is an array of h rows here")
        return write(self._form, self.history_, self._steps(h), {})

    # ---- what is asked, and the numbers

    def _steps(self, h):
        h = self.horizon_ if h is None else h
        if not isinstance(h, Integral) or h < 1:
            raise ValueError(f"h was {h!r}; expected a number of steps from 1, or None")
        return int(h)

    def _ask(self, h, X, context) -> Asked:
        """Find out which windows are meant."""
        check_is_fitted(self)
        h = self._steps(h)
        if context is None:
            data, form, members = self.history_, self._form, np.arange(self.history_.n_series)
            future = read_future(X, data, h, form)
        else:
            form = context_form(context, self._form)
            n_known = int(self.history_.offsets[-1])
            data = read_contexts(context, X, self.n_features_in_, self._form, n_known)
            check_values(self.model_.loss, data, "context")
            members = self._members(data, form)
            future = read_future(X, data, h, form, data.lengths)
            data = with_static(self, with_calendar(data, self._calendar), members)
        future = calendar_ahead(data, future, h, self._calendar)
        self.model_.network.n_jobs = self.n_jobs
        view = self.model_.view(data, members)
        rows = np.arange(view.n_samples)
        series = view.series_of(rows)
        scaled = self.model_.covariates.apply("future", future, self.model_.network.dtype)
        ahead = None if scaled is None else scaled[series]
        return Asked(view, rows, data.lengths[series], h, ahead, members, form)

    def _members(self, data, form):
        """Return which series of `fit` contexts are of, (n_series,)."""
        if form.is_frame or (form.kind == "list" and self._form.kind == "list"):
            return find_members(self, data, "context", new=True)
        if len(self.ids_) > 1:
            raise ValueError(
                f"context has no ids, and fit saw {len(self.ids_)} series; expected a long frame"
            )
        return np.zeros(data.n_series, np.int64)

    def _values(self, asked, n_paths=N_PATHS, seed=None):
        """Forecast in the units of the data, (n, h, C, q)."""
        seed = self._seed if seed is None else seed
        return asked.view.forecast(asked.rows, asked.origins, asked.h, asked.ahead, n_paths, seed)

    def _fit_rows(self, asked):
        """Rows of `fit` that windows belong to, -1 for new ones, and units of their errors: (n, C) each."""
        rows = asked.view.rows_of(asked.rows)
        n_channels = asked.view.data.n_channels
        members = asked.members[rows // n_channels]
        known = n_channels * members + rows % n_channels
        new = members < 0
        return np.where(new, -1, known), np.where(new, asked.view.standardizer.scale[rows], 1.0)

    def _bounds(self, asked, values, levels):
        """Lower and upper bounds, (n, h, C, q) each, around the forecast."""
        own = None
        if self._own_intervals:
            beyond = self._beyond(asked)
            tail = (1 - levels / 100) / 2
            both = self._own_quantiles(values, np.concatenate([tail, 1 - tail]))
            own = both[..., : len(levels)], both[..., len(levels) :]
            if not beyond.any():
                return own
        point = self.model_.middle(values)
        conformal = self._calibrated(asked.h)
        lower, upper = np.empty((2, *point.shape, len(levels)))
        steps = self._steps_after(asked, conformal.horizon)
        n_steps, known = int(steps.max()) + 1, {}
        for i, (rows, units) in enumerate(zip(*self._fit_rows(asked), strict=True)):
            for c, row in enumerate(rows):
                if row not in known:
                    known[row] = np.stack(conformal.bounds(row, levels, n_steps))
                    if asked.h > self.horizon_:  # the first steps have the bounds that they have alone
                        known[row][:, : self.horizon_] = self.conformal_.bounds(row, levels, self.horizon_)
                low, high = known[row][:, steps[i]] * units[c]
                lower[i, :, c] = point[i, :, c, np.newaxis] + np.minimum(low, 0)
                upper[i, :, c] = point[i, :, c, np.newaxis] + np.maximum(high, 0)
        if own is not None:
            lower, upper = (
                np.where(beyond[..., np.newaxis, np.newaxis], *pair)
                for pair in zip((lower, upper), own, strict=True)
            )
        return lower, upper

    def _steps_after(self, asked, n_known):
        """Return which step after the last observed one each of a forecast is, from 0: (n, h)."""
        gaps = asked.view.gaps(asked.rows, asked.origins)
        return np.minimum(gaps[:, np.newaxis] + np.arange(asked.h), n_known - 1)

    def _beyond(self, asked):
        """Whether steps of a forecast, (n, h), rest on forecasts that were fed back without their spread."""
        # within the horizon a network without conformal errors has nothing better
        if self.model_.samples or (self.conformal_ is None and asked.h <= self.horizon_):
            return np.zeros((len(asked.rows), asked.h), bool)
        return self._steps_after(asked, self.horizon_ + 1) >= self.horizon_

    def _own_quantiles(self, values, quantiles):
        """Quantiles (n, h, C, q) out of what the network gives."""
        if self.model_.samples:
            return np.moveaxis(np.quantile(values, quantiles, axis=-1), 0, -1)
        return between(values, self.model_.levels, quantiles)

    def _quantiles(self, asked, values, quantiles):
        """Quantiles (n, h, C, q) out of what the network gives, or by conformal errors."""
        if self._own_intervals and not self._beyond(asked).any():
            return self._own_quantiles(values, quantiles)
        point = self.model_.middle(values)
        outside = quantiles[quantiles != 0.5]
        lower, upper = self._bounds(asked, values, np.abs(100 - 200 * outside))
        found = np.repeat(point[..., np.newaxis], len(quantiles), axis=-1)
        found[..., quantiles < 0.5] = lower[..., outside < 0.5]
        found[..., quantiles > 0.5] = upper[..., outside > 0.5]
        return found

    def _learn(self, data, seen):
        """Let adaptive intervals look at the errors of all steps but the first ``seen[i]`` of each."""
        if self.conformal_ is None or self.conformal_.method != "adaptive":
            return
        horizon = self.horizon_
        view = with_calendar_ahead(self.model_.view(data), self._calendar, horizon)
        first = np.maximum(seen - horizon + 1, 1)
        if not view.knows_ahead():
            # a forecast beyond the end needs covariates that are not known yet: whole windows, as they end
            self.conformal_.update(*window_residuals(view, first, horizon))
            return
        rows, residuals = window_residuals(view, first, horizon, partial=True)
        order = np.argsort(rows, kind="stable")
        begins = np.searchsorted(rows[order], np.arange(data.n_rows))
        learned = []
        for row, begin in enumerate(begins):
            series = row // data.n_channels
            # for each new step, the errors of the forecasts of it that were made 1, 2, ... steps before
            step = np.arange(seen[series], data.lengths[series])[:, np.newaxis]
            origin = step - np.arange(horizon) - first[series]
            found = residuals[order[begin + np.maximum(origin, 0)], np.arange(horizon)]
            learned.append(np.where(origin < 0, np.nan, found))
        of_rows = np.repeat(np.arange(data.n_rows), [len(found) for found in learned])
        self.conformal_.update(of_rows, np.concatenate(learned))

    def _calibrated(self, h, whole=False) -> Conformal:
        """Return errors for `h` steps; those of `whole` windows, or beyond the horizon, are found anew."""
        if self.conformal_ is None:
            raise ValueError(
                "intervals need errors of forecasts of a part held out, and there are none: fit needs "
                "early_stopping=True or validation, intervals other than None, and twice the horizon of data"
            )
        if h <= self.horizon_ and not whole:
            return self.conformal_
        held_out = self._kept - self.context_length_
        if held_out.max() < h:
            raise ValueError(
                f"h was {h}; expected at most {held_out.max()} with a level: the part held out has no longer "
                "window to calibrate on"
            )
        first = np.maximum(self.history_.lengths - held_out, 1)
        view = with_calendar_ahead(self.model_.view(self.history_), self._calendar, h)
        return calibrate(view, first, h, self.conformal_.method, whole)


def with_calendar_ahead(view: View, names: tuple[str, ...], h: int) -> View:
    """Let a view know the calendar of `h` steps behind its data, if that is all that must be known."""
    scales = view.model.covariates.future
    if scales is None or len(scales[0]) > 2 * len(names):
        return view
    future = calendar_ahead(view.data, None, h, names)
    return view._replace(beyond=view.model.covariates.apply("future", future, view.model.network.dtype))


def check_levels(level: ArrayLike) -> np.ndarray:
    """Return levels as an array of shape (q,)."""
    levels = np.atleast_1d(numbers("level", level))
    if levels.ndim != 1 or not levels.size or not ((levels >= 1) & (levels < 100)).all():
        raise ValueError(f"level was {level!r}; expected numbers between 0 and 100: percent, from 1")
    return levels


def check_seed(random_state: int | None) -> int | None:
    """Return what draws are made from, which must be an integer from 0 or None."""
    if random_state is not None and (not isinstance(random_state, Integral) or random_state < 0):
        raise ValueError(f"random_state was {random_state!r}; expected an integer from 0 or None")
    return random_state


def between(values: np.ndarray, trained: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Interpolate quantiles between those trained: (..., q trained) -> (..., q)."""
    wrong = (quantiles < trained[0] - 1e-9) | (quantiles > trained[-1] + 1e-9)
    if wrong.any():
        names = ", ".join(f"{level:g}" for level in trained)
        raise ValueError(
            f"the quantile {quantiles[wrong][0]:g} was asked for; expected {trained[0]:g} to "
            f"{trained[-1]:g}: the quantiles trained are {names}"
        )
    above = np.clip(np.searchsorted(trained, quantiles - 1e-9), 1, len(trained) - 1)
    part = (quantiles - trained[above - 1]) / (trained[above] - trained[above - 1])
    part = np.clip(part, 0, 1)
    return (1 - part) * values[..., above - 1] + part * values[..., above]


def by_series(asked: Asked, values: np.ndarray) -> np.ndarray:
    """Bring (n, h, C, ...) of samples to (n_series, h, n_channels, ...)."""
    n_series = asked.view.data.n_series
    values = values.reshape(n_series, -1, *values.shape[1:])  # [n_series, samples of each, h, C, ...]
    return np.concatenate(list(values.swapaxes(0, 1)), axis=2)


def answer(asked: Asked, point: np.ndarray, levels: np.ndarray, lower: np.ndarray, upper: np.ndarray):
    """Write a forecast with intervals in the form of the data."""
    data, h = asked.view.data, asked.h
    if not asked.form.is_frame:
        return Forecast(*(write(asked.form, data, h, {NAME: each}) for each in (point, lower, upper)))
    return write(asked.form, data, h, {NAME: point} | bound_columns(levels, lower, upper))


def bound_columns(levels: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> dict[str, np.ndarray]:
    """Name the bounds (..., q), from the outermost lower to the outermost upper one."""
    inwards = np.argsort(-levels, kind="stable")
    low = {f"{NAME}-lo-{levels[k]:g}": lower[..., k] for k in inwards}
    return low | {f"{NAME}-hi-{levels[k]:g}": upper[..., k] for k in inwards[::-1]}


def write_paths(asked: Asked, values: np.ndarray):
    """Write paths (n_series, h, n_channels, n_paths) with the paths first."""
    if asked.form.is_frame:
        n_series, n_paths = values.shape[0], values.shape[-1]
        paths = np.moveaxis(values, -1, 1).reshape(n_series * n_paths, *values.shape[1:-1])
        number = np.tile(np.arange(n_paths), n_series)[:, np.newaxis, np.newaxis]
        columns = {"sample": np.broadcast_to(number, paths.shape), NAME: paths}
        series = np.repeat(np.arange(n_series), n_paths)
        return write(asked.form, asked.view.data, asked.h, columns, series=series, long=True)
    written = write(asked.form, asked.view.data, asked.h, {NAME: values})
    if isinstance(written, list):
        return [np.moveaxis(each, -1, 0) for each in written]
    return np.moveaxis(written, -1, 0)


def truth_of(data: SeriesSet, rows: np.ndarray, origins: np.ndarray, h: int) -> np.ndarray:
    """Return values from origins on, (n, h, C), of rows (n, C) of the data; NaN beyond a series' end."""
    step = origins[:, np.newaxis] + np.arange(h)
    ends = data.lengths[rows[:, :1] // data.n_channels]
    place = data.row_starts[rows][:, np.newaxis] + np.minimum(step, ends - 1)[..., np.newaxis]
    return np.where((step < ends)[..., np.newaxis], data.values[place], np.nan)


def window_residuals(
    view: View, first: np.ndarray, h: int, partial: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of forecasts from every origin on from which the truth is known.

    Parameters
    ----------
    view : View
    first : ndarray of int of shape (n_series,)
        First origin of each series.
    h : int
    partial : bool, default=False
        Also from origins so late that the truth is known in part.

    Returns
    -------
    rows : ndarray of int of shape (N,)
        Rows of the data; those of a row stand from the oldest origin to the latest.
    residuals : ndarray of shape (N, h)
        Truth minus forecast; NaN where the truth is missing.
    """
    data = view.data
    chosen = [
        np.arange(start, max(end, start))
        for start, end in zip(first, data.lengths + 1 - (1 if partial else h), strict=True)
    ]
    per_series = 1 if view.model.layout.joint else data.n_channels
    counts = np.repeat([len(each) for each in chosen], per_series)
    rows = np.repeat(np.arange(view.n_samples), counts)
    origins = np.concatenate([each for each in chosen for _ in range(per_series)])
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros((0, h))
    forecast = view.model.middle(view.forecast(rows, origins, h, n_paths=N_PATHS))  # [n, h, C]
    rows = view.rows_of(rows)  # [n, C]
    residuals = (truth_of(data, rows, origins, h) - forecast).swapaxes(1, 2).reshape(-1, h)
    return rows.ravel(), residuals


def calibrate(view: View, first: np.ndarray, h: int, method: str, whole: bool = False) -> Conformal:
    """Make intervals out of the errors of forecasts of a part held out.

    Parameters
    ----------
    view : View
    first : ndarray of int of shape (n_series,)
        First origin of each series.
    h : int
    method : {"adaptive", "split"}
    whole : bool, default=False
        Errors of one forecast stay side by side, and only whole windows count. So it is in any case where
        covariates of the future would be missing otherwise.

    Returns
    -------
    Conformal
    """
    n_rows, whole = view.data.n_rows, whole or not view.knows_ahead()
    most = max(1, min(MOST_ORIGINS, min(MOST_WINDOWS, MOST_RESIDUALS // h) // n_rows))
    latest = np.maximum(first, view.data.lengths - (h if whole else 1) + 1 - most)
    rows, residuals = window_residuals(view, latest, h, partial=not whole)
    order = np.argsort(rows, kind="stable")
    rows, residuals = rows[order], residuals[order]
    counts = np.bincount(rows, minlength=n_rows)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    n = int(counts.max())
    found = np.full((n_rows, n, h), np.nan)  # rows with fewer have NaN in front
    found[rows, n - counts[rows] + place] = residuals
    if whole:
        return Conformal(found, view.standardizer.scale, method, delays=np.full(h, h - 1))
    for step in range(1, h):  # from the time of the forecast to that of its truth
        found[:, step:, step] = found[:, :-step, step]
        found[:, :step, step] = np.nan
    return Conformal(found, view.standardizer.scale, method)
