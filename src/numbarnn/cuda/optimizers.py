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

__all__ = ["BATCH", "FAILED", "LOSS", "SEEN", "SIZE", "TOTAL", "VALUE", "AverageKernel", "OptimizerKernel"]

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


@cuda.jit
def _average(count, p, average, control, taken):
    if control[FAILED] == 0:
        row = int(control[BATCH]) - 1
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            average[i] += taken[row] * (p[i] - average[i])


class _Rates:
    """What the updates of an epoch take, a row each, on the device.

    Attributes
    ----------
    array : device array
    """

    def __init__(self, real: type[np.floating]) -> None:
        self._real, self.array = real, empty(1, real)

    def fill(self, rows: list) -> bool:
        """Bring rows for all updates to the device; whether their array is a new one."""
        rates = np.array(rows, self._real).ravel()
        if len(rates) == self.array.size:
            self.array.copy_to_device(rates)
            return False
        self.array = upload(rates)
        return True


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
        self._name = type(optimizer).__name__
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
        self._rates = _Rates(real)

    def start_epoch(self, rate: float, n_updates: int) -> bool:
        """Bring the rates of the next updates to the device; whether their array is a new one."""
        return self._rates.fill([self._row(rate, k + 1) for k in range(n_updates)])

    def _row(self, rate: float, k: int) -> tuple[float, float, float]:
        """Return what the k-th update from now on takes, as `Optimizer.update` computes it."""
        optimizer, n = self._optimizer, self._optimizer.n_updates + k
        if self._name not in ("Adam", "AdamW"):
            return rate, 0.0, 0.0
        first, second = 1 - optimizer.beta_1**n, 1 - optimizer.beta_2**n
        return rate / first, second**-0.5, 1 - rate * optimizer.weight_decay

    def add(self, program: Program, count: int, p: Any, g: Any, control: Any, scale: Any) -> None:
        """Add the launch of an update, by the rates of the epoch that was started last."""
        numbers = control, scale, self._rates.array, *self._constants
        program.each(self._kernel, count, count, p, g, self._state, *numbers)

    def finish(self) -> NDArray:
        """Bring the state back to the optimizer."""
        state = download(self._state)[: self._optimizer.state.size]
        self._optimizer.state[...] = state.reshape(self._optimizer.state.shape)
        return self._optimizer.state


class AverageKernel:
    """A `numbarnn.training.Average` whose values are on the device.

    Parameters
    ----------
    n_parameters : int
    dtype : numpy.dtype
    momentum : float

    Attributes
    ----------
    values : device array of shape (n_parameters,)
    """

    def __init__(self, n_parameters: int, dtype: np.dtype, momentum: float) -> None:
        self.values, self._momentum = upload(np.zeros(n_parameters, dtype)), momentum
        self._taken, self._n_updates = _Rates(dtype.type), 0

    def start_epoch(self, n_updates: int) -> bool:
        """Bring to the device what the next updates take; whether its array is a new one."""
        first, self._n_updates = self._n_updates + 1, self._n_updates + n_updates
        kept = [self._momentum**n for n in range(first, self._n_updates + 1)]
        return self._taken.fill([(1 - self._momentum) / (1 - each) for each in kept])

    def add(self, program: Program, count: int, p: Any, control: Any) -> None:
        """Add the launch that takes in what an update has left."""
        program.each(_average, count, count, p, self.values, control, self._taken.array)
