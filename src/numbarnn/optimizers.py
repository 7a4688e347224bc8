"""Optimizers: one step of the parameters against their gradients, on one flat vector, in place.

`OPTIMIZERS` is the table name -> class. The conventions (where epsilon stands, the bias correction, momentum
without dampening) are those of `torch.optim`. "lbfgs" is no step rule and stands in `numbarnn.training`.

References
----------
.. [1] Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational
   Mathematics and Mathematical Physics 4 (1964), 1-17.
.. [2] Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep
   learning", ICML (2013): Nesterov's momentum, here in the form evaluated at the current parameters.
.. [3] Tieleman and Hinton, "RMSProp", COURSERA: Neural networks for machine learning, lecture 6.5 (2012).
.. [4] Kingma and Ba, "Adam: a method for stochastic optimization", ICLR (2015), algorithm 1.
.. [5] Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR (2019), algorithm 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbarnn.kernels.compiler import kernel
from numbarnn.simd import flush_subnormals, restore_mode

__all__ = ["OPTIMIZERS", "Optimizer"]


@kernel
def _descend(p, g, rate, scale):
    for i in range(p.size):
        p[i] -= rate * (scale * g[i])


# Where a gradient stays zero a running mean decays into the subnormal numbers and would make every step slow
# for good: loops with a state count them as zero.


@kernel
def _descend_momentum(p, g, velocity, rate, scale, momentum, nesterov):
    mode = flush_subnormals()
    for i in range(p.size):
        gi = scale * g[i]
        vi = momentum * velocity[i] + gi
        velocity[i] = vi
        p[i] -= rate * (gi + momentum * vi if nesterov else vi)
    restore_mode(mode)


@kernel
def _descend_rms(p, g, square, rate, scale, kept, taken, epsilon):
    mode = flush_subnormals()
    for i in range(p.size):
        gi = scale * g[i]
        square[i] = kept * square[i] + taken * gi * gi
        p[i] -= rate * gi / (np.sqrt(square[i]) + epsilon)
    restore_mode(mode)


@kernel
def _descend_adam(p, g, mean, square, rate, scale, taken_1, kept_2, taken_2, correction, epsilon, shrink):
    mode = flush_subnormals()
    for i in range(p.size):
        gi = scale * g[i]
        mi = mean[i] + taken_1 * (gi - mean[i])
        vi = kept_2 * square[i] + taken_2 * gi * gi
        mean[i] = mi
        square[i] = vi
        p[i] = shrink * p[i] - rate * mi / (np.sqrt(vi) * correction + epsilon)
    restore_mode(mode)


class Optimizer:
    """What all optimizers share: their state, one array of shape (n_states, n_parameters).

    Parameters
    ----------
    n_parameters : int
    dtype : dtype
        That of the parameters.

    Attributes
    ----------
    n_updates : int
        Steps taken.
    state : ndarray of shape (n_states, n_parameters)
        The running means; with `n_updates` all there is to save.
    """

    n_states = 0

    def __init__(self, n_parameters: int, dtype: DTypeLike) -> None:
        self.state = np.zeros((self.n_states, n_parameters), dtype)
        self.n_updates = 0

    def update(
        self, parameters: np.ndarray, gradients: np.ndarray, rate: float, scale: float = 1.0
    ) -> None:
        """Take one step, in place.

        Parameters
        ----------
        parameters, gradients : ndarray of shape (n_parameters,)
            Both in the dtype of the state, C-contiguous.
        rate : float
            Learning rate.
        scale : float, default=1.0
            Factor of the gradients (from clipping), applied on the fly.
        """
        self.n_updates += 1
        self._step(parameters, gradients, self.state.dtype.type, rate, scale)

    def _step(self, p, g, real, rate, scale):
        # `real` turns a Python float into the parameters' type, so that the loops compute in it
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with: of two of one kind the same, whatever steps they took."""
        own = {name: value for name, value in vars(self).items() if name not in ("state", "n_updates")}
        return {"kind": type(self).__name__} | own

    def snapshot(self) -> tuple[int, np.ndarray]:
        """Return a copy of the state, for `restore`."""
        return self.n_updates, self.state.copy()

    def restore(self, snapshot: tuple[int, np.ndarray]) -> None:
        """Go back to a state that `snapshot` returned."""
        self.n_updates = snapshot[0]
        self.state[...] = snapshot[1]

    def __setstate__(self, state: dict) -> None:
        """Take a state from pickle; joblib may have mapped its arrays read-only."""
        self.__dict__.update(state)
        self.state = np.array(self.state)


class SGD(Optimizer):
    """Stochastic gradient descent: without momentum exactly parameter - rate * gradient, else [1]_.

    Parameters
    ----------
    n_parameters, dtype
        See `Optimizer`.
    momentum : float, default=0.0
    nesterov : bool, default=False
        Nesterov's momentum [2]_; without effect where momentum is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.optimizers import OPTIMIZERS
    >>> parameters = np.array([1.0, 2.0])
    >>> OPTIMIZERS["sgd"](2, "float64").update(parameters, np.array([1.0, -1.0]), rate=0.5)
    >>> parameters.tolist()
    [0.5, 2.5]
    """

    def __init__(
        self, n_parameters: int, dtype: DTypeLike, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        self.n_states = int(momentum > 0)
        super().__init__(n_parameters, dtype)
        self.momentum = momentum
        self.nesterov = nesterov

    def _step(self, p, g, real, rate, scale):
        if self.momentum > 0:
            _descend_momentum(
                p, g, self.state[0], real(rate), real(scale), real(self.momentum), self.nesterov
            )
        else:
            _descend(p, g, real(rate), real(scale))


class RMSprop(Optimizer):
    """Gradient over the root of its running mean square [3]_.

    Parameters
    ----------
    n_parameters, dtype
        See `Optimizer`.
    beta_2 : float, default=0.99
        Part of the running mean that is kept in a step.
    epsilon : float, default=1e-8
    """

    n_states = 1

    def __init__(
        self, n_parameters: int, dtype: DTypeLike, beta_2: float = 0.99, epsilon: float = 1e-8
    ) -> None:
        super().__init__(n_parameters, dtype)
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def _step(self, p, g, real, rate, scale):
        _descend_rms(
            p, g, self.state[0], real(rate), real(scale),
            real(self.beta_2), real(1 - self.beta_2), real(self.epsilon),
        )  # fmt: skip


class Adam(Optimizer):
    """Running mean of the gradient over the root of its running mean square, without bias [4]_.

    Parameters
    ----------
    n_parameters, dtype
        See `Optimizer`.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Part of the two running means that is kept in a step.
    epsilon : float, default=1e-8
    """

    n_states = 2
    weight_decay = 0.0

    def __init__(
        self,
        n_parameters: int,
        dtype: DTypeLike,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(n_parameters, dtype)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def _step(self, p, g, real, rate, scale):
        correction_1 = 1 - self.beta_1**self.n_updates
        correction_2 = 1 - self.beta_2**self.n_updates
        _descend_adam(
            p, g, self.state[0], self.state[1], real(rate / correction_1), real(scale),
            real(1 - self.beta_1), real(self.beta_2), real(1 - self.beta_2), real(correction_2**-0.5),
            real(self.epsilon), real(1 - rate * self.weight_decay),
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay [5]_: every parameter is first multiplied by 1 - rate * weight_decay.

    Parameters
    ----------
    n_parameters, dtype, beta_1, beta_2, epsilon
        See `Adam`.
    weight_decay : float, default=0.01
    """

    def __init__(
        self,
        n_parameters: int,
        dtype: DTypeLike,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(n_parameters, dtype, beta_1, beta_2, epsilon)
        self.weight_decay = weight_decay


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}
