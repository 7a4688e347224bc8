"""The commands ``numbarnn forecast`` and ``numbarnn backtest``: a table in, a table and a picture out."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .tables import Table, frame_library, parquet_library, read_table, write_table
from .zones import constant_offset, wall_times

__all__ = ["add_commands"]

_MOST_PANELS = 6
# parameters of the forecaster that messages name -> options
_OPTIONS = {
    "freq": "--freq", "context_length": "--context", "hidden_size": "--hidden", "max_iter": "--epochs",
    "n_jobs": "--jobs", "random_state": "--seed", "n_windows": "--windows", "step_size": "--step",
    "future_covariates": "--future-covariates", "past_covariates": "--past-covariates",
}  # fmt: skip
_PARAMETER = re.compile(rf"(?<![\w'-])({'|'.join(_OPTIONS)})(?![\w'])")  # in quotes it is a column

_FORECAST_EXAMPLE = """example:
  numbarnn forecast sales.csv --time day --target sold --id shop --horizon 28 --level 80 95 \\
      --out forecast.csv --plot forecast.png
reads a table with the columns day, sold and shop, one row for each day and shop, and writes the next 28 days
of every shop with 80 % and 95 % intervals."""
_BACKTEST_EXAMPLE = """example:
  numbarnn backtest sales.csv --time day --target sold --id shop --horizon 28 --windows 5 --level 80 \\
      --out errors.csv --plot errors.png
forecasts 28 days from each of 5 points of the past, and writes the errors of every step ahead; MASE below 1
is better than repeating the last season."""


def add_commands(commands: Any) -> None:
    """Add the two commands to the subparsers of ``numbarnn``; each sets ``run`` to what it does.

    Parameters
    ----------
    commands : argparse subparsers

    Examples
    --------
    >>> import argparse
    >>> from numbarnn.forecasting_cli import add_commands
    >>> parser = argparse.ArgumentParser()
    >>> add_commands(parser.add_subparsers())
    >>> parser.parse_args(["forecast", "a.csv", "--horizon", "3", "--level", "80"]).level
    [80.0]
    """
    forecast = _add_command(
        commands, "forecast", "forecast the series of a CSV or Parquet file",
        "Train a recurrent network on every series of a file and forecast what comes next. The table goes to "
        "--out, or to the standard output.", _FORECAST_EXAMPLE, _forecast,
    )  # fmt: skip
    forecast.add_argument(
        "--future",
        metavar="FILE",
        help="the time (and id) and --future-covariates of the steps to come, "
        "a row for each of the steps after the end of every series",
    )
    backtest = _add_command(
        commands, "backtest", "measure forecasts made at points of a file's past",
        "Forecast from several points of the past what is known by now, and write the errors of every step "
        "ahead.", _BACKTEST_EXAMPLE, _backtest,
    )  # fmt: skip
    add = backtest.add_argument
    add("--windows", type=_count, default=5, metavar="N", help="points of the past (default: %(default)s)")
    add("--step", type=_count, metavar="N", help="steps between them (default: the horizon)")
    add("--refit", action="store_true", help="train anew at each of them")


def _add_command(commands, name, summary, description, example, run) -> argparse.ArgumentParser:
    """Add a command with the arguments that both have."""
    parser = commands.add_parser(
        name, help=summary, description=textwrap.fill(description), epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        help="a table, .csv (, ; or tabs) or .parquet, one row for each time and series",
    )
    add("--horizon", type=_count, required=True, metavar="N", help="steps ahead")
    add("--time", metavar="COLUMN", help="times, oldest first (default: ds, or the one column of times)")
    add("--target", metavar="COLUMN", help="what is forecast (default: y, or the one column of numbers)")
    add("--id", metavar="COLUMN", help="which series a row is of (default: unique_id; without, one series)")
    add("--level", type=_level, nargs="+", metavar="PERCENT", help="intervals, as in --level 80 95")
    add("--context", type=_count, metavar="N", help="steps looked back upon (default: from the horizon)")
    add("--future-covariates", nargs="+", metavar="COLUMN", default=[], help="columns known in advance")
    add("--past-covariates", nargs="+", metavar="COLUMN", default=[], help="columns known afterwards only")
    add("--calendar", action="store_true", help="tell the network hour, weekday, month and the like")
    add("--freq", metavar="STEP", help="time between rows: h, 15min, D, W, MS ... (default: inferred)")
    add(
        "--timezone", type=_zone, metavar="NAME",
        help="zone of the answer and of days, hours and the like, as Europe/Berlin; for times that have an "
        "offset from UTC (default: their zone, or their one offset)",
    )  # fmt: skip
    add("--hidden", type=_count, metavar="N", help="units of the network")
    add("--epochs", type=_count, metavar="N", help="most passes over the data")
    add("--seed", type=int, default=0, metavar="N", help="of the random numbers (default: %(default)s)")
    add("--device", choices=["cpu", "cuda"], help="where to train (default: cpu)")
    add("--jobs", type=_count, metavar="N", help="threads (default: all cores)")
    add("--out", metavar="FILE", help="where the table goes, .csv or .parquet (default: standard output)")
    add("--plot", metavar="FILE", help="a picture, .png, .svg or .pdf; needs matplotlib")
    add("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    """Read a number of steps."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _zone(text: str) -> str:
    """Check the name of a zone."""
    try:
        constant_offset(text)
    except (OSError, ValueError) as error:  # a part of a name is a folder
        raise argparse.ArgumentTypeError(f"{text!r} is no time zone such as Europe/Berlin") from error
    return text


def _level(text: str) -> float:
    """Read a level in percent."""
    try:
        level = float(text)
    except ValueError:
        level = np.nan
    if not 1 <= level < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no level in percent, from 1 up to less than 100")
    return level


def _forecast(arguments: argparse.Namespace) -> None:
    """Run ``numbarnn forecast``."""
    _check_outputs(arguments)
    if arguments.future_covariates and not arguments.future:
        names = ", ".join(arguments.future_covariates)
        raise ValueError(
            f"--future-covariates {names} must be known for the {arguments.horizon} steps to come: give them "
            "with --future FILE"
        )
    if arguments.future and not arguments.future_covariates:
        raise ValueError(
            f"--future {arguments.future} was given, but no --future-covariates; name its columns with them"
        )
    data, names, zone = _read(arguments)
    time, future = names["time"], None
    if arguments.future:
        future = _for_forecaster(_read_future(arguments, data, names, zone), time, zone)
    with _own_words(arguments):
        forecaster, y = _make_forecaster(arguments, names), _for_forecaster(data, time, zone)
        if arguments.future:
            _check_future(forecaster, y, future)
        table = _from_forecaster(forecaster.fit(y).predict(X=future, level=arguments.level), time, zone)
    _write(table, arguments, {} if zone is None else {time: zone})
    if arguments.plot:
        if zone is not None:
            data, table = ({**each, time: wall_times(each[time], zone)} for each in (data, table))
        _draw_forecasts(Path(arguments.plot), data, table, names, arguments)


def _backtest(arguments: argparse.Namespace) -> None:
    """Run ``numbarnn backtest``."""
    _check_outputs(arguments)
    data, names, zone = _read(arguments)
    with _own_words(arguments):
        forecaster = _make_forecaster(arguments, names)
        table = forecaster.backtest(
            _for_forecaster(data, names["time"], zone), n_windows=arguments.windows,
            step_size=arguments.step, refit=arguments.refit, level=arguments.level,
        )  # fmt: skip
        table = _from_forecaster(table, None, None)
    _write(table, arguments)
    if arguments.plot:
        from matplotlib.figure import Figure

        from .plotting import plot_horizon_error

        figure = Figure(figsize=(8, 4), layout="constrained")
        plot_horizon_error(table, figure.add_subplot())
        figure.savefig(arguments.plot, dpi=150)


def _make_forecaster(arguments: argparse.Namespace, names: dict[str, str | None]) -> Any:
    """Translate the arguments; what was not given stays with the forecaster's defaults."""
    from .forecasting import RNNForecaster

    given = {
        "context_length": arguments.context, "hidden_size": arguments.hidden, "max_iter": arguments.epochs,
        "freq": arguments.freq, "device": arguments.device, "id_col": names["id"],
        "calendar": "auto" if arguments.calendar else None,
        "past_covariates": arguments.past_covariates or None,
        "future_covariates": arguments.future_covariates or None,
    }  # fmt: skip
    return RNNForecaster(
        arguments.horizon, time_col=names["time"], target_col=names["target"], n_jobs=arguments.jobs,
        random_state=arguments.seed, verbose=0 if arguments.quiet else 1,
        **{name: value for name, value in given.items() if value is not None},
    )  # fmt: skip


@contextmanager
def _own_words(arguments: argparse.Namespace) -> Iterator[None]:
    """Make a line of each warning, and let warnings and errors of the forecaster name options and files."""

    def show(message, category, *_, **__):
        text = _reword(str(message), arguments)
        print(f"numbarnn: warning: {' '.join(text.split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ValueError(_reword(str(error), arguments)) from error


def _reword(text: str, arguments: argparse.Namespace) -> str:
    """Say --future and --freq for X and freq, and what make_future would give."""
    needed = (
        f"it must have one row for each of the {arguments.horizon} steps after the end of every series, with "
        f"a number in {', '.join(arguments.future_covariates)}"
    )
    text = text.replace("give more validation data or a lower level", "a lower --level, or a longer file")
    text = re.sub(r"make_future\(\d+\) gives the rows needed", lambda _: needed, text)
    for name, path in (("X", f"--future {getattr(arguments, 'future', None)}"), ("y", arguments.file)):
        text = re.sub(rf"^{name}(?= )|(?<=' of ){name}\b", lambda _, path=path: path, text)
    return _PARAMETER.sub(lambda match: _OPTIONS[match[1]], text)


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Find out before the training whether the answers can be written."""
    for option, path in (("--out", arguments.out), ("--plot", arguments.plot)):
        if path is None:
            continue
        folder = Path(path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(
                f"cannot write {path}: its folder must exist and be writable; choose another {option}"
            )
        if Path(path).is_dir():
            raise ValueError(f"cannot write {path}: it is a folder; choose another {option}")
    if arguments.out is not None:
        if Path(arguments.out).suffix.lower() not in {".csv", ".parquet"}:
            raise ValueError(f"cannot write {arguments.out}: --out must end in .csv or .parquet")
        if Path(arguments.out).suffix.lower() == ".parquet":
            parquet_library()
    if arguments.plot is not None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
        except ImportError as error:
            raise ImportError("--plot needs matplotlib: pip install 'numbarnn[plot]'") from error
        formats = FigureCanvasAgg.get_supported_filetypes()
        if Path(arguments.plot).suffix[1:].lower() not in formats:
            raise ValueError(
                f"cannot write {arguments.plot}: --plot must end in one of .{', .'.join(sorted(formats))}"
            )


def _read(arguments: argparse.Namespace) -> tuple[Table, dict[str, str | None], str | None]:
    """Read the table and find its columns: those that were named, or those that can be meant.

    Also return the zone of the times, which are in UTC then.
    """
    time, target, series = arguments.time, arguments.target, arguments.id
    covariates = [*arguments.past_covariates, *arguments.future_covariates]
    named = [name for name in (time, target, series, *covariates) if name is not None]
    usual = {name for name in ("ds", "y", "unique_id") if name not in named}
    data = read_table(
        arguments.file,
        times=[time] if time else usual & {"ds"},
        texts=[series] if series else usual & {"unique_id"},
        numbers=[*([target] if target else usual & {"y"}), *covariates],
    )
    _check_columns(data, named, arguments.file)
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
    kept = [name for name in data if name in {time, target, series, *covariates}]
    names = {"time": time, "target": target, "id": series}
    return Table({name: data[name] for name in kept}), names, _zone_of(data, time, arguments, arguments.file)


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


def _for_forecaster(data: dict[str, np.ndarray], time: str, zone: str | None) -> Any:
    """Give the times their zone: what clocks show if they never change, else a frame that knows it."""
    if zone is None:
        return data
    if (offset := constant_offset(zone)) is not None:
        return {**data, time: data[time] + offset}
    from .forecasting.native import Backend, frame_of

    library = frame_library(f"the time zone {zone}")
    return frame_of(data, Backend(library, time=time, time_unit="us", time_zone=zone))


def _from_forecaster(table: Any, time: str | None, zone: str | None) -> dict[str, np.ndarray]:
    """Take the answer apart; times that have a zone are in UTC."""
    from .forecasting.native import Backend, columns_of

    columns, _ = columns_of(table, time, known=Backend(time=time, local=False))
    if zone is not None and (offset := constant_offset(zone)) is not None:
        columns[time] = columns[time] - offset
    return columns


def _read_future(
    arguments: argparse.Namespace, data: Table, names: dict[str, str | None], zone: str | None
) -> Table:
    """Read what is known of the steps to come."""
    time, series, path = names["time"], names["id"], arguments.future
    # a name in a CSV file is a text, but it may be that of a number in a Parquet file
    texts = [series] if series is not None and data[series].dtype.kind == "U" else []
    future = read_table(path, times=[time], texts=texts, numbers=arguments.future_covariates)
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


def _check_future(forecaster: Any, y: Any, future: Any) -> None:
    """Find out before the training whether all is there that the forecast will ask for."""
    from .forecasting.preparation import read_training
    from .forecasting.series import read_future

    known, _, form = read_training(forecaster, y, None, None, None)
    read_future(future, known, forecaster.horizon, form)


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
        raise ValueError(f"there is no column {what}; name it with {option}: {', '.join(others)}")
    return found[0]


def _check_columns(data: dict[str, np.ndarray], names: list[str], path: str) -> None:
    """Say which column is not there, and which are."""
    for name in names:
        if name not in data:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(data)}")


def _write(
    table: dict[str, np.ndarray], arguments: argparse.Namespace, zones: dict[str, str] | None = None
) -> None:
    """Write the answer, and say where."""
    write_table(table, arguments.out, zones)
    if arguments.out and not arguments.quiet:
        print(f"table: {Path(arguments.out).resolve()}", file=sys.stderr)


def _draw_forecasts(path, data, table, names, arguments) -> None:
    """Draw the first series, a panel each, with three horizons of history."""
    from matplotlib.figure import Figure

    from .plotting import plot_forecast

    time, target, series = names["time"], names["target"], names["id"]
    shown = [None] if series is None else list(dict.fromkeys(table[series].tolist()))[:_MOST_PANELS]
    model = next(name for name in table if name not in (time, series))
    n_past = max(3 * arguments.horizon, 24)
    figure = Figure(figsize=(9, 1 + 3 * len(shown)), layout="constrained")
    for ax, one in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        past, future = (
            columns if one is None else {name: v[columns[series] == one] for name, v in columns.items()}
            for columns in (data, table)
        )
        bounds = {}
        if arguments.level:
            bounds["level"] = arguments.level
            for name, side in (("lower", "lo"), ("upper", "hi")):
                bounds[name] = np.stack(
                    [future[f"{model}-{side}-{level:g}"] for level in arguments.level], axis=1
                )
        times = np.concatenate([past[time][-n_past:], future[time]])
        title = None if one is None else str(one)
        history = past[target][-n_past:]
        plot_forecast(history, future[model], ax=ax, time=times, ylabel=target, title=title, **bounds)
    figure.savefig(path, dpi=150)
