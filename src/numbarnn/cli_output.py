"""What the commands write: tables and pictures, and whether they can be written."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .tables import STDIN, parquet_library, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_PANELS", "check_outputs", "draw_errors", "draw_forecasts", "show_warning", "write_answer"]

MOST_PANELS = 6


def check_outputs(arguments: argparse.Namespace) -> None:
    """Find out before the training whether the answers can be written.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the command line.

    Raises
    ------
    ImportError
        If a library for it is not installed.
    ValueError
        If a file cannot be written.

    Examples
    --------
    >>> import argparse
    >>> from numbarnn.cli_output import check_outputs
    >>> check_outputs(argparse.Namespace(file="a.csv", out=None, plot=None))
    """
    for option, path in (("--out", arguments.out), ("--plot", arguments.plot)):
        if path is None:
            continue
        if Path(path).is_dir():
            raise ValueError(f"cannot write {path}: it is a folder; choose another {option}")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise ValueError(f"cannot write {path}: it is read-only; choose another {option}")
        folder = Path(os.path.realpath(path)).parent
        if not _is_stream(path) and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ValueError(
                f"cannot write {path}: its folder must exist and be writable; choose another {option}"
            )
    _check_apart(arguments)
    if arguments.out is not None:
        if not _is_stream(arguments.out) and Path(arguments.out).suffix.lower() not in {".csv", ".parquet"}:
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


def _check_apart(arguments):
    """Raise a ValueError if an answer would take the place of what is read, or of the other answer."""
    paths = {"FILE": arguments.file, "--future": getattr(arguments, "future", None)}
    paths |= {"--out": arguments.out, "--plot": arguments.plot}
    given = [(option, path) for option, path in paths.items() if path is not None]
    for (other, first), (option, second) in combinations(given, 2):
        if first == second == STDIN:
            raise ValueError(f"{other} and {option} are both the standard input; choose another {option}")
        if option in ("--out", "--plot") and _is_same(first, second):
            raise ValueError(f"cannot write {second}: it is the file of {other} too; choose another {option}")


def _is_same(one, other):
    """Whether two paths, which need not be there, lead to one file; devices and pipes may be named twice."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.isfile(one) and os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def write_answer(
    table: dict[str, np.ndarray], arguments: argparse.Namespace, zones: dict[str, str] | None = None
) -> None:
    """Write the table, and say where.

    Parameters
    ----------
    table : dict of str to ndarray
    arguments : argparse.Namespace
        Of the command line.
    zones : dict of str to str, default=None
        See `numbarnn.tables.write_table`.

    Examples
    --------
    >>> import argparse
    >>> import numpy as np
    >>> from numbarnn.cli_output import write_answer
    >>> write_answer({"y": np.array([1.5])}, argparse.Namespace(out=None, quiet=True))
    y
    1.5
    """
    if arguments.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as files are: that of the locale may lack letters
        with _naming("the standard output"):
            write_table(table, None, zones)
            sys.stdout.flush()
        return
    with _replaced(arguments.out) as path:
        write_table(table, path, zones)
    if not arguments.quiet:
        print(f"table: {Path(arguments.out).resolve()}", file=sys.stderr)


@contextmanager
def _replaced(path: str) -> Iterator[str | Path]:
    """Yield a file to write, which takes the place of `path` when it is whole: an older one stays till then.

    What is no plain file is written as it stands.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{os.getpid()}{target.suffix}")  # short, and of the same kind
    with _naming(path):
        if _is_stream(path):
            yield path
            return
        try:
            yield part
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def _is_stream(path):
    """Whether a path is that of a pipe or a device, or of a file that the shell has opened."""
    opened = ("/dev/std", "/dev/fd/", "/proc/self/fd/")
    return os.path.exists(path) and (not os.path.isfile(path) or str(path).startswith(opened))


@contextmanager
def _naming(what):
    """Say what could not be written: the error of a full disk does not."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write {what}: {error.strerror or error}") from error


def show_warning(text: str) -> None:
    """Show a warning, as one line.

    Parameters
    ----------
    text : str

    Examples
    --------
    >>> from numbarnn.cli_output import show_warning
    >>> show_warning("a line")  # to the standard error
    """
    print(f"numbarnn: warning: {' '.join(text.split())}", file=sys.stderr)


def draw_forecasts(
    data: dict[str, np.ndarray],
    table: dict[str, np.ndarray],
    names: dict[str, str | None],
    arguments: argparse.Namespace,
) -> None:
    """Draw the first series, a panel each, with three horizons of history.

    Parameters
    ----------
    data, table : dict of str to ndarray
        The series, and their forecasts.
    names : dict of str to str or None
        Columns of "time", "target" and "id".
    arguments : argparse.Namespace
        Of the command line.

    Examples
    --------
    >>> from numbarnn.cli_output import draw_forecasts
    >>> draw_forecasts(data, table, names, arguments)  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    from .plotting import plot_forecast

    time, target, series = names["time"], names["target"], names["id"]
    shown = [None] if series is None else list(dict.fromkeys(table[series].tolist()))
    if len(shown) > MOST_PANELS:
        show_warning(f"--plot shows the first {MOST_PANELS} of {len(shown)} series")
        shown = shown[:MOST_PANELS]
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
    _save(figure, arguments.plot)


def draw_errors(table: dict[str, np.ndarray], arguments: argparse.Namespace) -> None:
    """Draw the errors of a backtest by step.

    Parameters
    ----------
    table : dict of str to ndarray
    arguments : argparse.Namespace
        Of the command line.

    Examples
    --------
    >>> from numbarnn.cli_output import draw_errors
    >>> draw_errors(table, arguments)  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    from .plotting import plot_horizon_error

    figure = Figure(figsize=(8, 4), layout="constrained")
    plot_horizon_error(table, figure.add_subplot())
    _save(figure, arguments.plot)


def _save(figure: Figure, path: str) -> None:
    """Write a picture; what matplotlib warns of is a line each."""
    with warnings.catch_warnings(record=True) as found, _replaced(path) as part:
        warnings.simplefilter("always")
        figure.savefig(part, dpi=150)
    texts = [str(warning.message) for warning in found]
    # there is one for each letter
    lacks = "--plot: the font of pictures lacks letters of names, and shows boxes for them"
    for text in dict.fromkeys(lacks if text.startswith("Glyph ") else text for text in texts):
        show_warning(text)
