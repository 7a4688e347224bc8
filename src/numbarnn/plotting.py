"""Pictures of forecasts, backtests and training. Matplotlib is imported only when a function is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["plot_backtest", "plot_forecast", "plot_horizon_error", "plot_loss"]

# after Okabe and Ito: told apart by colour-blind readers, and in grey print
_HISTORY, _FORECAST, _TRUTH, _MUTED = "#444444", "#D55E00", "#0072B2", "#999999"


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
    history = _one_channel("history", history)
    forecast = _one_channel("forecast", forecast)
    n_total = len(history) + len(forecast)
    time = np.arange(n_total) - len(history) + 1 if time is None else _clock_times(np.asarray(time))
    if len(time) != n_total:
        raise ValueError(f"time has length {len(time)}; expected history and forecast together: {n_total}")
    if truth is not None:
        truth = _one_channel("truth", truth)
        if len(truth) != len(forecast):
            raise ValueError(f"truth has length {len(truth)}; expected that of the forecast: {len(forecast)}")
    bounds = _bounds(lower, upper, level, len(forecast))
    ax = _axes(ax)
    # lines of the future begin at the last observed value, so that there is no hole between the two
    joined = slice(len(history) - 1, None)
    past, future = _with_gaps(time[: len(history)], history), time[joined]
    ax.plot(*past, color=_HISTORY, linewidth=1.3, label="history")
    if truth is not None:
        ax.plot(future, np.append(history[-1], truth), color=_TRUTH, linewidth=1.6, label="truth")
    ax.plot(future, np.append(history[-1], forecast), color=_FORECAST, linewidth=1.8, label="forecast")
    _fan(ax, future, bounds, history[-1])
    ax.axvline(time[len(history) - 1], color=_MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlim(time[0], time[-1])
    _time_axis(ax, time)
    _finish(ax, ylabel, title)
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
    windows, bounds, name = _windows_of(result, series, level)
    ax = _axes(ax)
    truth_time = np.concatenate([time for time, _, _, _ in windows])
    truth = np.concatenate([truth for _, truth, _, _ in windows])
    truth_time, first, counts = np.unique(truth_time, return_index=True, return_counts=True)
    layers = np.median(counts)  # windows may overlap
    ax.plot(*_with_gaps(truth_time, truth[first]), color=_HISTORY, linewidth=1.3, label="truth")
    # what the legend shows is not lighter: it is drawn by itself, without data
    ax.plot(truth_time[:0], truth[:0], color=_FORECAST, linewidth=1.6, label="forecast")
    _fan(ax, truth_time[:0], [(label, truth[:0], truth[:0]) for label, _, _ in bounds])
    for time, _, forecast, index in windows:
        marker = "." if len(time) == 1 else None  # a line of one point is not seen
        alpha = _lighter(0.98, layers)
        ax.plot(time, forecast, color=_FORECAST, linewidth=1.6, marker=marker, alpha=alpha)
        _fan(ax, time, [(None, low[index], high[index]) for _, low, high in bounds], layers=layers)
        ax.axvline(time[0], color=_MUTED, linewidth=0.6, linestyle=":", alpha=1 / layers)
    _time_axis(ax, truth_time)
    _finish(ax, name, None)
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
    columns = _columns_of("table", table)
    for name in ("step", metric):
        if name not in columns:
            raise ValueError(f"table has no column {name!r}; expected one of {', '.join(map(str, columns))}")
    values = np.asarray(columns[metric], dtype=float)
    is_step = np.array([_is_count(step) for step in columns["step"]], dtype=bool)
    ax = _axes(ax)
    steps = np.array([int(step) for step in columns["step"][is_step]])
    marker = "." if len(steps) <= 60 else None
    (line,) = ax.plot(steps, values[is_step], linewidth=1.8, marker=marker, label=label or metric)
    for value in values[~is_step]:
        dashes = ax.axhline(value, color=line.get_color(), linewidth=0.9, linestyle="--")
        if "all steps" not in ax.get_legend_handles_labels()[1]:
            dashes.set_label("all steps")
    _count_axis(ax, "steps ahead")
    if ax.dataLim.ymin >= 0:
        ax.set_ylim(0.0, auto=None)  # auto: another table on these axes finds its own limits
    metrics = dict.fromkeys([*filter(None, ax.get_ylabel().split(", ")), metric])
    _finish(ax, ", ".join(metrics), None)
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
    ax = _axes(ax)
    validation = [-score for score in getattr(estimator, "validation_scores_", None) or ()]
    # epochs of partial_fit have no validation
    for curve, color, label in ((losses, _HISTORY, "training"), (validation, _FORECAST, "validation")):
        if curve:
            marker = "." if len(curve) == 1 else None  # a line of one point is not seen
            epochs = np.arange(1, len(curve) + 1)
            ax.plot(epochs, curve, color=color, linewidth=1.6, marker=marker, label=label)
    _count_axis(ax, "epoch")
    everything = np.array([*losses, *validation])
    if 0 < 10 * everything.min() < everything.max():  # over less than a decade logarithms have hardly a tick
        ax.set_yscale("log")
    _finish(ax, "loss", None)
    return ax


def _one_channel(name: str, values: ArrayLike) -> np.ndarray:
    """Return the values as a vector, or say what is wrong with them."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {values.shape}; expected one channel, shape (n_timesteps,)")
    return values


def _bounds(lower, upper, level, horizon: int) -> list[tuple[str | None, np.ndarray, np.ndarray]]:
    """Return (label, low, high) of every interval, the narrowest first."""
    if (lower is None) != (upper is None):
        name = "upper" if upper is None else "lower"
        raise ValueError(f"{name} was None; expected both bounds of the intervals, or neither")
    if lower is None:
        return []
    lower, upper = (np.asarray(bound, dtype=float) for bound in (lower, upper))
    for name, bound in (("lower", lower), ("upper", upper)):
        if bound.shape != lower.shape or bound.shape[:1] != (horizon,) or bound.ndim > 2:
            expected = f"({horizon},) or ({horizon}, n_levels), the same for both"
            raise ValueError(f"{name} has shape {bound.shape}; expected {expected}")
    lower, upper = lower.reshape(horizon, -1), upper.reshape(horizon, -1)
    return _intervals(lower, upper, level)


def _intervals(lower, upper, level) -> list[tuple[str | None, np.ndarray, np.ndarray]]:
    """Cut bounds, whose last axis is that of the levels, and sort them by their widths."""
    n_levels = lower.shape[-1]
    levels = [None] * n_levels if level is None else np.atleast_1d(level).tolist()
    if len(levels) != n_levels:
        raise ValueError(f"level has length {len(levels)}; expected one for each interval: {n_levels}")
    labels = [None if each is None else f"{each:g} %" for each in levels]
    order = np.argsort(np.nanmean((upper - lower).reshape(-1, n_levels), axis=0), kind="stable")
    return [(labels[i], lower[..., i], upper[..., i]) for i in order]


def _fan(ax: Axes, time: np.ndarray, bounds: list, start: float | None = None, layers: float = 1) -> None:
    """Fill the intervals, the narrowest darkest; they begin in a point where there is a start."""
    shades = np.linspace(0.38, 0.16, max(len(bounds), 2))
    linewidth = 3 if len(time) == 1 else 0  # there is nothing to fill at one time: its intervals are bars
    for (label, low, high), shade in zip(bounds, shades, strict=False):
        if start is not None:
            low, high = np.append(start, low), np.append(start, high)
        alpha = _lighter(shade, layers)
        ax.fill_between(time, low, high, color=_FORECAST, alpha=alpha, linewidth=linewidth, label=label)


def _lighter(alpha: float, layers: float) -> float:
    """Return the opacity of layers that together are as dark as one; below 2 % colours are rounded away."""
    return max(1 - (1 - alpha) ** (1 / layers), 0.02)


def _columns_of(name: str, table: Any) -> dict[str, np.ndarray]:
    """Return the columns of a dict, or of a frame of pandas or polars."""
    if isinstance(table, Mapping):
        return {column: np.asarray(values) for column, values in table.items()}
    if not hasattr(table, "columns"):
        raise ValueError(f"{name} was {type(table).__name__}; expected a data frame or a dict of columns")
    return {column: np.asarray(table[column]) for column in table.columns}


def _is_count(step: Any) -> bool:
    """Whether it is a number of steps ahead: not "all", 0, None or NaN."""
    try:
        return int(step) > 0
    except (TypeError, ValueError):
        return False


def _windows_of(result: Any, series: Any, level: Any) -> tuple[list[tuple], list[tuple], str | None]:
    """Return windows (time, truth, forecast, index), intervals (label, low, high) for them, and a name."""
    if hasattr(result, "forecast") and hasattr(result, "cutoff"):
        return _windows_of_arrays(result, 0 if series is None else series, level)
    if level is not None:
        raise ValueError(f"level was {level!r}; expected None: the columns of result name the levels")
    return _windows_of_columns(_columns_of("result", result), series)


def _windows_of_arrays(result: Any, channel: int, level: Any) -> tuple[list[tuple], list[tuple], None]:
    """Cut the arrays of a CrossValidation: [n_windows, h, n_channels], bounds with levels behind."""
    truth, forecast = np.asarray(result.y, dtype=float), np.asarray(result.forecast, dtype=float)
    if not isinstance(channel, int | np.integer) or not 0 <= channel < truth.shape[2]:
        last = truth.shape[2] - 1
        raise ValueError(f"series was {channel!r}; expected the number of a channel, 0 to {last}")
    steps = np.arange(1, truth.shape[1] + 1)
    windows = [
        (cutoff + steps, truth[i, :, channel], forecast[i, :, channel], i)
        for i, cutoff in enumerate(np.asarray(result.cutoff))
    ]
    bounds = []
    if result.lower is not None:
        lower, upper = np.asarray(result.lower)[:, :, channel], np.asarray(result.upper)[:, :, channel]
        bounds = _intervals(lower, upper, level)
    return windows, bounds, None


def _windows_of_columns(columns: dict[str, np.ndarray], series: Any) -> tuple[list[tuple], list[tuple], str]:
    """Cut a long table whose columns are [id,] time, cutoff, y, forecast, and bounds in any order."""
    names = list(columns)
    place = names.index("cutoff") if "cutoff" in names else -1
    if place not in (1, 2) or len(names) < place + 3:
        raise ValueError(
            f"result has the columns {', '.join(map(str, names))}; expected those of cross_validation: an id "
            "(if there are several series), time, 'cutoff', truth, forecast"
        )
    time, target, model = names[place - 1], names[place + 1], names[place + 2]
    rows = np.ones(len(columns[time]), dtype=bool)
    if place == 2:
        ids = columns[names[0]]
        series = ids[0] if series is None else series
        rows = ids == series
        if not rows.any():
            known = ", ".join(map(repr, dict.fromkeys(ids[:1000].tolist())))
            raise ValueError(f"series was {series!r}; expected one of {known[:200]}")
    elif series is not None:
        raise ValueError(f"series was {series!r}; expected None: result has one series and no column of ids")
    chosen = {name: values[rows] for name, values in columns.items()}
    chosen[time] = _clock_times(chosen[time])
    windows = []
    for cutoff in np.unique(chosen["cutoff"]):
        index = chosen["cutoff"] == cutoff
        windows.append((chosen[time][index], chosen[target][index], chosen[model][index], index))
    levels = [name.rsplit("-", 1)[1] for name in names if str(name).startswith(f"{model}-lo-")]
    bounds = [
        (f"{level} %", chosen[f"{model}-lo-{level}"], chosen[f"{model}-hi-{level}"])
        for level in sorted(levels, key=float)
    ]
    return windows, bounds, target if place == 1 else f"{target} of {series}"


def _axes(ax: Axes | None) -> Axes:
    """Make a figure where none was given."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'numbarnn[plot]'") from error
    return plt.subplots(figsize=(9, 4), layout="constrained")[1]


def _clock_times(time: np.ndarray) -> np.ndarray:
    """Turn pandas' times of a zone into what its clocks show, and its periods into their beginnings."""
    if time.dtype != object:
        return time
    stamps = [each.to_timestamp() if hasattr(each, "to_timestamp") else each for each in time]
    if not all(hasattr(each, "tzinfo") for each in stamps):
        return time
    return np.array([each.replace(tzinfo=None) for each in stamps], "datetime64[us]")


def _with_gaps(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Insert NaN where times are missing: where a step is more than one and a half of the usual one."""
    if len(time) < 3 or time.dtype.kind not in "Miuf":
        return time, values
    passed = time
    if time.dtype.kind == "M" and np.is_busday(days := time.astype("M8[D]")).all():
        # only working days are counted, so that nothing is missing at weekends
        passed = time - days + np.busday_count(days[0], days).astype("m8[D]")
    steps = np.diff(passed).astype(float)
    usual = np.median(steps)
    if np.quantile(steps, 0.1) < 0.75 * usual:  # times of no even distance: none is known to be missing
        return time, values
    holes = 1 + np.flatnonzero(steps > 1.5 * usual)
    return np.insert(time, holes, time[holes]), np.insert(values.astype(float), holes, np.nan)


def _time_axis(ax: Axes, time: np.ndarray) -> None:
    """Label times briefly: the day where it changes, the year once; name steps that are only counted."""
    if np.issubdtype(time.dtype, np.integer):
        _count_axis(ax, "time step")
    elif not np.issubdtype(time.dtype, np.datetime64):
        ax.set_xlabel("time step")
    else:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=4, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _count_axis(ax: Axes, xlabel: str) -> None:
    """Label whole numbers only, and leave room on both sides where there is but one."""
    ax.set_xlabel(xlabel)
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    left, right = ax.get_xlim()
    if right - left < 1:
        ax.set_xlim(left - 0.5, right + 0.5, auto=None)


def _finish(ax: Axes, ylabel: str | None, title: str | None) -> None:
    """Give the axes their words, names from the data as they are spelt, and take away what is not read."""
    words = [ax.set_ylabel(ylabel)] if ylabel else []
    n_rows = _legend(ax)
    if title:
        pad = 8 + 16 * n_rows if n_rows else None
        words.append(ax.set_title(title, loc="left", fontsize="medium", pad=pad))
    _spell(words)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)


def _legend(ax: Axes) -> int:
    """Put a legend above the axes, where it hides no line, in as few rows as fit; return how many."""
    n_names = len(ax.get_legend_handles_labels()[1])
    if n_names < 2:
        return 0
    for n_rows in range(1, n_names + 1):
        n_columns = -(-n_names // n_rows)
        legend = ax.legend(
            frameon=False, ncols=n_columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2
        )
        _spell(legend.get_texts())
        if legend.get_window_extent().width <= ax.get_window_extent().width:
            break
    return n_rows


def _spell(texts: Iterable[Text]) -> None:
    """Have texts drawn as they are spelt: dollars in names from the data are no formulas."""
    for text in texts:
        text.set_parse_math(False)
