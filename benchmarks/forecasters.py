"""The forecaster beside others: ``python benchmarks/forecasters.py PART ...`` measures one part or several.

epoch    an epoch of our network beside the same one in PyTorch, in turns
global   one model of 500 series beside one model per series, and beside the seasonal naive forecast
memory   peak memory of fitting a million windows of one series
peers    the same job done by neuralforecast's GRU and LSTM: time, memory, size of the installation, error

Run it on an idle machine. Every part prints a table and replaces its figures in
``benchmarks/results/forecasters.json``; but those of `peers` are kept there one by one, so that the same
command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import contenders
from accuracy_etth1 import N_TRAIN, N_VALIDATION, read, z_score
from contenders import DAY, STRIDE
from numbarnn import RNNForecaster
from numbarnn.bench.report import describe_machine, markdown, write_document
from numbarnn.datasets import load_electricity

PAUSE = 0.05  # seconds: waiting threads stop spinning before the other side is timed


def etth1(path: str | None) -> np.ndarray:
    """Read ETTh1, each channel scaled with mean and deviation of its training months."""
    if path is None:
        raise SystemExit("--data was not given; expected a copy of ETTh1.csv")
    return z_score(read(path))


# ---- an epoch of the same model in PyTorch

HORIZON, CONTEXT, SEGMENT, HIDDEN, DROPOUT, RATE, ROWS = 96, 96, 24, 128, 0.5, 1e-3, 256 * 7


class TorchSide:
    """A model in PyTorch and windows of ETTh1.

    Parameters
    ----------
    name : {"SegmentModel", "SharedSegmentModel"}
        See `segment_model`.
    series : ndarray of shape (n_timesteps, n_channels)
        Training months, and those of validation behind them.
    threads, seed : int
    """

    def __init__(self, name: str, series: np.ndarray, threads: int, seed: int) -> None:
        import torch

        import segment_model

        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.torch, self.n_channels = torch, series.shape[1]
        self.model = getattr(segment_model, name)(HORIZON, SEGMENT, HIDDEN, DROPOUT, self.n_channels)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True)
        values = torch.from_numpy(series.astype(np.float32)).T.contiguous()
        train, later = values[:, :N_TRAIN], values[:, N_TRAIN - CONTEXT :]
        # views [channels, windows, context + horizon]; rows of a batch are copied out
        self.train, self.later = (part.unfold(1, CONTEXT + HORIZON, 1) for part in (train, later))

    def batches(self, windows, numbers):
        """Yield contexts, what followed, and channels; numbers count the channels of a window one by one."""
        for batch in numbers.split(ROWS):
            channel = batch % self.n_channels
            rows = windows[channel, batch // self.n_channels]
            yield rows[:, :CONTEXT], rows[:, CONTEXT:], channel

    def epoch(self) -> float:
        """Train on every window once, and return the seconds."""
        torch, n_rows = self.torch, self.n_channels * self.train.shape[1]
        start = time.perf_counter()
        self.model.train()
        for x, y, channel in self.batches(self.train, torch.randperm(n_rows)):
            self.optimizer.zero_grad()
            torch.nn.functional.mse_loss(self.model(x, channel), y).backward()
            self.optimizer.step()
        return time.perf_counter() - start

    def validation_mse(self) -> float:
        """Mean squared error over all windows whose forecast lies in the validation months."""
        torch, n_rows, total = self.torch, self.n_channels * self.later.shape[1], 0.0
        self.model.eval()
        with torch.inference_mode():
            for x, y, channel in self.batches(self.later, torch.arange(n_rows)):
                total += float((self.model(x, channel) - y).square().sum())
        return total / (n_rows * HORIZON)


# in the table: the key in the results, and the model
PEERS = {
    "PyTorch, decoder as published": ("peer", "SegmentModel"),
    "PyTorch, products shared as ours are": ("shared_peer", "SharedSegmentModel"),
}


def epochs_in_turns(
    series: np.ndarray, threads: int, seed: int, n_epochs: int, warm: int
) -> dict[str, dict[str, list[float]]]:
    """Fit all from one seed, epoch by epoch in turns; return the seconds and validation errors of each."""
    peers = {key: TorchSide(name, series, threads, seed) for key, name in PEERS.values()}
    seconds: dict[str, list[float]] = {key: [] for key in ("our", *peers)}
    mse: dict[str, list[float]] = {key: [] for key in peers}
    clock = {"start": time.perf_counter()}

    def take_turns(info):
        if info["event"] == "batch":
            if info["batch"] == info["n_batches"] - 1:
                seconds["our"].append(time.perf_counter() - clock["start"])
            return
        for key, peer in peers.items():
            time.sleep(PAUSE)
            seconds[key].append(peer.epoch())
            mse[key].append(peer.validation_mse())
        time.sleep(PAUSE)
        clock["start"] = time.perf_counter()

    forecaster = RNNForecaster(
        HORIZON, CONTEXT, hidden_size=HIDDEN, segment_length=SEGMENT, dropout=DROPOUT, batch_size=ROWS,
        learning_rate_init=RATE, learning_rate="constant", max_grad_norm=None, max_iter=n_epochs,
        n_iter_no_change=np.inf, samples_per_epoch=None, linear=False, intervals=None, random_state=seed,
        n_jobs=threads, callbacks=take_turns,
    )  # fmt: skip
    forecaster.fit(series[:N_TRAIN], validation=series[N_TRAIN : N_TRAIN + N_VALIDATION])
    # our loss is half the squared error
    mse["our"] = [-2 * score for score in forecaster.validation_scores_]
    return {key: {"seconds": seconds[key][warm:], "validation_mse": mse[key]} for key in seconds}


def measure_epoch(options: argparse.Namespace) -> dict[str, Any]:
    """Compare epochs of both sides."""
    import torch

    series = etth1(options.data)[: N_TRAIN + N_VALIDATION]
    runs = [epochs_in_turns(series, options.threads, seed, options.epochs, warm=2) for seed in options.seeds]
    found: dict[str, Any] = {
        "settings": {
            "data": "ETTh1, 12 months of training", "horizon": HORIZON, "context": CONTEXT,
            "segment": SEGMENT, "hidden": HIDDEN, "dropout": DROPOUT, "rows in a batch": ROWS,
            "solver": "adam", "learning rate": RATE, "threads": options.threads, "epochs": options.epochs,
            "seeds": options.seeds, "torch": torch.__version__,
        },
    }  # fmt: skip
    ours, rows = [second for run in runs for second in run["our"]["seconds"]], []
    for name, (key, _) in {"numbarnn": ("our", None), **PEERS}.items():
        theirs = [second for run in runs for second in run[key]["seconds"]]
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        least = [min(run[key]["validation_mse"]) for run in runs]
        last = [run[key]["validation_mse"][-1] for run in runs]
        found[key] = {
            "seconds": statistics.median(theirs),
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            "validation_mse": {"lowest": least, "last": last},
        }
        seconds, ratio = found[key]["seconds"], found[key]["ratio"]["median"]
        rows.append([name, f"{seconds:.2f}", f"{ratio:.2f}", _spread(last), _spread(least)])
    print(markdown(
        ["model, ETTh1 at horizon 96", "seconds an epoch", "ratio (median of pairs)",
         f"validation MSE, epoch {options.epochs}", "lowest of all epochs"], rows,
    ))  # fmt: skip
    return found


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values):.4f}"


# ---- one model of many series

N_SERIES, N_STEPS, AHEAD, WEEK, N_ORIGINS = 500, 1000, 24, 168, 4


def hourly_series(n_series: int, n_steps: int, seed: int = 0) -> np.ndarray:
    """Draw hourly series: levels of all sizes, days and weeks, a trend, changes of level, noise with memory.

    Returns
    -------
    ndarray of shape (n_series, n_steps)
    """
    rng = np.random.default_rng(seed)
    hour = np.arange(n_steps)
    series = np.empty((n_series, n_steps))
    for i in range(n_series):
        waves = np.arange(1, 4)[:, np.newaxis]  # of a day; the phases are alike in all series
        phase = np.array([[1.0], [2.5], [0.5]]) + rng.normal(0, 0.5, (3, 1))
        size = rng.uniform(0.1, 0.4) * rng.uniform(0.3, 1, (3, 1)) / waves
        shape = 1 + (size * np.cos(2 * np.pi * waves * hour / DAY - phase)).sum(axis=0)
        weekend = (hour + rng.integers(WEEK)) % WEEK >= 5 * DAY
        shape *= np.where(weekend, rng.uniform(0.6, 1.1), 1)
        shape += rng.normal(0, 0.2) * hour / N_STEPS
        for where in rng.integers(n_steps, size=rng.poisson(2)):
            shape[where:] += rng.normal(0, 0.15)
        noise = rng.uniform(0.02, 0.1) * rng.standard_t(5, n_steps)
        for t in range(1, n_steps):
            noise[t] += 0.5 * noise[t - 1]
        series[i] = np.exp(rng.normal(3, 1.5)) * (shape + noise)
    return series


def absolute_scaled_errors(truth: np.ndarray, forecast: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean absolute scaled error of each series: over the error of the day before in what is known."""
    scale = np.abs(known[:, DAY:] - known[:, :-DAY]).mean(axis=1)
    return np.abs(truth - forecast).mean(axis=1) / scale


def fit_and_follow(series: np.ndarray, threads: int) -> tuple[float, np.ndarray]:
    """Fit by defaults; return the seconds, and the forecasts of the days that follow, one after the other."""
    start = time.perf_counter()
    forecaster = RNNForecaster(AHEAD, random_state=0, n_jobs=threads).fit(list(series[:, :N_STEPS]))
    seconds = time.perf_counter() - start
    days = []
    for first in range(N_STEPS, series.shape[1], AHEAD):
        days.append(np.stack(forecaster.predict()))
        forecaster.update(list(series[:, first : first + AHEAD]))
    return seconds, np.concatenate(days, axis=1)


def measure_global(options: argparse.Namespace) -> dict[str, Any]:
    """Compare one model of all series with a model for each and with the last day and week."""
    series = hourly_series(options.series, N_STEPS + N_ORIGINS * AHEAD)
    known, truth = series[:, :N_STEPS], series[:, N_STEPS:]
    fit_and_follow(series[:1], options.threads)  # compiled code is read from its cache
    sample = slice(0, options.sample)
    seconds, forecast = fit_and_follow(series, options.threads)
    errors = {"one model of all series": absolute_scaled_errors(truth, forecast, known)}
    single = [fit_and_follow(series[i : i + 1], options.threads) for i in range(options.sample)]
    forecast = np.concatenate([each for _, each in single])
    errors["one model per series"] = absolute_scaled_errors(truth[sample], forecast, known[sample])
    for name, lag in (("seasonal naive, last day", DAY), ("seasonal naive, last week", WEEK)):
        # never later than an origin, since the horizon is a day
        errors[name] = absolute_scaled_errors(truth, series[:, N_STEPS - lag : -lag], known)
    spent = sum(each for each, _ in single)
    extrapolated = spent / options.sample * options.series
    times = {
        "one model of all series": f"{seconds:.1f}",
        "one model per series": f"{extrapolated:.0f}, extrapolated from {spent:.1f} of {options.sample}",
    }
    rows = []
    for name, error in errors.items():
        every = f"{error.mean():.3f}" if len(error) == options.series else ""
        rows.append([name, times.get(name, ""), every, f"{error[sample].mean():.3f}"])
    print(markdown(
        [f"{options.series} hourly series of {N_STEPS}, the next {AHEAD}, {N_ORIGINS} origins",
         "seconds to fit", "MASE, all series", f"MASE, the first {options.sample}"], rows,
    ))  # fmt: skip
    return {
        "settings": {
            "series": options.series, "steps": N_STEPS, "horizon": AHEAD, "origins": N_ORIGINS,
            "season": DAY, "forecaster": "defaults", "threads": options.threads, "sample": options.sample,
        },
        "seconds": {"one model of all series": seconds, "one model per series, of the sample": spent,
                    "one model per series, extrapolated to all": extrapolated},
        "mase": {name: float(error.mean()) for name, error in errors.items() if len(error) > options.sample},
        "mase_of_sample": {name: float(error[sample].mean()) for name, error in errors.items()},
    }  # fmt: skip


# ---- in a process of its own


def alone(task: str, python: str = sys.executable, **settings: Any) -> dict[str, Any]:
    """Do one of `contenders.TASKS` in a fresh process."""
    command = [python, "-W", "ignore", contenders.__file__, json.dumps({"task": task, **settings})]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


N_WINDOWS = 1_000_000


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak of a fit of a million windows, by the allocator and by the system."""
    settings = {"n_windows": options.windows, "threads": options.threads}
    resident, traced = (alone("fit_windows", traced=traced, **settings) for traced in (False, True))
    mb = 1e6
    size, limit = resident["series"] / mb, (1.5 * resident["series"] + 200e6) / mb
    grown = (resident["peak"] - resident["before"] + resident["series"]) / mb
    allocated = (traced["allocated"] + traced["series"]) / mb
    print(markdown(
        [f"peak memory, {options.windows:,} windows of {resident['window']} steps", "MB"],
        [["the series", f"{size:.1f}"], ["limit: 1.5 times the series and 200 MB", f"{limit:.1f}"],
         ["series and what fit allocates (tracemalloc)", f"{allocated:.1f}"],
         ["series and growth of the resident size in fit", f"{grown:.1f}"],
         ["resident size before fit, with the program", f"{resident['before'] / mb:.1f}"],
         ["resident size, peak", f"{resident['peak'] / mb:.1f}"]],
    ))  # fmt: skip
    return {
        "settings": {**settings, "window": resident["window"], "forecaster": "defaults, max_iter=1"},
        "bytes": {
            "series": resident["series"], "limit": 1.5 * resident["series"] + 200e6,
            "allocated": traced["allocated"], "resident_before": resident["before"],
            "resident_peak": resident["peak"],
        },
        "seconds": resident["seconds"],
    }  # fmt: skip


# ---- the same job done by others

TEST_HOURS = 120 * 24
# name -> (class, arguments that are not defaults); None is RNNForecaster
CONTENDERS: dict[str, dict[str, tuple[str | None, dict[str, Any]]]] = {
    "ETTh1": {
        "numbarnn": (None, {}),
        "GRU, defaults": ("GRU", {}),
        "GRU, defaults but max_steps": ("GRU", {"max_steps": 200}),
        "LSTM, defaults but max_steps": ("LSTM", {"max_steps": 200}),
    },
    "electricity": {
        "numbarnn": (None, {}),
        "GRU, defaults": ("GRU", {}),
    },
}


def peer_data(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the series, scaled by what is fitted: the last 120 days are held out."""
    demand = load_electricity().data
    known = demand[:-TEST_HOURS]
    return {
        "ETTh1": {"values": etth1(options.data), "horizon": 96},
        "electricity": {"values": (demand - known.mean()) / known.std(), "horizon": 24},
    }


def seasonal_naive(values: np.ndarray, horizon: int) -> dict[str, float]:
    """Return the errors of repeating the last week."""
    ahead = np.arange(horizon)
    origins = np.arange(len(values) - TEST_HOURS, len(values) - horizon + 1, STRIDE)[:, np.newaxis]
    error = values[origins + ahead % WEEK - WEEK] - values[origins + ahead]
    return {"mse": float(np.square(error).mean()), "mae": float(np.abs(error).mean())}


def measure_peers(options: argparse.Namespace) -> dict[str, Any]:
    """Let everyone do the same job, each in a process of its own."""
    found = read_results(options).get("peers", {})
    found["settings"] = {
        "threads": options.threads, "data": "scaled by mean and deviation of what is trained on; long frame; "
        "the last 120 days are held out", "stride of the origins": STRIDE,
        "horizons": {"ETTh1": 96, "electricity": 24},
    }  # fmt: skip
    rows = found.setdefault("rows", {})
    for data, job in peer_data(options).items():
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "job.npz")
            np.savez(path, n_fit=len(job["values"]) - TEST_HOURS, **job)
            kept = rows.setdefault(data, {})
            kept["seasonal naive, last week"] = seasonal_naive(job["values"], job["horizon"])
            for title, (name, settings) in CONTENDERS[data].items():
                python = options.our_python if name is None else options.peer_python
                row = kept.get(title, {})
                if row.get("arguments") != settings or (options.extrapolate and name is None):
                    row = fit_alone(python, path, name, settings, options.threads)
                if options.extrapolate and name is not None:
                    row |= extrapolate(python, path, name, settings, options)
                kept[title] = row
                write_results(options, "peers", found)
        print(peer_table(f"{data}, horizon {job['horizon']}", kept), flush=True)
    return found


def fit_alone(
    python: str, path: str, name: str | None, settings: dict[str, Any], threads: int
) -> dict[str, Any]:
    """Return the row of a contender."""
    answer = alone(
        "fit_contender", python, path=path, name=name, settings=settings, threads=threads, steps=None
    )
    return {"arguments": settings, **answer}


def extrapolate(
    python: str, path: str, name: str, settings: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Time a few steps of training, and reckon what all of them take."""
    steps = [max(options.extrapolate // 4, 1), options.extrapolate]
    job = {"path": path, "name": name, "settings": settings, "threads": options.threads, "steps": steps}
    answer = alone("fit_contender", python, **job)
    first, last = answer["seconds"]
    step = (last - first) / (steps[1] - steps[0])
    all_steps = settings.get("max_steps", 1000)  # the default of neuralforecast
    return {
        "seconds": last + (all_steps - steps[1]) * step, "seconds_per_step": step,
        "extrapolated_from_steps": steps[1], "peak_memory": answer["peak_memory"],
    }  # fmt: skip


def peer_table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    """Lay out the rows of a data set."""
    cells = []
    for name, row in rows.items():
        line = [name, ""] + [""] * 3
        if "seconds" in row:
            words = ", ".join(f"{key} {value}" for key, value in row["arguments"].items())
            mark = "~" if "extrapolated_from_steps" in row else ""
            sizes = [f"{row[key] / 1e6:.0f}" for key in ("peak_memory", "installation")]
            line = [name, words or "defaults", f"{mark}{row['seconds']:.0f}", *sizes]
        cells.append([*line, f"{row['mse']:.3f}", f"{row['mae']:.3f}"])
    note = (
        "\n\n~ reckoned from the time of a few steps of training" if any("~" in c[2] for c in cells) else ""
    )
    header = [title, "arguments", "seconds to fit", "peak memory, MB", "installation, MB", "MSE", "MAE"]
    return markdown(header, cells) + note + "\n"


# ---- parts, options, results

PARTS = {
    "epoch": measure_epoch,
    "global": measure_global,
    "memory": measure_memory,
    "peers": measure_peers,
}


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    add("--data", help="a copy of ETTh1.csv")
    add("--threads", type=int, default=2)
    add("--epochs", type=int, default=8, help="epoch: of each fit (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="epoch: fits of both sides")
    add("--series", type=int, default=N_SERIES, help="global: how many (%(default)s)")
    add("--sample", type=int, default=10, help="global: how many are fitted one by one (%(default)s)")
    add("--windows", type=int, default=N_WINDOWS, help="memory: how many (%(default)s)")
    add("--our-python", default=sys.executable, help="peers: an interpreter that has numbarnn and pandas")
    add("--peer-python", default=sys.executable, help="peers: an interpreter that has neuralforecast")
    add(
        "--extrapolate", type=int, metavar="STEPS",
        help="peers: time so many steps of theirs in place of all, and keep the errors found before",
    )  # fmt: skip
    add("--output", default=str(Path(__file__).parent / "results" / "forecasters.json"))
    return parser.parse_args()


def read_results(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured before."""
    path = Path(options.output)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_results(options: argparse.Namespace, part: str, found: dict[str, Any]) -> None:
    """Replace the figures of a part."""
    results = read_results(options) | {part: {**found, "machine": describe_machine()}}
    write_document(Path(options.output), results)


def main() -> None:
    """Measure, print and write."""
    options = parse()
    for part in options.parts:
        write_results(options, part, PARTS[part](options))


if __name__ == "__main__":
    main()
