"""Data frames of any library as a dict of NumPy columns, and back, through narwhals.

A dict of columns is itself a legal frame and needs no library.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numbarnn.zones import ZONE_NAME

from .frequency import infer

__all__ = ["Backend", "as_times", "columns_of", "frame_of", "whole_index", "without_holes"]

MICROSECONDS = "datetime64[us]"


class Backend(NamedTuple):
    """Where columns came from, and what has to be known to write such a frame.

    Attributes
    ----------
    library : str
        "dict", or narwhals' name of the library: "pandas", "polars", ...
    time : str or None
        Name of the column of times, if there is one.
    time_unit : str or None
        "us", "ns", ..., "date", of a column of pandas' periods "period[M]", ...; None: what NumPy makes of
        them.
    time_zone : str or None
    local : bool
        Whether steps are even in local time; else they are in UTC.
    index : str or None
        Times were the index: "time", or pandas' name of the periods' frequency.
    index_name : str or None
    series : bool
        The frame was a pandas Series with times.
    """

    library: str = "dict"
    time: str | None = None
    time_unit: str | None = None
    time_zone: str | None = None
    local: bool = False
    index: str | None = None
    index_name: Any = None
    series: bool = False

    def with_columns(self) -> Backend:
        """Return the same with a column of times in place of the index."""
        periods = self.index not in (None, "time")
        return self._replace(
            index=None, series=False, time_unit=f"period[{self.index}]" if periods else self.time_unit
        )


def whole_index(value: Any) -> np.ndarray | None:
    """Return the index of a pandas object if it is of whole numbers.

    Parameters
    ----------
    value : object
        Of any type; no library is loaded to find out.

    Returns
    -------
    ndarray of int64 of shape (n,) or None
        None also for 0, 1, 2, ..., which pandas gives to what was given no index.
    """
    index = getattr(value, "index", None)
    if type(index).__name__ not in ("Index", "RangeIndex"):
        return None
    index = np.asarray(index)
    if index.dtype.kind not in "iu" or np.array_equal(index, np.arange(len(index))):
        return None
    return index.astype(np.int64)


def without_holes(value: Any, name: str) -> Any:
    """Return a pandas object with rows of NaN for the whole numbers that its index leaves out.

    Anything else, and what has no such `whole_index`, is returned as it is.

    Raises
    ------
    ValueError
        If the index does not ascend, or leaves out more than it has.
    """
    index = whole_index(value)
    if index is None or len(index) < 2:
        return value
    wrong = np.flatnonzero(np.diff(index) <= 0)
    if len(wrong):
        a, b = index[wrong[0]], index[wrong[0] + 1]
        what = f"is there twice: {a}" if a == b else f"is not sorted: {b} comes after {a}"
        raise ValueError(
            f"the index of {name} {what}; expected it to ascend, or none, as after reset_index(drop=True)"
        )
    step = infer(index, f"the index of {name}").step
    whole = np.arange(index[0], index[-1] + 1, step)
    return value if len(whole) == len(index) else value.reindex(whole)


def columns_of(
    frame: Any, time: str | None = None, name: str = "y", known: Backend | None = None, ids: str | None = None
) -> tuple[dict[str, np.ndarray], Backend]:
    """Take a frame apart.

    Parameters
    ----------
    frame : pandas or polars frame (any that narwhals knows), pandas Series with times, or dict
    time : str, default=None
        Name of the column of times; an index of times gets it.
    name : str, default="y"
        What messages call the frame.
    known : Backend, default=None
        Of data that these belong to: an index of whole numbers is times as it was there, and times that have
        a zone are reckoned in local time, or not. None: in UTC unless that has more times of day.
    ids : str, default=None
        Name of the column of ids. In a frame that has it, whole numbers in the index are no times.

    Returns
    -------
    columns : dict of str to ndarray of shape (n,)
        Numbers that may be missing as float64; times as datetime64[us]; anything else as it is.
    backend : Backend

    Raises
    ------
    ImportError
        If narwhals is needed and missing.
    TypeError
        If it is no frame, or a lazy one.
    ValueError
        If columns of a dict have unequal lengths.

    Examples
    --------
    >>> from numbarnn.forecasting.native import columns_of
    >>> columns, backend = columns_of({"ds": ["2024-01-01"], "y": [3]}, "ds")
    >>> columns["y"].tolist(), backend.library, backend.time
    ([3], 'dict', 'ds')
    """
    if isinstance(frame, dict):
        columns = {key: np.asarray(values) for key, values in frame.items()}
        for key, values in columns.items():
            if values.ndim != 1 or len(values) != len(next(iter(columns.values()))):
                raise ValueError(
                    f"{name} has the column {key!r} of shape {values.shape}; expected columns of "
                    f"one dimension and one length"
                )
        return columns, Backend(time=time if time in columns else None)
    try:
        import narwhals as nw
    except ImportError as error:
        raise ImportError(
            f"{name} was a {type(frame).__name__}; data frames need narwhals: "
            f"pip install 'numbarnn[dataframe]'"
        ) from error
    index_name = getattr(getattr(frame, "index", None), "name", None)
    if index_name is not None and index_name == ids and ids not in getattr(frame, "columns", (ids,)):
        frame, index_name = frame.reset_index(), None
    frame, index, series = _without_index(frame, time, ids, name, known)
    names = list(frame.columns) if hasattr(frame, "iloc") else []  # pandas lets names be there twice
    if len(set(names)) < len(names):
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"{name} has two columns {twice!r}; expected each name once")
    try:
        frame = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise TypeError(
            f"{name} was a {type(frame).__name__}; expected an array, a dict of columns or a data frame "
            f"(of a lazy one, what collect() gives)"
        ) from error
    backend = Backend(frame.implementation.value, index=index, index_name=index_name, series=series)
    columns = {}
    for key in frame.columns:
        column = frame.get_column(key)  # names may be numbers
        if key == time:
            columns[key], backend = _times_of(column, backend._replace(time=time), known)
        else:
            columns[key] = _array_of(column, nw)
    return columns, backend


def _without_index(frame, time, ids, name, known):
    """Make an index of times a column; also whether there was one, and whether this was a Series."""
    kind = type(getattr(frame, "index", None)).__name__
    if kind == "MultiIndex":
        raise ValueError(f"{name} has a MultiIndex; expected columns, as reset_index() makes them")
    series = hasattr(frame, "to_frame") and not hasattr(type(frame), "columns")
    dates, whole = kind in ("DatetimeIndex", "PeriodIndex"), kind in ("Index", "RangeIndex")
    if time is None or not (dates or whole) or (not series and time in frame.columns):
        return frame, None, False
    if whole:
        if not series and ids in frame.columns:
            return frame, None, False
        if known is not None and known.time is None:
            return without_holes(frame, name), None, False
        counts = known is not None and known.index == "time" and known.time_unit is None
        if not counts and (known is not None or whole_index(frame) is None):
            return frame, None, False
    times, index = frame.index, "time"
    if kind == "PeriodIndex":
        times, index = times.to_timestamp(), times.freqstr
    frame = frame.to_frame("y" if frame.name is None else frame.name) if series else frame
    if getattr(frame.columns, "nlevels", 1) > 1:  # a column of times cannot have several names
        frame = frame.set_axis(frame.columns.to_flat_index(), axis=1)
    frame = frame.reset_index(drop=True)  # another frame: the user's stays as it is
    frame.insert(0, time, times)
    return frame, index, series


def _array_of(column, nw):
    """Turn a column of a narwhals frame into an array."""
    if column.dtype.is_numeric() or column.dtype == nw.Boolean:
        if column.dtype.is_integer() and not column.null_count():
            return column.to_numpy()
        return column.cast(nw.Float64).to_numpy()
    values = column.to_numpy()
    if values.dtype.kind == "O" and column.null_count():  # pandas' NA has no truth value
        return np.where(column.is_null().to_numpy(), None, values)
    return values


def _times_of(column, backend, known):
    """Turn the column of times into datetime64[us], or what it is if it has no dates."""
    import narwhals as nw

    if column.dtype == nw.Date:
        return column.cast(nw.Datetime("us")).to_numpy().astype(MICROSECONDS), backend._replace(
            time_unit="date"
        )
    native = column.to_native()
    dtype = getattr(native, "dtype", None)  # pyarrow has none
    if str(dtype).startswith("period["):
        times = native.dt.to_timestamp().to_numpy().astype(MICROSECONDS)
        return times, backend._replace(time_unit=str(dtype))
    if getattr(dtype, "tz", None) is not None:  # pandas; narwhals misses zones as "America/New_York"
        zone, unit = str(dtype.tz), dtype.unit
        if not ZONE_NAME.fullmatch(zone):
            raise ValueError(
                f"the times {backend.time!r} have the zone {zone}; expected one of a name such as "
                "Europe/Berlin, as .dt.tz_convert('UTC') makes them"
            )
        both = native.dt.tz_localize(None), native.dt.tz_convert("UTC").dt.tz_localize(None)
    elif column.dtype == nw.Datetime:
        zone, unit = column.dtype.time_zone, column.dtype.time_unit
        there = column if zone is None else column.dt.convert_time_zone("UTC")
        both = [times.dt.replace_time_zone(None) for times in (column, there)]
    else:
        return _array_of(column, nw), backend
    backend = backend._replace(time_unit=unit, time_zone=zone)
    here, there = (times.to_numpy().astype(MICROSECONDS) for times in both)
    if zone is None:
        return here, backend
    local = known and known.local
    if local is None:  # days are even in local time, hours in UTC, where summer time begins
        counts = [len(np.unique(times - times.astype("M8[D]"))) for times in (here, there)]
        local = counts[0] == 1 or counts[0] < counts[1]
    return (here if local else there), backend._replace(local=local)


def frame_of(columns: dict[str, np.ndarray], backend: Backend) -> Any:
    """Put a frame together, of the library that `backend` names.

    Parameters
    ----------
    columns : dict of str to ndarray of shape (n,)
        The one called ``backend.time`` in UTC or local time, as `columns_of` gave it.
    backend : Backend

    Returns
    -------
    frame of that library, or dict

    Raises
    ------
    ImportError
        If the library is not installed.
    """
    if backend.library == "dict":
        return columns
    import narwhals as nw

    plain = {key: values.tolist() if values.dtype.kind in "OU" else values for key, values in columns.items()}
    try:
        frame = nw.from_dict(plain, backend=backend.library)
    except ImportError as error:
        raise ImportError(
            f"the forecaster was fitted on frames of {backend.library} and answers in such: "
            f"pip install {backend.library}"
        ) from error
    dates = [key for key, values in columns.items() if values.dtype.kind == "M"]
    period = (backend.time_unit or "").startswith("period[")
    if backend.time_unit is not None and not period:
        frame = frame.with_columns(*(_dates(nw.col(key), backend, nw) for key in dates))
    native = frame.to_native()
    if period:
        native = native.astype(dict.fromkeys(dates, backend.time_unit))
    if backend.index is None or backend.time not in columns:
        return native
    native = native.set_index(backend.time).rename_axis(backend.index_name)
    if backend.index != "time":
        native.index = native.index.to_period(backend.index)
    return native.iloc[:, 0] if backend.series and native.shape[1] == 1 else native


def _dates(column, backend, nw):
    """Bring datetime64[us] back to the type that the times had."""
    if backend.time_unit == "date":
        return column.cast(nw.Date)
    column = column.cast(nw.Datetime(backend.time_unit))
    if backend.time_zone is None:
        return column
    if backend.local:
        return column.dt.replace_time_zone(backend.time_zone)
    return column.dt.replace_time_zone("UTC").dt.convert_time_zone(backend.time_zone)


def as_times(name: str, values: np.ndarray) -> np.ndarray:
    """Take times as datetime64[us], or whole numbers as int64.

    Raises
    ------
    TypeError
        If they are neither dates, texts of dates nor whole numbers.
    ValueError
        If one is missing or cannot be read.
    """
    if values.dtype.kind in "OUT":
        first = values.tolist()[:1]
        try:
            values = np.array(values.tolist(), MICROSECONDS)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"the times {name!r} begin with {first[0]!r} and could not be read ({error}); "
                f"expected them as 2024-01-31 or 2024-01-31T06:00"
            ) from error
    if values.dtype.kind == "M":
        values = values.astype(MICROSECONDS)
        missing = np.isnat(values)
    elif values.dtype.kind == "f":
        missing = np.isnan(values)
    else:
        missing = np.zeros(0, bool)
    if missing.any():
        raise ValueError(
            f"the times {name!r} lack {missing.sum()} of {len(values)} values, the first in row "
            f"{int(missing.argmax())}; expected none to be missing"
        )
    if values.dtype.kind == "M":
        return values
    if values.dtype.kind not in "iuf" or (values.dtype.kind == "f" and (values != np.floor(values)).any()):
        raise TypeError(f"the times {name!r} had dtype {values.dtype}; expected dates or whole numbers")
    return values.astype(np.int64)
