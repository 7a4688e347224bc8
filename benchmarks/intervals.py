"""Coverage and pinball loss of intervals: ``python benchmarks/intervals.py --data ETTh1.csv``.

Each series is fitted with the defaults of `RNNForecaster` (a horizon and a seed are all that is given), and
its last stretch is forecast from many origins, with intervals of 80 and 95 % that learn from what has come by
each origin and with weights that stay. The bundled series are held out as ``numbarnn demo`` holds them out;
of ETTh1 the last 4 of 12, 4 and 4 months of 30 days, with a fit on the first 12 and channels z-scored on
those. Origins are so far apart that all hours of a day are among them.

Beside it stands conformal seasonal naive: the value of a season before, with intervals out of all errors of
this forecast in the training part and since, at the same origins. Forms of it are tried: a day and a week as
season where there are both; order statistics of all errors so far (split) and the adaptive intervals that the
forecaster has. The best one on the very stretch that is scored is reported, which is more than a forecaster
could know.

The pinball loss is the mean of the quantiles 0.025, 0.1, 0.5, 0.9 and 0.975: the bounds and the forecast.
The figures of a series are written as soon as it is done; --series runs some of them and keeps the others.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accuracy_etth1 import N_TEST, N_TRAIN, read, z_score
from numbarnn import RNNForecaster
from numbarnn.bench.report import describe_machine, markdown, write_document
from numbarnn.datasets import LOADERS
from numbarnn.demo import SETTINGS
from numbarnn.forecasting import metrics
from numbarnn.forecasting.conformal import Conformal

LEVELS = (80, 95)
QUANTILES = (0.025, 0.1, 0.5, 0.9, 0.975)
WITHIN = 0.03  # of the nominal coverage
STEPS = {"electricity": 5, "co2": 1, "weather": 1, "ETTh1": 23}
CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")


class Task(NamedTuple):
    """A data set and how it is backtested.

    Attributes
    ----------
    values : ndarray of shape (n_timesteps, n_channels)
    names : list of str
        Of the channels.
    together : str or None
        Name of all channels as one, if they have one scale.
    horizon, step_size : int
    seasons : tuple of int
    n_train : int
        Steps that the forecaster is fitted on.
    n_scored : int
        Steps at the end whose forecasts are scored.
    """

    values: np.ndarray
    names: list[str]
    together: str | None
    horizon: int
    step_size: int
    seasons: tuple[int, ...]
    n_train: int
    n_scored: int


def make_task(name: str, path: str | None) -> Task:
    """Read a data set."""
    if name == "ETTh1":
        values, names = z_score(read(path)), [f"ETTh1, {channel}" for channel in CHANNELS]
        return Task(values, names, "ETTh1, all", 96, STEPS[name], (24, 168), N_TRAIN, N_TEST)
    data, setting = LOADERS[name](), SETTINGS[name]
    n_train = len(data.data) - setting.n_test
    return Task(
        data.data, data.feature_names, None, setting.horizon, STEPS[name], tuple(setting.seasons.values()),
        n_train, setting.n_test,
    )  # fmt: skip


def ours(task: Task, n_jobs: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Cutoffs (n,) that are scored, and quantiles (n, h, C, 5) of the forecaster."""
    n_windows = (len(task.values) - task.n_train - task.horizon) // task.step_size + 1
    folds = RNNForecaster(task.horizon, random_state=0, n_jobs=n_jobs).cross_validation(
        task.values, n_windows=n_windows, step_size=task.step_size, level=list(LEVELS)
    )
    scored = folds.cutoff >= len(task.values) - task.n_scored
    lower, upper, point = (each[scored] for each in (folds.lower, folds.upper, folds.forecast))
    quantiles = [lower[..., 1], lower[..., 0], point, upper[..., 0], upper[..., 1]]
    return folds.cutoff[scored], np.stack(quantiles, axis=-1)


def seasonal_naive(task: Task, cutoffs: np.ndarray, season: int, method: str) -> np.ndarray:
    """Quantiles (n, h, C, 5) of the value of a season before, with conformal intervals."""
    values, horizon = task.values, task.horizon
    steps = np.arange(horizon)
    # the last season that is known at the time of the forecast: one before, or several
    lag = season * (1 + steps // season)
    times = np.arange(lag[-1] + horizon - 1, len(values))
    residuals = values[times[:, np.newaxis]] - values[times[:, np.newaxis] - lag]  # [n, h, C]
    residuals = residuals.transpose(2, 0, 1)
    n_first = int(cutoffs[0] - times[0])
    conformal = Conformal(residuals[:, :n_first], np.ones(len(residuals)), method)
    rows, found, seen = np.arange(len(residuals)), [], n_first
    for cutoff in cutoffs:
        for known in range(seen, cutoff - times[0]):
            conformal.update(rows, residuals[:, known])
        seen = cutoff - times[0]
        point = values[cutoff + steps - lag]  # [h, C]
        bounds = np.stack([np.stack(conformal.bounds(row, LEVELS, horizon)) for row in rows], axis=2)
        (low_80, low_95), (high_80, high_95) = np.moveaxis(point[:, :, np.newaxis] + bounds, -1, 1)
        found.append(np.stack([low_95, low_80, point, high_80, high_95], axis=-1))
    return np.stack(found)


def figures(truth: np.ndarray, quantiles: np.ndarray) -> dict[str, float]:
    """Coverage and pinball loss: truth (n, h, ...), quantiles (n, h, ..., 5)."""
    low_95, low_80, _, high_80, high_95 = np.moveaxis(quantiles, -1, 0)
    return {
        "coverage_80": float(metrics.coverage(truth, low_80, high_80)),
        "coverage_95": float(metrics.coverage(truth, low_95, high_95)),
        "pinball": float(metrics.pinball(truth[..., np.newaxis], quantiles, np.array(QUANTILES))),
    }


def run(task: Task, n_jobs: int | None) -> list[dict[str, Any]]:
    """Score every channel of a data set, and all of them together if they have one scale."""
    cutoffs, quantiles = ours(task, n_jobs)
    truth = task.values[cutoffs[:, np.newaxis] + np.arange(task.horizon)]
    naive = {
        form: seasonal_naive(task, cutoffs, *form) for form in product(task.seasons, ("split", "adaptive"))
    }
    parts: dict[str, Any] = {name: [c] for c, name in enumerate(task.names)}
    if task.together:
        parts[task.together] = slice(None)
    rows = []
    for name, part in parts.items():
        row = {"series": name, "horizon": task.horizon, "origins": len(cutoffs)}
        row["ours"] = figures(truth[:, :, part], quantiles[:, :, part])
        forms = {form: figures(truth[:, :, part], each[:, :, part]) for form, each in naive.items()}
        best = min(forms, key=lambda form: forms[form]["pinball"])
        row["seasonal_naive"] = {"season": best[0], "method": best[1], **forms[best]}
        rows.append(row)
    return rows


def within(row: dict[str, Any]) -> bool:
    """Say whether both coverages of the forecaster are near nominal."""
    return all(abs(row["ours"][f"coverage_{level}"] - level / 100) <= WITHIN for level in LEVELS)


def report(results: dict[str, list[dict[str, Any]]]) -> str:
    """Lay out the figures as Markdown."""
    lines = []
    for rows in results.values():
        for row in rows:
            we, they = row["ours"], row["seasonal_naive"]
            covered = [f"{side[f'coverage_{level}']:.3f}" for side in (we, they) for level in LEVELS]
            lines.append([
                row["series"], str(row["horizon"]), *covered[:2], "yes" if within(row) else "**no**",
                f"{we['pinball']:.4f}", *covered[2:], f"{they['pinball']:.4f}",
                f"{we['pinball'] / they['pinball']:.2f}",
            ])  # fmt: skip
    header = ["series", "horizon", "coverage 80", "coverage 95", "within 3 points", "pinball"]
    return markdown([*header, "seasonal naive: 80", "95", "pinball", "ours / its"], lines)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="a copy of ETTh1.csv; without it ETTh1 is left out")
    add("--series", nargs="+", choices=list(STEPS), help="all of them by default")
    add("--out", default=str(Path(__file__).parent / "results" / "intervals.json"), help="(%(default)s)")
    add("--jobs", type=int, help="threads")
    options = parser.parse_args()
    if options.data is None and "ETTh1" in (options.series or ()):
        parser.error("ETTh1 needs --data, a copy of ETTh1.csv")
    path = Path(options.out)
    done = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}
    for name in options.series or [each for each in STEPS if each != "ETTh1" or options.data]:
        done[name] = run(make_task(name, options.data), options.jobs)
        print(report({name: done[name]}), flush=True)
        results = {each: done[each] for each in STEPS if each in done}
        protocol = __doc__.split("\n\n", 1)[1]
        write_document(path, {"machine": describe_machine(), "protocol": protocol, "results": results})
    print("\n" + report(results))


if __name__ == "__main__":
    main()
