"""Timing in turns: ours, peer, ours, peer, and the ratio of each pair."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from .cases import Case, Job, our_job
from .peers import PEERS

PAUSE = 0.03  # seconds: OpenMP's waiting threads stop spinning before the other side is timed


class Effort(NamedTuple):
    """How long to measure.

    Attributes
    ----------
    rounds : int
        Pairs of blocks; each gives one ratio.
    block : float
        Seconds of repeated calls in a block, whose median counts; at least one call.
    """

    rounds: int = 7
    block: float = 0.15


class Local:
    """A contender in this process."""

    def __init__(self, make_job: Any) -> None:
        self._make_job = make_job
        self._job: Job | None = None

    def prepare(self, case: Case, threads: int) -> dict[str, np.ndarray]:
        """Build the case and return its results."""
        self._job = self._make_job(case, threads)
        return self._job.results()

    def time(self, block: float) -> float:
        """Return seconds per unit of work: the median over calls that fill ``block`` seconds."""
        run, count = self._job.run, self._job.count
        time.sleep(PAUSE)
        seconds = []
        end = time.perf_counter() + block
        if block:
            run()
        while not seconds or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds) / count

    def close(self) -> None:
        """Forget the case."""
        self._job = None


class Remote:
    """A contender in a process of its own, which sees as many cores as it may use threads."""

    def __init__(self, peer: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, peer, threads), daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self, case: Case, threads: int) -> dict[str, np.ndarray]:
        """Build the case and return its results."""
        return self._ask("prepare", case, threads)

    def time(self, block: float) -> float:
        """Return seconds per unit of work, measured over there."""
        return self._ask("time", block)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)

    def _ask(self, *request: Any) -> Any:
        self._pipe.send(request)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Any, peer: str, threads: int) -> None:
    limit_cores(threads)
    contender = Local(PEERS[peer].make_job)
    while True:
        try:
            method, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(contender, method)(*arguments))
        except Exception as error:  # the other process decides what to do about it
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def limit_cores(threads: int) -> None:
    """Let this process see only ``threads`` cores: XLA has no other limit that works in every version."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def can_isolate(threads: int) -> bool:
    """Tell whether a process of its own can be held to this number of threads here."""
    return hasattr(os, "sched_setaffinity") or threads == os.cpu_count()


def compare(case: Case, threads: int, peer: str, contender: Local | Remote, effort: Effort) -> dict[str, Any]:
    """Measure one case on both sides.

    Parameters
    ----------
    case : Case
        What is measured.
    threads : int
        Threads on both sides.
    peer : str
        Key of `PEERS`.
    contender : Local or Remote
        The peer's side.
    effort : Effort
        Rounds and seconds.

    Returns
    -------
    dict
        The case, seconds of both sides and ratio peer / ours as median, min and max over rounds, the largest
        difference of results, the operations of the case's products, and how many a second NumPy does.

    Raises
    ------
    ValueError
        If the two sides do not compute the same thing.
    """
    theirs = contender.prepare(case, threads)
    ours = Local(our_job)
    difference = check_results(case, ours.prepare(case, threads), theirs)
    block = 0.0 if case.kind == "fit" else effort.block
    pairs = [(ours.time(block), contender.time(block)) for _ in range(effort.rounds)]
    return {
        **case._asdict(),
        "threads": threads,
        "peer": peer,
        "ours_seconds": _summary([ours for ours, _ in pairs]),
        "peer_seconds": _summary([theirs for _, theirs in pairs]),
        "ratio": _summary([theirs / ours for ours, theirs in pairs]),
        "difference": difference,
        "gflop": case.flops / 1e9,
        "numpy_gflop_per_second": measure_products(threads),
    }


def measure_products(threads: int, size: int = 1024) -> float:
    """Return the GFLOP/s of NumPy's product of two large float32 matrices, the best of several.

    What a library tuned for this processor reaches without anything but products: a bound for every case.

    Examples
    --------
    >>> measure_products(1, size=64) > 0
    True
    """
    a = np.ones((size, size), np.float32)
    seconds = []
    with threadpool_limits(threads, "blas"):
        for _ in range(6):
            start = time.perf_counter()
            a @ a
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def differences(case: Case, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest difference in each array, relative where values exceed 1.

    Examples
    --------
    >>> case = Case("forward", "gru", 1, 1, 1, 1)
    >>> differences(case, {"output": np.zeros(2)}, {"output": np.full(2, 1e-6)})
    {'output': 1e-06}
    """
    found = {}
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            raise ValueError(f"{case.label}: only one side has {name!r}")
        a, b = np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)
        if a.shape != b.shape:
            raise ValueError(f"{case.label}: shapes of {name} differ: {a.shape} and {b.shape}")
        found[name] = float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
    return found


def check_results(case: Case, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the largest of `differences`, if it is one of rounding.

    Training runs start from different weights: there only the order of magnitude of the loss is compared.
    """
    found = differences(case, ours, theirs)
    name = list(found)[np.argmax(list(found.values()))]  # of NaN if one is
    worst = found[name]
    if case.kind == "fit":
        a, b = float(ours["mse"]), float(theirs["mse"])
        if not 1 / 3 < a / b < 3:
            raise ValueError(f"{case.label}: losses after the same training differ: {a} and {b}")
    elif not worst <= 1e-4:
        raise ValueError(f"{case.label} {case.shape}: results differ by {worst:.1e} in {name}")
    return worst


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
