"""Conformal intervals: bounds around any point forecast, from the errors of held-out forecasts.

Residuals are truth minus forecast, with their signs, so that a forecast that is always too low has its bounds
where the truth is.

Shapes: R rows (a row is one channel of one series), H steps of the horizon, q levels.

References
----------
.. [1] Lei et al., "Distribution-free predictive inference for regression", Journal of the American
   Statistical Association 113 (2018), 1094-1111: split conformal intervals.
.. [2] Gibbs and Candes, "Adaptive conformal inference under distribution shift", Advances in Neural
   Information Processing Systems 34 (2021).
.. [3] Angelopoulos, Candes and Tibshirani, "Conformal PID control for time series prediction", Advances in
   Neural Information Processing Systems 36 (2023), section 2.1: quantile tracking.
.. [4] Joulani, Gyorgy and Szepesvari, "Online learning under delayed feedback", International Conference on
   Machine Learning (2013).
.. [5] Thiebaux and Zwiers, "The interpretation and estimation of effective sample size", Journal of Climate
   and Applied Meteorology 23 (1984), 800-811.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from .scaling import below_one

__all__ = ["Conformal", "errors_needed"]

# an interval of whole windows wants this many before other rows are asked
ENOUGH_WINDOWS = 20
# the adaptive intervals look back this far
MEMORY = 2000
# a threshold moves at most so far beyond that of its level: a bad time is not paid for without end
MOST_BEYOND = 1.0
# of the usual mean square of errors: a row of a few errors that are nearly zero has had luck
LEAST_SQUARE = 1e-4
# (n + 1) q is a whole number where it should be one
ROUNDING = 1e-9


class Conformal:
    """Split or adaptive conformal intervals.

    The bounds of a level are order statistics of the residuals of that row and that step of the horizon [1]_.
    A row with fewer than 2 / alpha of them (alpha = 1 - level / 100) takes those of all rows, each divided by
    the size of its row's errors; and where there are fewer than 4 / alpha, steps beside it are taken in,
    nearest first. The size of a row's errors is the root of their mean square, drawn (on the scale of
    logarithms) to what is usual in all rows for its scale, which weighs as much as one of its windows.

    The adaptive ones use the latest residuals only, and move the level that they are made for with each truth
    that is seen: up if it was missed, down if not [2]_. What is moved is a threshold z, as which the level is
    Phi(z) - Phi(-z) with the distribution function Phi of a normal variable. It moves by even steps [3]_ and
    can go where there are no residuals: beyond the largest one bounds grow as z does. A truth is judged by
    the interval that was given out, from what was known when its forecast was made, several steps before:
    errors of neighbouring forecasts are alike, and an interval that knew the latest of them would be right
    more often. The later a truth comes, the smaller is the step, gamma / sqrt(1 + delay) [4]_. And as many
    residuals that are alike are worth as few that are independent, z starts as far out as Student's t with as
    many degrees of freedom as there are independent ones [5]_.

    Parameters
    ----------
    residuals : ndarray of shape (R, n_calibration, H)
        Of held-out forecasts, a row of them for each time step, oldest first; NaN where there is none.
    scales : ndarray of shape (R,)
        Size of each row's errors or values, for rows that are taken together.
    method : {"adaptive", "split"}, default="adaptive"
    gamma : float, default=0.1
        How far z moves.
    memory : int, default=None
        How many of the latest residuals of a row count. None: all of them for "split", 2000 for "adaptive".
    delays : array-like of int of shape (H,), default=None
        How many time steps older than a residual are those that were known when its forecast was made. None
        is 0, 1, ..., H - 1: each residual stands at the time of its truth. Where it stands at the time of its
        whole window's end it is H - 1 for all.

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
        gamma: float = 0.1,
        memory: int | None = None,
        delays: ArrayLike | None = None,
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
        self.memory = MEMORY if memory is None and method == "adaptive" else memory
        self.horizon = residuals.shape[2]
        self.delays = np.arange(self.horizon) if delays is None else np.asarray(delays)
        if self.delays.shape != (self.horizon,) or not (self.delays >= 0).all():
            raise ValueError(f"delays was {delays!r}; expected {self.horizon} integers >= 0, one a step")
        self._sizes, self._usual = _error_sizes(residuals, np.where(scales > 0, scales, 1.0))
        self._history, self._n_first = list(residuals.copy()), residuals.shape[1]
        self._scores: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._thresholds: dict[tuple[int, float], tuple[int, np.ndarray]] = {}
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
        ordered: dict = {}  # what several levels share
        for k, level in enumerate(levels):
            alpha = _alpha(level)
            thresholds = np.broadcast_to(self._threshold(row, alpha), self.horizon)
            tails = ndtr(-thresholds)
            for step in range(h):
                values, scale = self._sample(row, step, alpha, level, ordered)
                n = len(values)
                beyond = tails[step] * (n + 1) < 1 - ROUNDING
                rank = 1 if beyond else math.floor(tails[step] * (n + 1) + ROUNDING)
                bottom, top = values[rank - 1], values[n - rank]
                if beyond:
                    part = thresholds[step] / _outermost(n) - 1
                    bottom, top = bottom - part * abs(bottom), top + part * abs(top)
                low[step, k], high[step, k] = bottom * scale, top * scale
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
            If the shapes do not fit, or there is no such row.
        """
        residuals, rows = np.asarray(residuals, np.float64), np.asarray(rows)
        known = len(self._history)
        if len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= known):
            raise ValueError(f"rows was {rows.tolist()!r}; expected integers from 0 to {known - 1}")
        if residuals.ndim != 2 or len(residuals) != len(rows) or residuals.shape[1] > self.horizon:
            raise ValueError(
                f"residuals had shape {residuals.shape}; expected ({len(rows)}, {self.horizon} or fewer)"
            )
        whole = np.full((len(residuals), self.horizon), np.nan)
        whole[:, : residuals.shape[1]] = residuals
        order = np.argsort(rows, kind="stable")
        found, first = np.unique(rows.astype(np.int64)[order], return_index=True)
        ends = np.append(first, len(order))[1:]
        joined = {
            row: np.concatenate([self._history[row], whole[order[begin:end]]])
            for row, begin, end in zip(found, first, ends, strict=True)
        }
        for row, history in joined.items():
            self._history[row] = history
        self._shared.clear()

    def paths(self, rows: Sequence[int], n_paths: int, h: int, rng: np.random.Generator) -> np.ndarray:
        """Draw errors of whole windows: their steps belong together, and so do the channels of a series.

        Parameters
        ----------
        rows : sequence of n int
            See `bounds`; all channels of a series, whose residuals stand side by side in time.
        n_paths, h : int
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of shape (n, n_paths, h)
            To be added to the forecasts.

        Raises
        ------
        ValueError
            If there is no window with half of its truths.
        """
        self._check_steps(h)
        rows = np.asarray(rows)
        known, alone = rows.min() >= 0, len(self._history) == len(rows)
        windows, units = self._windows(rows, h) if known else (), np.ones(len(rows))
        if len(windows) < ENOUGH_WINDOWS and not (known and alone):
            key = "all windows", len(rows), h
            if key not in self._shared:
                every = np.arange(len(self._history)).reshape(-1, len(rows))
                parts = [self._windows(each, h) / self._sizes[each, np.newaxis] for each in every]
                self._shared[key] = np.concatenate(parts)
            windows, units = self._shared[key], np.where(rows >= 0, self._sizes[rows], self._usual)
        if not len(windows):
            raise ValueError(f"h was {h}; expected fewer: no held-out window has half of so many truths")
        drawn = windows[rng.integers(len(windows), size=n_paths)]
        return units[:, np.newaxis, np.newaxis] * drawn.swapaxes(0, 1)

    def _check_steps(self, h):
        if not 1 <= h <= self.horizon:
            raise ValueError(f"h was {h!r}; expected 1 to {self.horizon}, the steps of the residuals")

    def _recent(self, row):
        """Residuals of a row that count, (n, H)."""
        return self._history[row] if self.memory is None else self._history[row][-self.memory :]

    def _windows(self, rows, h):
        """Errors of rows at the same times without holes, (N, len(rows), h)."""
        key = "windows", *rows, h
        if key not in self._shared:
            self._shared[key] = _complete(np.stack([self._recent(row)[:, :h] for row in rows], axis=1))
        return self._shared[key]

    def _all_rows(self):
        """Residuals of all rows in units of their sizes, (N, H)."""
        if "all" not in self._shared:
            parts = [self._recent(row) / size for row, size in enumerate(self._sizes)]
            self._shared["all"] = np.concatenate(parts)
        return self._shared["all"]

    def _sample(self, row, step, alpha, level, ordered):
        """Sorted residuals that stand for a step of a row, and their unit."""
        if row >= 0:
            own = self._recent(row)
            few = np.isfinite(own[:, step]).sum() < 2 / alpha - ROUNDING
            if not (few and len(self._history) > 1):
                return _around(own, step, alpha, level, ordered), 1.0
        key = step, alpha
        if key not in self._shared:
            self._shared[key] = _around(self._all_rows(), step, alpha, level, {})
        return self._shared[key], self._sizes[row] if row >= 0 else self._usual

    def _threshold(self, row, alpha):
        """Threshold of each step, (H,) or a number, after all residuals of a row that came so far."""
        nominal = ndtri(1 - alpha / 2)
        history = self._history[row] if row >= 0 else ()
        if self.method == "split" or len(history) + 1 < 2 / alpha - ROUNDING:
            return nominal
        # a ring: what they were before time t is at t % length
        length = self.delays.max() + 1
        if (row, alpha) in self._thresholds:
            done, ring = self._thresholds[row, alpha]
        else:
            first = history[: self._n_first]
            start = np.minimum(stdtrit(self._n_independent(first), 1 - alpha / 2), nominal + MOST_BEYOND)
            few = np.isfinite(first).sum(axis=0) + 1 < 2 / alpha - ROUNDING
            done, ring = 0, np.tile(np.where(few, nominal, start), (length, 1))
        scores, known = self._scores_until_now(row)
        # what came after too few others was not judged, and what is missing has the score NaN
        judged = (known[done:] + 1 >= 2 / alpha - ROUNDING) & ~np.isnan(scores[done:])
        rates = np.where(judged, self.gamma / np.sqrt(1 + self.delays), 0.0)
        steps = np.arange(self.horizon)
        for t, rate in enumerate(rates, done):
            missed = scores[t] >= ring[(t - self.delays) % length, steps]
            moved = ring[t % length] + rate * (missed - alpha)
            ring[(t + 1) % length] = np.minimum(np.maximum(moved, 0.0), nominal + MOST_BEYOND)
        self._thresholds[row, alpha] = len(history), ring
        return ring[len(history) % length]

    def _n_independent(self, residuals):
        """Return how many independent residuals those of each step are worth, (H,), at least 1."""
        n = len(residuals)
        values, _ = below_one(np.where(np.isfinite(residuals), residuals, 0.0))
        spectrum = np.fft.rfft(values, 2 * n, axis=0)
        products = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n, axis=0)[:n]  # of residuals k apart, summed
        # errors of forecasts that do not overlap are taken to be independent
        lags = np.arange(n)[:, np.newaxis]
        weights = np.maximum(1 - lags / (1 + self.delays), 0)
        squares = np.where(products[0] > 0, products[0], 1.0)
        alike = 2 * (weights * products).sum(axis=0) / squares - 1
        return np.maximum(np.isfinite(residuals).sum(axis=0) / np.maximum(alike, 1.0), 1.0)

    def _scores_until_now(self, row):
        """Return the least thresholds that hold each truth, and of how many residuals they were made.

        Both (n, H). The bounds are those that were given out: of the residuals within memory that were known
        when the forecast was made. What was found once is kept.
        """
        history, (n, steps) = self._history[row], self._history[row].shape
        scores, known = self._scores.get(row, (np.empty((0, steps)), np.empty((0, steps), np.int64)))
        done = len(scores)
        if done == n:
            return scores, known
        # each residual at the time at which forecasts that it is compared with were made
        first = max(0, done - self.memory)
        shifted = np.full((n - first, steps), np.nan)
        for step, delay in enumerate(self.delays):
            begin = max(first - delay, 0)
            part = history[begin : max(n - delay, 0), step]
            shifted[begin + delay - first :, step][: len(part)] = part
        # of how many residuals the bounds were made, and how many lie beyond a truth on its emptier side
        total = np.cumsum(np.isfinite(shifted), axis=0)
        count, beyond = np.zeros((2, n - done, steps), np.int64)
        for t in range(max(done, 1), n):
            begin, end = max(0, t - self.memory) - first, t - first
            before, values = shifted[begin:end], history[t]
            # comparisons with NaN are false
            beyond[t - done] = np.minimum((before <= values).sum(axis=0), (before >= values).sum(axis=0))
            count[t - done] = total[end - 1] - (total[begin - 1] if begin else 0)
        new = -ndtri((beyond + 1 - ROUNDING) / (count + 1))
        new[~np.isfinite(history[done:]) | (count == 0)] = np.nan
        for i, step in np.argwhere((beyond == 0) & ~np.isnan(new)):
            begin, end = max(0, i + done - self.memory) - first, i + done - first
            new[i, step] = _score_outside(shifted[begin:end, step], history[i + done, step], count[i, step])
        self._scores[row] = np.concatenate([scores, new]), np.concatenate([known, count])
        return self._scores[row]


def errors_needed(level: float) -> int:
    """Return of how many errors at least the bounds of a level, in percent, are made.

    >>> from numbarnn.forecasting.conformal import errors_needed
    >>> errors_needed(80), errors_needed(95)
    (9, 39)
    """
    return math.ceil(2 / _alpha(level) - 1 - ROUNDING)


def _alpha(level):
    """Return the part outside; 1 - 0.95 has digits of rounding that would ask for one residual more."""
    return round(1 - level / 100, 12)


def _error_sizes(residuals, scales):
    """Size of the errors of each row, and of one with scale 1 that has none."""
    ratios = residuals / scales[:, np.newaxis, np.newaxis]
    seen = np.isfinite(ratios)
    counts = seen.sum(axis=(1, 2))
    squares = (np.where(seen, ratios, 0.0) ** 2).sum(axis=(1, 2)) / np.maximum(counts, 1)
    there = squares > 0
    if not there.any():
        return scales, 1.0
    usual = np.log(squares[there]).mean()
    own = np.log(np.maximum(squares, LEAST_SQUARE * np.exp(usual)))
    n_windows = counts / residuals.shape[2]
    return scales * np.exp(0.5 * (usual + n_windows * own) / (1 + n_windows)), math.exp(0.5 * usual)


def _complete(windows):
    """Return windows (n, rows, h) without holes; where these are few, also those with half of their truths.

    Errors change little from step to step: what is missing is interpolated.
    """
    seen = np.isfinite(windows)
    whole = windows[seen.all(axis=(1, 2))]
    if len(whole) >= ENOUGH_WINDOWS:
        return whole
    chosen = (2 * seen.sum(axis=2) >= windows.shape[2]).all(axis=1)
    windows, seen, steps = windows[chosen].copy(), seen[chosen], np.arange(windows.shape[2])
    for line, known in zip(windows.reshape(-1, len(steps)), seen.reshape(-1, len(steps)), strict=True):
        line[~known] = np.interp(steps[~known], steps[known], line[known])
    return windows


def _around(residuals, step, alpha, level, ordered):
    """Sorted residuals of a step, and of those beside it until there are 4 / alpha; `ordered` keeps them."""
    reach, horizon = 0, residuals.shape[1]
    while True:
        if (step, reach) not in ordered:
            values = residuals[:, max(0, step - reach) : step + reach + 1]
            ordered[step, reach] = np.sort(values[np.isfinite(values)])
        values = ordered[step, reach]
        if len(values) >= 4 / alpha - ROUNDING or reach >= horizon - 1:
            break
        reach += 1
    needed = errors_needed(level)
    if len(values) < needed:
        raise ValueError(
            f"level={level:g} needs at least {needed} held-out forecasts of a step, there are {len(values)}: "
            "give more validation data or a lower level"
        )
    return values


def _outermost(n):
    """Return the threshold that has the smallest and the largest of n residuals as bounds."""
    return ndtri(n / (n + 1))


def _score_outside(residuals, value, n):
    """Return the threshold whose bounds, beyond the smallest or largest of n residuals, are at a value."""
    nearest = np.nanmin(residuals) if value < np.nanmin(residuals) else np.nanmax(residuals)
    return _outermost(n) * (1 + abs(value - nearest) / abs(nearest)) if nearest else np.inf
