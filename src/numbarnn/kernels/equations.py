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

    def __init__(
        self, name: str, digest: str, n_slots: int, n_states: int, n_units: int = 0, n_products: int = 0,
        drops: bool = False, zones: bool = False,
    ) -> None:
        self.digest, self.n_slots, self.n_states = digest, n_slots, n_states
        self.n_units, self.n_products = n_units, n_products
        self.drops, self.zones = drops, zones  # see `numbarnn.kernels.noise`
        what = f"{n_slots} slots, {n_states} states, {n_units} of units, {n_products} second products"
        noise = f"drops={drops}, zones={zones}"
        super().__init__(name=f"Cell({name}, {digest}, {what}, {noise})")


register_model(CellType)(models.OpaqueModel)


@unbox(CellType)
def _unbox_cell(typ, obj, c):
    return NativeValue(c.context.get_dummy_value())


_EQUATIONS: dict[str, tuple[Callable, ...]] = {}


def register_equations(digest: str, *functions: Callable) -> None:
    """Make pure functions the equations of every CellType with this digest, in the order of `Cell`."""
    if digest not in _EQUATIONS:
        _EQUATIONS[digest] = tuple(njit(function, **INLINED) for function in functions)


def cell_forward(cell, gates, states, units):
    """Map gates and states to the results of the cell's `forward`, by the type of `cell`; njit code only."""
    raise NotImplementedError


def cell_backward(cell, kept, states, new_states, dstates, units):
    """Give (dgates, dstates, dunits) likewise, of a cell whose step has one product."""
    raise NotImplementedError


def cell_first_backward(cell, kept, states, new_states, dstates, dmiddle, units):
    """Give (dgates, dstates, dunits) likewise, of the first half of a step that has two."""
    raise NotImplementedError


def cell_finish(cell, products, kept, states):
    """Map to the results of the cell's `finish`."""
    raise NotImplementedError


def cell_finish_backward(cell, products, kept, states, dh):
    """Map to the results of the cell's `finish_backward`."""
    raise NotImplementedError


@overload(cell_forward, jit_options=INLINED)
def _cell_forward(cell, gates, states, units):
    forward = _EQUATIONS[cell.digest][0]
    if cell.n_units:
        return lambda cell, gates, states, units: forward(gates, states, units)
    return lambda cell, gates, states, units: forward(gates, states)


@overload(cell_backward, jit_options=INLINED)
def _cell_backward(cell, kept, states, new_states, dstates, units):
    backward = _EQUATIONS[cell.digest][1]
    if cell.n_units:
        return lambda cell, kept, states, new_states, dstates, units: backward(
            kept, states, new_states, dstates, units
        )

    def call(cell, kept, states, new_states, dstates, units):
        dgates, dold = backward(kept, states, new_states, dstates)
        return dgates, dold, ()

    return call


@overload(cell_first_backward, jit_options=INLINED)
def _cell_first_backward(cell, kept, states, new_states, dstates, dmiddle, units):
    backward = _EQUATIONS[cell.digest][1]
    if cell.n_units:
        return lambda cell, kept, states, new_states, dstates, dmiddle, units: backward(
            kept, states, new_states, dstates, dmiddle, units
        )

    def call(cell, kept, states, new_states, dstates, dmiddle, units):
        dgates, dold = backward(kept, states, new_states, dstates, dmiddle)
        return dgates, dold, ()

    return call


@overload(cell_finish, jit_options=INLINED)
def _cell_finish(cell, products, kept, states):
    finish = _EQUATIONS[cell.digest][2]
    return lambda cell, products, kept, states: finish(products, kept, states)


@overload(cell_finish_backward, jit_options=INLINED)
def _cell_finish_backward(cell, products, kept, states, dh):
    backward = _EQUATIONS[cell.digest][3]
    return lambda cell, products, kept, states, dh: backward(products, kept, states, dh)


def _loader(count: str, what: str):
    """Make the intrinsic that loads as many registers as that attribute of the cell's type says."""

    @intrinsic
    def load(typingctx, cell, array, offset, stride):
        out = types.UniTuple(Vec(array.dtype), getattr(cell, count))

        def emit(context, builder, sig, args):
            return load_tuple(context, builder, out, sig.args[1], *args[1:])

        return out(cell, array, types.intp, types.intp), emit

    load.__doc__ = f"Load a register for each {what} of the cell, `stride` apart."
    return load


load_slots = _loader("n_slots", "slot")
load_units = _loader("n_units", "parameter of single units")
load_products = _loader("n_products", "second product")


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
