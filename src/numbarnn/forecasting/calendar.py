"""Covariates from the calendar: known for the future without being told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from numbarnn.zones import wall_times

from .frequency import DAY, Frequency
from .sets import SeriesSet

__all__ = [
    "FEATURES", "calendar_ahead", "calendar_features", "calendar_names", "names_for", "with_calendar",
]  # fmt: skip


def _since(times, unit):
    """Microseconds since the day, month or year began."""
    return (times - times.astype(f"M8[{unit}]").astype("M8[us]")).astype(np.int64)


def _months(times):
    return times.astype("M8[M]").astype(np.int64) % 12


# name -> how far the turn has gone, a fraction from 0; 1970-01-01 was a Thursday, day 3 of its week
FEATURES = {
    "hour": lambda times: _since(times, "D") / DAY,
    "dayofweek": lambda times: (times.astype("M8[D]").astype(np.int64) + 3) % 7 / 7,
    "dayofmonth": lambda times: _since(times, "M") // DAY / 31,
    "dayofyear": lambda times: _since(times, "Y") // DAY / 366,
    "week": lambda times: _since(times, "Y") // (7 * DAY) / 53,
    "month": lambda times: _months(times) / 12,
    "quarter": lambda times: _months(times) // 3 / 4,
}


# how long a turn takes, and how many of them "auto" wants to see: of one alone no other part is known
YEAR = 366 * DAY
TURNS = {"hour": DAY, "dayofweek": 7 * DAY, "dayofmonth": 31 * DAY, "dayofyear": YEAR, "month": YEAR}
ENOUGH_TURNS = 1.9


def names_for(names: str | Sequence[str], data: SeriesSet) -> tuple[str, ...]:
    """Check names of features, and choose those of "auto" whose turn the data go through about twice.

    Raises
    ------
    ValueError
        See `calendar_names`.
    """
    found = calendar_names(names, data.frequency)
    if names != "auto":
        return found
    longest = int(data.lengths.argmax())
    first, last = data.times(longest)[[0, -1]]
    span = (last - first).astype("m8[us]").astype(np.int64)
    return tuple(name for name in found if span >= ENOUGH_TURNS * TURNS[name])


def calendar_names(names: str | Sequence[str], frequency: Frequency | None) -> tuple[str, ...]:
    """Check names of features, and choose those of "auto".

    Parameters
    ----------
    names : "auto", str or sequence of str
    frequency : Frequency or None

    Returns
    -------
    tuple of str
        For "auto" those whose turn is longer than the step: hour, dayofweek and dayofyear of parts of a day,
        dayofweek, dayofmonth and dayofyear of days, dayofyear of weeks, month of months.

    Raises
    ------
    ValueError
        If there are no times, or a name is not in `FEATURES`.
    """
    if frequency is None or frequency.unit == "i":
        raise ValueError(
            "calendar was given, but the data have no dates; expected a time column, or calendar=None"
        )
    if names == "auto":
        if frequency.unit == "us" and frequency.step < DAY:
            return "hour", "dayofweek", "dayofyear"
        if frequency.unit == "M":
            return ("month",) if frequency.step < 12 else ()
        fine = frequency.unit == "B" or (frequency.unit == "D" and frequency.step < 7)
        return ("dayofweek", "dayofmonth", "dayofyear") if fine else ("dayofyear",)
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in FEATURES:
            raise ValueError(f"calendar was {name!r}; expected 'auto' or names among {sorted(FEATURES)}")
    return names


def calendar_features(
    times: np.ndarray, names: str | Sequence[str] = "auto", frequency: Frequency | None = None
) -> np.ndarray:
    """Sine and cosine of where clocks stand in the day, week, month and year.

    Parameters
    ----------
    times : ndarray of datetime64 of shape (n,)
    names : "auto", str or sequence of str, default="auto"
        Keys of `FEATURES`.
    frequency : Frequency, default=None
        What "auto" goes by; None: the distance of the first two times. Of one with a zone times are in UTC,
        and hours and days are those of its clocks.

    Returns
    -------
    ndarray of float64 of shape (n, 2 * len(names))

    Raises
    ------
    ValueError
        If a name is not known.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.calendar import calendar_features
    >>> times = np.arange("2024-01-01T00", "2024-01-01T18", 6, dtype="M8[h]")
    >>> calendar_features(times, "hour").round(6).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, -1.0]]
    """
    times = np.asarray(times).astype("M8[us]")
    if frequency is None:
        step = int((times[1] - times[0]).astype(np.int64)) if len(times) > 1 else DAY
        frequency = Frequency(step, "us") if step < DAY else Frequency(step // DAY, "D")
    columns = []
    clock = wall_times(times, frequency.zone) if frequency.zone else times
    for name in calendar_names(names, frequency):
        turn = 2 * np.pi * FEATURES[name](clock)
        columns += [np.sin(turn), np.cos(turn)]
    return np.stack(columns, axis=1) if columns else np.empty((len(times), 0))


def with_calendar(data: SeriesSet, names: str | Sequence[str]) -> SeriesSet:
    """Return `data` with features of the calendar behind its known-future covariates.

    Raises
    ------
    ValueError
        If the data have no dates, or a name is not known.
    """
    names = calendar_names(names, data.frequency)
    if not names:
        return data
    features = calendar_features(data.step_times(), names, data.frequency)
    future = features if data.future is None else np.concatenate([data.future, features], axis=1)
    labels = data.names.future + tuple(f"{part}_{name}" for name in names for part in ("sin", "cos"))
    return replace(data, future=future, names=data.names._replace(future=labels))


def calendar_ahead(data: SeriesSet, h: int, names: str | Sequence[str]) -> np.ndarray:
    """Features of the calendar of the `h` steps that follow each series, of shape (n_series, h, 2k)."""
    names = calendar_names(names, data.frequency)
    steps = data.lengths[:, np.newaxis] + np.arange(h)
    times = data.frequency.shift(data.starts[:, np.newaxis], steps)
    return calendar_features(times.ravel(), names, data.frequency).reshape(data.n_series, h, 2 * len(names))
