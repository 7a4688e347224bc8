"""The linear model that a network's forecasts are combined with."""

import copy
import dataclasses
import warnings

import numpy as np
import pytest
from scipy.special import huber
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_pinball_loss

import numbarnn
from numbarnn import RNNForecaster
from numbarnn.forecasting.linear import LinearForecast, regressions, ridge
from numbarnn.forecasting.scaling import Normalizer, Standardizer
from numbarnn.forecasting.series import read
from numbarnn.forecasting.windows import Layout, WindowSource

SMALL = {
    "hidden_size": 8, "context_length": 24, "max_iter": 2, "random_state": 0, "n_jobs": 1, "linear": True,
}  # fmt: skip


LEVELS = [0.025, 0.1, 0.5, 0.9, 0.975]


def pinball(truth, values):
    pairs = zip(LEVELS, np.moveaxis(values, -1, 0), strict=True)
    return sum(mean_pinball_loss(truth.ravel(), part.ravel(), alpha=level) for level, part in pairs)


# what is minimised, written once more
LOSSES_BY_NAME = {
    "squared_error": lambda truth, values: np.square(truth - values).mean(),
    "absolute_error": lambda truth, values: np.abs(truth - values).mean(),
    "huber": lambda truth, values: huber(1.0, truth - values).mean(),
    "quantile": pinball,
}


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


def contexts_and_targets(source, weighted=False):
    """Arrays (N, L) and (N, H) of all windows of all channels, and weights (N, H) if wanted."""
    x, y, weight, _ = source.gather(np.arange(source.n_samples))
    parts = [x.values, y, weight] if weighted else [x.values, y]
    parts = [each.reshape(len(y), -1, source.n_channels).swapaxes(1, 2) for each in parts]
    return [each.reshape(-1, each.shape[2]) for each in parts]


def alone(forecaster, share):
    """Return a copy of a forecaster with another share of the network."""
    forecaster = copy.deepcopy(forecaster)
    linear = forecaster.model_.linear._replace(share=share)
    forecaster.model_ = dataclasses.replace(forecaster.model_, linear=linear)
    return forecaster


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_it_is_the_ridge_regression_of_scikit_learn(joint, penalty):
    source = source_of(waves(), joint=joint)
    x, y = contexts_and_targets(source)
    for centered, center in ((True, x.mean(axis=1, keepdims=True)), (False, x[:, -1:])):
        found = {p: w for p, w in list(regressions(source))[0 if centered else 8 :][:8]}[penalty]
        strength = penalty * np.square(x - center).mean() * len(x)
        model = Ridge(alpha=strength, fit_intercept=False).fit(x - center, y - center)
        forecast = LinearForecast(found, 0.0).forecast(x[:, :, np.newaxis])
        np.testing.assert_allclose(forecast, model.predict(x - center) + center, rtol=1e-6, atol=1e-8)


def test_a_strong_penalty_leaves_the_mean_or_the_last_value():
    x = np.random.default_rng(0).normal(size=(50, 24))
    xx, xy = x.T @ x, x.T @ x[:, :6]
    np.testing.assert_allclose(next(ridge(xx, xy, [1e9], True)), 1 / 24, atol=1e-6)
    np.testing.assert_allclose(next(ridge(xx, xy, [1e9], False)), 0, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 1e4, 1e7])
def test_the_level_of_the_data_does_not_matter(level):
    options = SMALL | {"normalize": None, "early_stopping": False, "dtype": "float64"}
    y = waves()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        forecaster = alone(RNNForecaster(6, **options).fit(y + level), 0.0)
    expected = alone(RNNForecaster(6, **options).fit(y), 0.0).predict() + level
    np.testing.assert_allclose(forecaster.predict(), expected, rtol=1e-9, atol=1e-5)


def weekdays(n=1500):
    """A daily series without its weekends."""
    t, rng = np.arange(n), np.random.default_rng(0)
    whole = 10 + np.sin(2 * np.pi * t / 7) + 0.5 * np.sin(2 * np.pi * t / 30) + rng.normal(0, 0.05, n)
    return np.where(t % 7 > 4, np.nan, whole)


def gaps_of_one_series():
    """A series with most of its values missing beside a whole one."""
    rng = np.random.default_rng(1)
    holed = waves(1500, 1)[:, 0]
    whole = holed + rng.normal(0, 0.1, 1500)
    holed[rng.random(1500) < 0.7] = np.nan
    return np.stack([holed, whole], axis=1)


@pytest.mark.parametrize("make", [weekdays, gaps_of_one_series])
def test_targets_that_are_missing_do_not_count(make):
    source = source_of(make())
    x, truth, weight = contexts_and_targets(source, weighted=True)
    penalty = 0.1
    center = x.mean(axis=1, keepdims=True)
    strength = penalty * np.square(x - center).mean() * len(x)
    errors = []
    found = {p: w for p, w in list(regressions(source))[:8]}[penalty]
    forecast = LinearForecast(found, 0.0).forecast(x[:, :, np.newaxis])
    for step in range(6):
        seen = weight[:, step] > 0
        centered = (x - center)[seen]
        model = Ridge(alpha=strength, fit_intercept=False).fit(centered, (truth - center)[seen, step])
        best = model.predict(centered) + center[seen, 0]
        errors.append([np.square(each - truth[seen, step]).mean() for each in (forecast[seen, step], best)])
    found, best = np.mean(errors, axis=0)
    assert found < 1.2 * best + 1e-3


def test_what_is_far_back_in_a_long_context_is_not_read():
    _, found = next(regressions(source_of(waves(4000, 1), context=2200)))
    assert found.shape == (2200, 6)
    assert not found[:152].any() and found[152:].all()


@pytest.mark.parametrize("y", [np.ones(100), np.zeros(100), np.r_[np.ones(90), 1e15 * np.ones(10)]])
def test_series_that_hardly_move(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for options in ({}, {"linear": "auto"}, {"early_stopping": False}):
            assert np.isfinite(RNNForecaster(6, **SMALL | options).fit(y).predict()).all()


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
    expected = (weights.T @ (x - x[-1]) + x[-1]) * scale + center
    np.testing.assert_allclose(alone(forecaster, 0.0).predict(), expected, rtol=1e-4)
    network = RNNForecaster(6, **SMALL | options | {"linear": False}).fit(y)
    np.testing.assert_allclose(alone(forecaster, 1.0).predict(), network.predict(), rtol=1e-4)
    np.testing.assert_allclose(
        forecaster.predict(), share * network.predict() + (1 - share) * expected, rtol=1e-4
    )


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "quantile"])
def test_the_share_is_the_best_on_what_is_held_out(loss):
    y = waves(2000)
    options = SMALL | {"max_iter": 15, "learning_rate_init": 0.02, "loss": loss}
    forecaster = RNNForecaster(6, **options, validation_fraction=0.5).fit(y)
    windows = np.stack([y[i - 24 : i] for i in range(1000, 1995, 3)])
    scale = y.std(axis=0)[:, np.newaxis]
    truth = np.stack([y[i : i + 6] for i in range(1000, 1995, 3)])[..., np.newaxis] / scale

    def error(share):
        given = alone(forecaster, share)
        if loss == "quantile":
            values = given.predict_quantiles(LEVELS, context=windows)
        else:
            values = given.predict(context=windows)[..., np.newaxis]
        return LOSSES_BY_NAME[loss](truth, values / scale)

    share = forecaster.model_.linear.share
    best = min(np.linspace(0, 1, 21), key=error)
    assert 0 < best < 1 and abs(share - best) < 0.06


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


def test_of_little_not_much_is_concluded():
    y = np.random.default_rng(0).normal(size=60)
    assert 0.3 < RNNForecaster(6, **SMALL).fit(y).model_.linear.share < 0.7
    linear = RNNForecaster(6, **SMALL, loss="absolute_error").fit(y).model_.linear
    assert linear is None or linear.share > 0.7


@pytest.mark.parametrize("options", [{"loss": "absolute_error"}, {"quantiles": [0.1, 0.9]}], ids=str)
def test_medians_of_skewed_data_do_not_become_means(options):
    y = np.random.default_rng(0).lognormal(0, 1, 1000)
    options = SMALL | {"normalize": "standard", "max_iter": 10, "learning_rate_init": 0.01} | options
    errors = []
    for linear in ("auto", False):
        forecaster = RNNForecaster(6, **options | {"linear": linear}).fit(y[:700])
        windows = np.stack([y[i - 24 : i] for i in range(700, 990)])[..., np.newaxis]
        truth = np.stack([y[i : i + 6] for i in range(700, 990)])[..., np.newaxis]
        errors.append(np.abs(forecaster.predict(context=windows) - truth).mean())
    assert errors[0] < 1.02 * errors[1]


def test_intervals_are_those_of_the_means():
    y = waves()
    forecaster = RNNForecaster(6, **SMALL).fit(y[:300])
    windows = np.stack([y[i - 24 : i] for i in range(330, 390)])
    truth = np.stack([y[i : i + 6] for i in range(330, 390)])
    _, lower, upper = forecaster.predict(context=windows, level=80)
    wide = (upper - lower).mean()
    _, lower, upper = alone(forecaster, 1.0).predict(context=windows, level=80)
    assert ((lower <= truth) & (truth <= upper)).mean() < 0.6  # the network alone errs by more
    network = RNNForecaster(6, **SMALL | {"linear": False}).fit(y[:300])
    _, lower, upper = network.predict(context=windows, level=80)
    assert wide < 0.7 * (upper - lower).mean()


def test_where_nothing_of_the_part_held_out_was_observed():
    y = waves()[:, 0]
    y[-40:] = np.nan
    assert RNNForecaster(6, **SMALL | {"linear": "auto"}).fit(y).model_.linear is None
    assert RNNForecaster(6, **SMALL).fit(y).model_.linear.share == 0.5


@pytest.mark.parametrize("decoder", ["segment", "direct"])
def test_frames_with_covariates(decoder):
    y = waves(200)
    days = np.datetime64("2024-01-01") + np.arange(200)
    frame = {
        "unique_id": np.repeat(["a", "b"], 200), "ds": np.tile(days, 2), "y": y.T.ravel(),
        "promotion": np.tile(np.arange(200) % 5 == 0, 2).astype(float),
    }  # fmt: skip
    options = SMALL | {"linear": "auto", "decoder": decoder, "calendar": "auto"}
    forecaster = RNNForecaster(6, **options, future_covariates=["promotion"]).fit(frame)
    assert forecaster.model_.linear is not None
    ahead = {name: np.concatenate([column[:6], column[:6]]) for name, column in frame.items() if name != "y"}
    ahead |= {"unique_id": np.repeat(["a", "b"], 6), "ds": np.tile(days[-1] + 1 + np.arange(6), 2)}
    answer = forecaster.predict(X=ahead, level=80)
    assert (answer["RNNForecaster-lo-80"] < answer["RNNForecaster"]).all()
    table = forecaster.cross_validation(frame, n_windows=2, refit=True)
    assert np.isfinite(table["RNNForecaster"]).all()


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
        options = SMALL | options | {"context_length": 200}
        one, two = (
            RNNForecaster(60, **options | {"n_jobs": n}).fit(waves(1500)).predict(80) for n in (1, 2)
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
        folds = [
            forecaster.cross_validation(each, n_windows=5, step_size=10, refit=False).forecast
            for each in (y[:306], changed[:306])
        ]
        np.testing.assert_array_equal(*folds)

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
