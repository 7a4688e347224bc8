"""Tables in CSV and Parquet files as dicts of NumPy columns; CSV needs nothing but NumPy."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Collection, Sequence
from datetime import UTC
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import numpy as np

from .columns import WrongCell, compact_dates, parse_column
from .zones import constant_offset, read_zone

__all__ = [
    "STDIN",
    "Table",
    "frame_library",
    "parquet_library",
    "read_table",
    "write_table",
]

# the standard input, also where no file has this name
STDIN = "/dev/stdin"


class Table(dict[str, np.ndarray]):
    """Columns of a file, and what zones their times had.

    Attributes
    ----------
    zones : dict of str to str
        Of columns with times in UTC that had a zone: its name, an offset such as "+02:00", or "" where rows
        of a CSV file have different offsets.

    Examples
    --------
    >>> from numbarnn.tables import Table
    >>> Table(y=[1, 2]).zones
    {}
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.zones: dict[str, str] = {}


def read_table(
    path: str | os.PathLike,
    times: Collection[str] = (),
    texts: Collection[str] = (),
    numbers: Collection[str] = (),
) -> Table:
    r"""Read a CSV or Parquet file into columns.

    Parameters
    ----------
    path : path
        Ends in ``.parquet``, or is a CSV file in UTF-8 with a header, separated by commas, semicolons, tabs
        or bars. Numbers of the latter three may have a decimal comma. It may be a pipe or `STDIN`.
    times : collection of str, default=()
        Columns that hold times; a column of whole numbers there stays numbers, unless all of them are dates
        such as 20240131 or 202401.
    texts : collection of str, default=()
        Columns that stay as they are: names such as 007, 1e3 or 2024-01.
    numbers : collection of str, default=()
        Columns that must hold numbers. Texts of a Parquet file are read there, and in `times`, as cells of a
        CSV file are.

    Returns
    -------
    Table
        Whole numbers as int64, numbers as float64 with NaN where a cell is empty, times as datetime64[us]
        (UTC where they have a zone or an offset), and other columns as strings. A type is decided for a
        column, never for a cell.

    Raises
    ------
    ImportError
        If Parquet cannot be read with what is installed.
    ValueError
        If the file has no header, no rows, or rows of unequal length, or a column does not hold what it must.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from numbarnn.tables import read_table
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("ds,y\n2024-01-01,1.5\n2024-01-02,\n")
    >>> read_table(path)["y"]
    array([1.5, nan])
    """
    if Path(path).suffix.lower() == ".parquet":
        return _read_parquet(path, times, texts, numbers)
    try:
        text = _read_text(path)
        header = text.partition("\n")[0]
        delimiter = max(",;\t|", key=header.count)  # of equal counts the first
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        numbered = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        what = "save it again as CSV in UTF-8, unpacked, or as .parquet"
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}); {what}") from error
    if len(numbered) < 2:
        found = "only one line" if numbered else "no lines"
        raise ValueError(f"{path} has {found}; expected a header and at least one row")
    names = numbered.pop(0)[1]
    if not {*times, *texts, *numbers} & set(names) and (value := next(filter(_is_value, names), None)):
        raise ValueError(
            f"{path} has no header: its first line holds {value!r}; add one such as ds,y (if it is one, name "
            "its columns with --time and --target)"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of the same name; its header is {', '.join(names)}")
    for line, row in numbered:
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {line} has {_counted(len(row), 'cell')}; expected {len(names)} as in "
                "the header"
            )
    table = Table()
    for name, column in zip(names, zip(*(row for _, row in numbered), strict=True), strict=True):
        if name in texts and name not in numbers:
            table[name] = np.array(column)
            continue
        try:
            table[name], zone = parse_column(column, delimiter, name in times, name in numbers)
        except WrongCell as error:
            line = numbered[error.row][0]
            raise ValueError(f"{path}, line {line}: the column {name!r} {error}") from error
        if zone is not None:
            table.zones[name] = zone
    return table


def _read_text(path: str | os.PathLike) -> str:
    """Read a file or, as one that cannot be sought in, the standard input."""
    here = path == STDIN
    # utf-8-sig: spreadsheets write a byte-order mark
    with open(0 if here else path, encoding="utf-8-sig", newline="", closefd=not here) as file:
        return file.read()


def _is_value(cell: str) -> bool:
    """Whether a cell is a number or a time, and so no name of a column."""
    values, _ = parse_column([cell])
    return values.dtype.kind in "iM" or (values.dtype.kind == "f" and bool(np.isfinite(values[0])))


def _counted(n: int, thing: str) -> str:
    """Spell a number of things."""
    return f"{n} {thing if n == 1 else f'{thing}s'}"


def parquet_library() -> str:
    """Return which installed library reads and writes Parquet.

    Returns
    -------
    {"pyarrow", "polars"}
        pandas reads and writes Parquet by pyarrow, too.

    Raises
    ------
    ImportError
        If there is none.

    Examples
    --------
    >>> from numbarnn.tables import parquet_library
    >>> parquet_library()  # doctest: +SKIP
    'pyarrow'
    """
    # polars does not know the zone +05:30
    return _installed(("pyarrow", "polars"), "Parquet needs pyarrow (or polars)")


def frame_library(what: str) -> str:
    """Return which installed library has frames that know time zones.

    Parameters
    ----------
    what : str
        What it is needed for, for the message.

    Returns
    -------
    {"polars", "pandas"}

    Raises
    ------
    ImportError
        If there is none.

    Examples
    --------
    >>> from numbarnn.tables import frame_library
    >>> frame_library("a zone")  # doctest: +SKIP
    'polars'
    """
    return _installed(("polars", "pandas"), f"{what} needs pandas (or polars)")


def _installed(libraries: Sequence[str], needs: str) -> str:
    """Return the first of some libraries that is installed, with narwhals."""
    if find_spec("narwhals"):
        for library in libraries:
            if find_spec(library):
                return library
    raise ImportError(f"{needs} and narwhals: pip install 'numbarnn[dataframe]'")


def _read_parquet(
    path: str | os.PathLike, times: Collection[str], texts: Collection[str], numbers: Collection[str]
) -> Table:
    """Read with polars or pyarrow."""
    library = parquet_library()
    import narwhals as nw

    open(path, "rb").close()  # what cannot be opened is an OSError that names the file
    try:
        frame = nw.read_parquet(path, backend=library)
    except Exception as error:  # each library has its own class for a file that is none
        raise ValueError(f"{path} is no Parquet file that {library} can read: {error}") from error
    columns = Table()
    for name in frame.columns:
        column = frame[name]
        values = (column.cast(nw.Float64) if column.dtype == nw.Decimal else column).to_numpy()
        if values.dtype.kind == "M":  # in UTC where there was a zone
            values = values.astype("datetime64[us]")
            if zone := getattr(column.dtype, "time_zone", None):
                columns.zones[name] = zone
        elif values.dtype.kind == "O":
            values = np.array(["" if value is None else str(value) for value in values])
            if name in (*times, *numbers) and (name not in texts or name in numbers):
                try:
                    values, zone = parse_column(values, ",", name in times, name in numbers)
                except WrongCell as error:
                    raise ValueError(f"{path}, row {error.row + 1}: the column {name!r} {error}") from error
                if zone is not None:
                    columns.zones[name] = zone
        columns[name] = compact_dates(values) if name in times and values.dtype.kind in "iu" else values
    return columns


def write_table(
    table: dict[str, np.ndarray], path: str | os.PathLike | None, zones: dict[str, str] | None = None
) -> None:
    """Write columns as CSV or Parquet; None writes CSV to the standard output.

    Parameters
    ----------
    table : dict of str to ndarray
    path : path or None
    zones : dict of str to str, default=None
        Zones that columns of times in UTC are to be written in, names or offsets such as "+02:00".

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.tables import write_table
    >>> write_table({"ds": np.array(["2024-01-01"], "datetime64[us]"), "y": np.array([1.5])}, None)
    ds,y
    2024-01-01,1.5
    """
    if path is not None and Path(path).suffix.lower() == ".parquet":
        library = parquet_library()
        import narwhals as nw

        arrays = {name: np.asarray(values) for name, values in table.items()}
        plain = {name: v.tolist() if v.dtype.kind in "OU" else v for name, v in arrays.items()}
        frame = nw.from_dict(plain, backend=library)
        for name, zone in (zones or {}).items():
            frame = frame.with_columns(_in_zone(nw.col(name), zone, library))
        frame.write_parquet(path)
        return
    columns = [_print(np.asarray(values), (zones or {}).get(name)) for name, values in table.items()]
    if path is None:
        _write_rows(sys.stdout, list(table), columns)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            _write_rows(file, list(table), columns)


def _in_zone(column, zone, library):
    """Give the zone to a narwhals column of times in UTC."""
    offset = None if zone[:1] not in ("+", "-") else constant_offset(zone)
    if library == "polars" and offset is not None and offset % np.timedelta64(1, "h"):
        zone = "UTC"  # polars has no such offsets; the times are the same
    return column.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def _write_rows(file: TextIO, names: list[str], columns: list[list[str]]) -> None:
    """Write a header and the rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))


def _print(values: np.ndarray, zone: str | None = None) -> list[str]:
    """Write a column's values: dates without a time where all are midnight, numbers to ten digits."""
    if zone is not None:
        there, times = read_zone(zone), values.astype("M8[us]").tolist()
        return [time.replace(tzinfo=UTC).astimezone(there).isoformat(sep=" ") for time in times]
    if values.dtype.kind == "M":
        days = values.astype("datetime64[D]")
        if (days == values).all():
            return np.datetime_as_string(days).tolist()
        unit = "s" if (values.astype("datetime64[s]") == values).all() else "us"
        return np.char.replace(np.datetime_as_string(values, unit=unit), "T", " ").tolist()
    if values.dtype.kind == "f":
        return ["" if np.isnan(value) else f"{value:.10g}" for value in values]
    return [str(value) for value in values]
