"""Times on a GPU against PyTorch with cuDNN: ``python benchmarks/gpu.py``, meant to take under 8 minutes.

A script of the name cuda.py would hide the package of that name that numba-cuda is built on. Writes
``benchmarks/results/cuda_<device>.json`` and a picture beside it. Both sides are in this process, in float32
without TF32, on one stream; results are compared before anything is timed. A block is as many calls as fill
some milliseconds, timed by CUDA events after a warm-up; blocks of both sides take turns, and the median of
the ratios of pairs counts. A training step is forward, backward and the gradients of parameters and input,
which cuDNN computes in any case. A fit is timed by the clock, with all that `fit` does. `--graphs` records
programs as graphs, `--only` and `--once` are for a profiler:

    ncu --set full python benchmarks/gpu.py --only lstm,256,100,64,512 --once

Needs an NVIDIA GPU, ``pip install -e ".[cuda,bench]"`` and PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from numbarnn import Recurrent
from numbarnn.bench.cases import CELLS, Case, Job, layer_data, our_job
from numbarnn.bench.measure import check_results
from numbarnn.bench.report import describe_machine, format_seconds, write_document

RESULTS = Path(__file__).parent / "results"
SHAPES = ((32, 100, 8, 32), (32, 100, 8, 64), (32, 100, 8, 96), (64, 100, 16, 128), (64, 100, 16, 256),
          (256, 100, 64, 512))  # fmt: skip
GOALS = {32: 2.0, 64: 2.0, 96: 2.0, 128: 1.0, 256: 1.0, 512: 0.5}
FIT, FIT_GOAL = (64, 48, 7, 64), 3.0
ROUNDS, BLOCK, FIT_ROUNDS = 7, 0.05, 5  # seconds of a block


def our_layer(case: Case) -> Job:
    """Make a training step ready whose arrays are on the device, as they are in training."""
    from numbarnn.cuda.driver import download
    from numbarnn.cuda.layers import Layers, Shape, Way
    from numbarnn.cuda.program import Program

    (B, T, inputs, H), (x, weights) = case.shape, layer_data(case)
    recurrent = Recurrent(case.cell, inputs, H)
    recurrent.load_parameters(weights)
    layers = Layers(recurrent)
    layers.parameters.copy_to_device(recurrent._flat)
    way, program = Way(layers, Shape(T, B, training=True)), Program()
    way.rows[0].copy_to_device(np.ascontiguousarray(x.transpose(1, 0, 2)).ravel())
    doutput = np.zeros((T, B, H), np.float32)
    doutput[-1] = 1
    way.drows[-1].copy_to_device(doutput.ravel())
    way.forward(program)
    way.start_back(program, given=False)
    way.backward(program, output_gradient=True, input_gradient=True)

    def results() -> dict[str, np.ndarray]:
        program.run()
        recurrent._flat_gradients[...] = download(layers.gradients)
        found = {name: value.copy() for name, value in recurrent.gradients.items()}
        for name, rows in (("output", way.rows[-1]), ("dx", way.drows[0])):
            found[name] = download(rows).reshape(T, B, -1).transpose(1, 0, 2)
        return found

    return Job(program.run, results)


def torch_layer(case: Case) -> Job:
    """Make the same step ready for PyTorch."""
    import torch

    from numbarnn.bench.peers import torch_job

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch_job(case, threads=1, device="cuda")


def seconds_of_block(run: Callable[[], Any], calls: int) -> float:
    """Return seconds of a call on the device's own clock."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def prepare(run: Callable[[], Any]) -> int:
    """Warm up; return how many calls fill a block."""
    for _ in range(3):
        run()
    return max(1, round(BLOCK / max(1e-6, seconds_of_block(run, 5))))


def measure_layer(case: Case) -> dict[str, Any]:
    """Measure a training step on both sides, and ours with a product of the library in each step."""
    ours, theirs = our_layer(case), torch_layer(case)
    difference = check_results(case, ours.results(), theirs.results())
    jobs = {"ours": ours, "peer": theirs}
    with mock.patch("numbarnn.cuda.layers.plan", lambda *arguments: None):
        jobs["library"] = our_layer(case)
    check_results(case, jobs["library"].results(), theirs.results())
    calls = {name: prepare(job.run) for name, job in jobs.items()}
    rounds = [
        {name: seconds_of_block(job.run, calls[name]) for name, job in jobs.items()} for _ in range(ROUNDS)
    ]
    return {**summary(case, rounds), "difference": difference, "goal": GOALS[case.hidden]}


def measure_fit(case: Case) -> dict[str, Any]:
    """Measure whole fits by the clock: ours, PyTorch's loop, and ours on the CPU."""
    import torch

    from numbarnn.bench.peers import torch_job

    jobs = {
        "ours": our_job(case, 1, device="cuda"),
        "peer": torch_job(case, 1, device="cuda"),
        "cpu": our_job(case, -1),
    }
    found = {name: job.results() for name, job in jobs.items()}
    for name in ("peer", "cpu"):
        check_results(case, found["ours"], found[name])

    def clocked(job: Job) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        job.run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / job.count

    rounds = [{name: clocked(job) for name, job in jobs.items()} for _ in range(FIT_ROUNDS)]
    return {**summary(case, rounds), "goal": FIT_GOAL}


def summary(case: Case, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise seconds of rounds, and the ratios of others to ours in each."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    names = list(rounds[0])
    row = case._asdict() | {f"{name}_seconds": spread([each[name] for each in rounds]) for name in names}
    for name in names[1:]:
        row[f"ratio_{name}"] = spread([each[name] / each["ours"] for each in rounds])
    return row


def describe(row: dict[str, Any]) -> str:
    """Write a row as a line."""
    shape = ",".join(str(row[name]) for name in ("batch", "steps", "inputs", "hidden"))
    ours, peer = (format_seconds(row[f"{name}_seconds"]["median"]) for name in ("ours", "peer"))
    ratio = row["ratio_peer"]["median"]
    verdict = "reached" if ratio >= row["goal"] else "not reached"
    others = "".join(
        f"  {name} {format_seconds(row[f'{name}_seconds']['median'])}"
        for name in ("library", "cpu")
        if f"{name}_seconds" in row
    )
    return (
        f"{row['kind']:<6}{row['cell']:<5}{shape:<17} ours {ours:>9}  cuDNN {peer:>9}  "
        f"ratio {ratio:5.2f}, goal {row['goal']} {verdict}{others}"
    )


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the ratios to cuDNN as bars, with the goals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.35 * len(rows) + 1.5), layout="constrained")
    axis = figure.subplots()
    names = [f"{row['kind']} {row['cell']} {row['batch']}, {row['hidden']}" for row in rows]
    axis.barh(names, [row["ratio_peer"]["median"] for row in rows])
    axis.plot([row["goal"] for row in rows], names, "k|", markersize=12, label="goal")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.invert_yaxis()
    axis.set_xlabel("time of PyTorch with cuDNN / time of numbarnn")
    axis.set_title(title, loc="left")
    axis.legend()
    figure.savefig(path, dpi=110)


def cases_of(only: str | None) -> list[Case]:
    """List the cases, or the one that is asked for as "cell,batch,steps,inputs,hidden"."""
    if only:
        cell, *sizes = only.split(",")
        return [Case("train", cell, *map(int, sizes), input_gradient=True)]
    layers = [Case("train", cell, *shape, input_gradient=True) for shape in SHAPES for cell in CELLS]
    return layers + [Case("fit", cell, *FIT, n_windows=8000) for cell in CELLS]


def main() -> None:
    """Measure everything that is asked for."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", help="one layer: cell,batch,steps,inputs,hidden")
    parser.add_argument("--once", action="store_true", help="run our side of it once and time nothing")
    parser.add_argument("--graphs", action="store_true", help="record programs as graphs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.graphs:
        from numbarnn.cuda import program

        program.RECORDS = True
    cases = cases_of(arguments.only)
    if arguments.once:
        for case in cases:
            our_layer(case).results()
        return
    import torch

    device, rows = torch.cuda.get_device_name(), []
    for case in cases:
        rows.append(measure_fit(case) if case.kind == "fit" else measure_layer(case))
        print(describe(rows[-1]), flush=True)
    method = {
        "rounds": ROUNDS, "fit_rounds": FIT_ROUNDS, "block_seconds": BLOCK, "graphs": arguments.graphs,
        "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "tf32": False,
    }  # fmt: skip
    name = "cuda_" + device.lower().replace(" ", "_") + "_graphs" * arguments.graphs
    content = {"device": device, "machine": describe_machine(), "method": method, "results": rows}
    write_document(arguments.output / f"{name}.json", content)
    draw(rows, device, arguments.output / f"{name}.png")


if __name__ == "__main__":
    main()
