"""A cell's equations inside a kernel: the functions of `numbarnn.cells`, on scalars.

The time loop of a CPU is given them by overloads for registers. Here each is built again from its own code,
with three things changed: the functions of `numbarnn.simd` that it calls are those for scalars below, Python
functions that it calls are built again likewise, and its constants are of the type that is computed in (a
Python float would make every sum a float64). In the simulator they are called as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from numbarnn import simd
from numbarnn.cells import Cell
from numbarnn.cuda.driver import SIMULATED, cuda

__all__ = ["Equations", "equations", "inline", "put_tuple", "tuple_of"]


def inline(function: Callable) -> Callable:
    """Make a function one that kernels can call; in the simulator any can be called."""
    return function if SIMULATED else cuda.jit(device=True, inline="always")(function)


def _scalar_functions(real: type[np.floating]) -> ModuleType:
    """Return what stands for `numbarnn.simd` in equations: a module, whose attributes Numba looks up."""
    zero, one = real(0), real(1)

    def tanh(x):
        return math.tanh(x)

    def sigmoid(x):
        return one / (one + math.exp(-x))

    def relu(x):
        return zero if x < zero else x  # in this order NaN stays NaN

    def is_positive(x):
        return one if x > zero else zero

    def clamp(x, limit):
        return limit if x > limit else (-limit if x < -limit else x)

    module = ModuleType("scalars")
    for function in (tanh, sigmoid, relu, is_positive, clamp):
        setattr(module, function.__name__, cuda.jit(device=True)(function))
    return module


def _typed(value: Any, real: type[np.floating]) -> Any:
    """Return a constant with every float in it of type `real`."""
    if isinstance(value, tuple):
        return tuple(_typed(each, real) for each in value)
    return real(value) if isinstance(value, float) else value


class _Builder:
    """Builds functions for a kernel that computes in one type."""

    def __init__(self, real: type[np.floating]) -> None:
        self._real, self._functions, self._built = real, _scalar_functions(real), {}

    def build(self, function: Callable) -> Callable:
        """Return a device function that does what a pure function of values does."""
        if function.__module__ == simd.__name__:
            return getattr(self._functions, function.__name__)
        if function not in self._built:
            code = function.__code__
            consts = tuple(_typed(each, self._real) for each in code.co_consts)
            known = function.__globals__
            names = {name: self._part(known[name]) for name in code.co_names if name in known}
            closure = function.__closure__
            if closure is not None:
                closure = tuple(CellType(self._part(each.cell_contents)) for each in closure)
            rebuilt = FunctionType(
                code.replace(co_consts=consts), names, function.__name__, function.__defaults__, closure
            )
            self._built[function] = cuda.jit(device=True)(rebuilt)
        return self._built[function]

    def _part(self, value: Any) -> Any:
        if value is simd:
            return self._functions
        return self.build(value) if isinstance(value, FunctionType) else _typed(value, self._real)


@cache
def _builder(real: type[np.floating]) -> _Builder:
    return _Builder(real)


class Equations(NamedTuple):
    """A cell as kernels see it.

    Attributes
    ----------
    forward, backward : callable
        Those of `numbarnn.cells.Cell`.
    real : type
        numpy.float32 or numpy.float64.
    S, E : int
        Number of slots, and of states behind h.
    h_gates, x_gates : tuple of int
        Of the slots that see h, the first ones, and of those that see x, the last ones: which gate's rows of
        ``weight_hh`` and ``weight_ih`` they take.
    R, X : int
        Gates with rows in ``weight_hh`` and ``weight_ih``.
    V, K : int
        Vectors of parameters of single units, and those with the scalars.
    m_gates : tuple of int
        Of the slots of the second product, if the step has one, which gate's rows of its weights they take.
    M : int
        Number of such slots.
    projects : bool
        Whether these weights are ``weight_hr``, else they are rows of ``weight_hh``.
    finish, finish_backward : callable or None
        Those of `numbarnn.cells.Cell`.
    """

    forward: Callable
    backward: Callable
    real: type[np.floating]
    S: int
    E: int
    h_gates: tuple[int, ...]
    x_gates: tuple[int, ...]
    R: int
    X: int
    V: int
    K: int
    m_gates: tuple[int, ...]
    M: int
    projects: bool
    finish: Callable | None
    finish_backward: Callable | None


@cache
def equations(cell: Cell, dtype: np.dtype) -> Equations:
    """Build a cell's equations for a kernel.

    Raises
    ------
    ValueError
        If the cell has time loops of its own.
    """
    if cell.loops:
        raise ValueError(
            f"cell was {cell.name!r}, which has time loops of its own; device='cuda' expects one that has not"
        )
    functions = cell.forward, cell.backward, cell.finish, cell.finish_backward
    if not SIMULATED:
        functions = [each and _builder(dtype.type).build(each) for each in functions]
    return Equations(
        *functions[:2], dtype.type, cell.n_slots, cell.n_states - 1, cell.h_gates, cell.x_gates,
        len(cell.h_rows), len(cell.x_rows), len(cell.vectors), len(cell.units), cell.m_gates,
        len(cell.m_gates), cell.projects, *functions[2:],
    )  # fmt: skip


@cache
def tuple_of(count: int) -> Callable:
    """Return ``load(array, at, step)``, a tuple of that many elements `step` apart; for kernels.

    Written out as source, as the number of elements of a tuple must be known when a kernel is compiled.
    """
    elements = "".join(f"array[at + {k} * step], " for k in range(count))
    return inline(_written("load", "array, at, step", f"return ({elements})"))


@cache
def put_tuple(count: int) -> Callable:
    """Return ``put(values, array, at, step)``, which stores a tuple of that many elements; for kernels."""
    lines = "; ".join(f"array[at + {k} * step] = values[{k}]" for k in range(count))
    return inline(_written("put", "values, array, at, step", lines or "pass"))


def _written(name: str, arguments: str, body: str) -> Callable:
    namespace: dict[str, Any] = {}
    exec(f"def {name}({arguments}): {body}", namespace)
    return namespace[name]
