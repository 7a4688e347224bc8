"""Series in every form that data come in: `read` to a `SeriesSet`, and answers written in the same form.

Shapes as in `numbarnn.forecasting.sets`; h steps asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .native import whole_index
from .sets import Columns, Covariates, Form, SeriesSet, listed

__all__ = [
    "Columns",
    "Covariates",
    "Form",
    "SeriesSet",
    "context_form",
    "is_frame",
    "read",
    "read_contexts",
    "read_future",
    "write",
]


def is_frame(value):
    """Return whether this has named columns, or is a series with times; no library is loaded to find out."""
    if _is_table(value):
        return True
    index = type(getattr(value, "index", None)).__name__
    return index in ("DatetimeIndex", "PeriodIndex") or whole_index(value) is not None


def _is_table(value):
    """Return whether this has named columns."""
    return isinstance(value, dict) or (
        hasattr(type(value), "columns") and not isinstance(value, np.ndarray)
    )


def _is_array(value, form):
    """Return whether this is read as an array; so is what goes on from a series with the index 0, 1, ..."""
    goes_on = form is not None and not form.is_frame and not _is_table(value)
    return not is_frame(value) or (goes_on and whole_index(value) is not None)


def read(
    y: Any,
    X: Any = None,
    static: Any = None,
    options: Columns | None = None,
    name: str = "y",
    form: Form | None = None,
    n_known: int = 0,
) -> tuple[SeriesSet, Form]:
    """Read series in any of their forms.

    Parameters
    ----------
    y : array-like of shape (n_timesteps,) or (n_timesteps, C), list of those, frame or dict of columns
        A vector of float64 is not copied; nothing is ever modified.
    X : array-like of shape (n_timesteps, P + F), list of those, frame or dict, default=None
        Covariates. Columns of an array are known for the future unless ``options.past`` names them.
    static : array-like of shape (n_series, Sc), frame or dict, default=None
    options : Columns, default=None
        Names of the columns; None: the usual ones.
    name : str, default="y"
        What messages call the series.
    form : Form, default=None
        Of data read before: these go on in the same way, and `options` is not looked at.
    n_known : int, default=0
        Steps of the history, beside which gaps between the times are looked at.

    Returns
    -------
    data : SeriesSet
    form : Form

    Raises
    ------
    TypeError
        If something is not numeric.
    ValueError
        If shapes, columns, times or values are not as expected; the message names where.

    Examples
    --------
    >>> from numbarnn.forecasting.series import read
    >>> data, form = read({"ds": ["2024-01-31", "2024-02-29", "2024-04-30"], "y": [1, 2, 4]})
    >>> form.kind, str(data.frequency), data.values.tolist()
    ('long', 'ME', [1.0, 2.0, nan, 4.0])
    """
    options = Columns() if options is None else options
    # what reads arrays and frames stands above this module
    is_array = _is_array(y, form)
    if is_array:
        from .arrays import read_arrays as read_any
    else:
        from .frames import read_frame as read_any
    if form is not None:
        if form.is_frame == is_array:
            kind = f"{form.kind} {'frame' if form.is_frame else 'of data'}"
            raise ValueError(f"{name} was a {type(y).__name__}; expected a {kind}, as in fit")
        options = form.columns
        _check_wanted(X, form)
    return read_any(y, X, static, options, name, form, n_known)


def _check_wanted(X, form):
    """Raise a ValueError for covariates where fit had none."""
    if X is not None and not (form.columns.past or form.columns.future):
        raise ValueError("X was given, but fit had neither past nor known-future covariates; expected None")


def read_contexts(context: Any, X: Any, n_channels: int, form: Form, n_known: int = 0) -> SeriesSet:
    """Read histories to go on from, each window a series of its own.

    Parameters
    ----------
    context : array-like of shape (T,), (T, C) or (n_windows, T, C), list of the first two, or frame
    X : array-like of shape (T + h, P + F) or (n_windows, T + h, P + F), frame or None
        Covariates; only the first T steps are read here (see `read_future`).
    n_channels : int
        Channels that are expected.
    form : Form
        Of the data seen in fit. A frame is read as those were.
    n_known : int, default=0
        See `read`.

    Returns
    -------
    SeriesSet
        Windows of arrays have the ids 0, 1, ...

    Raises
    ------
    TypeError, ValueError
        As `read` does; ValueError if there is another number of channels.
    """
    from .arrays import check_observed, read_windows

    if form.is_frame and is_frame(context):
        data, _ = read(context, X, None, name="context", form=form, n_known=n_known)
    else:
        data = read_windows(context, X, form)
    check_observed(data, "context")
    if data.n_channels != n_channels:
        raise ValueError(f"context has {data.n_channels} channels; expected {n_channels}, as in fit")
    return data


def context_form(context: Any, form: Form) -> Form:
    """Form of the answer to these histories: as many dimensions as they have, or the frame of fit."""
    if not _is_array(context, form):
        return form
    from .arrays import by_number, form_of

    return form_of(context, form)._replace(columns=by_number(form))


def read_future(X: Any, data: SeriesSet, h: int, form: Form, skip: int | np.ndarray = 0) -> np.ndarray | None:
    """Read known-future covariates of the `h` steps that follow each series.

    Parameters
    ----------
    X : array-like of shape (h, F), (skip + h, P + F) or (n_series, skip + h, P + F), list, frame or dict
    data : SeriesSet
        What the steps follow.
    h : int
    form : Form
        ``form.columns.future`` are the names; those of the calendar are not among them.
    skip : int or ndarray of int of shape (n_series,), default=0
        Rows of an array in front of those steps, given by an array if they are contexts. Frames are aligned
        by id and time.

    Returns
    -------
    ndarray of float64 of shape (n_series, h, F) or None
        None if there are no such covariates.

    Raises
    ------
    ValueError
        If rows or values are missing; the message names the first.
    """
    if not form.columns.future:
        _check_wanted(X, form)
        return None
    hint = f"make_future({h}) gives the rows needed"
    if np.ndim(skip):
        hint = "X goes on from the end of context"
    elif data.starts is None:
        hint = f"X is an array of {h} rows"
    if X is None:
        raise ValueError(
            f"X was None; expected the known-future covariates {listed(form.columns.future)} of the "
            f"next {h} steps; {hint}"
        )
    if is_frame(X) and form.is_frame:
        from .frames import read_future_frame

        return read_future_frame(X, data, h, form, hint)
    from .arrays import read_future_arrays

    return read_future_arrays(X, data, h, form, skip)


def write(
    form: Form,
    data: SeriesSet,
    h: int,
    columns: dict[str, np.ndarray],
    series: Any = None,
    ends: Any = None,
    long: bool = False,
) -> Any:
    """Write answers in the form that the data came in.

    Parameters
    ----------
    form : Form
    data : SeriesSet
        What the answers follow.
    h : int
    columns : dict of str to ndarray of shape (n, h, C) or, of arrays only, (n, h, C, ...)
        In their order. In a wide frame "RNNForecaster" is written under the names of the channels, and
        "RNNForecaster-lo-80" becomes "channel-lo-80".
    series : array-like of int of shape (n,), default=None
        Which series each entry is of; None: all in their order. It may name one several times.
    ends : array-like of int of shape (n,), default=None
        After how many steps of it the answer begins; None: after the last.
    long : bool, default=False
        Write what belongs to a wide frame as a long one whose ids are the channels.

    Returns
    -------
    ndarray, list of ndarray, frame or dict
        Arrays: of one column the array, of several a dict of them.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.series import read, write
    >>> data, form = read({"ds": [1, 2, 3], "y": [5.0, 6.0, 7.0]})
    >>> write(form, data, 2, {"RNNForecaster": np.array([[[8.0], [9.0]]])})["ds"].tolist()
    [4, 5]
    """
    if form.is_frame:
        from .frames import write_long, write_wide

        series = np.arange(data.n_series) if series is None else np.asarray(series, np.int64)
        ends = data.lengths[series] if ends is None else np.asarray(ends, np.int64)
        if form.kind == "wide" and not long:
            return write_wide(form, data, h, columns, series, ends)
        return write_long(form, data, h, columns, series, ends)
    answers = {}
    for key, values in columns.items():
        if form.n_dims == 1:
            values = values[:, :, 0]
        whole = form.kind == "windows"
        answers[key] = values if whole else list(values) if form.kind == "list" else values[0]
    return next(iter(answers.values())) if len(answers) == 1 else answers
