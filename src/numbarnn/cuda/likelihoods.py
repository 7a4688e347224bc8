"""Likelihoods on the device: those of `numbarnn.forecasting.likelihoods`, a target a thread.

As there, everything is computed in float64, since differences of gamma functions need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from numbarnn.cuda.driver import cuda, jit
from numbarnn.cuda.functions import inline

__all__ = ["LIKELIHOODS", "likelihood"]


@inline
def _softplus(x):
    """log(1 + exp(x)) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@inline
def _logistic(x):
    small = math.exp(-abs(x))
    return (1.0 if x > 0.0 else small) / (1.0 + small)


@inline
def _digamma(x):
    """Digamma function of a positive number: by its recurrence up to where the series holds to rounding."""
    total = 0.0
    while x < 10.0:
        total -= 1.0 / x
        x += 1.0
    s = 1.0 / (x * x)
    series = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s * (1 / 132 - s * (691 / 32760))))))
    return total + math.log(x) - 0.5 / x - series


def _gaussian(least_sigma: float) -> Callable:
    constant = 0.5 * math.log(2 * math.pi)

    def terms(y, raw, at, slopes):
        sigma = _softplus(float(raw[at + 1])) + least_sigma
        z = (float(y) - raw[at]) / sigma
        slopes[0] = -z / sigma
        slopes[1] = (1.0 - z * z) / sigma * _logistic(float(raw[at + 1]))
        return 0.5 * z * z + math.log(sigma) + constant

    return terms


def _student_t(least_sigma: float) -> Callable:
    def terms(y, raw, at, slopes):
        sigma = _softplus(float(raw[at + 1])) + least_sigma
        degrees = 2.0 + _softplus(float(raw[at + 2]))
        z = (float(y) - raw[at]) / sigma
        share, half = z * z / degrees, 0.5 * (degrees + 1.0)
        dz = 2.0 * half * z / (degrees + z * z)
        ddegrees = 0.5 * (
            math.log1p(share) - 2.0 * half / degrees * (share / (1.0 + share))
            + _digamma(0.5 * degrees) - _digamma(half) + 1.0 / degrees
        )  # fmt: skip
        slopes[0] = -dz / sigma
        slopes[1] = (1.0 - dz * z) / sigma * _logistic(float(raw[at + 1]))
        slopes[2] = ddegrees * _logistic(float(raw[at + 2]))
        gammas = math.lgamma(0.5 * degrees) - math.lgamma(half)
        return half * math.log1p(share) + gammas + 0.5 * math.log(degrees * math.pi) + math.log(sigma)

    return terms


def _negative_binomial(largest_log_mean: float, largest_log_r: float) -> Callable:
    def terms(y, raw, at, slopes):
        count = float(y)
        log_mean = min(max(float(raw[at]), -largest_log_mean), largest_log_mean)
        log_r = min(max(float(raw[at + 1]), -largest_log_r), largest_log_r)
        r, difference = math.exp(log_r), log_mean - log_r
        many, few = _softplus(difference), _softplus(-difference)
        slope = r * _logistic(difference) - count * _logistic(-difference)
        slopes[0] = slope
        slopes[1] = r * (many + _digamma(r) - _digamma(count + r)) - slope
        # a step against it would lead further out
        if (log_mean - raw[at]) * slopes[0] > 0.0:
            slopes[0] = 0.0
        if (log_r - raw[at + 1]) * slopes[1] > 0.0:
            slopes[1] = 0.0
        gammas = math.lgamma(r) + math.lgamma(count + 1.0) - math.lgamma(count + r)
        return gammas + r * many + count * few

    return terms


# of each the number of raw outputs, and what makes its function of limits
LIKELIHOODS = {
    "Gaussian": (2, _gaussian), "StudentT": (3, _student_t), "NegativeBinomial": (2, _negative_binomial),
}  # fmt: skip


@cache
def likelihood(name: str, limits: tuple[float, ...]) -> Callable:
    """Make the kernel of a likelihood, which is called as the others of `numbarnn.cuda.losses`."""
    K, make = LIKELIHOODS[name]
    terms = inline(make(*limits))

    def kernel(rows, n_raw, outputs, n_levels, levels, weights, count, y, raw, draw, losses):
        slopes = cuda.local.array(K, np.float64)
        for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
            share = weights[r] / count[0]
            losses[r] = terms(y[r], raw, r * K, slopes) * share
            for k in range(K):
                draw[r * K + k] = slopes[k] * share

    return jit(kernel, name)
