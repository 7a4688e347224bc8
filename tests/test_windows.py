"""Windows against a plain loop over series, steps and channels; scales; what must never be read."""

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest

from numbarnn.forecasting.scaling import CovariateScaler, Normalizer, Standardizer
from numbarnn.forecasting.windows import Layout, Sampled, WindowSource


class Data(NamedTuple):
    """The part of a SeriesSet that windows need."""

    values: np.ndarray
    offsets: np.ndarray
    n_channels: int
    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None

    @property
    def lengths(self):
        return np.diff(self.offsets)

    @property
    def n_rows(self):
        return len(self.lengths) * self.n_channels

    @property
    def has_missing(self):
        return bool(np.isnan(self.values).any())

    def row(self, r):
        i, c = divmod(r, self.n_channels)
        n = self.lengths[i]
        start = self.n_channels * self.offsets[i] + c * n
        return self.values[start : start + n]


def make(lengths, n_channels=1, missing=0.0, covariates=(0, 0, 0), seed=0, counts=False):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    values = rng.poisson(3, n * n_channels).astype(float) if counts else rng.normal(5, 3, n * n_channels)
    values[rng.random(len(values)) < missing] = np.nan
    p, f, s = covariates
    return Data(
        values, offsets, n_channels,
        rng.normal(size=(n, p)) if p else None,
        rng.normal(size=(n, f)) if f else None,
        rng.normal(size=(len(lengths), s)) if s else None,
    )  # fmt: skip


def make_source(data, layout, method="last", counts=False, ends=None, **options):
    ends = data.lengths if ends is None else ends
    filled = Standardizer.fit(data, ends, method).transform(data, "float64")
    covariates = CovariateScaler.fit(data, ends).transform(data, "float64")
    return WindowSource(
        data, filled, covariates, layout, Normalizer(method), 2 if counts else 1, counts=counts, **options
    ), filled, covariates  # fmt: skip


def origins_of(n, layout):
    """First to last origin of a series of n steps."""
    context, last = layout.context, n - layout.horizon
    first = context if last >= context else min(max(1, context // 4), max(last, 1))
    return range(first, last + 1)


def plain(data, filled, covariates, layout, method, flags, row, origin, counts=False, training=True):
    """One window, by loops: features, length, y, observed, future, centre, scale; None if it is left out."""
    series = row if layout.joint else row // data.n_channels
    channels = range(data.n_channels) if layout.joint else [row % data.n_channels]
    n, begin = data.lengths[series], data.offsets[series]
    base = [data.n_channels * begin + c * n for c in channels]
    truth = [data.values[b : b + n] for b in base]
    value = [filled.values[b : b + n].copy() for b in base]
    seen = [~np.isnan(t) for t in truth]
    available = min(origin, layout.context)
    start, stop = origin - available, origin + (layout.horizon if training else 0)
    if training and not (
        any(s[start:origin].any() for s in seen) and any(s[origin:stop].any() for s in seen)
    ):
        return None
    begins = [int(np.argmax(s)) if s.any() else n for s in seen]
    for v, b in zip(value, begins, strict=True):
        if b >= origin:
            v[:b] = 0
    center, scale = [], []
    for v, s in zip(value, seen, strict=True):
        context = v[start:origin]
        good = context[s[start:origin]]
        last = good[-1] if len(good) else context[-1]
        mean = good.mean() if len(good) else last
        deviation = max(good.std() if len(good) else 0, 1e-3)
        level = 1 + np.abs(good).mean() if len(good) else 1
        center.append({"last": last, "window": mean}.get(method, 0.0))
        scale.append({"window": deviation, "mean": level}.get(method, 1.0))
    normal = [(v - a) / b for v, a, b in zip(value, center, scale, strict=True)]

    def feature(t):
        t_past = min(t, origin - 1)
        t_future = t + 1 if layout.stepwise else t
        parts = [[x[t] for x in normal]]
        parts += [[float(s[t]) for s in seen]] if flags else []
        parts += [covariates.future[begin + t_future]] if covariates.future is not None else []
        parts += [covariates.past[begin + t_past]] if covariates.past is not None else []
        return np.concatenate(parts)

    if layout.stepwise:
        used = range(start, stop - 1 if training else origin)
        steps = layout.context + (layout.horizon - 1 if training else 0)
        rows = [feature(t) for t in used]
        targets = range(start + 1, stop)
        # the end of a context is 0 by the normalisation with its last value: nothing is to be learned of it
        counted = origin if method == "last" else start + available // 4 + 1
        weight = [
            [float(s[t] and t != b and t >= counted) for s, b in zip(seen, begins, strict=True)]
            for t in targets
        ]
    else:
        w = layout.segment
        k = -(-available // w)
        steps = -(-layout.context // w)
        rows = [
            np.concatenate([feature(max(origin - (k - j) * w + i, start)) for i in range(w)])
            for j in range(k)
        ]
        targets = range(origin, stop)
        weight = [[float(s[t]) for s in seen] for t in targets]
    x = np.zeros((steps, len(rows[0])))
    x[: len(rows)] = rows
    target = value if counts else normal
    elements = (layout.context + layout.horizon - 1) if layout.stepwise else layout.horizon
    y, observed = np.zeros((2, elements, len(base)))
    if training:
        y[: len(targets)] = [[v[t] for v in target] for t in targets]
        observed[: len(targets)] = weight
    return x, len(rows), y.ravel(), observed.ravel(), center, scale


LAYOUTS = {
    "segments": Layout(7, 4, 3, 2),
    "steps": Layout(5, 3, 1, 3),
    "joint": Layout(7, 4, 3, 2, joint=True),
    "stepwise": Layout(8, 3, 1, 1, stepwise=True),
    "stepwise joint": Layout(8, 3, 1, 1, joint=True, stepwise=True),
}


class TestGather:
    @pytest.mark.parametrize("covariates", [(0, 0, 0), (2, 3, 2)])
    @pytest.mark.parametrize("missing", [0.0, 0.3])
    @pytest.mark.parametrize("method", ["last", "window", "standard"])
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_is_the_plain_loop(self, name, method, missing, covariates):
        layout = LAYOUTS[name]
        data = make([25, 3, 14, 8, 9, 4, 40], 2, missing, covariates)
        source, filled, scaled = make_source(data, layout, method)
        flags = data.has_missing
        n_rows = len(data.lengths) if layout.joint else data.n_rows
        expected, places = [], []
        for row in range(n_rows):
            series = row if layout.joint else row // 2
            for origin in origins_of(data.lengths[series], layout):
                window = plain(data, filled, scaled, layout, method, flags, row, origin)
                if window is not None:
                    expected.append(window)
                    places.append((row, origin))
        assert source.n_samples == len(expected)
        x, y, weight, lengths = source.gather(np.arange(source.n_samples))
        assert lengths is None and x.offset is None
        np.testing.assert_array_equal(x.series, [row for row, _ in places])
        np.testing.assert_allclose(x.context, [e[0] for e in expected], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(x.lengths, [e[1] for e in expected])
        used = np.array([e[3] for e in expected])
        np.testing.assert_allclose(y[..., 0], [e[2] for e in expected], atol=1e-9)
        if weight is None:
            assert used.all()
        else:
            assert weight.dtype == y.dtype
            np.testing.assert_allclose(weight, used / used.mean(), rtol=1e-5)
        series = x.series if layout.joint else x.series // 2
        if scaled.static is not None:
            np.testing.assert_array_equal(x.static, scaled.static[series])
        if scaled.future is not None and not layout.stepwise:
            steps = -(-layout.horizon // layout.decode) * layout.decode
            future = np.array([
                scaled.future[data.offsets[i] + o + np.minimum(np.arange(steps), layout.horizon - 1)]
                for i, (_, o) in zip(series, places, strict=True)
            ])  # fmt: skip
            np.testing.assert_array_equal(x.future.reshape(future.shape), future)

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_any_order_gives_the_same_samples(self, name):
        source, _, _ = make_source(make([30, 30], 2, 0.2), LAYOUTS[name])
        order = np.random.default_rng(1).permutation(source.n_samples)
        whole, some = source.gather(np.arange(source.n_samples)), source.gather(order)
        np.testing.assert_array_equal(whole[0].context[order], some[0].context)
        np.testing.assert_array_equal(whole[1][order], some[1])

    def test_long_series_have_whole_windows_only(self):
        source, _, _ = make_source(make([30, 11]), Layout(7, 4, 3, 2))
        assert source.n_samples == 20 + 1
        assert source.gather(np.arange(21))[0].lengths is None

    def test_given_origins(self):
        source, _, _ = make_source(
            make([30, 20]), Layout(5, 2, 5, 2), first=np.array([20, 18]), last=np.array([28, 17])
        )
        assert source.n_samples == 9
        with pytest.raises(ValueError, match="origins of row 0 were 20 to 29; expected them within 1 to 28"):
            make_source(make([30]), Layout(5, 2, 5, 2), first=np.array([20]), last=np.array([29]))

    def test_shares_no_memory_and_changes_no_data(self):
        source, filled, _ = make_source(make([30]), Layout(6, 3, 3, 3))
        before = filled.values.copy()
        x, y, _, _ = source.gather(np.arange(4))
        assert not np.shares_memory(x.context, y) and not np.shares_memory(x.context, filled.values)
        x.context[:] = y[:] = 0
        np.testing.assert_array_equal(filled.values, before)

    def test_counts_keep_their_targets(self):
        data = make([30], 1, counts=True)
        source, _, _ = make_source(data, Layout(6, 3, 1, 1, stepwise=True), "mean", counts=True)
        x, y, _, _ = source.gather(np.array([2]))
        np.testing.assert_array_equal(y.ravel(), data.values[3:11])
        v = 1 + data.values[2:8].mean()
        np.testing.assert_allclose(x.offset, [[[np.log(v), 0.5 * np.log(v)]]])
        np.testing.assert_allclose(x.context[0, :, 0], data.values[2:10] / v)
        with pytest.raises(ValueError, match="n_raw was 1"):
            WindowSource(data, None, None, None, None, 1, counts=True)

    def test_offsets_of_several_channels(self):
        data = make([30], 2, counts=True)
        source, _, _ = make_source(data, Layout(6, 3, 1, 1, True, True), "mean", counts=True)
        x, _, _, _ = source.gather(np.array([0, 4]))
        v = 1 + data.values.reshape(2, 30)[:, 4:10].mean(axis=1)
        np.testing.assert_allclose(x.offset.reshape(2, 8, 2, 2)[1, 5, :, 0], np.log(v))
        assert source.batch([0], [9])[0].offset.shape == (1, 2, 2)


class TestBatch:
    @pytest.mark.parametrize("missing", [0.0, 0.3])
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_is_the_plain_loop(self, name, missing):
        layout = LAYOUTS[name]
        data = make([25, 3, 14], 2, missing, (1, 2, 0))
        source, filled, scaled = make_source(data, layout, "window")
        n_rows = 3 if layout.joint else 6
        for row in range(n_rows):
            series = row if layout.joint else row // 2
            for origin in range(1, data.lengths[series] - layout.horizon + 1):
                x, center, scale = source.batch([row], [origin])
                expected = plain(
                    data, filled, scaled, layout, "window", missing > 0, row, origin, training=False
                )
                np.testing.assert_allclose(x.context[0], expected[0], atol=1e-9)
                assert (x.context.shape[1] if x.lengths is None else x.lengths[0]) == expected[1]
                np.testing.assert_allclose(center.ravel(), expected[4], atol=1e-12)
                np.testing.assert_allclose(scale.ravel(), expected[5], atol=1e-12)

    @pytest.mark.parametrize("value", [np.nan, 1e9])
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_the_future_is_not_read(self, name, value):
        layout = LAYOUTS[name]
        data = make([25, 12], 2, 0.3, (2, 0, 0))
        for origin in range(1, 12):
            changed = data._replace(values=data.values.copy(), past=data.past.copy())
            for row in range(4):
                changed.row(row)[origin:] = value
            for i in range(2):
                changed.past[data.offsets[i] + origin : data.offsets[i + 1]] = 1e9
            batches = []
            for each in (data, changed):
                source, _, _ = make_source(each, layout, ends=np.array([origin, origin]), flags=True)
                rows = np.arange(2 if layout.joint else 4)
                batches.append(source.batch(rows, np.full(len(rows), origin)))
            np.testing.assert_array_equal(batches[0][0].context, batches[1][0].context)
            np.testing.assert_array_equal(batches[0][1], batches[1][1])
            np.testing.assert_array_equal(batches[0][2], batches[1][2])

    def test_inputs_of_training_hold_no_target(self):
        """Only values that the recursive decoder is fed may come from the horizon."""
        data = make([25], 1, 0, (2, 0, 0))
        for layout in (LAYOUTS["segments"], LAYOUTS["stepwise"]):
            first = last = np.array([12])
            plain_x = make_source(data, layout, None, first=first, last=last)[0].gather(np.array([0]))[0]
            changed = data._replace(values=data.values.copy(), past=data.past.copy())
            changed.values[12:] = 1e9
            changed.past[12:] = 1e9
            ends = np.array([12])
            x = make_source(changed, layout, None, ends=ends, first=first, last=last)[0].gather([0])[0]
            base = make_source(data, layout, None, ends=ends, first=first, last=last)[0].gather([0])[0]
            keep = layout.context if layout.stepwise else None
            np.testing.assert_array_equal(x.context[:, :keep], base.context[:, :keep])
            np.testing.assert_array_equal(x.context[..., 1:], base.context[..., 1:])
            assert plain_x.context.shape == x.context.shape

    def test_a_first_value_carried_back_is_no_target_of_its_own(self):
        data = make([20])
        data.values[:6] = np.nan
        source, _, _ = make_source(data, Layout(8, 3, 1, 1, stepwise=True), "standard")
        x, _, weight, _ = source.gather(np.array([0]))  # origin 8: target j is step j + 1
        assert weight[0, 5] == 0 and weight[0, 6] > 0
        assert (x.context[0, :6, 1] == 0).all()

    def test_covariates_ahead(self):
        data = make([20], covariates=(0, 2, 0))
        source, _, scaled = make_source(data, Layout(6, 4, 3, 3))
        ahead = np.arange(8.0).reshape(1, 4, 2)
        x, _, _ = source.batch([0], [20], ahead)
        assert x.future.shape == (1, 2, 6)
        np.testing.assert_array_equal(x.future[0].reshape(6, 2)[:4], ahead[0])
        known, _, _ = source.batch([0], [16])
        given, _, _ = source.batch([0], [16], scaled.future[None, 16:])
        np.testing.assert_array_equal(known.future, given.future)
        with pytest.raises(ValueError, match="ahead was None; expected known-future covariates of the 4"):
            source.batch([0], [17])
        with pytest.raises(ValueError, match="origins had 21; expected 1 to 20 in row 0"):
            source.batch([0], [21], ahead)
        stepwise, _, _ = make_source(data, Layout(6, 4, 1, 1, stepwise=True))
        x, _, _ = stepwise.batch([0], [20], ahead)
        np.testing.assert_array_equal(x.future, ahead)
        np.testing.assert_array_equal(x.context[0, -1, 1:], ahead[0, 0])

    def test_unscale_undoes_the_scales(self):
        data = make([20, 18], 2)
        for layout in (Layout(6, 4, 3, 2), Layout(6, 4, 3, 2, joint=True)):
            source, _, _ = make_source(data, layout, "window")
            standardizer = Standardizer.fit(data, data.lengths, "window")
            _, y, _, _ = source.gather(np.arange(source.n_samples))
            rows, origins = source._locate(np.arange(source.n_samples))
            _, center, scale = source.batch(rows, origins)
            values = source.unscale(np.stack([y, y], axis=-1), center, scale)
            values = standardizer.inverse(values, source.rows_of(rows))
            assert values.dtype == np.float64
            for value, row, origin in zip(values, source.rows_of(rows), origins, strict=True):
                truth = np.stack([data.row(r)[origin : origin + 4] for r in row], axis=1)
                np.testing.assert_allclose(value[:, :, 0, 1], truth, atol=1e-12)


class TestScaling:
    def test_standardizer_sees_training_steps_only(self):
        data = make([30, 20], 2, 0.2)
        ends = np.array([20, 10])
        scaler = Standardizer.fit(data, ends, "last")
        for row in range(4):
            seen = data.row(row)[: ends[row // 2]]
            np.testing.assert_allclose(scaler.center[row], np.nanmean(seen))
            np.testing.assert_allclose(scaler.scale[row], np.nanstd(seen))
        assert (Standardizer.fit(data, ends, None).scale == 1).all()
        assert Standardizer.fit(data, ends, "last").take(np.array([2])).center == scaler.center[2]
        with pytest.raises(ValueError, match="data has 4 rows; expected 1"):
            scaler.take(np.array([2])).transform(data, "float32")

    def test_constants_and_nothing(self):
        data = Data(np.concatenate([np.full(9, 0.1), np.full(9, np.nan)]), np.array([0, 9, 18]), 1)
        scaler = Standardizer.fit(data, data.lengths, "last")
        np.testing.assert_allclose(scaler.scale, [0.01, 0.1])  # a tenth of the size, which is 1 for nothing
        assert scaler.center[1] == 0
        filled = scaler.transform(data, "float32")
        assert np.abs(filled.values).max() < 1e-7 and filled.values.dtype == np.float32

    def test_constants_have_the_unit_of_the_others(self):
        moving = 3 * np.sin(np.arange(20.0))
        values = np.concatenate([moving, np.full(20, -40.0), np.zeros(20)])
        data = Data(values, np.array([0, 20, 40, 60]), 1)
        for unit in (1, 1e-6):
            scaler = Standardizer.fit(data._replace(values=unit * data.values), data.lengths, "last")
            deviation = unit * moving.std()
            np.testing.assert_allclose(scaler.scale, [deviation, 4 * unit, 0.1 * deviation])

    def test_large_levels_in_float32(self):
        data = make([50])
        scaler = Standardizer.fit(data, data.lengths, "last")
        raised = data._replace(values=data.values + 1e9)
        high = Standardizer.fit(raised, data.lengths, "last").transform(raised, "float32")
        np.testing.assert_allclose(high.values, scaler.transform(data, "float32").values, atol=1e-6)

    def test_holes_are_carried_forward_and_the_first_back(self):
        nan = np.nan
        data = Data(np.array([nan, nan, 3, nan, 4, nan, nan, nan, nan, 5]), np.array([0, 5, 8, 10]), 1)
        filled = Standardizer(np.zeros(3), np.ones(3)).transform(data, "float64")
        assert filled.values.tolist() == [3, 3, 3, 3, 4, 0, 0, 0, 5, 5]
        assert filled.observed.sum() == 3

    def test_covariates(self):
        data = make([10, 10], covariates=(1, 3, 1))
        data.future[:, 1] = np.arange(20) % 2
        data.future[:, 2] = 7
        scaler = CovariateScaler.fit(data, np.array([6, 7]))
        scaled = scaler.transform(data, "float32")
        training = np.r_[0:6, 10:17]
        np.testing.assert_allclose(scaled.future[training, 0].std(), 1, rtol=1e-5)
        np.testing.assert_array_equal(scaled.future[:, 1], data.future[:, 1])
        assert (scaled.future[:, 2] == 0).all()
        np.testing.assert_array_equal(scaler.apply("future", data.future[3:5], "float32"), scaled.future[3:5])
        assert scaler.apply("past", None, "float32") is None

    @pytest.mark.parametrize("method", ["last", "window", "standard", "mean", None])
    def test_constant_windows_stay_finite(self, method):
        center, scale = Normalizer(method)(np.full((2, 5, 1), 3, np.float32), np.zeros((2, 5, 1), bool))
        assert center.shape == scale.shape == (2, 1, 1) and center.dtype == scale.dtype == np.float32
        assert np.isfinite(center).all() and (scale > 0).all()


class TestSampled:
    def test_draws_others_each_time(self):
        source, _, _ = make_source(make([200]), Layout(6, 3, 3, 3))
        sampled = Sampled(source, 50, np.random.default_rng(0))
        assert sampled.n_samples == 50
        one = sampled.gather(np.arange(50))[1]
        again = sampled.gather(np.arange(50))[1]
        sampled.advance()
        np.testing.assert_array_equal(one, again)
        assert (one != sampled.gather(np.arange(50))[1]).any()
        assert len(np.unique(one[:, 0, 0])) == 50
        often = Sampled(source, 2 * source.n_samples + 5, np.random.default_rng(0))
        windows = often.gather(np.arange(often.n_samples))[1][:, 0, 0]
        counts = np.unique(windows, return_counts=True)[1]
        assert len(counts) == source.n_samples and sorted(set(counts)) == [2, 3] and (counts == 3).sum() == 5


def test_a_million_windows_take_the_memory_of_the_series():
    n = 10**6 + 336
    data = Data(np.sin(np.arange(n) / 10), np.array([0, n]), 1)
    tracemalloc.start()
    filled = Standardizer.fit(data, data.lengths, "last").transform(data, "float32")
    source = WindowSource(data, filled, None, Layout(240, 96, 24, 24), Normalizer("last"), 1)
    order = np.random.default_rng(0).permutation(source.n_samples)
    for batch in np.split(order[:20000], 40):
        source.gather(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.n_samples == 10**6 + 1
    assert peak < 1.5 * data.values.nbytes + 200e6 and peak < 60e6
