"""How a cell's equations reach a loop that knows no cell.

A cell is an argument whose Numba type carries a digest of its equations and the numbers of its slots and
states. `cell_forward` and `cell_backward` are chosen by that type while the loop is compiled. A dispatcher as
an argument would do the same, but code that holds its address cannot be cached; and with the digest in the
type, edited equations are another type, hence another cache entry.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit, types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, overload, register_model, unbox

from numbarnn.simd import INLINED, Vec, load_tuple


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
        _EQUATIONS[digest] = njit(forward, **INLINED), njit(backward, **INLINED)


def cell_forward(cell, gates, states):
    """Map (gates, states) to (new states, gates to keep), by the type of `cell`; njit code only."""
    raise NotImplementedError


def cell_backward(cell, gates, states, new_states, dstates):
    """Map (gates kept, states, new states, their gradient) to (dgates, dstates), likewise."""
    raise NotImplementedError


@overload(cell_forward, jit_options=INLINED)
def _cell_forward(cell, gates, states):
    forward, _ = _EQUATIONS[cell.digest]
    return lambda cell, gates, states: forward(gates, states)


@overload(cell_backward, jit_options=INLINED)
def _cell_backward(cell, gates, states, new_states, dstates):
    _, backward = _EQUATIONS[cell.digest]
    return lambda cell, gates, states, new_states, dstates: backward(gates, states, new_states, dstates)


@intrinsic
def load_slots(typingctx, cell, array, offset, stride):
    """Load a register for each slot of the cell, `stride` apart."""
    out = types.UniTuple(Vec(array.dtype), cell.n_slots)

    def emit(context, builder, sig, args):
        return load_tuple(context, builder, out, sig.args[1], *args[1:])

    return out(cell, array, types.intp, types.intp), emit


@intrinsic
def load_states(typingctx, cell, array, offset, further, further_offset, stride):
    """Load a register for each state of the cell: h from `array`, others from `further`, `stride` apart."""
    h, others = types.UniTuple(Vec(array.dtype), 1), types.UniTuple(Vec(array.dtype), cell.n_states - 1)
    out = types.UniTuple(Vec(array.dtype), cell.n_states)

    def emit(context, builder, sig, args):
        _, array_value, at, further_value, further_at, step = args
        first = load_tuple(context, builder, h, sig.args[1], array_value, at, step)
        rest = load_tuple(context, builder, others, sig.args[3], further_value, further_at, step)
        values = cgutils.unpack_tuple(builder, first) + cgutils.unpack_tuple(builder, rest)
        return context.make_tuple(builder, out, values)

    return out(cell, array, types.intp, further, types.intp, types.intp), emit
