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
   with the reset gate after the product, as in cuDNN and in https://docs.pytorch.org (torch.nn.GRU).
.. [4] Werbos, "Backpropagation through time", Proceedings of the IEEE 78 (1990).
"""

from typing import NamedTuple

import numpy as np

# ------------------------------------------------------------------ cells
# A cell's forward takes both products, gx = W_ih x + b_ih and gh = W_hh h + b_hh, each (N, G * H), and the
# previous states, each (N, H); it returns the new states. Its backward takes the same and the gradients of
# the new states; it returns dgx, dgh and the gradients of the previous states, less the part through gh.


def sigmoid(a):
    """Logistic function, 1 / (1 + exp(-a)), in the form that cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * a))


def rnn_forward(gx, gh, states):
    """h = tanh(gx + gh) [1]_."""
    return (np.tanh(gx + gh),)


def rnn_backward(gx, gh, states, dstates):
    """tanh' = 1 - tanh^2."""
    (dh,) = dstates
    da = dh * (1.0 - np.tanh(gx + gh) ** 2)
    return da, da, (np.zeros_like(dh),)


def rnn_relu_forward(gx, gh, states):
    """h = max(gx + gh, 0); NaN stays NaN."""
    return (np.maximum(gx + gh, 0.0),)


def rnn_relu_backward(gx, gh, states, dstates):
    """The derivative at 0 is taken as 0."""
    (dh,) = dstates
    da = dh * (gx + gh > 0.0)
    return da, da, (np.zeros_like(dh),)


def _lstm_gates(gx, gh):
    i, f, g, o = np.split(gx + gh, 4, axis=1)
    return sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)


def lstm_forward(gx, gh, states):
    """c = f c_prev + i g, h = o tanh(c) [2]_; gate order i, f, g, o."""
    _, c_prev = states
    i, f, g, o = _lstm_gates(gx, gh)
    c = f * c_prev + i * g
    return o * np.tanh(c), c


def lstm_backward(gx, gh, states, dstates):
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


def gru_forward(gx, gh, states):
    """h = (1 - z) n + z h_prev with n = tanh(gx_n + r gh_n) [3]_; gate order r, z, n."""
    (h_prev,) = states
    r, z, n, _ = _gru_gates(gx, gh)
    return ((1.0 - z) * n + z * h_prev,)


def gru_backward(gx, gh, states, dstates):
    """The chain rule through ``gru_forward``; only the candidate n sees gx and gh differently."""
    (h_prev,), (dh,) = states, dstates
    r, z, n, hn = _gru_gates(gx, gh)
    dn = dh * (1.0 - z) * (1.0 - n**2)
    dr = dn * hn * r * (1.0 - r)
    dz = dh * (h_prev - n) * z * (1.0 - z)
    return (np.concatenate([dr, dz, dn], axis=1),
            np.concatenate([dr, dz, dn * r], axis=1),
            (dh * z,))


class Cell(NamedTuple):
    """A cell as the oracle knows it."""

    n_gates: int
    n_states: int
    forward: object
    backward: object


CELLS = {
    "rnn": Cell(1, 1, rnn_forward, rnn_backward),
    "rnn_relu": Cell(1, 1, rnn_relu_forward, rnn_relu_backward),
    "lstm": Cell(4, 2, lstm_forward, lstm_backward),
    "gru": Cell(3, 1, gru_forward, gru_backward),
}


# ------------------------------------------------------------------ one layer, one direction


def scan_forward(cell, x, states, weights, valid, reverse):
    """One direction of one layer over time.

    Parameters
    ----------
    cell : Cell
    x : ndarray of shape (N, T, I)
    states : tuple of ndarray of shape (N, H)
    weights : tuple (W_ih (G * H, I), W_hh (G * H, H), b_ih (G * H,), b_hh (G * H,))
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
    w_ih, w_hh, b_ih, b_hh = weights
    n_samples, n_timesteps, _ = x.shape
    output = np.zeros((n_samples, n_timesteps, w_hh.shape[1]))
    steps = []
    for t in range(n_timesteps)[::-1 if reverse else 1]:
        gx = x[:, t] @ w_ih.T + b_ih
        gh = states[0] @ w_hh.T + b_hh
        steps.append((t, gx, gh, states))
        now = valid[:, t, None]
        states = tuple(np.where(now, new, held) for new, held in
                       zip(cell.forward(gx, gh, states), states, strict=True))
        output[:, t] = np.where(now, states[0], 0.0)
    return output, states, steps


def scan_backward(cell, x, steps, weights, valid, doutput, dstates):
    """Backpropagation through time [4]_ for ``scan_forward``.

    Returns
    -------
    dx : ndarray of shape (N, T, I)
    dweights : tuple of four arrays, as ``weights``
    dstates : tuple of ndarray of shape (N, H)
        Gradients of the initial states.
    """
    w_ih, w_hh, _, _ = weights
    dx = np.zeros_like(x)
    dweights = tuple(np.zeros_like(w) for w in weights)
    dw_ih, dw_hh, db_ih, db_hh = dweights
    for t, gx, gh, states in reversed(steps):
        now = valid[:, t, None]
        dnew = (np.where(now, dstates[0] + doutput[:, t], 0.0),
                *(np.where(now, d, 0.0) for d in dstates[1:]))
        dgx, dgh, dprev = cell.backward(gx, gh, states, dnew)
        dgx, dgh = np.where(now, dgx, 0.0), np.where(now, dgh, 0.0)
        dprev = (dprev[0] + dgh @ w_hh, *dprev[1:])
        dstates = tuple(np.where(now, new, held) for new, held in zip(dprev, dstates, strict=True))
        dx[:, t] = dgx @ w_ih
        dw_ih += dgx.T @ x[:, t]
        dw_hh += dgh.T @ states[0]
        db_ih += dgx.sum(axis=0)
        db_hh += dgh.sum(axis=0)
    return dx, dweights, dstates


# ------------------------------------------------------------------ the whole network


def names(layer, reverse):
    """PyTorch's names of the four parameters of one layer and direction."""
    suffix = f"_l{layer}" + ("_reverse" if reverse else "")
    return tuple(kind + suffix for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def shapes(cell, input_size, hidden_size, num_layers=1, bias=True, bidirectional=False):
    """Shapes of all parameters: dict name -> tuple, in PyTorch's order."""
    gates, directions = CELLS[cell].n_gates * hidden_size, 2 if bidirectional else 1
    result = {}
    for layer in range(num_layers):
        inputs = hidden_size * directions if layer else input_size
        four = [(gates, inputs), (gates, hidden_size), (gates,), (gates,)]
        for reverse in range(directions):
            result.update(zip(names(layer, reverse)[:4 if bias else 2], four, strict=False))
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
    directions = 2 if "weight_hh_l0_reverse" in parameters else 1
    layers = sum(name.startswith("weight_hh") for name in parameters) // directions
    gates, hidden = parameters["weight_hh_l0"].shape
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
            weights = tuple(parameters.get(name, np.zeros(gates)) for name in names(layer, reverse))
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
    hidden = parts[0][2][1].shape[1]
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
            gradients.update(zip(names(layer, reverse), dweights, strict=True))
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
