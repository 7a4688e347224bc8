"""Long and wide frames, read to a `SeriesSet` and written.

A long frame has columns of ids, times and values; a wide one a column of times and one for each channel. All
works on a dict of columns (see `numbarnn.forecasting.native`).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from .arrays import check_data, encode_static, numbers, read_static
from .frequency import Frequency, check_gaps, infer, show_time
from .native import as_times, columns_of, frame_of
from .series import is_frame
from .sets import NAME, Columns, Covariates, Form, SeriesSet, listed, offsets_of

__all__ = ["read_frame", "read_future_frame", "write_long", "write_wide"]

# columns of answers beside those of id, time and target, and what the bounds of a channel are called
OTHERS = re.compile(rf"cutoff|{NAME}(-.*)?")
BOUND = re.compile(r"(.*)-(lo-|hi-|ql)[\d.e+-]+", re.DOTALL)


def read_frame(
    y: Any,
    X: Any,
    static: Any,
    options: Columns,
    name: str = "y",
    form: Form | None = None,
    n_known: int = 0,
) -> tuple[SeriesSet, Form]:
    """Read a frame, long if it has columns of times and of the target, else wide.

    Rows may come in any order of ids; the times of each id must ascend. The parameters are those of
    `numbarnn.forecasting.series.read`.
    """
    known = None if form is None else form.backend
    columns, backend = columns_of(y, options.time or "ds", name, known, options.id)
    if form is not None:
        _check_zone(name, backend, form.backend)
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"{name} has no {'rows' if columns else 'columns'}; expected at least one time step")
    options = options._replace(time=backend.time, past=tuple(options.past), future=tuple(options.future))
    X = None if X is None else _covariate_frame(X, options, backend)
    options, kind, targets = _roles(columns, X, options, backend, name, form)
    data, order, first = _place(columns, targets, options, name, kind, n_known)
    extra = {kind: _covariates(kind, columns, X, data, order, options) for kind in ("past", "future")}
    values, labels, categories = _static(static, columns, data, order, first, options, form)
    frequency = data.frequency
    if form is None and not backend.local and backend.time_zone not in (None, "UTC"):
        frequency = replace(frequency, zone=backend.time_zone)
    data = SeriesSet(
        data.values,
        data.offsets,
        len(targets),
        data.ids,
        targets,
        data.starts,
        frequency,
        **extra,
        static=values,
        names=Covariates(options.past, options.future, labels),
    )
    check_data(data, name, form is None, options)
    options = options._replace(freq=data.frequency)
    return data, Form(kind, 2, options, backend, categories)


def _check_zone(name, backend, known):
    """Raise a ValueError if only one of two frames has times of a zone, or days of another one."""
    zone, other = backend.time_zone, known.time_zone
    if backend.time is None or zone == other or (zone and other and not known.local):
        return
    here, there = (f"the zone {each}" if each else "no zone" for each in (zone, other))
    raise ValueError(f"the times {backend.time!r} of {name} have {here}; expected {there}, as y in fit")


def _covariate_frame(X, options, backend):
    """Columns of X."""
    if not is_frame(X):
        raise TypeError(f"X was a {type(X).__name__}; expected a frame with the times of y, as y is one")
    columns, other = columns_of(X, options.time or "ds", "X", backend, options.id)
    _check_zone("X", other, backend)
    if options.time is not None and other.time is None:
        raise ValueError(
            f"X has the columns {listed(tuple(columns))}; expected the times {options.time!r} too"
        )
    return columns


def _roles(columns, X, options, backend, name, form):
    """Find what the columns are: options with covariates and what is there, the form, and the targets."""
    has_id, has_target = options.id in columns, options.target in columns
    kind = "long" if has_target and options.time and (has_id or backend.index is None) else "wide"
    if kind == "wide" and has_id:
        missing = options.target if options.time else form.columns.time if form else "ds"
        raise ValueError(
            f"{name} has the ids {options.id!r} but no column {missing!r}; it has {listed(tuple(columns))}"
        )
    if form is not None and (
        form.kind != kind or (kind == "long" and (form.columns.id is not None) != has_id)
    ):
        raise ValueError(
            f"{name} has the columns {listed(tuple(columns))}; expected a {form.kind} frame with the "
            f"columns of the one in fit"
        )
    options = options._replace(id=options.id if has_id else None)
    given = () if X is None else tuple(c for c in X if c not in (options.id, options.time))
    if X is not None and not options.future and form is None:  # as with arrays: known, unless said to be past
        options = options._replace(future=tuple(c for c in given if c not in options.past))
    for covariates in ("past", "future"):
        for column in getattr(options, covariates):
            if column not in columns and column not in given:
                raise ValueError(
                    f"{covariates}_covariates names the column {column!r}; {name} has "
                    f"{listed(tuple(columns))}, X has {listed(given) or 'none'}"
                )
    roles = [options.id, options.time, *options.past, *options.future, *options.static]
    roles += [options.target] if kind == "long" else []
    if twice := next((c for c in roles if c is not None and roles.count(c) > 1), None):
        raise ValueError(f"the column {twice!r} was named twice; expected it to be one of id, time, target "
                         "and past, known-future or static covariate")  # fmt: skip
    named = {options.id, options.time, *options.past, *options.future, *options.static}
    channels = tuple(c for c in columns if c not in named) if kind == "wide" else ()
    if form is None:
        _check_names(options, channels)
    if kind == "wide":
        return options, kind, channels
    unused = [c for c in dict.fromkeys((*columns, *given)) if c not in named and c != options.target]
    if unused and form is None:
        warnings.warn(
            f"columns that are not used: {listed(unused)}; name them as covariates, or leave them out",
            UserWarning,
            stacklevel=5,
        )
    return options, kind, (options.target,)


def _check_names(options, channels):
    """Raise a ValueError for a column that would have to share its name with one that answers have."""
    ids, known = "unique_id" if channels else options.id, {str(channel) for channel in channels}
    roles = [ids, options.time, options.target]
    wrong = [c for c in roles if c is not None and (OTHERS.fullmatch(c) or roles.count(c) > 1)]
    wrong += [c for c in roles[:2] if c == "sample"]  # of paths, which have no truth beside them
    wrong += [c for c in channels if (found := BOUND.fullmatch(str(c))) and found[1] in known]
    if wrong:
        raise ValueError(
            f"the column {wrong[0]!r} has a name that forecasts or evaluations give to a column of their "
            f"own; expected another one: rename it"
        )


def _place(columns, targets, options, name, kind, n_known):
    """Lay out the series: a SeriesSet without covariates, where rows go, and the first row of each series."""
    if not targets:
        raise ValueError(f"{name} has no column but times and covariates; expected at least one of values")
    n = len(columns[targets[0]])
    codes, ids = (
        (np.zeros(n, np.int64), (0,)) if options.id is None else _codes(columns[options.id], options.id)
    )
    rows = None if (codes[1:] >= codes[:-1]).all() else np.argsort(codes, kind="stable")
    codes = codes if rows is None else codes[rows]
    first = np.concatenate([[True], codes[1:] != codes[:-1]])
    where = np.flatnonzero(first)
    starts = frequency = None
    lengths, position = np.array([n], np.int64), np.arange(n)
    if options.time is not None:
        times = as_times(options.time, columns[options.time])
        times = times if rows is None else times[rows]
        _check_order(times, codes, first, ids, options)
        frequency = infer(times, options.time, first) if options.freq is None else _given(options, times)
        starts = times[where]
        steps = frequency.count(starts[codes], times)
        if (steps < 0).any():
            i = int((steps < 0).argmax())
            spot, start = _spot(options, ids, codes[i], times[i]), starts[codes[i]]
            raise ValueError(f"{name} has {spot}, which {_off_grid(times[i], start, frequency)}")
        lengths = steps[np.append(where[1:], n) - 1] + 1
        if options.freq is not None:  # else `infer` has looked
            given = not isinstance(options.freq, Frequency)
            there = f"{options.time!r} of {name}"
            check_gaps(there, frequency, int(lengths.sum()), n, n_known, given)
            if given and (stride := int(np.gcd.reduce(steps))) > 1:  # gaps of sparse data are not so even
                suits = replace(frequency, step=stride * frequency.step)
                warnings.warn(
                    f"{there} has times at multiples of {stride} steps of the frequency {frequency} alone: "
                    f"all others count as missing; expected freq to be {suits}",
                    UserWarning,
                    stacklevel=5,
                )
        position = offsets_of(lengths)[codes] + steps
    offsets = offsets_of(lengths)
    values = np.full(len(targets) * offsets[-1], np.nan)
    for c, target in enumerate(targets):  # several only of one series
        hint, other = "numbers", columns[target].dtype.kind
        if kind == "wide" and other in "MOUT":
            hint += f" (time_col={target!r} makes it the time" + (")" if other == "M" else ", id_col the id)")
        column = numbers(f"the column {target!r} of {name}", columns[target], hint)
        values[position + c * offsets[-1]] = column if rows is None else column[rows]
    data = SeriesSet(values, offsets, len(targets), ids, targets, starts, frequency)
    return data, (rows, position), (where if rows is None else rows[where])


def _codes(column, name):
    """Give numbers to ids in the order in which they first come; also return the ids."""
    change = np.concatenate([[True], column[1:] != column[:-1]])
    where = np.flatnonzero(change)
    keys = _keys(column[where])  # one a run of equal ids: few, if the frame is sorted
    if any(key is None or key != key for key in keys):
        raise ValueError(f"the ids {name!r} have missing values; expected one in every row")
    table = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([table[key] for key in keys], np.int64)
    return np.repeat(codes, np.diff(np.append(where, len(column)))), tuple(table)


def _keys(column):
    """List ids; nanoseconds would become whole numbers."""
    return (column.astype("M8[us]") if column.dtype == "M8[ns]" else column).tolist()


def _spot(options, ids, code, time):
    """Spell an id and a time."""
    text = "" if options.id is None else f"{options.id}={ids[code]!r}, "
    return f"{text}{options.time}={show_time(time)}"


def _off_grid(time, start, frequency):
    """Say what is wrong with a time that is no step."""
    between = "is no step" if time == start else f"lies between two steps from {show_time(start)} on"
    return f"{between} of the frequency {frequency}; expected even steps, or another freq"


def _check_order(times, codes, first, ids, options):
    """Raise a ValueError unless times ascend inside each id."""
    wrong = ~first[1:] & (times[1:] <= times[:-1])
    if wrong.any():
        i = int(wrong.argmax()) + 1
        spot = _spot(options, ids, codes[i], times[i])
        if times[i] == times[i - 1]:
            raise ValueError(
                f"{spot} is there twice; expected each time once{' an id' if options.id else ''}"
            )
        raise ValueError(
            f"times are not sorted: {spot} comes after {show_time(times[i - 1])}; expected them to "
            f"ascend{' inside each id' if options.id else ''}"
        )


def _given(options, times):
    """Read the frequency that was given, which must suit the times."""
    frequency = Frequency.parse(options.freq)
    if (frequency.unit == "i") != (times.dtype.kind == "i"):
        what = "whole numbers" if times.dtype.kind == "i" else "dates"
        freq = str(frequency) if isinstance(options.freq, Frequency) else options.freq
        raise ValueError(f"freq was {freq!r}, but {options.time!r} has {what}; expected one that suits them")
    return frequency


def _find(X, data, first, n_steps, options):
    """Find the rows of X for n_steps[i] steps from first[i] on, and where these go in a flat array."""
    rows = len(next(iter(X.values())))
    codes = np.zeros(rows, np.int64)
    if options.id is not None:
        if options.id not in X:
            raise ValueError(f"X has the columns {listed(tuple(X))}; expected the ids {options.id!r} too")
        codes, ids = _codes(X[options.id], options.id)
        place = {key: i for i, key in enumerate(data.ids)}
        codes = np.array([place.get(key, -1) for key in ids], np.int64)[codes]
    if data.starts is None:
        steps = np.arange(rows) + (first[0] if rows == n_steps[0] else 0)
    else:
        steps = data.frequency.count(data.starts[codes], as_times(options.time, X[options.time]))
    chosen = np.flatnonzero((codes >= 0) & (steps >= first[codes]) & (steps < (first + n_steps)[codes]))
    codes = codes[chosen]
    position = offsets_of(n_steps)[codes] + steps[chosen] - first[codes]
    if len(position) and (count := np.bincount(position)).max() > 1:
        i = int((count[position] > 1).argmax())
        time = steps[chosen[i]] if data.starts is None else as_times(options.time, X[options.time])[chosen[i]]
        raise ValueError(f"X has {_spot(options, data.ids, codes[i], time)} twice; expected each time once")
    return chosen, position


def _covariates(kind, columns, X, data, order, options):
    """Read past or future covariates, of shape (S, k), from y itself or from X; None if there are none."""
    names = getattr(options, kind)
    if not names:
        return None
    out = np.full((int(data.offsets[-1]), len(names)), np.nan)
    found = None
    for k, name in enumerate(names):
        if name in columns:
            rows, position = order
            values = numbers(f"the column {name!r} of y", columns[name])
            out[position, k] = values if rows is None else values[rows]
        if X is not None and name in X:
            found = found or _find(X, data, np.zeros_like(data.lengths), data.lengths, options)
            out[found[1], k] = numbers(f"the column {name!r} of X", X[name])[found[0]]
    return out


def _static(static, columns, data, order, first, options, form):
    """Read static covariates, from a frame of their own or from columns of y; names and categories too."""
    categories = None if form is None else form.categories
    if static is not None and not is_frame(static):
        return read_static(static, data.n_series, form)
    found = {}
    if static is not None:
        table, rows = _static_frame(static, data, options)
        found = {
            c: table[c][rows] for c in (tuple(options.static) or table) if c != options.id and c in table
        }
    # later data may leave all of them out, but not some
    needed = form is None or not (found.keys() | columns.keys()).isdisjoint(options.static)
    for name in options.static:
        if name in found:
            continue
        if name not in columns:
            if needed:
                raise ValueError(
                    f"static_covariates names the column {name!r}; y has {listed(tuple(columns))}"
                )
            continue
        values = columns[name] if order[0] is None else columns[name][order[0]]
        codes = np.searchsorted(data.offsets, order[1], side="right") - 1
        found[name] = columns[name][first]
        first_ones = found[name][codes]
        differs = (values != first_ones) & ((values == values) | (first_ones == first_ones))  # NaN equals NaN
        if differs.any():
            key = data.ids[codes[int(differs.argmax())]]
            raise ValueError(
                f"static_covariates names {name!r}, which changes inside the id {key!r}; expected one "
                f"value an id"
            )
    if not found:
        return None, () if form is None else form.columns.static, categories or ()
    return encode_static(found, categories)


def _static_frame(static, data, options):
    """Columns of a frame of static covariates, and its row for each series."""
    if options.id is None:
        raise TypeError(
            f"static was a {type(static).__name__}; expected an array of shape ({data.n_series}, n_static), "
            "as y has no ids"
        )
    table, _ = columns_of(static, None, "static", ids=options.id)
    if options.id not in table:
        raise ValueError(
            f"static has the columns {listed(tuple(table))}; expected the ids {options.id!r} of y"
        )
    keys = _keys(table[options.id])
    place = {key: i for i, key in enumerate(keys)}
    if len(place) < len(keys):
        raise ValueError("static has an id twice; expected one row for each id")
    missing = [key for key in data.ids if key not in place]
    if missing:
        raise ValueError(f"static lacks {len(missing)} of {data.n_series} ids, the first {missing[0]!r}")
    return table, np.array([place[key] for key in data.ids])


def read_future_frame(X: Any, data: SeriesSet, h: int, form: Form, hint: str) -> np.ndarray:
    """Read known-future covariates by id and time, in any order of rows; see `series.read_future`.

    `hint` says which rows are needed.
    """
    options = form.columns
    columns = _covariate_frame(X, options, form.backend)
    steps = np.full(data.n_series, h, np.int64)
    out = np.full((data.n_series * h, len(options.future)), np.nan)
    rows, position = _find(columns, data, data.lengths, steps, options)
    for k, name in enumerate(options.future):
        if name not in columns:
            raise ValueError(
                f"X has the columns {listed(tuple(columns))}; expected the known-future covariate "
                f"{name!r} too"
            )
        out[position, k] = numbers(f"the column {name!r} of X", columns[name])[rows]

    def first(wrong):
        """Spell the first step that is wrong."""
        i, step = divmod(int(wrong.argmax()), h)
        step += int(data.lengths[i])
        if data.starts is None:
            return f"step {step}"
        return _spot(options, data.ids, i, data.times(i, step, 1)[0])

    absent = np.ones(len(out), bool)
    absent[position] = False
    if absent.any():
        raise ValueError(
            f"X lacks {absent.sum()} of {len(absent)} rows of known-future covariates, the first "
            f"{first(absent)}; {hint}"
        )
    for name, missing in zip(options.future, np.isnan(out).T, strict=True):
        if missing.any():
            raise ValueError(
                f"the known-future covariate {name!r} of X was NaN in {missing.sum()} of {len(missing)} "
                f"rows, the first {first(missing)}; expected a number for each of the {h} steps"
            )
    return out.reshape(data.n_series, h, -1)


def _answer_times(data, h, series, ends):
    """Return the times of the h steps after ends, of shape (n, h)."""
    return data.frequency.shift(data.starts[series][:, np.newaxis], ends[:, np.newaxis] + np.arange(h))


def write_long(
    form: Form, data: SeriesSet, h: int, columns: dict[str, np.ndarray], series: np.ndarray, ends: np.ndarray
) -> Any:
    """Write a frame with columns of ids, times and `columns`; see `series.write`."""
    options, n, C = form.columns, len(series), data.n_channels
    out = {}
    names = [data.channels[0]] if form.kind == "long" else data.channels
    if form.kind == "wide":
        out[options.id or "unique_id"] = np.repeat(_named(names), n * h)
    elif options.id is not None:
        out[options.id] = np.repeat(_named([data.ids[i] for i in series]), h)
    if data.starts is not None:
        out[options.time] = np.tile(_answer_times(data, h, series, ends).ravel(), C)
    for key, values in columns.items():
        values = np.broadcast_to(values, (n, h, C))
        out[key] = values.transpose(2, 0, 1).ravel()
    backend = form.backend._replace(series=False)
    return frame_of(out, backend if form.kind == "long" else backend.with_columns())


def write_wide(
    form: Form, data: SeriesSet, h: int, columns: dict[str, np.ndarray], series: np.ndarray, ends: np.ndarray
) -> Any:
    """Write a frame with a column of times and one for each channel; see `series.write`."""
    out = {}
    if data.starts is not None:
        out[form.columns.time] = _answer_times(data, h, series, ends).ravel()
    for key, values in columns.items():
        for c, channel in enumerate(data.channels):
            ours = key.startswith("RNNForecaster")
            label = f"{channel}{key.removeprefix('RNNForecaster')}" if ours else key
            label = channel if key == "RNNForecaster" else label
            out.setdefault(label, values[:, :, c].ravel())
    return frame_of(out, form.backend)


def _named(names):
    """Make an array of ids, whatever they are."""
    array = np.array(names)
    if array.ndim == 1 and array.dtype.kind in "iufbM":
        return array
    array = np.empty(len(names), object)
    array[:] = names
    return array
