"""RNN, LSTM and GRU with other activations and with clipped sums, as ONNX has them.

A cell of this family is known by a name that says all: ``"lstm[hard_sigmoid,tanh,relu]"``,
``"gru[sigmoid,tanh;clip=3.0]"``, ``"rnn[leaky_relu(0.1)]"``. Before the bracket stand the equations; in it
stand the activations in ONNX's order, with alpha and beta behind them where they are not ONNX's own.

Equations may be slower than those of the cell with the usual activations: they keep the sums, and evaluate
the activations again on the way back.

References
----------
.. [1] ONNX operators RNN, LSTM and GRU, https://onnx.ai/onnx/operators/. Clipping bounds the sums of the
   gates, and not the cell state before its activation, as in ONNX Runtime.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache

from numbarnn.cells.activations import ACTIVATIONS, absolute, inlined
from numbarnn.cells.base import Cell
from numbarnn.simd import clamp, is_positive

Functions = tuple[Callable, Callable]  # of a sum: the activation, and its slope


def make_rnn(activations: Sequence[Functions]) -> dict:
    """Give the equations of h = f(a)."""
    ((f, slope),) = activations

    def forward(gates, states):
        (a,) = gates
        return (f(a),), (a,)

    def backward(kept, states, new_states, dstates):
        (a,) = kept
        (dh,) = dstates
        return (dh * slope(a),), (dh * 0.0,)

    return {"gates": ("h",), "slots": (("h", "xh"),), "forward": forward, "backward": backward}


def make_gru(activations: Sequence[Functions]) -> dict:
    """Give the equations of `numbarnn.cells.gru` with activations f of the gates and g of the candidate."""
    (f, f_slope), (g, g_slope) = activations

    def forward(gates, states):
        n_h, r, z, n_x = gates
        (h_prev,) = states
        n = g(n_x + f(r) * n_h)
        return (n + f(z) * (h_prev - n),), gates

    def backward(kept, states, new_states, dstates):
        n_h, a_r, a_z, n_x = kept
        (h_prev,) = states
        (dh,) = dstates
        r, z = f(a_r), f(a_z)
        a_n = n_x + r * n_h
        dn = dh * (1.0 - z) * g_slope(a_n)
        dz = dh * (h_prev - g(a_n)) * f_slope(a_z)
        return (dn * r, dn * n_h * f_slope(a_r), dz, dn), (dh * z,)

    slots = (("n", "h"), ("r", "xh"), ("z", "xh"), ("n", "x"))
    return {"gates": ("r", "z", "n"), "slots": slots, "forward": forward, "backward": backward}


def make_gru_reset_before(activations: Sequence[Functions]) -> dict:
    """Give the equations of `numbarnn.cells.gru_reset_before` with activations f of the gates and g."""
    (f, f_slope), (g, g_slope) = activations

    def forward(gates, states):
        r, _, _ = gates
        (h_prev,) = states
        return f(r) * h_prev, (), gates

    def finish(products, kept, states):
        (n_m,) = products
        r, z, n_x = kept
        (h_prev,) = states
        n = g(n_x + n_m)
        return n + f(z) * (h_prev - n), (n_m,), (r, z, n_x + n_m)

    def finish_backward(products, kept, states, dh):
        r, a_z, a_n = kept
        (h_prev,) = states
        z = f(a_z)
        dn = dh * (1.0 - z) * g_slope(a_n)
        dz = dh * (h_prev - g(a_n)) * f_slope(a_z)
        return (dn,), (r, dz, dn), dh * z

    def backward(kept, states, new_states, dstates, dmiddle):
        r, dz, dn = kept
        (h_prev,) = states
        (dh_prev,) = dstates
        return (dmiddle * h_prev * f_slope(r), dz, dn), (dh_prev + dmiddle * f(r),)

    slots = (("r", "xh"), ("z", "xh"), ("n", "x"), ("n", "m"))
    halves = {"finish": finish, "finish_backward": finish_backward}
    return {"gates": ("r", "z", "n"), "slots": slots, "forward": forward, "backward": backward} | halves


def _forget_gate(f: Callable, f_slope: Callable, coupled: bool) -> tuple[Callable, ...]:
    """Give the forget gate's activation and slope, and the ways from slots to four gates and back."""

    @inlined
    def forget(a):
        return 1.0 - f(a) if coupled else f(a)

    @inlined
    def forget_slope(a):
        return 0.0 - f_slope(a) if coupled else f_slope(a)

    @inlined
    def spread(values):
        return (values[0],) + values if coupled else values

    @inlined
    def merge(values):
        return (values[0] + values[1],) + values[2:] if coupled else values

    return forget, forget_slope, spread, merge


def make_lstm(activations: Sequence[Functions], coupled: bool = False, peephole: bool = False) -> dict:
    """Give the equations of an LSTM with activations f of the gates, g of the candidate and h of c.

    With `peephole`, the gates see the cell state. If `coupled`, the forget gate has the sum of the input gate
    and the activation 1 - f: the equations have four gates, of which the first two are one slot.
    """
    (f, f_slope), (g, g_slope), (h, h_slope) = activations
    forget, forget_slope, spread, merge = _forget_gate(f, f_slope, coupled)

    @inlined
    def step(gates, states, units):
        _, c_prev = states
        a_i, a_f, a_g, a_o = spread(gates)
        if peephole:
            w_i, w_f, w_o = spread(units)
            a_i, a_f = a_i + w_i * c_prev, a_f + w_f * c_prev
        c = f(a_i) * g(a_g) + forget(a_f) * c_prev
        if peephole:
            a_o = a_o + w_o * c
        kept = (a_i, a_g, a_o) if coupled else (a_i, a_f, a_g, a_o)
        return (f(a_o) * h(c), c), kept

    @inlined
    def step_backward(kept, states, new_states, dstates, units):
        a_i, a_f, a_g, a_o = spread(kept)
        _, c_prev = states
        _, c = new_states
        dh, dc = dstates
        do = dh * h(c) * f_slope(a_o)
        dc = dc + dh * f(a_o) * h_slope(c)
        if peephole:
            w_i, w_f, w_o = spread(units)
            dc = dc + do * w_o
        di = dc * g(a_g) * f_slope(a_i)
        df = dc * c_prev * forget_slope(a_f)
        dg = dc * f(a_i) * g_slope(a_g)
        dc_prev = dc * forget(a_f)
        if peephole:
            dc_prev = dc_prev + di * w_i + df * w_f
        return merge((di, df, dg, do)), (dh * 0.0, dc_prev), merge((di * c_prev, df * c_prev, do * c))

    def forward(gates, states):
        return step(gates, states, ())

    def backward(kept, states, new_states, dstates):
        dgates, dold, _ = step_backward(kept, states, new_states, dstates, ())
        return dgates, dold

    gates = ("i", "g", "o") if coupled else ("i", "f", "g", "o")
    row = {"gates": gates, "slots": tuple((gate, "xh") for gate in gates), "states": ("h", "c")}
    row |= {"forward": forward, "backward": backward, "forget_gate": None if coupled else "f"}
    if peephole:
        vectors = tuple(f"weight_c{gate}" for gate in gates if gate != "g")
        row |= {"forward": step, "backward": step_backward, "vectors": vectors}
    return row


# of each family: the number of its activations, how many of them are of clipped sums, and its equations
FAMILIES: dict[str, tuple[int, int, Callable[[Sequence[Functions]], dict]]] = {
    "rnn": (1, 1, make_rnn),
    "gru": (2, 2, make_gru),
    "gru_reset_before": (2, 2, make_gru_reset_before),
    "lstm": (3, 2, make_lstm),
    "lstm_coupled": (3, 2, lambda functions: make_lstm(functions, coupled=True)),
    "lstm_peephole": (3, 2, lambda functions: make_lstm(functions, peephole=True)),
    "lstm_peephole_coupled": (3, 2, lambda functions: make_lstm(functions, coupled=True, peephole=True)),
}
_NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"
_ACTIVATION = re.compile(rf"([a-z_]+)(?:\(({_NUMBER}(?:,{_NUMBER})?)\))?")
_NAME = re.compile(r"([a-z_]+)\[([^];]*)(?:;clip=([^]]+))?\]")


def general_name(family: str, activations: Sequence[str], clip: float | None = None) -> str:
    """Put the name of a cell together.

    Parameters
    ----------
    family : str
        A key of `FAMILIES`.
    activations : sequence of str
        In ONNX's order, each a key of `ACTIVATIONS`, with alpha or alpha and beta behind it or without:
        ``"tanh"``, ``"leaky_relu(0.1)"``, ``"hard_sigmoid(0.2,0.5)"``.
    clip : float or None, default=None
        Bound of the sums of the gates, in absolute value.

    Returns
    -------
    name : str
        What `general_cell` and ``Recurrent(cell=...)`` take.

    Examples
    --------
    >>> from numbarnn.cells.general import general_name
    >>> general_name("lstm", ["hard_sigmoid", "tanh", "relu"], clip=3.0)
    'lstm[hard_sigmoid,tanh,relu;clip=3.0]'
    """
    return f"{family}[{','.join(activations)}{'' if clip is None else f';clip={float(clip)!r}'}]"


@cache
def general_cell(name: str) -> Cell:
    """Make the cell of such a name; the same name gives the same cell.

    Raises
    ------
    ValueError
        If the name is not of the form ``"family[activation,...;clip=number]"``, or a part of it is unknown.

    Examples
    --------
    >>> from numbarnn.cells.general import general_cell
    >>> general_cell("lstm[hard_sigmoid,tanh,relu;clip=3.0]").gates
    ('i', 'f', 'g', 'o')
    """
    parts = _NAME.fullmatch(name)
    if parts is None or parts[1] not in FAMILIES:
        expected = f"name[activations;clip=number] with a name of {', '.join(FAMILIES)}"
        raise ValueError(f"cell was {name!r}; expected {expected}")
    count, clipped, make = FAMILIES[parts[1]]
    activations = re.findall(r"[^,(]+(?:\([^)]*\))?", parts[2])
    if len(activations) != count:
        raise ValueError(f"cell was {name!r}; expected {count} activation(s) in the bracket")
    clip = None if parts[3] is None else _positive(name, parts[3])
    functions = [_functions(name, text, clip if k < clipped else None) for k, text in enumerate(activations)]
    return Cell(name=name, **make(functions))


def _positive(name: str, text: str) -> float:
    if not re.fullmatch(_NUMBER, text) or not 0 < float(text) < math.inf:
        raise ValueError(f"cell was {name!r}; expected a finite number over 0 for clip")
    return float(text)


@cache
def _functions(name: str, text: str, clip: float | None) -> Functions:
    """Give an activation and its slope as functions of the sum, which is bounded by `clip`."""
    parts = _ACTIVATION.fullmatch(text)
    if parts is None or parts[1] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"cell was {name!r}, with an activation {text!r}; expected one of {known}")
    numbers = [] if parts[2] is None else [float(number) for number in parts[2].split(",")]
    if not all(map(math.isfinite, numbers)):  # of more digits than float64 has room for
        raise ValueError(f"cell was {name!r}; expected finite numbers behind {parts[1]!r}")
    try:
        function, slope = ACTIVATIONS[parts[1]](*numbers)
    except TypeError as error:
        raise ValueError(f"cell was {name!r}, with too many numbers behind {parts[1]!r}") from error

    @inlined
    def of_sum(a):
        return function(a)

    @inlined
    def slope_of_sum(a):
        return slope(function(a))

    @inlined
    def of_clipped(a):
        return function(clamp(a, clip))

    @inlined
    def slope_of_clipped(a):
        return slope(function(clamp(a, clip))) * (1.0 - is_positive(absolute(a) - clip))

    return (of_sum, slope_of_sum) if clip is None else (of_clipped, slope_of_clipped)
