"""How a cell's equations reach a loop that knows no cell.

A cell is an argument whose Numba type carries a digest of its equations and the numbers of its slots and states.
`cell_forward` and `cell_backward` are chosen by that type while the loop is compiled. A dispatcher as an argument would
do the same, but code that holds its address cannot be cached; and with the digest in the type, edited equations
are another type, hence another cache entry.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit, types
from numba.extending import NativeValue, models, overload, register_model, unbox

from numbarnn.simd import load_many


class CellType(types.Type):
    """The type of a cell in njit code; it has no value at run time."""

    def __init__(self, name: str, digest: str, n_slots: int, n_states: int) -> None:
        self.digest, self.n_slots, self.n_states = digest, n_slots, n_states
        super().__init__(name=f"Cell({name}, {digest}, {n_slots} slots, {n_states} states)")


register_model(CellType)(models.OpaqueModel)


@unbox(CellType)
def _unbox_cell(typ, obj, c):
    return NativeValue(c.context.get_dummy_value())


_EQUATIONS: dict[str, tuple[Callable, Callable]] = {}


def register_equations(digest: str, forward: Callable, backward: Callable) -> None:
    """Make two pure functions the equations of every CellType with this digest."""
    if digest not in _EQUATIONS:
        _EQUATIONS[digest] = njit(forward, forceinline=True), njit(backward, forceinline=True)


def cell_forward(cell, gates, states):
    """(gates, states) -> (new states, gates to keep), by the type of `cell`; njit code only."""
    raise NotImplementedError


def cell_backward(cell, gates, states, new_states, dstates):
    """(gates kept, states, new states, their gradient) -> (dgates, dstates), by the type of `cell`; njit code only."""
    raise NotImplementedError


def load_slots(cell, array, offset, stride):
    """One register for each slot of the cell, `stride` apart; njit code only."""
    raise NotImplementedError


def load_states(cell, first, array, offset, stride):
    """The tuple (first, ...) with one register for each further state of the cell; njit code only."""
    raise NotImplementedError


@overload(cell_forward, jit_options={"forceinline": True})
def _cell_forward(cell, gates, states):
    forward, _ = _EQUATIONS[cell.digest]
    return lambda cell, gates, states: forward(gates, states)


@overload(cell_backward, jit_options={"forceinline": True})
def _cell_backward(cell, gates, states, new_states, dstates):
    _, backward = _EQUATIONS[cell.digest]
    return lambda cell, gates, states, new_states, dstates: backward(gates, states, new_states, dstates)


@overload(load_slots, jit_options={"forceinline": True})
def _load_slots(cell, array, offset, stride):
    count = cell.n_slots
    return lambda cell, array, offset, stride: load_many(count, array, offset, stride)


@overload(load_states, jit_options={"forceinline": True})
def _load_states(cell, first, array, offset, stride):
    count = cell.n_states - 1
    if count == 0:
        return lambda cell, first, array, offset, stride: (first,)
    return lambda cell, first, array, offset, stride: (first,) + load_many(count, array, offset, stride)
