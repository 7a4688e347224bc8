"""Which ONNX operator, with which attributes, is which of our cells; and the order of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import CELLS

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


OPERATORS = {
    "rnn": Operator("RNN", {"activations": ["Tanh"]}),
    "rnn_relu": Operator("RNN", {"activations": ["Relu"]}),
    "gru": Operator("GRU", {"linear_before_reset": 1}),
    "gru_reset_before": Operator("GRU", {"linear_before_reset": 0}),
    "lstm": Operator("LSTM"),
    "lstm_coupled": Operator("LSTM", {"input_forget": 1}),
    "lstm_peephole": Operator("LSTM", peepholes=True),
}


def find_compiled(operator: Operator) -> str | None:
    """Return the name of the cell that an operator is, None if there is no such cell."""
    names = [name for name, other in OPERATORS.items() if other == operator and name in CELLS]
    return names[0] if names else None


def to_onnx_rows(cell: str, rows: NDArray) -> NDArray:
    """Put rows, gate by gate, into ONNX's order; those of a gate that the cell lacks are zero.

    Parameters
    ----------
    cell : str
    rows : ndarray of shape (n_gates * hidden_size, ...)

    Returns
    -------
    rows : ndarray of shape (n_onnx_gates * hidden_size, ...)
    """
    gates = CELLS[cell].gates
    blocks = dict(zip(gates, np.split(rows, len(gates)), strict=True))
    absent = np.zeros_like(blocks[gates[0]])
    return np.concatenate([blocks.get(gate, absent) for gate in GATES[OPERATORS[cell].op_type]])


def from_onnx_rows(cell: str, rows: NDArray) -> NDArray:
    """Put rows that stand in ONNX's order into that of the cell's gates."""
    order = GATES[OPERATORS[cell].op_type]
    blocks = dict(zip(order, np.split(rows, len(order)), strict=True))
    return np.concatenate([blocks[gate] for gate in CELLS[cell].gates])


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
            np.concatenate([to_onnx_rows(cell, parameters[f"{name}_{suffix}"]) for name in names])
            for suffix in suffixes
        ]
        return np.stack(rows).astype(np.float32)

    inputs = {"W": stack("weight_ih"), "R": stack("weight_hh"), "B": None, "P": None}
    if f"bias_ih_{suffixes[0]}" in parameters:
        inputs["B"] = stack("bias_ih", "bias_hh")
    if OPERATORS[cell].peepholes:
        inputs["P"] = np.stack(
            [np.concatenate([parameters[f"{name}_{suffix}"] for name in PEEPHOLES]) for suffix in suffixes]
        ).astype(np.float32)
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
    parameters = {"weight_ih_l0": from_onnx_rows(cell, w), "weight_hh_l0": from_onnx_rows(cell, r)}
    if b is not None:
        b_ih, b_hh = np.split(b, 2)
        parameters |= {"bias_ih_l0": from_onnx_rows(cell, b_ih), "bias_hh_l0": from_onnx_rows(cell, b_hh)}
    if p is not None:
        parameters |= {f"{name}_l0": row for name, row in zip(PEEPHOLES, np.split(p, 3), strict=True)}
    return parameters
