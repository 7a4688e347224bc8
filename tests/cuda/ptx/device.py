"""``device="cuda"`` without a GPU or its driver: kernels are compiled for one, and their PTX is interpreted.

All else is what runs on a GPU too, but for cuBLAS and for graphs. In place of the driver stand arrays of the
host, that can do no more than those of a device.
"""

from functools import cache
from types import SimpleNamespace
from unittest import mock

import numpy as np
from numba import types
from numba.cuda import dispatcher

from numbarnn.cuda import blas, program
from numbarnn.cuda.driver import cuda
from numbarnn.cuda.plans import SHARED_BYTES
from ptx.running import UNWRITTEN, Launch, Memory
from ptx.translation import Module

CAPABILITY = (9, 0)
FAULTS = []  # (kernel, what it did)
_MEMORY = Memory()


class DeviceArray(np.ndarray):
    """An array that stands for one of a device."""

    @property
    def __cuda_array_interface__(self):
        return {"data": (self.ctypes.data, False)}

    def copy_to_host(self):
        return np.array(self, subok=False)

    def copy_to_device(self, values):
        assert type(values) is np.ndarray
        assert values.dtype == self.dtype
        assert values.shape == self.shape
        self[...] = values


def device_array(shape, dtype):
    array = np.ndarray.__new__(DeviceArray, shape, dtype)
    if array.itemsize in UNWRITTEN:
        unwritten = UNWRITTEN[array.itemsize]
        array.view(np.ndarray).view(unwritten.dtype)[...] = unwritten
    _MEMORY.add(array)
    return array


def to_device(values):
    array = device_array(values.shape, values.dtype)
    array[...] = values
    return array


@cache
def module_of(kernel, kinds):
    """Compile a kernel for arguments of these types."""
    options = {"cc": CAPABILITY, "output": "ptx", "device": False, "abi": "numba"}
    module = Module(cuda.compile(kernel, types.void(*kinds), **options)[0])
    assert module.shared <= SHARED_BYTES
    return module


def parameters_of(kind, value):
    """Yield the parameters that an argument of a kernel is."""
    if isinstance(kind, types.Array):
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(kind, types.BaseTuple):
        for each, part in zip(kind, value, strict=True):
            yield from parameters_of(each, part)
    else:
        yield value


def configure(kernel, blocks, threads, stream=0, shared=0):
    """Stand for ``kernel[blocks, threads, stream, shared]``."""
    assert not stream
    assert not shared
    assert 0 < threads <= 1024

    def launch(*arguments):
        kinds = tuple(kernel.typeof_pyval(each) for each in arguments)
        given = [each for pair in zip(kinds, arguments, strict=True) for each in parameters_of(*pair)]
        run = Launch(module_of(kernel.py_func, kinds), int(blocks), int(threads), given, _MEMORY)
        run.start()
        FAULTS.extend((kernel.py_func.__name__, fault) for fault in sorted(run.faults))

    return launch


class Graph:
    """Stands for a recorded program: it is done again."""

    def __init__(self, calls):
        self._calls = calls

    def launch(self):
        for call in self._calls:
            call(0)


def install():
    """Let all that follows in this process run so."""
    device = SimpleNamespace(compute_capability=CAPABILITY, MULTIPROCESSOR_COUNT=4, id=0)
    context = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(free=2**30))
    for place, name, what in (
        (cuda, "device_array", device_array), (cuda, "to_device", to_device),
        (cuda, "is_available", lambda: True), (cuda, "current_context", lambda: context),
        (cuda, "get_current_device", lambda: device), (dispatcher, "get_current_device", lambda: device),
        (dispatcher.CUDADispatcher, "configure", configure),
        (blas, "load", blas._simulated), (program, "Graph", Graph),
    ):  # fmt: skip
        mock.patch.object(place, name, what).start()
