"""Accuracy on ETTh1, by the protocol of the papers: ``python benchmarks/accuracy_etth1.py --data ETTh1.csv``.

Protocol: 12, 4 and 4 months of 30 days for training, validation and test; channels z-scored on the training
months; all 7 channels; every window with stride 1, the last ones too; error on the z-scored values; mean of
the seeds. Settings are chosen without the test months, by two folds: 8 months of training and the 4 after
them, and the 12 and 4 of the protocol. The score of a setting is the mean of the two errors, each divided by
that of the last value as forecast of the same windows: the months of the second fold are three times as hard
as those of the first, and would decide alone. The second fold's model is the one that is tested. All scores
are printed, and the choice with them, before the first error of a test month is computed.

The first runs were chosen by the second fold alone; its error is that of one season, July to October, and
preferred settings that were the worse ones from November on. The rule above was written with that known, and
before any run of the first fold.

The options that take several values span a grid; each point of it is trained once with the first seed, in
both folds. The best of them, as many as --finalists says for every horizon, and for context 96 as many again,
are trained with each other seed as well, in the second fold, whose error is then the mean of the seeds; the
lowest score is the choice. Every finished run is kept in the file of --out and in the folder of --work, and
the choice is among all that are there: the same command goes on where it was interrupted, further grids may
be searched later, and ``--steps test`` tests the choice without a grid. After a change of the forecaster
itself, name other ones.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import pickle
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numbarnn import RNNForecaster
from numbarnn.bench.report import describe_machine, markdown, write_document

MONTH = 30 * 24
N_TRAIN, N_VALIDATION, N_TEST = 12 * MONTH, 4 * MONTH, 4 * MONTH
FOLDS = {"first": N_TRAIN - N_VALIDATION, "second": N_TRAIN}  # where validation begins

# Mean squared errors: the model of Lin et al., arXiv 2308.11200 (2023), from the tables that its authors keep
# beside their code; DLinear with a context of 96 from Liu et al., arXiv 2310.06625 (2023).
PUBLISHED = {
    "published, context 96": {96: 0.368, 192: 0.408, 336: 0.444, 720: 0.446},
    "published, context 720": {96: 0.351, 192: 0.392, 336: 0.423, 720: 0.466},
    "linear (DLinear, context 96)": {96: 0.386, 192: 0.437, 336: 0.481, 720: 0.519},
}
GOALS = {
    "context 96": {96: 0.368, 192: 0.408, 336: 0.444, 720: 0.446},
    "best context": {96: 0.351, 192: 0.392, 336: 0.423, 720: 0.446},
}
DEFAULTS_GOAL = 0.40  # at a horizon of 96


def read(path: str) -> np.ndarray:
    """Read the channels of ETTh1.csv, [n_timesteps, 7]."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    values = np.array([row[1:] for row in rows], dtype=float)
    if len(values) < N_TRAIN + N_VALIDATION + N_TEST or values.shape[1] != 7:
        raise SystemExit(f"{path} has shape {values.shape}; expected ETTh1.csv, shape (17420, 7)")
    return values[: N_TRAIN + N_VALIDATION + N_TEST]


def z_score(values: np.ndarray) -> np.ndarray:
    """Scale with mean and deviation of the training months."""
    train = values[:N_TRAIN]
    return (values - train.mean(axis=0)) / train.std(axis=0)


def errors(forecaster: Any, series: np.ndarray, first: int, last: int) -> tuple[float, float]:
    """Return MSE and MAE over every window whose forecast lies in series[first:last]."""
    context, horizon = forecaster.context_length_, forecaster.horizon_
    # [n_windows, n_channels, context + horizon] -> time before channels; a view, and copied in pieces
    windows = sliding_window_view(series[first - context : last], context + horizon, axis=0).swapaxes(1, 2)
    squared = absolute = 0.0
    for start in range(0, len(windows), 256):
        piece = windows[start : start + 256]
        error = forecaster.predict(context=np.ascontiguousarray(piece[:, :context])) - piece[:, context:]
        squared += float(np.square(error).sum())
        absolute += float(np.abs(error).sum())
    n_values = len(windows) * horizon * series.shape[1]
    return squared / n_values, absolute / n_values


# options of runs that do not name them: the first runs knew none of these, and keep their keys
UNSAID = {
    "learning_rate": "auto", "ema_momentum": None, "delta": 1.0, "series_embedding": "auto", "linear": False,
}  # fmt: skip


def grid(options: argparse.Namespace, horizon: int) -> list[dict[str, Any]]:
    """Every setting that is tried for a horizon, as arguments of RNNForecaster."""
    axes = {
        "context_length": options.contexts,
        "hidden_size": options.hidden,
        "num_layers": options.layers,
        "segment_length": options.segment,
        "dropout": options.dropout,
        "normalize": options.normalize,
        "loss": options.loss,
        "learning_rate_init": options.learning_rate,
        "batch_size": options.batch_size,
        "alpha": options.alpha,
        "learning_rate": options.schedule,
        "ema_momentum": options.ema_momentum,
        "delta": options.delta,
        "series_embedding": options.series_embedding,
        "linear": options.linear,
    }
    fixed = {
        "horizon": horizon,
        "cell": options.cell,
        "max_iter": options.epochs,
        "n_iter_no_change": options.patience,
        "max_grad_norm": options.max_grad_norm,
    }
    points = [{**fixed, **dict(zip(axes, values, strict=True))} for values in product(*axes.values())]
    return [
        {name: value for name, value in point.items() if name not in UNSAID or value != UNSAID[name]}
        for point in points
    ]


def last_value_error(series: np.ndarray, horizon: int, first: int, last: int) -> float:
    """Return the MSE of the last value as forecast, over the windows of `errors`."""
    windows = sliding_window_view(series[first - 1 : last], 1 + horizon, axis=0)
    return float(np.square(windows[..., 1:] - windows[..., :1]).mean())


class Runs:
    """Finished runs: figures in a JSON file, fitted forecasters in a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path, self.folder, self.n_jobs = Path(options.out), Path(options.work), options.jobs
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.document: dict[str, Any] = {"runs": []}
        if self.path.exists():
            self.document = json.loads(self.path.read_text(encoding="utf-8"))
        self.runs = {
            self.key(run["settings"], run["seed"], run.get("fold", "second")): run
            for run in self.document["runs"]
        }

    @staticmethod
    def key(settings: dict[str, Any], seed: int, fold: str) -> str:
        """Name of a run."""
        named = [settings, seed] if fold == "second" else [settings, seed, fold]
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]

    def write(self) -> None:
        """Write all that is known."""
        protocol = __doc__.split("\n\n")[1]
        self.document |= {"machine": describe_machine(), "protocol": protocol, "published": PUBLISHED}
        self.document["runs"] = list(self.runs.values())
        write_document(self.path, self.document)

    def fit(
        self, settings: dict[str, Any], seed: int, series: np.ndarray, fold: str = "second"
    ) -> dict[str, Any]:
        """Train, or find that it was done; the run has the error on the validation months."""
        key = self.key(settings, seed, fold)
        if key in self.runs:
            return self.runs[key]
        forecaster = RNNForecaster(**UNSAID | settings, random_state=seed, n_jobs=self.n_jobs)
        first, last = FOLDS[fold], FOLDS[fold] + N_VALIDATION
        start = time.perf_counter()
        forecaster.fit(series[:first], validation=series[first:last])
        seconds = time.perf_counter() - start
        mse, mae = errors(forecaster, series, first, last)
        self.runs[key] = {
            "settings": settings, "seed": seed, "fold": fold, "epochs": forecaster.n_iter_,
            "seconds": round(seconds, 1), "validation_mse": mse, "validation_mae": mae,
        }  # fmt: skip
        if fold == "second":
            (self.folder / f"{key}.pickle").write_bytes(pickle.dumps(forecaster))
        self.write()
        return self.runs[key]

    def score(self, settings: dict[str, Any], series: np.ndarray) -> float:
        """Return the mean of both folds' errors relative to the last value's; NaN where a fold is missing."""
        relative = []
        for fold, first in FOLDS.items():
            found = [
                run["validation_mse"] for run in self.runs.values()
                if run["settings"] == settings and run.get("fold", "second") == fold
            ]  # fmt: skip
            naive = last_value_error(series, settings["horizon"], first, first + N_VALIDATION)
            relative.append(np.mean(found) / naive if found else np.nan)
        return float(np.mean(relative))

    def test(self, settings: dict[str, Any], seed: int, series: np.ndarray) -> dict[str, Any]:
        """Add the error on the test months to a run."""
        run = self.fit(settings, seed, series)
        if "test_mse" not in run:
            key = self.key(settings, seed, "second")
            path = self.folder / f"{key}.pickle"
            if not path.exists():  # the figures came from elsewhere: train again
                del self.runs[key]
                run = self.fit(settings, seed, series)
            forecaster = pickle.loads(path.read_bytes())
            run["test_mse"], run["test_mae"] = errors(forecaster, series, N_TRAIN + N_VALIDATION, len(series))
            self.write()
        return run


def search(runs: Runs, options: argparse.Namespace, series: np.ndarray) -> dict[str, dict[int, dict]]:
    """Train the grid and the finalists; return which -> horizon -> settings, by the score."""
    chosen: dict[str, dict[int, dict]] = {name: {} for name in GOALS}
    for horizon in options.horizons:
        for settings in grid(options, horizon) if "search" in options.steps else ():
            done = [runs.fit(settings, options.seeds[0], series, fold) for fold in FOLDS]
            print(
                f"horizon {horizon}: score {runs.score(settings, series):.4f}, validation MSE "
                f"{done[0]['validation_mse']:.4f} and {done[1]['validation_mse']:.4f}, {done[1]['epochs']} "
                f"epochs, {done[1]['seconds']:.0f} s: {_words(settings)}",
                flush=True,
            )
        settings = [
            run["settings"] for run in runs.runs.values()
            if run["seed"] == options.seeds[0] and run["settings"]["horizon"] == horizon
            and run.get("fold") == "first"
        ]  # fmt: skip
        scored = [(runs.score(each, series), each) for each in settings]
        scored = [pair for pair in scored if not np.isnan(pair[0])]
        tried = [each for _, each in sorted(scored, key=lambda pair: pair[0])]
        for name, some in (
            ("context 96", [settings for settings in tried if settings["context_length"] == 96]),
            ("best context", tried),
        ):
            if some:
                print(f"finalists, {name}, horizon {horizon}:", flush=True)
                chosen[name][horizon] = choose(runs, options, series, some)
    for name, settings in chosen.items():
        for horizon, setting in settings.items():
            print(f"chosen, {name}, horizon {horizon}: {_words(setting)}", flush=True)
    return chosen


def choose(runs: Runs, options: argparse.Namespace, series: np.ndarray, tried: list[dict]) -> dict:
    """Train the first of `tried` with all seeds; return the settings with the lowest score."""
    found = []
    for settings in tried[: options.finalists]:
        for seed in options.seeds:
            runs.fit(settings, seed, series)
        found.append((runs.score(settings, series), settings))
        print(f"  score {found[-1][0]:.4f}: {_words(settings)}", flush=True)
    return min(found, key=lambda pair: pair[0])[1]


def evaluate(runs: Runs, options: argparse.Namespace, series: np.ndarray, chosen: dict) -> dict[str, Any]:
    """Return what the chosen settings reach on the test months, mean of the seeds."""
    summary: dict[str, Any] = {}
    for name, settings in chosen.items():
        for horizon, setting in settings.items():
            done = [runs.test(setting, seed, series) for seed in options.seeds]
            summary.setdefault(name, {})[str(horizon)] = {
                "mse": float(np.mean([run["test_mse"] for run in done])),
                "mae": float(np.mean([run["test_mae"] for run in done])),
                "mse_std": float(np.std([run["test_mse"] for run in done])),
                "seeds": options.seeds,
                "goal": GOALS[name].get(horizon),
                "settings": setting,
            }
    return summary


def defaults(options: argparse.Namespace, series: np.ndarray) -> dict[str, Any]:
    """Return what a forecaster with nothing tuned reaches at 96, with its intervals on the test months."""
    forecaster = RNNForecaster(horizon=96, random_state=options.seeds[0], n_jobs=options.jobs)
    start = time.perf_counter()
    forecaster.fit(series[:N_TRAIN])
    seconds = time.perf_counter() - start
    mse, mae = errors(forecaster, series, N_TRAIN + N_VALIDATION, len(series))
    result = {"mse": mse, "mae": mae, "seconds": round(seconds, 1), "goal": DEFAULTS_GOAL}
    if options.intervals:
        folds = forecaster.cross_validation(
            series, n_windows=(N_TEST - 96) // 24 + 1, step_size=24, h=96, level=[80, 95]
        )
        truth = folds.y[..., np.newaxis]
        inside = (truth >= folds.lower) & (truth <= folds.upper)
        percent = (100 * inside.mean(axis=(0, 1, 2))).tolist()
        result["coverage"] = dict(zip(["80", "95"], percent, strict=True))
    return result


def report(summary: dict[str, Any], horizons: list[int]) -> str:
    """Lay out our errors under the published ones, as Markdown."""
    rows = [[name, *(f"{row.get(h, np.nan):.3f}" for h in horizons)] for name, row in PUBLISHED.items()]
    for name, row in summary.items():
        cells = []
        for horizon in horizons:
            cell = row.get(str(horizon))
            cells.append("" if cell is None else f"{cell['mse']:.3f} (goal {cell['goal'] or np.nan:.3f})")
        rows.append([f"numbarnn, {name}", *cells])
    return markdown(["ETTh1, MSE", *map(str, horizons)], rows)


def _words(settings: dict[str, Any]) -> str:
    """Write settings on a line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "horizon")


def _or_none(kind):
    """Return a reader of an option that may be "none"."""
    return lambda text: None if text == "none" else kind(text)


def _auto_or_int(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _flag(text: str) -> bool | str:
    return {"yes": True, "no": False}.get(text, text)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = Path(__file__).parent / "results"
    add = parser.add_argument
    add("--data", required=True, help="a copy of ETTh1.csv")
    add("--out", default=str(results / "accuracy_etth1.json"), help="figures of all runs (%(default)s)")
    add("--work", default="build/etth1", help="folder of the fitted forecasters (%(default)s)")
    add("--steps", nargs="+", default=["search", "test"], choices=["search", "test", "defaults"])
    add("--intervals", action="store_true", help="with defaults: coverage of the 80 and 95 %% intervals too")
    add("--jobs", type=int, help="threads")
    add("--horizons", type=int, nargs="+", default=[96, 192, 336, 720])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--finalists", type=int, default=2, help="settings that are trained with all seeds (%(default)s)")
    add("--cell", default="gru")
    add("--epochs", type=int, default=30)
    add("--patience", type=int, default=10, help="epochs without a lower validation loss")
    add("--max-grad-norm", type=_or_none(float), default=None, help='a bound, or "none" (%(default)s)')
    several = parser.add_argument_group("the grid: each may have several values").add_argument
    several("--contexts", type=int, nargs="+", default=[96])
    several("--hidden", type=int, nargs="+", default=[128])
    several("--layers", type=int, nargs="+", default=[1])
    several("--segment", type=_auto_or_int, nargs="+", default=[24])
    several("--dropout", type=float, nargs="+", default=[0.5])
    several("--normalize", type=_or_none(str), nargs="+", default=["last"])
    several("--loss", nargs="+", default=["squared_error"])
    several("--learning-rate", type=float, nargs="+", default=[1e-3])
    several("--batch-size", type=_auto_or_int, nargs="+", default=[1792], help="rows: 7 channels a window")
    several("--alpha", type=float, nargs="+", default=[0.0])
    several("--schedule", nargs="+", default=["auto"], help="of the learning rate (%(default)s)")
    several("--ema-momentum", type=_or_none(float), nargs="+", default=[None], help="of averaged weights")
    several("--delta", type=float, nargs="+", default=[1.0], help="of the Huber loss")
    several("--linear", type=_flag, choices=["auto", True, False], nargs="+", default=["auto"],
            metavar="{auto,yes,no}")  # fmt: skip
    several("--series-embedding", type=_or_none(_auto_or_int), nargs="+", default=["auto"], help="or none")
    return parser.parse_args()


def main() -> None:
    """Search, test, print and write."""
    options = parse()
    series = z_score(read(options.data))
    runs = Runs(options)
    if "search" in options.steps or "test" in options.steps:
        # the test months are out of reach until the choice is made and printed
        chosen = search(runs, options, series[: N_TRAIN + N_VALIDATION])
        if "test" in options.steps:
            summary = runs.document.setdefault("summary", {})
            for name, cells in evaluate(runs, options, series, chosen).items():
                summary.setdefault(name, {}).update(cells)
            print(report(summary, options.horizons))
    if "defaults" in options.steps:
        runs.document["defaults"] = result = defaults(options, series)
        print("defaults at 96:", json.dumps(result))
    runs.write()


if __name__ == "__main__":
    main()
