"""Long short-term memory that forgets as much as it takes in: f = 1 - i.

References
----------
.. [1] Greff, Srivastava, Koutnik, Steunebrink and Schmidhuber, "LSTM: a search space odyssey", IEEE
   Transactions on Neural Networks and Learning Systems 28 (2017), section III: the variant CIFG, coupled
   input and forget gate. ONNX has it as ``input_forget=1``.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def lstm_coupled_forward(gates, states):
    """Compute c = (1 - i) c_prev + i g and h = o tanh(c)."""
    i, g, o = gates
    _, c_prev = states
    i, g, o = sigmoid(i), tanh(g), sigmoid(o)
    c = c_prev + i * (g - c_prev)
    return (o * tanh(c), c), (i, g, o)


def lstm_coupled_backward(gates, states, new_states, dstates):
    """Go back through `lstm_coupled_forward` by the chain rule."""
    i, g, o = gates
    _, c_prev = states
    _, c = new_states
    dh, dc = dstates
    tanh_c = tanh(c)
    dc = dc + dh * o * (1.0 - tanh_c * tanh_c)
    di = dc * (g - c_prev) * i * (1.0 - i)
    dg = dc * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return (di, dg, do), (dh * 0.0, dc * (1.0 - i))


LSTM_COUPLED = Cell(
    name="lstm_coupled",
    gates=("i", "g", "o"),
    slots=(("i", "xh"), ("g", "xh"), ("o", "xh")),
    forward=lstm_coupled_forward,
    backward=lstm_coupled_backward,
    states=("h", "c"),
)
