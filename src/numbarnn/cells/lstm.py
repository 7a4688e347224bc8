"""Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000)."""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def lstm_forward(gates, states):
    """Compute c = f c_prev + i g and h = o tanh(c) by the equations of torch.nn.LSTM."""
    i, f, g, o = gates
    _, c_prev = states
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c_prev + i * g
    return (o * tanh(c), c), (i, f, g, o)


def lstm_backward(gates, states, new_states, dstates):
    """Go back through `lstm_forward` by the chain rule; all that h does passes through o and c."""
    i, f, g, o = gates
    _, c_prev = states
    _, c = new_states
    dh, dc = dstates
    tanh_c = tanh(c)
    dc = dc + dh * o * (1.0 - tanh_c * tanh_c)
    di = dc * g * i * (1.0 - i)
    df = dc * c_prev * f * (1.0 - f)
    dg = dc * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return (di, df, dg, do), (dh * 0.0, dc * f)


LSTM = Cell(
    name="lstm",
    gates=("i", "f", "g", "o"),
    slots=(("i", "xh"), ("f", "xh"), ("g", "xh"), ("o", "xh")),
    forward=lstm_forward,
    backward=lstm_backward,
    states=("h", "c"),
    forget_gate="f",
)
