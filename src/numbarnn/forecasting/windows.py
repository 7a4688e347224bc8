"""Windows of many long series: a context and what follows it, cut out when they are asked for.

`WindowSource` is a `numbarnn.training.Source`; `Sampled` is one that shows a part of another's samples.

Letters: n windows of a batch, L context, H horizon, C channels of a sample, w steps in a segment, T segments
read, m segments written, E = H * C outputs (stepwise (L + H - 1) * C), K raw outputs of each. A row is what
samples are cut from: one channel of a series, or with `joint` a series. The origin of a window is the number
of the step in its series that is forecast first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from .scaling import Filled, Normalizer, ScaledCovariates
    from .series import SeriesSet

__all__ = ["Batch", "Layout", "Sampled", "Tables", "WindowSource"]

# samples that are looked at together when those without an observed value are sought
CHUNK = 2**16


class Layout(NamedTuple):
    """Lengths of a window and of the pieces that it is read and written in.

    Attributes
    ----------
    context, horizon : int
        Steps that are read, and steps that are forecast.
    segment, decode : int
        Steps in a segment that is read, and in one that is written.
    joint : bool
        Whether a sample is a window of all channels (else of one).
    stepwise : bool
        Whether inputs are single steps, each with the step before it as target (the recursive decoder).
    """

    context: int
    horizon: int
    segment: int
    decode: int
    joint: bool = False
    stepwise: bool = False


class Batch(NamedTuple):
    """What a network is given of n windows.

    Features of a step stand in the order values (C), observed flags (Z), known-future covariates (F), past
    covariates (P). T is the number of segments, w their length, m the number of segments written.

    Attributes
    ----------
    context : ndarray of shape (n, T, w * (C + Z + F + P))
        Stepwise, (n, L + H - 1, C + Z + F + P) in training and (n, L, ...) in prediction: input j has values,
        flags and past covariates of step j of the window, and future covariates of step j + 1; its target is
        step j + 1. The last input of a prediction gives the first step of the forecast.
    lengths : ndarray of int64 of shape (n,) or None
        Valid segments (stepwise: steps), which stand in front; None if all are valid.
    series : ndarray of int64 of shape (n,)
        Number of the row (joint: of the series) in the network's embedding.
    future : ndarray of shape (n, m, decode * F) or None
        Known-future covariates of the steps to be forecast; stepwise (n, h, F) in prediction, from the first
        step of the forecast on, None in training.
    static : ndarray of shape (n, n_static) or None
    offset : ndarray of shape (n, 1, K) or None
        To be added to the raw output (n, E, K). With several channels (n, E, K), in stepwise prediction
        (n, C, K).
    values : ndarray of shape (n, L, C) or None
        The normalised values of the context alone, in order of time; stepwise None.
    """

    context: np.ndarray
    lengths: np.ndarray | None
    series: np.ndarray
    future: np.ndarray | None = None
    static: np.ndarray | None = None
    offset: np.ndarray | None = None
    values: np.ndarray | None = None


class Tables(NamedTuple):
    """What windows are cut from, for those who cut them elsewhere.

    Attributes
    ----------
    layout : Layout
    normalizer : scaling.Normalizer
    values : ndarray of shape (N,)
        Of all rows, without holes.
    observed, target : ndarray of bool of shape (N,) or None
        Which values are true ones, and which of these are targets; None for all.
    step0, first : ndarray of int64 of shape (rows, C)
        Where step 0 of each channel lies in the values, and the first step that was observed.
    offsets, series, identity : ndarray of int64 of shape (rows,)
        Where step 0 lies in the covariates, the number of the series, and that in the network's embedding.
    past, future, static : ndarray or None
        Covariates of all steps, of all steps, of all series.
    flags : bool
        Whether inputs tell what was observed.
    mean_weight : float
        What the weight 1 of a target is divided by.
    shortest : int
        Steps of the shortest context.
    counts : bool
        Whether targets are left as they are.
    """

    layout: Layout
    normalizer: Normalizer
    values: np.ndarray
    observed: np.ndarray | None
    target: np.ndarray | None
    step0: np.ndarray
    first: np.ndarray
    offsets: np.ndarray
    series: np.ndarray
    identity: np.ndarray
    past: np.ndarray | None
    future: np.ndarray | None
    static: np.ndarray | None
    flags: bool
    mean_weight: float
    shortest: int
    counts: bool


class WindowSource:
    """Windows as views into the series: only those of one batch are ever copied.

    Rows with room for a whole context are cut into whole windows only; shorter ones into windows whose
    context is what there is, from a quarter of the context length on. Windows without an observed value in
    the context or in the horizon are left out.

    Parameters
    ----------
    data : SeriesSet
        Says where each series begins and ends; its values are not read.
    filled : Filled
        Its values, standardised.
    covariates : ScaledCovariates or None
    layout : Layout
    normalizer : scaling.Normalizer
    n_raw : int
        Raw outputs of an element.
    first, last : ndarray of int of shape (n_series,), default=None
        First and last origin of each series. None: as above, and the last from which the horizon is known.
        A series with ``last < first`` gives no samples.
    counts : bool, default=False
        Targets are left as they are; the scale v of a window enters as an offset (log v, log(v) / 2) of the
        raw outputs, the logarithms of mean and 1 / dispersion [1]_.
    flags : bool, default=None
        Whether inputs tell what was observed; None: if anything is missing.
    identity : ndarray of int of shape (n_rows,), default=None
        Number of each row (joint: series) in the network's embedding; None: that of the row.

    Attributes
    ----------
    n_samples, n_channels : int
        Samples, and channels of each.
    dtype : dtype
        That of the values.

    Raises
    ------
    ValueError
        If an origin has no context, or no horizon; if `counts` is asked for with other than 2 raw outputs.

    References
    ----------
    .. [1] Salinas et al., "DeepAR: Probabilistic forecasting with autoregressive recurrent networks",
       International Journal of Forecasting 36 (2020), 1181-1191, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.forecasting.scaling import Normalizer, Standardizer
    >>> from numbarnn.forecasting.series import read
    >>> data, _ = read(np.arange(8.0))
    >>> filled = Standardizer(np.zeros(1), np.ones(1)).transform(data, "float32")
    >>> source = WindowSource(data, filled, None, Layout(4, 2, 2, 2), Normalizer("last"), n_raw=1)
    >>> source.n_samples
    3
    >>> x, y, _, _ = source.gather(np.array([1]))
    >>> x.context.tolist(), y.ravel().tolist()
    ([[[-3.0, -2.0], [-1.0, 0.0]]], [1.0, 2.0])
    """

    def __init__(
        self,
        data: SeriesSet,
        filled: Filled,
        covariates: ScaledCovariates | None,
        layout: Layout,
        normalizer: Normalizer,
        n_raw: int,
        first: np.ndarray | None = None,
        last: np.ndarray | None = None,
        counts: bool = False,
        flags: bool | None = None,
        identity: np.ndarray | None = None,
    ) -> None:
        if counts and n_raw != 2:
            raise ValueError(f"n_raw was {n_raw}; expected 2 with counts")
        self.layout, self.normalizer = layout, normalizer
        self._values, self._observed = filled
        self._covariates, self._counts = covariates, counts
        self._flags = self._observed is not None if flags is None else flags
        self._n_channels = data.n_channels
        # where step 0 of each channel lies in the values, (n_rows, C), and of each row in the covariates
        step0 = data.n_channels * data.offsets[:-1, None] + np.arange(data.n_channels) * data.lengths[:, None]
        repeats = 1 if layout.joint else data.n_channels
        self._step0 = step0 if layout.joint else step0.reshape(-1, 1)
        self.n_channels, self.dtype = self._step0.shape[1], self._values.dtype
        self._offsets, self._lengths, first, last = (
            None if each is None else np.repeat(np.asarray(each, np.int64), repeats)
            for each in (data.offsets[:-1], data.lengths, first, last)
        )
        self._series = np.repeat(np.arange(len(data.lengths)), repeats)
        self._identity = np.arange(len(self._series)) if identity is None else np.asarray(identity, np.int64)
        self._lay_out(first, last)
        self._kept, self._mean_weight, self._target = None, 1.0, self._observed
        if self._observed is not None:
            self._find_first_observed()
        if self._observed is not None or layout.stepwise:
            self._count_observed()
        self.n_samples = int(self._ends[-1]) if self._kept is None else len(self._kept)

    def gather(self, indices: np.ndarray) -> tuple[Batch, np.ndarray, np.ndarray | None, None]:
        """Copy out the samples of one batch.

        Parameters
        ----------
        indices : ndarray of int of shape (n,)
            Numbers of samples, from 0 to `n_samples` - 1.

        Returns
        -------
        x : Batch
        y : ndarray of shape (n, E, 1)
            What followed, on the scale of `x` (counts: as it was); 0 where the weight is 0 for good.
        sample_weight : ndarray of shape (n, E) or None
            0 where the target was not observed, and stepwise in the first quarter of the context, or in
            all of it where the normalizer betrays it; the mean over all samples is 1. None for ones.
        lengths : None
            Those of `x` are no matter of the outputs.
        """
        rows, origins = self.locate(indices)
        context, horizon = self.layout.context, self.layout.horizon
        window, seen = self._window(rows, origins, context + horizon)
        first = 1 if self.layout.stepwise else context  # the first step that is a target
        y = window[:, first:].copy()
        x, center, scale = self._batch(rows, origins, window, seen, None)
        if not self._counts:
            y -= center
            y /= scale
        weight = self._weights(rows, origins, first)
        if x.lengths is not None and self.layout.stepwise:
            y, weight = _to_front(y, x.lengths), _to_front(weight, x.lengths)
        n = len(rows)
        return x, y.reshape(n, -1, 1), None if weight is None else weight.reshape(n, -1), None

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the origin of each of some samples; see `gather`."""
        return self._locate(indices if self._kept is None else self._kept[indices])

    def tables(self) -> Tables:
        """Return what samples are cut from."""
        covariates = (None, None, None) if self._covariates is None else self._covariates
        has_windows = np.diff(self._ends) > 0
        shortest = min(self.layout.context, int(self._first[has_windows].min(initial=self.layout.context)))
        first = np.zeros_like(self._step0) if self._observed is None else self._first_observed
        return Tables(
            self.layout, self.normalizer, self._values, self._observed, self._target, self._step0, first,
            self._offsets, self._series, self._identity, *covariates, self._flags, self._mean_weight,
            shortest, self._counts,
        )  # fmt: skip

    def batch(
        self, rows: np.ndarray, origins: np.ndarray, ahead: np.ndarray | None = None
    ) -> tuple[Batch, np.ndarray, np.ndarray]:
        """Copy out windows to be forecast; nothing from their origin on is read but known-future covariates.

        Parameters
        ----------
        rows : ndarray of int of shape (n,)
            Numbers of rows (joint: of series).
        origins : ndarray of int of shape (n,)
            The step that is forecast first, from 1 to the length of the series.
        ahead : ndarray of shape (n, h, F), default=None
            Scaled known-future covariates from the origin on. None: those of the data.

        Returns
        -------
        x : Batch
        center, scale : ndarray of shape (n, 1, C)

        Raises
        ------
        ValueError
            If an origin is outside of its series, or covariates are neither given nor known.
        """
        rows, origins = np.asarray(rows, np.int64), np.asarray(origins, np.int64)
        outside = (origins < 1) | (origins > self._lengths[rows])
        if outside.any():
            origin, row = origins[outside][0], rows[outside][0]
            raise ValueError(f"origins had {origin}; expected 1 to {self._lengths[row]} in row {row}")
        window, seen = self._window(rows, origins, self.layout.context)
        return self._batch(rows, origins, window, seen, ahead)

    def unscale(self, values: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Undo the normalisation of windows; counts were never normalised.

        Parameters
        ----------
        values : ndarray of shape (n, h * C, ...)
            Predictions, quantiles or samples.
        center, scale : ndarray of shape (n, 1, C)

        Returns
        -------
        ndarray of float64 of shape (n, h, C, ...)
        """
        values = np.asarray(values, np.float64)
        values = values.reshape(len(values), -1, center.shape[2], *values.shape[2:])
        if self._counts:
            return values
        shape = center.shape + (1,) * (values.ndim - 3)
        return values * scale.astype(np.float64).reshape(shape) + center.astype(np.float64).reshape(shape)

    def rows_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of the data, (n, C), that these rows of the source (joint: series) are made of."""
        rows = np.asarray(rows)[:, None]
        return self._n_channels * rows + np.arange(self._n_channels) if self.layout.joint else rows

    def _lay_out(self, first, last):
        """Give the windows numbers: row by row, in each by origin."""
        context, horizon = self.layout.context, self.layout.horizon
        known = self._lengths - horizon
        last = known if last is None else last
        if first is None:
            # the quarter keeps out contexts that say nearly nothing
            short = np.minimum(max(1, context // 4), np.maximum(last, 1))
            first = np.where(last >= context, context, short)
        wrong = (first <= last) & ((first < 1) | (last > known))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"origins of row {row} were {first[row]} to {last[row]}; "
                f"expected them within 1 to {known[row]}"
            )
        self._first = first
        self._ends = np.concatenate([[0], np.cumsum(np.maximum(last - first + 1, 0))])

    def _locate(self, samples):
        """Row and origin of samples counted without regard to what was observed."""
        rows = np.searchsorted(self._ends, samples, side="right") - 1
        return rows, self._first[rows] + samples - self._ends[rows]

    def _find_first_observed(self):
        """Find each channel's first observed step, (n_rows, C): the steps before it know its value."""
        where = np.append(np.flatnonzero(self._observed), len(self._observed))
        self._first_observed = where[np.searchsorted(where, self._step0)] - self._step0
        if self.layout.stepwise:
            # that value is the input of the step before, so it is no target
            self._target = self._observed.copy()
            found = (self._first_observed + self._step0).ravel()
            self._target[found[found < len(self._target)]] = False

    def _count_observed(self):
        """Leave out windows without an observed value; find the mean of the weights of the others."""
        context, horizon, stepwise = self.layout.context, self.layout.horizon, self.layout.stepwise
        missing = self._observed is not None
        if missing:
            known, counted = (np.concatenate([[0], np.cumsum(a)]) for a in (self._observed, self._target))
        kept, total = [], 0
        for start in range(0, int(self._ends[-1]), CHUNK):
            samples = np.arange(start, min(start + CHUNK, int(self._ends[-1])))
            rows, origins = self._locate(samples)
            length = np.minimum(origins, context)
            n_before = self._targets_before(length)
            if not missing:
                total += int((n_before + horizon).sum()) * self.n_channels
                continue
            at = self._step0[rows] + origins[:, None]
            n_known = known[at] - known[at - length[:, None]]
            n_counted = counted[at + horizon] - counted[at]
            keep = (n_known.sum(axis=1) > 0) & (n_counted.sum(axis=1) > 0)
            kept.append(samples[keep])
            from_context = counted[at] - counted[at - n_before[:, None]]
            total += int((n_counted + from_context)[keep].sum())
        if missing:
            kept = np.concatenate([np.zeros(0, np.int64), *kept])
            self._kept = kept if len(kept) < self._ends[-1] else None
        n = int(self._ends[-1]) if self._kept is None else len(self._kept)
        steps = context + horizon - 1 if stepwise else horizon
        self._mean_weight = total / max(n * steps * self.n_channels, 1) or 1.0

    def _targets_before(self, length):
        """How many of the last steps of contexts, whose lengths are given, are targets too."""
        if not self.layout.stepwise or self.normalizer.betrays_context:
            return np.zeros_like(length)
        return length - length // 4 - 1

    def _window(self, rows, origins, length):
        """Values, (n, length, C), from L steps before the origin on, and where they count (None: everywhere).

        What lies before the first step is the value of the first step.
        """
        step0 = self._step0[rows]
        window = self._cut(self._values, step0, origins, length)
        seen = None
        if self._observed is not None:
            seen = self._cut(self._observed, step0, origins, length)
            # a value that was carried back from the origin or beyond must not be seen from before it
            first = self._first_observed[rows]
            late = first >= origins[:, None]
            if late.any():
                before = self._steps(origins, length)[:, :, None] < first[:, None, :]
                window[before & late[:, None, :]] = 0
        if (origins < self.layout.context).any():
            inside = np.broadcast_to(self._steps(origins, length)[:, :, None] >= 0, window.shape)
            seen = inside if seen is None else seen & inside
        return window, seen

    def _steps(self, origins, length):
        """Numbers of the steps of windows, (n, length); negative before the first."""
        return origins[:, None] - self.layout.context + np.arange(length)

    def _cut(self, array, step0, origins, length):
        """Copy out of (N,) or (N, k) arrays, with step0 (n, C) or (n,): (n, length, C) or (n, length, k)."""
        if len(origins) and origins.min() >= self.layout.context:
            start = (step0.T + origins - self.layout.context).T
            return sliding_window_view(array, length, axis=0)[start].swapaxes(1, 2)
        index = step0[..., None] + np.maximum(self._steps(origins, length), 0).reshape(
            len(origins), *(1,) * (step0.ndim - 1), length
        )
        return array[index].swapaxes(1, 2) if step0.ndim == 2 else array[index]

    def _batch(self, rows, origins, window, seen, ahead):
        """Make the inputs of windows, in their memory, and the centre and scale of each."""
        layout = self.layout
        context = layout.context
        known = None if seen is None else seen[:, :context]
        center, scale = self.normalizer(window[:, :context], known)
        training = window.shape[1] > context
        steps = window.shape[1] - 1 if layout.stepwise and training else context
        inputs = window[:, :steps]
        inputs -= center
        inputs /= scale
        future = self._future(rows, origins, ahead)
        features = self._features(rows, origins, inputs, seen, future)
        length = np.minimum(origins, context)
        if layout.stepwise:
            lengths = length + steps - context
            future = None if training else future
        else:
            features = _in_segments(features, layout.segment)
            lengths = -(-length // layout.segment)
            future = None if future is None else self._in_pieces(future)
        lengths = lengths if (lengths < features.shape[1]).any() else None
        static = None if self._covariates is None else self._covariates.static
        x = Batch(
            np.ascontiguousarray(_to_front(features, lengths)),
            lengths,
            self._identity[rows],
            future,
            None if static is None else static[self._series[rows]],
            self._offset(scale, (steps if training else 1) if layout.stepwise else layout.horizon),
            None if layout.stepwise else inputs,
        )
        return x, center, scale

    def _features(self, rows, origins, inputs, seen, future):
        """Put values, flags and covariates of each step beside each other: (n, steps, C + Z + F + P)."""
        n, steps, n_channels = inputs.shape
        context = self.layout.context
        parts = [inputs]
        if self._flags:
            ones = np.ones((n, steps, n_channels), bool)
            flags = ones if self._observed is None else self._cut(
                self._observed, self._step0[rows], origins, steps
            )  # fmt: skip
            parts.append(flags.astype(inputs.dtype))
        if future is not None:
            past = self._cut(self._covariates.future, self._offsets[rows], origins, context)
            both = np.concatenate([past, future], axis=1)
            parts.append(both[:, 1 : steps + 1] if self.layout.stepwise else past)
        if self._covariates is not None and self._covariates.past is not None:
            past = self._cut(self._covariates.past, self._offsets[rows], origins, context)
            # from the origin on they are not known: the last one holds
            parts.append(past[:, np.minimum(np.arange(steps), context - 1)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _future(self, rows, origins, ahead):
        """Known-future covariates from the origin on, (n, h, F), or None if there are none."""
        if self._covariates is None or self._covariates.future is None:
            return None
        if ahead is not None:
            return np.asarray(ahead, self._values.dtype)
        lacking = origins + self.layout.horizon > self._lengths[rows]
        if lacking.any():
            row = int(rows[lacking.argmax()])
            raise ValueError(
                f"ahead was None; expected known-future covariates of the {self.layout.horizon} steps from "
                f"{int(origins[lacking.argmax()])} on of row {row}, whose data end at {self._lengths[row]}"
            )
        step = (self._offsets[rows] + origins)[:, None] + np.arange(self.layout.horizon)
        return self._covariates.future[step]

    def _in_pieces(self, future):
        """Cut (n, h, F) into the segments that are written, (n, m, decode * F); the last step fills up."""
        pieces = -(-self.layout.horizon // self.layout.decode)
        step = np.minimum(np.arange(pieces * self.layout.decode), future.shape[1] - 1)
        return future[:, step].reshape(len(future), pieces, -1)

    def _weights(self, rows, origins, first):
        """Weight of each target, (n, steps, C), or None for ones."""
        length, dtype = self.layout.context + self.layout.horizon, self._values.dtype
        if self._target is not None:
            weight = self._cut(self._target, self._step0[rows], origins, length)[:, first:].astype(dtype)
        elif self.layout.stepwise:
            weight = np.ones((len(rows), length - first, self.n_channels), dtype)
        else:
            return None
        if self.layout.stepwise:
            begin = self.layout.context - self._targets_before(np.minimum(origins, self.layout.context))
            weight[np.arange(first, length) < begin[:, None]] = 0
        weight /= dtype.type(self._mean_weight)
        return weight

    def _offset(self, scale, steps):
        """Offset of the raw outputs that the scale (n, 1, C) of counts amounts to, or None."""
        if not self._counts:
            return None
        log = np.log(scale).swapaxes(1, 2)
        offset = np.concatenate([log, 0.5 * log], axis=2)
        return offset if scale.shape[2] == 1 else np.tile(offset, (1, steps, 1))


class Sampled:
    """Some of the samples of another source, others after each `advance`; or all of them several times.

    Parameters
    ----------
    source : Source
    n_samples : int
        How many. If there are fewer, they are shown again and again, one at most once more than another.
    rng : numpy.random.Generator

    Examples
    --------
    >>> import numpy as np
    >>> class Numbers:
    ...     n_samples = 1000
    ...     def gather(self, indices):
    ...         return indices
    >>> source = Sampled(Numbers(), 3, np.random.default_rng(0))
    >>> len(np.unique(source.gather(np.arange(source.n_samples))))
    3
    >>> Sampled(Numbers(), 2500, np.random.default_rng(0)).n_samples
    2500
    """

    def __init__(self, source: WindowSource, n_samples: int, rng: np.random.Generator) -> None:
        self.source, self.rng, self.n_samples = source, rng, n_samples
        self.advance()

    def advance(self) -> None:
        """Draw other samples."""
        n = self.source.n_samples
        if self.n_samples > n:
            self._chosen = np.resize(self.rng.permutation(n), self.n_samples)
        else:
            self._chosen = self.rng.choice(n, self.n_samples, replace=False, shuffle=False)

    def gather(self, indices: np.ndarray) -> tuple:
        """See `WindowSource.gather`."""
        return self.source.gather(self._chosen[indices])

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `WindowSource.locate`."""
        return self.source.locate(self._chosen[indices])

    def tables(self) -> Tables:
        """See `WindowSource.tables`."""
        return self.source.tables()


def _in_segments(features, segment):
    """Cut (n, L, k) into (n, ceil(L / w), w * k); the first one is filled up with the oldest step."""
    n, length, width = features.shape
    lacking = -length % segment
    if lacking:
        oldest = np.broadcast_to(features[:, :1], (n, lacking, width))
        features = np.concatenate([oldest, features], axis=1)
    return features.reshape(n, -1, segment * width)


def _to_front(array, lengths):
    """Move the last ``lengths[i]`` steps of each (n, T, ...) to the front; zeros follow."""
    if lengths is None:
        return array
    n, steps = array.shape[:2]
    step = np.arange(steps)
    moved = array[np.arange(n)[:, None], np.minimum(step + steps - lengths[:, None], steps - 1)]
    moved[step >= lengths[:, None]] = 0
    return moved
