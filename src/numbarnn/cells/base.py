"""What a cell is, and the table of those there are."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType

from numbarnn import simd
from numbarnn.kernels.compiler import Task
from numbarnn.kernels.equations import CellType, register_equations
from numbarnn.kernels.sizes import Sizes

CELLS: dict[str, Cell] = {}


_ORDER = ("h", "xh", "x", "m")


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent cell: two pure functions and a table row; four functions where the step has two products.

    Parameters
    ----------
    name : str
        The name it is known by, as in ``Recurrent(cell=name)``.
    gates : tuple of str
        Names of the gates in the order in which their rows stand in ``weight_ih`` and ``weight_hh``. Each of
        the two has rows for the gates that a slot takes from it.
    slots : tuple of (str, str)
        What the functions are given, one value each: the name of a gate and the products, with their biases,
        that are summed in it: ``"h"`` the recurrent one, ``"x"`` the input's, ``"xh"`` both, ``"m"`` that of
        the rows of ``weight_hh`` with the middle vector. They stand in the order h, xh, x, m.
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
        The gate that ``forget_bias`` is for, or the vector that is its bias.
    vectors, scalars : tuple of str, default=()
        Names of further parameters, with one element a unit and with one in all. If there are any, both
        functions take one more argument, a tuple of them all, and `backward` returns one more result, the
        tuple of their gradients.
    initial : dict of str to (float, float), default={}
        Bounds of the uniform distribution that such parameters are drawn from at first, where they are not
        those of the weights.
    biases : bool, default=True
        Whether products have biases, in a layer that has any.
    finish, finish_backward : callable or None, default=None
        Of a cell with slots ``"m"``, whose step has two halves: `forward` gives the middle vector, which the
        second product takes, and all new states but h; `finish` gives h:

        | ``forward(gates, states[, units]) -> (middle, further_states, kept)``
        | ``finish(products, kept, states) -> (h, kept_products, kept)``
        | ``finish_backward(kept_products, kept, states, dh) -> (dproducts, kept, dh_prev)``
        | ``backward(kept, states, new_states, dstates, dmiddle[, units]) -> (dgates, dstates[, dunits])``

        Gates and kept are the slots but those of ``"m"``, which are the products. A slot of the kept values
        that `finish_backward` hands on to `backward` may hold a gradient; ``dstates`` given to `backward` are
        whatever `finish_backward` gave for ``dh_prev``, and the gradient of each new further state.

    projects : bool, default=False
        Whether the second product is the projection ``weight_hr`` that gives h.
    loops : tuple of two tasks or None, default=None
        What runs in place of `scan.scan_forward` and `scan.scan_backward` of `numbarnn.kernels`, with the
        same arguments: for a cell whose units do not go each their own way after the products. Its `forward`
        and `backward` are then for NumPy arrays alone.
    workspace : callable or None, default=None
        ``workspace(sizes) -> int``: how many numbers such loops keep in the array n.

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
    vectors: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    initial: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    biases: bool = True
    finish: Callable | None = None
    finish_backward: Callable | None = None
    projects: bool = False
    loops: tuple[Task, Task] | None = None
    workspace: Callable[[Sizes], int] | None = None

    def __post_init__(self) -> None:
        """Check the table row and make the equations known to the kernels."""
        for field_name in ("gates", "slots", "states", "vectors", "scalars"):
            value = getattr(self, field_name)
            if isinstance(value, str):
                raise ValueError(f"{field_name} was {value!r}; expected a tuple")
        if not self.states:
            raise ValueError(f"states was {self.states!r}; expected one at least, h")
        self._check_slots()
        places = [_ORDER.index(products) for _, products in self.slots]
        if places != sorted(places):
            raise ValueError(
                f'slots were {self.slots}; expected those with "h" first, then "xh", then "x", then "m"'
            )
        if self.forget_gate is not None and self.forget_gate not in self.gates + self.vectors:
            raise ValueError(
                f"forget_gate was {self.forget_gate!r}; expected None or one of the gates {self.gates}"
            )
        if set(self.initial) - set(self.units):
            raise ValueError(f"initial had {sorted(self.initial)}; expected names of {self.units}")
        halves = (self.finish, self.finish_backward)
        if any((half is not None) != bool(self.m_gates) for half in halves):
            raise ValueError(
                f"finish and finish_backward were {halves} with slots {self.slots}; "
                'expected functions where there are slots with "m", and None where there are none'
            )
        register_equations(self.digest, self.forward, self.backward, *(half for half in halves if half))

    def _check_slots(self) -> None:
        """Refuse slots that are no pairs, of no gate or there twice, and gates that none is for."""
        for slot in self.slots:
            pair = isinstance(slot, tuple | list) and len(slot) == 2
            if not pair or slot[0] not in self.gates or slot[1] not in _ORDER:
                raise ValueError(
                    f"slots had {slot!r}; "
                    f'expected one of the gates {self.gates} with one of "h", "xh", "x", "m"'
                )
        for slot in self.slots:
            if list(self.slots).count(slot) > 1:
                raise ValueError(f"slots had {slot!r} twice; expected each gate with the same products once")
        for gate in self.gates:
            if gate not in {slot[0] for slot in self.slots}:
                raise ValueError(f"gates had {gate!r}, which no slot has; expected a slot for each gate")

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.states)

    @cached_property
    def x_rows(self) -> tuple[str, ...]:
        """The gates that ``weight_ih`` has rows for."""
        return self._gates_of("x", "xh")

    @cached_property
    def h_rows(self) -> tuple[str, ...]:
        """The gates that ``weight_hh`` has rows for."""
        return self._gates_of("h", "xh", *(() if self.projects else "m"))

    def _gates_of(self, *kinds: str) -> tuple[str, ...]:
        taken = {gate for gate, products in self.slots if products in kinds}
        return tuple(gate for gate in self.gates if gate in taken)

    @cached_property
    def x_gates(self) -> tuple[int, ...]:
        """Of each slot that has a product with the input, the place of its gate in `x_rows`."""
        return tuple(self.x_rows.index(gate) for gate, products in self.slots if "x" in products)

    @cached_property
    def h_gates(self) -> tuple[int, ...]:
        """Of each slot that has a product with the state, the place of its gate in `h_rows`."""
        return tuple(self.h_rows.index(gate) for gate, products in self.slots if "h" in products)

    @cached_property
    def m_gates(self) -> tuple[int, ...]:
        """Of each slot that has a product with the middle vector, the place of its gate in `h_rows`."""
        rows = self._gates_of("m") if self.projects else self.h_rows
        return tuple(rows.index(gate) for gate, products in self.slots if products == "m")

    @property
    def n_slots(self) -> int:
        """Number of slots that the first half of a step has: all but those of the middle vector."""
        return len(self.slots) - len(self.m_gates)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the parameters that the equations are given: vectors, then scalars."""
        return self.vectors + self.scalars

    @property
    def is_plain(self) -> bool:
        """Whether a step is one product with rows for every gate in both weights, and nothing else."""
        return self.x_rows == self.h_rows == self.gates and not self.m_gates and not self.units

    @cached_property
    def digest(self) -> str:
        """Digest of the equations, so that compiled code of other equations is never taken for theirs."""
        digest, seen = hashlib.sha256(), set()
        for function in (self.forward, self.backward, self.finish, self.finish_backward):
            if function is not None:
                _digest_function(digest, function, seen)
        return digest.hexdigest()[:12]

    @cached_property
    def _numba_type_(self) -> CellType:
        return self._type(False, False)

    def _type(self, drops: bool, zones: bool) -> CellType:
        counts = (self.n_slots, self.n_states, len(self.units), len(self.m_gates))
        return CellType(self.name, self.digest, *counts, drops, zones)

    def noisy(self, drops: bool, zones: bool) -> Noisy:
        """Stand for the cell in a kernel whose loop has recurrent dropout or zoneout.

        >>> from numbarnn.cells import CELLS
        >>> CELLS["gru"].noisy(drops=True, zones=False)._numba_type_.drops
        True
        """
        return Noisy(self._type(drops, zones))

    def __reduce__(self) -> tuple:
        """Pickle the name alone: equations are code, and code is not pickled."""
        return _cell_named, (self.name,)


@dataclass(frozen=True)
class Noisy:
    """What a kernel is given for a cell: its type."""

    _numba_type_: CellType


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
        if inspect.isfunction(value) and value.__module__ == simd.__name__:  # simd is in the cache's own key
            digest.update(value.__qualname__.encode())
        elif inspect.isfunction(value):
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
    return find_cell(name)


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
    if isinstance(name, str) and "[" in name:
        from numbarnn.cells.general import general_cell  # which imports this module

        return general_cell(name)
    if not isinstance(name, str) or name not in CELLS:
        raise ValueError(
            f"cell was {name!r}; expected one of {', '.join(sorted(CELLS))}, or a cell of your own: "
            "call numbarnn.register_cell first"
        )
    return CELLS[name]
