"""Conformal intervals: bounds around any point forecast, from the errors of held-out forecasts.

Residuals are truth minus forecast, with their signs, so that a forecast that is always too low has its bounds
where the truth is.

Shapes: R rows (a row is one channel of one series), H steps of the horizon, q levels.

References
----------
.. [1] Lei et al., "Distribution-free predictive inference for regression", Journal of the American
   Statistical Association 113 (2018), 1094-1111: split conformal intervals.
.. [2] Gibbs and Candes, "Adaptive conformal inference under distribution shift", Advances in Neural
   Information Processing Systems 34 (2021), equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Conformal"]

# an interval of whole windows wants this many before other rows are asked
ENOUGH_WINDOWS = 20
# the adaptive intervals look back at least this far
SHORTEST_MEMORY = 100
# (n + 1) q is a whole number where it should be one
ROUNDING = 1e-9


class _Ranks(NamedTuple):
    """How each residual stands among those of its step before it, (n, H) of int64 each."""

    below: np.ndarray  # how many are smaller
    upto: np.ndarray  # how many are not larger
    count: np.ndarray  # how many there are

    def join(self, other):
        return _Ranks(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Conformal:
    """Split or adaptive conformal intervals.

    The bounds of a level are order statistics of the residuals of that row and that step of the horizon [1]_.
    A row with fewer than 2 / alpha of them (alpha = 1 - level / 100) takes those of all rows, each divided by
    its row's scale; and where there are fewer than 4 / alpha, steps beside it are taken in, nearest first.
    The adaptive ones use the latest residuals only, and move the alpha that they are made for after each
    truth that is seen: down if it was missed, up if not [2]_.

    Parameters
    ----------
    residuals : ndarray of shape (R, n_calibration, H)
        Of held-out forecasts, oldest first; NaN where the truth is missing.
    scales : ndarray of shape (R,)
        Size of each row's errors or values, for rows that are taken together.
    method : {"adaptive", "split"}, default="adaptive"
    gamma : float, default=0.01
        How far alpha moves.
    memory : int, default=None
        How many of the latest residuals of a row count. None: all of them for "split"; as many as there are
        now (100 at least) for "adaptive".

    Raises
    ------
    ValueError
        If an argument has no such value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.conformal import Conformal
    >>> residuals = np.arange(-49.0, 50.0).reshape(1, 99, 1)
    >>> conformal = Conformal(residuals, np.ones(1), method="split")
    >>> low, high = conformal.bounds(0, [80, 90], 1)
    >>> low.tolist(), high.tolist()
    ([[-40.0, -45.0]], [[40.0, 45.0]])
    """

    def __init__(
        self,
        residuals: np.ndarray,
        scales: np.ndarray,
        method: str = "adaptive",
        gamma: float = 0.01,
        memory: int | None = None,
    ) -> None:
        residuals, scales = np.asarray(residuals, np.float64), np.asarray(scales, np.float64)
        if residuals.ndim != 3:
            raise ValueError(
                f"residuals had shape {residuals.shape}; expected (n_rows, n_calibration, horizon)"
            )
        if scales.shape != residuals.shape[:1]:
            raise ValueError(f"scales had shape {scales.shape}; expected {residuals.shape[:1]}, one a row")
        if method not in ("adaptive", "split"):
            raise ValueError(f"method was {method!r}; expected 'adaptive' or 'split'")
        if not gamma >= 0:
            raise ValueError(f"gamma was {gamma!r}; expected a number >= 0")
        if memory is not None and memory < 1:
            raise ValueError(f"memory was {memory!r}; expected an integer >= 1 or None")
        self.method, self.gamma = method, gamma
        self.memory = memory
        if memory is None and method == "adaptive":
            self.memory = max(SHORTEST_MEMORY, residuals.shape[1])
        self.horizon = residuals.shape[2]
        self._scales = np.where(scales > 0, scales, 1.0)
        self._history = list(residuals.copy())
        self._ranks: dict[int, _Ranks] = {}
        self._alphas: dict[tuple[int, float], tuple[int, np.ndarray]] = {}
        self._shared: dict = {}

    def bounds(self, row: int, levels: ArrayLike, h: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what is to be added to the forecast of a row.

        Parameters
        ----------
        row : int
            -1: one without residuals. It takes those of all rows, and the answer is in units of its scale.
        levels : sequence of q floats
            In percent. A higher level has the wider interval, always.
        h : int
            Steps, at most H.

        Returns
        -------
        low, high : ndarray of shape (h, q)

        Raises
        ------
        ValueError
            If there are too few residuals for a level, or `h` or a level is out of range.
        """
        self._check_steps(h)
        levels = np.atleast_1d(np.asarray(levels, np.float64))
        if not ((levels > 0) & (levels < 100)).all():
            raise ValueError(f"level was {levels.tolist()!r}; expected numbers between 0 and 100")
        low, high = np.empty((2, h, len(levels)))
        for k, level in enumerate(levels):
            # 1 - 0.95 has digits of rounding that would ask for one residual more
            alpha = round(1 - level / 100, 12)
            moved = self._alpha(row, alpha) if self.method == "adaptive" and row >= 0 else np.full(h, alpha)
            for step in range(h):
                values, scale = self._sample(row, step, alpha, level)
                lower, upper = _ranks_of_bounds(len(values), moved[step])
                low[step, k], high[step, k] = values[lower] * scale, values[upper] * scale
        order = np.argsort(levels, kind="stable")
        low[:, order] = np.minimum.accumulate(low[:, order], axis=1)
        high[:, order] = np.maximum.accumulate(high[:, order], axis=1)
        return low, high

    def update(self, rows: Sequence[int], residuals: np.ndarray) -> None:
        """Take in residuals when their truth has become known, later than the forecast by their step.

        Parameters
        ----------
        rows : sequence of n int
            The row of each; a row that stands there twice has its older residuals first.
        residuals : ndarray of shape (n, h)
            NaN where the truth is missing or not known yet, h at most H. What was not known then may follow
            in a later call, with NaN for the others.

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        residuals = np.asarray(residuals, np.float64)
        if residuals.ndim != 2 or len(residuals) != len(rows) or residuals.shape[1] > self.horizon:
            raise ValueError(
                f"residuals had shape {residuals.shape}; expected ({len(rows)}, {self.horizon} or fewer)"
            )
        whole = np.full((len(residuals), self.horizon), np.nan)
        whole[:, : residuals.shape[1]] = residuals
        for row, new in zip(rows, whole, strict=True):
            self._history[row] = np.concatenate([self._history[row], new[None]])
        self._shared.clear()

    def paths(self, row: int, n_paths: int, h: int, rng: np.random.Generator) -> np.ndarray:
        """Draw errors of whole windows, whose steps belong together as errors of one forecast do.

        Parameters
        ----------
        row : int
            See `bounds`.
        n_paths, h : int
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of shape (n_paths, h)
            To be added to the forecast.

        Raises
        ------
        ValueError
            If there is no window without a missing truth.
        """
        self._check_steps(h)
        windows, scale = (self._recent(row) if row >= 0 else self._all_rows()), 1.0
        windows = windows[np.isfinite(windows[:, :h]).all(axis=1)]
        if row >= 0 and len(windows) < ENOUGH_WINDOWS and len(self._history) > 1:
            windows, scale = self._all_rows(), self._scales[row]
            windows = windows[np.isfinite(windows[:, :h]).all(axis=1)]
        if not len(windows):
            raise ValueError(f"h was {h}; expected fewer: no held-out window has all of so many truths")
        return windows[rng.integers(len(windows), size=n_paths), :h] * scale

    def _check_steps(self, h):
        if not 1 <= h <= self.horizon:
            raise ValueError(f"h was {h!r}; expected 1 to {self.horizon}, the steps of the residuals")

    def _recent(self, row):
        """Residuals of a row that count, (n, H)."""
        return self._history[row] if self.memory is None else self._history[row][-self.memory :]

    def _all_rows(self):
        """Residuals of all rows in units of their scales, (N, H)."""
        if "all" not in self._shared:
            parts = [self._recent(row) / scale for row, scale in enumerate(self._scales)]
            self._shared["all"] = np.concatenate(parts)
        return self._shared["all"]

    def _sample(self, row, step, alpha, level):
        """Sorted residuals that stand for a step of a row, and their unit."""
        if row >= 0:
            own = self._recent(row)
            few = np.isfinite(own[:, step]).sum() < 2 / alpha - ROUNDING
            if not (few and len(self._history) > 1):
                return _around(own, step, alpha, level), 1.0
        key = step, alpha
        if key not in self._shared:
            self._shared[key] = _around(self._all_rows(), step, alpha, level)
        return self._shared[key], self._scales[row] if row >= 0 else 1.0

    def _alpha(self, row, alpha):
        """Alpha of each step, (H,), after all residuals of a row that came so far."""
        history = self._history[row]
        done, moved = self._alphas.get((row, alpha), (0, np.full(self.horizon, alpha)))
        if len(history) + 1 < 2 / alpha - ROUNDING:
            return moved
        ranks = self._ranks_until_now(row)
        for t in range(done, len(history)):
            count = ranks.count[t]
            # what came before too few others was not judged
            judged = np.isfinite(history[t]) & (count + 1 >= 2 / alpha - ROUNDING)
            lower, upper = _ranks_of_bounds(np.maximum(count, 1), moved)
            missed = (ranks.below[t] > upper) | (ranks.upto[t] <= lower)
            # below -alpha the debt of one bad time would be paid for by too wide intervals for too long
            after = np.clip(moved + self.gamma * (alpha - missed), -alpha, 1.0)
            moved = np.where(judged, after, moved)
        self._alphas[row, alpha] = len(history), moved
        return moved

    def _ranks_until_now(self, row):
        """Compare each residual with those within memory before it; what was compared is kept."""
        history = self._history[row]
        ranks = self._ranks.get(row)
        done = 0 if ranks is None else len(ranks.count)
        if done < len(history):
            new = np.zeros((3, len(history) - done, self.horizon), np.int64)
            for t in range(done, len(history)):
                before = history[max(0, t - self.memory) : t]
                # comparisons with NaN are false
                new[:, t - done] = [
                    (before < history[t]).sum(axis=0),
                    (before <= history[t]).sum(axis=0),
                    np.isfinite(before).sum(axis=0),
                ]
            ranks = _Ranks(*new) if ranks is None else ranks.join(_Ranks(*new))
            self._ranks[row] = ranks
        return ranks


def _around(residuals, step, alpha, level):
    """Sorted residuals of a step, and of those beside it until there are 4 / alpha."""
    reach, horizon = 0, residuals.shape[1]
    while True:
        values = residuals[:, max(0, step - reach) : step + reach + 1]
        values = values[np.isfinite(values)]
        if len(values) >= 4 / alpha - ROUNDING or reach >= horizon - 1:
            break
        reach += 1
    needed = math.ceil(2 / alpha - 1 - ROUNDING)
    if len(values) < needed:
        raise ValueError(
            f"level={level:g} needs at least {needed} held-out forecasts of a step, there are {len(values)}: "
            "give more validation data or a lower level"
        )
    return np.sort(values)


def _ranks_of_bounds(n, alpha):
    """Find the places of both bounds among n sorted residuals; alpha is clipped to what n allows."""
    alpha = np.clip(alpha, 2 / (n + 1), 1.0)
    lower = np.floor((n + 1) * alpha / 2 + ROUNDING).astype(np.int64) - 1
    upper = np.ceil((n + 1) * (1 - alpha / 2) - ROUNDING).astype(np.int64) - 1
    return np.maximum(lower, 0), np.minimum(upper, n - 1)
