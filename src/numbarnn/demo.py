"""What ``numbarnn demo`` does: train on real data, compare on held-out data, draw a picture."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.utils import Bunch

from .datasets import LOADERS

__all__ = ["SETTINGS", "Setting", "run"]


class Setting(NamedTuple):
    """A forecasting task on one of the data sets.

    Parameters
    ----------
    column : str
        The channel that is forecast.
    title : str
        What it is, in words.
    step : str
        What a time step is, in the plural.
    horizon, context_length, n_test : int
        Steps ahead, steps looked back upon, and steps held out at the end of the series.
    seasons : dict
        Name -> length in steps; the longest, or the data set's own, scales the MASE.
    options : dict
        Arguments of `RNNForecaster`, chosen on the last part of the training data.
    """

    column: str
    title: str
    step: str
    horizon: int
    context_length: int
    n_test: int
    seasons: dict[str, int]
    options: dict[str, Any]


SETTINGS = {
    "electricity": Setting(
        "demand", "Electricity demand of the contiguous USA", "hours", 24, 168, 92 * 24,
        {"day": 24, "week": 168},
        {"learning_rate_init": 3e-3, "learning_rate": "cosine", "batch_size": 128, "max_iter": 20},
    ),
    "co2": Setting(
        "co2", "CO2 at Mauna Loa", "weeks", 52, 156, 520,
        {"year": 52},
        {"learning_rate_init": 3e-3, "learning_rate": "cosine", "batch_size": 32, "max_iter": 40},
    ),
    "weather": Setting(
        "temp_max", "Highest temperature of the day in Seattle", "days", 14, 365, 365,
        {"year": 365},
        {"normalize": "window", "batch_size": 32, "max_iter": 20},
    ),
}  # fmt: skip


class _Task(NamedTuple):
    """The series of a setting, cut into training part and windows of the held-out part."""

    setting: Setting
    train: np.ndarray  # [n_train]
    contexts: np.ndarray  # [n_windows, context_length]
    futures: np.ndarray  # [n_windows, horizon]
    times: np.ndarray  # [n_windows, context_length + horizon]
    unit: str
    scale: float  # in-sample mean absolute error of the seasonal naive forecast


def run(dataset: str = "electricity", output: str | os.PathLike | None = "demo.png") -> dict[str, Any]:
    """Train a forecaster, print its errors beside those of simple methods, and save a picture.

    Parameters
    ----------
    dataset : {"electricity", "co2", "weather"}, default="electricity"
    output : path or None, default="demo.png"
        The picture; None draws none.

    Returns
    -------
    dict
        Name of the method -> (MAE, RMSE, MASE) on the held-out data.

    Raises
    ------
    ValueError
        If there is no such data set, or no picture can be written at `output`.

    References
    ----------
    .. [1] Hyndman and Koehler, "Another look at measures of forecast accuracy", International Journal of
       Forecasting 22 (2006), 679-688, section 2.4: the mean absolute scaled error (MASE).
    """
    if dataset not in SETTINGS:
        raise ValueError(f"dataset was {dataset!r}; expected one of {', '.join(SETTINGS)}")
    draw = _picture_at(output)
    task = _make_task(SETTINGS[dataset], LOADERS[dataset]())
    setting = task.setting
    print(
        f"{setting.title}: {len(task.train):,} {setting.step} to learn from, "
        f"the last {setting.n_test:,} held out.\n"
        f"Training a GRU that reads {setting.context_length} {setting.step} "
        f"and forecasts {setting.horizon} ..."
    )
    start = time.perf_counter()
    forecasts = {**_baselines(task), "RNNForecaster": _forecast(task)}
    seconds = time.perf_counter() - start
    errors = {name: _errors(task, forecast) for name, forecast in forecasts.items()}
    print(f"Trained and forecast in {seconds:.0f} seconds.\n")
    print(_table(task, errors))
    if draw is not None:
        draw(task, forecasts["RNNForecaster"], errors)
    return errors


def _make_task(setting: Setting, data: Bunch) -> _Task:
    """Cut a series; windows of the held-out part may look back into the training part."""
    column = data.feature_names.index(setting.column)
    series = data.data[:, column]
    n_train = len(series) - setting.n_test
    first, length = n_train - setting.context_length, setting.context_length + setting.horizon
    windows = sliding_window_view(series[first:], length)
    season = data.season_length
    return _Task(
        setting,
        series[:n_train],
        windows[:, : setting.context_length],
        windows[:, setting.context_length :],
        sliding_window_view(data.time[first:], length),
        data.units[column],
        float(np.abs(series[season:n_train] - series[: n_train - season]).mean()),
    )


def _baselines(task: _Task) -> dict[str, np.ndarray]:
    """Forecasts of the methods that any other must beat."""
    horizon, contexts = task.setting.horizon, task.contexts
    last = contexts[:, -1:]
    forecasts = {"naive (last value)": np.repeat(last, horizon, axis=1)}
    for name, season in task.setting.seasons.items():
        phase = np.arange(horizon) % season
        forecasts[f"seasonal naive (last {name})"] = contexts[:, contexts.shape[1] - season :][:, phase]
    forecasts["linear (ridge on the context)"] = _linear(task)
    return forecasts


def _linear(task: _Task) -> np.ndarray:
    """Forecast by ridge regression on the context; its penalty and scaling are chosen on the last tenth."""
    length, horizon = task.setting.context_length, task.setting.horizon
    windows = sliding_window_view(task.train, length + horizon)
    past, future = windows[:, :length], windows[:, length:]
    n_fit = len(windows) - len(windows) // 10 - horizon  # no step in both parts

    def forecast(n_windows, contexts, center, alpha):
        shift = center(past[:n_windows])
        ridge = Ridge(alpha=alpha).fit(past[:n_windows] - shift, future[:n_windows] - shift)
        return ridge.predict(contexts - center(contexts)) + center(contexts)

    def last(contexts):
        return contexts[:, -1:]

    def mean(contexts):
        return contexts.mean(axis=1, keepdims=True)

    held_out = slice(n_fit + horizon, None)
    best = min(
        product((last, mean), (1.0, 1e2, 1e4, 1e6)),
        key=lambda choice: np.abs(forecast(n_fit, past[held_out], *choice) - future[held_out]).mean(),
    )
    return forecast(len(windows), task.contexts, *best)


def _forecast(task: _Task) -> np.ndarray:
    """Train the network, and forecast from every held-out window in one pass."""
    from .forecasting import RNNForecaster

    setting = task.setting
    forecaster = RNNForecaster(
        setting.horizon, setting.context_length, random_state=0, verbose=1, **setting.options
    )
    with warnings.catch_warnings():
        # the learning rate goes to zero by then: there is nothing left to converge
        warnings.filterwarnings("ignore", ".*max_iter", ConvergenceWarning)
        forecaster.fit(task.train)
    return forecaster.predict(context=task.contexts[:, :, np.newaxis])[:, :, 0]


def _errors(task: _Task, forecast: np.ndarray) -> tuple[float, float, float]:
    """MAE, RMSE, and MASE [1]_."""
    error = forecast - task.futures
    mae = float(np.abs(error).mean())
    return mae, float(np.sqrt(np.square(error).mean())), mae / task.scale


def _table(task: _Task, errors: dict[str, tuple[float, float, float]]) -> str:
    """Lay out the errors, and say in a sentence who won."""
    setting = task.setting
    width = max(map(len, errors))
    lines = [
        f"Errors of {len(task.contexts):,} forecasts of {setting.horizon} {setting.step}, on held-out data",
        f"{'':{width}}  {f'MAE ({task.unit})':>10}  {f'RMSE ({task.unit})':>10}  {'MASE':>6}",
    ]
    lines += [
        f"{name:{width}}  {mae:10.2f}  {rmse:10.2f}  {mase:6.3f}"
        for name, (mae, rmse, mase) in errors.items()
    ]
    mae = {name: row[0] for name, row in errors.items()}
    ours = mae.pop("RNNForecaster")
    seasonal = min(value for name, value in mae.items() if "naive" in name)
    linear = mae["linear (ridge on the context)"]
    lines.append(
        f"Mean absolute error of RNNForecaster: {_compare(ours, seasonal)} the best naive forecast, "
        f"{_compare(ours, linear)} the linear model."
    )
    return "\n".join(lines)


def _compare(ours: float, other: float) -> str:
    """Put a ratio of errors into words."""
    percent = round(100 * abs(1 - ours / other))
    return f"{percent} % {'below' if ours < other else 'above'}" if percent else "equal to"


def _picture_at(output: str | os.PathLike | None) -> Callable[..., None] | None:
    """Find out before the training whether the picture can be drawn; return what draws it."""
    if output is None:
        return None
    path = Path(output)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"cannot write {path}: its folder must exist and be writable; choose another --output"
        )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        return lambda *_: print("\nNo picture: it needs matplotlib (pip install 'numbarnn[plot]').")
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"cannot write {path}: --output must end in one of .{', .'.join(sorted(formats))}")
    return partial(_draw, path)


def _draw(path: Path, task: _Task, forecast: np.ndarray, errors: dict[str, tuple[float, ...]]) -> None:
    """Save a picture of the forecast whose error is the median: neither the best nor the worst."""
    from matplotlib.figure import Figure

    from .plotting import plot_forecast

    setting = task.setting
    order = np.argsort(np.abs(forecast - task.futures).mean(axis=1))
    typical = int(order[len(order) // 2])
    shown = min(4 * setting.horizon, setting.context_length)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    plot_forecast(
        task.contexts[typical, -shown:],
        forecast[typical],
        task.futures[typical],
        left,
        time=task.times[typical, setting.context_length - shown :],
        ylabel=f"{setting.column.replace('_', ' ')} ({task.unit})",
        title=f"{setting.title}: a typical forecast (median error among {len(order):,})",
    )
    names = [name.replace(" (", "\n(") for name in errors]
    bars = right.barh(
        names, [mae for mae, _, _ in errors.values()], color=["#bbbbbb"] * (len(names) - 1) + ["#D55E00"]
    )
    right.bar_label(bars, fmt="{:#.3g}", padding=3, fontsize="small")
    right.invert_yaxis()
    right.spines[["top", "right", "bottom"]].set_visible(False)
    right.tick_params(bottom=False, labelbottom=False, left=False, labelsize="small")
    right.margins(x=0.15)
    right.set_title(f"Mean absolute error ({task.unit})", fontsize="medium")
    figure.savefig(path, dpi=150)
    print(f"\nPicture: {path.resolve()}")
