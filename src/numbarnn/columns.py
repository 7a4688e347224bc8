"""Columns of a text file: cells to whole numbers, numbers, times or strings. Only NumPy is used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

__all__ = ["WrongCell", "compact_dates", "parse_column"]

# what a cell may say where a value is missing
_MISSING = ("", "-", "na", "n/a", "#n/a", "nan", "null", "none")
# 20,5; 1,234 may be a thousand and more
_COMMA = re.compile(r"[+-]?\d*,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
# +01:00, +01 or Z at the end of a time
_OFFSET = re.compile(r"[T ]\d\d.*([+-]\d\d(:?\d\d)?|[zZ])$")


class WrongCell(ValueError):
    """What is wrong with the cell in a row.

    Parameters
    ----------
    row : int
        Counted from 0.
    message : str
        Goes on from the name of the column.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def parse_column(
    cells: Sequence[str], delimiter: str = ",", is_time: bool = False, is_number: bool = False
) -> tuple[np.ndarray, str | None]:
    """Turn the cells of a column into whole numbers, numbers or times, or leave them as strings.

    Parameters
    ----------
    cells : sequence of str
    delimiter : str, default=","
        What separates columns: with another than a comma, numbers may have a decimal comma.
    is_time, is_number : bool, default=False
        It must hold times, or numbers.

    Returns
    -------
    values : ndarray of int64, float64, datetime64[us] or str
        A cell that is missing is NaN among numbers.
    zone : str or None
        Of times that had an offset from UTC, and are in UTC: the offset such as "+02:00", or "" if they had
        several.

    Raises
    ------
    WrongCell
        If the column does not hold what it must.

    Examples
    --------
    >>> from numbarnn.columns import parse_column
    >>> parse_column(["1", "NA"])
    (array([ 1., nan]), None)
    """
    values, zone = _parse(np.array(cells), delimiter, is_time)
    is_wrong = values.dtype.kind not in "iuf"
    if is_number and (is_wrong or np.isinf(values).any()):
        row = _first_text(cells, delimiter) if is_wrong else int(np.isinf(values).argmax())
        raise WrongCell(row, _no_number(cells[row], delimiter))
    return values, zone


def compact_dates(whole: np.ndarray) -> np.ndarray:
    """Read whole numbers such as 20240131 or 202401 as dates, if all of them are dates; else leave them.

    Parameters
    ----------
    whole : ndarray of int of shape (n,)

    Returns
    -------
    ndarray of datetime64[us] or int of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.columns import compact_dates
    >>> compact_dates(np.array([202411, 202412])).astype("M8[M]")
    array(['2024-11', '2024-12'], dtype='datetime64[M]')
    >>> compact_dates(np.array([202412, 202413]))
    array([202412, 202413])
    """
    for n_digits in (8, 6):
        if len(whole) and 10 ** (n_digits - 1) <= whole.min() and whole.max() < 10**n_digits:
            texts = map(str, whole.tolist())
            dates = [f"{text[:4]}-{text[4:6]}-{text[6:] or '01'}" for text in texts]
            try:
                return np.array(dates, "datetime64[us]")
            except ValueError:
                break
    return whole


def _parse(texts: np.ndarray, delimiter: str, is_time: bool) -> tuple[np.ndarray, str | None]:
    """Find out what a column holds; also return the zone of times."""
    cells = np.char.strip(texts)
    missing = np.isin(np.char.lower(cells), _MISSING)
    if not missing.any():
        try:
            whole = cells.astype(np.int64)
            # 007 is a name, and int() would take 1_000
            if (whole.astype(cells.dtype) == cells).all():
                return (compact_dates(whole) if is_time else whole), None
        except (ValueError, OverflowError):
            pass
    if not missing.all() and (numbers := _floats(cells, delimiter)) is not None:
        return numbers, None
    if is_time and missing.any():
        raise WrongCell(int(missing.argmax()), "is empty; expected a time in each row")
    if is_time or (not missing.any() and cells[0][:4].isdecimal() and "-" in cells[0]):
        try:
            return _parse_times(cells)
        except ValueError:
            if is_time:
                raise _wrong_time(cells) from None
    return (np.full(len(cells), np.nan) if missing.all() else cells), None


def _floats(cells: np.ndarray, delimiter: str) -> np.ndarray | None:
    """Read numbers, with NaN where they are missing; None if a cell is none."""
    cells = np.where(np.isin(np.char.lower(cells), _MISSING), "nan", cells)
    try:
        return cells.astype(np.float64)
    except ValueError:
        pass
    if delimiter == ",":
        return None
    commas = [cell for cell in cells if _COMMA.fullmatch(cell)]
    # with semicolons the comma is the decimal one; with tabs and bars 1,234 alone does not tell
    if any("." in cell for cell in cells) or (delimiter != ";" and all(map(_THOUSANDS.fullmatch, commas))):
        return None
    try:
        return np.array([cell.replace(",", ".") for cell in cells]).astype(np.float64)
    except ValueError:
        return None


def _first_text(cells: Sequence[str], delimiter: str) -> int:
    """Find the cell for which a column is none of numbers."""
    odd = [i for i, cell in enumerate(cells) if _floats(np.array([cell.strip()]), ",") is None]
    commas = delimiter != ","
    return next((i for i in odd if not (commas and _COMMA.fullmatch(cells[i].strip()))), odd[0])


def _no_number(cell: str, delimiter: str) -> str:
    """Say that a cell is no number, and what to do."""
    hint = "an empty cell where it is missing"
    if "," in cell:
        hint += ", a decimal point" if delimiter == "," else ", no separators of thousands"
    return f"holds {cell.strip()[:40]!r}; expected numbers ({hint})"


def _wrong_time(cells: np.ndarray) -> WrongCell:
    """Find the first time that cannot be read."""
    for row, cell in enumerate(cells):
        try:
            _parse_times(cells[row : row + 1])
        except ValueError:
            expected = "times such as 2024-01-31 or 2024-01-31 18:00"
            return WrongCell(row, f"holds {str(cell)[:40]!r}; expected {expected}")
    here = [bool(_OFFSET.search(cell)) for cell in cells]
    what = ("an offset", "none") if here[0] else ("no offset", "one")
    message = f"begins with {what[0]} from UTC and has {what[1]} here; expected all times to be alike"
    return WrongCell(here.index(not here[0]), message)


def _parse_times(cells: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Read ISO 8601 times, with a blank or a T; those with an offset become UTC, and have a zone."""
    if not any(_OFFSET.search(cell) for cell in cells):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns, and leaves out what it takes for a zone
            try:
                return cells.astype("datetime64[us]"), None
            except (UserWarning, DeprecationWarning) as warning:
                raise ValueError(str(warning)) from warning
    times = [datetime.fromisoformat(str(cell)) for cell in cells]  # NumPy has no offsets
    if any(time.tzinfo is None for time in times):
        raise ValueError("some times have an offset from UTC and others have none")
    offsets = {time.utcoffset() for time in times}
    zone = _spell_offset(offsets.pop()) if len(offsets) == 1 else ""
    return np.array([time.astimezone(UTC).replace(tzinfo=None) for time in times], "datetime64[us]"), zone


def _spell_offset(offset: timedelta) -> str:
    """Spell an offset from UTC: "+05:30"."""
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
