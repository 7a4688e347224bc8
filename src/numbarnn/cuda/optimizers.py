"""Optimizers on the device: the steps of `numbarnn.optimizers`, an element a thread.

What changes from update to update stands in an array, a row of three for each update of an epoch, so that the
host has nothing to say while an epoch runs. If something was not finite, nothing more is updated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from numbarnn.cuda.driver import cuda, download, empty, upload

if TYPE_CHECKING:
    from numbarnn.cuda.program import Program
    from numbarnn.optimizers import Optimizer

__all__ = ["BATCH", "FAILED", "LOSS", "SEEN", "SIZE", "TOTAL", "VALUE", "OptimizerKernel"]

# places in the array by which kernels and host tell each other how an epoch goes, of float64
BATCH, TOTAL, SEEN, FAILED, VALUE, LOSS, SIZE = range(7)


@cuda.jit
def _descend(count, p, g, state, control, scale, rates):
    if control[FAILED] == 0:
        row = (int(control[BATCH]) - 1) * 3
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            p[i] -= rates[row] * (scale[0] * g[i])


@cuda.jit
def _descend_momentum(count, p, g, state, control, scale, rates, momentum, nesterov):
    if control[FAILED] == 0:
        row = (int(control[BATCH]) - 1) * 3
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            gi = scale[0] * g[i]
            vi = momentum * state[i] + gi
            state[i] = vi
            p[i] -= rates[row] * (gi + momentum * vi if nesterov else vi)


@cuda.jit
def _descend_rms(count, p, g, state, control, scale, rates, kept, taken, epsilon):
    if control[FAILED] == 0:
        row = (int(control[BATCH]) - 1) * 3
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            gi = scale[0] * g[i]
            state[i] = kept * state[i] + taken * gi * gi
            p[i] -= rates[row] * gi / (math.sqrt(state[i]) + epsilon)


@cuda.jit
def _descend_adam(count, p, g, state, control, scale, rates, taken_1, kept_2, taken_2, epsilon):
    if control[FAILED] == 0:
        row = (int(control[BATCH]) - 1) * 3
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            gi = scale[0] * g[i]
            mi = state[i] + taken_1 * (gi - state[i])
            vi = kept_2 * state[count + i] + taken_2 * gi * gi
            state[i] = mi
            state[count + i] = vi
            p[i] = rates[row + 2] * p[i] - rates[row] * mi / (math.sqrt(vi) * rates[row + 1] + epsilon)


class OptimizerKernel:
    """An optimizer, whose state is on the device until `finish`.

    Parameters
    ----------
    optimizer : Optimizer
        One of `numbarnn.optimizers.OPTIMIZERS`.

    Raises
    ------
    ValueError
        If there is no kernel for it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, real = optimizer, optimizer.state.dtype.type
        self._real, self._name = real, type(optimizer).__name__
        if type(optimizer).__module__ != "numbarnn.optimizers":
            raise ValueError(f"solver was {self._name}; device='cuda' expects one of OPTIMIZERS")
        if self._name == "SGD" and optimizer.momentum > 0:
            self._kernel = _descend_momentum
            self._constants = real(optimizer.momentum), int(optimizer.nesterov)
        elif self._name == "SGD":
            self._kernel, self._constants = _descend, ()
        else:
            kept, epsilon = real(optimizer.beta_2), real(optimizer.epsilon)
            taken = real(1 - optimizer.beta_2)
            if self._name == "RMSprop":
                self._kernel, self._constants = _descend_rms, (kept, taken, epsilon)
            else:
                taken_1 = real(1 - optimizer.beta_1)
                self._kernel, self._constants = _descend_adam, (taken_1, kept, taken, epsilon)
        self._state = upload(optimizer.state)
        self.rates = empty(3, real)

    def start_epoch(self, rate: float, n_updates: int) -> bool:
        """Bring the rates of the next updates to the device; whether their array is a new one."""
        rates = np.array([self._row(rate, k + 1) for k in range(n_updates)], self._real).ravel()
        if len(rates) == self.rates.size:
            self.rates.copy_to_device(rates)
            return False
        self.rates = upload(rates)
        return True

    def _row(self, rate: float, k: int) -> tuple[float, float, float]:
        """Return what the k-th update from now on takes, as `Optimizer.update` computes it."""
        optimizer, n = self._optimizer, self._optimizer.n_updates + k
        if self._name not in ("Adam", "AdamW"):
            return rate, 0.0, 0.0
        first, second = 1 - optimizer.beta_1**n, 1 - optimizer.beta_2**n
        return rate / first, second**-0.5, 1 - rate * optimizer.weight_decay

    def add(self, program: Program, count: int, p: Any, g: Any, control: Any, scale: Any) -> None:
        """Add the launch of an update, by the rates of the epoch that was started last."""
        numbers = control, scale, self.rates, *self._constants
        program.each(self._kernel, count, count, p, g, self._state, *numbers)

    def finish(self) -> NDArray:
        """Bring the state back to the optimizer."""
        state = download(self._state)[: self._optimizer.state.size]
        self._optimizer.state[...] = state.reshape(self._optimizer.state.shape)
        return self._optimizer.state
