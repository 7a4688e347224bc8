"""What `forecasters.py` measures in a process of its own, in an interpreter that may lack numbarnn.

``python contenders.py '{"task": "fit_contender", ...}'`` prints the answer as JSON on its last line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DAY = 24
WINDOW = 336
STRIDE = 7  # steps between two origins: every hour of the day comes equally often


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # of this program alone; what getrusage tells counts the one that started it too
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fit_windows(n_windows: int, traced: bool, threads: int) -> dict[str, Any]:
    """Fit an epoch by defaults on one series with so many windows in its training part; tell the memory."""
    import tracemalloc

    from numbarnn import RNNForecaster

    horizon = WINDOW // 4  # the context is three times as long
    forecaster = RNNForecaster(horizon, max_iter=1, random_state=0, n_jobs=threads)
    # compiled code, and whatever is loaded at the first fit, is there before it is counted
    forecaster.fit(np.random.default_rng(0).standard_normal(5000))
    n_steps = int((n_windows + WINDOW - 1) / (1 - forecaster.validation_fraction)) + 1
    hours = np.arange(n_steps)
    y = np.sin(2 * np.pi * hours / DAY)
    y += 0.1 * np.random.default_rng(0).standard_normal(n_steps)
    del hours
    if traced:
        tracemalloc.start()
    before = peak_memory()
    start = time.perf_counter()
    forecaster.fit(y)
    found = {
        "series": y.nbytes, "before": before, "peak": peak_memory(),
        "seconds": time.perf_counter() - start, "window": forecaster.context_length_ + horizon,
    }  # fmt: skip
    if traced:
        found["allocated"] = tracemalloc.get_traced_memory()[1]
    return found


def long_frame(values: np.ndarray, names: list[str], end: int) -> Any:
    """Put (n_timesteps, n_series), which end before hour `end`, into a long data frame."""
    import pandas as pd

    hours = np.datetime64("2016-07-01", "h") + np.arange(end - len(values), end)
    ds = np.tile(hours.astype("datetime64[ns]"), len(names))
    return pd.DataFrame({"unique_id": np.repeat(names, len(values)), "ds": ds, "y": values.T.ravel()})


class Ours:
    """`RNNForecaster`."""

    package = "numbarnn"

    def __init__(self, name: None, horizon: int, threads: int, settings: dict[str, Any]) -> None:
        from numbarnn import RNNForecaster

        self.forecaster = RNNForecaster(horizon, random_state=0, n_jobs=threads, **settings)

    def fit(self, values: np.ndarray) -> None:
        """Fit a long frame."""
        self.names = [f"series {i}" for i in range(values.shape[1])]
        self.forecaster.fit(long_frame(values, self.names, len(values)))

    def forecast(self, values: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Forecast from every origin: (n_origins, horizon, n_series)."""
        context, found = self.forecaster.context_length_, []
        for origin in origins:
            history = long_frame(values[origin - context : origin], self.names, origin)
            answer = self.forecaster.predict(context=history)
            found.append(answer["RNNForecaster"].to_numpy().reshape(len(self.names), -1).T)
        return np.stack(found)


class NeuralForecasts:
    """A model of neuralforecast, by the name of its class."""

    package = "neuralforecast"

    def __init__(self, name: str, horizon: int, threads: int, settings: dict[str, Any]) -> None:
        import logging

        import torch
        from neuralforecast import NeuralForecast, losses, models

        torch.set_num_threads(threads)
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
        settings = dict(settings)
        if "loss" in settings:
            settings["loss"] = getattr(losses.pytorch, settings["loss"])()
        model = getattr(models, name)(
            h=horizon, enable_model_summary=False, accelerator="cpu", **quiet, **settings
        )
        self.name, self.context, self.forecaster = name, model.input_size, NeuralForecast([model], freq="h")

    def fit(self, values: np.ndarray) -> None:
        """Fit a long frame."""
        names = [f"series {i}" for i in range(values.shape[1])]
        self.forecaster.fit(long_frame(values, names, len(values)))

    def forecast(self, values: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Forecast from every origin: (n_origins, horizon, n_series)."""
        # the model knows no series by its name, so that each window can be one of its own, all in one batch
        windows = np.concatenate([values[origin - self.context : origin] for origin in origins], axis=1)
        names = [f"{i:08d}" for i in range(windows.shape[1])]
        answer = self.forecaster.predict(df=long_frame(windows, names, self.context))
        found = answer[self.name].to_numpy().reshape(len(origins), values.shape[1], -1)
        return found.swapaxes(1, 2)


def fit_contender(
    path: str, name: str | None, settings: dict[str, Any], threads: int, steps: list[int] | None
) -> dict[str, Any]:
    """Fit, and forecast what was held out; or only tell the seconds of so many steps of training."""
    import importlib.metadata
    import sysconfig

    saved = np.load(path)
    values, n_fit, horizon = saved["values"], int(saved["n_fit"]), int(saved["horizon"])
    side = Ours if name is None else NeuralForecasts
    import pandas  # noqa: F401, both need it: loaded before the clock starts

    seconds = []
    for max_steps in steps or [None]:
        changes = {} if max_steps is None else {"max_steps": max_steps}
        contender = side(name, horizon, threads, {**settings, **changes})
        start = time.perf_counter()
        contender.fit(values[:n_fit])
        seconds.append(time.perf_counter() - start)
    peak = peak_memory()
    if steps:
        return {"seconds": seconds, "peak_memory": peak}
    origins = np.arange(n_fit, len(values) - horizon + 1, STRIDE)
    truth = np.stack([values[origin : origin + horizon] for origin in origins])
    error = contender.forecast(values, origins) - truth
    size = sum(
        os.stat(os.path.join(folder, file), follow_symlinks=False).st_size
        for folder, _, files in os.walk(sysconfig.get_paths()["purelib"])
        for file in files
    )
    return {
        "seconds": seconds[0], "peak_memory": peak, "installation": size,
        "mse": float(np.square(error).mean()), "mae": float(np.abs(error).mean()),
        "version": f"{side.package} {importlib.metadata.version(side.package)}",
    }  # fmt: skip


TASKS = {"fit_windows": fit_windows, "fit_contender": fit_contender}

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    print(json.dumps(TASKS[settings.pop("task")](**settings)))
