"""The linear model that a network's forecasts are combined with."""

import copy
import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import numbarnn
from numbarnn import RNNForecaster
from numbarnn.forecasting.linear import LinearForecast, Moments, _share, best_map, ridge
from numbarnn.forecasting.scaling import Normalizer, Standardizer
from numbarnn.forecasting.series import read
from numbarnn.forecasting.windows import Layout, WindowSource

SMALL = {
    "hidden_size": 8, "context_length": 24, "max_iter": 2, "random_state": 0, "n_jobs": 1, "linear": True,
}  # fmt: skip


def waves(n=400, n_channels=2, seed=0):
    """Channels with a season of 12 steps, a slow wave and noise."""
    t, rng = np.arange(n)[:, np.newaxis], np.random.default_rng(seed)
    waves = np.sin(2 * np.pi * t / 12 + np.arange(n_channels)) + np.sin(t / 40)
    return 10 + 3 * waves + rng.normal(0, 0.3, (n, n_channels))


def source_of(y, context=24, horizon=6, method="last", joint=False, dtype="float64"):
    """Windows of a series."""
    data, _ = read(y)
    filled = Standardizer.fit(data, data.lengths, method).transform(data, dtype)
    layout = Layout(context, horizon, 6, 6, joint)
    return WindowSource(data, filled, None, layout, Normalizer(method), n_raw=1)


def contexts_and_targets(source):
    """Arrays (n, L) and (n, H) of all windows of all channels."""
    x, y, _, _ = source.gather(np.arange(source.n_samples))
    y = y.reshape(len(y), -1, source.n_channels)
    return (each.swapaxes(1, 2).reshape(-1, each.shape[1]) for each in (x.values, y))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_it_is_the_ridge_regression_of_scikit_learn(joint, penalty):
    source = source_of(waves(), joint=joint)
    x, y = contexts_and_targets(source)
    moments = Moments.of(source)
    strength = penalty * np.square(x).mean() * len(x)
    expected = Ridge(alpha=strength, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(*[next(ridge(moments, [penalty], False)), expected], rtol=1e-6, atol=1e-9)
    mean = x.mean(axis=1, keepdims=True)
    strength = penalty * np.square(x - mean).mean() * len(x)
    model = Ridge(alpha=strength, fit_intercept=False).fit(x - mean, y - mean)
    found = next(ridge(moments, [penalty], True))
    np.testing.assert_allclose(x @ found, model.predict(x - mean) + mean, rtol=1e-6, atol=1e-8)
    assert moments.error(found) == pytest.approx(np.square(x @ found - y).mean())


def test_a_strong_penalty_leaves_the_mean_or_the_centre():
    moments = Moments.of(source_of(waves()))
    np.testing.assert_allclose(next(ridge(moments, [1e9], True)), 1 / 24, atol=1e-6)
    np.testing.assert_allclose(next(ridge(moments, [1e9], False)), 0, atol=1e-6)


def test_the_penalty_is_the_best_on_what_is_held_out():
    training, held = source_of(waves(200, 1)), source_of(waves(400, 1, seed=1))
    x, y = contexts_and_targets(held)
    found = np.square(x @ best_map(training, held) - y).mean()
    moments = Moments.of(training)
    for centered in (True, False):
        for each in ridge(moments, [1e-3, 0.03, 0.1, 1.0, 10.0], centered):
            assert found <= np.square(x @ each - y).mean() + 1e-12


def test_targets_that_are_missing_do_not_count():
    y = waves(2000, 1)
    whole = best_map(source := source_of(y), source)
    y[np.random.default_rng(1).random(y.shape) < 0.1] = np.nan
    x, truth = contexts_and_targets(source)
    holed = best_map(source := source_of(y), source)
    errors = [np.square(x @ found - truth).mean() for found in (whole, holed)]
    assert errors[1] < 1.3 * errors[0]


def test_a_walk_is_forecast_by_its_last_value():
    walk = np.cumsum(np.random.default_rng(0).normal(size=3000))
    found = best_map(source_of(walk[:2000]), source_of(walk[2000:]))
    assert np.abs(found[:-1]).sum() < 0.5  # the last one is zero in all windows


def test_what_is_far_back_in_a_long_context_is_not_read():
    found = best_map(source := source_of(waves(4000, 1), context=2200), source)
    assert found.shape == (2200, 6)
    assert not found[:152].any() and found[152:].all()


def test_a_constant_series():
    found = best_map(source := source_of(np.ones(100)), source)
    assert np.isfinite(found).all()
    assert np.isfinite(RNNForecaster(6, **SMALL).fit(np.ones(100)).predict()).all()


def alone(forecaster, share):
    """Return a copy of a forecaster with another share of the network."""
    forecaster = copy.deepcopy(forecaster)
    linear = forecaster.model_.linear._replace(share=share)
    forecaster.model_ = dataclasses.replace(forecaster.model_, linear=linear)
    return forecaster


OPTIONS = [
    {}, {"decoder": "direct"}, {"multivariate": "joint"}, {"normalize": "window"}, {"normalize": "standard"},
    {"normalize": None}, {"loss": "quantile"}, {"loss": "huber"}, {"dtype": "float64"}, {"segment_length": 7},
    {"early_stopping": False}, {"quantiles": [0.1, 0.9], "multivariate": "joint", "decoder": "direct"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forecasts_are_means_of_both(options):
    y = waves()
    forecaster = RNNForecaster(6, **SMALL | options).fit(y)
    weights, share = forecaster.model_.linear
    assert weights.shape == (24, 6) and weights.dtype == forecaster.dtype and 0 <= share < 1
    whole = forecaster.normalize is None
    center, scale = (0.0, 1.0) if whole else (forecaster.center_, forecaster.scale_)
    x = (y[-24:] - center) / scale
    shift, width = Normalizer(forecaster.normalize)(x)
    expected = (weights.T @ ((x - shift) / width) * width + shift) * scale + center
    np.testing.assert_allclose(alone(forecaster, 0.0).predict(), expected, rtol=1e-4)
    network = RNNForecaster(6, **SMALL | options | {"linear": False}).fit(y)
    np.testing.assert_allclose(alone(forecaster, 1.0).predict(), network.predict(), rtol=1e-4)
    np.testing.assert_allclose(
        forecaster.predict(), share * network.predict() + (1 - share) * expected, rtol=1e-4
    )


def test_the_share_is_the_best_on_what_is_held_out():
    y = waves()
    options = SMALL | {"max_iter": 15, "learning_rate_init": 0.02}
    forecaster = RNNForecaster(6, **options, validation_fraction=0.2).fit(y)
    windows = np.stack([y[i - 24 : i] for i in range(320, 395)])
    truth = np.stack([y[i : i + 6] for i in range(320, 395)])

    def error(share):
        return np.square((alone(forecaster, share).predict(context=windows) - truth) / y.std(axis=0)).mean()

    share = forecaster.model_.linear.share
    best = min(np.linspace(0, 1, 101), key=error)
    assert 0 < best < 1 and abs(share - best) < 0.1


def test_quantiles_keep_their_distance_to_the_median():
    y = waves()
    forecaster = RNNForecaster(6, **SMALL, quantiles=[0.1, 0.9]).fit(y)
    network = alone(forecaster, 1.0)
    distances = [np.diff(each.predict_quantiles([0.1, 0.5, 0.9]), axis=-1) for each in (forecaster, network)]
    np.testing.assert_allclose(*distances, rtol=1e-4)
    assert np.abs(forecaster.predict() - network.predict()).max() > 0.01


def test_it_makes_the_forecast_better():
    y = waves(1000)
    errors = [
        np.abs(RNNForecaster(12, **SMALL | {"linear": linear}).fit(y[:-12]).predict() - y[-12:]).mean()
        for linear in (True, False)
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("many", [1, 1000])
def test_where_there_is_little_to_judge_by_both_count_alike(many):
    d = many * 12.0  # the network is this far from the linear model, and both are as far from the truth
    for toward, best in ((0.9, 0.9), (0.1, 0.1), (2.0, 1.0), (-1.0, 0.0)):
        found = _share(d, toward * d, (toward**2 + 1) * d, many * 12, horizon=12)
        assert abs(found - best) < 0.01 if many > 1 else abs(found - 0.5) < 0.5 * abs(toward - 0.5)
    assert _share(0.0, 0.0, d, 12, horizon=12) == 1.0


def test_a_network_that_is_better_is_left_alone():
    context, forecasts = np.zeros((1, 4, 1)), np.ones((1, 2))
    linear = LinearForecast(np.ones((4, 2)), share=1.0)
    np.testing.assert_array_equal(linear.combine(forecasts, context), forecasts)


@pytest.mark.parametrize("options", [{}, {"multivariate": "joint"}, {"loss": "quantile"}], ids=str)
class TestAllElseHolds:
    def test_windows_are_forecast_alike_alone_and_together(self, options):
        y = waves()
        forecaster = RNNForecaster(6, **SMALL | options).fit(y[:-30])
        windows = np.stack([y[i : i + 24] for i in range(40)])
        together = forecaster.predict(context=windows)
        for i in (0, 7, 39):
            np.testing.assert_array_equal(forecaster.predict(context=windows[i]), together[i])

    def test_any_number_of_threads_gives_the_same(self, options):
        one, two = (
            RNNForecaster(6, **SMALL | options | {"n_jobs": n}).fit(waves()).predict(20) for n in (1, 2)
        )
        np.testing.assert_array_equal(one, two)

    def test_saved_and_loaded(self, options, tmp_path):
        forecaster = RNNForecaster(6, **SMALL | options).fit(waves())
        numbarnn.save(forecaster, tmp_path / "model.safetensors")
        again = numbarnn.load(tmp_path / "model.safetensors")
        np.testing.assert_array_equal(again.predict(15), forecaster.predict(15))

    def test_the_future_is_not_looked_at(self, options):
        y = waves()
        changed = y.copy()
        changed[300:] += 100
        forecaster = RNNForecaster(6, **SMALL | options).fit(y[:200])
        np.testing.assert_array_equal(
            forecaster.predict(context=changed[:300]), forecaster.predict(context=y[:300])
        )

    def test_update_is_like_more_history(self, options):
        y = waves()
        forecaster = RNNForecaster(6, **SMALL | options).fit(y[:300])
        expected = forecaster.predict(context=y[:340])
        np.testing.assert_allclose(forecaster.update(y[300:340]).predict(), expected, rtol=1e-6)

    def test_series_of_any_length_and_with_holes(self, options):
        if options.get("multivariate") == "joint":
            pytest.skip("joint channels share their times")
        y = waves()[:, 0]
        holed = y.copy()
        holed[[5, 40, 41, 200, 399]] = np.nan
        forecaster = RNNForecaster(6, **SMALL | options).fit([y, holed, y[:20], y[:35]])
        assert np.isfinite(np.concatenate(forecaster.predict())).all()

    def test_partial_fit_leaves_it(self, options):
        forecaster = RNNForecaster(6, **SMALL | options).fit(waves())
        before = forecaster.model_.linear
        forecaster.partial_fit(waves(seed=1))
        assert forecaster.model_.linear is before


def test_where_it_cannot_be():
    with pytest.raises(ValueError, match="linear was True with decoder='recursive'; expected 'auto' or F"):
        RNNForecaster(6, decoder="recursive", linear=True).fit(waves())
    with pytest.raises(ValueError, match="The 'linear' parameter"):
        RNNForecaster(6, linear="yes").fit(waves())
    options = SMALL | {"linear": "auto"}
    assert RNNForecaster(6, decoder="recursive", **options).fit(waves()).model_.linear is None
    assert RNNForecaster(6, **options, early_stopping=False).fit(waves()).model_.linear is None
    assert RNNForecaster(6, **options).fit(waves()).model_.linear is not None
