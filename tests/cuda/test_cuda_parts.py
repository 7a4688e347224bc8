"""Products, and a cell of one's own, on the device."""

import ctypes
import gc
import importlib.util
import inspect
import warnings
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from numbarnn import Recurrent, register_cell
from numbarnn.bench.cases import Case, our_job
from numbarnn.bench.measure import check_results
from numbarnn.blocks import states_of
from numbarnn.cells import CELLS, Cell
from numbarnn.cuda import blas, pointwise
from numbarnn.cuda import program as programs
from numbarnn.cuda.blas import Matrix
from numbarnn.cuda.driver import (
    SIMULATED,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    cuda,
    download,
    named_error,
    upload,
)
from numbarnn.cuda.program import Graph, Program
from numbarnn.simd import clamp, is_positive, relu, sigmoid, tanh


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_are_those_of_strided_rows(dtype):
    rng, (m, n, k) = np.random.default_rng(0), (3, 4, 5)
    for a_turned, b_turned, add in product((False, True), (False, True), (False, True)):
        a = rng.standard_normal((k, m + 2) if a_turned else (m, k + 2)).astype(dtype)
        b = rng.standard_normal((n, k + 1) if b_turned else (k, n + 1)).astype(dtype)
        c = rng.standard_normal((m, n + 3)).astype(dtype)
        factors = [Matrix(upload(each), 1, each.shape[1]) for each in (a, b)]
        turned = zip(factors, (a_turned, b_turned), strict=True)
        factors = [each.T if turns else each for each, turns in turned]
        found, program = upload(c), Program()
        program.product(m, n, k, *factors, Matrix(found, 2, n + 3), add)
        program.run()
        left = a[:, 1 : m + 1].T if a_turned else a[:, 1 : k + 1]
        right = b[:, 1:].T if b_turned else b[:, 1:]
        right = right[:k, :n]
        expected = c.copy()
        expected[:, 2 : n + 2] = left @ right + add * c[:, 2 : n + 2]
        limit = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(download(found).reshape(c.shape), expected, atol=limit)


def test_a_recorded_program_does_what_it_did(monkeypatch):
    """On a GPU the second run records it, and later ones start the graph; the simulator knows no graphs."""
    monkeypatch.setattr(programs, "RECORDS", True)
    rng, n = np.random.default_rng(0), 4
    a, b = rng.standard_normal((2, n, n)).astype("float32")
    left, right, total, program = upload(a), upload(b), upload(np.zeros((n, n), "float32")), Program()
    program.product(n, n, n, Matrix(left, 0, n), Matrix(right, 0, n), Matrix(total, 0, n), add=True)
    program.each(pointwise.add, n * n, n * n, right, total)
    for runs in range(1, 5):
        program.run()
        np.testing.assert_allclose(download(total).reshape(n, n), runs * (a @ b + b), rtol=1e-5, atol=1e-5)


needs_graphs = pytest.mark.skipif(Graph.__module__ != programs.__name__, reason="something stands for Graph")


class Recorder:
    """Stands for functions of the driver; `fails` is one that fails, by its code."""

    def __init__(self, monkeypatch, fails=None, code=None):
        from cuda.bindings import driver

        self.done, self.ok = [], driver.CUresult.CUDA_SUCCESS
        results = {"cuStreamCreate": driver.CUstream(4660), "cuStreamEndCapture": "graph",
                   "cuGraphInstantiate": "executable"}  # fmt: skip
        for name in (*results, "cuStreamBeginCapture", "cuStreamDestroy", "cuGraphDestroy", "cuGraphLaunch"):

            def call(*arguments, name=name):
                self.done.append((name, *arguments[:1]))
                values = (results[name],) if name in results else ()
                return (code if name == fails else self.ok, *values)

            monkeypatch.setattr(driver, name, call)
        monkeypatch.setattr(programs, "allocate_workspace", lambda: self.done.append(("workspace",)))
        monkeypatch.setattr(driver, "cuGraphExecDestroy", lambda graph: (self.ok,))

    def names(self):
        return [name for name, *_ in self.done]


@needs_graphs
def test_a_graph_is_recorded_on_a_stream_of_its_own_and_started_on_the_default_one(monkeypatch):
    recorder, streams = Recorder(monkeypatch), []
    graph = Graph([streams.append, streams.append])
    assert streams == [4660, 4660]
    assert recorder.names() == ["workspace", "cuStreamCreate", "cuStreamBeginCapture", "cuStreamEndCapture",
                                "cuGraphInstantiate", "cuGraphDestroy", "cuStreamDestroy"]  # fmt: skip
    graph.launch()
    assert recorder.done[-1] == ("cuGraphLaunch", "executable")


@needs_graphs
def test_a_graph_that_cannot_be_recorded_leaves_no_stream_recording(monkeypatch):
    def fail(stream):
        raise ZeroDivisionError

    recorder = Recorder(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        Graph([fail])
    assert recorder.names()[-3:] == ["cuStreamEndCapture", "cuGraphDestroy", "cuStreamDestroy"]


@needs_graphs
@pytest.mark.parametrize(
    ("code", "kind"),
    [("CUDA_ERROR_OUT_OF_MEMORY", DeviceMemoryError), ("CUDA_ERROR_LAUNCH_FAILED", DeviceLostError)],
)
def test_what_fails_in_recording_has_a_name(monkeypatch, code, kind):
    from cuda.bindings import driver

    recorder = Recorder(monkeypatch, "cuGraphInstantiate", getattr(driver.CUresult, code))
    with pytest.raises(kind, match=f"device was 'cuda'.*{code}"):
        Graph([])
    assert recorder.names()[-2:] == ["cuGraphDestroy", "cuStreamDestroy"]


class Kernel:
    """Stands for a kernel of numba-cuda, and for what it compiles: as far as a launch looks at them."""

    argument_types = (tuple, float)
    typeof_pyval = staticmethod(type)
    _codelibrary = SimpleNamespace(get_cufunc=lambda: SimpleNamespace(handle=77))

    def __init__(self):
        self.launched, self.overloads = 0, {(tuple, float): self}

    def __getitem__(self, configuration):
        return self.launch

    def launch(self, *arguments):
        self.launched += 1

    def _prepare_args(self, kind, value, stream, retr, flat):
        flat.extend(value if kind is tuple else [ctypes.c_float(value)])  # as numbers of an array are


@pytest.fixture
def driven(monkeypatch):
    """Return what the driver is asked to launch; its answers are taken from `codes`."""
    from cuda.bindings import driver

    def launch(function, *arguments):
        *numbers, stream, address, _ = arguments
        places = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))
        values = [ctypes.c_int64.from_address(places[k]).value for k in range(2)]
        values.append(ctypes.c_float.from_address(places[2]).value)
        seen.append((int(function), *numbers, stream, values))
        return (codes.pop() if codes else driver.CUresult.CUDA_SUCCESS,)

    seen, codes = [], []
    monkeypatch.setattr(driver, "cuLaunchKernel", launch)
    monkeypatch.setattr(programs, "SIMULATED", False)
    return SimpleNamespace(seen=seen, codes=codes, codes_of=driver.CUresult)


def test_later_runs_hand_the_driver_parameters_that_were_made_once(driven):
    kernel, program = Kernel(), Program()
    program.launch(kernel, 3, 32, (2**40, -1), 0.5)
    for runs in range(1, 4):
        program.run()
        gc.collect()
        assert kernel.launched == 1
        assert driven.seen == [(77, 3, 1, 1, 32, 1, 1, 0, 0, [2**40, -1, 0.5])] * (runs - 1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("CUDA_ERROR_OUT_OF_MEMORY", DeviceMemoryError), ("CUDA_ERROR_ILLEGAL_ADDRESS", DeviceLostError),
     ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", DeviceError)],
)  # fmt: skip
def test_a_launch_that_the_driver_refuses_has_an_error_of_its_own(driven, code, kind):
    program = Program()
    program.launch(Kernel(), 1, 1, (1, 2), 3.0)
    program.run()
    driven.codes.append(getattr(driven.codes_of, code))
    with pytest.raises(DeviceError, match=code) as caught:
        program.run()
    assert type(caught.value) is kind


@pytest.mark.parametrize("missing", ["overloads", "typeof_pyval"])
def test_a_kernel_that_has_not_what_a_prepared_launch_takes_is_launched_as_ever(driven, missing):
    kernel, program = Kernel(), Program()
    program.launch(kernel, 1, 1, (1, 2), 3.0)
    program.run()
    setattr(kernel, missing, None)
    program.run()
    assert not driven.seen


def run_once(monkeypatch, error):
    """Return a program that has run once, and whose recording in the next run raises an error."""
    monkeypatch.setattr(programs, "RECORDS", True)
    monkeypatch.setattr(programs, "Graph", Mock(side_effect=error))
    program = Program()
    program.launch(Kernel(), 1, 1, (1, 2), 3.0)
    program.run()
    return program


def test_a_program_that_cannot_be_recorded_is_launched_and_nothing_twice(driven, monkeypatch):
    program = run_once(monkeypatch, DeviceMemoryError("no room for a graph"))
    ((kernel, _, _),) = program.launches
    with pytest.warns(RuntimeWarning, match="cannot be recorded as a graph: no room"):
        program.run()
    program.run()
    assert kernel.launched + len(driven.seen) == 3


def test_a_warning_that_is_an_error_is_raised_once(driven, monkeypatch):
    program = run_once(monkeypatch, named_error("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="STREAM_CAPTURE"):
            program.run()
        program.run()
    assert len(driven.seen) == 1


def test_a_device_that_is_lost_in_recording_is_asked_for_nothing_more(driven, monkeypatch):
    program = run_once(monkeypatch, named_error("CUDA_ERROR_ILLEGAL_ADDRESS"))
    with pytest.raises(DeviceLostError):
        program.run()
    assert not driven.seen


@pytest.mark.skipif(SIMULATED, reason="a simulated kernel is not compiled")
def test_the_installed_compiler_has_what_a_prepared_launch_takes():
    """Else all launches would take numba-cuda's slow way, and nothing would say so."""
    dispatcher = pytest.importorskip("numba.cuda.dispatcher")
    codegen = pytest.importorskip("numba.cuda.codegen")
    kernel, compiled = cuda.jit(lambda x: None), dispatcher._Kernel
    assert kernel.typeof_pyval(1)
    assert kernel.overloads == {}
    assert inspect.signature(compiled._prepare_args).bind("self", "kind", "value", 0, [], [])
    assert hasattr(compiled, "argument_types")
    assert "self._codelibrary = " in inspect.getsource(compiled)
    assert hasattr(codegen.CUDACodeLibrary, "get_cufunc")


def test_cublas_is_called_as_the_simulated_library_is(monkeypatch):
    """The bindings of cuBLAS, of which only the signatures are there, take what `product` passes."""
    cublas, seen = pytest.importorskip("nvmath.bindings.cublas", exc_type=ImportError), []
    monkeypatch.setattr(blas, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(cublas, "create", lambda: 7)
    for name in ("set_math_mode", "set_stream", "set_workspace", "sgemm", "dgemm"):
        taken = getattr(cublas, name).__doc__.partition(")")[0].count(",") + 1
        monkeypatch.setattr(
            cublas, name, lambda *arguments, name=name, taken=taken: seen.append((name, taken, arguments))
        )
    products = blas._cublas.__wrapped__(0)
    assert seen == [("set_math_mode", 2, (7, cublas.Math.DEFAULT_MATH))]
    seen.clear()
    products[4](0, *range(13))
    assert seen == [("sgemm", 14, (7, *range(13)))]
    seen.clear()
    products[8](5, *range(13))
    stream, (_, three, (_, _, size)), product, back = seen
    assert stream == ("set_stream", 2, (7, 5))
    assert (three, size) == (3, 2**25)
    assert product == ("dgemm", 14, (7, *range(13)))
    assert back == ("set_stream", 2, (7, 0))


def toy_forward(gates, states, units):
    """Use every function that equations may use, a vector and a scalar."""
    a, x = gates
    h_prev, e_prev = states
    w, alpha = units
    g = sigmoid(a) + 0.5 * relu(x) * is_positive(x)
    e = e_prev * 0.5 + w * clamp(g, 0.75)
    return (tanh(e) + alpha * h_prev, e), (g, x)


def toy_backward(kept, states, new_states, dstates, units):
    """Go back through it."""
    g, x = kept
    h_prev, _ = states
    _, e = new_states
    dh, de = dstates
    w, alpha = units
    tanh_e = tanh(e)
    de = de + dh * (1.0 - tanh_e * tanh_e)
    clamped = clamp(g, 0.75)
    inside = is_positive(0.75 - g) * is_positive(g + 0.75)
    dg = de * w * inside
    s = g - 0.5 * relu(x) * is_positive(x)
    dunits = (de * clamped, dh * h_prev)
    return (dg * s * (1.0 - s), dg * 0.5 * is_positive(x)), (dh * alpha, de * 0.5), dunits


def means_forward(gates, states):
    """Give the second of two running means, one of the other; h is not looked at."""
    (x,) = gates
    _, first, second = states
    first = 0.5 * (first + x)
    second = 0.5 * (second + first)
    return (tanh(second), first, second), (x,)


def means_backward(kept, states, new_states, dstates):
    """Go back through it."""
    h, _, _ = new_states
    dh, dfirst, dsecond = dstates
    dsecond = 0.5 * (dsecond + dh * (1.0 - h * h))
    dfirst = 0.5 * (dfirst + dsecond)
    return (dfirst,), (0.0 * dh, dfirst, dsecond)


OWN = [
    Cell("toy", ("a", "b"), (("a", "xh"), ("b", "x")), toy_forward, toy_backward, states=("h", "e"),
         vectors=("weight_e",), scalars=("alpha",)),
    Cell("means", ("x",), (("x", "x"),), means_forward, means_backward, states=("h", "first", "second")),
]  # fmt: skip


@pytest.fixture(params=OWN, ids=lambda cell: cell.name)
def own(request):
    register_cell(request.param)
    yield request.param.name
    del CELLS[request.param.name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cell_of_ones_own_runs_on_both(own, dtype, path):
    rng, found = np.random.default_rng(0), []
    x, doutput = rng.standard_normal((3, 3, 2)), rng.standard_normal((3, 3, 4))
    for device in ("cuda", "cpu"):
        layer = Recurrent(own, 2, 4, dtype=dtype, random_state=0, device=device)
        output, final = layer.forward(x, training=True)
        found.append({f"final {k}": part for k, part in enumerate(states_of(final))})
        dx, _ = layer.backward(doutput)
        found[-1] |= {"output": output, "dx": dx, **layer.gradients}
        found[-1] |= {f"predicted {k}": part for k, part in enumerate(states_of(layer.forward(x)[1]))}
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, atol=1e-10 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(
    "name", ["lstm[hard_sigmoid,softsign,softplus;clip=3.0]", "gru[elu,leaky_relu(0.1)]"]
)
def test_other_activations_run_on_both(name):
    x = np.random.default_rng(0).standard_normal((2, 3, 2))
    outputs = [
        Recurrent(name, 2, 3, dtype="float64", random_state=0, device=device).forward(x)[0]
        for device in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(*outputs, atol=1e-10)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_benchmark_times_what_a_layer_does(cell, path):
    spec = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[2] / "benchmarks" / "gpu.py")
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    case = Case("train", cell, 2, 3, 2, 3, input_gradient=True)
    assert check_results(case, gpu.our_layer(case).results(), our_job(case, 1).results()) < 1e-5
    assert len(gpu.cases_of(None)) == 21
