"""What a cell is, and the table of those there are."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import CodeType

from numbarnn import simd
from numbarnn.kernels.equations import CellType, register_equations

CELLS: dict[str, Cell] = {}


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent cell: two pure functions and a table row.

    Parameters
    ----------
    name : str
        The name it is known by, as in ``Recurrent(cell=name)``.
    gates : tuple of str
        Names of the gates in the order in which their rows stand in ``weight_ih`` and ``weight_hh``.
    slots : tuple of (str, str)
        What the functions are given, one value each: the name of a gate and the products, with their biases,
        that are summed in it: ``"h"`` the recurrent one, ``"x"`` the input's, ``"xh"`` both. Those with
        ``"h"`` stand first, then ``"xh"``, then ``"x"``.
    forward : callable
        ``forward(gates, states) -> (new_states, kept)``: one value a slot and a state in, the new states and
        one value a slot for the backward pass out. Values are NumPy arrays or registers; use +, -, *, / and
        the functions of `numbarnn.simd`. The first state is the output h.
    backward : callable
        ``backward(kept, states, new_states, dnew_states) -> (dgates, dstates)``: the gradient of each slot,
        and the part of the gradient of each old state that does not pass through the recurrent weights.
    states : tuple of str, default=("h",)
        Names of the states.
    forget_gate : str or None, default=None
        The gate that ``forget_bias`` is for.

    Examples
    --------
    >>> from numbarnn.cells import CELLS
    >>> CELLS["lstm"].gates, CELLS["lstm"].states
    (('i', 'f', 'g', 'o'), ('h', 'c'))
    """

    name: str
    gates: tuple[str, ...]
    slots: tuple[tuple[str, str], ...]
    forward: Callable
    backward: Callable
    states: tuple[str, ...] = ("h",)
    forget_gate: str | None = None

    def __post_init__(self) -> None:
        """Check the table row and make the equations known to the kernels."""
        order = {"h": 0, "xh": 1, "x": 2}
        for gate, products in self.slots:
            if gate not in self.gates or products not in order:
                raise ValueError(
                    f"slots had ({gate!r}, {products!r}); "
                    f'expected one of the gates {self.gates} with one of "h", "xh", "x"'
                )
        places = [order[products] for _, products in self.slots]
        if places != sorted(places):
            raise ValueError(f'slots were {self.slots}; expected those with "h" first, then "xh", then "x"')
        if self.forget_gate is not None and self.forget_gate not in self.gates:
            raise ValueError(
                f"forget_gate was {self.forget_gate!r}; expected None or one of the gates {self.gates}"
            )
        register_equations(self.digest, self.forward, self.backward)

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.states)

    @cached_property
    def h_gates(self) -> tuple[int, ...]:
        """The gate of each slot that has a recurrent product."""
        return tuple(self.gates.index(gate) for gate, products in self.slots if "h" in products)

    @cached_property
    def x_gates(self) -> tuple[int, ...]:
        """The gate of each slot that has a product with the input."""
        return tuple(self.gates.index(gate) for gate, products in self.slots if "x" in products)

    @cached_property
    def digest(self) -> str:
        """Digest of the equations, so that compiled code of other equations is never taken for theirs."""
        digest = hashlib.sha256()
        for function in (self.forward, self.backward):
            _digest_function(digest, function, set())
        return digest.hexdigest()[:12]

    @cached_property
    def _numba_type_(self) -> CellType:
        return CellType(self.name, self.digest, len(self.slots), self.n_states)

    def __reduce__(self) -> tuple:
        """Pickle the name alone: equations are code, and code is not pickled."""
        return _cell_named, (self.name,)


def _digest_function(digest, function: Callable, seen: set[Callable]) -> None:
    """Add all that a function's result depends on: its code, its constants, and the functions it calls."""
    if function in seen:
        return
    seen.add(function)
    _digest_code(digest, function.__code__)
    digest.update(repr((function.__defaults__, function.__kwdefaults__)).encode())
    closure = inspect.getclosurevars(function)
    for name, value in sorted((closure.nonlocals | closure.globals).items()):
        digest.update(name.encode())
        if inspect.isfunction(value) and value.__module__ != simd.__name__:  # simd is in the cache's own key
            _digest_function(digest, value, seen)
        elif not inspect.isfunction(value):
            digest.update(repr(value).encode())


def _digest_code(digest, code: CodeType) -> None:
    digest.update(code.co_code)
    digest.update(repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _digest_code(digest, constant)
        else:
            digest.update(repr(constant).encode())


def _cell_named(name: str) -> Cell:
    return CELLS[name]


def add_cell(cell: Cell) -> Cell:
    """Put a cell in the table, from where `Recurrent` and the estimators take it by name."""
    CELLS[cell.name] = cell
    return cell


def find_cell(name: str) -> Cell:
    """Return the cell of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not isinstance(name, str) or name not in CELLS:
        raise ValueError(f"cell was {name!r}; expected one of {', '.join(sorted(CELLS))}")
    return CELLS[name]
