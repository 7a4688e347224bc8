"""Windows of series on the device: a `numbarnn.forecasting.windows.WindowSource`, cut out there.

The series lie there once, and their windows nowhere: a batch is told by the rows and origins of its samples,
which the host finds once an epoch. Letters are those of that module: L context, H horizon, C channels, w
steps in a segment, T segments read, m segments written; of a layout that is stepwise T = L + H - 1 steps of
context and horizon, each with the step behind it as target. Flat arrays of kernels, besides those of
`numbarnn.forecasting.windows.Tables`:

    rows, origins (n,)          of the samples in the order in which they are shown
    center, scale (B, C)        of the windows of a batch

`control[0]` is the number of the batch, as for the other kernels that gather.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cuda.driver import SIMULATED, cuda, empty, upload
from numbarnn.cuda.functions import inline

if TYPE_CHECKING:
    from numbarnn.cuda.decoders import ForecastWay
    from numbarnn.cuda.program import Program
    from numbarnn.forecasting.windows import Sampled, WindowSource

__all__ = ["Cut", "DeviceWindows"]

THREADS = 2 if SIMULATED else 128  # of the block that has a window; a power of two


class Cut(NamedTuple):
    """Sizes of the windows of a batch; all are int.

    Attributes
    ----------
    B, size : int
        Samples of this batch, and of all before it.
    L, H, C, w, T, m, decode : int
        See above, and the steps in a segment that is written.
    lacking : int
        How many steps the first segment is filled up with.
    further, ahead : int
        Stepwise, steps read behind the context, H - 1, and 1, as known-future covariates are of the step to
        come; else 0.
    flags, F, P, S : int
        Columns of flags, known-future, past and static covariates.
    missing : int
        1 if there are values that were not observed, else 0.
    betrayed : int
        1 if the normalizer betrays the context, so that no step of it is a target, else 0.
    """

    B: int
    size: int
    L: int
    H: int
    C: int
    w: int
    T: int
    m: int
    decode: int
    lacking: int
    further: int
    ahead: int
    flags: int
    F: int
    P: int
    S: int
    missing: int
    betrayed: int


@inline
def _value(values, step0, step, first, origin, zero):
    """Value of a step of a window; one that was carried back from its origin or beyond is not shown."""
    return zero if first >= origin and step < first else values[step0 + max(step, 0)]


@inline
def _seen(observed, missing, step0, step):
    """Whether there is such a step, and its value is a true one."""
    return step >= 0 and (missing == 0 or observed[step0 + step] > 0)


@cuda.jit
def window_lasts(n, shifts, zero, one, control, rows, origins, step0, first, values, observed, center, scale):
    """Of each window take the last observed value of the context, or if not `shifts` zero; the scale is 1."""
    start = int(control[0]) * n.size
    for i in range(cuda.grid(1), n.B * n.C, cuda.gridsize(1)):
        origin, own = origins[start + i // n.C], rows[start + i // n.C] * n.C + i % n.C
        step, least = origin - 1, max(origin - n.L, 0)
        while step >= least and not _seen(observed, n.missing, step0[own], step):
            step -= 1
        if step < least:
            step = origin - 1
        center[i] = _value(values, step0[own], step, first[own], origin, zero) if shifts else zero
        scale[i] = one


@cuda.jit
def window_moments(
    n, sizes, zero, least, control, rows, origins, step0, first, values, observed, center, scale
):
    """Of each window find mean and deviation of what was observed in the context; a block has a window.

    With `sizes` the centre is zero, and the scale one plus the mean size of the values: for counts.
    """
    parts = cuda.shared.array(THREADS, np.float64)
    counts = cuda.shared.array(THREADS, np.float64)
    thread, i = cuda.threadIdx.x, cuda.blockIdx.x
    sample = int(control[0]) * n.size + i // n.C
    origin, own = origins[sample], rows[sample] * n.C + i % n.C
    for moment in range(2):
        parts[thread] = 0.0
        counts[thread] = 0.0
        for step in range(max(origin - n.L, 0) + thread, origin, THREADS):
            if _seen(observed, n.missing, step0[own], step):
                value = np.float64(_value(values, step0[own], step, first[own], origin, zero))
                if sizes:
                    value = abs(value)
                elif moment == 1:
                    value = (value - center[i]) * (value - center[i])
                parts[thread] += value
                counts[thread] += 1.0
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if thread < half:
                parts[thread] += parts[thread + half]
                counts[thread] += counts[thread + half]
            cuda.syncthreads()
            half //= 2
        if thread == 0:
            if sizes:
                center[i] = zero
                scale[i] = 1.0 + parts[0] / max(counts[0], 1.0)
            elif moment == 1:
                deviation = math.sqrt(parts[0] / max(counts[0], 1.0))
                scale[i] = max(deviation, np.float64(least))
            elif counts[0] > 0:
                center[i] = parts[0] / counts[0]
            else:
                center[i] = _value(values, step0[own], origin - 1, first[own], origin, zero)
        cuda.syncthreads()


@cuda.jit
def window_valid(n, control, origins, valid):
    """Tell which segments there are (T, B): those of short contexts stand in front."""
    start = int(control[0]) * n.size
    for i in range(cuda.grid(1), n.T * n.B, cuda.gridsize(1)):
        length = (min(origins[start + i % n.B], n.L) + n.w - 1) // n.w + n.further
        valid[i] = i // n.B < length


@cuda.jit
def window_contexts(
    n, zero, one, control, rows, origins, step0, first, offsets, values, observed, future, past, center,
    scale, out,
):  # fmt: skip
    """Cut contexts into segments: (T, B, w * (C + flags + F + P)); zero where there is no segment."""
    start, width = int(control[0]) * n.size, n.C + n.flags + n.F + n.P
    for i in range(cuda.grid(1), n.T * n.B * n.w * width, cuda.gridsize(1)):
        k, row = i % width, i // (n.w * width)
        t, b = row // n.B, row % n.B
        origin, r = origins[start + b], rows[start + b]
        length = (min(origin, n.L) + n.w - 1) // n.w + n.further
        # the first segment is filled up with the oldest step
        s = max((t + n.T - length) * n.w + i // width % n.w - n.lacking, 0)
        step = origin - n.L + s
        at = max(step, 0)
        if t >= length:
            value = zero
        elif k < n.C:
            own = r * n.C + k
            value = _value(values, step0[own], step, first[own], origin, zero)
            value = (value - center[b * n.C + k]) / scale[b * n.C + k]
        elif k < n.C + n.flags:
            own = r * n.C + k - n.C
            value = one if n.missing == 0 or observed[step0[own] + at] > 0 else zero
        elif k < n.C + n.flags + n.F:
            value = future[(offsets[r] + max(step + n.ahead, 0)) * n.F + k - n.C - n.flags]
        else:  # from the origin on they are not known: the last one holds
            at = max(min(step, origin - 1), 0)
            value = past[(offsets[r] + at) * n.P + k - n.C - n.flags - n.F]
        out[i] = value


@cuda.jit
def window_targets(
    n, zero, weight, control, rows, origins, step0, first, values, observed, center, scale, y, weights
):
    """Cut out what follows, (B, H, C), and weigh it: zero where it was not observed."""
    start = int(control[0]) * n.size
    for i in range(cuda.grid(1), n.B * n.H * n.C, cuda.gridsize(1)):
        c, b = i % n.C, i // (n.H * n.C)
        origin, own = origins[start + b], rows[start + b] * n.C + c
        step = origin + i // n.C % n.H
        value = _value(values, step0[own], step, first[own], origin, zero)
        y[i] = (value - center[b * n.C + c]) / scale[b * n.C + c]
        weights[i] = weight if _seen(observed, n.missing, step0[own], step) else zero


@cuda.jit
def step_targets(
    n, counts, zero, weight, control, rows, origins, step0, first, values, target, center, scale, y, weights
):
    """Take the step behind each that is read, (T, B, C), and weigh it as a target.

    The first quarter of the context has none, or if it is betrayed the whole. Counts are left as they are.
    """
    start = int(control[0]) * n.size
    for i in range(cuda.grid(1), n.T * n.B * n.C, cuda.gridsize(1)):
        c, b, t = i % n.C, i // n.C % n.B, i // (n.C * n.B)
        origin, own = origins[start + b], rows[start + b] * n.C + c
        known = min(origin, n.L)
        step = origin + t + 1 - known
        y[i], weights[i] = zero, zero
        if t < known + n.further:
            value = _value(values, step0[own], step, first[own], origin, zero)
            y[i] = value if counts else (value - center[b * n.C + c]) / scale[b * n.C + c]
            begin = origin if n.betrayed else origin - known + known // 4 + 1
            if step >= begin and _seen(target, n.missing, step0[own], step):
                weights[i] = weight


@cuda.jit
def step_offsets(count, one, half, scale, offset):
    """Of the scale of counts make what is added to logarithms of mean and 1 / dispersion."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        offset[i] = math.log(scale[i // 2]) * (half if i % 2 else one)


@cuda.jit
def window_futures(n, control, rows, origins, offsets, future, out):
    """Take what is known of the future: (B, m, decode * F); the last step fills up."""
    start = int(control[0]) * n.size
    for i in range(cuda.grid(1), n.B * n.m * n.decode * n.F, cuda.gridsize(1)):
        k, s, sample = i % n.F, i // n.F % (n.m * n.decode), start + i // (n.F * n.m * n.decode)
        step = origins[sample] + min(s, n.H - 1)
        out[i] = future[(offsets[rows[sample]] + step) * n.F + k]


@cuda.jit
def window_series(n, control, rows, series, identity, static, number, out):
    """Take the number in the embedding of each sample's row, and its series' static covariates (B, S)."""
    start, S = int(control[0]) * n.size, max(n.S, 1)
    for i in range(cuda.grid(1), n.B * S, cuda.gridsize(1)):
        row = rows[start + i // S]
        if i % S == 0:
            number[i // S] = identity[row]
        if n.S > 0:
            out[i] = static[series[row] * S + i % S]


class DeviceWindows:
    """A source of windows whose series are on the device.

    Parameters
    ----------
    source : WindowSource or Sampled
    tables : dict
        The arrays that other sources have brought to the device, by their id; those of this one join them.
    control : device array
        Where kernels tell of it.

    Attributes
    ----------
    n, T, k : int
        Samples, segments read, targets of a row.
    masked : bool
        Whether there are contexts of fewer segments.
    control : device array
    programs : dict
    """

    def __init__(
        self, source: WindowSource | Sampled, tables: dict[int, tuple[NDArray, Any]], control: Any
    ) -> None:
        self.source, found = source, source.tables()
        self._found, self._known, layout = found, tables, found.layout
        self.n, self.k, self._real = source.n_samples, 1, found.values.dtype
        segments = -(-layout.context // layout.segment)
        self.masked = -(-found.shortest // layout.segment) < segments
        self._further = layout.horizon - 1 if layout.stepwise else 0
        self.T = segments + self._further
        self.control, self.programs = control, {}
        self._values, self._observed = self._bring(found.values), self._bring(found.observed)
        self._target = self._bring(found.target)
        self._places = self._bring(found.step0), self._bring(found.first)
        self._offsets, self._series = self._bring(found.offsets), self._bring(found.series)
        self._identity = self._bring(found.identity)
        kinds = found.past, found.future, found.static
        self._past, self._future, self._static = (self._bring(each) for each in kinds)
        self._widths = [0 if each is None else each.shape[1] for each in kinds]
        self._rows, self._origins = map(upload, self._locate(np.arange(self.n)))

    def _bring(self, array: NDArray | None) -> Any:
        """Bring an array to the device, unless it is there; truth values as bytes, and None as a zero."""
        if array is None:
            return upload(np.zeros(1, self._real))
        if id(array) not in self._known:
            flat = array.view(np.uint8) if array.dtype.kind == "b" else array
            self._known[id(array)] = array, upload(flat)
        return self._known[id(array)][1]

    def shuffle(self, order: NDArray) -> None:
        """Show samples in this order from now on."""
        rows, origins = self._locate(order)
        self._rows.copy_to_device(rows)
        self._origins.copy_to_device(origins)

    def reach(self, start: int, B: int) -> int:
        """Return for how many steps masks are drawn, whatever the windows of a batch: for all."""
        return self.T

    def _locate(self, order: NDArray) -> list[NDArray]:
        return [np.ascontiguousarray(each, np.int64) for each in self.source.locate(order)]

    def _cut(self, B: int, size: int) -> Cut:
        found, layout = self._found, self._found.layout
        C, (past, future, static) = found.step0.shape[1], self._widths
        return Cut(
            B, size, layout.context, layout.horizon, C, layout.segment, self.T,
            -(-layout.horizon // layout.decode), layout.decode, -layout.context % layout.segment,
            self._further, int(layout.stepwise), C * found.flags, future, past, static,
            int(found.observed is not None), int(found.normalizer.betrays_context),
        )  # fmt: skip

    def gather(self, program: Program, way: ForecastWay, y: Any, weights: Any, size: int) -> None:
        """Add what brings a batch, of at most `size` samples, to the network's inputs and to targets."""
        n, real, chosen = self._cut(way.B, size), self._real.type, (self.control, self._rows, self._origins)
        zero, one, scales = real(0), real(1), self._scales(program, n)
        if self.masked:
            program.each(window_valid, n.T * n.B, n, self.control, self._origins, way.valid)
        data = self._values, self._observed
        arrays = *self._places, self._offsets, *data, self._future, self._past, *scales, way.inputs
        program.each(window_contexts, way.inputs.size, n, zero, one, *chosen, *arrays)
        self._targets(program, n, way, scales, y, weights)
        if n.F and not n.ahead:
            arrays = *chosen, self._offsets, self._future, way.future
            program.each(window_futures, n.B * n.m * n.decode * n.F, n, *arrays)
        arrays = self._rows, self._series, self._identity, self._static, way.series, way.static
        program.each(window_series, n.B * max(n.S, 1), n, self.control, *arrays)

    def _scales(self, program: Program, n: Cut) -> tuple[Any, Any]:
        """Add what finds centre and scale of the windows, and return where they are."""
        center, scale = (empty(n.B * n.C, self._real) for _ in range(2))
        normalizer, real = self._found.normalizer, self._real.type
        arrays = *self._places, self._values, self._observed, center, scale
        arrays = self.control, self._rows, self._origins, *arrays
        if normalizer.method in ("window", "mean"):
            numbers = int(normalizer.method == "mean"), real(0), real(normalizer.least)
            program.launch(window_moments, n.B * n.C, THREADS, n, *numbers, *arrays)
        else:
            numbers = int(normalizer.method == "last"), real(0), real(1)
            program.each(window_lasts, n.B * n.C, n, *numbers, *arrays)
        return center, scale

    def _targets(
        self, program: Program, n: Cut, way: ForecastWay, scales: tuple[Any, Any], y: Any, weights: Any
    ) -> None:
        """Add what cuts out targets and their weights, and the offset that stands for the scale of counts."""
        found, real = self._found, self._real.type
        ones = found.observed is None and not found.layout.stepwise
        weight = real(1) if ones else real(1) / real(found.mean_weight)
        arrays = self.control, self._rows, self._origins, *self._places, self._values
        if found.layout.stepwise:
            arrays = *arrays, self._target, *scales, y, weights
            numbers = int(found.counts), real(0), weight
            program.each(step_targets, n.T * n.B * n.C, n, *numbers, *arrays)
        else:
            arrays = *arrays, self._observed, *scales, y, weights
            program.each(window_targets, n.B * n.H * n.C, n, real(0), weight, *arrays)
        if found.counts:
            count = 2 * n.B * n.C
            way.offset = empty(count, self._real) if way.offset is None else way.offset
            program.each(step_offsets, count, count, real(1), real(0.5), scales[1], way.offset)
