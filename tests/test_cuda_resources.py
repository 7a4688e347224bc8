"""Every kernel compiles for the GPUs that it is for, and takes no more than the committed table says.

No GPU is needed, but the compiler that ``numba-cuda[cu13]`` brings; without it there is nothing to test.
"""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
FOLDER = Path(__file__).parents[1] / "benchmarks"


def compiler_is_there():
    """Whether kernels can be compiled in this process."""
    if SIMULATED or importlib.util.find_spec("numba_cuda") is None:
        return False
    try:
        from cuda.bindings import nvrtc, nvvm

        nvvm.version()
        nvrtc.nvrtcVersion()
    except Exception:  # whatever it is that is missing, it cannot compile
        return False
    return True


pytestmark = pytest.mark.skipif(not compiler_is_there(), reason="there is no compiler for GPUs")


@pytest.fixture(scope="module")
def launches():
    from numbarnn.cuda.resources import launches

    return launches()


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(FOLDER))
    try:
        import cuda_resources
    finally:
        sys.path.remove(str(FOLDER))
    return cuda_resources


def compile_all(launches, capability, chosen):
    from numbarnn.cuda.resources import to_ptx

    return {name: to_ptx(launch, capability) for name, launch in launches.items() if chosen(name)}


def check(found, launches, capability, script):
    """Compare with the committed table, kernel by kernel."""
    from numbarnn.cuda.resources import find_ptxas, measure

    ptxas = find_ptxas()
    committed = json.loads(script.PATH.read_text(encoding="utf-8"))
    if ptxas is None or script.versions() != committed["versions"]:
        pytest.skip("the committed table is of other compilers")
    kernels = committed["kernels"]["sm_{}{}".format(*capability)]
    for name, ptx in found.items():
        assert name in kernels, f"{name} is new: run benchmarks/cuda_resources.py"
        for what, value in measure(launches[name], ptx, capability, ptxas).items():
            assert value <= kernels[name][what], f"{name} takes more {what}: {value}"


def test_every_kind_of_kernel_is_there(launches):
    """A kernel of the package that no case launches would not be compiled here."""
    from numbarnn.cuda import losses, optimizers, pointwise, training, windows

    launched = {launch.kernel for launch in launches.values()}
    for module in (losses, optimizers, pointwise, training, windows):
        found = [value for value in vars(module).values() if hasattr(value, "targetoptions")]
        kernels = {value for value in found if not value.targetoptions.get("device")}
        missing = {kernel.py_func.__name__ for kernel in kernels - launched}
        # the way in and out of NumPy arrays, which training does not take
        assert missing <= {"rows_in", "rows_out"}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("hidden", [32, 96])
def test_small_layers_are_on_the_chip(launches, cell, hidden):
    for way in ("forward", "backward", "predict"):
        assert launches[f"{way} {cell} {hidden}"].kernel.py_func.__module__ == "numbarnn.cuda.loops"


def test_kernels_are_in_the_type_that_is_computed_in(launches):
    """A constant that is a Python float would turn a float32 loop into one of float64."""
    halves = "(first_half|finish)(_back)? lstm 64 projected"
    pattern = re.compile(rf"((forward|backward) (lstm|gru|rnn) 32|{halves})( noise)?$")
    loops = compile_all(launches, (9, 0), pattern.match)
    assert len(loops) == 16
    for name, ptx in loops.items():
        assert not re.search(r"\.f64\b", ptx), name
        assert ".local" not in ptx, f"{name} has an array that is not in registers"


def test_loops_of_the_usual_cells_and_all_small_kernels(launches, script):
    found = compile_all(launches, (9, 0), lambda name: " " not in name or re.search(r"(lstm|gru) 96$", name))
    check(found, launches, (9, 0), script)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_every_kernel(launches, script, capability):
    found = compile_all(launches, capability, lambda name: True)
    assert len(found) == len(launches)
    assert all(f".target sm_{capability[0]}{capability[1]}" in ptx for ptx in found.values())
    check(found, launches, capability, script)
