"""How a cell's equations reach a loop that knows no cell.

A cell is an argument whose Numba type carries a digest of its equations and the numbers of its slots and
states. `advance`, `retreat` and the others here are chosen by that type while the loop is compiled. A
dispatcher as an argument would do the same, but code that holds its address cannot be cached; and with the
digest in the type, edited equations are another type, hence another cache entry.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit, types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, overload, register_model, unbox

from numbarnn.simd import INLINED, Vec, load, load_tuple, store, store_many, store_tuple


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
load_products = _loader("n_products", "second product")


@intrinsic
def load_units(typingctx, cell, array, offset, stride):
    """Load the parameters of single units, `stride` apart: a tuple of their tuple, or of nothing."""
    units = types.UniTuple(Vec(array.dtype), cell.n_units)
    out = types.Tuple((units,) if cell.n_units else ())

    def emit(context, builder, sig, args):
        loaded = load_tuple(context, builder, units, sig.args[1], *args[1:])
        return context.make_tuple(builder, out, [loaded] if cell.n_units else [])

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


@intrinsic
def add_parts(typingctx, array, offset, stride, rest):
    """Add the registers of a tuple of tuples, which may be empty, to those at offset, offset + stride, ..."""
    count = sum(len(part) for part in rest)

    def emit(context, builder, sig, args):
        array_value, at, step, tuples = args
        out = types.UniTuple(Vec(array.dtype), count)
        old = cgutils.unpack_tuple(builder, load_tuple(context, builder, out, sig.args[0], *args[:3]))
        parts = cgutils.unpack_tuple(builder, tuples)
        values = [value for part in parts for value in cgutils.unpack_tuple(builder, part)]
        new = [builder.fadd(a, b) for a, b in zip(old, values, strict=True)]
        return store_tuple(context, builder, sig.args[0], array_value, at, step, new)

    return types.void(array, types.intp, types.intp, rest), emit


def cell_forward(cell, gates, states):
    """Call `forward` of a cell without parameters of single units, by the type of `cell`; njit code only."""
    raise NotImplementedError


def cell_backward(cell, kept, states, new_states, dstates):
    """Call `backward` likewise."""
    raise NotImplementedError


@overload(cell_forward, jit_options=INLINED)
def _cell_forward(cell, gates, states):
    forward = _EQUATIONS[cell.digest][0]
    return lambda cell, gates, states: forward(gates, states)


@overload(cell_backward, jit_options=INLINED)
def _cell_backward(cell, kept, states, new_states, dstates):
    backward = _EQUATIONS[cell.digest][1]
    return lambda cell, kept, states, new_states, dstates: backward(kept, states, new_states, dstates)


def advance(cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, x, m_to):
    """Take a register of units from their sums and old states to the new ones; all that is kept is stored.

    Of a step with two products this is the first half, in which the middle vector goes to x[m_to].
    """
    raise NotImplementedError


@overload(advance, jit_options=INLINED)
def _advance(cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, x, m_to):
    forward = _EQUATIONS[cell.digest][0]

    def whole(cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, x, m_to):
        units, states = load_units(cell, w, u_at, padded), load_states(cell, h, at, c, c_at, padded)
        states, kept = forward(load_slots(cell, g, g_at, U), states, *units)
        store_many(g, g_at, U, kept)
        store(h, to, states[0])
        store_many(c, c_to, padded, states[1:])

    def first_half(cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, x, m_to):
        units, states = load_units(cell, w, u_at, padded), load_states(cell, h, at, c, c_at, padded)
        middle, further, kept = forward(load_slots(cell, g, g_at, U), states, *units)
        store_many(g, g_at, U, kept)
        store(x, m_to, middle)
        store_many(c, c_to, padded, further)

    return first_half if cell.n_products else whole


def retreat(
    cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, d, d_at, dm_at, e, e_at, du_at, n, n_at
):
    """Go back through the cell for a register of units: kept becomes dgates, d and e are of the old states.

    With zoneout the new states stand in n. Of a step with two products this is the first half, and d[dm_at]
    the gradient of the middle vector.
    """
    raise NotImplementedError


@overload(retreat, jit_options=INLINED)
def _retreat(
    cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, d, d_at, dm_at, e, e_at, du_at, n, n_at
):
    backward, zones, halves = _EQUATIONS[cell.digest][1], cell.zones, cell.n_products > 0

    def call(
        cell, U, padded, w, u_at, g, g_at, h, at, to, c, c_at, c_to, d, d_at, dm_at, e, e_at, du_at, n, n_at
    ):
        kept, units = load_slots(cell, g, g_at, U), load_units(cell, w, u_at, padded)
        states = load_states(cell, h, at, c, c_at, padded)
        if zones:
            new_states = load_states(cell, n, n_at, n, n_at + padded, padded)
        else:
            new_states = load_states(cell, h, to, c, c_to, padded)
        dstates = load_states(cell, d, d_at, e, e_at, padded)
        if halves:
            result = backward(kept, states, new_states, dstates, load(d, dm_at), *units)
        else:
            result = backward(kept, states, new_states, dstates, *units)
        store_many(g, g_at, U, result[0])
        store(d, d_at, result[1][0])
        store_many(e, e_at, padded, result[1][1:])
        add_parts(e, du_at, padded, result[2:])

    return call


def cell_finish(cell, products, kept, states):
    """Call the cell's `finish`."""
    raise NotImplementedError


def cell_finish_backward(cell, products, kept, states, dh):
    """Call the cell's `finish_backward`."""
    raise NotImplementedError


@overload(cell_finish, jit_options=INLINED)
def _cell_finish(cell, products, kept, states):
    finish = _EQUATIONS[cell.digest][2]
    return lambda cell, products, kept, states: finish(products, kept, states)


@overload(cell_finish_backward, jit_options=INLINED)
def _cell_finish_backward(cell, products, kept, states, dh):
    backward = _EQUATIONS[cell.digest][3]
    return lambda cell, products, kept, states, dh: backward(products, kept, states, dh)
