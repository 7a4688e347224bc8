"""Programs: every task once, phase after phase, whatever interruptions, forks and other callers do."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import NamedTuple

import joblib
import numpy as np
import pytest

from numbarnn.kernels import threads
from numbarnn.kernels.compiler import Ints, Reals, task
from numbarnn.kernels.threads import Program, Slot, _relax, ranges, thread_count
from numbarnn.simd import atomic_add, atomic_load


class Point(NamedTuple):
    """Integers that a task is told by name."""

    x: int
    y: int


@task
def count_up(i: int, amount: int, counts: Ints):
    """Do a moment of work, then add to one's own count."""
    total = 0
    for k in range(2000):
        total += k & amount
    counts[i] += amount if total >= 0 else 0


@task
def sum_up(counts: Ints, sums: Ints, i: int):
    total = 0
    for k in range(counts.size):
        total += counts[k]
    sums[i] = total


@task
def mix(place: int, before: Ints, after: Ints):
    """Make an element of this phase of all of the phase before; some tasks take much longer than others."""
    for _ in range(1 + place * 7919 % 5 * 10):
        total = place
        for i in range(before.size):
            total = (31 * total + before[i]) % 1_000_003
    after[place] = total


@task
def meet(everyone: int, looks: int, state: Ints):
    """Wait until so many are here, but for so many looks at most; state: who came, and who saw them all."""
    atomic_add(state, 0, 1)
    look = 0
    while atomic_load(state, 0) < everyone and look < looks:
        look += 1
        _relax(look)
    if look < looks:
        atomic_add(state, 1, 1)


@task
def write_point(before: int, point: Point, after: int, out: Ints):
    out[0], out[1], out[2], out[3] = before, point.x, point.y, after


@task
def halve(values: Reals, out: Reals):
    for k in range(out.size):
        out[k] = values[k] / 2


def program_for(counts, n_threads, phases=1):
    tasks = [(count_up, i, i + 1, counts) for i in range(counts.size)]
    return Program("float32", n_threads, [tasks] * phases)


def check_pool(n_threads=3, n_tasks=5):
    """Each of `n_tasks` tasks is done exactly once."""
    counts = np.zeros(n_tasks, np.int64)
    program_for(counts, n_threads).run()
    np.testing.assert_array_equal(counts, np.arange(1, n_tasks + 1))


def check_threads(n_threads, limit=20):
    """So many threads really take part: as many tasks wait for each other, for which one is not enough."""
    state, end = np.zeros(2, np.int64), time.monotonic() + limit
    program = Program("float32", n_threads, [[(meet, n_threads, 100_000, state)] * n_threads])
    while state[1] < n_threads:
        assert time.monotonic() < end, f"{n_threads} threads never met"
        state[:] = 0
        program.run()
        assert state[0] == n_threads


def check_phases(n_threads, seed, n_runs):
    """Phases of random width, each of which needs all of the one before."""
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 1000, 3)
    values, phases, results, expected = before.tolist(), [], [], []
    for width in rng.integers(1, 8, 12).tolist():
        after = np.zeros(width, np.int64)
        phases.append([(mix, i, before, after) for i in range(width)])
        totals = list(range(width))
        for value in values:
            totals = [(31 * total + value) % 1_000_003 for total in totals]
        values, before = totals, after
        results.append(after)
        expected.append(totals)
    program = Program("float32", n_threads, phases)
    for _ in range(n_runs):
        for result in results:
            result.fill(-1)
        program.run()
        assert [result.tolist() for result in results] == expected


@pytest.fixture
def new_pool(monkeypatch):
    """A pool without workers."""
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    return threads._pool


# ---- tasks and phases


def test_each_task_is_done_once():
    for n_threads in (1, 2, 3, 4, 5, 2, 5, 1):
        for n_tasks in range(1, 10):
            check_pool(n_threads, n_tasks)


def test_program_of_nothing():
    Program("float32", 3, []).run()
    Program("float32", 3, [[]]).run()
    counts = np.zeros(3, np.int64)
    tasks = [(count_up, i, 1, counts) for i in range(3)]
    Program("float64", 3, [[], tasks, [], tasks, []]).run()
    assert (counts == 2).all()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 5, 2000])
def test_a_phase_begins_when_the_one_before_has_ended(n_threads):
    for n_tasks in (1, 2, 7):
        counts, sums = np.zeros(n_tasks, np.int64), np.zeros((6, n_tasks), np.int64)
        phases = []
        for row in sums:
            phases.append([(count_up, i, 1, counts) for i in range(n_tasks)])
            phases.append([(sum_up, counts, row, i) for i in range(n_tasks)])
        program = Program("float32", n_threads, phases)
        for repeat in range(50):
            program.run()
            expected = (6 * repeat + np.arange(1, 7)) * n_tasks
            np.testing.assert_array_equal(sums, np.repeat(expected[:, None], n_tasks, axis=1))


def test_many_short_runs():
    counts = np.zeros(2, np.int64)
    program = program_for(counts, 2, phases=3)
    for _ in range(5000):
        program.run()
    np.testing.assert_array_equal(counts, [15000, 30000])


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4, 5])
def test_a_phase_sees_all_of_the_one_before(n_threads):
    for seed in range(8):
        check_phases(n_threads, seed, 30)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_tasks_of_a_list_are_done_in_their_order(n_threads):
    """Lists of different lengths beside single tasks, with a slot in the middle of one."""
    values = [np.zeros(1, np.int64) for _ in range(5)]
    chain = [(mix, 0, values[i], values[i + 1]) for i in range(4)]  # each copies a value to the next
    counts, doubled = np.zeros(4, np.int64), np.zeros(2)
    halves = [(halve, Slot("values"), doubled), (halve, doubled, doubled)]
    singles = [(count_up, i, i + 1, counts) for i in range(4)]
    program = Program("float64", n_threads, [[chain, *singles], [halves, *singles], singles])
    program.put("values", np.array([4.0, 8.0]))
    program.run()
    assert doubled.tolist() == [1, 2] and counts.tolist() == [3, 6, 9, 12]
    assert [value.tolist() for value in values] == [[0]] * 5
    values[0][0] = 1
    program.put("values", np.zeros(2))
    program.run()
    assert [value.tolist() for value in values] == [[1]] * 5


def test_phases_are_numbered_anew(new_pool):
    new_pool.mailbox[threads.CLAIM :: threads.LINE] = (threads.PHASES - 5) << 2 * threads.COUNT_BITS
    check_phases(3, 0, 3)
    check_pool()
    numbers = new_pool.mailbox[threads.CLAIM :: threads.LINE] >> 2 * threads.COUNT_BITS
    assert (numbers[:3] > 0).all() and (numbers[:3] < 100).all()


@pytest.mark.parametrize("n_threads", [2, 3, 5])
def test_tasks_run_in_several_threads(n_threads):
    check_threads(n_threads)


def test_integers_and_named_tuples():
    out = np.zeros(4, np.int64)
    Program("float32", 1, [[(write_point, -(2**62), Point(y=3, x=np.int64(2)), True, out)]]).run()
    assert out.tolist() == [-(2**62), 2, 3, 1]


@pytest.mark.parametrize("arguments", [(0, 1), (0, 1, np.zeros(1, np.int64), 2)])
def test_number_of_arguments_is_that_of_the_task(arguments):
    with pytest.raises(ValueError, match="argument"):
        Program("float32", 1, [[(count_up, *arguments)]])


def test_a_program_keeps_the_arrays_it_was_made_with():
    counts = np.zeros(3, np.int64)
    kept = weakref.ref(counts)
    program = program_for(counts, 2)
    del counts
    program.run()
    program.run()
    assert kept().tolist() == [2, 4, 6]
    del program
    assert kept() is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slots_are_filled_from_run_to_run(dtype):
    out = np.zeros(3, dtype)
    program = Program(dtype, 2, [[(halve, Slot("values", 2), out)], [(halve, out, Slot("out", 1))]])
    for k in range(3):
        values, quarter = np.arange(5, dtype=dtype) + k, np.zeros((2, 2), dtype)
        program.put("values", values)
        program.put("out", quarter)
        del values
        program.run()
        np.testing.assert_array_equal(out, (np.arange(2, 5) + k) / 2)
        np.testing.assert_array_equal(quarter.ravel(), [0, *(np.arange(2, 5) + k) / 4])
    with pytest.raises(RuntimeError, match=r"without \['out', 'values'\]"):
        program.run()


def test_slot_with_an_array_of_no_elements():
    sums = np.full(1, 7, np.int64)
    program = Program("float32", 1, [[(sum_up, Slot("counts", 4), sums, 0)]])
    program.put("counts", np.zeros(0, np.int64))
    program.run()
    assert sums == 0


def test_slots_let_go_of_their_arrays():
    program = Program("float32", 1, [[(sum_up, Slot("counts"), np.zeros(1, np.int64), 0)]])
    array = np.zeros(5, np.int64)
    gone = weakref.ref(array)
    program.put("counts", array)
    program.run()
    del array
    assert gone() is None


# ---- workers


def test_pool_grows_and_keeps_its_workers(new_pool):
    for n_threads, workers in ((2, 1), (4, 3), (3, 3), (5, 4)):
        check_pool(n_threads, 9)
        assert len(new_pool.wakes) == workers


def test_no_worker_for_one_task_or_one_thread(new_pool):
    check_pool(1, 9)
    check_pool(9, 1)
    assert new_pool.wakes == []


def test_workers_wake_after_a_sleep(new_pool):
    for _ in range(3):
        check_pool(3, 6)
        end = time.monotonic() + 20
        while new_pool.mailbox[threads.ASLEEP :: threads.LINE].sum() < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
    check_threads(3)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_task_that_cannot_be_compiled(n_threads):
    @task
    def broken(i: int, counts: Ints):
        counts[i] = i.no_such_attribute

    with pytest.raises(Exception, match="no_such_attribute"):
        Program("float32", n_threads, [[(broken, i, np.zeros(4, np.int64)) for i in range(4)]])
    with pytest.raises(Exception, match="no_such_attribute"):  # it does not count as compiled now
        Program("float32", n_threads, [[(broken, 0, np.zeros(4, np.int64))]])
    check_pool()


# ---- callers


def test_many_callers_at_once():
    errors = []

    def call(n_threads):
        try:
            for n_tasks in range(1, 60):
                check_pool(n_threads, 1 + n_tasks % 9)
            check_phases(n_threads, n_threads, 30)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=call, args=(1 + i % 4,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert errors == []
    check_threads(4)


PROGRAM = """
import atexit, faulthandler, os, random, signal, sys, threading, time, warnings
import numpy as np
faulthandler.dump_traceback_later({limit}, exit=True)  # a pool that hangs says where
sys.path.insert(0, {folder!r})
from test_threads import check_phases, check_pool, check_threads, program_for, threads
"""


def run_program(code, limit=60, **environment):
    """Run the code, with this module's names, in a process of its own; return what it prints."""
    program = PROGRAM.format(folder=os.path.dirname(__file__), limit=limit) + code
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_has_workers_of_its_own():
    code = """
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork while there are threads
counts = np.zeros(9, np.int64)
program = program_for(counts, 3)  # made before the fork, run on both sides
program.run()
child = os.fork()
program.run()
assert (counts == 2 * np.arange(1, 10)).all()
if child == 0:
    check_pool(4, 9)
    check_threads(4)
    os._exit(7)
check_threads(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
check_pool()
print("done")
"""
    assert run_program(code) == "done\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
def test_interrupts_at_any_moment_leave_the_pool_usable():
    code = """
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
check_pool(4, 9)
rng, interrupted, end = random.Random(0), 0, time.monotonic() + 3
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 2e-4))
        while True:
            counts = np.zeros(9, np.int64)
            program_for(counts, 4, 2).run()
            assert (counts == 2 * np.arange(1, 10)).all()
    except KeyboardInterrupt:
        interrupted += 1
    for _ in range(3):
        check_pool(4, 9)
check_threads(4)
print(interrupted > 20, interrupted)
"""
    assert run_program(code).startswith("True")


@pytest.mark.parametrize("released", [False, True])
def test_interrupt_around_a_wake_does_not_lose_the_worker(new_pool, released):
    class Interrupted:
        def release(self):
            new_pool.wakes[0] = wake
            if released:
                wake.release()
            raise KeyboardInterrupt

    check_threads(2)
    end = time.monotonic() + 20
    while not new_pool.mailbox[threads.ASLEEP]:
        assert time.monotonic() < end
        time.sleep(0.01)
    wake, new_pool.wakes[0] = new_pool.wakes[0], Interrupted()
    with pytest.raises(KeyboardInterrupt):
        check_pool(2)
    check_threads(2, limit=5)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
def test_interrupts_while_workers_start_leave_the_pool_usable():
    code = """
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
check_pool(4, 9)
rng, interrupted = random.Random(0), 0
for _ in range(60):
    threads._pool = threads._Pool()
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 5e-4))
        check_pool(4, 9)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    check_pool(4, 9)
    check_threads(4)
print(interrupted > 5, interrupted)
"""
    assert run_program(code).startswith("True")


def test_worker_that_cannot_be_started_is_not_missed():
    """So it is where the number of threads is limited: those that there are do the work."""
    code = """
start, started = threading.Thread.start, []
def refuse(thread):
    if len(started) == allowed:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)
threading.Thread.start = refuse
for allowed in (0, 1):
    check_pool(3)
    check_phases(4, 0, 3)
    print(len(threads._pool.wakes))
check_threads(2)
threading.Thread.start = start
check_threads(3)
print(len(threads._pool.wakes))
"""
    assert run_program(code) == "0\n1\n2\n"


def test_a_process_may_end_while_programs_run():
    code = """
def check_for_ever():
    while True:
        check_pool(3)
threading.Thread(target=check_for_ever, daemon=True).start()
time.sleep(0.2)
"""
    assert run_program(code) == ""


@pytest.mark.parametrize("n_before", [1, 2])
def test_programs_run_while_the_interpreter_ends(n_before):
    code = """
class Last:
    def __init__(self):
        self.counts = np.zeros(5, np.int64)
        self.program, self.finalizing = program_for(self.counts, 4), sys.is_finalizing
    def __del__(self):
        self.program.run()
        print("last", self.finalizing(), self.counts.tolist())
def at_exit():
    check_pool(4)
    print("exit")
atexit.register(at_exit)
last = Last()
check_pool(N_BEFORE)
""".replace("N_BEFORE", str(n_before))
    assert run_program(code) == "exit\nlast True [1, 2, 3, 4, 5]\n"


@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_training_in_two_threads_whatever_numbas_thread_layer(layer):
    code = """
from numbarnn import Recurrent

x = np.random.default_rng(0).standard_normal((32, 20, 8)).astype(np.float32)

def train(n_jobs):
    layer = Recurrent("gru", input_size=8, hidden_size=48, num_layers=2, n_jobs=n_jobs, random_state=0)
    for _ in range(20):
        output, _ = layer.forward(x, training=True)
        dx, _ = layer.backward(output)
    return b"".join(a.tobytes() for a in (output, dx, *layer.gradients.values()))

expected, answers = train(1), []
callers = [threading.Thread(target=lambda: answers.append(train(2))) for _ in range(2)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print([answer == expected for answer in answers], "numbarnn-1" in [t.name for t in threading.enumerate()])
"""
    assert run_program(code, NUMBA_THREADING_LAYER=layer) == "[True, True] True\n"


# ---- shares


@pytest.mark.parametrize("multiple", [1, 2, 5])
def test_ranges_cut_everything_into_nearly_equal_pieces(multiple):
    for total in range(1, 40):
        for parts in range(1, 9):
            pieces = ranges(total, parts, multiple)
            assert 1 <= len(pieces) <= parts
            assert [i for first, last in pieces for i in range(first, last)] == list(range(total))
            assert all(first < last for first, last in pieces)
            assert all(first % multiple == 0 for first, _ in pieces)
            lengths = [-(-(last - first) // multiple) for first, last in pieces]
            assert max(lengths) - min(lengths) <= 1


def test_ranges_of_nothing():
    assert ranges(0, 3) == [(0, 0)]


@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [(1, 1), (3, 3), (20, 20), (np.int64(2), 2), (None, 8), (-1, 8), (-2, 7), (-8, 1), (-9, 1), (-50, 1)],
)
def test_thread_count(n_jobs, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_usable_cores", lambda: 8)
    assert thread_count(n_jobs) == expected


@pytest.mark.parametrize(
    ("wish", "expected"), [("3", 3), ("99", 8), ("0", 1), ("-4", 1), ("", 8), ("many", 8), ("4,2", 8)]
)
def test_thread_count_heeds_the_environment(wish, expected, monkeypatch):
    monkeypatch.setattr(threads, "_usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert thread_count() == thread_count(-1) == expected
    assert thread_count(-2) == max(1, expected - 1)
    assert thread_count(5) == 5  # asked for by number: given


@pytest.mark.parametrize("n_jobs", [0, True, False, "two", 2.0, [2]])
def test_thread_count_names_what_is_wrong(n_jobs):
    with pytest.raises(ValueError if type(n_jobs) is int else TypeError, match="n_jobs was"):
        thread_count(n_jobs)


def test_thread_count_in_a_joblib_worker():
    counts = joblib.Parallel(n_jobs=2)(joblib.delayed(thread_count)() for _ in range(2))
    assert max(counts) <= max(1, joblib.cpu_count() // 2)
