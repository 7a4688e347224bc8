"""Recurrent networks in plain NumPy: what the compiled code is held against.

Everything here is written from the equations, in float64, one sample batch and one time step at a time, and
imports nothing of the package. Parameters are dicts under PyTorch's names and in its layout.

Letters: N samples, T time steps, I inputs, H hidden units, G gates, D directions, L layers.

References
----------
.. [1] Elman, "Finding structure in time", Cognitive Science 14 (1990): the simple recurrent network.
.. [2] Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), with the forget gate
   of Gers, Schmidhuber and Cummins, "Learning to forget", Neural Computation 12 (2000).
.. [3] Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP (2014), in the form
   with the reset gate after the product, as in cuDNN and in https://docs.pytorch.org (torch.nn.GRU), and in
   its own, with the reset gate before it.
.. [4] Werbos, "Backpropagation through time", Proceedings of the IEEE 78 (1990).
.. [5] Gers and Schmidhuber, "Recurrent nets that time and count", IJCNN (2000).
.. [6] Greff et al., "LSTM: a search space odyssey", IEEE TNNLS 28 (2017): coupled gates (CIFG).
.. [7] Zhou et al., "Minimal gated unit for recurrent neural networks", IJAC 13 (2016).
.. [8] Li et al., "Independently recurrent neural network (IndRNN)", CVPR (2018).
.. [9] Feng et al., "Were RNNs all we needed?", arXiv:2410.01201 (2024).
.. [10] The article of numbarnn/cells/article.py, sections 2.1.2 and 2.1.3, with the repairs that
   ``numbarnn/cells/article.py`` names.
.. [11] Ba, Kiros and Hinton, "Layer normalization", arXiv:1607.06450 (2016), equations (20) to (22) of the
   supplementary material.
"""

from typing import NamedTuple

import numpy as np

# ------------------------------------------------------------------ cells
# A cell's forward takes both products, gx = W_ih x + b_ih and gh = W_hh h + b_hh, each (N, G * H), and the
# previous states, each (N, H); it returns the new states. Its backward takes the same and the gradients of
# the new states; it returns dgx, dgh and the gradients of the previous states, less the part through gh.
#
# Some cells are given more, behind the rest: parameters of single units, vectors (H,) and scalars (1,), whose
# gradients they return behind the rest as well, one value (N, H) for each; and W_hh v + b_hh as a function of
# v, for a second product in the step, with its way back (see ``Product``).


def sigmoid(a):
    """Logistic function, 1 / (1 + exp(-a)), in the form that cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * a))


def rnn_forward(gx, gh, states, *_):
    """h = tanh(gx + gh) [1]_."""
    return (np.tanh(gx + gh),)


def rnn_backward(gx, gh, states, dstates, *_):
    """tanh' = 1 - tanh^2."""
    (dh,) = dstates
    da = dh * (1.0 - np.tanh(gx + gh) ** 2)
    return da, da, (np.zeros_like(dh),)


def rnn_relu_forward(gx, gh, states, *_):
    """h = max(gx + gh, 0); NaN stays NaN."""
    return (np.maximum(gx + gh, 0.0),)


def rnn_relu_backward(gx, gh, states, dstates, *_):
    """The derivative at 0 is taken as 0."""
    (dh,) = dstates
    da = dh * (gx + gh > 0.0)
    return da, da, (np.zeros_like(dh),)


def _lstm_gates(gx, gh):
    i, f, g, o = np.split(gx + gh, 4, axis=1)
    return sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)


def lstm_forward(gx, gh, states, *_):
    """c = f c_prev + i g, h = o tanh(c) [2]_; gate order i, f, g, o."""
    _, c_prev = states
    i, f, g, o = _lstm_gates(gx, gh)
    c = f * c_prev + i * g
    return o * np.tanh(c), c


def lstm_backward(gx, gh, states, dstates, *_):
    """The chain rule through ``lstm_forward``, from h to c to the gates."""
    _, c_prev = states
    dh, dc = dstates
    i, f, g, o = _lstm_gates(gx, gh)
    tanh_c = np.tanh(f * c_prev + i * g)
    dc = dc + dh * o * (1.0 - tanh_c**2)
    da = np.concatenate([
        dc * g * i * (1.0 - i),
        dc * c_prev * f * (1.0 - f),
        dc * i * (1.0 - g**2),
        dh * tanh_c * o * (1.0 - o),
    ], axis=1)
    return da, da, (np.zeros_like(dh), dc * f)


def _gru_gates(gx, gh):
    (xr, xz, xn), (hr, hz, hn) = np.split(gx, 3, axis=1), np.split(gh, 3, axis=1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    return r, z, np.tanh(xn + r * hn), hn


def gru_forward(gx, gh, states, *_):
    """h = (1 - z) n + z h_prev with n = tanh(gx_n + r gh_n) [3]_; gate order r, z, n."""
    (h_prev,) = states
    r, z, n, _ = _gru_gates(gx, gh)
    return ((1.0 - z) * n + z * h_prev,)


def gru_backward(gx, gh, states, dstates, *_):
    """The chain rule through ``gru_forward``; only the candidate n sees gx and gh differently."""
    (h_prev,), (dh,) = states, dstates
    r, z, n, hn = _gru_gates(gx, gh)
    dn = dh * (1.0 - z) * (1.0 - n**2)
    dr = dn * hn * r * (1.0 - r)
    dz = dh * (h_prev - n) * z * (1.0 - z)
    return (np.concatenate([dr, dz, dn], axis=1),
            np.concatenate([dr, dz, dn * r], axis=1),
            (dh * z,))


def _peephole_gates(gx, gh, states, units):
    (i, f, g, o), (_, c_prev) = np.split(gx + gh, 4, axis=1), states
    w_i, w_f, w_o, *w_g = units
    i, f = sigmoid(i + w_i * c_prev), sigmoid(f + w_f * c_prev)
    g = np.tanh(g + sum(w * c_prev for w in w_g))
    c = f * c_prev + i * g
    return i, f, g, sigmoid(o + w_o * c), c


def lstm_peephole_forward(gx, gh, states, units, *_):
    """i and f see c_prev, o sees c, through vectors of weights [5]_; if there are four, g sees c_prev too."""
    *_, o, c = _peephole_gates(gx, gh, states, units)
    return o * np.tanh(c), c


def lstm_peephole_backward(gx, gh, states, dstates, units, *_):
    """As for the LSTM, with what passes through the peepholes."""
    _, c_prev = states
    dh, dc = dstates
    w_i, w_f, w_o, *w_g = units
    i, f, g, o, c = _peephole_gates(gx, gh, states, units)
    do = dh * np.tanh(c) * o * (1.0 - o)
    dc = dc + dh * o * (1.0 - np.tanh(c) ** 2) + do * w_o
    di, df, dg = dc * g * i * (1.0 - i), dc * c_prev * f * (1.0 - f), dc * i * (1.0 - g**2)
    da = np.concatenate([di, df, dg, do], axis=1)
    dc_prev = dc * f + di * w_i + df * w_f + sum(dg * w for w in w_g)
    return (da, da, (np.zeros_like(dh), dc_prev),
            di * c_prev, df * c_prev, do * c, *(dg * c_prev for _ in w_g))


def _coupled_gates(gx, gh):
    i, g, o = np.split(gx + gh, 3, axis=1)
    return sigmoid(i), np.tanh(g), sigmoid(o)


def lstm_coupled_forward(gx, gh, states, *_):
    """c = (1 - i) c_prev + i g, h = o tanh(c) [6]_; gate order i, g, o."""
    _, c_prev = states
    i, g, o = _coupled_gates(gx, gh)
    c = (1.0 - i) * c_prev + i * g
    return o * np.tanh(c), c


def lstm_coupled_backward(gx, gh, states, dstates, *_):
    """The chain rule through ``lstm_coupled_forward``."""
    _, c_prev = states
    dh, dc = dstates
    i, g, o = _coupled_gates(gx, gh)
    tanh_c = np.tanh((1.0 - i) * c_prev + i * g)
    dc = dc + dh * o * (1.0 - tanh_c**2)
    da = np.concatenate([
        dc * (g - c_prev) * i * (1.0 - i),
        dc * i * (1.0 - g**2),
        dh * tanh_c * o * (1.0 - o),
    ], axis=1)
    return da, da, (np.zeros_like(dh), dc * (1.0 - i))


def _normalised(z):
    """Each row less its mean and over its standard deviation, and that."""
    centred = z - z.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return centred / deviation, deviation


def _normalised_back(hat, deviation, dhat):
    """What moves the mean or the variance of a row changes nothing."""
    along = (dhat * hat).mean(axis=1, keepdims=True)
    return (dhat - dhat.mean(axis=1, keepdims=True) - hat * along) / deviation


def _layernorm_parts(gx, gh, c_prev, units):
    """Normalised gx, gh and c, each with its deviation; the gates; c."""
    gain_h, gain_x, shift = (np.concatenate(units[k:k + 4]) for k in (0, 4, 8))
    by_x, by_h = _normalised(gx), _normalised(gh)
    gates = _lstm_gates(gain_x * by_x[0], gain_h * by_h[0] + shift)
    i, f, g, _ = gates
    c = f * c_prev + i * g
    return by_x, by_h, gates, c, _normalised(c)


def lstm_layernorm_forward(gx, gh, states, units, *_):
    """The LSTM with gx, gh and, on its way to h, c normalised [11]_; no biases in gx and gh."""
    *_, (_, _, _, o), c, (c_hat, _) = _layernorm_parts(gx, gh, states[1], units)
    return o * np.tanh(units[12] * c_hat + units[13]), c


def lstm_layernorm_backward(gx, gh, states, dstates, units, *_):
    """As for the LSTM, through each normalisation."""
    (_, c_prev), (dh, dc) = states, dstates
    by_x, by_h, (i, f, g, o), _, by_c = _layernorm_parts(gx, gh, c_prev, units)
    y = np.tanh(units[12] * by_c[0] + units[13])
    dy = dh * o * (1.0 - y**2)
    dc = dc + _normalised_back(*by_c, dy * units[12])
    da = np.concatenate([dc * g * i * (1.0 - i), dc * c_prev * f * (1.0 - f), dc * i * (1.0 - g**2),
                         dh * y * o * (1.0 - o)], axis=1)
    dunits = np.split(np.concatenate([da * by_h[0], da * by_x[0], da], axis=1), 12, axis=1)
    return (_normalised_back(*by_x, da * np.concatenate(units[4:8])),
            _normalised_back(*by_h, da * np.concatenate(units[:4])),
            (np.zeros_like(dh), dc * f), *dunits, dy * by_c[0], dy)


def _last(values, count):
    """The last of so many gates."""
    return np.split(values, count, axis=1)[-1]


def _only_last(value, count):
    """So many gates, all but the last zero."""
    return np.concatenate([np.zeros_like(value)] * (count - 1) + [value], axis=1)


def _reset_before_gates(gx, gh, h_prev, product):
    (xr, xz, xn), (hr, hz, _) = np.split(gx, 3, axis=1), np.split(gh, 3, axis=1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    return r, z, np.tanh(xn + _last(product(r * h_prev), 3))


def gru_reset_before_forward(gx, gh, states, units, product):
    """h = (1 - z) n + z h_prev with n = tanh(gx_n + W_hn (r h_prev) + b_hn) [3]_; gate order r, z, n."""
    (h_prev,) = states
    _, z, n = _reset_before_gates(gx, gh, h_prev, product)
    return ((1.0 - z) * n + z * h_prev,)


def gru_reset_before_backward(gx, gh, states, dstates, units, product):
    """The chain rule, from h to n, through the second product to r."""
    (h_prev,), (dh,) = states, dstates
    r, z, n = _reset_before_gates(gx, gh, h_prev, product)
    dn = dh * (1.0 - z) * (1.0 - n**2)
    dz = dh * (h_prev - n) * z * (1.0 - z)
    dmiddle = product.back(r * h_prev, _only_last(dn, 3))
    dr = dmiddle * h_prev * r * (1.0 - r)
    return (np.concatenate([dr, dz, dn], axis=1),
            np.concatenate([dr, dz, 0.0 * dn], axis=1),
            (dh * z + dmiddle * r,))


def _one_gate(gx, gh, h_prev, product, leaves):
    """The gate, the part of h_prev that it lets the candidate see, and the candidate."""
    (xf, xn), (hf, _) = np.split(gx, 2, axis=1), np.split(gh, 2, axis=1)
    f = sigmoid(xf + hf)
    seen = 1.0 - f if leaves else f
    return f, seen, np.tanh(xn + _last(product(seen * h_prev), 2))


def mgu_forward(gx, gh, states, units, product, leaves=False):
    """h = (1 - f) h_prev + f n with n = tanh(gx_n + W_hn (f h_prev) + b_hn) [7]_; gate order f, n."""
    (h_prev,) = states
    f, _, n = _one_gate(gx, gh, h_prev, product, leaves)
    return ((1.0 - f) * h_prev + f * n,)


def mgu_backward(gx, gh, states, dstates, units, product, leaves=False):
    """The chain rule, from h to n, through the second product to f."""
    (h_prev,), (dh,) = states, dstates
    f, seen, n = _one_gate(gx, gh, h_prev, product, leaves)
    dn = dh * f * (1.0 - n**2)
    dmiddle = product.back(seen * h_prev, _only_last(dn, 2))
    df = (dh * (n - h_prev) + dmiddle * h_prev * (-1.0 if leaves else 1.0)) * f * (1.0 - f)
    return (np.concatenate([df, dn], axis=1),
            np.concatenate([df, 0.0 * dn], axis=1),
            (dh * (1.0 - f) + dmiddle * seen,))


def article_gru_forward(*arguments):
    """The minimal gated unit, whose candidate sees (1 - f) h_prev [10]_; f is called r, gate order r, n."""
    return mgu_forward(*arguments, leaves=True)


def article_gru_backward(*arguments):
    """As for the minimal gated unit."""
    return mgu_backward(*arguments, leaves=True)


def _article_gates(gx, gh, states, units, product):
    i, f, g, o = np.split(gx + gh[:, :gx.shape[1]], 4, axis=1)
    (_, c_prev), (alpha, beta) = states, units
    f, g = sigmoid(f), np.tanh(g)
    i = sigmoid(i + alpha * f)
    c = f * c_prev + i * g
    return i, f, g, sigmoid(o + beta * i), c, np.tanh(_last(product(c), 5))


def article_lstm_forward(gx, gh, states, units, product):
    """c = f c_prev + i g, n = tanh(W_hn c + b_hn), h = (1 - o) n + o h_prev [10]_; gates i, f, g, o, n."""
    *_, o, c, n = _article_gates(gx, gh, states, units, product)
    return (1.0 - o) * n + o * states[0], c


def article_lstm_backward(gx, gh, states, dstates, units, product):
    """The chain rule: h to n and o, n to c, c to f, i and g; i also from o, f also from i."""
    (h_prev, c_prev), (dh, dc), (alpha, beta) = states, dstates, units
    i, f, g, o, c, n = _article_gates(gx, gh, states, units, product)
    dc = dc + product.back(c, _only_last(dh * (1.0 - o) * (1.0 - n**2), 5))
    do = dh * (h_prev - n) * o * (1.0 - o)
    di = (dc * g + beta * do) * i * (1.0 - i)
    df = (dc * c_prev + alpha * di) * f * (1.0 - f)
    da = np.concatenate([di, df, dc * i * (1.0 - g**2), do], axis=1)
    return da, np.concatenate([da, np.zeros_like(dh)], axis=1), (dh * o, dc * f), di * f, do * i


def indrnn_forward(gx, gh, states, units, *_):
    """h = max(gx + u h_prev, 0) with a vector u [8]_; gh is empty."""
    return (np.maximum(gx + units[0] * states[0], 0.0),)


def indrnn_backward(gx, gh, states, dstates, units, *_):
    """The derivative at 0 is taken as 0."""
    (h_prev,), (dh,), (u,) = states, dstates, units
    da = dh * (gx + u * h_prev > 0.0)
    return da, gh, (da * u,), da * h_prev


def mingru_forward(gx, gh, states, *_):
    """h = (1 - z) h_prev + z n [9]_; gate order z, n, both of the input alone."""
    z, n = np.split(gx, 2, axis=1)
    return ((1.0 - sigmoid(z)) * states[0] + sigmoid(z) * n,)


def mingru_backward(gx, gh, states, dstates, *_):
    """The chain rule through ``mingru_forward``."""
    (z, n), (dh,) = np.split(gx, 2, axis=1), dstates
    z = sigmoid(z)
    return np.concatenate([dh * (n - states[0]) * z * (1.0 - z), dh * z], axis=1), gh, (dh * (1.0 - z),)


def _share(i, f):
    """sigmoid(f) / (sigmoid(f) + sigmoid(i)) by logarithms, which nothing is too small for."""
    return sigmoid(np.logaddexp(0.0, -i) - np.logaddexp(0.0, -f))


def minlstm_forward(gx, gh, states, *_):
    """h = f' h_prev + i' n with f' = f / (f + i), i' = i / (f + i) [9]_; gate order i, f, n."""
    i, f, n = np.split(gx, 3, axis=1)
    return (_share(i, f) * states[0] + _share(f, i) * n,)


def minlstm_backward(gx, gh, states, dstates, *_):
    """The chain rule: by the quotient rule f' has the slope f' i' (1 - f) in f, and -f' i' (1 - i) in i."""
    (i, f, n), (h_prev,), (dh,) = np.split(gx, 3, axis=1), states, dstates
    slope = dh * (h_prev - n) * _share(i, f) * _share(f, i)
    return (np.concatenate([-slope * sigmoid(-i), slope * sigmoid(-f), dh * _share(f, i)], axis=1),
            gh, (dh * _share(i, f),))


class Cell(NamedTuple):
    """A cell as the oracle knows it: how many gates W_ih and W_hh have rows for, and so on."""

    n_inputs: int
    n_recurrent: int
    n_states: int
    forward: object
    backward: object
    vectors: tuple = ()
    scalars: tuple = ()
    biases: bool = True


CELLS = {
    "rnn": Cell(1, 1, 1, rnn_forward, rnn_backward),
    "rnn_relu": Cell(1, 1, 1, rnn_relu_forward, rnn_relu_backward),
    "lstm": Cell(4, 4, 2, lstm_forward, lstm_backward),
    "gru": Cell(3, 3, 1, gru_forward, gru_backward),
    "lstm_peephole": Cell(4, 4, 2, lstm_peephole_forward, lstm_peephole_backward,
                          ("weight_ci", "weight_cf", "weight_co")),
    "lstm_peephole_candidate": Cell(4, 4, 2, lstm_peephole_forward, lstm_peephole_backward,
                                    ("weight_ci", "weight_cf", "weight_co", "weight_cg")),
    "lstm_coupled": Cell(3, 3, 2, lstm_coupled_forward, lstm_coupled_backward),
    "lstm_layernorm": Cell(4, 4, 2, lstm_layernorm_forward, lstm_layernorm_backward,
                           tuple("gain_hi gain_hf gain_hg gain_ho gain_xi gain_xf gain_xg gain_xo "
                                 "shift_i shift_f shift_g shift_o gain_c shift_c".split()), (), False),
    "gru_reset_before": Cell(3, 3, 1, gru_reset_before_forward, gru_reset_before_backward),
    "mgu": Cell(2, 2, 1, mgu_forward, mgu_backward),
    "indrnn": Cell(1, 0, 1, indrnn_forward, indrnn_backward, ("weight_hh",)),
    "mingru": Cell(2, 0, 1, mingru_forward, mingru_backward),
    "minlstm": Cell(3, 0, 1, minlstm_forward, minlstm_backward),
    "article_lstm": Cell(4, 5, 2, article_lstm_forward, article_lstm_backward, (), ("alpha", "beta")),
    "article_gru": Cell(2, 2, 1, article_gru_forward, article_gru_backward),
}


# ------------------------------------------------------------------ one layer, one direction


class Product:
    """W v + b as a function of v (N, columns); its way back adds to dW and db and returns dv."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias
        self.dweight, self.dbias = np.zeros_like(weight), np.zeros_like(bias)

    def __call__(self, v):
        return v @ self.weight.T + self.bias

    def back(self, v, d):
        self.dweight += d.T @ v
        self.dbias += d.sum(axis=0)
        return d @ self.weight


def products(cell, weights, hidden):
    """The products with the input and with the state, which is empty where a cell has none."""
    by_input = Product(weights["weight_ih"], weights["bias_ih"])
    if cell.n_recurrent == 0:
        return by_input, Product(np.zeros((0, hidden)), np.zeros(0))
    return by_input, Product(weights["weight_hh"], weights["bias_hh"])


def scan_forward(cell, x, states, weights, valid, reverse):
    """One direction of one layer over time.

    Parameters
    ----------
    cell : Cell
    x : ndarray of shape (N, T, I)
    states : tuple of ndarray of shape (N, H)
    weights : dict kind -> ndarray
        See ``kinds``.
    valid : bool ndarray of shape (N, T)
        False past a sample's end: there the state is held and the output is zero. Going backwards, a sample
        therefore starts at its own last valid step, with the initial state.
    reverse : bool

    Returns
    -------
    output : ndarray of shape (N, T, H)
    states : tuple of ndarray of shape (N, H)
    steps : list of (t, gx, gh, previous states)
        What ``scan_backward`` needs.
    """
    n_samples, n_timesteps, _ = x.shape
    output = np.zeros((n_samples, n_timesteps, states[0].shape[1]))
    by_input, by_state = products(cell, weights, output.shape[2])
    units = tuple(weights[name] for name in cell.vectors + cell.scalars)
    steps = []
    for t in range(n_timesteps)[::-1 if reverse else 1]:
        gx, gh = by_input(x[:, t]), by_state(states[0])
        steps.append((t, gx, gh, states))
        now = valid[:, t, None]
        states = tuple(np.where(now, new, held) for new, held in
                       zip(cell.forward(gx, gh, states, units, by_state), states, strict=True))
        output[:, t] = np.where(now, states[0], 0.0)
    return output, states, steps


def scan_backward(cell, x, steps, weights, valid, doutput, dstates):
    """Backpropagation through time [4]_ for ``scan_forward``.

    Returns
    -------
    dx : ndarray of shape (N, T, I)
    dweights : dict of arrays, as ``weights``
    dstates : tuple of ndarray of shape (N, H)
        Gradients of the initial states.
    """
    dx = np.zeros_like(x)
    by_input, by_state = products(cell, weights, doutput.shape[2])
    names = cell.vectors + cell.scalars
    units = tuple(weights[name] for name in names)
    dunits = {name: np.zeros_like(weights[name]) for name in names}
    for t, gx, gh, states in reversed(steps):
        now = valid[:, t, None]
        dnew = (np.where(now, dstates[0] + doutput[:, t], 0.0),
                *(np.where(now, d, 0.0) for d in dstates[1:]))
        dgx, dgh, dprev, *dunits_now = cell.backward(gx, gh, states, dnew, units, by_state)
        dgx, dgh = np.where(now, dgx, 0.0), np.where(now, dgh, 0.0)
        dprev = (dprev[0] + by_state.back(states[0], dgh), *dprev[1:])
        dstates = tuple(np.where(now, new, held) for new, held in zip(dprev, dstates, strict=True))
        dx[:, t] = by_input.back(x[:, t], dgx)
        for name, d in zip(names, dunits_now, strict=True):
            dunits[name] += d.sum(axis=0 if name in cell.vectors else None)
    dweights = {"weight_ih": by_input.dweight, "weight_hh": by_state.dweight,
                "bias_ih": by_input.dbias, "bias_hh": by_state.dbias, **dunits}
    return dx, {kind: dweights[kind] for kind in kinds(cell)}, dstates


# ------------------------------------------------------------------ the whole network


def kinds(cell):
    """Parameters of one layer and direction: PyTorch's four, as far as there are such, and those of units."""
    ends = ("ih", "hh") if cell.n_recurrent else ("ih",)
    whats = ("weight", "bias") if cell.biases else ("weight",)
    return tuple(f"{what}_{end}" for what in whats for end in ends) + cell.vectors + cell.scalars


def suffix(layer, reverse):
    """PyTorch's ending of the names of the parameters of one layer and direction."""
    return f"_l{layer}" + ("_reverse" if reverse else "")


def shapes(cell, input_size, hidden_size, num_layers=1, bias=True, bidirectional=False):
    """Shapes of all parameters: dict name -> tuple, in PyTorch's order."""
    cell, directions, result = CELLS[cell], 2 if bidirectional else 1, {}
    rows = {"ih": cell.n_inputs * hidden_size, "hh": cell.n_recurrent * hidden_size}
    for layer in range(num_layers):
        columns = {"ih": hidden_size * directions if layer else input_size, "hh": hidden_size}
        for reverse in range(directions):
            for kind in kinds(cell):
                what, _, where = kind.partition("_")
                if kind in cell.vectors + cell.scalars:
                    shape = (hidden_size,) if kind in cell.vectors else (1,)
                else:
                    shape = (rows[where], columns[where]) if what == "weight" else (rows[where],)
                if bias or what != "bias":
                    result[kind + suffix(layer, reverse)] = shape
    return result


class Tape(NamedTuple):
    """What ``backward`` needs of ``forward``."""

    cell: Cell
    valid: np.ndarray
    dropout_masks: list
    parts: list


def forward(cell, parameters, x, state=None, lengths=None, dropout_masks=None):
    """Run a network of one or more layers in one or both directions.

    Parameters
    ----------
    cell : str
        Name in ``CELLS``.
    parameters : dict name -> ndarray
        Under PyTorch's names; layers, directions and biases are what the names say.
    x : ndarray of shape (N, T, I)
    state : ndarray of shape (L * D, N, H), or a tuple (h, c) of such for "lstm"; None for zeros
    lengths : array of int of shape (N,); None for T everywhere
    dropout_masks : list of L - 1 arrays of shape (N, T, H * D)
        What the output of each layer but the last is multiplied by.

    Returns
    -------
    output : ndarray of shape (N, T, H * D)
    state : as given
    tape : Tape
    """
    cell = CELLS[cell]
    parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    directions = 2 if "weight_ih_l0_reverse" in parameters else 1
    layers = sum(name.startswith("weight_ih") for name in parameters) // directions
    hidden = len(parameters["weight_ih_l0"]) // cell.n_inputs
    no_bias = {"bias_ih": np.zeros(cell.n_inputs * hidden), "bias_hh": np.zeros(cell.n_recurrent * hidden)}
    n_samples, n_timesteps, _ = x.shape
    lengths = np.full(n_samples, n_timesteps) if lengths is None else np.asarray(lengths)
    valid = np.arange(n_timesteps) < lengths[:, None]
    layer_input = np.where(valid[:, :, None], np.asarray(x, np.float64), 0.0)
    initial = np.zeros((cell.n_states, layers * directions, n_samples, hidden))
    if state is not None:
        initial[:] = state if cell.n_states > 1 else [state]
    final, parts = np.empty_like(initial), []
    for layer in range(layers):
        if layer and dropout_masks is not None:
            layer_input = layer_input * dropout_masks[layer - 1]
        outputs = []
        for reverse in range(directions):
            k = layer * directions + reverse
            names = {kind: kind + suffix(layer, reverse) for kind in kinds(cell)}
            weights = no_bias | {kind: parameters[name] for kind, name in names.items() if name in parameters}
            output, final[:, k], steps = scan_forward(
                cell, layer_input, tuple(initial[:, k]), weights, valid, bool(reverse))
            outputs.append(output)
            parts.append((layer_input, steps, weights))
        layer_input = np.concatenate(outputs, axis=2)
    final = tuple(final) if cell.n_states > 1 else final[0]
    return layer_input, final, Tape(cell, valid, dropout_masks, parts)


def backward(tape, doutput, dstate=None):
    """Gradients of ``sum(output * doutput) + sum(state * dstate)`` for the ``forward`` that left the tape.

    Parameters
    ----------
    tape : Tape
    doutput : ndarray of shape (N, T, H * D)
    dstate : as the state that ``forward`` returned; None for zeros

    Returns
    -------
    dx : ndarray of shape (N, T, I)
    gradients : dict name -> ndarray
        With biases, whether or not the network has them.
    dstate_0 : as the state
        Gradients of the initial states.
    """
    cell, valid, dropout_masks, parts = tape
    hidden = len(parts[0][2]["weight_ih"]) // cell.n_inputs
    directions = doutput.shape[2] // hidden
    dfinal = np.zeros((cell.n_states, len(parts), len(doutput), hidden))
    if dstate is not None:
        dfinal[:] = dstate if cell.n_states > 1 else [dstate]
    dinitial, gradients, doutput = np.empty_like(dfinal), {}, np.asarray(doutput, np.float64)
    for layer in reversed(range(len(parts) // directions)):
        dinput = 0.0
        for reverse in range(directions):
            k = layer * directions + reverse
            layer_input, steps, weights = parts[k]
            dx, dweights, dinitial[:, k] = scan_backward(
                cell, layer_input, steps, weights, valid,
                doutput[:, :, reverse * hidden:(reverse + 1) * hidden], tuple(dfinal[:, k]))
            dinput = dinput + dx
            gradients |= {kind + suffix(layer, reverse): value for kind, value in dweights.items()}
        doutput = dinput * dropout_masks[layer - 1] if layer and dropout_masks is not None else dinput
    return doutput, gradients, tuple(dinitial) if cell.n_states > 1 else dinitial[0]


def finite_difference(function, array, epsilon=1e-5):
    """Central differences of a scalar function of ``array``, one element at a time.

    ``function`` takes no argument and reads ``array``, whose elements are moved in place and put back.
    """
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + epsilon
        above = function()
        array[index] = value - epsilon
        below = function()
        array[index] = value
        gradient[index] = (above - below) / (2.0 * epsilon)
    return gradient
