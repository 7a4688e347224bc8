"""Minimal gated unit: one gate that resets and updates.

References
----------
.. [1] Zhou, Wu, Zhang and Zhou, "Minimal gated unit for recurrent neural networks", International Journal of
   Automation and Computing 13 (2016): the three equations of the unit, f, the candidate and h.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def first_half(gates, states):
    """Compute f and f h_prev, which the second product takes."""
    f, n_x = gates
    (h_prev,) = states
    f = sigmoid(f)
    return f * h_prev, (), (f, n_x)


def finish(products, kept, states):
    """Compute h = (1 - f) h_prev + f n with n = tanh(n_x + n_m); n_m is the second product."""
    (n_m,) = products
    f, n_x = kept
    (h_prev,) = states
    n = tanh(n_x + n_m)
    return h_prev + f * (n - h_prev), (n_m,), (f, n)


def finish_backward(products, kept, states, dh):
    """Go back to n alone: f has two gradients, and `first_half_backward` takes both from dh."""
    f, n = kept
    return (dh * f * (1.0 - n * n),), (f, n), dh


def first_half_backward(kept, states, new_states, dstates, dmiddle):
    """Go back through both halves, from the gradients of h and of f h_prev."""
    f, n = kept
    (h_prev,) = states
    (dh,) = dstates
    dn = dh * f * (1.0 - n * n)
    df = (dh * (n - h_prev) + dmiddle * h_prev) * f * (1.0 - f)
    return (df, dn), (dh * (1.0 - f) + dmiddle * f,)


MGU = Cell(
    name="mgu",
    gates=("f", "n"),
    slots=(("f", "xh"), ("n", "x"), ("n", "m")),
    forward=first_half,
    backward=first_half_backward,
    finish=finish,
    finish_backward=finish_backward,
)
