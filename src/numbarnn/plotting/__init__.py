"""Pictures of forecasts, backtests and training. Matplotlib is imported only when a function is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .look import FORECAST, HISTORY, MUTED, TRUTH, axes_of, count_axis, fan, finish, lighter, time_axis
from .reading import bounds_of, clock_times, columns_of, is_count, one_channel, windows_of, with_gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_backtest", "plot_forecast", "plot_horizon_error", "plot_loss"]


def plot_forecast(
    history: ArrayLike,
    forecast: ArrayLike,
    truth: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    level: float | ArrayLike | None = None,
    time: ArrayLike | None = None,
    ylabel: str | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a history, the forecast that follows it and, where it is known, what really came.

    Parameters
    ----------
    history : array-like of shape (n_timesteps,)
        Last observed values of one channel; show a few horizons of them.
    forecast : array-like of shape (horizon,)
    truth : array-like of shape (horizon,), default=None
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure.
    lower, upper : array-like of shape (horizon,) or (horizon, n_levels), default=None
        Bounds of the intervals, as `RNNForecaster.predict` gives them; drawn as a fan, wider ones lighter.
    level : float or array-like of shape (n_levels,), default=None
        Levels of the intervals in percent, for the legend.
    time : array-like of shape (n_timesteps + horizon,), default=None
        Times of history and forecast together, datetime64 or numbers. None counts steps, the forecast from 1.
        Where times of the history are missing, its line has a gap, as where values are NaN.
    ylabel : str, default=None
        What is shown, with its unit: ``"demand in GW"``. Dollars here and in `title` begin no formula.
    title : str, default=None

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the lengths do not fit, an argument has more than one channel, or only one bound is given.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from numbarnn.plotting import plot_forecast
    >>> ax = plot_forecast(np.arange(10.0), [10.0, 11.0], truth=[10.0, 12.0], ax=Figure().add_subplot())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['history', 'truth', 'forecast']
    >>> ax = Figure().add_subplot()
    >>> ax = plot_forecast(np.arange(10.0), [10.0, 11.0], ax=ax, lower=[9, 9.5], upper=[11, 12.5], level=80)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['history', 'forecast', '80 %']
    """
    history = one_channel("history", history)
    forecast = one_channel("forecast", forecast)
    n_total = len(history) + len(forecast)
    time = np.arange(n_total) - len(history) + 1 if time is None else clock_times(np.asarray(time))
    if len(time) != n_total:
        raise ValueError(f"time has length {len(time)}; expected history and forecast together: {n_total}")
    if truth is not None:
        truth = one_channel("truth", truth)
        if len(truth) != len(forecast):
            raise ValueError(f"truth has length {len(truth)}; expected that of the forecast: {len(forecast)}")
    bounds = bounds_of(lower, upper, level, len(forecast))
    ax = axes_of(ax)
    # lines of the future begin at the last observed value, so that there is no hole between the two
    joined = slice(len(history) - 1, None)
    past, future = with_gaps(time[: len(history)], history), time[joined]
    ax.plot(*past, color=HISTORY, linewidth=1.3, label="history")
    if truth is not None:
        ax.plot(future, np.append(history[-1], truth), color=TRUTH, linewidth=1.6, label="truth")
    ax.plot(future, np.append(history[-1], forecast), color=FORECAST, linewidth=1.8, label="forecast")
    fan(ax, future, bounds, history[-1])
    ax.axvline(time[len(history) - 1], color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlim(time[0], time[-1])
    time_axis(ax, time)
    finish(ax, ylabel, title)
    return ax


def plot_backtest(
    result: Any, ax: Axes | None = None, *, series: Any = None, level: float | ArrayLike | None = None
) -> Axes:
    """Draw the forecasts of a rolling-origin evaluation over what really came, lighter where windows overlap.

    Parameters
    ----------
    result : CrossValidation, or data frame or dict of columns
        What `RNNForecaster.cross_validation` returned.
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure.
    series : int or id, default=None
        Which channel of arrays, which id of a long frame; None takes the first.
    level : float or array-like of shape (n_levels,), default=None
        Levels of the intervals of arrays in percent, for the legend. The columns of a frame name theirs.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `result` is no such thing, or has no such series or levels.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> from numbarnn.plotting import plot_backtest
    >>> y = np.ones((2, 3, 1))  # two windows of three steps
    >>> lower, upper = 0.8 * y[..., np.newaxis], y[..., np.newaxis]
    >>> result = SimpleNamespace(cutoff=[10, 13], y=y, forecast=0.9 * y, lower=lower, upper=upper)
    >>> ax = plot_backtest(result, Figure().add_subplot(), level=80)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['truth', 'forecast', '80 %']
    """
    windows, bounds, name = windows_of(result, series, level)
    ax = axes_of(ax)
    truth_time = np.concatenate([time for time, _, _, _ in windows])
    truth = np.concatenate([truth for _, truth, _, _ in windows])
    truth_time, first, counts = np.unique(truth_time, return_index=True, return_counts=True)
    layers = np.median(counts)  # windows may overlap
    ax.plot(*with_gaps(truth_time, truth[first]), color=HISTORY, linewidth=1.3, label="truth")
    # what the legend shows is not lighter: it is drawn by itself, without data
    ax.plot(truth_time[:0], truth[:0], color=FORECAST, linewidth=1.6, label="forecast")
    fan(ax, truth_time[:0], [(label, truth[:0], truth[:0]) for label, _, _ in bounds])
    for time, _, forecast, index in windows:
        marker = "." if len(time) == 1 else None  # a line of one point is not seen
        alpha = lighter(0.98, layers)
        ax.plot(time, forecast, color=FORECAST, linewidth=1.6, marker=marker, alpha=alpha)
        fan(ax, time, [(None, low[index], high[index]) for _, low, high in bounds], layers=layers)
        ax.axvline(time[0], color=MUTED, linewidth=0.6, linestyle=":", alpha=1 / layers)
    time_axis(ax, truth_time)
    finish(ax, name, None)
    return ax


def plot_horizon_error(
    table: Any, ax: Axes | None = None, *, metric: str = "mae", label: str | None = None
) -> Axes:
    """Draw how the error grows with the number of steps ahead.

    Parameters
    ----------
    table : data frame or dict of columns
        What `RNNForecaster.backtest` returned: a column ``step`` and a column for each metric. A row that is
        about all steps together is drawn as a dashed line.
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure. Several tables may be drawn on the same axes.
    metric : str, default="mae"
        A column of the table.
    label : str, default=None
        Name of the table in the legend; None takes the metric's.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the table has no such column.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from numbarnn.plotting import plot_horizon_error
    >>> table = {"step": ["1", "2", "all"], "mae": [0.5, 0.7, 0.6]}
    >>> ax = plot_horizon_error(table, Figure().add_subplot(), label="GRU")
    >>> ax = plot_horizon_error({"step": [1, 2], "mae": [0.6, 0.9]}, ax, label="linear")
    >>> ax.get_ylabel(), [text.get_text() for text in ax.get_legend().get_texts()]
    ('mae', ['GRU', 'all steps', 'linear'])
    """
    columns = columns_of("table", table)
    for name in ("step", metric):
        if name not in columns:
            raise ValueError(f"table has no column {name!r}; expected one of {', '.join(map(str, columns))}")
    values = np.asarray(columns[metric], dtype=float)
    is_step = np.array([is_count(step) for step in columns["step"]], dtype=bool)
    ax = axes_of(ax)
    steps = np.array([int(step) for step in columns["step"][is_step]])
    marker = "." if len(steps) <= 60 else None
    (line,) = ax.plot(steps, values[is_step], linewidth=1.8, marker=marker, label=label or metric)
    for value in values[~is_step]:
        dashes = ax.axhline(value, color=line.get_color(), linewidth=0.9, linestyle="--")
        if "all steps" not in ax.get_legend_handles_labels()[1]:
            dashes.set_label("all steps")
    count_axis(ax, "steps ahead")
    if ax.dataLim.ymin >= 0:
        ax.set_ylim(0.0, auto=None)  # auto: another table on these axes finds its own limits
    metrics = dict.fromkeys([*filter(None, ax.get_ylabel().split(", ")), metric])
    finish(ax, ", ".join(metrics), None)
    return ax


def plot_loss(estimator: Any, ax: Axes | None = None) -> Axes:
    """Draw the training loss of every epoch, and the loss of the validation part if there was one.

    Parameters
    ----------
    estimator : RNNRegressor, RNNClassifier or RNNForecaster
        Fitted: it has `loss_curve_` and perhaps `validation_scores_`, which are minus the loss.
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the estimator is not fitted.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> from numbarnn.plotting import plot_loss
    >>> fitted = SimpleNamespace(loss_curve_=[1.0, 0.5, 0.3])
    >>> plot_loss(fitted, Figure().add_subplot()).get_xlabel()
    'epoch'
    """
    losses = getattr(estimator, "loss_curve_", None)
    if not losses:
        raise ValueError(f"estimator {estimator!r} has no loss_curve_; expected a fitted estimator")
    ax = axes_of(ax)
    validation = [-score for score in getattr(estimator, "validation_scores_", None) or ()]
    # epochs of partial_fit have no validation
    for curve, color, label in ((losses, HISTORY, "training"), (validation, FORECAST, "validation")):
        if curve:
            marker = "." if len(curve) == 1 else None  # a line of one point is not seen
            epochs = np.arange(1, len(curve) + 1)
            ax.plot(epochs, curve, color=color, linewidth=1.6, marker=marker, label=label)
    count_axis(ax, "epoch")
    everything = np.array([*losses, *validation])
    if 0 < 10 * everything.min() < everything.max():  # over less than a decade logarithms have hardly a tick
        ax.set_yscale("log")
    finish(ax, "loss", None)
    return ax
