"""Which ONNX operator, with which attributes, is which of our cells; and the order of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import CELLS, find_cell
from numbarnn.interop.onnx.equations import activation_parameters

GATES = {"RNN": ("h",), "GRU": ("z", "r", "n"), "LSTM": ("i", "o", "f", "g")}  # in ONNX's order, by our names
PEEPHOLES = ("weight_ci", "weight_co", "weight_cf")


class Operator(NamedTuple):
    """How ONNX says what a cell is.

    Parameters
    ----------
    op_type : {"RNN", "GRU", "LSTM"}
    attributes : dict
        Those that make it this cell.
    peepholes : bool
        Whether it has the input P.
    """

    op_type: str
    attributes: Mapping[str, Any] = {}
    peepholes: bool = False


# By the names of cells. What has a bracket behind its name has the activations that it lists, and may be
# clipped: `find_operator` reads it.
OPERATORS = {
    "rnn": Operator("RNN", {"activations": ["Tanh"]}),
    "rnn_relu": Operator("RNN", {"activations": ["Relu"]}),
    "gru": Operator("GRU", {"linear_before_reset": 1}),
    "gru_reset_before": Operator("GRU", {"linear_before_reset": 0}),
    "lstm": Operator("LSTM"),
    "lstm_coupled": Operator("LSTM", {"input_forget": 1}),
    "lstm_peephole": Operator("LSTM", peepholes=True),
    "lstm_peephole_coupled": Operator("LSTM", {"input_forget": 1}, peepholes=True),
}
_GENERAL = re.compile(r"(\w+)\[([^];]*)(?:;clip=([^]]+))?\]")  # "lstm[sigmoid,tanh,elu(0.5);clip=3.0]"
_ACTIVATION = re.compile(r"(\w+)(?:\(([^)]*)\))?")


def find_operator(cell: str, directions: int) -> Operator:
    """Return what a cell is in ONNX.

    Parameters
    ----------
    cell : str
    directions : int
        1 or 2: activations are listed for each.

    Raises
    ------
    ValueError
        If ONNX has no operator for it.

    Examples
    --------
    >>> from numbarnn.interop.onnx.cells import find_operator
    >>> find_operator("gru", 1)
    Operator(op_type='GRU', attributes={'linear_before_reset': 1}, peepholes=False)
    >>> find_operator("rnn[elu;clip=2.0]", 2).attributes
    {'activations': ['Elu', 'Elu'], 'activation_alpha': [1.0, 1.0], 'clip': 2.0}
    """
    parts = _GENERAL.fullmatch(cell)
    operator = OPERATORS.get(parts[1] if parts else cell)
    if operator is None:
        # of a few families there are the names with a bracket alone
        expected = ", ".join(name if name in CELLS else f"{name}[...]" for name in sorted(OPERATORS))
        raise ValueError(f"cell was {cell!r}, for which ONNX has no operator; expected one of {expected}")
    attributes = dict(operator.attributes)
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * directions
    if parts:
        attributes |= _activation_attributes(parts[2], directions)
        attributes |= {"clip": float(parts[3])} if parts[3] else {}
    return operator._replace(attributes=attributes)


def _activation_attributes(listed: str, directions: int) -> dict[str, list]:
    """Turn a list such as "leaky_relu(0.1),tanh" into attributes; all parameters are written."""
    names, numbers = [], {"alpha": [], "beta": []}
    for name, given in _ACTIVATION.findall(listed):
        names.append(name.title().replace("_", ""))
        values = [float(number) for number in given.split(",") if number]
        for k, (key, default) in enumerate(activation_parameters(names[-1]).items()):
            numbers[key].append(values[k] if k < len(values) else 1.0 if default is None else default)
    attributes = {"activations": names * directions}
    return attributes | {f"activation_{key}": each * directions for key, each in numbers.items() if each}


def find_compiled(operator: Operator) -> str | None:
    """Return the name of the cell that an operator is, None if there is no such cell."""
    names = [name for name, other in OPERATORS.items() if other == operator and name in CELLS]
    return names[0] if names else None


def _to_onnx_rows(cell: str, rows: NDArray) -> NDArray:
    """Put rows, gate by gate, into ONNX's order; those of a gate that the cell lacks are zero."""
    gates = find_cell(cell).gates
    blocks = dict(zip(gates, np.split(rows, len(gates)), strict=True))
    absent = np.zeros_like(blocks[gates[0]])
    return np.concatenate([blocks.get(gate, absent) for gate in GATES[find_operator(cell, 1).op_type]])


def _from_onnx_rows(cell: str, rows: NDArray) -> NDArray:
    """Put rows that stand in ONNX's order into that of the cell's gates."""
    order = GATES[find_operator(cell, 1).op_type]
    blocks = dict(zip(order, np.split(rows, len(order)), strict=True))
    return np.concatenate([blocks[gate] for gate in find_cell(cell).gates])


def weights_to_onnx(
    cell: str, parameters: Mapping[str, NDArray], suffixes: Sequence[str]
) -> dict[str, NDArray | None]:
    """Return the inputs W, R, B, P of one layer.

    Parameters
    ----------
    cell : str
    parameters : dict of str to ndarray
        As of `numbarnn.Recurrent`.
    suffixes : sequence of str
        What stands behind the names for each direction, as "l0" and "l0_reverse".

    Returns
    -------
    inputs : dict of str to ndarray or None
        float32, the directions stacked in front; B is None for a layer without biases, P for a cell without
        peepholes.
    """

    def stack(*names: str) -> NDArray:
        rows = [
            np.concatenate([_to_onnx_rows(cell, parameters[f"{name}_{suffix}"]) for name in names])
            for suffix in suffixes
        ]
        return np.stack(rows).astype(np.float32)

    inputs = {"W": stack("weight_ih"), "R": stack("weight_hh"), "B": None, "P": None}
    if f"bias_ih_{suffixes[0]}" in parameters:
        inputs["B"] = stack("bias_ih", "bias_hh")
    if find_operator(cell, 1).peepholes:
        absent = np.zeros(inputs["R"].shape[2], np.float32)  # a coupled forget gate has none
        found = [[parameters.get(f"{name}_{suffix}", absent) for name in PEEPHOLES] for suffix in suffixes]
        inputs["P"] = np.array([np.concatenate(rows) for rows in found], np.float32)
    return inputs


def weights_from_onnx(
    cell: str, w: NDArray, r: NDArray, b: NDArray | None, p: NDArray | None
) -> dict[str, NDArray]:
    """Return the parameters of a layer and direction of `numbarnn.Recurrent`.

    Parameters
    ----------
    cell : str
    w : ndarray of shape (n_onnx_gates * hidden_size, input_size)
    r : ndarray of shape (n_onnx_gates * hidden_size, hidden_size)
    b : ndarray of shape (2 * n_onnx_gates * hidden_size,) or None
    p : ndarray of shape (3 * hidden_size,) or None
    """
    parameters = {"weight_ih_l0": _from_onnx_rows(cell, w), "weight_hh_l0": _from_onnx_rows(cell, r)}
    if b is not None:
        b_ih, b_hh = np.split(b, 2)
        parameters |= {"bias_ih_l0": _from_onnx_rows(cell, b_ih), "bias_hh_l0": _from_onnx_rows(cell, b_hh)}
    if p is not None:
        parameters |= {f"{name}_l0": row for name, row in zip(PEEPHOLES, np.split(p, 3), strict=True)}
    return parameters
