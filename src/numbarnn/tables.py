"""Tables in CSV and Parquet files as dicts of NumPy columns; CSV needs nothing but NumPy."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import numpy as np

__all__ = ["parquet_library", "read_table", "write_table"]

# what a cell may say where a value is missing
_MISSING = ("", "na", "nan", "null", "none")
# +01:00 or Z at the end of a time
_OFFSET = re.compile(r":\d\d.*([+-]\d\d:?\d\d|[zZ])$")


def read_table(
    path: str | os.PathLike, times: Sequence[str] = (), texts: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    r"""Read a CSV or Parquet file into columns.

    Parameters
    ----------
    path : path
        Ends in ``.parquet``, or is a CSV file in UTF-8 with a header.
    times : sequence of str, default=()
        Columns that hold times; a column of whole numbers there stays numbers.
    texts : sequence of str, default=()
        Columns of a CSV file that stay as they are: names such as 007, 1e3 or 2024-01.

    Returns
    -------
    dict of str to ndarray
        Whole numbers as int64, numbers as float64 with NaN where a cell is empty, times as datetime64[us]
        (UTC where they have an offset), and other columns as strings. A type is decided for a column, never
        for a cell.

    Raises
    ------
    ImportError
        If Parquet cannot be read with what is installed.
    ValueError
        If the file has no header, no rows, or rows of unequal length.

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
        return _read_parquet(path)
    try:
        # utf-8-sig: spreadsheets write a byte-order mark
        with open(path, encoding="utf-8-sig", newline="") as file:
            start = file.read(4096)
            file.seek(0)
            header = start.partition("\n")[0]
            delimiter = ";" if header.count(";") > header.count(",") else ","
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    if len(rows) < 2:
        raise ValueError(f"{path} has {len(rows)} lines; expected a header and at least one row")
    names, *rows = rows
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of the same name; its header is {', '.join(names)}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ValueError(
                f"{path}, row {number} has {len(row)} cells; expected {len(names)} as in the header"
            )
    return {
        name: np.array(cells) if name in texts else _parse(name, np.array(cells), name in times)
        for name, cells in zip(names, zip(*rows, strict=True), strict=True)
    }


def _parse(name: str, cells: np.ndarray, is_time: bool) -> np.ndarray:
    """Turn the cells of a column into whole numbers, numbers, times, or leave them as strings."""
    cells = np.char.strip(cells)
    missing = np.isin(np.char.lower(cells), _MISSING)
    if not missing.any():
        try:
            whole = cells.astype(np.int64)
            # 007 is a name, and int() would take 1_000
            if (whole.astype(cells.dtype) == cells).all():
                return whole
        except (ValueError, OverflowError):
            pass
    if not missing.all():
        try:
            return np.where(missing, "nan", cells).astype(np.float64)
        except ValueError:
            pass
    if is_time and missing.any():
        raise ValueError(f"column {name!r} has {missing.sum()} empty cells; expected a time in each row")
    if is_time or (not missing.any() and cells[0][:4].isdecimal() and "-" in cells[0]):
        try:
            return _parse_times(cells)
        except ValueError as error:
            if is_time:
                raise ValueError(
                    f"column {name!r}: {error}; expected times such as 2024-01-31 or 2024-01-31 18:00"
                ) from error
    return np.full(len(cells), np.nan) if missing.all() else cells


def _parse_times(cells: np.ndarray) -> np.ndarray:
    """Read ISO 8601 times, with a blank or a T; those with an offset become UTC."""
    if not any(_OFFSET.search(cell) for cell in cells):
        return cells.astype("datetime64[us]")
    times = [datetime.fromisoformat(str(cell)) for cell in cells]  # NumPy has no offsets
    if any(time.tzinfo is None for time in times):
        raise ValueError("some times have an offset from UTC and others have none")
    return np.array([time.astimezone(UTC).replace(tzinfo=None) for time in times], dtype="datetime64[us]")


def parquet_library() -> str:
    """Return which installed library reads and writes Parquet.

    Returns
    -------
    {"polars", "pyarrow"}
        pandas reads and writes Parquet by pyarrow, too.

    Raises
    ------
    ImportError
        If there is none.

    Examples
    --------
    >>> from numbarnn.tables import parquet_library
    >>> parquet_library()  # doctest: +SKIP
    'polars'
    """
    if find_spec("narwhals"):
        for library in ("polars", "pyarrow"):
            if find_spec(library):
                return library
    raise ImportError("Parquet needs pyarrow (or polars) and narwhals: pip install 'numbarnn[dataframe]'")


def _read_parquet(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read with polars or pyarrow."""
    library = parquet_library()
    import narwhals as nw

    open(path, "rb").close()  # what cannot be opened is an OSError that names the file
    try:
        frame = nw.read_parquet(path, backend=library)
    except Exception as error:  # each library has its own class for a file that is none
        raise ValueError(f"{path} is no Parquet file that {library} can read: {error}") from error
    columns = {}
    for name in frame.columns:
        column = frame[name]
        values = (column.cast(nw.Float64) if column.dtype == nw.Decimal else column).to_numpy()
        if values.dtype.kind == "M":  # in UTC where there was a zone
            values = values.astype("datetime64[us]")
        elif values.dtype.kind == "O":
            values = np.array(["" if value is None else str(value) for value in values])
        columns[name] = values
    return columns


def write_table(table: dict[str, np.ndarray], path: str | os.PathLike | None) -> None:
    """Write columns as CSV or Parquet; None writes CSV to the standard output.

    Parameters
    ----------
    table : dict of str to ndarray
    path : path or None

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
        nw.from_dict(plain, backend=library).write_parquet(path)
        return
    columns = [_print(np.asarray(values)) for values in table.values()]
    if path is None:
        _write_rows(sys.stdout, list(table), columns)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            _write_rows(file, list(table), columns)


def _write_rows(file: TextIO, names: list[str], columns: list[list[str]]) -> None:
    """Write a header and the rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))


def _print(values: np.ndarray) -> list[str]:
    """Write a column's values: dates without a time where all are midnight, numbers to ten digits."""
    if values.dtype.kind == "M":
        days = values.astype("datetime64[D]")
        if (days == values).all():
            return np.datetime_as_string(days).tolist()
        unit = "s" if (values.astype("datetime64[s]") == values).all() else "us"
        return np.char.replace(np.datetime_as_string(values, unit=unit), "T", " ").tolist()
    if values.dtype.kind == "f":
        return ["" if np.isnan(value) else f"{value:.10g}" for value in values]
    return [str(value) for value in values]
