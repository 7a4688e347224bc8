"""ONNX's activations, each with the slope that its output has.

They work on NumPy arrays, and in the equations of a cell on registers: everything is built of the arithmetic
and the functions of `numbarnn.simd`. Slopes are functions of the output because this is what a cell keeps; at
a kink the slope is that of one side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba.extending import register_jitable

from numbarnn import simd
from numbarnn.simd import INLINED, is_positive

inlined = register_jitable(**INLINED)


class Activation(NamedTuple):
    """A function of a value, and its slope as a function of what the function gave."""

    function: Callable
    slope: Callable


@inlined
def absolute(x):
    """Absolute value of x."""
    return simd.relu(x) + simd.relu(0.0 - x)


def _relu() -> Activation:
    """Rectifier, max(x, 0)."""

    @inlined
    def function(x):
        return simd.relu(x)

    @inlined
    def slope(y):
        return is_positive(y)

    return Activation(function, slope)


def _tanh() -> Activation:
    """Hyperbolic tangent."""

    @inlined
    def function(x):
        return simd.tanh(x)

    @inlined
    def slope(y):
        return 1.0 - y * y

    return Activation(function, slope)


def _sigmoid() -> Activation:
    """Logistic function, 1 / (1 + exp(-x))."""

    @inlined
    def function(x):
        return simd.sigmoid(x)

    @inlined
    def slope(y):
        return y * (1.0 - y)

    return Activation(function, slope)


def _affine(alpha: float = 1.0, beta: float = 0.0) -> Activation:
    """Linear function, alpha x + beta."""

    @inlined
    def function(x):
        return alpha * x + beta

    @inlined
    def slope(y):
        return alpha

    return Activation(function, slope)


def _leaky_relu(alpha: float = 0.01) -> Activation:
    """Give x where x > 0, else alpha x."""
    _expect(alpha >= 0, "leaky_relu", f"alpha was {alpha}; expected 0 or more, or the output hides the side")

    @inlined
    def function(x):
        return simd.relu(x) - alpha * simd.relu(0.0 - x)

    @inlined
    def slope(y):
        return alpha + (1.0 - alpha) * is_positive(y)

    return Activation(function, slope)


def _thresholded_relu(alpha: float = 1.0) -> Activation:
    """Give x where x > alpha, else 0."""

    @inlined
    def function(x):
        return simd.relu(x - alpha) + alpha * is_positive(x - alpha)

    @inlined
    def slope(y):
        return is_positive(y) + is_positive(0.0 - y)

    return Activation(function, slope)


def _scaled_tanh(alpha: float = 1.0, beta: float = 1.0) -> Activation:
    """Scaled tangent, alpha tanh(beta x)."""
    _expect(alpha != 0, "scaled_tanh", f"alpha was {alpha}; expected any number but 0")

    @inlined
    def function(x):
        return alpha * simd.tanh(beta * x)

    @inlined
    def slope(y):
        return beta * (alpha - y * y / alpha)

    return Activation(function, slope)


def _hard_sigmoid(alpha: float = 0.2, beta: float = 0.5) -> Activation:
    """Piecewise linear, max(0, min(1, alpha x + beta))."""

    @inlined
    def function(x):
        return 1.0 - simd.relu(1.0 - simd.relu(alpha * x + beta))

    @inlined
    def slope(y):
        return alpha * is_positive(y) * is_positive(1.0 - y)

    return Activation(function, slope)


def _elu(alpha: float = 1.0) -> Activation:
    """Give x where x > 0, else alpha (exp(x) - 1), which is alpha 2 t / (1 - t) with t = tanh(x / 2)."""
    _expect(alpha >= 0, "elu", f"alpha was {alpha}; expected 0 or more, or the output hides the side")

    @inlined
    def function(x):
        t = simd.tanh(-0.5 * simd.relu(0.0 - x))
        return simd.relu(x) + 2.0 * alpha * t / (1.0 - t)

    @inlined
    def slope(y):
        return alpha + (1.0 - alpha) * is_positive(y) - simd.relu(0.0 - y)

    return Activation(function, slope)


def _softsign() -> Activation:
    """Quotient x / (1 + abs(x))."""

    @inlined
    def function(x):
        return x / (1.0 + absolute(x))

    @inlined
    def slope(y):
        rest = 1.0 - absolute(y)
        return rest * rest

    return Activation(function, slope)


_ODD = tuple(2.0 / k for k in range(33, 0, -2))  # of 2 artanh(w) = 2 w + 2/3 w^3 + ...; here w <= 1/3


def _softplus() -> Activation:
    """Give log(1 + exp(x)) as max(x, 0) + log(1 + e) with e = exp(-abs(x)): 2 artanh(e / (2 + e))."""

    @inlined
    def function(x):
        t = simd.tanh(0.5 * absolute(x))  # e = (1 - t) / (1 + t)
        w = (1.0 - t) / (3.0 + t)
        square = w * w
        series = square * 0.0 + _ODD[0]
        for coefficient in _ODD[1:]:
            series = series * square + coefficient
        return simd.relu(x) + w * series

    @inlined
    def slope(y):
        t = simd.tanh(0.5 * y)  # sigmoid(x) = 1 - exp(-y)
        return 2.0 * t / (1.0 + t)

    return Activation(function, slope)


ACTIVATIONS: dict[str, Callable[..., Activation]] = {
    "affine": _affine,
    "elu": _elu,
    "hard_sigmoid": _hard_sigmoid,
    "leaky_relu": _leaky_relu,
    "relu": _relu,
    "scaled_tanh": _scaled_tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "softsign": _softsign,
    "tanh": _tanh,
    "thresholded_relu": _thresholded_relu,
}


def _expect(fine: bool, name: str, message: str) -> None:
    if not fine:
        raise ValueError(f"activation {name}: {message}")
