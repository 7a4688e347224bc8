"""The distance of time steps: `Frequency` reckons with the calendar, `infer` finds it from the times.

Times are datetime64[us], in UTC where there is a zone, or int64. Only NumPy is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["Frequency", "check_gaps", "infer", "show_time"]

SECOND = 1_000_000  # microseconds
DAY = 86_400 * SECOND
ROOM, GIVEN_ROOM = 2, 100  # steps for each time that is there; the second one if freq was given
# letters of pandas and polars -> unit and its size; "m" is polars' minute, "M" pandas' month end of old
FIXED = {
    "us": 1, "ms": 1000, "s": SECOND, "S": SECOND, "min": 60 * SECOND, "m": 60 * SECOND, "T": 60 * SECOND,
    "h": 3600 * SECOND, "H": 3600 * SECOND, "D": DAY, "d": DAY, "W": 7 * DAY, "w": 7 * DAY,
}  # fmt: skip
MONTHS = {
    "MS": (1, "start"), "ME": (1, "end"), "M": (1, "end"), "mo": (1, "day"),
    "QS": (3, "start"), "QE": (3, "end"), "Q": (3, "end"), "q": (3, "day"),
    "YS": (12, "start"), "YE": (12, "end"), "Y": (12, "end"), "y": (12, "day"),
    "AS": (12, "start"), "A": (12, "end"),
}  # fmt: skip
SPELLING = re.compile(r"(\d*)([A-Za-z]+)(?:-[A-Za-z]{3})?(?:@(\d+))?")


@dataclass(frozen=True)
class Frequency:
    """A number of units from one step to the next.

    Parameters
    ----------
    step : int
        Number of units.
    unit : {"i", "us", "D", "B", "M"}
        Whole numbers, microseconds, days, business days (Monday to Friday) or months.
    anchor : str, default=""
        Of months: "start" or "end", the number of a day ("31": the end of shorter months), or "day", the day
        of the time that is reckoned from.
    zone : str, default=""
        Times are in UTC, and clocks show them as in this zone. Steps are even in UTC.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.frequency import Frequency
    >>> month = Frequency.parse("ME")
    >>> month.range(np.datetime64("2024-01-31"), 3).astype("M8[D]").astype(str).tolist()
    ['2024-01-31', '2024-02-29', '2024-03-31']
    >>> str(Frequency.parse("15min")), Frequency.parse("15min").season_length
    ('15min', 96)
    """

    step: int
    unit: str
    anchor: str = ""
    zone: str = ""

    @classmethod
    def parse(cls, freq: str | int | Frequency) -> Self:
        """Read pandas' and polars' spellings.

        Parameters
        ----------
        freq : str, int or Frequency
            As "h", "15min", "D", "B", "W-SUN", "MS", "ME", "QE", "YS", "1mo", "1d"; an int for times that are
            whole numbers. What follows a "-" is found from the times themselves.

        Returns
        -------
        Frequency

        Raises
        ------
        ValueError
            If it is none of these.
        """
        if isinstance(freq, Frequency):
            return freq
        if isinstance(freq, int | np.integer) and not isinstance(freq, bool) and freq > 0:
            return cls(int(freq), "i")
        match = SPELLING.fullmatch(freq.strip()) if isinstance(freq, str) else None
        n = int(match[1] or 1) if match else 0
        if n > 0 and (match[2] in MONTHS):
            months, anchor = MONTHS[match[2]]
            return cls(n * months, "M", match[3] or anchor)
        if n > 0 and match[2] in FIXED:
            step = n * FIXED[match[2]]
            return cls(step // DAY, "D") if step % DAY == 0 else cls(step, "us")
        if n > 0 and match[2] in ("B", "i"):
            return cls(n, match[2])
        raise ValueError(
            f"freq was {freq!r}; expected one like 'h', '15min', 'D', 'B', 'W', 'MS', 'ME', 'QE', 'YS', "
            f"or a whole number from 1"
        )

    def shift(self, times: Any, steps: Any) -> np.ndarray:
        """Return the times that lie `steps` steps on.

        Parameters
        ----------
        times : ndarray of datetime64 or int64
        steps : int or ndarray of int, broadcast with `times`

        Returns
        -------
        ndarray of datetime64[us] or int64
        """
        steps = np.asarray(steps, np.int64) * self.step
        if self.unit == "i":
            return np.asarray(times, np.int64) + steps
        times = np.asarray(times).astype("M8[us]")
        if self.unit in ("us", "D"):
            return times + (steps * (DAY if self.unit == "D" else 1)).astype("m8[us]")
        days = times.astype("M8[D]")
        if self.unit == "B":
            return np.busday_offset(days, steps, roll="forward").astype("M8[us]") + (times - days)
        months = times.astype("M8[M]") + steps.astype("m8[M]")
        last = (months + 1).astype("M8[D]") - months.astype("M8[D]") - 1
        if self.anchor in ("start", "end"):
            day = last * (self.anchor == "end")
        else:
            day = days - times.astype("M8[M]").astype("M8[D]")
            day = np.minimum(day if self.anchor == "day" else np.timedelta64(int(self.anchor) - 1, "D"), last)
        return (months.astype("M8[D]") + day).astype("M8[us]") + (times - days)

    def range(self, start: Any, n: int, first: int = 0) -> np.ndarray:
        """Return the times of steps `first` to ``first + n`` from `start` on."""
        return self.shift(start, np.arange(first, first + n))

    def count(self, start: Any, times: Any) -> np.ndarray:
        """Count whole steps from `start`.

        Parameters
        ----------
        start, times : ndarray of datetime64 or int64, broadcast

        Returns
        -------
        ndarray of int64
            -1 where a time is before `start` or between two steps, or `start` is no step itself.
        """
        if self.unit == "i":
            units = np.asarray(times, np.int64) - np.asarray(start, np.int64)
        else:
            start, times = np.asarray(start).astype("M8[us]"), np.asarray(times).astype("M8[us]")
            units = _units(start, times, self.unit)
        steps = units // self.step
        even = (self.shift(start, steps) == times) & (self.shift(start, 0) == start)
        return np.where((steps >= 0) & even, steps, -1)

    def __str__(self) -> str:
        """Spell it as pandas does, or polars where pandas has no word for it; `parse` reads both."""
        if self.unit == "i":
            return str(self.step)
        n, name = self.step, self.unit
        if self.unit == "us":
            name = next(k for k in ("h", "min", "s", "ms", "us") if self.step % FIXED[k] == 0)
            n = self.step // FIXED[name]
        if self.unit == "M":
            name = {"start": "MS", "end": "ME"}.get(self.anchor)
            if name is None:
                return f"{n}mo" + (f"@{self.anchor}" if self.anchor.isdigit() else "")
        return name if n == 1 else f"{n}{name}"

    @property
    def season_length(self) -> int:
        """Steps of the usual season: a day of hours or minutes, a week of days, a year of weeks or months.

        1 where no whole number of steps makes a season.
        """
        if self.unit == "us":
            season = DAY if self.step >= 60 * SECOND else 60 * SECOND
            return season // self.step if season % self.step == 0 else 1
        if self.unit == "M":
            return 12 // self.step if 12 % self.step == 0 else 1
        return {("D", 1): 7, ("D", 7): 52, ("B", 1): 5}.get((self.unit, self.step), 1)


def infer(times: np.ndarray, name: str, first: np.ndarray | None = None) -> Frequency:
    """Find the frequency of times that ascend.

    Steps that are missing here and there are allowed: the most common distance counts, if the others are
    whole multiples of it, and what is missing does not outweigh what is there.

    Parameters
    ----------
    times : ndarray of datetime64[us] or int64 of shape (n,)
    name : str
        What messages call them.
    first : ndarray of bool of shape (n,), default=None
        Where the times of another series begin; those share one frequency.

    Returns
    -------
    Frequency

    Raises
    ------
    ValueError
        If there are fewer than two times, or they are uneven; the message says where.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.frequency import infer
    >>> str(infer(np.arange("2024-01", "2024-07", dtype="M8[M]").astype("M8[us]"), "ds"))
    'MS'
    """
    same = np.ones(max(len(times) - 1, 0), bool) if first is None else ~first[1:]
    early, late = times[:-1][same], times[1:][same]
    if not len(early):
        raise ValueError(f"{name} has no two times of one series; expected freq to be given")
    room = ROOM * len(times)
    if times.dtype.kind == "i":
        step = int(np.gcd.reduce(late - early))
        if (late - early).sum() // step <= room:
            return Frequency(step, "i")
        raise ValueError(_uneven(name, early, late, Frequency(step, "i")))
    for unit, anchor in _candidates(times, early, late):
        units = _units(early, late, unit)
        sizes, counts = np.unique(units, return_counts=True)
        step = int(sizes[counts.argmax()])
        fits = step > 0 and not (units % step).any() and units.sum() // step <= room
        found = Frequency(step, unit, anchor)
        if fits:
            return Frequency(step // DAY, "D") if unit == "us" and step % DAY == 0 else found
    raise ValueError(_uneven(name, early, late, found))


def check_gaps(
    name: str, frequency: Frequency, n_steps: int, n_times: int, n_known: int = 0, given: bool = False
) -> None:
    """Raise a ValueError for more gaps than times: a single wrong one would make an array of any size.

    Parameters
    ----------
    name : str
        What messages call the times.
    frequency : Frequency
    n_steps, n_times : int
        Steps from the first time to the last, and how many of them are there.
    n_known : int, default=0
        Steps of a history that these times go on from.
    given : bool, default=False
        The user gave the frequency, which may be that of sparse data.

    Examples
    --------
    >>> from numbarnn.forecasting.frequency import Frequency, check_gaps
    >>> check_gaps("ds", Frequency.parse("D"), 10, 7)
    """
    if n_steps > (GIVEN_ROOM if given else ROOM) * (n_times + n_known):
        raise ValueError(
            f"{name} has more gaps than times: of {n_steps} steps of the frequency {frequency}, only "
            f"{n_times} are there; expected fewer gaps, or another freq"
        )


def show_time(time: Any) -> str:
    """Spell a time without what is zero: '2020-01-05', '2020-01-05T06:00', '7'."""
    if not isinstance(time, np.datetime64):
        return str(time)
    text = str(time.astype("datetime64[us]"))
    for ending in (".000000", ":00", "T00:00"):
        text = text.removesuffix(ending)
    return text


def _units(early, late, unit):
    """Units from one time to another; a part of one does not count."""
    if unit == "M":
        return (late.astype("M8[M]") - early.astype("M8[M]")).astype(np.int64)
    if unit == "B":
        return np.busday_count(early.astype("M8[D]"), late.astype("M8[D]")).astype(np.int64)
    units = (late - early).astype("m8[us]").astype(np.int64)
    return units // DAY if unit == "D" else units


def _candidates(times, early, late):
    """Yield units and anchors that the times could have, the more special ones first."""
    days = times.astype("M8[D]")
    if len(np.unique(times - days)) == 1:
        distance = (late - early).astype("m8[D]").astype(np.int64)
        if distance.min() >= 28:
            months = times.astype("M8[M]")
            day = (days - months.astype("M8[D]")).astype(np.int64) + 1
            last = ((months + 1).astype("M8[D]") - months.astype("M8[D]")).astype(np.int64)
            if (day == 1).all():
                yield "M", "start"
            elif (day == last).all():
                yield "M", "end"
            elif (day == np.minimum(day.max(), last)).all() and (len(distance) > 1 or distance[0] % 7):
                yield "M", "day" if day.max() <= 28 else str(day.max())
        # weekends are always missing, and at least one lies between the times
        if np.is_busday(days).all() and distance.min() == 1 and distance.max() > 1:
            across = np.busday_count(early.astype("M8[D]"), late.astype("M8[D]"))
            if (across < distance).any():
                yield "B", ""
    yield "us", ""


def _uneven(name, early, late, found):
    """Say where times are not as far apart as most are."""
    units = _units(early, late, found.unit) if found.unit != "i" else late - early
    odd = np.flatnonzero(units % found.step)
    if not len(odd):
        return (
            f"{name} has more gaps than times: most steps are {found}, but only {len(early) + 1} of "
            f"{int(units.sum() // found.step) + 1} times are there; expected freq to be given, or fewer gaps"
        )
    a, b = show_time(early[odd[0]]), show_time(late[odd[0]])
    return (
        f"{name} is uneven: most steps are {found}, but {b} follows {a}, in {len(odd)} of {len(units)} "
        f"places; expected even steps, or freq to be given"
    )
