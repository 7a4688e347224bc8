"""``tests/cuda`` in Numba's simulator, which has to be asked for before Numba is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALLED = importlib.util.find_spec("numba_cuda") is not None
FILES = sorted(path.name for path in (HERE / "cuda").glob("test_*.py"))
# of files that take minutes in the simulator, each so many-th test; all of them with -m slow
EVERY = {"test_cuda_layers.py": 13, "test_cuda_forecasting.py": 11, "test_cuda_training.py": 3}


@pytest.mark.skipif(not INSTALLED, reason="numba-cuda is not installed")
@pytest.mark.parametrize(
    ("name", "every"),
    [(name, EVERY.get(name, 1)) for name in FILES]
    + [pytest.param(name, 1, marks=pytest.mark.slow) for name in EVERY],
)
def test_in_the_simulator(name, every):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "cuda" / name)]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBARNN_EVERY": str(every)}
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


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
