"""Independently recurrent network: a unit sees of the state before only itself.

References
----------
.. [1] Li, Li, Cook, Zhu and Gao, "Independently recurrent neural network (IndRNN): building a longer and
   deeper RNN", CVPR (2018), equation (2), with a rectifier; recurrent weights start between 0 and 1 there.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import is_positive, relu


def indrnn_forward(gates, states, units):
    """Compute h = max(a + u h_prev, 0); a is the product with the input, u a vector."""
    (a,) = gates
    (h_prev,) = states
    (u,) = units
    h = relu(a + u * h_prev)
    return (h,), (h,)


def indrnn_backward(gates, states, new_states, dstates, units):
    """Go back through `indrnn_forward`: the slope is 1 where h > 0, else 0."""
    (h,) = gates
    (h_prev,) = states
    (dh,) = dstates
    (u,) = units
    da = dh * is_positive(h)
    return (da,), (da * u,), (da * h_prev,)


INDRNN = Cell(
    name="indrnn",
    gates=("h",),
    slots=(("h", "x"),),
    forward=indrnn_forward,
    backward=indrnn_backward,
    vectors=("weight_hh",),
    initial={"weight_hh": (0.0, 1.0)},
)
