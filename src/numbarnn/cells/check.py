"""What a cell of one's own is held to: its equations against finite differences; and how it is registered."""

from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from numbarnn.cells.base import CELLS, Cell, add_cell, find_cell
from numbarnn.simd import Vec

N_SAMPLES, N_UNITS = 16, 8  # of the random points
STEP = 1e-5  # of the central differences
TOLERANCE = 1e-6  # relative, and absolute for gradients under 1
_OWN: set[str] = set()  # names of registered cells: all others are built in

Values = tuple[NDArray, ...]


class _Point(NamedTuple):
    """Everything that a step depends on, and the gradients of everything that it gives."""

    gates: Values
    products: Values
    states: Values
    units: Values
    dstates: Values
    dmiddle: Values  # one, of a cell with a second product, or none


def check_cell(cell: Cell) -> None:
    """Hold the equations of a cell against finite differences and against what the kernels expect of them.

    They are run on NumPy arrays at random points, and compiled for registers.

    Parameters
    ----------
    cell : Cell

    Raises
    ------
    ValueError
        If a gradient is not that of the forward equations: the message names each that is wrong, says through
        which result it is, and by how much. Also if a function does not return what it should: another number
        of values, another shape or dtype, other values for the same arguments, values of a unit that depend
        on other units, gradients that are not zero where everything is, or if it raises an error or changes
        its arguments. Also if `register_cell` would not take the cell's name.
    TypeError
        If `cell` is no Cell.

    Examples
    --------
    >>> from numbarnn import check_cell
    >>> from numbarnn.cells import CELLS
    >>> check_cell(CELLS["lstm"])
    """
    _check_name(cell)
    for dtype in (np.float64, np.float32):
        _check_results(cell, _draw(cell, dtype))
    point = _draw(cell, np.float64)
    _check_zeros(cell)
    alone, _, _ = _run(cell, _map(lambda value: value[..., :1], point))
    for ours, expected in zip(alone, _run(cell, point)[0], strict=True):
        if not cell.loops and not np.allclose(ours, expected[:, :1], rtol=1e-12, atol=1e-12):
            raise ValueError(
                f"cell {cell.name!r}: forward gave a unit other values alone than among others; "
                "expected equations that treat each unit by itself"
            )
    wrong = [text for output in (*range(len(alone)), None) for text in _wrong_gradients(cell, point, output)]
    if wrong:
        raise ValueError(f"cell {cell.name!r}: backward is not the gradient of forward. " + "; ".join(wrong))
    if not cell.loops:
        _run(cell, point, _compile)


def register_cell(cell: Cell, *, check: bool = True) -> Cell:
    """Add a cell of one's own, which is known by its name from then on.

    Parameters
    ----------
    cell : Cell
        Its name is a Python identifier and none of the built-in cells'. A cell that was registered before
        under the same name is replaced, for networks made from then on; with other equations, a UserWarning
        says so.
    check : bool, default=True
        Whether `check_cell` is run before.

    Returns
    -------
    cell : Cell
        The same cell.

    Raises
    ------
    ValueError
        If the name cannot be used, or the cell does not pass the check; nothing is registered then.
    TypeError
        If `cell` is no Cell.

    Notes
    -----
    Models are copied and stored with the name of their cell: copies of a layer whose cell has been replaced
    have the new equations, of which a UserWarning tells. A process that loads one, or is started to work
    on one, registers the cell first, which importing the module that does so is enough for.

    Examples
    --------
    >>> from numbarnn import Recurrent, register_cell
    >>> from numbarnn.cells import Cell
    >>> def forward(gates, states):
    ...     (a,) = gates
    ...     return (0.5 * states[0] + 0.5 * a,), (a,)
    >>> def backward(kept, states, new_states, dnew_states):
    ...     (dh,) = dnew_states
    ...     return (0.5 * dh,), (0.5 * dh,)
    >>> leaky = register_cell(Cell("leaky", ("h",), (("h", "xh"),), forward, backward))
    >>> Recurrent("leaky", input_size=3, hidden_size=8).cell is leaky
    True
    """
    _check_name(cell, known=False)
    if check:
        check_cell(cell)
    if cell.name in CELLS and _row(CELLS[cell.name]) != _row(cell):
        warnings.warn(
            f'cell "{cell.name}" was registered before with other equations: networks there are go on with '
            "those, their copies and what is loaded have the new ones",
            stacklevel=2,
        )
    _OWN.add(cell.name)
    return add_cell(cell)


def is_registered(cell: Cell) -> bool:
    """Whether a cell came by `register_cell`, so that its name may stand for other equations elsewhere.

    >>> from numbarnn.cells import find_cell, is_registered
    >>> is_registered(find_cell("lstm"))
    False
    """
    return cell.name in _OWN


def _row(cell: Cell) -> list:
    """Return all that a cell is but its functions, for which its digest stands."""
    values = [getattr(cell, each.name) for each in fields(Cell)]
    return [cell.digest, *(value for value in values if not callable(value))]


def _check_name(cell: Cell, known: bool = True) -> None:
    """Refuse what is no cell, and names for no cell of one's own, but, if `known`, a built-in one its own."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell was {cell!r}; expected a numbarnn.cells.Cell")
    with suppress(ValueError):
        if known and find_cell(cell.name) is cell:
            return
    if not isinstance(cell.name, str) or not cell.name.isidentifier():
        raise ValueError(f"name was {cell.name!r}; expected letters, digits and underscores")
    if cell.name in CELLS and cell.name not in _OWN:
        raise ValueError(f"name was {cell.name!r}, a built-in cell; expected another name")


def fingerprint(name: str) -> str:
    """Return what tells the equations of a registered cell from others, on any machine.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
        Of what the functions give at random points. Empty for a built-in cell, and for one that was
        registered without the check and runs on registers alone.

    Examples
    --------
    >>> from numbarnn.cells.check import fingerprint
    >>> fingerprint("lstm")
    ''
    """
    if name not in _OWN or name not in CELLS:
        return ""
    cell = CELLS[name]
    try:
        with np.errstate(all="ignore"):
            results, gradients, _ = _run(cell, _draw(cell, np.float64))
    except Exception:  # of any kind: nothing is known of functions that were not checked
        return ""
    # rounded: the last bits differ between machines
    numbers = " ".join(f"{np.abs(values).sum():.6f}" for values in results + gradients)
    return hashlib.sha256(numbers.encode()).hexdigest()[:16]


# ---- the step, on arrays


def _draw(cell: Cell, dtype: type) -> _Point:
    """Draw a random point."""
    rng = np.random.default_rng(0)

    def draw(count: int, *shape: int) -> Values:
        return tuple(rng.standard_normal((count, *shape)).astype(dtype))

    shape = N_SAMPLES, N_UNITS
    n_middle = int(bool(cell.m_gates))
    counts = (cell.n_slots, len(cell.m_gates), cell.n_states)
    gates, products, states = (draw(count, *shape) for count in counts)
    units = draw(len(cell.vectors), N_UNITS) + draw(len(cell.scalars), 1)
    return _Point(gates, products, states, units, draw(cell.n_states, *shape), draw(n_middle, *shape))


def _map(function: Callable, point: _Point) -> _Point:
    return _Point(*(tuple(function(value) for value in values) for values in point))


def _run(
    cell: Cell, point: _Point, prepare: Callable = lambda *_: None
) -> tuple[Values, Values, dict[str, Values]]:
    """Run all the functions; before each `prepare` is called with the cell, its name and its arguments.

    Returns the results of the step (the new states and, of two halves, the middle vector), the gradients of
    gates, products, states and units, and all that was returned by its name.
    """
    gates, products, states, units, dstates, dmiddle = point
    units = (units,) if units else ()
    n_slots, n_states = cell.n_slots, cell.n_states
    back = {"dgates": n_slots, "dstates": n_states} | ({"dunits": len(units[0])} if units else {})
    returned: dict[str, Values] = {}

    def call(name: str, arguments: Sequence, expected: dict[str, int | None]) -> Sequence:
        prepare(cell, name, arguments)
        results = _call(cell, name, arguments, expected)
        for part, values in zip(expected, results, strict=True):
            returned[f"{part} of {name}"] = values if isinstance(values, tuple) else (values,)
        return results

    if cell.m_gates:
        n_products = len(products)
        expected = {"middle": None, "further_states": n_states - 1, "kept": n_slots}
        middle, rest, kept = call("forward", (gates, states, *units), expected)
        expected = {"h": None, "kept_products": n_products, "kept": n_slots}
        h, kept_products, kept = call("finish", (products, kept, states), expected)
        expected = {"dproducts": n_products, "kept": n_slots, "dh_prev": None}
        arguments = kept_products, kept, states, dstates[0]
        dproducts, kept, dh_prev = call("finish_backward", arguments, expected)
        results = (h, *rest, middle)
        arguments = kept, states, results[:-1], (dh_prev, *dstates[1:]), *dmiddle, *units
    else:
        results, kept = call("forward", (gates, states, *units), {"new_states": n_states, "kept": n_slots})
        arguments, dproducts = (kept, states, results, dstates, *units), ()
    dgates, *others = call("backward", arguments, back)
    return results, sum(others, start=dgates + dproducts), returned


def _call(cell: Cell, name: str, arguments: Sequence, expected: dict[str, int | None]) -> Sequence:
    """Call a function of the cell; `expected` has the number of values of each result, None for no tuple."""
    function = getattr(cell, name)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        message = f"cell {cell.name!r}: {name} was given its {len(arguments)} arguments: {error}"
        raise ValueError(message) from error
    results = _evaluate(cell, name, arguments)
    if not isinstance(results, tuple) or len(results) != len(expected):
        wanted = ", ".join(expected)
        raise ValueError(f"cell {cell.name!r}: {name} returned {_brief(results)}; expected ({wanted})")
    for (part, count), values in zip(expected.items(), results, strict=True):
        if count is not None and (not isinstance(values, tuple) or len(values) != count):
            each = ", one for each slot" if part in ("kept", "dgates") else ""
            raise ValueError(
                f"cell {cell.name!r}: {part} of {name} was {_brief(values)}; "
                f"expected a tuple of {count} value(s){each}"
            )
    return results


def _evaluate(cell: Cell, name: str, arguments: Sequence) -> Any:
    """Call a function of the cell, and say which it was that failed."""
    try:
        return getattr(cell, name)(*arguments)
    except Exception as error:
        raise ValueError(
            f"cell {cell.name!r}: {name} raised {type(error).__name__}: {error}; expected equations of "
            f"{', '.join(map(_brief, arguments))}, with no `if` on a value"
        ) from error


def _compile(cell: Cell, name: str, arguments: Sequence) -> None:
    """Compile a function of the cell for registers in place of the arrays of its arguments."""
    register = Vec(types.float32)
    signature = tuple(
        types.UniTuple(register, len(values)) if isinstance(values, tuple) else register
        for values in arguments
    )
    try:
        njit(getattr(cell, name), no_cpython_wrapper=True, no_cfunc_wrapper=True).compile(signature)
    except NumbaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = [line.split("Error: ", 1)[1] for line in lines if "Error: " in line]
        helper = re.search(r"[Uu]ntyped global name '(\w+)'.*<class 'function'>", str(error))
        if helper:
            raise ValueError(
                f"cell {cell.name!r}: {name} cannot be compiled, as it calls {helper[1]!r}; expected "
                "functions of numbarnn.simd or numbarnn.cells.activations, or such as are marked with "
                "numba.extending.register_jitable"
            ) from error
        raise ValueError(
            f"cell {cell.name!r}: {name} cannot be compiled: {(reasons or lines)[-1]}; expected + - * / and "
            "functions of numbarnn.simd or numbarnn.cells.activations, such as tanh and sigmoid"
        ) from error


def _brief(values: Any) -> str:
    return f"a tuple of {len(values)} value(s)" if isinstance(values, tuple) else type(values).__name__


# ---- what is returned


def _check_results(cell: Cell, point: _Point) -> None:
    """Check shapes and dtypes of all that is returned, that it is returned again, and the arguments whole."""
    before = _map(np.copy, point)
    _, _, returned = _run(cell, point)
    for field, ours, copies in zip(_Point._fields, point, before, strict=True):
        if any((value != copy).any() for value, copy in zip(ours, copies, strict=True)):
            raise ValueError(
                f"cell {cell.name!r}: its functions changed their argument {field}; expected c = c + a, "
                "which makes a new value, where it may say c += a"
            )
    _, _, again = _run(cell, point)
    for what, values in returned.items():
        for k, (value, other) in enumerate(zip(values, again[what], strict=True)):
            _check_value(f"cell {cell.name!r}: value {k} of {what}", value, other, point.gates[0].dtype)


def _check_value(name: str, value: Any, again: Any, dtype: np.dtype) -> None:
    shape = (N_SAMPLES, N_UNITS)
    if np.shape(value) != shape:
        raise ValueError(f"{name} had shape {np.shape(value)} where gates had {shape}; expected the same")
    if value.dtype != dtype:
        raise ValueError(
            f"{name} had dtype {value.dtype} where gates had {dtype}; expected the same: "
            "constants are Python's floats, functions those of numbarnn.simd"
        )
    if not np.array_equal(value, again, equal_nan=True):
        raise ValueError(f"{name} was another in a second call; expected a function of the arguments alone")


# ---- gradients


def _check_zeros(cell: Cell) -> None:
    """Check that zeros go back to zeros: the units that fill up a register are such, and must stay so."""

    def zeros(count: int) -> Values:
        return tuple(np.zeros((count, 1, 1)))

    kept, states, units = zeros(cell.n_slots), zeros(cell.n_states), zeros(len(cell.units))
    units, dstates, dproducts = (units,) if units else (), states, ()
    with np.errstate(all="ignore"):
        if cell.m_gates:
            products = zeros(len(cell.m_gates))
            arguments = products, kept, states, states[0]
            dproducts, kept, dh = _evaluate(cell, "finish_backward", arguments)
            arguments = kept, states, states, (dh, *dstates[1:]), np.zeros((1, 1)), *units
        else:
            arguments = kept, states, states, dstates, *units
        results = _evaluate(cell, "backward", arguments)
    if any(np.any(value != 0) for value in sum(results, start=tuple(dproducts))):
        raise ValueError(
            f"cell {cell.name!r}: backward of zeros alone (kept, states and their gradients) was not zero; "
            "expected no division by what is kept, and nothing added to gradients"
        )


def _gradient_names(cell: Cell) -> list[str]:
    """Name the gradients in the order in which `_run` gives them."""
    slots = [f"slot {k} (gate {gate}, products {kind!r})" for k, (gate, kind) in enumerate(cell.slots)]
    states = [f"state {name}" for name in cell.states]
    vectors = [f"the vector {name}" for name in cell.vectors]
    return slots + states + vectors + [f"the scalar {name}" for name in cell.scalars]


def _wrong_gradients(cell: Cell, point: _Point, output: int | None) -> list[str]:
    """Compare the gradients of one result, or of all; return a sentence for each that is wrong."""
    results = [f"new state {name}" for name in cell.states] + ["the middle vector"] * len(point.dmiddle)

    def chosen(k: int, d: NDArray) -> NDArray:
        return d if output in (k, None) else d * 0.0

    n = cell.n_states
    point = point._replace(
        dstates=tuple(chosen(k, d) for k, d in enumerate(point.dstates)),
        dmiddle=tuple(chosen(n, d) for d in point.dmiddle),
    )
    douts = point.dstates + point.dmiddle

    def loss(field: str, place: int, change: NDArray) -> NDArray:
        values = list(getattr(point, field))
        values[place] = values[place] + change
        moved, _, _ = _run(cell, point._replace(**{field: tuple(values)}))
        return sum(value * d for value, d in zip(moved, douts, strict=True))

    def difference(field: str, place: int) -> NDArray:
        """Move all units at once, or one after the other where units depend on each other."""
        total = 0.0
        for moved in STEP * (np.eye(N_UNITS) if cell.loops else np.ones((1, 1))):
            change = loss(field, place, moved) - loss(field, place, -moved)
            total = total + moved * (change.sum(axis=1, keepdims=True) if cell.loops else change)
        return total / (2.0 * STEP * STEP)

    _, gradients, _ = _run(cell, point)
    fields = ("gates", "products", "states", "units")
    places = [(field, k) for field in fields for k in range(len(getattr(point, field)))]
    through = "all results together" if output is None else results[output]
    wrong = []
    for (field, place), name, ours in zip(places, _gradient_names(cell), gradients, strict=True):
        expected = difference(field, place)
        error = np.nan_to_num(np.abs(ours - expected), nan=np.inf)
        if (error > TOLERANCE * np.maximum(1.0, np.abs(expected))).any():
            at = np.unravel_index(np.argmax(error), error.shape)
            wrong.append(
                f"gradient of {name}, through {through}: {ours[at]:.6g} "
                f"where finite differences give {expected[at]:.6g}"
            )
    return wrong
