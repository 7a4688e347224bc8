"""Programs of tasks, and the threads that run them: Python's own, since a kernel releases the GIL.

No Numba thread layer takes part. That is one answer for tbb, omp and workqueue alike: several Python threads
may call at once (workqueue would abort the process), a forked child may go on (GNU OpenMP would not), and no
parallel wrapper has to be compiled beside each kernel.

Calls between Python and compiled code, and the GIL, cost as much as a small network's whole forward pass. So
everything between two looks at Python objects is one `Program`: its tasks lie in memory with their arguments,
and caller and workers take them from there, phase after phase, without the interpreter. The caller never
waits for a task that nobody has taken: a worker that sleeps, or that the system lets wait, is not missed.
Waking a sleeping thread takes 50 to 100 microseconds, so a worker spins for a moment before it sleeps.

Every thread has a share of a phase's tasks, the same places of each phase, and takes another's only when its
own are done: where tasks of two phases work on the same rows, these stay in the cache of one core.
"""

from __future__ import annotations

import contextlib
import numbers
import os
import sys
import threading
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
from numba import from_dtype, types
from numba.extending import register_jitable
from numpy.typing import DTypeLike, NDArray

from numbarnn.kernels.compiler import kernel, task
from numbarnn.simd import (
    INLINED,
    atomic_add,
    atomic_exchange,
    atomic_load,
    atomic_store,
    call,
    pause,
)

LINE = 8  # words of a cache line
# words of the mailbox
PLACE, HELPERS, FINISHED, TAKEN = 0, 1, LINE, 2 * LINE
# The caller's share: from the top the number of the phase, the task where the share ends, and the next task.
# Those of the workers follow, a line further each, and beside it whether the worker sleeps.
CLAIM = 3 * LINE
ASLEEP = CLAIM + LINE + 1  # of the first worker
COUNT_BITS = 20
COUNT_MASK = (1 << COUNT_BITS) - 1
PHASES = (1 << 23) - 1
MOST_WORKERS = 1023
SPINS = 20_000  # about a millisecond
PARALLEL_FLOPS = 4_000_000  # below this, waking a second thread costs more than it saves
YIELD_EVERY = 1024  # looks after which another thread may have the core: there may be more threads than cores

_yield_core = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


@register_jitable(**INLINED)
def _relax(look):
    if look % YIELD_EVERY == YIELD_EVERY - 1:
        _yield_core()
    else:
        pause()


@register_jitable(**INLINED)
def _do_one(mailbox, worker):
    """Take a task of the phase and do it, as a worker (from 0) or the caller (-1); False if there is none."""
    threads = atomic_load(mailbox, HELPERS) + 1
    share = worker + 1
    looked = 0
    while looked < threads:
        claim = CLAIM + share * LINE
        word = atomic_load(mailbox, claim)
        index = word & COUNT_MASK
        if worker >= atomic_load(mailbox, HELPERS):
            return False
        if index >= (word >> COUNT_BITS) & COUNT_MASK:
            looked += 1
            share = share + 1 if share + 1 < threads else 0
        # it succeeds only in the phase that all of this was read in, and that waits for the task from now on
        elif atomic_exchange(mailbox, claim, word, word + 1):
            call(atomic_load(mailbox, PLACE) + 16 * index)
            atomic_add(mailbox, FINISHED, 1)
            return True
    return False


@kernel
def _serve(mailbox, worker, spins):
    """Do tasks until there have been none for `spins` looks; never leave while a program is being run."""
    look = 0
    while look < spins or (atomic_load(mailbox, TAKEN) != 0 and worker < atomic_load(mailbox, HELPERS)):
        if _do_one(mailbox, worker):
            look = 0
        else:
            look += 1
            _relax(look)
    atomic_store(mailbox, ASLEEP + worker * LINE, 1)
    while _do_one(mailbox, worker):
        pass


@kernel
def _run(mailbox, helpers, place, ends):
    """Do the tasks whose rows (function, words) begin at the address `place`; ends of phases in `ends`.

    Workers below `helpers` take part, unless another caller has them.
    """
    first = 0
    if helpers == 0 or not atomic_exchange(mailbox, TAKEN, 0, 1):
        for task in range(ends[-1]):
            call(place + 16 * task)
        return
    atomic_store(mailbox, HELPERS, helpers)
    for end in ends:
        atomic_store(mailbox, PLACE, place + 16 * first)
        atomic_store(mailbox, FINISHED, 0)
        for share in range(helpers, -1, -1):  # first those of the workers, who look at once
            start, stop = (end - first) * share // (helpers + 1), (end - first) * (share + 1) // (helpers + 1)
            claim = CLAIM + share * LINE
            phase = ((atomic_load(mailbox, claim) >> 2 * COUNT_BITS) + 1) & PHASES
            atomic_store(mailbox, claim, (phase << 2 * COUNT_BITS) | stop << COUNT_BITS | start)
        while _do_one(mailbox, -1):
            pass
        look = 0
        while atomic_load(mailbox, FINISHED) < end - first:
            look += 1
            _relax(look)
        first = end
    atomic_store(mailbox, TAKEN, 0)


@task
def _in_turn(place: int, count: int):
    """Do tasks whose rows begin at an address, one after the other."""
    for row in range(count):
        call(place + 16 * row)


class _Pool:
    """Worker threads that live as long as the process; one caller at a time has them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.mailbox = np.zeros(CLAIM + (1 + MOST_WORKERS) * LINE, np.int64)
        self.wakes: list[threading.Lock] = []

    def call(self, workers: int) -> int:
        """Have up to so many workers awake; returns how many there are."""
        if workers > len(self.wakes):
            self._grow(min(workers, MOST_WORKERS))
        workers = min(workers, len(self.wakes))
        for i in range(workers):
            if self.mailbox[ASLEEP + i * LINE]:
                # a lock, whose release is one step: an interrupt cannot come in the middle
                with contextlib.suppress(RuntimeError):  # it has been released, and the worker not run yet
                    self.wakes[i].release()
        return workers

    def _grow(self, workers: int) -> None:
        # where no more threads are to be had, those that there are do the work
        with self.lock, contextlib.suppress(RuntimeError):
            for i in range(len(self.wakes), workers):
                wake = threading.Lock()
                wake.acquire()
                arguments = (self.mailbox, i, wake)
                threading.Thread(target=_work, args=arguments, name=f"numbarnn-{i + 1}", daemon=True).start()
                self.wakes.append(wake)


def _work(mailbox: NDArray, worker: int, wake: threading.Lock) -> None:
    while True:
        _serve(mailbox, worker, SPINS)
        wake.acquire()
        mailbox[ASLEEP + worker * LINE] = 0


_pool = _Pool()


def _forget_pool() -> None:
    """Start anew: a forked child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


class Slot:
    """Stands in a program for an array that is not known yet, from element `offset` on; see `Program.put`."""

    def __init__(self, name: str, offset: int = 0) -> None:
        self.name, self.offset = name, offset


class Program:
    """Tasks with their arguments, phase after phase: made once, run many times, each in one call.

    Tasks of a phase may run at the same time and must write to different memory.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, the element type of the tasks.
    threads : int
        How many threads may take part.
    phases : sequence of sequence of tuple or list of tuple
        Of each task the `Task` and its arguments; a `Slot` for an array that changes from run to run. Tasks
        in a list are done one after the other by one thread.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.kernels.compiler import Ints, task
    >>> from numbarnn.kernels.threads import Program
    >>> @task
    ... def fill(value: int, out: Ints):
    ...     out[:] = value
    >>> a, b = np.zeros(2, np.int64), np.zeros(3, np.int64)
    >>> Program("float32", 2, [[(fill, 4, a), (fill, 5, b)]]).run()
    >>> a.tolist(), b.tolist()
    ([4, 4], [5, 5, 5])
    """

    def __init__(
        self, dtype: DTypeLike, threads: int, phases: Sequence[Sequence[tuple[Any, ...] | list[tuple]]]
    ) -> None:
        words: list[int] = []
        self._held: dict[Any, NDArray] = {}  # the arrays whose addresses the words are
        self._slots: dict[str, list[tuple[int, int]]] = {}
        self._dtype = np.dtype(dtype)
        element = from_dtype(self._dtype)
        table, behind, places = [], [], []
        for row in (row for phase in phases for row in phase):
            if isinstance(row, list):
                parts = [self._add(part, element, words) for part in row]
                places.append((len(words), len(behind)))
                table.append((_in_turn.address(None, element), len(words)))
                words += 0, len(parts)
                behind += parts
            else:
                table.append(self._add(row, element, words))
        n_rows = len(table)
        self._words = np.array(words or [0], np.int64)
        self._table = np.array(table + behind, np.int64).reshape(-1, 2)
        self._table[:, 1] = _address(self._words) + 8 * self._table[:, 1]
        self._place = _address(self._table)
        for position, first in places:
            self._words[position] = self._place + 16 * (n_rows + first)
        self._ends = np.cumsum([len(phase) for phase in phases], dtype=np.int64)
        self._helpers = min(threads, max(map(len, phases), default=0)) - 1

    def _add(self, row: tuple[Any, ...], element: types.Float, words: list[int]) -> tuple[int, int]:
        """Add the words of a task; return its address, and which of the words is its first."""
        task, *arguments = row
        start, cell = len(words), None
        for kind, argument in zip(task.kinds, arguments, strict=True):
            if kind == "Cell":
                cell = argument._numba_type_
            elif isinstance(argument, Slot):
                self._slots.setdefault(argument.name, []).append((len(words), argument.offset))
                words += 0, 0
            elif isinstance(argument, np.ndarray):
                self._held[len(words)] = argument
                words += _address(argument), argument.size
            else:
                words += argument if isinstance(argument, tuple) else (argument,)
        return task.address(cell, element), start

    def put(self, name: str, array: NDArray) -> None:
        """Let the slots of that name be this C-contiguous array in the next run.

        Raises
        ------
        TypeError
            If it is of another type than the tasks compute in: they would read its bytes as theirs.
        """
        if array.dtype.kind == "f" and array.dtype != self._dtype:
            raise TypeError(f"{name} had dtype {array.dtype}; expected {self._dtype}")
        self._held[name] = array
        address, size, itemsize = _address(array), array.size, array.itemsize
        for position, offset in self._slots.get(name, ()):
            self._words[position] = address + offset * itemsize
            self._words[position + 1] = max(0, size - offset)

    def run(self) -> None:
        """Do all tasks; return when all are done. What was put into the slots is let go of then.

        When another Python thread has the workers, all tasks run in the caller's thread: the machine is busy
        then, and results do not depend on who computed them.
        """
        if not self._slots.keys() <= self._held.keys():
            missing = sorted(self._slots.keys() - self._held.keys())
            raise RuntimeError(f"the program was run without {missing}")
        pool, helpers = _pool, 0
        # threads cannot take the GIL again once the interpreter has begun to end
        if self._helpers > 0 and not sys.is_finalizing():
            helpers = pool.call(self._helpers)
        if self._ends.size:
            _run(pool.mailbox, helpers, self._place, self._ends)
        for name in self._slots:
            del self._held[name]


def _address(array: NDArray) -> int:
    return array.__array_interface__["data"][0]


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
