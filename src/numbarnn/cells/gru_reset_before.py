"""Gated recurrent unit with the reset gate before the product, as first published.

The candidate is tanh(W x + U (r * h_prev)): its recurrent product waits for the reset gate, and the step has
two products. `gru` scales the product instead, and has one.

References
----------
.. [1] Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP (2014), equations (5) to
   (8). ONNX has it as ``linear_before_reset=0``, Keras as ``reset_after=False``.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def first_half(gates, states):
    """Compute r, z and r h_prev, which the second product takes."""
    r, z, n_x = gates
    (h_prev,) = states
    r, z = sigmoid(r), sigmoid(z)
    return r * h_prev, (), (r, z, n_x)


def finish(products, kept, states):
    """Compute h = (1 - z) n + z h_prev with n = tanh(n_x + n_m); n_m is the second product."""
    (n_m,) = products
    r, z, n_x = kept
    (h_prev,) = states
    n = tanh(n_x + n_m)
    return n + z * (h_prev - n), (n_m,), (r, z, n)


def finish_backward(products, kept, states, dh):
    """Go back through `finish`; in the places of z and n stand their gradients from here on."""
    r, z, n = kept
    (h_prev,) = states
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dz = dh * (h_prev - n) * z * (1.0 - z)
    return (dn,), (r, dz, dn), dh * z


def first_half_backward(kept, states, new_states, dstates, dmiddle):
    """Go back through `first_half`, from the gradient of r h_prev."""
    r, dz, dn = kept
    (h_prev,) = states
    (dh_prev,) = dstates
    dr = dmiddle * h_prev * r * (1.0 - r)
    return (dr, dz, dn), (dh_prev + dmiddle * r,)


GRU_RESET_BEFORE = Cell(
    name="gru_reset_before",
    gates=("r", "z", "n"),
    slots=(("r", "xh"), ("z", "xh"), ("n", "x"), ("n", "m")),
    forward=first_half,
    backward=first_half_backward,
    finish=finish,
    finish_backward=finish_backward,
)
