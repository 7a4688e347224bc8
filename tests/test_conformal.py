"""Intervals hold what they promise; metrics are what their formulas say."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr, ndtri

from numbarnn.forecasting import metrics
from numbarnn.forecasting.conformal import Conformal

HORIZON = 3


def ar1_residuals(n, seed, scale=1.0, phi=0.8):
    """Residuals (n, HORIZON) of the best forecast of an AR(1), from every origin."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n + HORIZON) * scale
    residuals = np.zeros((n, HORIZON))
    error = np.zeros(n)
    for step in range(HORIZON):
        error = phi * error + noise[step : step + n]
        residuals[:, step] = error
    return residuals


def random_walk_residuals(n, seed, horizon):
    """Residuals (n, horizon) of the best forecast of a random walk, each at the time of its truth."""
    steps = np.random.default_rng(seed).normal(size=n + horizon).cumsum()
    return np.stack([(steps[horizon:] - steps[horizon - 1 - k : -1 - k]) for k in range(horizon)], axis=1)


class TestCoverage:
    @pytest.mark.parametrize("level", [80, 95])
    def test_split(self, level):
        inside = []
        for seed in range(30):
            residuals = ar1_residuals(1500, seed)
            low, high = Conformal(residuals[None, :500], np.ones(1), "split").bounds(0, level, HORIZON)
            inside.append((residuals[500:] >= low[:, 0]) & (residuals[500:] <= high[:, 0]))
        assert abs(np.mean(inside) - level / 100) < 0.015

    @pytest.mark.parametrize("level", [80, 95])
    def test_adaptive(self, level):
        inside = []
        for seed in range(3):
            residuals = ar1_residuals(1000, seed)
            inside.append(walk(residuals, 300, [level])[:, :, 0])
        assert abs(np.mean(inside) - level / 100) < 0.015

    @pytest.mark.parametrize("level", [80, 95])
    def test_errors_that_last(self, level):
        """Errors of neighbouring forecasts are alike, and the latest of them are not known to a forecast."""
        horizon, n_calibration, inside, seen = 12, 150, [], []
        for seed in range(4):
            residuals = random_walk_residuals(700, seed, horizon)
            conformal = Conformal(residuals[None, :n_calibration], np.ones(1))
            at_once = Conformal(residuals[None, :n_calibration], np.ones(1), delays=np.zeros(horizon, int))
            for t in range(n_calibration, 700 - horizon, 5):
                truth = np.diagonal(residuals[t : t + horizon])  # of the forecast made at t
                for each, found in ((conformal, inside), (at_once, seen)):
                    low, high = each.bounds(0, level, horizon)
                    found.append((truth >= low[:, 0]) & (truth <= high[:, 0]))
                    each.update([0] * 5, residuals[t : t + 5])
        assert abs(np.mean(inside) - level / 100) < 0.015
        # judged by intervals that knew those errors, they would be too narrow
        assert np.mean(seen) < np.mean(inside)

    def test_adaptive_recovers_after_the_noise_doubles(self):
        early, late, fixed = [], [], []
        for seed in range(4):
            residuals = ar1_residuals(900, seed)
            residuals[400:] *= 2
            inside = walk(residuals, 400, [90])
            early.append(inside[:30])
            late.append(inside[200:])
            low, high = Conformal(residuals[None, :400], np.ones(1), "split").bounds(0, 90, HORIZON)
            fixed.append((residuals[600:] >= low[:, 0]) & (residuals[600:] <= high[:, 0]))
        assert np.mean(fixed) < 0.7
        assert np.mean(early) < 0.85
        assert abs(np.mean(late) - 0.9) < 0.03

    def test_a_biased_forecast_has_its_bounds_on_one_side(self):
        residuals = ar1_residuals(400, 0) + 10
        low, high = Conformal(residuals[None], np.ones(1), "split").bounds(0, [80], HORIZON)
        assert (low > 5).all() and (high < 15).all()

    def test_pooled_rows(self):
        """Rows of very different sizes, each with too few residuals of its own."""
        scales = 10.0 ** np.arange(-2, 3)
        residuals = np.stack([ar1_residuals(30, k) * s for k, s in enumerate(scales)] * 3)
        conformal = Conformal(residuals, np.tile(scales, 3))
        low, high = conformal.bounds(1, [95], HORIZON)
        for row, scale in enumerate(scales):
            new = ar1_residuals(2000, 100 + row) * scale
            low, high = conformal.bounds(row, [95], HORIZON)
            assert abs(((new >= low[:, 0]) & (new <= high[:, 0])).mean() - 0.95) < 0.05


def walk(residuals, n_calibration, levels):
    """Go through time: bounds, then the truth. A residual comes in once all steps of its window are known."""
    late = np.full(HORIZON, HORIZON - 1)
    conformal = Conformal(residuals[None, :n_calibration], np.ones(1), delays=late)
    inside = []
    for t in range(n_calibration, len(residuals)):
        if t - HORIZON >= n_calibration:
            conformal.update([0], residuals[t - HORIZON][None])
        low, high = conformal.bounds(0, levels, HORIZON)
        inside.append((residuals[t][:, None] >= low) & (residuals[t][:, None] <= high))
    return np.array(inside)


class TestBounds:
    def test_order_statistics(self):
        """Of 39 residuals the 95 % interval is all of them, of 199 the 5th on each side."""
        values = np.random.default_rng(0).permutation(np.arange(39.0))
        low, high = Conformal(values.reshape(1, 39, 1), np.ones(1), "split").bounds(0, 95, 1)
        assert (low.item(), high.item()) == (0, 38)
        values = np.random.default_rng(0).permutation(np.arange(1.0, 200))
        low, high = Conformal(values.reshape(1, 199, 1), np.ones(1), "split").bounds(0, 95, 1)
        assert (low.item(), high.item()) == (5, 195)

    def test_too_few(self):
        conformal = Conformal(np.zeros((1, 12, 1)), np.ones(1))
        with pytest.raises(
            ValueError, match="level=95 needs at least 39 held-out forecasts of a step, there are 12: give"
        ):
            conformal.bounds(0, [95], 1)
        conformal.bounds(0, [80], 1)

    def test_neighbouring_steps_are_taken_in_nearest_first(self):
        residuals = np.full((1, 10, 5), np.nan)
        residuals[0] = np.arange(5) * 100 + np.arange(10)[:, None]
        low, high = Conformal(residuals, np.ones(1), "split").bounds(0, [80], 5)
        assert low[2, 0] >= 100 and high[2, 0] < 400  # steps 1 to 3 give 30 residuals
        assert high[0, 0] < 200

    def test_missing_truths(self):
        residuals = ar1_residuals(300, 0)[None]
        holes = np.concatenate([residuals, np.full_like(residuals, np.nan)], axis=1)
        for method in ("split", "adaptive"):
            some = Conformal(holes[:, :400], np.ones(1), method, memory=1000).bounds(0, [80, 95], HORIZON)
            all_ = Conformal(residuals, np.ones(1), method, memory=1000).bounds(0, [80, 95], HORIZON)
            np.testing.assert_array_equal(some, all_)

    def test_levels_in_any_order_are_nested(self):
        conformal = Conformal(ar1_residuals(300, 0)[None], np.ones(1))
        low, high = conformal.bounds(0, [95, 50, 80], HORIZON)
        assert low.shape == (HORIZON, 3)
        assert (low[:, 0] <= low[:, 2]).all() and (low[:, 2] <= low[:, 1]).all()
        assert (high[:, 0] >= high[:, 2]).all() and (high[:, 2] >= high[:, 1]).all()
        np.testing.assert_array_equal(conformal.bounds(0, 95, 1)[0], low[:1, :1])

    def test_asking_changes_nothing(self):
        """The state depends on the residuals, not on when bounds were asked for."""
        residuals = ar1_residuals(500, 0)
        often = Conformal(residuals[None, :300], np.ones(1))
        once = Conformal(residuals[None, :300], np.ones(1))
        for residual in residuals[300:]:
            often.bounds(0, [90], HORIZON)
            often.update([0], residual[None])
        once.update([0] * 200, residuals[300:])
        np.testing.assert_array_equal(often.bounds(0, [90], HORIZON), once.bounds(0, [90], HORIZON))

    @pytest.mark.parametrize("delays", [None, [5, 0, 2]])
    def test_thresholds_by_their_definition(self, delays):
        """Each truth is judged by the interval that was given out; found all at once or bit by bit."""
        residuals, memory, alpha, gamma, n = ar1_residuals(150, 3), 60, 0.1, 0.5, 150
        residuals[40:44, 1] = np.nan
        residuals[100] *= 5
        late = delays or [0, 1, 2]
        options = {"gamma": gamma, "memory": memory, "delays": delays}
        conformal, bit_by_bit = (Conformal(residuals[None, :90], np.ones(1), **options) for _ in range(2))
        conformal.update([0] * (n - 90), residuals[90:])
        for t in range(90, n):
            bit_by_bit._threshold(0, alpha)
            bit_by_bit.update([0], residuals[t][None])
        np.testing.assert_array_equal(bit_by_bit._threshold(0, alpha), conformal._threshold(0, alpha))
        nominal = ndtri(1 - alpha / 2)
        for step, delay in enumerate(late):
            thresholds, issued = [start_of(residuals[:90, step], delay, alpha)], []
            for t in range(n):
                before = residuals[max(0, t - memory) : t, step]
                issued.append(bounds_of(np.sort(before[np.isfinite(before)]), thresholds[t], alpha))
                bounds, value = issued[t - delay] if t >= delay else None, residuals[t, step]
                moved = thresholds[t]
                if bounds is not None and np.isfinite(value):
                    missed = not bounds[0] <= value <= bounds[1]
                    moved += gamma / np.sqrt(1 + delay) * (missed - alpha)
                thresholds.append(min(max(moved, 0), nominal + 1))
            assert conformal._threshold(0, alpha)[step] == pytest.approx(thresholds[-1], abs=1e-12)

    def test_bounds_go_beyond_the_largest_residual(self):
        """After misses in a row, each larger than all before."""
        residuals = np.concatenate(
            [ar1_residuals(100, 0), np.full((5, HORIZON), 10.0) ** np.arange(1, 6)[:, None]]
        )
        low, high = Conformal(residuals[None], np.ones(1), gamma=1.0).bounds(0, [95], HORIZON)
        assert (high[:, 0] > residuals.max(axis=0)).all() and (low[:, 0] < residuals.min(axis=0)).all()
        low, high = Conformal(residuals[None], np.ones(1), "split").bounds(0, [95], HORIZON)
        assert (high[:, 0] < residuals.max(axis=0)).all()

    def test_bad_arguments(self):
        good = np.zeros((2, 50, 3))
        for arguments, message in [
            ((good[0], np.ones(2)), "residuals had shape"),
            ((good, np.ones(3)), "scales had shape"),
            ((good, np.ones(2), "exact"), "method was 'exact'"),
            ((good, np.ones(2), "split", -1), "gamma was -1"),
            ((good, np.ones(2), "split", 0.1, 0), "memory was 0"),
            ((good, np.ones(2), "adaptive", 0.1, None, [0, 1]), "delays was .0, 1.; expected 3 integers"),
        ]:
            with pytest.raises(ValueError, match=message):
                Conformal(*arguments)
        conformal = Conformal(good, np.zeros(2))
        bad = [(80, 4, "h was 4; expected 1 to 3"), (100, 1, "level was"), (0, 1, "level was")]
        for levels, h, message in bad:
            with pytest.raises(ValueError, match=message):
                conformal.bounds(0, levels, h)
        with pytest.raises(ValueError, match="residuals had shape"):
            conformal.update([0], np.zeros((2, 3)))
        for rows in ([0, -1], [0, 2], [0.0, 0.7]):
            with pytest.raises(ValueError, match="rows was .*; expected integers from 0 to 1"):
                conformal.update(rows, np.zeros((2, 3)))


def start_of(residuals, delay, alpha):
    """Quantile of Student's t with as many degrees of freedom as there are independent residuals."""
    known = np.nan_to_num(residuals)
    alike = 1.0
    for k in range(1, delay + 1):
        alike += 2 * (1 - k / (delay + 1)) * (known[k:] * known[:-k]).sum() / np.square(known).sum()
    freedom = np.isfinite(residuals).sum() / max(alike, 1)
    return min(stats.t.ppf(1 - alpha / 2, freedom), ndtri(1 - alpha / 2) + 1)


def bounds_of(values, threshold, alpha):
    """Bounds of sorted residuals, None if they are too few to be judged."""
    n, tail = len(values), ndtr(-threshold)
    if n + 1 < 2 / alpha - 1e-9:
        return None
    if tail * (n + 1) < 1 - 1e-9:
        part = threshold / ndtri(n / (n + 1)) - 1
        return values[0] - part * abs(values[0]), values[-1] + part * abs(values[-1])
    rank = int(np.floor(tail * (n + 1) + 1e-9))
    return values[rank - 1], values[n - rank]


def test_pooled_errors_have_the_size_of_their_row():
    """Quiet and loud series of one deviation: what they have in common weighs as much as one window."""
    rng = np.random.default_rng(0)
    noise = np.tile([0.1, 1.0], 20)
    residuals = noise[:, np.newaxis, np.newaxis] * rng.standard_normal((40, 8, 5))
    conformal = Conformal(residuals, np.full(40, 7.0), method="split")
    widths = [np.subtract(*conformal.bounds(row, [95], 5)[::-1]).mean() for row in range(40)]
    assert 0.7 < np.mean(widths[1::2]) / (2 * 1.96) < 1.3
    assert 0.7 < np.mean(widths[::2]) / (2 * 1.96 * 0.1) < 1.7
    new = np.subtract(*conformal.bounds(-1, [95], 5)[::-1]).mean()  # between the two, for a scale of 1
    assert 0.15 < 7 * new / (2 * 1.96) < 0.6
    silent = Conformal(np.concatenate([residuals, np.zeros((1, 8, 5))]), np.full(41, 7.0), method="split")
    assert np.subtract(*silent.bounds(40, [95], 5)[::-1]).mean() > 0


class TestPaths:
    def test_windows_stay_whole(self):
        residuals = ar1_residuals(200, 0)
        paths = Conformal(residuals[None], np.ones(1)).paths([0], 50, 2, np.random.default_rng(0))
        assert paths.shape == (1, 50, 2)
        assert all((residuals[:, :2] == path).all(axis=1).any() for path in paths[0])

    def test_channels_of_a_series_stay_together(self):
        residuals = ar1_residuals(200, 0)
        for n_series in (1, 3):  # the last one is new, and takes the windows of all
            both = np.tile(np.stack([residuals, -2 * residuals]), (n_series, 1, 1))
            conformal = Conformal(both, np.tile([1.0, 2.0], n_series))
            for rows in ([0, 1], [-1, -1]):
                first, second = conformal.paths(rows, 30, 2, np.random.default_rng(0))
                np.testing.assert_array_equal(second, (-2 if rows[0] == 0 else -1) * first)

    def test_holes_are_interpolated_where_few_windows_have_none(self):
        nan = np.nan
        residuals = np.array([[[1, nan, 3, 3, nan]], [[nan, nan, nan, 1, 2]]], float).swapaxes(0, 1)
        paths = Conformal(residuals, np.ones(1)).paths([0], 9, 5, np.random.default_rng(0))
        assert (paths == [1, 2, 3, 3, 3]).all()  # the other window has less than half

    def test_few_windows_are_pooled_with_their_scales(self):
        residuals = np.stack([np.full((5, 2), 1.0), np.full((5, 2), 10.0)])
        conformal = Conformal(residuals, np.array([1.0, 10.0]))
        assert (conformal.paths([1], 9, 2, np.random.default_rng(0)) == 10).all()
        assert (conformal.paths([-1], 9, 2, np.random.default_rng(0)) == 1).all()
        with pytest.raises(ValueError, match="no held-out window has half of so many truths"):
            Conformal(np.full((1, 5, 2), np.nan), np.ones(1)).paths([0], 3, 1, np.random.default_rng(0))


class TestMetrics:
    def test_missing_truths_are_left_out(self):
        truth = np.array([[1.0, 2.0, np.nan], [np.nan] * 3])
        forecast = np.array([[2.0, 0.0, 5.0], [1.0, 1.0, 1.0]])
        assert metrics.mae(truth, forecast) == 1.5
        assert metrics.bias(truth, forecast) == -0.5
        assert metrics.rmse(truth, forecast) == np.sqrt(2.5)
        np.testing.assert_array_equal(metrics.mae(truth, forecast, axis=1), [1.5, np.nan])
        assert metrics.coverage(truth, forecast - 1, forecast + 1) == 0.5
        assert metrics.width(forecast, forecast + 3) == 3
        assert metrics.pinball(truth, forecast, 0.5) == 0.75

    def test_mase(self):
        values = np.array([1.0, 2.0, 3.0, 2.0, 3.0, 4.0])
        assert metrics.naive_error(values, 3) == 1.0
        assert metrics.naive_error(values[:5], 3) == 1.0  # no two seasons: the step before
        assert np.isnan(metrics.naive_error(values[:1]))
        naive = np.array([[2.0], [0.0]])
        truth, forecast = np.zeros((2, 2)), np.ones((2, 2))
        np.testing.assert_array_equal(metrics.mase(truth, forecast, naive, axis=1), [0.5, np.nan])
        assert metrics.mase(truth, forecast, naive) == 0.5

    def test_the_right_quantile_has_the_least_pinball_loss(self):
        values = np.random.default_rng(0).normal(size=20000)
        grid = np.linspace(-2, 2, 81)
        best = grid[np.argmin([metrics.pinball(values, g, 0.9) for g in grid])]
        assert abs(best - 1.2816) < 0.06
