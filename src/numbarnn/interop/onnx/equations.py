"""RNN, LSTM and GRU by the equations of ONNX's documentation: the general path, slower.

A plain loop over time in NumPy, vectorised over the batch. It serves what no compiled cell does: other
activations than the usual, clipping, peepholes with coupled gates.

References
----------
ONNX operators RNN, LSTM and GRU, versions 7, 14 and 22: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Function = Callable[[NDArray], NDArray]


def _relu(x):
    return np.maximum(x, 0)


def _affine(x, alpha=1.0, beta=0.0):
    return alpha * x + beta


def _leaky_relu(x, alpha=0.01):
    return np.where(x >= 0, x, alpha * x)


def _thresholded_relu(x, alpha=1.0):
    return np.where(x >= alpha, x, 0)


def _scaled_tanh(x, alpha, beta):
    return alpha * np.tanh(beta * x)


def _hard_sigmoid(x, alpha=0.2, beta=0.5):
    return np.clip(alpha * x + beta, 0, 1)


def _elu(x, alpha=1.0):
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _softsign(x):
    return x / (1 + np.abs(x))


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))  # does not overflow


# Their parameters alpha and beta, with the defaults of the operators of the same name; ScaledTanh has none.
ACTIVATIONS: dict[str, Callable[..., NDArray]] = {
    "Relu": _relu,
    "Tanh": np.tanh,
    "Sigmoid": expit,
    "Affine": _affine,
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded_relu,
    "ScaledTanh": _scaled_tanh,
    "HardSigmoid": _hard_sigmoid,
    "Elu": _elu,
    "Softsign": _softsign,
    "Softplus": _softplus,
}


def activation_parameters(name: str) -> dict[str, float | None]:
    """Return which of alpha and beta an activation has, with their defaults; None where there is none."""
    if name in ("Tanh", "Sigmoid"):
        return {}
    parameters = list(inspect.signature(ACTIVATIONS[name]).parameters.values())[1:]
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


class Weights(NamedTuple):
    """Weights of one direction, in ONNX's order of gates.

    Parameters
    ----------
    w : ndarray of shape (n_gates * hidden_size, input_size)
    r : ndarray of shape (n_gates * hidden_size, hidden_size)
    b : ndarray of shape (2 * n_gates * hidden_size,) or None
    p : ndarray of shape (3 * hidden_size,) or None
        Peepholes of the gates i, o and f.
    """

    w: NDArray
    r: NDArray
    b: NDArray | None
    p: NDArray | None


class Options(NamedTuple):
    """What else the equations depend on.

    Parameters
    ----------
    functions : tuple of callable
        f of an RNN; f, g of a GRU; f, g, h of an LSTM.
    clip : float or None
        Bound of what f and g are given.
    linear_before_reset, input_forget : bool
    """

    functions: tuple[Function, ...]
    clip: float | None
    linear_before_reset: bool
    input_forget: bool


def run_equations(
    op_type: str,
    weights: Weights,
    options: Options,
    x: NDArray,
    lengths: NDArray,
    states: tuple[NDArray, ...],
) -> tuple[NDArray, tuple[NDArray, ...]]:
    """Run one direction, forward in time.

    Parameters
    ----------
    op_type : {"RNN", "GRU", "LSTM"}
    weights : Weights
    options : Options
    x : ndarray of shape (n_samples, n_timesteps, input_size)
    lengths : ndarray of int of shape (n_samples,)
        Valid steps, from 0.
    states : tuple of ndarray of shape (n_samples, hidden_size)
        Initial h, and c of an LSTM.

    Returns
    -------
    output : ndarray of shape (n_samples, n_timesteps, hidden_size)
        h at each step, zero past the end of a sequence.
    states : tuple of ndarray of shape (n_samples, hidden_size)
        Those after the last valid step.
    """
    step = STEPS[op_type]
    bias_w, bias_r = (0, 0) if weights.b is None else np.split(weights.b, 2)
    products = x @ weights.w.T + bias_w
    output = np.zeros((*x.shape[:2], weights.r.shape[1]), x.dtype)
    for t in range(x.shape[1]):
        valid = (t < lengths)[:, np.newaxis]
        new = step(products[:, t], bias_r, states, weights, options)
        states = tuple(np.where(valid, a, b) for a, b in zip(new, states, strict=True))
        output[:, t] = np.where(valid, states[0], 0)
    return output, states


def _rnn_step(products, bias_r, states, weights, options):
    """Ht = f(Xt Wi^T + Ht-1 Ri^T + Wbi + Rbi)."""  # noqa: D403
    (h,) = states
    f, clip = options.functions[0], _clipper(options)
    return (f(clip(products + h @ weights.r.T + bias_r)),)


def _gru_step(products, bias_r, states, weights, options):
    """Ht = (1 - zt) ht + zt Ht-1, with the reset gate before or behind the candidate's product."""
    (h,) = states
    (f, g), clip, hidden = options.functions, _clipper(options), weights.r.shape[1]
    bias_r = np.zeros(3 * hidden, products.dtype) + bias_r
    z_x, r_x, n_x = np.split(products, 3, axis=1)
    z_h, r_h = np.split(h @ weights.r[: 2 * hidden].T + bias_r[: 2 * hidden], 2, axis=1)
    z, r = f(clip(z_x + z_h)), f(clip(r_x + r_h))
    last, bias_n = weights.r[2 * hidden :].T, bias_r[2 * hidden :]
    n_h = r * (h @ last + bias_n) if options.linear_before_reset else (r * h) @ last + bias_n
    return ((1 - z) * g(clip(n_x + n_h)) + z * h,)


def _lstm_step(products, bias_r, states, weights, options):
    """Ct = ft Ct-1 + it ct and Ht = ot h(Ct)."""  # noqa: D403
    h, c = states
    (f, g, act_h), clip = options.functions, _clipper(options)
    i, o, f_gate, candidate = np.split(products + h @ weights.r.T + bias_r, 4, axis=1)
    p_i, p_o, p_f = (0, 0, 0) if weights.p is None else np.split(weights.p, 3)
    i = f(clip(i + p_i * c))
    f_gate = 1 - i if options.input_forget else f(clip(f_gate + p_f * c))
    c = f_gate * c + i * g(clip(candidate))
    o = f(clip(o + p_o * c))
    return o * act_h(c), c


STEPS = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}


def _clipper(options: Options) -> Function:
    """Return what bounds the input of f and g."""
    if options.clip is None:
        return lambda x: x
    return lambda x: np.clip(x, -options.clip, options.clip)
