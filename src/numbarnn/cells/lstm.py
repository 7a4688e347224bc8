"""Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000)."""

from numbarnn.cells.activations import inlined
from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


@inlined
def lstm_forward(gates, states):
    """Compute c = f c_prev + i g and h = o tanh(c) by the equations of torch.nn.LSTM."""
    i, f, g, o = gates
    _, c_prev = states
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c_prev + i * g
    return (o * tanh(c), c), (i, f, g, o)


@inlined
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


def project(products, kept, states):
    """Take the product of `weight_hr` with o tanh(c) as h."""
    return products[0], products, kept


def project_backward(products, kept, states, dh):
    """Hand the gradient on to the product."""
    return (dh,), kept, dh * 0.0


def projected_forward(gates, states):
    """Give o tanh(c) to the projection."""
    (h, c), kept = lstm_forward(gates, states)
    return h, (c,), kept


def projected_backward(kept, states, new_states, dstates, dmiddle):
    """Go back through `projected_forward`."""
    return lstm_backward(kept, states, new_states, (dmiddle, dstates[1]))


LSTM = Cell(
    name="lstm",
    gates=("i", "f", "g", "o"),
    slots=(("i", "xh"), ("f", "xh"), ("g", "xh"), ("o", "xh")),
    forward=lstm_forward,
    backward=lstm_backward,
    states=("h", "c"),
    forget_gate="f",
)

# what `Recurrent` takes in its place where h is a projection (Sak et al. 2014)
LSTM_PROJECTED = Cell(
    name="lstm_projected",
    gates=(*LSTM.gates, "r"),
    slots=(*LSTM.slots, ("r", "m")),
    forward=projected_forward,
    backward=projected_backward,
    states=LSTM.states,
    forget_gate=LSTM.forget_gate,
    finish=project,
    finish_backward=project_backward,
    projects=True,
)
