"""The forms of LSTM and GRU by which a Chinese article introduces them, section 2.1 of it.

Both are written as printed, with the repairs that are needed for a cell that works. [x, h] stands for the
input and the last state, each with its weights and its bias.

`article_lstm`: i = sigmoid([x, h] + alpha f), o = sigmoid([x, h] + beta i), f and the candidate g as in an
LSTM, n = tanh(W c + b), h = (1 - o) n + o h_prev; alpha and beta are learned scalars. Repaired:

* c = f c_prev + i g. As printed, c = f c_prev, nothing is ever added, and a state of zeros stays zero.
* n = tanh(W c + b) takes the new cell state. As printed it takes the candidate, and then c never reaches h.

The form of the forget gate in section 3.1, f = sigmoid(a) + (1 - sigmoid(b)) f_prev, is no part of it: it can
exceed 1 and grow without bound. `lstm_coupled` has one gate limit another.

`article_gru`: r = sigmoid([x, h]), n = tanh(W x + U ((1 - r) h_prev)), h = (1 - r) h_prev + r n. Repaired:

* lambda in h = (1 - lambda) h_prev + lambda n is not defined; it is the one gate there is, r.
* The candidate takes W x, where W r is printed.

It is the minimal gated unit (`mgu`) but for the candidate, which sees (1 - r) h_prev, what the gate leaves of
the state, and not r h_prev.

References
----------
.. [1] "Chan yu jisuanji chengxu sheji yishu" (pen name), article on LSTM and GRU from their principles to a
   simple program, sections 2.1.2 (LSTM) and 2.1.3 (GRU); its equations have no numbers.
.. [2] Zhou, Wu, Zhang and Zhou, "Minimal gated unit for recurrent neural networks", International Journal of
   Automation and Computing 13 (2016).
"""

from numbarnn.cells.base import Cell
from numbarnn.simd import sigmoid, tanh


def article_lstm_first_half(gates, states, units):
    """Compute the gates and c = f c_prev + i g, which the second product takes."""
    i, f, g, o = gates
    _, c_prev = states
    alpha, beta = units
    f, g = sigmoid(f), tanh(g)
    i = sigmoid(i + alpha * f)
    o = sigmoid(o + beta * i)
    c = f * c_prev + i * g
    return c, (c,), (i, f, g, o)


def article_lstm_finish(products, kept, states):
    """Compute h = (1 - o) n + o h_prev with n = tanh of the second product."""
    (n,) = products
    i, f, g, o = kept
    h_prev, _ = states
    n = tanh(n)
    return n + o * (h_prev - n), (n,), (i, f, g, o)


def article_lstm_finish_backward(products, kept, states, dh):
    """Go back through `article_lstm_finish`; in the place of o stands its gradient from here on."""
    (n,) = products
    i, f, g, o = kept
    h_prev, _ = states
    dn = dh * (1.0 - o) * (1.0 - n * n)
    do = dh * (h_prev - n) * o * (1.0 - o)
    return (dn,), (i, f, g, do), dh * o


def article_lstm_first_half_backward(kept, states, new_states, dstates, dmiddle, units):
    """Go back through `article_lstm_first_half`: from c to i and f, from o to i, from i to f."""
    i, f, g, do = kept
    _, c_prev = states
    dh_prev, dc = dstates
    alpha, beta = units
    dc = dc + dmiddle
    di = (dc * g + do * beta) * i * (1.0 - i)
    df = (dc * c_prev + di * alpha) * f * (1.0 - f)
    dg = dc * i * (1.0 - g * g)
    return (di, df, dg, do), (dh_prev, dc * f), (di * f, do * i)


def article_gru_first_half(gates, states):
    """Compute r and (1 - r) h_prev, which the second product takes."""
    r, n_x = gates
    (h_prev,) = states
    r = sigmoid(r)
    return (1.0 - r) * h_prev, (), (r, n_x)


def article_gru_finish(products, kept, states):
    """Compute h = (1 - r) h_prev + r n with n = tanh(n_x + n_m); n_m is the second product."""
    (n_m,) = products
    r, n_x = kept
    (h_prev,) = states
    n = tanh(n_x + n_m)
    return h_prev + r * (n - h_prev), (n_m,), (r, n)


def article_gru_finish_backward(products, kept, states, dh):
    """Go back to n alone: r has two gradients, and the first half's backward takes both from dh."""
    r, n = kept
    return (dh * r * (1.0 - n * n),), (r, n), dh


def article_gru_first_half_backward(kept, states, new_states, dstates, dmiddle):
    """Go back through both halves, from the gradients of h and of (1 - r) h_prev."""
    r, n = kept
    (h_prev,) = states
    (dh,) = dstates
    dn = dh * r * (1.0 - n * n)
    dr = (dh * (n - h_prev) - dmiddle * h_prev) * r * (1.0 - r)
    return (dr, dn), ((dh + dmiddle) * (1.0 - r),)


ARTICLE_LSTM = Cell(
    name="article_lstm",
    gates=("i", "f", "g", "o", "n"),
    slots=(("i", "xh"), ("f", "xh"), ("g", "xh"), ("o", "xh"), ("n", "m")),
    forward=article_lstm_first_half,
    backward=article_lstm_first_half_backward,
    states=("h", "c"),
    forget_gate="f",
    scalars=("alpha", "beta"),
    finish=article_lstm_finish,
    finish_backward=article_lstm_finish_backward,
)
ARTICLE_GRU = Cell(
    name="article_gru",
    gates=("r", "n"),
    slots=(("r", "xh"), ("n", "x"), ("n", "m")),
    forward=article_gru_first_half,
    backward=article_gru_first_half_backward,
    finish=article_gru_finish,
    finish_backward=article_gru_finish_backward,
)
