"""Gated recurrent unit, reset after the product: Cho et al. 2014 in the form of cuDNN and PyTorch.

The candidate's two products stay apart, since the reset gate scales the recurrent one with its bias.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def gru_forward(gates, states):
    """Compute h = (1 - z) n + z h_prev by the equations of torch.nn.GRU; n_h, n_x are n's products."""
    n_h, r, z, n_x = gates
    (h_prev,) = states
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(n_x + r * n_h)
    return (n + z * (h_prev - n),), (n_h, r, z, n)


def gru_backward(gates, states, new_states, dstates):
    """Go back through `gru_forward` by the chain rule."""
    n_h, r, z, n = gates
    (h_prev,) = states
    (dh,) = dstates
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dr = dn * n_h * r * (1.0 - r)
    dz = dh * (h_prev - n) * z * (1.0 - z)
    return (dn * r, dr, dz, dn), (dh * z,)


GRU = Cell(
    name="gru",
    gates=("r", "z", "n"),
    slots=(("n", "h"), ("r", "xh"), ("z", "xh"), ("n", "x")),
    forward=gru_forward,
    backward=gru_backward,
)
