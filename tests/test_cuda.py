"""``tests/cuda`` without a GPU, in processes of their own: what runs kernels is chosen before the import.

That is Numba's simulator; or they are compiled as for a GPU, and `cuda.ptx` runs what the compiler wrote.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from test_cuda_resources import compiler_is_there

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src" / "numbarnn" / "cuda"
INSTALLED = importlib.util.find_spec("numba_cuda") is not None
FILES = sorted((HERE / "cuda").glob("test_*.py"))
# of files that take minutes, each so many-th test; all of them with -m slow
EVERY = {
    "NUMBA_ENABLE_CUDASIM": {"layers": 43, "forecasting": 23, "training": 11},
    "NUMBARNN_PTX": {"layers": 7, "forecasting": 7, "training": 5},
}


def cases():
    for mode, file in product(EVERY, FILES):
        name, every = file.stem.removeprefix("test_cuda_"), EVERY[mode]
        if name != "ptx" or mode == "NUMBARNN_PTX":
            yield pytest.param(mode, file, every.get(name, 1), id=f"{mode}-{name}")
        if name in every:
            yield pytest.param(mode, file, 1, id=f"{mode}-{name}-all", marks=pytest.mark.slow)


@pytest.mark.skipif(not INSTALLED, reason="numba-cuda is not installed")
@pytest.mark.parametrize(("mode", "file", "every"), list(cases()))
def test_without_a_gpu(mode, file, every):
    if mode == "NUMBARNN_PTX" and not compiler_is_there():
        pytest.skip("there is no compiler for GPUs")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    others = {name: value for name, value in os.environ.items() if name not in EVERY}
    environment = {**others, mode: "1", "NUMBARNN_EVERY": str(every)}
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


BARRIERS = [
    (name, number)
    for name in ("loops", "losses", "windows")
    for number, line in enumerate((SOURCE / f"{name}.py").read_text(encoding="utf-8").splitlines())
    if "cuda.syncthreads()" in line
]
# tests in which some thread would overtake another
CROSSED = {
    "loops": ["parts.py", "-k", "ones_own"],
    "losses": ["training.py"],
    "windows": ["forecasting.py", "-k", "a_fit_is_as_on_the_cpu"],
}


@pytest.mark.slow
@pytest.mark.skipif(not compiler_is_there(), reason="there is no compiler for GPUs")
@pytest.mark.parametrize(("name", "number"), BARRIERS)
def test_without_a_barrier_there_is_a_race(tmp_path, name, number):
    """Each is needed, and the tests would tell if it were missing."""
    shutil.copytree(SOURCE.parents[1], tmp_path / "src")
    path = tmp_path / "src" / "numbarnn" / "cuda" / f"{name}.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number] = lines[number].replace("cuda.syncthreads()", "pass")
    path.write_text("\n".join(lines), encoding="utf-8")
    file, *chosen = CROSSED[name]
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
    command += [f"tests/cuda/test_cuda_{file}", *chosen]
    environment = {**os.environ, "NUMBARNN_PTX": "1", "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True)
    assert "a race" in done.stdout, done.stdout[-2000:]


def test_nothing_of_it_is_imported_on_the_cpu():
    code = """
import sys
import numpy as np
from numbarnn import RNNRegressor, Recurrent
Recurrent("gru", 1, 2).forward(np.ones((1, 1, 1)))
import numbarnn.estimators, numbarnn.forecasting, numbarnn.serialization
ours = ("numbarnn.cuda", "numba.cuda.", "numba_cuda", "nvmath")
bad = [name for name in sys.modules if name.startswith(ours)]
assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_numba_cuda_the_error_says_what_to_install(monkeypatch):
    code = """
import sys
sys.modules["numba.cuda"] = None
sys.modules["numba_cuda_mlir"] = None
import numbarnn
try:
    numbarnn.Recurrent("gru", 1, 2, device="cuda")
except RuntimeError as error:
    assert "device was 'cuda'" in str(error) and 'pip install "numbarnn[cuda]"' in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_successor_of_numba_cuda_is_taken_where_it_is_what_there_is():
    """Numba's own module of the name is none that kernels are compiled with."""
    code = """
import os, sys, types
os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
import numba
old, successor = types.ModuleType("numba.cuda"), types.ModuleType("numba_cuda_mlir")
old.implementation, old.jit = "Built-in", None
successor.cuda = types.SimpleNamespace(jit=lambda *args, **options: lambda kernel: kernel)
sys.modules["numba.cuda"] = numba.cuda = old
sys.modules["numba_cuda_mlir"] = successor
from numbarnn.cuda import driver
assert driver.cuda is successor.cuda
old.implementation = "NVIDIA"
assert driver._import_cuda() is old
"""
    subprocess.run([sys.executable, "-c", code], check=True)
