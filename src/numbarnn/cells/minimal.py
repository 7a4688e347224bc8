"""minGRU and minLSTM: gates and candidate see the input alone (Feng et al. 2024).

There is no recurrent product, so that what depends on the input is one large product for the whole sequence,
and a step is a few operations on each unit by itself. States have no bound: sums of them are not written with
differences, in which an infinite one would become NaN.

The candidate is the plain one, a linear function of the input. The article's other form passes it through a
function g with positive values, only so that a parallel scan can work with logarithms of the state; the loop
over time needs none, and states of either sign hold more.

References
----------
.. [1] Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs all we needed?", arXiv:2410.01201 (2024):
   minGRU in section 3.1, minLSTM in section 3.2, the form in logarithms in appendix B.
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid


def mingru_forward(gates, states):
    """Compute h = (1 - z) h_prev + z n."""
    z, n = gates
    (h_prev,) = states
    z = sigmoid(z)
    return ((1.0 - z) * h_prev + z * n,), (z, n)


def mingru_backward(gates, states, new_states, dstates):
    """Go back through `mingru_forward` by the chain rule."""
    z, n = gates
    (h_prev,) = states
    (dh,) = dstates
    return (dh * (n - h_prev) * z * (1.0 - z), dh * z), (dh * (1.0 - z),)


def minlstm_forward(gates, states):
    """Compute h = f' h_prev + i' n with f' = f / (f + i) and i' = i / (f + i).

    Where both gates are near 0 their quotient would lose its digits. It is also s (1 - f) : (1 - s) (1 - i)
    with s = sigmoid of the difference of their sums; numerators and denominators of both are added, and the
    denominator lies between 1 and 2.
    """
    a_i, a_f, n = gates
    (h_prev,) = states
    i, f, s = sigmoid(a_i), sigmoid(a_f), sigmoid(a_f - a_i)
    take = i + (1.0 - s) * (1.0 - i)
    hold = f + s * (1.0 - f)
    hold = hold / (hold + take)
    return (hold * h_prev + (1.0 - hold) * n,), (hold, f, n)


def minlstm_backward(gates, states, new_states, dstates):
    """Go back through `minlstm_forward`; f' (1 - i) is f' - i' f."""
    hold, f, n = gates
    (h_prev,) = states
    (dh,) = dstates
    take = 1.0 - hold
    slope = dh * (h_prev - n) * take
    di = slope * (take * f - hold)
    df = slope * hold * (1.0 - f)
    return (di, df, dh * take), (dh * hold,)


MINGRU = Cell(
    name="mingru",
    gates=("z", "n"),
    slots=(("z", "x"), ("n", "x")),
    forward=mingru_forward,
    backward=mingru_backward,
)
MINLSTM = Cell(
    name="minlstm",
    gates=("i", "f", "n"),
    slots=(("i", "x"), ("f", "x"), ("n", "x")),
    forward=minlstm_forward,
    backward=minlstm_backward,
    forget_gate="f",
)
