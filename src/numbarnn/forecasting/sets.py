"""Series of different lengths, with their times and covariates, in flat arrays (`SeriesSet`).

Shapes: S steps of all series together, C channels of each, n_i steps of series i, P, F and Sc past,
known-future and static covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from .frequency import Frequency, show_time

__all__ = [
    "NAME",
    "Columns",
    "Covariates",
    "Form",
    "SeriesSet",
    "listed",
    "offsets_of",
    "ranges",
    "show_time",
]

NAME = "RNNForecaster"  # the column of forecasts, and how those of bounds and quantiles begin


class Covariates(NamedTuple):
    """Names of the covariates: of columns of a frame, or numbers of columns of an array."""

    past: tuple = ()
    future: tuple = ()
    static: tuple = ()


class Columns(NamedTuple):
    """What the columns of data are.

    Attributes
    ----------
    id, time, target : str
        Columns of a long frame. After reading, None where there was no such column.
    past, future, static : tuple of str or int
        Covariates: names of columns of a frame, or numbers of columns of an array.
    freq : str, int, Frequency or None
        Distance of two steps; None finds it.
    """

    id: str | None = "unique_id"
    time: str | None = "ds"
    target: str = "y"
    past: tuple = ()
    future: tuple = ()
    static: tuple = ()
    freq: Any = None


class Form(NamedTuple):
    """The form that data came in, in which the answer is given.

    Attributes
    ----------
    kind : {"vector", "matrix", "list", "windows", "wide", "long"}
    n_dims : int
        Dimensions of an array, or of the arrays in a list.
    columns : Columns
        As they were found: covariates and frequency are filled in.
    backend : frames.Backend or None
        Library of a frame, and what its times were.
    categories : tuple of (name, tuple of str)
        Values of the static covariates that are strings, in the order of their indicators.
    """

    kind: str
    n_dims: int = 2
    columns: Columns = Columns()
    backend: Any = None
    categories: tuple = ()

    @property
    def is_frame(self) -> bool:
        """Whether data came with named columns."""
        return self.kind in ("wide", "long")


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """Series of different lengths in flat arrays.

    Attributes
    ----------
    values : ndarray of float64 of shape (C * S,)
        Series i, channel c: the n_i values from ``C * offsets[i] + c * n_i`` on. NaN is a missing value.
    offsets : ndarray of int64 of shape (n_series + 1,)
        Where the steps of each series begin.
    n_channels : int
        Above 1 only where channels share their times.
    ids : tuple
        Names of the series, in the order in which they first came.
    channels : tuple
        Names of the channels.
    starts : ndarray of datetime64[us] or int64 of shape (n_series,) or None
        Time of the first step of each series.
    frequency : Frequency or None
    past, future : ndarray of float64 of shape (S, P) or (S, F), or None
    static : ndarray of float64 of shape (n_series, Sc) or None
    names : Covariates

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.series import read
    >>> data, _ = read([np.arange(3.0), np.arange(5.0)])
    >>> data.lengths.tolist(), data.row(1).tolist()
    ([3, 5], [0.0, 1.0, 2.0, 3.0, 4.0])
    >>> data.tail(2).values.tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    values: np.ndarray
    offsets: np.ndarray
    n_channels: int = 1
    ids: tuple = (0,)
    channels: tuple = (0,)
    starts: np.ndarray | None = None
    frequency: Frequency | None = None
    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None
    names: Covariates = Covariates()

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each series, int64 of shape (n_series,)."""
        return np.diff(self.offsets)

    @property
    def n_rows(self) -> int:
        """Number of series times number of channels."""
        return self.n_series * self.n_channels

    @property
    def row_starts(self) -> np.ndarray:
        """Where each row begins in `values`, int64 of shape (n_rows,)."""
        first = self.n_channels * self.offsets[:-1, np.newaxis]
        return (first + self.lengths[:, np.newaxis] * np.arange(self.n_channels)).ravel()

    @cached_property
    def has_missing(self) -> bool:
        """Whether there is a NaN among the values."""
        return bool(len(self.values) and np.isnan(self.values.min()))  # min: no array of flags

    def row(self, r: int) -> np.ndarray:
        """Values of row `r`, channel ``r % C`` of series ``r // C``: a view of shape (n_i,)."""
        i, c = divmod(int(r), self.n_channels)
        length = int(self.offsets[i + 1] - self.offsets[i])
        first = int(self.n_channels * self.offsets[i] + c * length)
        return self.values[first : first + length]

    def times(self, i: int, first: int = 0, n: int | None = None) -> np.ndarray | None:
        """Return times of steps of series `i`.

        Parameters
        ----------
        i : int
        first : int, default=0
            The first step; it may lie behind the last one of the series.
        n : int, default=None
            Number of steps; None: to the end of the series.

        Returns
        -------
        ndarray of shape (n,) or None
            None if the data have no times.
        """
        if self.starts is None:
            return None
        n = max(int(self.lengths[i]) - first, 0) if n is None else n
        return self.frequency.range(self.starts[i], n, first)

    def step_times(self) -> np.ndarray | None:
        """Return the times of all steps, of shape (S,), or None."""
        if self.starts is None:
            return None
        step = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths)
        return self.frequency.shift(np.repeat(self.starts, self.lengths), step)

    def cut(self, ends: np.ndarray) -> Self:
        """Return the first ``ends[i]`` steps of each series (one long row: a view)."""
        ends = np.broadcast_to(np.asarray(ends, np.int64), self.lengths.shape)
        return self.pick(np.arange(self.n_series), np.zeros_like(ends), np.clip(ends, 0, self.lengths))

    def tail(self, n: int | np.ndarray) -> Self:
        """Return the last `n` steps of each series, or all there are (one long row: a view)."""
        return self.pick(np.arange(self.n_series), np.maximum(self.lengths - n, 0), self.lengths)

    def take(self, series: Sequence[int] | np.ndarray) -> Self:
        """Return some of the series, by number, in the order given."""
        series = np.asarray(series, np.int64)
        return self.pick(series, np.zeros_like(series), self.lengths[series])

    def pick(self, series: np.ndarray, first: np.ndarray, last: np.ndarray) -> Self:
        """Return steps ``first[j]`` to ``last[j]`` of each ``series[j]``, by number."""
        kept = last - first
        C = self.n_channels
        rows = (series[:, np.newaxis] * C + np.arange(C)).ravel()
        where = ranges(self.row_starts[rows] + np.repeat(first, C), np.repeat(kept, C))
        steps = ranges(self.offsets[series] + first, kept)
        starts = None if self.starts is None else self.frequency.shift(self.starts[series], first)
        timed = {
            name: None if (a := getattr(self, name)) is None else a[steps] for name in ("past", "future")
        }
        return replace(
            self,
            values=self.values[where],
            offsets=offsets_of(kept),
            starts=starts,
            **timed,
            ids=tuple(self.ids[i] for i in series),
            static=None if self.static is None else self.static[series],
        )

    def append(self, new: SeriesSet, names: str = "update") -> Self:
        """Return the series with what follows them.

        Parameters
        ----------
        new : SeriesSet
            The next steps of some of the series, in any order.
        names : str, default="update"
            What messages call them.

        Returns
        -------
        SeriesSet
            With the ids, in their order, and the static covariates of this one.

        Raises
        ------
        ValueError
            If there is an id, a number of channels or a covariate that is not here, or the first time is not
            the next one of its series.
        """
        self._check_next(new, names)
        place = {key: i for i, key in enumerate(self.ids)}
        position = np.array([place[key] for key in new.ids], np.int64)
        order = np.argsort(position, kind="stable")
        new, position = new.take(order), position[order]
        more = np.zeros(self.n_series, np.int64)
        more[position] = new.lengths
        joined = replace(self, offsets=offsets_of(self.lengths + more))  # where everything comes to lie
        C = self.n_channels
        rows = (position[:, np.newaxis] * C + np.arange(C)).ravel()
        lengths = np.repeat(self.lengths, C)

        def join(old, added, starts, n_old, n_new, chosen):
            out = np.empty((len(old) + len(added), *old.shape[1:]))
            out[ranges(starts, n_old)] = old
            out[ranges(starts[chosen] + n_old[chosen], n_new)] = added
            return out

        timed = {}
        for name in ("past", "future"):
            old, added = getattr(self, name), getattr(new, name)
            if old is not None:
                timed[name] = join(old, added, joined.offsets[:-1], self.lengths, new.lengths, position)
        values = join(self.values, new.values, joined.row_starts, lengths, np.repeat(new.lengths, C), rows)
        return replace(joined, values=values, **timed)

    def check_channels(self, new: SeriesSet, names: str) -> None:
        """Raise a ValueError unless `new`, which messages call `names`, has these channels."""
        if new.n_channels != self.n_channels:
            raise ValueError(f"{names} has {new.n_channels} channels; expected {self.n_channels}, as in fit")
        if self.channels != new.channels:
            raise ValueError(
                f"{names} has the channels {listed(new.channels)}; expected "
                f"{listed(self.channels)} in this order, as in fit"
            )

    def _check_next(self, new, names):
        self.check_channels(new, names)
        known = set(self.ids)
        for key in new.ids:
            if key not in known:
                raise ValueError(
                    f"{names} has the id {key!r}, which was not in fit; known are {listed(self.ids)}"
                )
        for kind in ("past", "future"):
            ours, theirs = getattr(self, kind), getattr(new, kind)
            if ours is not None and (theirs is None or theirs.shape[1] != ours.shape[1]):
                raise ValueError(
                    f"{names} has {0 if theirs is None else theirs.shape[1]} {kind} covariates; "
                    f"expected {ours.shape[1]}: {listed(getattr(self.names, kind))}"
                )
        if (self.starts is None) != (new.starts is None):
            raise ValueError(
                f"{names} has {'no ' if new.starts is None else ''}times; expected them "
                f"{'' if new.starts is None else 'not '}to be there, as in fit"
            )
        if self.starts is None:
            return
        place = {key: i for i, key in enumerate(self.ids)}
        old = np.array([place[key] for key in new.ids], np.int64)
        following = self.frequency.shift(self.starts[old], self.lengths[old])
        wrong = np.flatnonzero(following != new.starts)
        if len(wrong):
            i = wrong[0]
            what = "a gap after" if new.starts[i] > following[i] else "an overlap with"
            raise ValueError(
                f"{names} begins at {show_time(new.starts[i])} for the id {new.ids[i]!r}; expected "
                f"{show_time(following[i])}, the next step: there would be {what} the history"
            )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> slice | np.ndarray:
    """Index elements ``starts[j]`` to ``starts[j] + lengths[j]`` for all j; a slice if there is one range."""
    if len(starts) == 1:
        return slice(int(starts[0]), int(starts[0] + lengths[0]))
    index = np.arange(lengths.sum(dtype=np.int64))
    index += np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return index


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where pieces of these lengths begin and the last one ends, int64 of shape (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def listed(names, most=5):
    """Spell the first of some names."""
    text = ", ".join(repr(name) for name in names[:most])
    return text + (f" ... ({len(names)} in all)" if len(names) > most else "")
