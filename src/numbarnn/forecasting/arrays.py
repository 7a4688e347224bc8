"""Arrays and lists of arrays, read to a `SeriesSet`.

Shapes as in `numbarnn.forecasting.sets`; T time steps of an array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .native import without_holes
from .sets import Columns, Covariates, Form, SeriesSet, listed, offsets_of, show_time

__all__ = [
    "by_number",
    "check_data",
    "check_observed",
    "encode_static",
    "form_of",
    "numbers",
    "read_arrays",
    "read_future_arrays",
    "read_static",
    "read_windows",
]

MOST_CATEGORIES = 50
USUAL = Columns()
SHAPES = ("(n_timesteps,)", "(n_timesteps, n_channels)", "(n_windows, n_timesteps, n_channels)")


def numbers(name: str, values: Any, expected: str = "numbers") -> np.ndarray:
    """Take real numbers as float64, without a copy if they are; None is NaN, infinity an error.

    Raises
    ------
    TypeError
        If something is no number.
    ValueError
        If rows have unequal lengths or a value is infinite.
    """
    if isinstance(values, np.ma.MaskedArray):
        values = values.astype(np.float64).filled(np.nan)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} was no array ({error}); expected {expected}") from error
    if array.dtype == object:  # numbers among None
        if text := next((each for each in array.flat if isinstance(each, str)), None):
            raise TypeError(f"{name} had the text {text[:40]!r}; expected {expected}")
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} had dtype object; expected {expected} ({error})") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} had dtype {array.dtype}; expected {expected}")
    array = array.astype(np.float64, copy=False)
    # extremes instead of an array of flags; fmin and fmax step over NaN
    if array.size and not np.isfinite([np.fmin.reduce(array, None), np.fmax.reduce(array, None)]).all():
        if not np.isinf(array).any():
            return array  # nothing but NaN
        where = tuple(int(k) for k in np.argwhere(np.isinf(array))[0])
        raise ValueError(
            f"{name} was {array[where]} at {where if len(where) > 1 else where[0]}; expected finite "
            f"numbers, or NaN where a value is missing"
        )
    return array


def _is_list(value):
    """Whether this is a list of arrays, or of lists of unequal lengths; not of numbers, or rows of them."""
    if not isinstance(value, list | tuple):
        return False
    if any(hasattr(v, "__array__") and np.ndim(v) for v in value):
        return True
    return all(isinstance(v, list | tuple) for v in value) and len({len(v) for v in value}) > 1


def _filled(name, value):
    """Fill the holes in the index of a pandas object, or of those in a list."""
    if _is_list(value):
        return [without_holes(part, f"{name}[{i}]") for i, part in enumerate(value)]
    return without_holes(value, name)


def by_number(form: Form) -> Columns:
    """Return the columns by which arrays are read: of a frame, past covariates stand before the others."""
    columns = form.columns
    if not form.is_frame:
        return columns
    n_past = len(columns.past)
    future = tuple(range(n_past, n_past + len(columns.future)))
    return columns._replace(past=tuple(range(n_past)), future=future)


def form_of(value: Any, known: Form | None = None) -> Form:
    """Find the form of an array or a list of arrays; lists of numbers may be either, as `known` data were."""
    several = _is_list(value)
    if known is not None and known.kind == "list" and isinstance(value, list | tuple):
        several = several or np.ndim(value) == known.n_dims + 1
    try:
        n_dims = max(map(np.ndim, value)) if several else np.ndim(value)
    except ValueError:  # uneven rows: `numbers` says so
        n_dims = 2
    if several:
        return Form("list", n_dims)
    return Form({1: "vector", 2: "matrix"}.get(n_dims, "windows"), n_dims)


def read_arrays(
    y: Any,
    X: Any,
    static: Any,
    options: Columns,
    name: str = "y",
    form: Form | None = None,
    n_known: int = 0,
) -> tuple[SeriesSet, Form]:
    """Read one array, or a list of arrays, each of shape (n_i,) or (n_i, C).

    The parameters are those of `numbarnn.forecasting.series.read`.
    """
    y, X = _filled(name, y), _filled("X", X)
    found = form_of(y, form)
    if form is not None and (form.kind == "list") != (found.kind == "list"):
        expected = "a list of arrays" if form.kind == "list" else "an array"
        raise ValueError(
            f"{name} was {'an array' if form.kind == 'list' else 'a list of arrays'}; expected "
            f"{expected}, as in fit"
        )
    if found.kind == "list":
        parts = [_series(f"{name}[{i}]", part) for i, part in enumerate(y)]
        widths = [part.shape[1] for part in parts]
        if len(set(widths)) > 1:
            other = next(i for i, width in enumerate(widths) if width != widths[0])
            raise ValueError(
                f"{name}[{other}] has {widths[other]} channels; expected {widths[0]}, as {name}[0] has"
            )
    else:
        parts = [_series(name, y)]
    lengths = np.array([len(part) for part in parts], np.int64)
    C = parts[0].shape[1]
    # a single channel of one array is a view of it
    values = parts[0][:, 0] if len(parts) == 1 and C == 1 else np.concatenate([p.T.ravel() for p in parts])
    past, future, columns = _covariates(X, lengths, options, found.kind == "list")
    if form is None and static is None and options.static:
        raise ValueError(f"static was None; expected the static covariates {listed(options.static)}")
    static, labels, categories = read_static(static, len(parts), form)
    columns = columns._replace(static=labels) if form is None else form.columns
    data = SeriesSet(
        np.ascontiguousarray(values),
        offsets_of(lengths),
        C,
        tuple(range(len(parts))),
        tuple(range(C)),
        past=past,
        future=future,
        static=static,
        names=Covariates(columns.past, columns.future, labels),
    )
    check_data(data, name, form is None)
    return data, found._replace(columns=columns, categories=categories)


def read_windows(context: Any, X: Any, form: Form) -> SeriesSet:
    """Read contexts of shape (T,), (T, C) or (n_windows, T, C), each window a series."""
    context, X = _filled("context", context), _filled("X", X)
    columns, found = by_number(form), form_of(context, form)
    if found.kind != "windows":
        lengths = [len(part) for part in context] if found.kind == "list" else [len(context)]
        if X is not None:
            several = X if found.kind == "list" else [X]
            X = [np.asarray(x)[:n] for x, n in zip(several, lengths, strict=False)]
            X = X if found.kind == "list" else X[0]
        form = form._replace(kind=found.kind, columns=columns)
        return read_arrays(context, X, None, columns, "context", form)[0]
    context = numbers("context", context)
    if context.ndim != 3 or 0 in context.shape:
        raise ValueError(
            f"context had shape {context.shape}; expected {', '.join(SHAPES[:2])} or {SHAPES[2]}"
        )
    n, T, C = context.shape
    lengths = np.full(n, T, np.int64)
    past = future = None
    if columns.past or columns.future:
        if X is not None and np.ndim(X) != 3:
            raise ValueError(
                f"X had shape {np.shape(X)}; expected (n_windows, n_timesteps + h, "
                f"{len(columns.past) + len(columns.future)}), as context"
            )
        X = None if X is None else [window[:T] for window in np.asarray(X)]
        past, future, _ = _covariates(X, lengths, columns, True)
    data = SeriesSet(
        context.transpose(0, 2, 1).reshape(-1),
        offsets_of(lengths),
        C,
        tuple(range(n)),
        tuple(range(C)),
        past=past,
        future=future,
        names=Covariates(columns.past, columns.future),
    )
    check_data(data, "context", False)
    return data


def read_future_arrays(
    X: Any, data: SeriesSet, h: int, form: Form, skip: int | np.ndarray = 0
) -> np.ndarray:
    """Read known-future covariates of the next steps from arrays; see `series.read_future`."""
    columns, names = by_number(form), form.columns.future
    past, future = columns.past, columns.future
    several = _is_list(X) or np.ndim(X) == 3
    parts = list(X) if several else [X]
    if len(parts) != data.n_series:
        raise ValueError(f"X has {len(parts)} arrays; expected {data.n_series}, one a series")
    out, skips = np.empty((len(parts), h, len(future))), np.broadcast_to(skip, len(parts))
    for i, part in enumerate(parts):
        name = f"X[{i}]" if several else "X"
        part, before = _series(name, part), int(skips[i])
        every = len(past) + len(future)
        if len(part) != before + h or part.shape[1] not in (len(future), every):
            raise ValueError(
                f"{name} had shape {part.shape}; expected ({before + h}, {len(future)}): the covariates "
                f"{listed(names)} of {'context and ' if before else ''}the {h} steps forecast"
            )
        # all columns, or those that are known alone
        rank = np.argsort(np.argsort(np.array(future))) if part.shape[1] == len(future) else list(future)
        out[i] = part[before:, rank]
        if np.isnan(out[i]).any():
            raise ValueError(
                f"{name} lacks {np.isnan(out[i]).sum()} of {out[i].size} values; expected the "
                f"known-future covariates of all {h} steps"
            )
    return out


def _series(name, value):
    """One array of shape (T, C)."""
    array = numbers(name, value)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} had shape {array.shape}; expected {SHAPES[0]} or {SHAPES[1]}")
    if 0 in array.shape:
        raise ValueError(f"{name} had shape {array.shape}; expected at least one time step and one channel")
    return array.reshape(len(array), -1)


def _covariates(X, lengths, options, several):
    """Past and future covariates (S, P), (S, F), and which columns of X they are."""
    if X is None:
        for kind in ("past", "future"):
            if names := getattr(options, kind):
                raise ValueError(f"X was None; expected the {kind} covariates {listed(names)}")
        return None, None, options
    parts = X if several else [X]
    if several and (not isinstance(X, list | tuple) or len(X) != len(lengths)):
        raise ValueError(
            f"X was {f'{len(X)} arrays' if _is_list(X) else 'an array'}; expected a list of "
            f"{len(lengths)} arrays, as y"
        )
    parts = [_series(f"X[{i}]" if several else "X", part) for i, part in enumerate(parts)]
    for i, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        if part.shape != (length, parts[0].shape[1]):
            name = f"X[{i}]" if several else "X"
            raise ValueError(
                f"{name} had shape {part.shape}; expected ({length}, {parts[0].shape[1]}), a row for "
                f"each step of y"
            )
    width = parts[0].shape[1]
    past = tuple(options.past)
    future = tuple(options.future) or tuple(k for k in range(width) if k not in past)
    for kind, names in (("past", past), ("future", future)):
        for k in names:
            if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k < width:
                raise ValueError(
                    f"{kind}_covariates names the column {k!r}; expected numbers of columns of X, "
                    f"from 0 to {width - 1}"
                )
    named = [*past, *future]
    if twice := [k for k in named if named.count(k) > 1]:
        raise ValueError(
            f"the column {twice[0]!r} of X was named twice; expected each to be a past or a known-future one"
        )
    whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
    chosen = [whole[:, list(names)] if names else None for names in (past, future)]
    return *chosen, options._replace(past=past, future=future)


def read_static(static, n_series, form):
    """Read static covariates (n_series, Sc), their names and categories."""
    if static is None:
        return None, (() if form is None else form.columns.static), (() if form is None else form.categories)
    array = np.asarray(static)
    array = (
        array.reshape(n_series, -1)
        if array.ndim == 1 and len(array) and n_series in (1, len(array))
        else array
    )
    if array.ndim != 2 or len(array) != n_series:
        raise ValueError(
            f"static had shape {array.shape}; expected ({n_series}, n_static), a row for each series"
        )
    columns = {k: array[:, k] for k in range(array.shape[1])}
    return encode_static(columns, None if form is None else form.categories)


def encode_static(
    columns: dict[Any, np.ndarray], categories: tuple | None = None
) -> tuple[np.ndarray | None, tuple, tuple]:
    """Turn static covariates into numbers; strings become one indicator for each of their values.

    Parameters
    ----------
    columns : dict of name to ndarray of shape (n_series,)
    categories : tuple of (name, values), default=None
        Those of an earlier call, which are then the only ones allowed.

    Returns
    -------
    values : ndarray of float64 of shape (n_series, Sc) or None
    names : tuple
        Indicators are called "name=value".
    categories : tuple of (name, values)

    Raises
    ------
    ValueError
        For more than 50 values of a string, one that was not there before, or one that is missing.
    """
    known = None if categories is None else dict(categories)
    values, names, found = [], [], []
    for name, column in columns.items():
        if n := sum(v is None or v != v for v in column.tolist()):
            raise ValueError(
                f"static covariate {name!r} lacks {n} of {len(column)} values; expected one for each series"
            )
        text = column.dtype.kind in "OUST" and any(isinstance(v, str) for v in column)
        if not (text or (known and name in known)):
            values.append(numbers(f"static covariate {name!r}", column))
            names.append(name)
            continue
        column = column.astype(str)
        here = tuple(sorted(set(column.tolist())))
        if known is not None and (new := set(here) - set(known.get(name, ()))):
            raise ValueError(
                f"static covariate {name!r} has the value {min(new)!r}, which was not in fit; known "
                f"are {listed(known.get(name, ()))}"
            )
        here = here if known is None else known[name]
        if len(here) > MOST_CATEGORIES:
            raise ValueError(
                f"static covariate {name!r} has {len(here)} different values; expected at most "
                f"{MOST_CATEGORIES}, or numbers"
            )
        values.extend((column == value).astype(np.float64) for value in here)
        names.extend(f"{name}={value}" for value in here)
        found.append((name, here))
    return np.stack(values, axis=1) if values else None, tuple(names), tuple(found)


def check_data(data: SeriesSet, name: str, fitting: bool, options: Columns = USUAL) -> None:
    """Raise a ValueError for covariates that are missing and, in fit, for series without any value."""
    for kind in ("past", "future"):
        array = getattr(data, kind)
        if array is None or not np.isnan(array.min()):
            continue
        missing = np.isnan(array)
        column = int(missing.any(axis=0).argmax())
        step = int(missing[:, column].argmax())
        i = int(np.searchsorted(data.offsets, step, side="right")) - 1
        where = place(data, i, step - int(data.offsets[i]), options)
        raise ValueError(
            f"the {kind} covariate {getattr(data.names, kind)[column]!r} lacks {missing[:, column].sum()} of "
            f"{len(array)} values, the first at {where}; expected one for every step"
            f"{', in y or in X' if data.starts is not None else ''}"
        )
    if fitting:
        check_observed(data, name)


def check_observed(data: SeriesSet, name: str) -> None:
    """Raise a ValueError for a series that is missing throughout."""
    if not data.has_missing:
        return
    counts = np.add.reduceat(~np.isnan(data.values), data.row_starts, dtype=np.int64)
    if not counts.all():
        i, c = divmod(int(counts.argmin()), data.n_channels)
        which = f"the series {data.ids[i]!r}" if data.n_series > 1 else f"the channel {data.channels[c]!r}"
        raise ValueError(f"{name} has no observed value in {which}; expected at least one")


def place(data: SeriesSet, i: int, step: int, options: Columns = USUAL) -> str:
    """Spell a step of series `i`: "unique_id='b', ds=2020-01-05", or its number."""
    text = [] if data.n_series == 1 else [f"{options.id or 'series'}={data.ids[i]!r}"]
    if data.starts is None:
        text.append(f"step {step}")
    else:
        text.append(f"{options.time or 'time'}={show_time(data.times(i, step, 1)[0])}")
    return ", ".join(text)
