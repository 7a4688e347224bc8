"""`ForecastModel`: a trained network with the scales of all that goes in and comes out.

A model forecasts windows of any data that look like those it was fitted on: `ForecastModel.view` lays it over
them, and `View.forecast` answers. What is done with the answers is no matter of this module.

Letters: n windows, L context, H horizon, h steps asked for, C channels of a sample, q values of each element
of a forecast: 1 of a point forecast, else quantiles or sampled paths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from numbarnn.losses import Loss, Quantile

from .likelihoods import Likelihood
from .linear import LinearForecast
from .networks import ForecastNetwork
from .scaling import CovariateScaler, Filled, Normalizer, ScaledCovariates, Standardizer
from .series import SeriesSet
from .sets import offsets_of
from .windows import Batch, Layout, WindowSource

__all__ = ["ForecastModel", "View"]

# windows, or sampled paths of windows, that go through the network at once
CHUNK = 2048


@dataclass(frozen=True)
class ForecastModel:
    """What is known after training, apart from the data.

    Parameters
    ----------
    network : ForecastNetwork
    layout : Layout
    loss : Loss
    normalizer : scaling.Normalizer
    standardizer : Standardizer
        Of every row of the data of `fit`.
    covariates : CovariateScaler
    flags : bool
        Whether inputs tell what was observed.
    usual_gap : int, default=0
        So many missing steps at the end of a context are as often in training that the network knows them.
    linear : LinearForecast or None, default=None
        What the network's forecasts are combined with.
    """

    network: ForecastNetwork
    layout: Layout
    loss: Loss
    normalizer: Normalizer
    standardizer: Standardizer
    covariates: CovariateScaler
    flags: bool
    usual_gap: int = 0
    linear: LinearForecast | None = None

    @property
    def samples(self) -> bool:
        """Whether a forecast is a set of sampled paths."""
        return isinstance(self.loss, Likelihood)

    @property
    def is_distribution(self) -> bool:
        """Whether the network gives more than a point."""
        return self.samples or self.levels is not None

    @property
    def counts(self) -> bool:
        """Whether values are counts, which are not normalised."""
        return self.normalizer.method == "mean"

    @property
    def levels(self) -> np.ndarray | None:
        """Quantiles that were trained, of shape (q,), or None."""
        return np.atleast_1d(self.loss.level) if isinstance(self.loss, Quantile) else None

    def middle(self, values: np.ndarray) -> np.ndarray:
        """Return the point forecast: the median, where there are quantiles or paths.

        Parameters
        ----------
        values : ndarray of shape (..., q)

        Returns
        -------
        ndarray of shape (...)
        """
        if self.samples:
            return np.median(values, axis=-1)
        if self.levels is None:
            return values[..., 0]
        return values[..., int(np.argmin(np.abs(self.levels - 0.5)))]

    def predict(self, batch: Batch) -> np.ndarray:
        """Forecast the horizon of windows, on their normalised scale; not stepwise.

        Parameters
        ----------
        batch : Batch
            Of n windows.

        Returns
        -------
        ndarray of shape (n, H * C, q)
        """
        raw = self.network.forward(batch)
        values = self.loss.predict(raw)
        values = values.reshape(*raw.shape[:2], -1)  # quantiles have an axis for their single target
        if self.linear is None:
            return values
        toward = self.linear.forecast(batch.values, self.network.n_jobs) - self.middle(values)
        return values + (values.dtype.type(1 - self.linear.share) * toward)[..., np.newaxis]

    def view(self, data: SeriesSet, members: np.ndarray | None = None) -> View:
        """Lay the model over data.

        Parameters
        ----------
        data : SeriesSet
        members : ndarray of int of shape (n_series,), default=None
            Which series of `fit` each of them is; -1 for one that was not there, which is scaled by what
            there is of it. None: the same series in the same order.

        Returns
        -------
        View
        """
        members = np.arange(data.n_series) if members is None else np.asarray(members, np.int64)
        rows = data.n_channels * members[:, np.newaxis] + np.arange(data.n_channels)
        known = self.standardizer.take(np.maximum(rows, 0).ravel())
        if (members < 0).any():
            method = None if self._as_is else self.normalizer.method
            found = Standardizer.fit(data, data.lengths, method, np.median(self.standardizer.scale))
            new = np.repeat(members < 0, data.n_channels)
            known = Standardizer(*(np.where(new, a, b) for a, b in zip(found, known, strict=True)))
        return View(
            self, data, known.transform(data, self.network.dtype),
            self.covariates.transform(data, self.network.dtype), known,
            members if self.layout.joint else np.maximum(rows, 0).ravel(),
        )  # fmt: skip

    @property
    def _as_is(self):
        return self.normalizer.method in (None, "mean")


class View(NamedTuple):
    """A model laid over data: windows of them for training, and their forecasts.

    Attributes
    ----------
    model : ForecastModel
    data : SeriesSet
    filled : Filled
    covariates : ScaledCovariates
    standardizer : Standardizer
        Of every row of `data`.
    identity : ndarray of int of shape (n_samples,)
        Number in the network's embedding, of each row (joint: series) of `data`.
    beyond : ndarray of shape (n_series, h, F) or None
        Scaled known-future covariates of the steps behind the end of `data`, as far as they are known.
    """

    model: ForecastModel
    data: SeriesSet
    filled: Filled
    covariates: ScaledCovariates
    standardizer: Standardizer
    identity: np.ndarray
    beyond: np.ndarray | None = None

    def source(self, first: np.ndarray | None = None, last: np.ndarray | None = None) -> WindowSource:
        """Return windows with origins from `first` to `last` in each series; see `WindowSource`."""
        model = self.model
        return WindowSource(
            self.data, self.filled, self.covariates, model.layout, model.normalizer, model.loss.n_raw(1),
            first, last, counts=model.counts, flags=model.flags, identity=self.identity,
        )  # fmt: skip

    @property
    def n_samples(self) -> int:
        """How many rows windows are cut from: channels of all series; joint, series."""
        return self.data.n_series if self.model.layout.joint else self.data.n_rows

    def series_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the series that rows belong to."""
        return rows if self.model.layout.joint else rows // self.data.n_channels

    def rows_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of the data that each sample consists of, (n, C)."""
        n_channels = self.data.n_channels
        rows = np.asarray(rows)[:, np.newaxis]
        return n_channels * rows + np.arange(n_channels) if self.model.layout.joint else rows

    def ahead(self, rows: np.ndarray, origins: np.ndarray, h: int) -> np.ndarray | None:
        """Return scaled known-future covariates, (n, h, F); where none are known, the last that are."""
        if self.covariates.future is None:
            return None
        series = self.series_of(rows)
        step, end = origins[:, np.newaxis] + np.arange(h), self.data.lengths[series, np.newaxis]
        first = self.data.offsets[series, np.newaxis]
        found = self.covariates.future[first + np.minimum(step, end - 1)]
        if self.beyond is not None:
            behind = np.clip(step - end, 0, self.beyond.shape[1] - 1)
            found = np.where((step < end)[..., np.newaxis], found, self.beyond[series[:, np.newaxis], behind])
        return found

    def knows_ahead(self) -> bool:
        """Whether there is nothing beyond the end of the data that forecasts would have to know."""
        return self.covariates.future is None or self.beyond is not None

    def forecast(
        self,
        rows: np.ndarray,
        origins: np.ndarray,
        h: int,
        ahead: np.ndarray | None = None,
        n_paths: int = 1,
        seed: int = 0,
    ) -> np.ndarray:
        """Forecast windows in the units of the data.

        Where the last steps of a context are missing, more of them than is usual in training, the forecast
        begins with them: the network would take the last observed value for that of the last step.

        Parameters
        ----------
        rows : ndarray of int of shape (n,)
            Rows (joint: series) of the data.
        origins : ndarray of int of shape (n,)
            The step that is forecast first; nothing from there on is looked at.
        h : int
            Steps. Beyond the horizon, point forecasts are fed back as if they were observed.
        ahead : ndarray of shape (n, h, F), default=None
            Scaled known-future covariates; None: those in the data.
        n_paths : int, default=1
            Number of sampled paths, of a likelihood.
        seed : int, default=0
            What paths are drawn from.

        Returns
        -------
        ndarray of float64 of shape (n, h, C, q)
        """
        rows, origins = np.asarray(rows, np.int64), np.asarray(origins, np.int64)
        gaps = self.gaps(rows, origins)
        if not gaps.any():
            return self._forecast(rows, origins, h, ahead, n_paths, seed)
        starts, place = origins - gaps, np.arange(len(rows))
        if ahead is None:  # origins in one gap are answered by one forecast, which begins where it does
            pairs, place = np.unique(np.stack([rows, starts]), axis=1, return_inverse=True)
            (rows, starts), place = pairs, place.ravel()
        reach = np.zeros(len(rows), np.int64)
        np.maximum.at(reach, place, gaps)
        found: np.ndarray | None = None
        for gap in np.unique(reach):
            chosen = np.flatnonzero(reach == gap)
            row, start, known = rows[chosen], starts[chosen], None
            if ahead is not None:
                known = np.concatenate([self.ahead(row, start, gap), ahead[chosen]], axis=1)
            values = self._forecast(row, start, h + gap, known, n_paths, seed)
            if found is None:
                found = np.empty((len(origins), h, *values.shape[2:]))
            asked = np.flatnonzero(reach[place] == gap)
            steps = gaps[asked, np.newaxis] + np.arange(h)
            found[asked] = values[np.searchsorted(chosen, place[asked])[:, np.newaxis], steps]
        return found

    def gaps(self, rows: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Return how many missing steps before origins are forecast too, (n,)."""
        if self.filled.observed is None:
            return np.zeros(len(rows), np.int64)
        last = self.data.row_starts[self.rows_of(rows)] + origins[:, np.newaxis] - 1
        gaps = missing_before(self.filled.observed)[last].min(axis=1)  # of channels that are read together
        # what training has often, the network knows; contexts without a value are not among it
        usual = min(self.model.usual_gap, self.model.layout.context - 1)
        known = (gaps <= usual) | (gaps >= origins)  # or nothing was observed before
        return np.where(known, 0, gaps)

    def _forecast(self, rows, origins, h, ahead, n_paths, seed):
        """See `forecast`; the contexts are taken as they end."""
        rng = np.random.default_rng(seed)
        n_paths = n_paths if self.model.samples else 1
        size = max(1, CHUNK // n_paths)
        source = self.source(*_no_samples(self.data))
        pieces = []
        for start in range(0, len(rows), size):
            row, origin = rows[start : start + size], origins[start : start + size]
            known = self.ahead(row, origin, h) if ahead is None else ahead[start : start + size]
            if self.model.layout.stepwise:
                values = self._stepwise(source, row, origin, h, known, n_paths, rng)
            else:
                values = self._blocks(source, row, origin, h, known)
            pieces.append(self.standardizer.inverse(values, self.rows_of(row)))
        return np.concatenate(pieces)

    def _stepwise(self, source, rows, origins, h, ahead, n_paths, rng):
        """Forecast one step after the other, standardised: (n, h, C, q)."""
        model = self.model
        batch, center, scale = source.batch(rows, origins, ahead)

        def feed(raw):
            return model.loss.sample(raw, rng) if model.samples else model.loss.predict(raw)

        divisor = scale[:, 0] if model.counts else None
        values = model.network.generate(batch, h, feed, n_paths, divisor)  # [n, h * C, q]
        return source.unscale(values, center, scale)

    def _blocks(self, source, rows, origins, h, ahead):
        """Forecast one horizon after the other, standardised: (n, h, C, q)."""
        model, view, blocks = self.model, self, []
        horizon = model.layout.horizon
        while True:
            known = None if ahead is None else ahead[:, :horizon]
            batch, center, scale = source.batch(rows, origins, known)
            blocks.append(source.unscale(model.predict(batch), center, scale))
            if len(blocks) * horizon >= h:
                return np.concatenate(blocks, axis=1)[:, :h]
            view = view._extended(rows, origins, model.middle(blocks[-1]), known)
            rows, origins = np.arange(len(rows)), view.data.lengths
            source = view.source(*_no_samples(view.data))
            ahead = None if ahead is None else ahead[:, horizon:]

    def _extended(self, rows, origins, block, ahead):
        """View of the ends of windows, each a series of its own, with a forecast (n, H, C) behind it."""
        n, horizon, n_channels = block.shape
        kept = np.minimum(origins, self.model.layout.context)
        ends = self.data.row_starts[self.rows_of(rows)] + origins[:, np.newaxis]

        def join(old, new):
            pieces = [
                part for i in range(n) for c in range(n_channels)
                for part in (old[ends[i, c] - kept[i] : ends[i, c]], new[i, :, c])
            ]  # fmt: skip
            return np.concatenate(pieces).astype(old.dtype)

        values, observed = self.filled
        values = join(values, block)
        observed = None if observed is None else join(observed, np.ones(block.shape, bool))
        offsets = offsets_of(kept + horizon)
        series = self.series_of(rows)
        steps = self.data.offsets[series] + origins

        def timed(old, new):
            if old is None:
                return None
            return np.concatenate(
                [part for i in range(n) for part in (old[steps[i] - kept[i] : steps[i]], new(i))]
            )

        past, future, static = self.covariates
        covariates = ScaledCovariates(
            # what is not known ahead stays as it last was
            timed(past, lambda i: np.repeat(past[steps[i] - 1 : steps[i]], horizon, axis=0)),
            timed(future, lambda i: ahead[i]),
            None if static is None else static[series],
        )
        data = replace(
            self.data, values=values.astype(np.float64), offsets=offsets, n_channels=n_channels,
            starts=None, past=None, future=None, static=None,
        )  # fmt: skip
        return View(
            self.model, data, Filled(values, observed), covariates, self.standardizer, self.identity[rows]
        )


def missing_before(observed: np.ndarray) -> np.ndarray:
    """Count the missing steps up to each: 0 where it was observed.

    >>> import numpy as np
    >>> from numbarnn.forecasting.model import missing_before
    >>> missing_before(np.array([True, False, False, True, False])).tolist()
    [0, 1, 2, 0, 1]
    """
    step = np.arange(len(observed))
    return step - np.maximum.accumulate(np.where(observed, step, -1))


def gaps_before(data: SeriesSet, ends: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the longest gap before one of the last ``n[i]`` origins up to ``ends[i]``, (n_series,).

    Forecasts from there begin behind the last observed value, so far before the origin; what nothing was
    observed before is no gap.
    """
    longest = np.zeros(data.n_rows, np.int64)
    if data.has_missing:
        gaps, starts = missing_before(~np.isnan(data.values)), data.row_starts
        ends, n = (np.repeat(each, data.n_channels) for each in (ends, n))
        for row, (start, end, first) in enumerate(zip(starts, ends, np.maximum(ends - n, 0), strict=True)):
            found = gaps[start + first : start + end]
            longest[row] = found[found <= np.arange(first, end)].max(initial=0)
    return longest.reshape(data.n_series, -1).max(axis=1)


def usual_gap(data: SeriesSet) -> int:
    """Return up to which number of missing steps each is there before one step in twenty."""
    if not data.has_missing:
        return 0
    counts = np.bincount(missing_before(~np.isnan(data.values)))[1:]
    rare = counts < len(data.values) / 20
    return int(rare.argmax()) if rare.any() else len(counts)


def _no_samples(data):
    """Origins that make a source without training samples."""
    return np.ones(data.n_series, np.int64), np.zeros(data.n_series, np.int64)
