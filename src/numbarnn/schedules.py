"""Learning-rate schedules: the rate as a function of the epoch and of the losses so far.

`SCHEDULES` is the table name -> class. A schedule is an immutable value with no state of its own, so it may
be shared by estimators, cloned and pickled. An estimator takes a name, which stands for the defaults below,
or an object: ``learning_rate="step"`` or ``learning_rate=StepSchedule(every=20)``.

References
----------
.. [1] Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR (2017), equation 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

__all__ = [
    "SCHEDULES",
    "AdaptiveSchedule",
    "ConstantSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "Schedule",
    "StepSchedule",
]


@dataclass(frozen=True)
class Schedule:
    """Base of the schedules; a subclass gives `factor`."""

    def __call__(self, initial: float, epoch: int, max_iter: int, losses: Sequence[float]) -> float:
        """Rate for an epoch.

        Parameters
        ----------
        initial : float
            The rate to start from (``learning_rate_init``).
        epoch : int
            Number of epochs done before this one.
        max_iter : int
            Number of epochs that training may take.
        losses : sequence of float
            The loss after each epoch done: of the validation part if there is one.

        Returns
        -------
        rate : float
        """
        return initial * self.factor(epoch, max_iter, losses)

    def factor(self, epoch: int, max_iter: int, losses: Sequence[float]) -> float:
        """Return what the initial rate is multiplied by."""
        raise NotImplementedError


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """The initial rate throughout."""

    def factor(self, epoch, max_iter, losses):
        """See `Schedule.factor`."""
        return 1.0


@dataclass(frozen=True)
class StepSchedule(Schedule):
    """The rate is multiplied by `decay` after every `every` epochs.

    Parameters
    ----------
    every : int, default=10
        Number of epochs between two steps.
    decay : float, default=0.5

    Examples
    --------
    >>> from numbarnn.schedules import StepSchedule
    >>> [StepSchedule(every=2)(1.0, epoch, 100, []) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    every: int = 10
    decay: float = 0.5

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_epochs("every", self.every)
        _check_decay(self.decay)

    def factor(self, epoch, max_iter, losses):
        """See `Schedule.factor`."""
        return self.decay ** (epoch // self.every)


@dataclass(frozen=True)
class ExponentialSchedule(Schedule):
    """The rate is multiplied by `decay` after every epoch but the first `after` ones.

    Parameters
    ----------
    decay : float, default=0.95
    after : int, default=0
        Number of epochs after which the rate begins to fall.

    Examples
    --------
    >>> from numbarnn.schedules import ExponentialSchedule
    >>> [ExponentialSchedule(decay=0.5, after=2)(1.0, epoch, 100, []) for epoch in range(5)]
    [1.0, 1.0, 1.0, 0.5, 0.25]
    """

    decay: float = 0.95
    after: int = 0

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_decay(self.decay)
        _check_epochs("after", self.after, lowest=0)

    def factor(self, epoch, max_iter, losses):
        """See `Schedule.factor`."""
        return self.decay ** max(0, epoch - self.after)


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Half a cosine from the initial rate to `final` times it, over ``max_iter`` epochs [1]_.

    Parameters
    ----------
    final : float, default=0.0
        What is left of the rate at the end, as a part of the initial rate.

    Examples
    --------
    >>> from numbarnn.schedules import CosineSchedule
    >>> round(CosineSchedule()(1.0, 50, 100, []), 6)
    0.5
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not isinstance(self.final, Real) or not 0 <= self.final <= 1:
            raise ValueError(f"final was {self.final!r}; expected a number from 0 to 1")

    def factor(self, epoch, max_iter, losses):
        """See `Schedule.factor`."""
        progress = min(epoch / max_iter, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class AdaptiveSchedule(Schedule):
    """On a plateau, that is after `patience` epochs without a lower loss, the rate is multiplied by `decay`.

    Parameters
    ----------
    decay : float, default=0.2
    patience : int, default=5
        Number of epochs. It should be smaller than ``n_iter_no_change``, which ends training.
    tol : float, default=1e-4
        By how much a loss must be below the lowest one before to count as lower.

    Examples
    --------
    >>> from numbarnn.schedules import AdaptiveSchedule
    >>> schedule = AdaptiveSchedule(patience=2)
    >>> schedule(1.0, 2, 100, [5.0, 4.0]), schedule(1.0, 4, 100, [5.0, 4.0, 4.0, 4.0])
    (1.0, 0.2)
    """

    decay: float = 0.2
    patience: int = 5
    tol: float = 1e-4

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_decay(self.decay)
        _check_epochs("patience", self.patience)
        if not isinstance(self.tol, Real) or not self.tol >= 0:
            raise ValueError(f"tol was {self.tol!r}; expected a number from 0")

    def factor(self, epoch, max_iter, losses):
        """See `Schedule.factor`."""
        factor, best, waited = 1.0, math.inf, 0
        for loss in losses:
            waited = 0 if loss < best - self.tol else waited + 1
            best = min(best, loss)
            if waited == self.patience:
                factor, waited = factor * self.decay, 0
        return factor


def _check_decay(decay: float) -> None:
    if not isinstance(decay, Real) or not 0 < decay <= 1:
        raise ValueError(f"decay was {decay!r}; expected a number above 0, at most 1")


def _check_epochs(name: str, value: int, lowest: int = 1) -> None:
    if not isinstance(value, Integral) or value < lowest:
        raise ValueError(f"{name} was {value!r}; expected a whole number of epochs from {lowest}")


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": ConstantSchedule,
    "step": StepSchedule,
    "exponential": ExponentialSchedule,
    "cosine": CosineSchedule,
    "adaptive": AdaptiveSchedule,
}
