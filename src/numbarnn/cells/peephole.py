"""Long short-term memory whose gates see the cell state (Gers and Schmidhuber 2000).

The peepholes are diagonal: a gate of a unit sees the cell state of that unit alone, through one weight. The
input and the forget gate see the state before the step, the output gate the state after it.

References
----------
.. [1] Gers and Schmidhuber, "Recurrent nets that time and count", IJCNN (2000).
.. [2] Gers, Schraudolph and Schmidhuber, "Learning precise timing with LSTM recurrent networks", Journal of
   Machine Learning Research 3 (2002): the peepholes in sections 2 and 3.
.. [3] Greff, Srivastava, Koutnik, Steunebrink and Schmidhuber, "LSTM: a search space odyssey", IEEE
   Transactions on Neural Networks and Learning Systems 28 (2017): the same equations in section II-A.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def make_peephole(name: str, candidate: bool) -> Cell:
    """Make the cell, with a peephole into the candidate as well if `candidate`."""

    def forward(gates, states, units):
        """Compute the equations of an LSTM with w c added in the gates, where each w is a vector."""
        i, f, g, o = gates
        _, c_prev = states
        w_i, w_f, w_o = units[:3]
        if candidate:
            g = g + units[3] * c_prev
        i, f, g = sigmoid(i + w_i * c_prev), sigmoid(f + w_f * c_prev), tanh(g)
        c = f * c_prev + i * g
        o = sigmoid(o + w_o * c)
        return (o * tanh(c), c), (i, f, g, o)

    def backward(gates, states, new_states, dstates, units):
        """Go back through `forward`: to c also from o, to c_prev also from the gates that see it."""
        i, f, g, o = gates
        _, c_prev = states
        _, c = new_states
        dh, dc = dstates
        w_i, w_f, w_o = units[:3]
        tanh_c = tanh(c)
        do = dh * tanh_c * o * (1.0 - o)
        dc = dc + dh * o * (1.0 - tanh_c * tanh_c) + do * w_o
        di = dc * g * i * (1.0 - i)
        df = dc * c_prev * f * (1.0 - f)
        dg = dc * i * (1.0 - g * g)
        dc_prev = dc * f + di * w_i + df * w_f
        dunits = (di * c_prev, df * c_prev, do * c)
        if candidate:
            return (di, df, dg, do), (dh * 0.0, dc_prev + dg * units[3]), dunits + (dg * c_prev,)
        return (di, df, dg, do), (dh * 0.0, dc_prev), dunits

    return Cell(
        name=name,
        gates=("i", "f", "g", "o"),
        slots=(("i", "xh"), ("f", "xh"), ("g", "xh"), ("o", "xh")),
        forward=forward,
        backward=backward,
        states=("h", "c"),
        forget_gate="f",
        vectors=("weight_ci", "weight_cf", "weight_co") + ("weight_cg",) * candidate,
    )


LSTM_PEEPHOLE = make_peephole("lstm_peephole", candidate=False)
LSTM_PEEPHOLE_CANDIDATE = make_peephole("lstm_peephole_candidate", candidate=True)
