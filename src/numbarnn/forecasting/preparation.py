"""From the parameters and data of a forecaster to what a model is made of: lengths, loss, parts, calendar.

The first argument `forecaster` is an `RNNForecaster` whose parameters are valid one by one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from numbarnn.losses import LOSSES, Loss

from . import calendar
from .arrays import numbers
from .likelihoods import LIKELIHOODS
from .series import Columns, Form, SeriesSet, is_frame, read
from .sets import listed
from .windows import Layout

__all__ = [
    "calendar_ahead",
    "check_values",
    "find_members",
    "held_out",
    "make_layout",
    "make_loss",
    "read_more",
    "read_training",
    "with_calendar",
    "with_static",
]

QUANTILES = (0.025, 0.1, 0.5, 0.9, 0.975)


def read_training(
    forecaster: Any, y: Any, X: Any, static: Any, validation: Any
) -> tuple[SeriesSet, SeriesSet | None, Form]:
    """Read the data of `fit`.

    Returns
    -------
    data : SeriesSet
    later : SeriesSet or None
        `data` with those to validate on behind them, if `validation` is data.
    form : Form
    """
    options = Columns(
        forecaster.id_col, forecaster.time_col, forecaster.target_col,
        *(tuple(getattr(forecaster, f"{kind}_covariates") or ()) for kind in ("past", "future", "static")),
        forecaster.freq,
    )  # fmt: skip
    more = validation is not None and not isinstance(validation, Real)
    X, X_later = _split(X, y) if more else (X, None)
    data, form = read(y, X, static, options)
    if forecaster.multivariate == "joint" and data.n_series > 1:
        raise ValueError(
            f"y has {data.n_series} series; expected one: multivariate='joint' needs channels that share "
            "their times, so pass an array or a wide frame"
        )
    later = None
    if more:
        later, _ = read(validation, X_later, None, options, "validation", form, int(data.offsets[-1]))
        later = data.append(later, "validation")
    names = _calendar_names(forecaster.calendar, data if later is None else later)
    return with_calendar(data, names), None if later is None else with_calendar(later, names), form


def read_more(forecaster: Any, y: Any, X: Any, name: str) -> SeriesSet:
    """Read data that have the form of those in `fit`."""
    n_known = int(forecaster.history_.offsets[-1])
    data, _ = read(y, X, None, name=name, form=forecaster._form, n_known=n_known)
    forecaster.history_.check_channels(data, name)
    check_values(forecaster.model_.loss, data, name)
    return with_calendar(data, forecaster._calendar)


def check_values(loss: Loss, data: SeriesSet, name: str) -> None:
    """Raise a ValueError for values that the loss is not defined for; messages call the data `name`."""
    try:
        loss.check(data.values[~np.isnan(data.values)] if data.has_missing else data.values)
    except ValueError as error:
        raise ValueError(f"{name}{str(error).removeprefix('y')}") from None  # losses call it y


def find_members(forecaster: Any, data: SeriesSet, name: str, new: bool = False) -> np.ndarray:
    """Return which series of `fit` these are, (n_series,); -1 for new ones, if `new` ones may be.

    Raises
    ------
    ValueError
        If there is an unknown id, and the network tells series apart or `new` is False.
    """
    place = {key: i for i, key in enumerate(forecaster.ids_)}
    members = np.array([place.get(key, -1) for key in data.ids], np.int64)
    if (members < 0).any() and (not new or forecaster.network_.n_embedded):
        key = data.ids[int(np.argmin(members))]
        known = ", ".join(map(repr, forecaster.ids_[:5])) + (" ..." if len(forecaster.ids_) > 5 else "")
        hint = ", or set series_embedding=None before fit" if new else ""
        raise ValueError(f"{name} has the id {key!r}, which was not in fit; known are {known}{hint}")
    return members


def with_static(forecaster: Any, data: SeriesSet, members: np.ndarray) -> SeriesSet:
    """Return `data` with the static covariates that `members` had in `fit`, if they bring none."""
    known = forecaster.history_.static
    if known is None or data.static is not None:
        return data
    if (members < 0).any():
        raise ValueError(
            f"the id {data.ids[int(np.argmin(members))]!r} was not in fit and has no static covariates; "
            f"expected {listed(forecaster.history_.names.static)}"
        )
    return replace(data, static=known[members])


def _split(X, y):
    """Cut covariates behind the rows of y; those of a frame are joined on time and need no cut."""
    if X is None or is_frame(y):
        return X, X
    if isinstance(X, list) and isinstance(y, list) and np.ndim(y[0]) > 0:
        if len(X) != len(y):
            return X, None  # which is an error of X whatever follows
        pairs = [_cut(f"X[{i}]", x, part) for i, (x, part) in enumerate(zip(X, y, strict=True))]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return _cut("X", X, y)


def _cut(name, X, y):
    """Cut the rows of one series."""
    if len(X) <= len(y):
        raise ValueError(f"{name} had {len(X)} rows; expected those of y, {len(y)}, and of validation behind")
    return X[: len(y)], X[len(y) :]


def _calendar_names(names, data):
    """Return the features of the calendar that a forecaster is fitted with, as names."""
    if not names:
        return ()
    _check_times(data)
    return calendar.names_for(names, data)


def with_calendar(data: SeriesSet, names: Any) -> SeriesSet:
    """Put calendar features behind the known-future covariates, if there are `names` of any."""
    if not names:
        return data
    _check_times(data)
    return calendar.with_calendar(data, names)


def _check_times(data):
    if data.starts is None:
        raise ValueError("calendar features need times, and there are none; expected a data frame")


def calendar_ahead(data: SeriesSet, future: np.ndarray | None, h: int, names: Any) -> np.ndarray | None:
    """Put calendar features of the next `h` steps behind known-future covariates (n_series, h, F)."""
    if not names:
        return future
    features = calendar.calendar_ahead(data, h, names)
    return features if future is None else np.concatenate([future, features], axis=2)


def held_out(forecaster: Any, data: SeriesSet, later: SeriesSet | None, validation: Any) -> np.ndarray:
    """Return how many steps at the end of each series are held out, (n_series,).

    Raises
    ------
    ValueError
        If the data are shorter than a horizon and a step, or an explicit `validation` leaves too little.
    """
    horizon, lengths = forecaster.horizon, data.lengths
    longest = int(lengths.max())
    if longest < horizon + 1:
        raise ValueError(
            f"y has {longest} time steps; expected at least {horizon + 1}: a horizon of {horizon} and one "
            "step of context"
        )
    if later is not None:
        n_valid = later.lengths - lengths
        n_valid[(n_valid < horizon) | (lengths < horizon + 1)] = 0
        if not n_valid.any():
            raise ValueError(
                f"validation has {(later.lengths - lengths).max()} time steps; expected at least the "
                f"horizon, {horizon}"
            )
        return n_valid
    if not (forecaster.early_stopping or validation is not None):
        return np.zeros_like(lengths)
    fraction = forecaster.validation_fraction if validation is None else float(validation)
    if not 0 < fraction < 1:
        raise ValueError(f"validation was {validation!r}; expected a fraction between 0 and 1, or data")
    n_valid = np.maximum(np.ceil(fraction * lengths).astype(np.int64), horizon)
    n_valid[lengths - n_valid < horizon + 1] = 0
    if not n_valid.any():
        message = (
            f"y has {longest} time steps; expected at least {2 * horizon + 1}, with {fraction:g} of it held "
            f"out, for a horizon of {horizon}"
        )
        if longest > 2 * horizon:
            name = "validation_fraction" if validation is None else "validation"
            message = (
                f"{name} was {fraction:g}, which leaves less than {horizon + 1} of {longest} time steps to "
                f"train on, a horizon of {horizon} and one step of context; expected at most "
                f"{math.floor(100 * (longest - horizon - 1) / longest) / 100:g}"
            )
        if validation is not None:
            raise ValueError(message)
        warnings.warn(
            f"{message}: nothing is held out, so there is no early stopping and there are no intervals",
            UserWarning, stacklevel=4,
        )  # fmt: skip
    return n_valid


def make_layout(forecaster: Any, n_train: int) -> Layout:
    """Resolve the lengths that are "auto".

    Parameters
    ----------
    forecaster : RNNForecaster
    n_train : int
        Steps of the longest series that are trained on.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If a segment is longer than the context, or a recursive decoder is to have a linear forecast.
    """
    horizon, context, segment = forecaster.horizon, forecaster.context_length, forecaster.segment_length
    joint, stepwise = forecaster.multivariate == "joint", forecaster.decoder == "recursive"
    if stepwise and forecaster.linear not in ("auto", False):
        raise ValueError(
            f"linear was {forecaster.linear} with decoder='recursive'; expected 'auto' or False: a linear "
            "forecast is of a whole horizon"
        )
    if context == "auto":
        wanted = min(max(3 * horizon, 168), max(720, horizon))
        context = max(1, min(wanted, n_train // 3))
    if stepwise:
        return Layout(context, horizon, 1, 1, joint, stepwise)
    if segment == "auto":
        segment = max(min(24, horizon, max(1, context // 4)), math.ceil(context / 64))
    if segment > context:
        raise ValueError(f"segment_length was {segment}; expected at most the context length {context}")
    return Layout(context, horizon, segment, math.ceil(horizon / math.ceil(horizon / segment)), joint)


def make_loss(forecaster: Any) -> Loss:
    """Make the loss that the parameters ask for.

    Raises
    ------
    ValueError
        If `loss`, `quantiles` and `decoder` do not go together.
    """
    name, quantiles = forecaster.loss, forecaster.quantiles
    stepwise = forecaster.decoder == "recursive"
    if quantiles is not None:
        if name not in ("squared_error", "quantile"):
            raise ValueError(f"loss was {name!r}; expected 'quantile' where quantiles are given")
        name = "quantile"
    if name in LIKELIHOODS:
        if not stepwise:
            raise ValueError(
                f"loss={name!r} was given with decoder={forecaster.decoder!r}; expected decoder='recursive'"
            )
        return LIKELIHOODS[name]()
    if name == "quantile":
        if stepwise:
            raise ValueError(
                "loss='quantile' was given with decoder='recursive'; expected a likelihood such as "
                "loss='student_t', or another decoder"
            )
        levels = np.unique(numbers("quantiles", QUANTILES if quantiles is None else quantiles))
        if not levels.size or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"quantiles was {quantiles!r}; expected numbers between 0 and 1")
        return LOSSES[name](level=tuple(np.union1d(levels, 0.5).tolist()))
    return LOSSES[name](forecaster.delta) if name == "huber" else LOSSES[name]()
