"""`kernel`: njit with the project's settings and a cache that is never stale.

Numba keys its cache on the time stamp of the one file a function stands in. Here a function contains code of
other files (the register tile, a cell's equations) and code for one vector width, so the cache folder carries
a digest of all kernel sources and of the width: after an edit, or on another machine that shares the folder,
another folder is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding as llvm
from numba import config, njit, types
from numba.core import serialize
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.typing.templates import Signature
from numba.misc.appdirs import AppDirs

from numbarnn.simd import REGISTERS, VECTOR_BYTES, take_arguments

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
    logger.warning(
        "numbarnn: no folder for compiled code can be written; "
        "set NUMBA_CACHE_DIR to one, or every process compiles"
    )
    return None


class _Cache:
    """Compiled code of one function: the interface of numba.core.caching, one file for each signature.

    The name of a file is a digest of all that its code depends on, and its content begins with a digest of
    both: processes that save at once do not meet, and code that is damaged or not what was asked for is not
    taken. A file that cannot be read or written costs a compilation, never the result.
    """

    def __init__(self, function: Callable, variant: str = "") -> None:
        file, self._variant = Path(function.__code__.co_filename), variant
        # a function without a file (a notebook's) has nothing to be known by
        self._function, self._folder = function, cache_folder() if file.exists() else None
        self._name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._source = file.read_bytes() if self._folder else b""

    @property
    def cache_path(self) -> str | None:
        return None if self._folder is None else str(self._folder)

    def enable(self) -> None:
        """Numba's cache may be switched; this one is always on."""

    disable = flush = enable

    def load_overload(self, sig, target_context):
        target_context.refresh()
        try:
            if self._folder is None:
                raise FileNotFoundError("no folder for it")
            content = self._path(sig, target_context.codegen()).read_bytes()
            digest, payload = content[:32], content[32:]
            if digest == self._digest(sig, target_context.codegen(), payload):
                return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception as error:  # whatever it is, compiling mends it
            logger.debug("compiled code of %s not loaded: %r", self._name, error)
        _announce()
        return None

    def save_overload(self, sig, data) -> None:
        if self._folder is None or data.library.has_dynamic_globals:
            return
        path, payload = self._path(sig, data.codegen), serialize.dumps(data._reduce())
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                file.write(self._digest(sig, data.codegen, payload) + payload)
            os.replace(file.name, path)

    def _path(self, sig, codegen) -> Path:
        return self._folder / f"{self._name}-{self._digest(sig, codegen).hex()[:32]}.nbc"

    def _digest(self, sig, codegen, payload: bytes = b"") -> bytes:
        code, closure = self._function.__code__.co_code, self._function.__closure__ or ()
        cells = serialize.dumps([cell.cell_contents for cell in closure])
        key = repr((source_digest(), sys.version, self._name, self._variant, sig, codegen.magic_tuple()))
        digest = hashlib.sha256(self._source)
        for part in (code, cells, key.encode(), payload):
            digest.update(hashlib.sha256(part).digest())
        return digest.digest()


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
    """Say once a process why the next seconds pass; `logging.getLogger("numbarnn")` silences it."""
    logger.warning("numbarnn: compiling kernels for this machine; this takes some seconds, once")


class Ints:
    """Annotation of a task's argument that is an int64 array."""


class Reals:
    """Annotation of a task's argument that is an array of the task's element type."""


_SHARED: list[Shared] = []


class _Symbols:
    """Functions compiled for the address of their code, one for each key; a lock keeps them one."""

    def __init__(self) -> None:
        self._compiled: dict[Any, CFunc] = {}
        self._lock = threading.Lock()

    def address(self, key: Any, make: Callable[[], tuple[Callable, Signature, _Cache]]) -> int:
        if key not in self._compiled:
            with self._lock:
                if key not in self._compiled:
                    function, signature, cache = make()
                    plain = signature.args, signature.return_type
                    compiled = CFunc(function, plain, {}, {"error_model": "numpy"})
                    compiled._cache = cache
                    compiled.compile()
                    self._compiled[key] = compiled
        return self._compiled[key].address


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
        self._symbols = _Symbols()
        _SHARED.append(self)

    def load(self, dtype: types.Float) -> types.ExternalFunction:
        """Compile the function for elements of `dtype`, or take it from the cache; tell LLVM its symbol."""
        signature = self.signature(dtype)
        symbol = f"numbarnn_{self.function.__name__}_{dtype}"
        address = self._symbols.address(dtype, lambda: (self.function, signature, _Cache(self.function)))
        llvm.add_symbol(symbol, address)
        return types.ExternalFunction(symbol, signature)


class Task:
    """A kernel that threads run without the interpreter: its arguments lie in memory as 64-bit words.

    An annotation says what an argument is: ``Cell`` takes no word, ``int`` takes one, `Ints` and `Reals` are
    arrays, whose address and number of elements are two, and a named tuple of integers takes one for each.

    Parameters
    ----------
    function : callable

    Examples
    --------
    >>> from numbarnn.kernels.compiler import Ints, task
    >>> @task
    ... def fill(value: int, out: Ints):
    ...     out[:] = value
    >>> fill.kinds
    ('int', 'Ints')
    """

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.names = tuple(inspect.signature(function).parameters)
        annotations = [function.__annotations__[name] for name in self.names]
        self.kinds = tuple(a if isinstance(a, str) else a.__name__ for a in annotations)
        self._symbols = _Symbols()

    def address(self, cell: types.Type | None, dtype: types.Float) -> int:
        """Compile the task for a cell and elements of `dtype`, or take it from the cache; its address."""
        return self._symbols.address((cell, dtype), lambda: self._entry(cell, dtype))

    def _entry(self, cell: types.Type | None, dtype: types.Float) -> tuple[Callable, Signature, _Cache]:
        for shared in _SHARED:
            shared.load(dtype)
        of_kind = {
            "Cell": cell,
            "int": types.intp,
            "Ints": types.Array(types.int64, 1, "C"),
            "Reals": types.Array(dtype, 1, "C"),
        }
        arguments = []
        for kind in self.kinds:
            if kind not in of_kind:
                fields = self.function.__globals__[kind]
                of_kind[kind] = types.NamedUniTuple(types.intp, len(fields._fields), fields)
            arguments.append(of_kind[kind])
        names = "".join(f"{name}, " for name in self.names)
        body, take = njit(self.function, inline="always"), take_arguments(tuple(arguments))
        scope = {"__name__": __name__, "body": body, "take": take}
        exec(f"def entry(words):\n    {names} = take(words)\n    body({names})", scope)
        signature = types.void(types.CPointer(types.int64))
        return scope["entry"], signature, _Cache(self.function, f"{cell} {dtype}")


def task(function: Callable) -> Task:
    """Make a `Task` of a function."""
    return Task(function)


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
    dispatcher._cache = _KernelCache(function)  # `enable_caching` would install Numba's own
    return dispatcher
