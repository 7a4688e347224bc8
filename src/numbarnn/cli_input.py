"""What the commands read: tables, and which of their columns are meant."""

from __future__ import annotations

import argparse

import numpy as np

from .tables import Table, frame_library, read_table
from .zones import constant_offset

__all__ = ["read_future", "read_series"]


def read_series(arguments: argparse.Namespace) -> tuple[Table, dict[str, str | None], str | None]:
    """Read a table and find its columns: those that were named, or those that can be meant.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the command line.

    Returns
    -------
    data : Table
        The columns that are needed.
    names : dict of str to str or None
        Columns of "time", "target" and "id".
    zone : str or None
        Of the times, which are in UTC then.

    Raises
    ------
    ValueError
        If a column is not there, cannot be told from others, or does not hold what it must.

    Examples
    --------
    >>> from numbarnn.cli_input import read_series
    >>> data, names, zone = read_series(arguments)  # doctest: +SKIP
    """
    time, target, series = arguments.time, arguments.target, arguments.id
    covariates = [*arguments.past_covariates, *arguments.future_covariates]
    named = [name for name in (time, target, series, *covariates) if name is not None]
    usual = {name for name in ("ds", "y", "unique_id") if name not in named}
    data = read_table(
        arguments.file,
        # --freq 1 says that they are whole numbers, even such as look like dates
        times=[] if isinstance(arguments.freq, int) else [time] if time else usual & {"ds"},
        texts=[series] if series else usual & {"unique_id"},
        numbers=[*([target] if target else usual & {"y"}), *covariates],
    )
    _check_columns(data, named, arguments.file)
    if len(data) < 2:
        raise ValueError(
            f"{arguments.file} has one column, {', '.join(data)}; expected two at least: times and numbers"
        )
    usual &= data.keys()
    if series is None and "unique_id" in usual:
        series = "unique_id"
    if time is None:
        times = [name for name, values in data.items() if values.dtype.kind == "M"]
        time = "ds" if "ds" in usual else _the_one(times, list(data), "of times", "--time")
    if target is None:
        others = [name for name in data if name not in {time, series, *covariates}]
        numbers = [name for name in others if data[name].dtype.kind in "iuf"]
        target = "y" if "y" in usual else _the_one(numbers, others, "of numbers to forecast", "--target")
    for option, name, kinds, expected in (
        ("--time", time, "Miu", "times such as 2024-01-31 or 2024-01-31 18:00, or whole numbers"),
        ("--target", target, "iuf", "numbers"),
    ):
        if data[name].dtype.kind not in kinds:
            example = next(
                (str(value) for value in data[name] if not _says_number(str(value))), data[name][0]
            )
            raise ValueError(f"{option} {name} holds {str(example)[:40]!r}; expected {expected}")
    if arguments.calendar and data[time].dtype.kind != "M":
        raise ValueError(
            f"--calendar needs dates, and --time {time} of {arguments.file} holds whole numbers; leave it out"
        )
    if series is None:
        _check_one_series(data, time, arguments.file)
    elif data[series].dtype.kind == "U" and (blank := np.char.strip(data[series]) == "").any():
        raise ValueError(
            f"--id {series} of {arguments.file} has no value in {blank.sum()} of {len(blank)} rows, the "
            f"first in row {blank.argmax() + 1}; expected one in every row"
        )
    kept = [name for name in data if name in {time, target, series, *covariates}]
    names = {"time": time, "target": target, "id": series}
    return Table({name: data[name] for name in kept}), names, _zone_of(data, time, arguments, arguments.file)


def read_future(
    arguments: argparse.Namespace, data: Table, names: dict[str, str | None], zone: str | None
) -> Table:
    """Read what is known of the steps to come.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the command line.
    data, names, zone
        See `read_series`.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If it does not suit the data.

    Examples
    --------
    >>> from numbarnn.cli_input import read_future
    >>> future = read_future(arguments, data, names, zone)  # doctest: +SKIP
    """
    time, series, path = names["time"], names["id"], arguments.future
    times = [time] if data[time].dtype.kind == "M" else []
    # a name in a CSV file is a text, but it may be that of a number in a Parquet file
    texts = [series] if series is not None and data[series].dtype.kind == "U" else []
    future = read_table(path, times=times, texts=texts, numbers=arguments.future_covariates)
    _check_columns(future, [time, *([] if series is None else [series]), *arguments.future_covariates], path)
    if texts:
        future[series] = future[series].astype(str)
    if (time in future.zones) != (zone is not None):
        having = ("no zone", "a zone or an offset from UTC")
        raise ValueError(
            f"--time {time} of {path} has {having[time in future.zones]}; expected "
            f"{having[zone is not None]}, as in {arguments.file}"
        )
    return future


def _zone_of(data: Table, time: str, arguments: argparse.Namespace, path: str) -> str | None:
    """Return the zone that the answer is to have."""
    zone = data.zones.get(time)
    if arguments.timezone is not None:
        if zone is None:
            raise ValueError(
                f"--timezone {arguments.timezone} was given, but --time {time} of {path} has no zone and no "
                "offset from UTC as in 2024-01-31 18:00+01:00; write it, or leave --timezone out"
            )
        zone = arguments.timezone
    if zone == "":
        raise ValueError(
            f"--time {time} of {path} has several offsets from UTC; name the zone, as in "
            "--timezone Europe/Berlin, or write all times with one offset"
        )
    if zone is not None and constant_offset(zone) is None:
        frame_library(f"the time zone {zone}")
    return zone


def _check_one_series(data: Table, time: str, path: str) -> None:
    """Raise a ValueError unless the times ascend, as they do not where rows are of several series."""
    wrong = data[time][1:] <= data[time][:-1]
    if wrong.any():
        from .forecasting.frequency import show_time

        late, early = (show_time(data[time][i]) for i in (wrong.argmax(), wrong.argmax() + 1))
        texts = ", ".join(name for name, values in data.items() if values.dtype.kind == "U")
        hint = f" (columns of texts: {texts})" if texts else ""
        raise ValueError(
            f"--time {time} of {path} does not ascend: {early} comes after {late}; if the file holds several "
            f"series, name their column with --id{hint}, otherwise sort its rows by {time}"
        )


def _says_number(text: str) -> bool:
    """Whether a text is empty or that of a number."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _the_one(found: list[str], others: list[str], what: str, option: str) -> str:
    """Return the only column that can be meant, or ask for it."""
    if len(found) > 1:
        raise ValueError(f"there are {len(found)} columns {what}; name one with {option}: {', '.join(found)}")
    if not found:
        hint = f"name it with {option}: {', '.join(others)}" if others else "expected one beside times"
        raise ValueError(f"there is no column {what}; {hint}")
    return found[0]


def _check_columns(data: Table, names: list[str], path: str) -> None:
    """Say which column is not there, and which are."""
    for name in names:
        if name not in data:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(data)}")
