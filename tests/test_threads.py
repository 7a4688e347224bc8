"""The workers: every task once, whatever its errors, interruptions, forks and other callers do."""

import os
import signal
import subprocess
import sys
import threading
import time

import joblib
import numpy as np
import pytest

from numbarnn.kernels import threads
from numbarnn.kernels.compiler import kernel
from numbarnn.kernels.threads import post, ranges, run_tasks, thread_count


@kernel
def count_up(signal, task, amount, counts):
    """A task: a moment of work, then its own count."""
    post(signal)
    total = 0
    for i in range(2000):
        total += i & amount
    counts[task] += amount if total >= 0 else 0


def tasks_for(counts):
    return [(task, task + 1, counts) for task in range(counts.size)]


def check_pool(n_threads=3, n_tasks=5):
    """Each of `n_tasks` tasks is done exactly once."""
    counts = np.zeros(n_tasks, np.int64)
    run_tasks(count_up, tasks_for(counts), n_threads)
    np.testing.assert_array_equal(counts, np.arange(1, n_tasks + 1))


@pytest.fixture
def new_pool(monkeypatch):
    """A pool without workers."""
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    return threads._pool


# ---- tasks


def test_each_task_is_done_once():
    for n_threads in (1, 2, 3, 4, 5, 2, 5, 1):
        for n_tasks in range(1, 10):
            check_pool(n_threads, n_tasks)


def test_no_tasks():
    run_tasks(count_up, [], 3)


def test_many_short_calls():
    for _ in range(2000):
        check_pool(2, 2)


def test_tasks_run_in_several_threads():
    seen = {}

    def task(signal, i, counts):
        seen[i] = threading.current_thread().name
        count_up(signal, i, 1, counts)

    counts = np.zeros(4, np.int64)
    run_tasks(task, [(i, counts) for i in range(4)], 2)
    assert seen[0] == seen[2] == threading.current_thread().name
    assert seen[1] == seen[3] == "numbarnn-1"


def test_pool_grows_and_keeps_its_workers(new_pool):
    for n_threads, workers in ((2, 1), (4, 3), (3, 3), (5, 4)):
        check_pool(n_threads, 9)
        assert len(new_pool.wakes) == workers


def test_workers_of_a_smaller_pool_go_home(new_pool):
    before = set(threading.enumerate())
    check_pool(4, 9)
    smaller = set(threading.enumerate()) - before
    assert len(smaller) == 3
    time.sleep(0.1)  # asleep or not, they are told
    check_pool(5, 9)
    for worker in smaller:
        worker.join(10)
        assert not worker.is_alive()


def test_workers_wake_after_a_sleep(new_pool):
    for _ in range(3):
        check_pool(3, 6)
        time.sleep(0.2)
        lines = new_pool.mailbox.reshape(-1, threads.LINE)
        assert (lines[1:, threads.ASLEEP] == 1).all()
    check_pool(3, 6)


# ---- errors


@pytest.mark.parametrize("failing", [0, 1, 2, 3, 4])
def test_error_of_a_task_reaches_the_caller(failing):
    def task(signal, i, amount, counts):
        count_up(signal, i, amount, counts)
        if i == failing:
            raise ArithmeticError(f"task {i}")

    counts = np.zeros(5, np.int64)
    with pytest.raises(ArithmeticError, match=f"task {failing}"):
        run_tasks(task, tasks_for(counts), 3)
    assert counts[failing] == failing + 1
    check_pool()


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_error_before_the_kernel_begins(n_threads):
    def task(signal, i, amount, counts):
        raise ArithmeticError("at once")

    with pytest.raises(ArithmeticError, match="at once"):
        run_tasks(task, tasks_for(np.zeros(4, np.int64)), n_threads)
    check_pool()


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_kernel_that_cannot_be_compiled(n_threads):
    @kernel
    def broken(signal, i, amount, counts):
        post(signal)
        counts[i] = amount.no_such_attribute

    with pytest.raises(Exception, match="no_such_attribute"):
        run_tasks(broken, tasks_for(np.zeros(4, np.int64)), n_threads)
    check_pool()


# ---- callers


def test_many_callers_at_once():
    errors = []

    def call(n_threads):
        try:
            for n_tasks in range(1, 60):
                check_pool(n_threads, 1 + n_tasks % 9)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=call, args=(1 + i % 4,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert errors == []
    check_pool()


def test_call_within_a_task():
    def task(signal, i, counts):
        count_up(signal, i, 1, counts)
        check_pool(3, 4)

    counts = np.zeros(6, np.int64)
    run_tasks(task, [(i, counts) for i in range(6)], 3)
    assert (counts == 1).all()


PROGRAM = """
import faulthandler, os, random, signal, sys, threading, time, warnings
import numpy as np
faulthandler.dump_traceback_later({limit}, exit=True)  # a pool that hangs says where
sys.path.insert(0, {folder!r})
from test_threads import check_pool, count_up, run_tasks, tasks_for, threads
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
check_pool()
child = os.fork()
if child == 0:
    check_pool()
    check_pool(4, 9)
    os._exit(7)
check_pool()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
check_pool()
print("done")
"""
    assert run_program(code) == "done\n"


def test_interrupt_in_a_task_leaves_the_pool_usable():
    def task(number, i, amount, counts):
        count_up(number, i, amount, counts)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)

    for _ in range(20):
        counts = np.zeros(5, np.int64)
        with pytest.raises(KeyboardInterrupt):
            run_tasks(task, tasks_for(counts), 3)
        check_pool()


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
            run_tasks(count_up, tasks_for(np.zeros(9, np.int64)), 4)
    except KeyboardInterrupt:
        interrupted += 1
    for _ in range(3):
        check_pool(4, 9)
print(interrupted > 20, interrupted)
"""
    assert run_program(code).startswith("True")


def test_worker_that_cannot_be_started_is_not_waited_for():
    """So it is where the number of processes is limited, and where Ctrl-C comes while the workers start."""
    code = """
check_pool(1)
start, started = threading.Thread.start, []
def refuse(thread):
    if started:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)
threading.Thread.start = refuse
try:
    check_pool(3)
except RuntimeError as error:
    print(error)
threading.Thread.start = start
check_pool(3)
check_pool(2)
print("done")
"""
    assert run_program(code, limit=8) == "can't start new thread\ndone\n"


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
