"""RNNForecaster: windows, scaling, forecasts, and what it says about bad input."""

import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from numbarnn import RNNForecaster
from numbarnn.datasets import load_co2
from numbarnn.forecasting.windows import Normalizer, WindowSource, to_segments

# one thread: these tests are about numbers, and share the machine with others
OPTIONS = {"n_jobs": 1, "random_state": 0, "hidden_size": 8}


def quick(horizon=4, context_length=12, **options):
    """Return a forecaster that stops after two epochs without a warning."""
    options = {"max_iter": 50, "tol": 1e6, "n_iter_no_change": 1} | OPTIONS | options
    return RNNForecaster(horizon, context_length, **options)


def waves(n_timesteps=200, n_channels=2, noise=0.1):
    """Sines of different periods and levels, with noise."""
    t = np.arange(n_timesteps)[:, np.newaxis]
    periods = 12 + 5 * np.arange(n_channels)
    noise = noise * np.random.default_rng(0).standard_normal((n_timesteps, n_channels))
    return 3 * periods + np.sin(2 * np.pi * t / periods) + noise


class TestWindows:
    def test_every_window_of_every_channel_is_a_sample(self):
        series = np.arange(20.0).reshape(10, 2)
        source = WindowSource(series, 3, 2, 1, Normalizer(None), joint=False)
        x, y, weight, lengths = source.gather(np.arange(source.n_samples))
        assert source.n_samples == 2 * 6 and weight is None and lengths is None
        assert x.flags.c_contiguous and y.flags.c_contiguous
        np.testing.assert_array_equal(x[:6, :, 0], sliding_window_view(series[:-2, 0], 3))
        np.testing.assert_array_equal(y[6:], sliding_window_view(series[3:, 1], 2))

    def test_joint_samples_hold_all_channels(self):
        series = np.arange(20.0).reshape(10, 2)
        source = WindowSource(series, 4, 2, 2, Normalizer(None), joint=True)
        x, y, _, _ = source.gather(np.array([1]))
        assert source.n_samples == 5
        np.testing.assert_array_equal(x[0], series[1:5].reshape(2, 4))
        np.testing.assert_array_equal(y[0], series[5:7].ravel())

    def test_windows_share_the_memory_of_the_series(self):
        series = np.zeros((100, 3))
        assert np.shares_memory(WindowSource(series, 10, 5, 5, Normalizer("last"), False)._windows, series)

    @pytest.mark.parametrize("method", ["last", "window", "standard", None])
    def test_normalizer(self, method):
        context = np.random.default_rng(0).normal(5, 3, (4, 20, 2))
        center, scale = Normalizer(method)(context)
        assert center.shape == scale.shape == (4, 1, 2)
        scaled = (context - center) / scale
        if method == "last":
            np.testing.assert_array_equal(scaled[:, -1], 0)
        elif method == "window":
            np.testing.assert_allclose(scaled.mean(axis=1), 0, atol=1e-12)
            np.testing.assert_allclose(scaled.std(axis=1), 1)
        else:
            np.testing.assert_array_equal(scaled, context)

    def test_a_window_that_does_not_move_stays_finite(self):
        context = np.full((1, 5, 1), 7.0)
        center, scale = Normalizer("window")(context)
        np.testing.assert_array_equal((context - center) / scale, 0)

    @pytest.mark.parametrize(("length", "segment"), [(6, 2), (7, 3), (5, 5), (3, 1)])
    def test_segments_end_with_the_newest_value(self, length, segment):
        context = np.arange(2.0 * length * 2).reshape(2, length, 2)
        segments = to_segments(context, segment)
        joined = segments.reshape(2, -1, 2)
        np.testing.assert_array_equal(joined[:, -length:], context)
        np.testing.assert_array_equal(joined[:, :-length], context[:, :1].repeat(-length % segment, axis=1))

    def test_memory_grows_with_the_series_not_with_its_windows(self):
        y = np.random.default_rng(0).standard_normal(200_000).cumsum()

        def stop(info):
            return True

        forecaster = RNNForecaster(24, 336, callbacks=stop, **OPTIONS)
        quick().fit(y[:100])  # what is compiled and imported is not counted
        tracemalloc.start()
        try:
            forecaster.fit(y)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert forecaster.context_length_ == 336
        assert peak < 1.5 * y.nbytes + 50e6


class TestForecast:
    @pytest.mark.parametrize("normalize", ["last", "window", "standard", None])
    @pytest.mark.parametrize("multivariate", ["independent", "joint"])
    def test_a_season_is_learned(self, normalize, multivariate):
        y = waves(400, noise=0.0)
        if normalize is None:
            y -= y.mean(axis=0)
        forecaster = RNNForecaster(
            6, 36, normalize=normalize, multivariate=multivariate, learning_rate_init=0.02,
            n_iter_no_change=4, n_jobs=1, random_state=0, hidden_size=32,
        ).fit(y[:-6])  # fmt: skip
        forecast = forecaster.predict()
        assert forecast.shape == (6, 2)
        assert np.abs(forecast - y[-6:]).mean() < 0.25

    def test_real_data_beat_the_seasonal_naive_forecast(self):
        co2 = load_co2()
        train, test = co2.data[:-52, 0], co2.data[-52:, 0]
        forecaster = RNNForecaster(
            52, 104, learning_rate_init=5e-3, n_iter_no_change=4, n_jobs=1, random_state=0
        )
        error = np.abs(forecaster.fit(train).predict() - test).mean()
        assert error < 0.7 * np.abs(train[-52:] - test).mean()

    def test_shapes_follow_the_history(self):
        y = waves()
        forecaster = quick().fit(y)
        assert forecaster.predict().shape == (4, 2)
        assert forecaster.predict(2, context=y).shape == (2, 2)
        assert forecaster.predict(context=np.stack([y, y, y])).shape == (3, 4, 2)
        forecaster.fit(y[:, 0])
        assert forecaster.predict().shape == (4,)
        assert forecaster.predict(context=y[:, 1]).shape == (4,)
        assert forecaster.predict(context=y[:, :1]).shape == (4, 1)

    def test_many_windows_at_once_are_the_same_as_one_by_one(self):
        y = waves()
        forecaster = quick().fit(y)
        windows = sliding_window_view(y, 12, axis=0).transpose(0, 2, 1)[:7]
        together = forecaster.predict(context=windows)
        for window, forecast in zip(windows, together, strict=True):
            np.testing.assert_allclose(forecaster.predict(context=window), forecast, rtol=1e-6)

    def test_predict_goes_on_from_the_end_of_the_series(self):
        y = waves()
        forecaster = quick().fit(y)
        np.testing.assert_array_equal(forecaster.predict(), forecaster.predict(context=y))
        # what is older than the context is not looked at
        np.testing.assert_array_equal(forecaster.predict(), forecaster.predict(context=y[-12:]))

    def test_beyond_the_horizon_forecasts_are_fed_back(self):
        y = waves()
        forecaster = quick().fit(y)
        first = forecaster.predict()
        second = forecaster.predict(context=np.concatenate([y, first]))
        np.testing.assert_allclose(forecaster.predict(7), np.concatenate([first, second])[:7], rtol=1e-5)
        np.testing.assert_array_equal(forecaster.predict(3), first[:3])

    def test_the_future_changes_no_forecast(self):
        y = waves()
        changed = y.copy()
        changed[150:] += 100
        np.testing.assert_array_equal(
            quick().fit(y[:150]).predict(), quick().fit(changed[:150]).predict()
        )
        forecaster = quick().fit(y)
        np.testing.assert_array_equal(
            forecaster.predict(context=y[:150]), forecaster.predict(context=changed[:150])
        )

    def test_level_and_unit_of_the_series_change_no_forecast(self):
        y = waves()
        forecast = quick(dtype="float64").fit(y).predict()
        moved = quick(dtype="float64").fit(1000 * y + 5000).predict()
        np.testing.assert_allclose(moved, 1000 * forecast + 5000, rtol=1e-6)

    def test_the_end_of_the_series_is_held_out(self):
        y = waves()
        changed = y.copy()
        changed[-5:] *= 2  # within the part held out, of 20 steps
        one, other = quick(max_iter=2).fit(y), quick(max_iter=2).fit(changed)
        assert one.loss_curve_ == other.loss_curve_
        assert one.validation_scores_ != other.validation_scores_
        np.testing.assert_array_equal(one.center_, y[:180].mean(axis=0))

    def test_a_constant_channel(self):
        y = waves()
        y[:, 1] = 0.1
        forecast = quick(normalize="window").fit(y).predict()
        assert np.isfinite(forecast).all()
        np.testing.assert_allclose(forecast[:, 1], 0.1, atol=1.0)


class TestEstimator:
    def test_auto_lengths(self):
        assert quick(12, "auto").fit(waves(600)).context_length_ == 84
        assert quick(1, "auto").fit(waves(600)).context_length_ == 48
        short = quick(12, "auto").fit(waves(80))
        assert short.context_length_ == (80 - 12) // 3 and short.segment_length_ == 22 // 4
        assert quick(12, 84).fit(waves(600)).segment_length_ == 12
        assert quick(1, 48).fit(waves(600)).segment_length_ == 6
        assert quick(4, 12, segment_length=1).fit(waves()).network_.config["input_size"] == 1

    def test_attributes(self):
        forecaster = quick().fit(waves())
        n = forecaster.n_iter_
        assert n == len(forecaster.loss_curve_) == len(forecaster.validation_scores_) >= 2
        assert forecaster.best_validation_score_ == max(forecaster.validation_scores_)
        assert forecaster.best_loss_ == min(forecaster.loss_curve_)
        assert forecaster.n_features_in_ == 2 and forecaster.horizon_ == 4
        assert quick(early_stopping=False).fit(waves()).validation_scores_ is None

    def test_same_seed_same_forecast(self):
        y = waves()
        one = quick().fit(y).predict()
        np.testing.assert_array_equal(quick(n_jobs=2).fit(y).predict(), one)
        assert (quick(random_state=1).fit(y).predict() != one).any()

    def test_clone_pickle_and_parameters(self):
        forecaster = quick(normalize="window").fit(waves())
        assert not hasattr(clone(forecaster), "network_")
        assert clone(forecaster).get_params() == forecaster.get_params()
        again = pickle.loads(pickle.dumps(forecaster))
        np.testing.assert_array_equal(again.predict(), forecaster.predict())

    def test_parameters_changed_after_fit_do_not_change_forecasts(self):
        forecaster = quick().fit(waves())
        before = forecaster.predict()
        forecaster.set_params(horizon=7, normalize=None, multivariate="joint", segment_length=3)
        np.testing.assert_array_equal(forecaster.predict(), before)

    def test_a_table_is_an_array(self):
        pandas = pytest.importorskip("pandas")
        y = waves()
        table = pandas.DataFrame(y, columns=["a", "b"])
        np.testing.assert_array_equal(quick().fit(table).predict(), quick().fit(y).predict())
        assert quick().fit(table["a"]).predict().shape == (4,)

    def test_n_jobs_may_be_set_after_fit(self):
        forecaster = quick().fit(waves())
        forecaster.set_params(n_jobs=2).predict()
        assert forecaster.network_.recurrent.n_jobs == 2

    def test_callbacks(self):
        events = []
        quick(callbacks=lambda info: events.append(info["event"])).fit(waves())
        assert {"batch", "epoch"} == set(events)

    def test_not_fitted(self):
        with pytest.raises(NotFittedError):
            quick().predict()

    def test_a_fit_that_fails_leaves_the_forecaster_as_it_was(self):
        def fail(info):
            raise RuntimeError("stop")

        forecaster = quick().fit(waves())
        before = forecaster.predict()
        state = dict(vars(forecaster))
        for bad in (np.full(200, np.nan), waves(5), "words"):
            with pytest.raises((ValueError, TypeError)):
                forecaster.fit(bad)
        forecaster.callbacks = fail
        with pytest.raises(RuntimeError, match="stop"):
            forecaster.fit(waves(300, 3))
        forecaster.callbacks = None
        assert vars(forecaster) == state
        np.testing.assert_array_equal(forecaster.predict(), before)


class TestErrors:
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (np.r_[np.ones(100), np.nan], "Input y contains NaN"),
            (np.r_[np.ones(100), np.inf], "Input y contains infinity"),
            (np.ones((50, 2, 2)), "y has 3 dimensions; expected shape"),
            (5.0, "y has 0 dimensions"),
            ([], "minimum of 1 is required"),
            (["a"] * 100, "^y: could not convert string"),
            ([object()] * 100, "^y: "),
            ([[1.0, 2.0], [1.0]], "^y: "),
            (np.ones(100) + 1j, "^y: Complex data not supported"),
            (np.ones(19), r"y has 19 time steps; expected at least 20: a context of 12 and a horizon of 4"),
        ],
    )
    def test_series(self, y, message):
        with pytest.raises(ValueError, match=message):
            quick().fit(y)

    @pytest.mark.parametrize("early_stopping", [False, True])
    @pytest.mark.parametrize("horizon", [1, 4, 30])
    @pytest.mark.parametrize("context_length", [1, 12, 100])
    def test_the_length_that_is_asked_for_is_enough(self, early_stopping, horizon, context_length):
        forecaster = quick(horizon, context_length, early_stopping=early_stopping)
        with pytest.raises(ValueError, match="expected at least") as caught:
            forecaster.fit(waves(1, 1))
        needed = int(str(caught.value).split("at least ")[1].split(":")[0])
        with pytest.raises(ValueError, match="expected at least"):
            forecaster.fit(waves(needed - 1, 1))
        forecaster.fit(waves(needed, 1))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("horizon", 0), ("horizon", 1.5), ("context_length", "long"), ("cell", "transformer"),
            ("hidden_size", 0), ("dropout", 1.0), ("segment_length", 0), ("normalize", "first"),
            ("multivariate", "both"), ("loss", "log_loss"), ("solver", "newton"), ("learning_rate", "fast"),
            ("learning_rate_init", 0.0), ("batch_size", 0), ("max_iter", 0), ("validation_fraction", 1.0),
            ("dtype", "float16"), ("callbacks", 3),
        ],
    )  # fmt: skip
    def test_parameters(self, name, value):
        with pytest.raises(ValueError, match=name):
            quick().set_params(**{name: value}).fit(waves())

    def test_callbacks_in_a_list(self):
        with pytest.raises(ValueError, match="^callbacks had 3"):
            quick(callbacks=[3]).fit(waves())

    def test_segment_longer_than_the_context(self):
        with pytest.raises(ValueError, match="segment_length was 13; expected at most the context length 12"):
            quick(segment_length=13).fit(waves())

    @pytest.mark.parametrize(
        ("context", "message"),
        [
            (np.ones((11, 2)), "context has 11 time steps; expected at least context_length_ = 12"),
            (np.ones((12, 3)), "context has 3 channels; expected 2, as in fit"),
            (np.ones(12), "context has 1 channels; expected 2, as in fit"),
            (np.ones((2, 12, 3)), "context has 3 channels"),
            (np.full((12, 2), np.nan), "Input context contains NaN"),
            (np.ones((1, 1, 12, 2)), "context has 4 dimensions"),
            (np.full((2, 12, 2), np.inf), "Input context contains infinity"),
            (["a"] * 12, "^context: could not convert"),
        ],
    )
    def test_context(self, context, message):
        with pytest.raises(ValueError, match=message):
            quick().fit(waves()).predict(context=context)

    @pytest.mark.parametrize("h", [0, -1, 1.5, "3"])
    def test_h(self, h):
        with pytest.raises(ValueError, match="h was .*; expected a number of steps from 1"):
            quick().fit(waves()).predict(h)
