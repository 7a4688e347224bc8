"""No two threads touch one element, one of them writing, with no barrier between: what racecheck looks for.

The simulator runs the blocks of a launch one behind the other and threads as they come, so that a race gives
the right numbers there. Here every access to shared and global memory is noted. On a GPU compute-sanitizer
does it, for shared memory (docs/cuda.md has the lines).
"""

import sys
import threading
from functools import wraps

import numpy as np
import pytest
from test_cuda_layers import LENGTHS, MASK, run

from numbarnn import RNNClassifier, RNNForecaster, RNNRegressor
from numbarnn.cells import CELLS
from numbarnn.cuda import losses, training, windows
from numbarnn.cuda.driver import SIMULATED, cuda, upload
from numbarnn.cuda.program import Program

pytestmark = [
    pytest.mark.skipif(not SIMULATED, reason="compute-sanitizer does it on a GPU"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


class Watch:
    """Notes who has touched what in a launch.

    Attributes
    ----------
    races : list
        Pairs of (block, thread, number of barriers passed) that touch one element.
    launches : set of str
    """

    def __init__(self):
        self.races, self.launches, self._seen, self._ends = [], set(), {}, {}
        self._lock = threading.Lock()

    def begin(self, name):
        self.launches.add(name)
        self._seen, self._ends = {}, {}

    def end(self, thread):
        """All threads of a block have to pass as many barriers."""
        with self._lock:
            block = tuple(thread.blockIdx)
            if self._ends.setdefault(block, thread.phase) != thread.phase:
                self.races.append(("barriers", block, thread.thread_id))

    def note(self, thread, place, writes):
        me = tuple(thread.blockIdx), thread.thread_id, thread.phase
        with self._lock:
            writers, readers = self._seen.setdefault(place, (set(), set()))
            for other in writers | readers if writes else writers:
                at_once = other[1] != me[1] and other[2] == me[2]
                if other[0] != me[0] or at_once:
                    self.races.append((sorted(self.launches)[-1:], place, other, me))
            (writers if writes else readers).add(me)


class Shared:
    """An array of a block whose elements are watched."""

    def __init__(self, array, watch):
        self._array, self._watch = array, watch

    def _note(self, index, writes):
        thread = threading.current_thread()
        self._watch.note(thread, (id(self._array), tuple(thread.blockIdx), int(index)), writes)

    def __getitem__(self, index):
        self._note(index, False)
        return self._array[index]

    def __setitem__(self, index, value):
        self._note(index, True)
        self._array[index] = value


@pytest.fixture
def watch(monkeypatch):
    """Watch all launches of a test; what is found fails it, unless the test takes it out."""
    from numba.cuda.simulator import kernel, kernelapi
    from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray as Global

    found = Watch()
    call, get, put = kernel.FakeCUDAKernel.__call__, Global.__getitem__, Global.__setitem__
    barrier, body, lock = kernel.BlockThread.syncthreads, kernel.BlockThread.run, threading.Lock()

    @wraps(call)
    def launch(self, *arguments):
        if not isinstance(threading.current_thread(), kernel.BlockThread):
            found.begin(self.fn.__name__)
        return call(self, *arguments)

    def wait(self):
        barrier(self)
        self.phase += 1

    def run_thread(self):
        body(self)
        found.end(self)

    def place(self, index):
        array = self._item._ary
        return array.ctypes.data + int(index) % array.size * array.itemsize

    def read(self, index):
        found.note(threading.current_thread(), place(self, index), False)
        return get(self, index)

    def write(self, index, value):
        found.note(threading.current_thread(), place(self, index), True)
        put(self, index, value)

    def array(self, shape, dtype, alignment=None):
        frame = sys._getframe(1)
        key = frame.f_code, frame.f_lineno  # the line that asks for it, as the simulator has it
        with lock:
            if key not in self._allocations:
                self._allocations[key] = Shared(np.full(shape, np.nan, dtype), found)
            return self._allocations[key]

    # sums by halves of two threads have one half, behind which nobody waits
    for module in (losses, training, windows):
        monkeypatch.setattr(module, "THREADS", 4)
    monkeypatch.setattr(kernel.BlockThread, "phase", 0, raising=False)
    monkeypatch.setattr(kernel.FakeCUDAKernel, "__call__", launch)
    monkeypatch.setattr(kernel.BlockThread, "syncthreads", wait)
    monkeypatch.setattr(kernel.BlockThread, "run", run_thread)
    monkeypatch.setattr(Global, "__getitem__", read)
    monkeypatch.setattr(Global, "__setitem__", write)
    monkeypatch.setattr(kernelapi.FakeCUDAShared, "array", array)
    yield found
    assert not found.races


@cuda.jit
def without_barrier(values):
    """Read what a neighbour writes."""
    values[cuda.threadIdx.x] = values[1 - cuda.threadIdx.x]


@cuda.jit
def with_barrier(values):
    """Read it behind a barrier."""
    value = values[1 - cuda.threadIdx.x]
    cuda.syncthreads()
    values[cuda.threadIdx.x] = value


@cuda.jit
def among_blocks(values):
    """Write one element from all blocks: no barrier would help."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        values[0] = cuda.blockIdx.x


@cuda.jit
def with_a_barrier_for_some(values):
    """Let one thread alone wait."""
    if cuda.threadIdx.x == 0:
        cuda.syncthreads()


@pytest.mark.parametrize(
    ("kernel", "races"),
    [(without_barrier, True), (with_barrier, False), (among_blocks, True), (with_a_barrier_for_some, True)],
)
def test_races_are_found(watch, kernel, races):
    program = Program()
    program.launch(kernel, 2 if kernel is among_blocks else 1, 2, upload(np.zeros(2)))
    program.run()
    assert bool(watch.races) == races
    watch.races.clear()


OPTIONS = {
    "lengths": {"num_layers": 2, "bidirectional": True, "lengths": LENGTHS, "state": True},
    "noise": {"recurrent_dropout": 0.4, "zoneout": 0.4, "mask": MASK, "bidirectional": True, "merge": "sum"},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if not cell.loops])
def test_layers_have_none(watch, cell, name, path):
    options = OPTIONS[name]
    if not CELLS[cell].h_rows:
        options = {key: value for key, value in options.items() if key != "recurrent_dropout"}
    run("cuda", cell, "float32", options)
    assert len(watch.launches) > 4


def test_projections_have_none(watch):
    run("cuda", "lstm", "float32", {"proj_size": 2, **OPTIONS["noise"]})


def test_fits_have_none(watch):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 2))
    usual = {"hidden_size": 3, "batch_size": 2, "max_iter": 2, "device": "cuda", "random_state": 0}
    RNNRegressor(
        **usual, early_stopping=True, validation_fraction=0.4, alpha=0.1, head_sizes=(3,), stem_sizes=(3,),
        dropout=0.3, bidirectional=True, merge="product", initial_state="learned", ema_momentum=0.5,
    ).fit(x, y, lengths=[3, 2, 1, 3, 2])  # fmt: skip
    x[:, :, 1] = rng.integers(0, 3, (5, 3))
    RNNClassifier(**usual, embedding=[(1, 3, 2)], solver="rmsprop").fit(x, [0, 1, 2, 0, 1])
    assert {"sums", "_decide", "embed_back", "_average"} <= watch.launches


@pytest.mark.parametrize("decoder", ["segment", "recursive"])
def test_fits_of_forecasters_have_none(watch, decoder):
    y = np.random.default_rng(0).standard_normal((30, 2)).cumsum(axis=0)
    y[5:8] = np.nan
    RNNForecaster(
        horizon=4, context_length=7, segment_length=3 if decoder == "segment" else "auto", decoder=decoder,
        normalize="window", hidden_size=3, batch_size=8, max_iter=1, samples_per_epoch=None, random_state=0,
        device="cuda",
    ).fit(y)  # fmt: skip
    assert "window_moments" in watch.launches
