"""The commands ``numbarnn forecast`` and ``numbarnn backtest``: a table in, a table and a picture out."""

from __future__ import annotations

import argparse
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .cli_input import read_future, read_series
from .cli_output import MOST_PANELS, check_outputs, draw_errors, draw_forecasts, show_warning, write_answer
from .tables import STDIN, frame_library
from .zones import constant_offset, wall_times

__all__ = ["add_commands"]

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
        type=_source,
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
        name, help=summary, usage=f"numbarnn {name} FILE --horizon N [options]",
        description=textwrap.fill(description), epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "file",
        type=_source,
        metavar="FILE",
        help="a table, .csv (, ; | or tabs) or .parquet, one row for each time and series; - reads CSV from "
        "the standard input",
    )
    add("--horizon", type=_count, required=True, metavar="N", help="steps ahead")
    add("--time", metavar="COLUMN", help="times, oldest first (default: ds, or the one column of times)")
    add("--target", metavar="COLUMN", help="what is forecast (default: y, or the one column of numbers)")
    add("--id", metavar="COLUMN", help="which series a row is of (default: unique_id; without, one series)")
    several = {"nargs": "+", "action": "extend"}
    add("--level", type=_level, **several, metavar="PERCENT", help="intervals, as in --level 80 95")
    add("--context", type=_count, metavar="N", help="steps looked back upon (default: from the horizon)")
    add("--future-covariates", **several, metavar="COLUMN", default=[], help="columns known in advance")
    add("--past-covariates", **several, metavar="COLUMN", default=[], help="columns known afterwards only")
    add("--calendar", action="store_true", help="tell the network hour, weekday, month and the like")
    add(
        "--freq", type=_freq, metavar="STEP",
        help="time between rows: h, 15min, D, W, MS ..., or a whole number: times are whole numbers, also "
        "those that look like the date 20240131 (default: inferred)",
    )  # fmt: skip
    add(
        "--timezone", type=_zone, metavar="NAME",
        help="zone of the answer and of days, hours and the like, as Europe/Berlin; for times that have an "
        "offset from UTC (default: their zone, or their one offset)",
    )  # fmt: skip
    add("--hidden", type=_count, metavar="N", help="units of the network")
    add("--epochs", type=_count, metavar="N", help="most passes over the data")
    add("--seed", type=_seed, default=0, metavar="N", help="of the random numbers (default: %(default)s)")
    add("--device", choices=["cpu", "cuda"], help="where to train (default: cpu)")
    add("--jobs", type=_count, metavar="N", help="threads (default: all cores)")
    add("--out", metavar="FILE", help="where the table goes, .csv or .parquet (default: standard output)")
    add(
        "--plot",
        metavar="FILE",
        help=f"a picture, .png, .svg, .pdf or another kind that matplotlib writes, which it needs (of the "
        f"first {MOST_PANELS} series)",
    )
    add("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)
    return parser


def _source(text: str) -> str:
    """Give the standard input the name that messages have for it."""
    return STDIN if text == "-" else text


def _count(text: str) -> int:
    """Read a number of steps."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _seed(text: str) -> int:
    """Read the seed of random numbers."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {2**32 - 1}")
    return int(text)


def _freq(text: str) -> str | int:
    """Read the number of a step of whole numbers; what it may say else, the forecaster knows."""
    return int(text) if text.isdecimal() else text


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
        level, hint = float(text), ""
    except ValueError:
        level, hint = np.nan, "; put FILE before the options"
    if not 1 <= level < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no level in percent, from 1 up to less than 100{hint}")
    return level


def _forecast(arguments: argparse.Namespace) -> None:
    """Run ``numbarnn forecast``."""
    check_outputs(arguments)
    if arguments.future and not arguments.future_covariates:
        raise ValueError(
            f"--future {arguments.future} was given, but no --future-covariates; name its columns with them"
        )
    data, names, zone = read_series(arguments)  # which says first if there is no such column
    if arguments.future_covariates and not arguments.future:
        covariates = ", ".join(arguments.future_covariates)
        raise ValueError(
            f"--future-covariates {covariates} must be known for the {arguments.horizon} steps to come: give "
            "them with --future FILE"
        )
    time, future = names["time"], None
    if arguments.future:
        future = _for_forecaster(read_future(arguments, data, names, zone), time, zone)
    with _own_words(arguments):
        forecaster, y = _make_forecaster(arguments, names), _for_forecaster(data, time, zone)
        _check_before(forecaster, y, future, 0, arguments)
        table = _from_forecaster(forecaster.fit(y).predict(X=future, level=arguments.level), time, zone)
    write_answer(table, arguments, {} if zone is None else {time: zone})
    if arguments.plot:
        if zone is not None:
            data, table = ({**each, time: wall_times(each[time], zone)} for each in (data, table))
        draw_forecasts(data, table, names, arguments)


def _backtest(arguments: argparse.Namespace) -> None:
    """Run ``numbarnn backtest``."""
    check_outputs(arguments)
    data, names, zone = read_series(arguments)
    with _own_words(arguments):
        forecaster, y = _make_forecaster(arguments, names), _for_forecaster(data, names["time"], zone)
        span = arguments.horizon + (arguments.windows - 1) * (arguments.step or arguments.horizon)
        _check_before(forecaster, y, None, span, arguments)
        table = forecaster.backtest(
            y, n_windows=arguments.windows,
            step_size=arguments.step, refit=arguments.refit, level=arguments.level,
        )  # fmt: skip
        table = _from_forecaster(table, None, None)
    write_answer(table, arguments)
    if arguments.plot:
        draw_errors(table, arguments)


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
        show_warning(_reword(str(message), arguments))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ValueError(_reword(str(error), arguments)) from error
        except MemoryError as error:
            raise MemoryError(f"{error}; expected a lower --hidden, --context or --horizon") from error


def _reword(text: str, arguments: argparse.Namespace) -> str:
    """Say --future and --freq for X and freq, and what make_future would give."""
    needed = (
        f"it must have one row for each of the {arguments.horizon} steps after the end of every series, with "
        f"a number in {', '.join(arguments.future_covariates)}"
    )
    text = re.sub(r"^.*: the sizes ask for", "--hidden, --context and --horizon ask for", text)
    text = text.replace("give more validation data or a lower level", "a lower --level, or a longer file")
    text = re.sub(r"make_future\(\d+\) gives the rows needed", lambda _: needed, text)
    for name, path in (("X", f"--future {getattr(arguments, 'future', None)}"), ("y", arguments.file)):
        text = re.sub(rf"^{name}(?= )|(?<=' of ){name}\b", lambda _, path=path: path, text)
    return _PARAMETER.sub(lambda match: _OPTIONS[match[1]], text)


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


def _check_before(forecaster: Any, y: Any, future: Any, span: int, arguments: argparse.Namespace) -> None:
    """Find out before the training whether all is there that the forecast will ask for.

    The last `span` steps are not trained on.
    """
    if future is None and arguments.level is None:
        return
    from .forecasting.conformal import errors_needed
    from .forecasting.preparation import held_out, read_training
    from .forecasting.series import read_future

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training says it again
        known, _, form = read_training(forecaster, y, None, None, None)
        if future is not None:
            read_future(future, known, forecaster.horizon, form)
        known = known.take(np.flatnonzero(known.lengths > span + forecaster.horizon))
        if arguments.level is None or not known.n_series:
            return
        known = known.cut(known.lengths - span)
        n_valid = held_out(forecaster, known, None, None)
    if not n_valid.any():
        raise ValueError(
            f"--level needs at least {span + 2 * arguments.horizon + 1} time steps of a series for --horizon "
            f"{arguments.horizon}, and {arguments.file} has {known.lengths.max() + span}; expected a shorter "
            "--horizon, a longer file, or no --level"
        )
    # the truths of forecasts from every step of the part held out
    tails = known.tail(n_valid)
    n_errors = sum(
        int((np.isfinite(tails.row(i)) * np.minimum(np.arange(n) + 1, arguments.horizon)).sum())
        for i, n in enumerate(n_valid)
    )
    most = max(arguments.level)
    needed = errors_needed(most)
    if n_errors < needed:
        raise ValueError(
            f"--level {most:.12g} needs {needed} errors of forecasts of the last {n_valid.max()} time steps, "
            f"and {arguments.file} has values for {n_errors}; expected a lower --level, a longer file, or no "
            "--level"
        )


