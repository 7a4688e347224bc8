"""`kernel`: njit with the project's settings and a cache that is never stale.

Numba keys its cache on the time stamp of the one file a function stands in. Here a function contains code of
other files (the register tile, a cell's equations) and code for one vector width, so the cache folder carries
a digest of all kernel sources and of the width: after an edit, or on another machine that shares the folder,
another folder is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba
from llvmlite import binding as llvm
from numba import config, njit, types
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.typing.templates import Signature
from numba.misc.appdirs import AppDirs

from numbarnn.simd import REGISTERS, VECTOR_BYTES

logger = logging.getLogger("numbarnn")
_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def source_digest() -> str:
    """Digest what compiled code depends on beyond Numba's own key: kernel sources, vector width, version."""
    digest = hashlib.sha256(f"{numba.__version__} {VECTOR_BYTES} {REGISTERS}".encode())
    sources = [_PACKAGE / "simd.py", *_PACKAGE.glob("kernels/*.py"), *_PACKAGE.glob("cells/*.py")]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_folder() -> Path | None:
    """Find the first of NUMBA_CACHE_DIR, our __pycache__ and the user's cache that can be written."""
    user = AppDirs(appname="numbarnn", appauthor=False).user_cache_dir
    roots = [config.CACHE_DIR] if config.CACHE_DIR else [_PACKAGE / "__pycache__", user]
    for root in roots:
        folder = Path(root) / f"numbarnn-{source_digest()}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    logger.info(
        "no folder for compiled code can be written; set NUMBA_CACHE_DIR to one, or every process compiles"
    )
    return None


class _Locator:
    """Where a kernel's code is kept: the interface of numba.core.caching's locators."""

    def __init__(self, folder: Path, name: str, file: str) -> None:
        self._folder, self._name, self._py_file = folder, name, file

    @classmethod
    def from_function(cls, py_func, py_file):
        folder = cache_folder()
        if folder is None:
            return None
        return cls(folder, f"{py_func.__module__}.{py_func.__qualname__}", py_file)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> tuple:
        status = os.stat(self._py_file)
        return source_digest(), status.st_mtime, status.st_size

    def get_disambiguator(self) -> str:
        return hashlib.sha256(self._name.encode()).hexdigest()[:10]


class _CacheImpl(CompileResultCacheImpl):
    def __init__(self, py_func):
        locators, config.CACHE_LOCATOR_CLASSES = config.CACHE_LOCATOR_CLASSES, ""
        try:
            super().__init__(py_func)
        finally:
            config.CACHE_LOCATOR_CLASSES = locators

    _locator_classes = [_Locator]


class _Cache(FunctionCache):
    """Numba's function cache in our folder; a full disk or a lost folder costs the saving, not the result."""

    _impl_class = _CacheImpl

    def load_overload(self, sig, target_context):
        found = None
        with contextlib.suppress(OSError, EOFError):
            found = super().load_overload(sig, target_context)
        if found is None:
            _announce()
        return found

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _KernelCache(_Cache):
    """The cache of a kernel, whose code calls shared functions by their symbols: they must be there first."""

    def load_overload(self, sig, target_context):
        arrays = [a for a in sig if isinstance(a, types.Array)]
        for dtype in {a.dtype for a in arrays if isinstance(a.dtype, types.Float)}:
            for shared in _SHARED:
                shared.load(dtype)
        return super().load_overload(sig, target_context)


@cache
def _announce() -> None:
    """Say once, to a person at a terminal, why the next seconds pass."""
    message = "numbarnn: compiling kernels for this machine; this takes some seconds, once"
    logger.info(message)
    if sys.stderr.isatty():
        print(message, file=sys.stderr)


_SHARED: list[Shared] = []


class Shared:
    """A function that kernels call by its symbol: compiled once and not again inside each of them.

    Parameters
    ----------
    function : callable
        Takes pointers where a kernel has arrays (`simd.address`).
    signature : callable
        From the element type to the Numba signature.
    """

    def __init__(self, function: Callable, signature: Callable[[types.Float], Signature]) -> None:
        self.function, self.signature = function, signature
        self._loaded: dict[types.Float, CFunc] = {}
        self._lock = threading.Lock()
        _SHARED.append(self)

    def load(self, dtype: types.Float) -> types.ExternalFunction:
        """Compile the function for elements of `dtype`, or take it from the cache; tell LLVM its symbol."""
        signature = self.signature(dtype)
        symbol = f"numbarnn_{self.function.__name__}_{dtype}"
        with self._lock:
            if dtype not in self._loaded:
                plain = signature.args, signature.return_type
                compiled = CFunc(self.function, plain, {}, {"error_model": "numpy"})
                if cache_folder() is not None:
                    compiled._cache = _Cache(self.function)
                compiled.compile()
                llvm.add_symbol(symbol, compiled.address)
                self._loaded[dtype] = compiled
        return types.ExternalFunction(symbol, signature)


def kernel(function):
    """Compile `function` on its first call: no exceptions inside, the GIL released, kept in the cache.

    >>> from numbarnn.kernels.compiler import kernel
    >>> @kernel
    ... def double(x):
    ...     return 2 * x
    >>> double(21)
    42
    """
    dispatcher = njit(function, error_model="numpy", nogil=True, no_cfunc_wrapper=True)
    if cache_folder() is not None and os.path.exists(function.__code__.co_filename):
        # `enable_caching` would install Numba's own locators; everything else about the cache is Numba's
        dispatcher._cache = _KernelCache(function)
    return dispatcher
