"""Times on a GPU against PyTorch with cuDNN: ``python benchmarks/gpu.py``, one command for all figures.

A script of the name cuda.py would hide the package of that name that numba-cuda is built on. Writes
``benchmarks/results/cuda_<device>.json``, anew after every case, and a picture beside it. Both sides are in
one process, in float32 without TF32, on one stream; results are compared before anything is timed, and a row
says what is wrong. A block is as many calls as fill some milliseconds, timed by CUDA events after a warm-up;
blocks of all sides take turns, and the median of the ratios of pairs counts. A training step is forward,
backward and the gradients of parameters and input, which cuDNN computes in any case. A fit is timed by the
clock, with all that `fit` does.

Beside "ours", which is what a user gets, a row has "recorded", the same as a graph of CUDA, and where the
time loop is on the chip "library", a product by cuBLAS in each step, as a graph: by these figures
`numbarnn.cuda.program.RECORDS` and `numbarnn.cuda.plans.MOST_WEIGHTS` are to be set. What fails, or takes
longer than a minute, is noted in its row, and the others go on in a new process: in the old one the GPU may
answer no more. After `--budget` seconds, 360, no further case is begun, and those that are missing are named,
so that all of it takes less than eight minutes; what takes longest is to compile kernels.

`--list` only names the cases and goals. `--only` is one layer, `--once` is for ncu and compute-sanitizer
(docs/cuda.md has the lines).

Needs an NVIDIA GPU, ``pip install -e ".[cuda,bench]"`` and PyTorch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from numbarnn import Recurrent
from numbarnn.bench.cases import CELLS, Case, Job, layer_data, our_job
from numbarnn.bench.measure import check_results, differences
from numbarnn.bench.report import describe_machine, format_seconds, versions_of, write_document

RESULTS = Path(__file__).parent / "results"
SHAPES = ((32, 100, 8, 32), (32, 100, 8, 64), (32, 100, 8, 96), (64, 100, 16, 128), (64, 100, 16, 256),
          (256, 100, 64, 512))  # fmt: skip
GOALS = {32: 2.0, 64: 2.0, 96: 2.0, 128: 1.0, 256: 1.0, 512: 0.5}
FIT, FIT_GOAL = (64, 48, 7, 64), 3.0
ROUNDS, BLOCK, FIT_ROUNDS = 7, 0.05, 5  # seconds of a block
BUDGET, START_SECONDS, CASE_SECONDS, END_SECONDS = 360, 30, 60, 5  # in all less than eight minutes
OTHERS = ("recorded", "library", "cpu")  # of our own, besides "ours"
PACKAGES = ("numba-cuda", "cuda-core", "cuda-bindings", "nvmath-python", "nvidia-cublas", "nvidia-nvjitlink",
            "nvidia-nvvm")  # fmt: skip


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


def torch_side(case: Case) -> Job:
    """Make the same ready for PyTorch."""
    import torch

    from numbarnn.bench.peers import torch_job

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch_job(case, threads=1, device="cuda")


@contextmanager
def recording() -> Iterator[None]:
    """Let programs that are made meanwhile be recorded as graphs."""
    from numbarnn.cuda import program

    with mock.patch.object(program, "RECORDS", True):
        yield


@contextmanager
def off_the_chip() -> Iterator[None]:
    """Let layers that are made meanwhile take a product of the library in each step."""
    with mock.patch("numbarnn.cuda.directions.plan", lambda *arguments: None):
        yield


def is_on_the_chip(case: Case) -> bool:
    """Whether the time loop of a layer is one launch."""
    from numbarnn.cells import CELLS as cells
    from numbarnn.cuda import plans
    from numbarnn.cuda.driver import processors
    from numbarnn.cuda.functions import equations

    found = equations(cells[case.cell], np.dtype(np.float32))
    return plans.plan(found, case.hidden, case.batch, processors()) is not None


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


def layer_jobs(case: Case) -> dict[str, Callable[[], Job]]:
    """Return what makes each side of a layer ready, by name."""

    def recorded() -> Job:
        with recording():
            return our_layer(case)

    def library() -> Job:
        with off_the_chip():
            return recorded()

    jobs = {"ours": lambda: our_layer(case), "peer": lambda: torch_side(case), "recorded": recorded}
    return jobs | ({"library": library} if is_on_the_chip(case) else {})


def fit_jobs(case: Case) -> dict[str, Callable[[], Job]]:
    """Return what makes each side of a fit ready, by name."""

    def ours() -> Job:
        return our_job(case, 1, device="cuda")

    def recorded() -> Job:
        job = ours()
        return Job(recording()(job.run), recording()(job.results), job.count)

    return {"ours": ours, "peer": lambda: torch_side(case), "recorded": recorded,
            "cpu": lambda: our_job(case, -1)}  # fmt: skip


def ready(case: Case, makers: dict[str, Callable[[], Job]]) -> tuple[dict[str, Job], dict[str, Any]]:
    """Make jobs, run each until it is recorded, and compare results with those of the peer.

    Returns
    -------
    jobs : dict of str to Job
        Without those that have failed, which only "recorded", "library" and "cpu" may.
    notes : dict
        Parts of a row: "differences" of each side and array, what is "wrong" with a side, and why one has
        "failed".
    """
    jobs: dict[str, Job] = {"peer": makers["peer"]()}
    notes: dict[str, Any] = {"differences": {}, "wrong": {}, "failed": {}}
    expected = jobs["peer"].results()
    for name, make in makers.items():
        if name == "peer":
            continue
        try:
            job = make()
            # the second call of a layer prepares or records it, and the third one is what will be timed
            for _ in range(3 if case.kind == "train" else 1):
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", message=".*cannot be recorded")
                    found = job.results()
            notes["differences"][name] = differences(case, found, expected)
            try:
                check_results(case, found, expected)
            except ValueError as error:  # wrong results may take as long as right ones
                notes["wrong"][name] = str(error)
            jobs[name] = job
        except Exception as error:
            if name == "ours":
                raise
            notes["failed"][name] = f"{type(error).__name__}: {error}"
    return jobs, notes


def measure_layer(case: Case) -> dict[str, Any]:
    """Measure a training step on both sides."""
    jobs, notes = ready(case, layer_jobs(case))
    calls = {name: prepare(job.run) for name, job in jobs.items()}
    rounds = [
        {name: seconds_of_block(job.run, calls[name]) for name, job in jobs.items()} for _ in range(ROUNDS)
    ]
    return {**summary(case, rounds), "goal": goal_of(case), **notes}


def measure_fit(case: Case) -> dict[str, Any]:
    """Measure seconds an epoch of whole fits: ours, PyTorch's loop, and ours on the CPU."""
    jobs, notes = ready(case, fit_jobs(case))
    rounds = [{name: clocked(job) for name, job in jobs.items()} for _ in range(FIT_ROUNDS)]
    return {**summary(case, rounds), "goal": FIT_GOAL, **notes}


def clocked(job: Job) -> float:
    """Return seconds of one of the things that a job does, by the clock."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    job.run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / job.count


def summary(case: Case, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise seconds of rounds, and the ratios of others to ours in each."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    names = list(rounds[0])
    row = case._asdict() | {f"{name}_seconds": spread([each[name] for each in rounds]) for name in names}
    for name in names:
        if name != "ours":
            row[f"ratio_{name}"] = spread([each[name] / each["ours"] for each in rounds])
    return row


def describe(row: dict[str, Any]) -> str:
    """Write a row as a line."""
    shape = ",".join(str(row[name]) for name in ("batch", "steps", "inputs", "hidden"))
    if "error" in row:
        return f"{row['kind']:<6}{row['cell']:<5}{shape:<17} not measured: {row['error']}"
    ours, peer = (format_seconds(row[f"{name}_seconds"]["median"]) for name in ("ours", "peer"))
    ratio = row["ratio_peer"]["median"]
    verdict = "reached" if ratio >= row["goal"] else "not reached"
    others = "".join(
        f"  {name} {format_seconds(row[f'{name}_seconds']['median'])}"
        for name in OTHERS
        if f"{name}_seconds" in row
    )
    others += "".join(
        f"  {name} {what}: {error}" for what in ("failed", "wrong") for name, error in row[what].items()
    )
    return (
        f"{row['kind']:<6}{row['cell']:<5}{shape:<17} ours {ours:>9}  cuDNN {peer:>9}  "
        f"ratio {ratio:5.2f}, goal {row['goal']} {verdict}{others}"
    )


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the ratios to cuDNN as bars, with the goals."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if "error" not in row]
    if not rows:
        return
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
    small, large = (
        [Case("train", cell, *shape, input_gradient=True) for shape in shapes for cell in CELLS]
        for shapes in (SHAPES[:3], SHAPES[3:])
    )
    # the largest last: if time is short, it is theirs
    return small + [Case("fit", cell, *FIT, n_windows=8000) for cell in CELLS] + large


def goal_of(case: Case) -> float:
    """Return the ratio to reach."""
    return FIT_GOAL if case.kind == "fit" else GOALS.get(case.hidden, 1.0)


def measured(case: Case) -> dict[str, Any]:
    """Return the row of a case, with an error in place of figures if there is one."""
    try:
        return measure_fit(case) if case.kind == "fit" else measure_layer(case)
    except Exception as error:
        return without_figures(case, error)


def without_figures(case: Case, error: Exception) -> dict[str, Any]:
    """Return the row of a case that has no figures."""
    return case._asdict() | {"goal": goal_of(case), "error": f"{type(error).__name__}: {error}"}


class Worker:
    """A process in which cases are measured, so that one that hangs or dies holds up no other.

    Parameters
    ----------
    work : callable
        What it does with that which it is sent.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()  # the end of the process is seen only if nobody else holds it

    def do(self, what: Any) -> Any:
        """Return what the work makes of that.

        Raises
        ------
        TimeoutError
            If it takes longer than a case may, from when the process is ready.
        ChildProcessError
            If the process ends meanwhile, at once.
        """
        try:
            self._connection.send(what)
            self._answer(START_SECONDS)
            return self._answer(CASE_SECONDS)
        except (EOFError, ConnectionError):
            self._process.join(END_SECONDS)
            raise ChildProcessError(f"the process died, code {self._process.exitcode}") from None

    def _answer(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError(f"no answer in {seconds} s")
        return self._connection.recv()

    def end(self) -> None:
        """End the process; one that even so does not end, as the driver holds it, is left behind."""
        self._process.kill()
        self._process.join(END_SECONDS)
        self._connection.close()


def serve(work: Callable[[Any], Any], connection: Connection) -> None:
    """Do the work for all that comes, and say before each time that it is begun."""
    with suppress(Exception):  # each case will say what is missing
        import torch

        from numbarnn.cuda.driver import cuda

        torch.cuda.synchronize()  # makes a context
        cuda.current_context()
    with suppress(EOFError):
        while True:
            what = connection.recv()
            connection.send(None)
            connection.send(work(what))


def measure(cases: list[Case], end: float, report: Callable[[list[dict[str, Any]]], None]) -> None:
    """Measure cases one by one in a process, another one after each failure, and report all rows after each.

    Parameters
    ----------
    cases : list of Case
    end : float
        After this time, of ``time.monotonic()``, those that are left are noted as not measured.
    report : callable
    """
    rows, worker = [], None
    try:
        for case in cases:
            try:
                if time.monotonic() > end:
                    raise TimeoutError("the budget was spent; --only measures a layer by itself")
                worker = worker or Worker(measured)
                row = worker.do(case)
            except Exception as error:
                row = without_figures(case, error)
            if worker and (row.get("error") or row["failed"]):
                worker.end()
                worker = None
            rows.append(row)
            report(rows)
    finally:
        if worker:
            worker.end()


def driver() -> str:
    """Return the version of NVIDIA's driver, if its tool is there to ask."""
    line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def arguments_of(line: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--list", action="store_true", help="name the cases and their goals, and do nothing")
    parser.add_argument("--only", help="one layer: cell,batch,steps,inputs,hidden")
    parser.add_argument("--once", action="store_true", help="run our side of it once and time nothing")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds after which no case is begun")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(line)


def main(line: list[str] | None = None) -> None:
    """Measure everything that is asked for."""
    start, arguments = time.monotonic(), arguments_of(line)
    cases = cases_of(arguments.only)
    if arguments.list:
        for case in cases:
            print(f"{case.label:<16}{','.join(map(str, case.shape)):<18}ratio at least {goal_of(case)}")
        return
    if arguments.once:
        for case in cases:
            our_layer(case).results()
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU; nothing was measured and nothing written")
    arguments.output.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name()
    name = "cuda_" + device.lower().replace(" ", "_") + ("_only" if arguments.only else "")
    method = {
        "rounds": ROUNDS, "fit_rounds": FIT_ROUNDS, "block_seconds": BLOCK, "budget": arguments.budget,
        "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "tf32": False,
    }  # fmt: skip
    machine = describe_machine()
    machine["versions"] |= versions_of(PACKAGES) | {"driver": driver()}

    def report(rows: list[dict[str, Any]]) -> None:
        print(describe(rows[-1]), flush=True)
        taken = round(time.monotonic() - start)
        content = {"device": device, "machine": machine, "method": method, "seconds": taken, "results": rows}
        write_document(arguments.output / f"{name}.json", content)
        if len(rows) == len(cases):
            draw(rows, device, arguments.output / f"{name}.png")

    measure(cases, start + arguments.budget, report)


if __name__ == "__main__":
    main()
    if multiprocessing.active_children():  # an ordinary end would wait for one that the driver holds
        os._exit(0)
