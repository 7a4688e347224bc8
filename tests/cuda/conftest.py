"""Tests of ``device="cuda"``, which run on a GPU, and without one in two ways.

With NUMBA_ENABLE_CUDASIM=1 Numba's simulator runs the Python of the kernels. With NUMBARNN_PTX=1 they are
compiled as for a GPU, and `ptx` interprets what the compiler wrote and checks every access. Where there is
nothing of this, nothing here is collected; ``tests/test_cuda.py`` runs it in processes of both kinds.
"""

import os
import sys
import threading

import numpy as np
import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
INTERPRETED = os.environ.get("NUMBARNN_PTX", "0") not in ("", "0")

if INTERPRETED:
    from ptx import device

    device.install()


def _there_is_a_device():
    try:
        from numbarnn.cuda.driver import check_device

        check_device()
    except ImportError:
        return False
    return True


collect_ignore_glob = [] if _there_is_a_device() else ["test_*.py"]


def _mend_simulator():
    """Make shared arrays of simulated blocks safe and quick.

    As it stands, two threads that ask for one at the same time may each get their own, and each of them reads
    the source of the whole stack to find out where it is asked from.
    """
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    lock = threading.Lock()

    def array(self, shape, dtype, alignment=None):
        frame = sys._getframe(1)
        key = frame.f_code, frame.f_lineno
        with lock:
            if key not in self._allocations:
                made = self._allocations[key] = np.empty(shape, np.dtype(dtype))
                if made.dtype.kind == "f":
                    made[:] = np.nan
            return self._allocations[key]

    FakeCUDAShared.array = array
    sys.setswitchinterval(1e-4)  # threads that wait for each other should not wait for the clock


if SIMULATED:
    _mend_simulator()


def pytest_collection_modifyitems(config, items):
    """Keep every n-th test of a file alone, if NUMBARNN_EVERY=n: all of them take long in the simulator."""
    items[:] = items[:: int(os.environ.get("NUMBARNN_EVERY", "1"))]


@pytest.fixture(params=["chip", "library"])
def path(request, monkeypatch):
    """Run a test with the loop on the chip, and with a product of the library in each step."""
    if request.param == "library":
        monkeypatch.setattr("numbarnn.cuda.directions.plan", lambda *arguments: None)
    return request.param


@pytest.fixture
def see_the_same():
    """Compare what callbacks see of ``fit(device, callback)`` on both devices, until the fifth ends it."""

    def compare(fit):
        seen = {"cuda": [], "cpu": []}
        for device, events in seen.items():

            def note(info, events=events):
                events.append((info["event"], info["loss"], info["network"].parameters.copy()))
                return len(events) == 5

            fit(device, note)
        assert len(seen["cuda"]) == len(seen["cpu"]) == 5
        for found, expected in zip(*seen.values(), strict=True):
            assert found[0] == expected[0]
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-10)
            np.testing.assert_allclose(found[2], expected[2], atol=1e-10)

    return compare


@pytest.fixture(autouse=INTERPRETED)
def faultless():
    """Fail a test in which a kernel did what compute-sanitizer would report."""
    device.FAULTS.clear()
    yield
    assert not device.FAULTS
