"""What the pictures show: values, times and intervals from what forecasters return. Only NumPy is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def one_channel(name: str, values: ArrayLike) -> np.ndarray:
    """Return the values as a vector, or say what is wrong with them."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {values.shape}; expected one channel, shape (n_timesteps,)")
    return values


def bounds_of(lower, upper, level, horizon: int) -> list[tuple[str | None, np.ndarray, np.ndarray]]:
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


def columns_of(name: str, table: Any) -> dict[str, np.ndarray]:
    """Return the columns of a dict, or of a frame of pandas or polars."""
    if isinstance(table, Mapping):
        return {column: np.asarray(values) for column, values in table.items()}
    if not hasattr(table, "columns"):
        raise ValueError(f"{name} was {type(table).__name__}; expected a data frame or a dict of columns")
    return {column: np.asarray(table[column]) for column in table.columns}


def is_count(step: Any) -> bool:
    """Whether it is a number of steps ahead: not "all", 0, None or NaN."""
    try:
        return int(step) > 0
    except (OverflowError, TypeError, ValueError):
        return False


def windows_of(result: Any, series: Any, level: Any) -> tuple[list[tuple], list[tuple], str | None]:
    """Return windows (time, truth, forecast, index), intervals (label, low, high) for them, and a name."""
    if hasattr(result, "forecast") and hasattr(result, "cutoff"):
        return _windows_of_arrays(result, 0 if series is None else series, level)
    if level is not None:
        raise ValueError(f"level was {level!r}; expected None: the columns of result name the levels")
    return _windows_of_columns(columns_of("result", result), series)


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
    chosen[time] = clock_times(chosen[time])
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


def clock_times(time: np.ndarray) -> np.ndarray:
    """Turn pandas' times of a zone into what its clocks show, and its periods into their beginnings."""
    if time.dtype != object:
        return time
    stamps = [each.to_timestamp() if hasattr(each, "to_timestamp") else each for each in time]
    if not all(hasattr(each, "tzinfo") for each in stamps):
        return time
    return np.array([each.replace(tzinfo=None) for each in stamps], "datetime64[us]")


def with_gaps(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
