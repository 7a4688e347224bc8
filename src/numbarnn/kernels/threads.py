"""Threads for the kernels: Python's own, since a kernel releases the GIL.

No Numba thread layer takes part. That is one answer for tbb, omp and workqueue alike: several Python threads
may call at once (workqueue would abort the process), a forked child may go on (GNU OpenMP would not), and no
parallel wrapper has to be compiled beside each kernel.

Waking a sleeping thread costs 50 to 100 microseconds, as much as a small network's whole forward pass, so a
worker spins for a moment after each task before it sleeps. Two rules keep the GIL out of the way meanwhile: a
worker is told of new work from inside the caller's kernel (`post`), when the GIL is free for it to take; and
it says that it is done from inside `_serve`, when it has given the GIL back.
"""

from __future__ import annotations

import contextlib
import numbers
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
from numba import njit, types
from numba.extending import register_jitable

from numbarnn.kernels.compiler import kernel
from numbarnn.simd import INLINED, atomic_load, atomic_store, pause

TICKET, NEXT_TICKET = 0, 1  # words of the mailbox; worker i has three more on a cache line of its own
LINE = 8
DONE, ASLEEP, WANTED = 0, 1, 2
SPINS = 20_000  # about a millisecond
PARALLEL_FLOPS = 4_000_000  # below this, waking a second thread costs more than it saves
YIELD_EVERY = 1024  # looks after which another thread may have the core: there may be more threads than cores

_yield_core = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


@njit(inline="always")
def post(signal):
    """Let the workers start: the first statement of every kernel that `run_tasks` runs."""
    atomic_store(signal, TICKET, atomic_load(signal, NEXT_TICKET))


@register_jitable(**INLINED)
def _relax(look):
    if look % YIELD_EVERY == YIELD_EVERY - 1:
        _yield_core()
    else:
        pause()


@register_jitable(**INLINED)
def _is_called(mailbox, line, ticket):
    """Tell whether the ticket posted is a new one for this worker, or the negative one that sends it home."""
    posted = atomic_load(mailbox, TICKET)
    return posted < 0 or (posted != ticket and posted == atomic_load(mailbox, line + WANTED))


@kernel
def _serve(mailbox, worker, ticket, spins):
    """Wait as a worker that has done `ticket`: True when a new one is posted, False after `spins` looks."""
    line = (worker + 1) * LINE
    atomic_store(mailbox, line + DONE, ticket)
    for look in range(spins):
        if _is_called(mailbox, line, ticket):
            return True
        _relax(look)
    atomic_store(mailbox, line + ASLEEP, 1)
    return _is_called(mailbox, line, ticket)


@kernel
def _all_done(mailbox, workers, spins):
    """Wait as the caller: True when the workers have done what is wanted, False after `spins` looks."""
    look = 0
    for worker in range(workers):
        line = (worker + 1) * LINE
        while atomic_load(mailbox, line + DONE) != atomic_load(mailbox, line + WANTED):
            look += 1
            if look == spins:
                return False
            _relax(look)
    return True


class _Pool:
    """Worker threads that live as long as the process; one caller at a time uses them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.mailbox = np.zeros(LINE, np.int64)
        self.wakes: list[threading.Semaphore] = []
        self.jobs: list[Callable[[], None] | None] = []
        self.error: BaseException | None = None

    def grow(self, workers: int) -> None:
        """Have at least this many workers. A larger mailbox means new threads: the old ones are sent home."""
        if workers <= len(self.wakes):
            return
        self._send_home()
        self.mailbox = np.zeros(LINE * (workers + 1), np.int64)
        self.jobs = [None] * workers
        try:
            for i in range(workers):
                wake = threading.Semaphore(0)
                arguments = (i, self.mailbox, wake, self.jobs)
                name = f"numbarnn-{i + 1}"
                threading.Thread(target=self._work, args=arguments, name=name, daemon=True).start()
                self.wakes.append(wake)
        except BaseException:  # no more threads to be had, or Ctrl-C: those that did start are not waited for
            self._send_home()
            raise

    def _send_home(self) -> None:
        mailbox, wakes = self.mailbox, self.wakes
        self.mailbox, self.wakes, self.jobs = np.zeros(LINE, np.int64), [], []
        mailbox[NEXT_TICKET] = mailbox[TICKET] = -1
        for wake in wakes:
            wake.release()

    def _work(self, i: int, mailbox: np.ndarray, wake: threading.Semaphore, jobs: list) -> None:
        ticket, line = 0, (i + 1) * LINE
        while True:
            if not _serve(mailbox, i, ticket, SPINS):
                wake.acquire()
            mailbox[line + ASLEEP] = 0
            if mailbox[TICKET] < 0:
                return
            wanted = int(mailbox[line + WANTED])
            if wanted == ticket or wanted != mailbox[TICKET]:
                continue  # woken before the caller's kernel began
            ticket = wanted
            try:
                jobs[i]()
            except BaseException as error:  # carried to the caller, who raises it
                self.error = error

    def wait(self) -> None:
        """Wait until the workers have done what is wanted; wake those that sleep and have not seen it.

        Ctrl-C is held back until then, for they write to the caller's arrays.
        """
        interruption = None
        while True:
            try:
                if _all_done(self.mailbox, len(self.wakes), SPINS):
                    break
                for i, wake in enumerate(self.wakes):
                    done, asleep, wanted = self.mailbox[(i + 1) * LINE :][:3]
                    if asleep and done != wanted:
                        wake.release()
            except KeyboardInterrupt as error:
                interruption = error
        if interruption is not None:
            raise interruption

    def run(self, function: Callable, tasks: Sequence[tuple], threads: int) -> None:
        """Share the tasks out between the caller and threads - 1 workers; the lock must be held."""
        self.wait()  # a caller that was interrupted at the wrong moment may have left workers busy
        self.grow(threads - 1)
        mailbox, jobs = self.mailbox, self.jobs
        self.error = None
        ticket = int(mailbox[TICKET]) + 1
        lines = [(i + 1) * LINE for i in range(threads - 1)]
        try:
            for i, line in enumerate(lines):
                jobs[i] = partial(_run_serially, function, tasks[i + 1 :: threads])
                mailbox[line + WANTED] = ticket
                if mailbox[line + ASLEEP]:
                    self.wakes[i].release()
            mailbox[NEXT_TICKET] = ticket
            for task in tasks[::threads]:
                function(mailbox, *task)
        finally:
            if mailbox[TICKET] != ticket:  # the kernel never began: it could not be compiled
                for line in lines:
                    mailbox[line + WANTED] = mailbox[line + DONE]
            try:
                self.wait()
            finally:
                jobs[:] = [None] * len(jobs)  # let go of the arrays
        if self.error is not None:
            raise self.error


def _run_serially(function: Callable, tasks: Sequence[tuple]) -> None:
    signal = np.zeros(2, np.int64)
    for task in tasks:
        function(signal, *task)


_pool = _Pool()


def _forget_pool() -> None:
    """Start anew: a forked child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_tasks(function: Callable, tasks: Sequence[tuple[Any, ...]], threads: int) -> None:
    """Call the kernel as function(signal, *task) for each task, on up to `threads` threads.

    Returns when all are done. The tasks must write to different memory. When another Python thread is using
    the workers, all tasks run in the caller's thread: the machine is busy then, and results do not depend on
    who computed them.
    """
    threads, pool, mine = min(threads, len(tasks)), _pool, False
    try:
        # threads cannot take the GIL again once the interpreter has begun to end
        mine = threads > 1 and not sys.is_finalizing() and pool.lock.acquire(blocking=False)
        if mine:
            pool.run(function, tasks, threads)
        else:
            _run_serially(function, tasks)
    finally:
        if mine:
            pool.lock.release()


def ranges(total: int, parts: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Cut range(total) into at most `parts` pieces of nearly equal length, cut at multiples of `multiple`.

    >>> from numbarnn.kernels.threads import ranges
    >>> ranges(10, 3, multiple=2)
    [(0, 4), (4, 8), (8, 10)]
    """
    if parts == 1:
        return [(0, total)]
    units = -(-total // multiple)
    parts = max(1, min(parts, units))
    cuts = [min(total, -(-units * p // parts) * multiple) for p in range(parts + 1)]
    return list(pairwise(cuts))


def worthwhile_threads(multiplications: int, n_jobs: int | None) -> int:
    """Give the number of threads for work of so many multiplications and sums: one, if it is little."""
    return 1 if 2 * multiplications < PARALLEL_FLOPS else thread_count(n_jobs)


@cache
def _usable_cores() -> int:
    return joblib.cpu_count()  # asks the system's files, which takes longer than a small network's step


def thread_count(n_jobs: int | None = None) -> int:
    """Count the threads that `n_jobs` means: None and -1 are all the cores this process may use.

    As in joblib, -2 is all but one, and so on. Inside a joblib worker that has been given its share of the
    cores, that share counts as all of them.

    Raises
    ------
    ValueError, TypeError
        If `n_jobs` is 0 or no whole number.

    Examples
    --------
    >>> from numbarnn.kernels.threads import thread_count
    >>> thread_count(2)
    2
    """
    expected = "expected None, a number of threads from 1, or a negative number counted from all cores"
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, numbers.Integral)):
        raise TypeError(f"n_jobs was {n_jobs!r}; {expected}")
    if n_jobs == 0:
        raise ValueError(f"n_jobs was 0; {expected}")
    if n_jobs is not None and n_jobs > 0:
        return n_jobs
    cores = _usable_cores()
    with contextlib.suppress(KeyError, ValueError):  # joblib sets it in its workers; elsewhere it is a wish
        cores = min(cores, max(1, int(os.environ["OMP_NUM_THREADS"])))
    return cores if n_jobs is None else max(1, cores + 1 + n_jobs)
