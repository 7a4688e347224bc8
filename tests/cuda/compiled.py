"""``device="cuda"`` without a GPU or its driver: kernels are compiled as for a GPU, and their PTX interpreted.

In place of the driver stand arrays of the host, which differ from NumPy's in what numba-cuda's can do.
"""

from collections import Counter
from functools import cache
from types import SimpleNamespace
from unittest import mock

import numpy as np
from numba import types
from numba.cuda import dispatcher
from ptx import UNWRITTEN, Launch, Memory, Module

from numbarnn.cuda import blas, driver
from numbarnn.cuda.driver import cuda

CAPABILITY = (9, 0)
MEMORY = Memory()
LAUNCHED = Counter()  # instructions by the names of kernels


class DeviceArray(np.ndarray):
    """An array of the host that stands for one of a device, and can do no more than that."""

    @property
    def __cuda_array_interface__(self):
        return {"data": (self.ctypes.data, False)}

    def copy_to_host(self):
        return np.array(self, subok=False)

    def copy_to_device(self, values):
        assert type(values) is np.ndarray and values.flags.c_contiguous and self.flags.c_contiguous
        assert values.dtype == self.dtype and values.shape == self.shape, (values.dtype, values.shape)
        self[...] = values


def device_array(shape, dtype):
    array = np.ndarray.__new__(DeviceArray, shape, dtype)
    if array.itemsize in UNWRITTEN:
        array.view(np.ndarray).view(UNWRITTEN[array.itemsize].dtype)[...] = UNWRITTEN[array.itemsize]
    MEMORY.add(array)
    return array


def to_device(values):
    array = device_array(values.shape, values.dtype)
    array[...] = values
    return array


@cache
def module_of(kernel, arguments):
    text = cuda.compile(
        kernel, types.void(*arguments), cc=CAPABILITY, output="ptx", device=False, abi="numba"
    )[0]
    return Module(text)


def flat(kind, value):
    """Yield the parameters of a kernel that an argument is."""
    if isinstance(kind, types.Array):
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(kind, types.BaseTuple):
        for each, part in zip(kind, value, strict=True):
            yield from flat(each, part)
    else:
        yield value


def configure(kernel, blocks, threads, stream=0, shared=0):
    """Stand for ``kernel[blocks, threads, stream, shared]``."""
    assert not stream and not shared
    assert 0 < threads <= 1024

    def launch(*arguments):
        kinds = tuple(kernel.typeof_pyval(each) for each in arguments)
        module = module_of(kernel.py_func, kinds)
        values = [value for kind, each in zip(kinds, arguments, strict=True) for value in flat(kind, each)]
        of = {"u64": "u8", "u32": "u4", "u16": "u2", "u8": "u1", "f32": "f4", "f64": "f8"}
        values = [np.array(value).astype(of[kind])[()] for (kind, _), value in
                  zip(module.kernel.parameters, values, strict=True)]  # fmt: skip
        run = Launch(module, int(blocks), int(threads), values, MEMORY)
        before = Counter(MEMORY.faults)
        run.start()
        LAUNCHED[kernel.py_func.__name__] += run.instructions
        for fault in MEMORY.faults - before:
            FAULTS.append((kernel.py_func.__name__, fault))

    return launch


FAULTS = []


def install():
    """Let everything that follows in this process use it."""
    device = SimpleNamespace(compute_capability=CAPABILITY, MULTIPROCESSOR_COUNT=4, id=0)
    memory = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(free=2**30))
    for place, name, what in (
        (cuda, "device_array", device_array), (cuda, "to_device", to_device),
        (cuda, "get_current_device", lambda: device), (dispatcher, "get_current_device", lambda: device),
        (cuda, "current_context", lambda: memory), (cuda, "is_available", lambda: True),
        (dispatcher.CUDADispatcher, "configure", configure), (blas, "load", blas._simulated),
    ):  # fmt: skip
        mock.patch.object(place, name, what).start()
