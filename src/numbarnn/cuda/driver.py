"""Where numba.cuda comes from, what can be wrong with a device, and arrays on it.

`cuda` is that of numba-cuda, or of its successor numba-cuda-mlir. With ``NUMBA_ENABLE_CUDASIM=1`` it is the
simulator, in which all of this room runs without a GPU, slowly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "SIMULATED", "DeviceError", "DeviceLostError", "DeviceMemoryError", "DeviceUnavailableError",
    "check_device", "cuda", "download", "driver_version", "empty", "free_bytes", "jit", "named_error",
    "naming_errors", "pointer", "processors", "upload",
]  # fmt: skip

LEAST_CAPABILITY = (7, 5)  # the oldest that CUDA 13 compiles for
LEAST_DRIVER = 13  # what is compiled and linked by CUDA 13, and its cuBLAS, no driver before loads
_INSTALL = 'pip install "numbarnn[cuda]"'
_OUT_OF_MEMORY = ("OUT_OF_MEMORY", "OutOfMemory", "out of memory", "ALLOC_FAILED")
# in the names of errors, all in small letters: of compilers and loaders, and of drivers and libraries
_OF_COMPILER = ("nvvm", "nvrtc", "nvjitlink", "linker", "support", "notfound")
_OF_DRIVER = ("cudaapi", "cudadriver", "cudaerror", "cudaruntime", "cublas")
# what drivers say of kernels that were compiled for another, or for a device that they have not, and what
# cuBLAS says of a driver that is older than itself
_CANNOT_RUN = (
    "UNSUPPORTED_PTX_VERSION", "NO_BINARY_FOR_GPU", "SYSTEM_DRIVER_MISMATCH", "INVALID_IMAGE", "INVALID_PTX",
    "INVALID_SOURCE", "JIT_COMPILER_NOT_FOUND", "COMPAT_NOT_SUPPORTED_ON_DEVICE", "NO_DEVICE",
    "DEVICE_UNAVAILABLE", "STUB_LIBRARY", "cuBLASError NOT_INITIALIZED",
)  # fmt: skip
# of a single call, or of a recording; the next one may do
_REFUSED = ("LAUNCH_OUT_OF_RESOURCES", "INVALID_VALUE", "STREAM_CAPTURE")
# of the module that an error's class is from: nobody else's errors are renamed
_OURS = ("numba", "numba_cuda", "numba_cuda_mlir", "nvmath", "cuda")


class DeviceError(RuntimeError):
    """Something is wrong with the GPU; the estimator is as it was, and works with ``device="cpu"``."""


class DeviceUnavailableError(DeviceError, ImportError):
    """There is no GPU, no compiler for it, or it is too old."""


class DeviceMemoryError(DeviceError, MemoryError):
    """Not everything fits into the GPU's memory."""


class DeviceLostError(DeviceError):
    """The GPU does not answer any more, or a kernel was broken off: a new process is needed to use it."""


SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def _import_cuda() -> Any:
    with suppress(ImportError):
        # makes numba-cuda what numba.cuda is, as a .pth file does where one is read: not in PYTHONPATH
        import _numba_cuda_redirector  # noqa: F401
    with suppress(ImportError):
        from numba import cuda

        # Numba alone has one of this name too, an old one for compilers that are not ours, or an empty shell
        if getattr(cuda, "implementation", None) == "NVIDIA" or SIMULATED:
            return cuda
    try:
        from numba_cuda_mlir import cuda
    except ImportError as error:
        raise DeviceUnavailableError(
            f"device was 'cuda'; expected 'cpu', as numba-cuda is not installed: {_INSTALL}"
        ) from error
    return cuda


cuda = _import_cuda()


def jit(kernel: Callable, name: str, registers: int | None = None) -> Callable:
    """Make a kernel of that name whose threads have at most so many registers; simulated ones have none."""
    kernel.__name__ = kernel.__qualname__ = name
    options = {} if registers is None or SIMULATED else {"max_registers": registers}
    return cuda.jit(**options)(kernel)


def processors() -> int:
    """Return how many blocks run at a time at least, one on each multiprocessor."""
    return 2 if SIMULATED else cuda.get_current_device().MULTIPROCESSOR_COUNT


def capability() -> tuple[int, int]:
    """Return the compute capability of the device in use; of the simulated one the least there may be."""
    return LEAST_CAPABILITY if SIMULATED else tuple(cuda.get_current_device().compute_capability)


def check_device() -> None:
    """Raise an error unless there is a device that kernels can be compiled for and run on.

    Raises
    ------
    DeviceUnavailableError
        If not; the message says what is missing and how to get it.
    """
    from numbarnn.cuda import blas

    with naming_errors():
        available = cuda.is_available()
    if not available:
        # which may be for want of a compiler alone
        missing = "its compiler, libNVVM, is not" if _has_gpu() else "no GPU is"
        raise DeviceUnavailableError(
            f"device was 'cuda'; expected 'cpu', as {missing} found: needed are an NVIDIA driver for CUDA "
            f"{LEAST_DRIVER} and {_INSTALL}"
        )
    with naming_errors():
        found = capability()
    if found < LEAST_CAPABILITY:
        raise DeviceUnavailableError(
            f"device was 'cuda', a GPU of compute capability {found[0]}.{found[1]}; expected 'cpu', or one "
            f"of {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} or above"
        )
    with naming_errors():
        blas.load()


def _has_gpu() -> bool:
    with suppress(Exception):
        return len(cuda.gpus) > 0
    return False


def driver_version() -> tuple[int, int]:
    """Return the newest version of CUDA that the driver knows."""
    from cuda.bindings import driver

    code, version = driver.cuDriverGetVersion()
    if code:
        raise named_error(code.name)
    return version // 1000, version % 1000 // 10


@contextmanager
def naming_errors() -> Iterator[None]:
    """Turn what driver, compilers and libraries raise into errors of this module.

    Raises
    ------
    DeviceError
        Of the kind that `named_error` finds.
    """
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        kind = type(error)
        name, text = kind.__name__.lower(), f"{kind.__name__} {error}"
        if kind.__module__.partition(".")[0] not in _OURS:
            raise
        compiles = any(word in name for word in _OF_COMPILER)
        known = compiles or any(word in name for word in _OF_DRIVER)
        if known or any(word in text for word in _OUT_OF_MEMORY + _CANNOT_RUN):
            raise named_error(text, compiles) from error
        raise


def named_error(text: str, compiles: bool = False) -> DeviceError:
    """Return the error that stands for another one.

    Parameters
    ----------
    text : str
        What the other one says, with the name of its code.
    compiles : bool, default=False
        Whether a compiler or loader has said it.

    Returns
    -------
    error : DeviceError
    """
    if any(word in text for word in _OUT_OF_MEMORY):
        return DeviceMemoryError(
            f"device was 'cuda', whose memory is too small for this ({text}); "
            "expected a smaller batch_size or network, or 'cpu'"
        )
    if "OUTDATED_LIBRARY" in text:
        return DeviceUnavailableError(
            f"device was 'cuda', for which kernels cannot be linked ({text}); expected 'cpu', or an "
            "nvidia-nvjitlink that is no older than nvidia-nvvm: pip install -U nvidia-nvjitlink"
        )
    if compiles or any(word in text for word in _CANNOT_RUN):
        return DeviceUnavailableError(
            f"device was 'cuda', for which kernels cannot be compiled or loaded ({text}); expected "
            f"'cpu', or an NVIDIA driver for CUDA {LEAST_DRIVER} and {_INSTALL}"
        )
    if any(word in text for word in _REFUSED):
        return DeviceError(f"device was 'cuda', which refused a call ({text}); expected 'cpu'")
    return DeviceLostError(f"device was 'cuda', which failed ({text}); expected 'cpu', or a new process")


def empty(size: int, dtype: DTypeLike) -> Any:
    """Return a flat array on the device, of any content; at least of one element, to have an address."""
    array = cuda.device_array(max(1, int(size)), np.dtype(dtype))
    if SIMULATED and array.dtype.kind == "f":
        array[:] = np.nan  # what nobody writes and somebody reads shall show
    return array


def upload(array: NDArray) -> Any:
    """Copy an array to the device; it is flat there."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return cuda.to_device(flat if flat.size else np.zeros(1, flat.dtype))


def download(array: Any) -> NDArray:
    """Copy a flat array from the device, once all that was asked for before is done."""
    return array.copy_to_host()


def pointer(array: Any) -> int:
    """Return the address of the first element."""
    if SIMULATED:
        return array._ary.ctypes.data
    return array.__cuda_array_interface__["data"][0]


def free_bytes() -> float:
    """Return how much memory of the device is free."""
    with naming_errors():
        return cuda.current_context().get_memory_info().free
