"""Losses on the device: those of `numbarnn.losses`, an element or a row a thread, and sums.

A kernel gives the gradient of the loss with respect to the raw output, and the loss of each row; rows are
weighted. `sums` adds up in float64 and in an order that depends on the number of elements alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from numbarnn.cuda.driver import SIMULATED, cuda, jit, upload
from numbarnn.cuda.functions import inline
from numbarnn.cuda.likelihoods import LIKELIHOODS, likelihood

if TYPE_CHECKING:
    from numbarnn.losses import Loss

__all__ = ["BLOCKS", "LossKernel", "sums"]

BLOCKS, THREADS = (2, 2) if SIMULATED else (64, 128)  # of a sum; a power of two of threads


def _elements(real: type[np.floating], delta: float) -> dict[str, Callable]:
    """Return ``element(y, raw, level) -> (loss, slope)`` of each loss that has elements."""
    half, one, zero, limit = real(0.5), real(1), real(0), real(delta)

    def squared_error(y, raw, level):
        error = raw - y
        return half * error * error, error

    def absolute_error(y, raw, level):
        error = raw - y
        if error > zero:
            return error, one
        return -error, -one if error < zero else zero * error  # NaN stays NaN

    def huber(y, raw, level):
        error = raw - y
        clipped = limit if error > limit else (-limit if error < -limit else error)
        return clipped * (error - half * clipped), clipped

    def quantile(y, raw, level):
        error = y - raw
        slope = -level if error > zero else one - level
        return -slope * error, slope

    def poisson(y, raw, level):
        mean = math.exp(raw)
        constant = y * math.log(y) - y if y > zero else -y
        return mean - y * raw + constant, mean - y

    def log_loss(y, raw, level):
        # log(1 + exp(raw)) without overflow
        size = raw if raw > zero else -raw
        small = math.exp(-size)
        above = one / (one + small) if raw > zero else small / (one + small)
        return (raw if raw > zero else zero) + math.log1p(small) - y * raw, above - y

    return {
        "SquaredError": squared_error, "AbsoluteError": absolute_error, "Huber": huber, "Quantile": quantile,
        "Poisson": poisson, "LogLoss": log_loss,
    }  # fmt: skip


@cache
def _by_element(name: str, real: type[np.floating], delta: float) -> Callable:
    """Make the kernel of a loss each of whose elements has one raw output."""
    element, zero = inline(_elements(real, delta)[name]), real(0)

    def kernel(rows, n_raw, outputs, n_levels, levels, weights, count, y, raw, draw, losses):
        for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
            share = weights[r] / (count[0] * outputs)
            total = zero
            for j in range(n_raw):
                k = j % n_levels
                loss, slope = element(y[(r * n_raw + j) // n_levels], raw[r * n_raw + j], levels[k])
                total += loss
                draw[r * n_raw + j] = slope * share
            losses[r] = total * share

    return jit(kernel, name)


@cache
def _softmax(real: type[np.floating]) -> Callable:
    """Make the kernel of the cross-entropy of more than two classes."""
    zero, one = real(0), real(1)

    def kernel(rows, n_raw, outputs, n_levels, levels, weights, count, y, raw, draw, losses):
        for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
            share = weights[r] / count[0]
            at, hit = r * n_raw, int(y[r])
            largest, total = raw[at], zero
            for j in range(n_raw):
                if raw[at + j] > largest or raw[at + j] != raw[at + j]:
                    largest = raw[at + j]
            for j in range(n_raw):
                total += math.exp(raw[at + j] - largest)
            losses[r] = (math.log(total) - (raw[at + hit] - largest)) * share
            for j in range(n_raw):
                draw[at + j] = (math.exp(raw[at + j] - largest) / total - (one if j == hit else zero)) * share

    return jit(kernel, "Softmax")


class LossKernel:
    """A loss as a kernel.

    Parameters
    ----------
    loss : Loss
        One of `numbarnn.losses.LOSSES` or `numbarnn.forecasting.likelihoods.LIKELIHOODS`.
    n_raw : int
        Raw outputs of a row.
    dtype : numpy.dtype

    Raises
    ------
    ValueError
        If there is no kernel for it.
    """

    def __init__(self, loss: Loss, n_raw: int, dtype: np.dtype) -> None:
        name, module = type(loss).__name__, type(loss).__module__
        likely = module == "numbarnn.forecasting.likelihoods" and name in LIKELIHOODS
        if not likely and (name not in _elements(dtype.type, 1.0) or module != "numbarnn.losses"):
            raise ValueError(f"loss was {name}; device='cuda' expects one of numbarnn.losses.LOSSES")
        levels = getattr(loss, "_levels", np.zeros(1)).astype(dtype)
        self._n_raw, self._outputs, self._n_levels = n_raw, dtype.type(n_raw), len(levels)
        self._levels = upload(levels)
        if likely:
            self._kernel = likelihood(name, loss.limits)
        elif name == "LogLoss" and n_raw > 1:
            self._kernel = _softmax(dtype.type)
        else:
            self._kernel = _by_element(name, dtype.type, float(getattr(loss, "delta", 1.0)))

    def add(self, program: Any, rows: int, *arrays: Any) -> None:
        """Add the launch: `arrays` are weights (rows,), count (1,), y, raw, draw and losses (rows,).

        The gradient is that of the sum over rows of weight / count times the mean over outputs.
        """
        numbers = self._n_raw, self._outputs, self._n_levels, self._levels
        program.each(self._kernel, rows, rows, *numbers, *arrays)


@cuda.jit
def sums(count, squared, x, partials, at):
    """Set partials[at + block] to the sum of the block's elements, or of their squares; THREADS a block."""
    own = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    total = 0.0
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        value = np.float64(x[i])
        total += value * value if squared else value
    own[thread] = total
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            own[thread] += own[thread + step]
        cuda.syncthreads()
        step //= 2
    if thread == 0:
        partials[at + cuda.blockIdx.x] = own[0]
