"""RNNForecaster: windows, scaling, forecasts, and what it says about bad input."""

import pickle
import tracemalloc
from datetime import timedelta

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from numbarnn import RNNForecaster
from numbarnn.datasets import load_co2

# one thread: these tests are about numbers, and share the machine with others
DAY = timedelta(days=1)
OPTIONS = {"n_jobs": 1, "random_state": 0, "hidden_size": 8}


def quick(horizon=4, context_length=12, **options):
    """Return a forecaster that stops after two epochs without a warning, and is all network."""
    given = {
        "max_iter": 50, "tol": 1e6, "n_iter_no_change": 1, "samples_per_epoch": None, "linear": False,
    }  # fmt: skip
    options = given | OPTIONS | options
    return RNNForecaster(horizon, context_length, **options)


def test_short_series_are_shown_often_enough_to_learn_from():
    """With one update an epoch learning rate and patience would be gone before anything is learned."""
    t, rng = np.arange(96), np.random.default_rng(0)
    y = 100 + 0.5 * t + 20 * np.sin(2 * np.pi * t / 12) + rng.normal(0, 3, 96)
    forecaster = RNNForecaster(12, hidden_size=32, n_jobs=1, random_state=0).fit(y[:84])
    error, naive = (np.abs(y[84:] - forecast).mean() for forecast in (forecaster.predict(), y[72:84]))
    assert error < 0.7 * naive
    before = len(forecaster.loss_curve_)
    updates = []
    forecaster.set_params(callbacks=lambda info: updates.append(info["event"]) or False).partial_fit(y)
    assert updates.count("batch") == 2 and len(forecaster.loss_curve_) == before + 1  # each window once


def test_intervals_of_quantiles_beyond_the_horizon_are_conformal():
    walk = np.random.default_rng(0).normal(size=600).cumsum()
    fitted = quick(loss="quantile").fit(walk)
    far, near = fitted.predict(12, level=[80, 95]), fitted.predict(level=[80, 95])
    width = far.upper - far.lower
    np.testing.assert_array_equal(width[:4], near.upper - near.lower)
    assert (width[4:, 0] > 1.2 * width[:1, 0]).all()
    quantiles = fitted.predict_quantiles([0.1, 0.5, 0.9], 12)
    np.testing.assert_allclose(quantiles[:, [0, 2]], np.stack([far.lower[:, 0], far.upper[:, 0]], axis=1))


def waves(n_timesteps=200, n_channels=2, noise=0.1):
    """Sines of different periods and levels, with noise."""
    t = np.arange(n_timesteps)[:, np.newaxis]
    periods = 12 + 5 * np.arange(n_channels)
    noise = noise * np.random.default_rng(0).standard_normal((n_timesteps, n_channels))
    return 3 * periods + np.sin(2 * np.pi * t / periods) + noise


class TestMemory:
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

    @pytest.mark.parametrize("unit", [2.0**540, 2.0**-600])
    def test_the_unit_changes_nothing_where_squares_are_beyond_float64(self, unit):
        y, X = waves(), np.sin(np.arange(204))[:, np.newaxis]
        found, expected = (
            np.divide(quick().fit(scale * y, scale * X[:200]).predict(X=scale * X[200:], level=80), scale)
            for scale in (unit, 1.0)
        )
        np.testing.assert_array_equal(found, expected)

    def test_the_future_changes_no_forecast(self):
        y = waves()
        changed = y.copy()
        changed[150:] += 100
        np.testing.assert_array_equal(quick().fit(y[:150]).predict(), quick().fit(changed[:150]).predict())
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
        np.testing.assert_allclose(one.center_, y[:180].mean(axis=0), rtol=1e-14)

    def test_a_constant_channel(self):
        y = waves()
        y[:, 1] = 0.1
        forecast = quick(normalize="window").fit(y).predict()
        assert np.isfinite(forecast).all()
        np.testing.assert_allclose(forecast[:, 1], 0.1, atol=1.0)


class TestEstimator:
    def test_auto_lengths(self):
        assert quick(12, "auto").fit(waves(600)).context_length_ == 168
        assert quick(100, "auto").fit(waves(2000, 1)).context_length_ == 300
        short = quick(12, "auto").fit(waves(80))
        assert short.context_length_ == (80 - 12) // 3 and short.segment_length_ == 22 // 4
        assert quick(12, 84).fit(waves(600)).segment_length_ == 12
        assert quick(1, 130).fit(waves(600)).segment_length_ == 3
        forecaster = quick(14, 24, segment_length=4).fit(waves())
        # 14 steps in 4 segments
        assert forecaster.network_.layout.decode == 4 and forecaster.network_.layout.segment == 4

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
        assert forecaster.network_.n_jobs == 2

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
        for bad in (np.full(200, np.nan), waves(4), "words"):
            with pytest.raises((ValueError, TypeError)):
                forecaster.fit(bad)
        forecaster.callbacks = fail
        with pytest.raises(RuntimeError, match="stop"):
            forecaster.fit(waves(300, 3))
        forecaster.callbacks = None
        assert vars(forecaster) == state
        np.testing.assert_array_equal(forecaster.predict(), before)


    def test_a_penalty_makes_weights_smaller(self):
        networks = [quick(alpha=alpha).fit(waves()).network_ for alpha in (0.0, 100.0)]
        free, bound = (np.abs(each.parameters[each.penalized]).sum() for each in networks)
        assert bound < free


class TestErrors:
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (np.full(100, np.nan), "y has no observed value"),
            (np.r_[np.ones(100), np.inf], "y was inf at 100; expected finite numbers"),
            (np.ones((50, 2, 2)), "y had shape"),
            (5.0, "y had shape"),
            ([], "y had shape"),
            (["a"] * 100, "^y had dtype"),
            ([object()] * 100, "^y had dtype"),
            ([[1.0, 2.0], 1.0], "^y was no array"),
            (np.ones(100) + 1j, "^y had dtype complex128"),
            (np.ones(4), "y has 4 time steps; expected at least 5: a horizon of 4 and one step of context"),
        ],
    )
    def test_series(self, y, message):
        with pytest.raises((TypeError, ValueError), match=message):
            quick().fit(y)

    @pytest.mark.parametrize("horizon", [1, 4, 30])
    @pytest.mark.parametrize("context_length", [1, 12, 100])
    def test_the_shortest_series(self, horizon, context_length):
        forecaster = quick(horizon, context_length)
        with pytest.raises(ValueError, match=f"expected at least {horizon + 1}"):
            forecaster.fit(waves(horizon, 1))
        with pytest.warns(UserWarning, match=f"expected at least {2 * horizon + 1}, .* nothing is held out"):
            forecaster.fit(waves(2 * horizon, 1))
        assert forecaster.validation_scores_ is None
        assert quick(horizon, context_length).fit(waves(2 * horizon + 1, 1)).validation_scores_
        shortest = quick(horizon, context_length, early_stopping=False).fit(waves(horizon + 1, 1))
        assert np.isfinite(shortest.predict()).all()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("horizon", 0), ("horizon", 1.5), ("context_length", "long"), ("cell", "transformer"),
            ("hidden_size", 0), ("dropout", 1.0), ("segment_length", 0), ("normalize", "first"),
            ("multivariate", "both"), ("loss", "log_loss"), ("solver", "newton"), ("learning_rate", "fast"),
            ("learning_rate_init", 0.0), ("batch_size", 0), ("max_iter", 0), ("validation_fraction", 1.0),
            ("dtype", "float16"), ("callbacks", 3), ("ema_momentum", 1.0),
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
            (np.ones((12, 3)), "context has 3 channels; expected 2, as in fit"),
            (np.ones(12), "context has 1 channels; expected 2, as in fit"),
            (np.ones((2, 12, 3)), "context has 3 channels"),
            (np.ones((1, 1, 12, 2)), "context had shape"),
            (np.full((2, 12, 2), np.inf), "context was inf"),
            (["a"] * 12, "^context had dtype"),
        ],
    )
    def test_context(self, context, message):
        with pytest.raises((TypeError, ValueError), match=message):
            quick().fit(waves()).predict(context=context)

    @pytest.mark.parametrize("h", [0, -1, 1.5, "3"])
    def test_h(self, h):
        with pytest.raises(ValueError, match="h was .*; expected a number of steps from 1"):
            quick().fit(waves()).predict(h)


def long_columns(n=120, gap=False):
    """Two series of different lengths, the second shop's first."""
    y = waves(n)
    times = np.datetime64("2024-01-01") + np.arange(n)
    return {
        "shop": np.array(["b"] * n + ["a"] * (n - 20)),
        "day": np.concatenate([times, times[20:]]),
        "sales": np.concatenate([y[:, 0], y[20:, 1]]),
        "promotion": np.concatenate([np.arange(n) % 5 == 0, np.arange(20, n) % 5 == 0]).astype(float),
    }


LONG = {"id_col": "shop", "time_col": "day", "target_col": "sales"}


def frame_of(library, columns):
    return columns if library == "dict" else pytest.importorskip(library).DataFrame(columns)


def columns_of(frame):
    return frame if isinstance(frame, dict) else {name: frame[name].to_numpy() for name in frame.columns}


@pytest.mark.parametrize("library", ["dict", "pandas", "polars"])
class TestFrames:
    """Every form of the same data gives the same numbers."""

    def test_long(self, library):
        columns = long_columns()
        del columns["promotion"]
        y = columns["sales"]
        arrays = quick().fit([y[:120], y[120:]])
        forecaster = quick(**LONG).fit(frame_of(library, columns))
        expected = arrays.predict(6, level=[80, 50])
        table = forecaster.predict(6, level=[80, 50])
        assert type(table) is type(frame_of(library, columns))
        found = columns_of(table)
        assert list(found) == ["shop", "day", "RNNForecaster", *(
            f"RNNForecaster-{name}" for name in ("lo-80", "lo-50", "hi-50", "hi-80"))]  # fmt: skip
        assert found["shop"].tolist() == ["b"] * 6 + ["a"] * 6
        assert found["day"][[0, 6]].astype("datetime64[D]").tolist() == [columns["day"][-1].item() + DAY] * 2
        np.testing.assert_array_equal(found["RNNForecaster"], np.concatenate(expected.forecast))
        np.testing.assert_array_equal(found["RNNForecaster-lo-80"], np.concatenate(expected.lower)[:, 0])
        np.testing.assert_array_equal(found["RNNForecaster-hi-50"], np.concatenate(expected.upper)[:, 1])
        quantiles = columns_of(forecaster.predict_quantiles([0.1, 0.5]))
        assert list(quantiles)[2:] == ["RNNForecaster-ql0.1", "RNNForecaster-ql0.5"]
        np.testing.assert_array_equal(quantiles["RNNForecaster-ql0.5"][:4], arrays.predict()[0])
        paths = columns_of(forecaster.sample_paths(3))
        np.testing.assert_array_equal(paths["sample"], np.tile(np.repeat([0, 1, 2], 4), 2))
        np.testing.assert_array_equal(paths["RNNForecaster"][:12], arrays.sample_paths(3)[0].ravel())

    def test_wide(self, library):
        y = waves()
        columns = {"day": np.datetime64("2024-01-01") + np.arange(200), "a": y[:, 0], "b": y[:, 1]}
        forecaster = quick(time_col="day").fit(frame_of(library, columns))
        expected = quick().fit(y).predict(level=80)
        found = columns_of(forecaster.predict(level=80))
        assert list(found) == ["day", "a", "b", "a-lo-80", "b-lo-80", "a-hi-80", "b-hi-80"]
        np.testing.assert_array_equal(np.stack([found["a"], found["b"]], 1), expected.forecast)
        np.testing.assert_array_equal(found["b-lo-80"], expected.lower[:, 1])

    def test_covariates_update_and_context(self, library):
        columns = long_columns()
        n = len(columns["day"])
        late = columns["day"] >= columns["day"].max() - np.timedelta64(9, "D")
        early, later = ({k: v[rows] for k, v in columns.items()} for rows in (~late, late))
        options = LONG | {"future_covariates": ["promotion"], "calendar": ["dayofweek"]}
        forecaster = quick(**options).fit(frame_of(library, early))
        future = columns_of(forecaster.make_future())
        assert list(future) == ["shop", "day"] and len(future["day"]) == 8
        X = frame_of(library, {k: later[k] for k in ("shop", "day", "promotion")})
        first = columns_of(forecaster.predict(X=X))
        last = columns["day"].max() + np.arange(1, 5)
        ahead = frame_of(library, {
            "shop": np.array(["a"] * 4 + ["b"] * 4), "day": np.tile(last, 2), "promotion": np.arange(8.0) % 2,
        })  # fmt: skip
        joined = columns_of(forecaster.predict(X=ahead, context=frame_of(library, columns)))
        updated = columns_of(forecaster.update(frame_of(library, later)).predict(X=ahead))
        np.testing.assert_array_equal(updated["RNNForecaster"], joined["RNNForecaster"])
        assert (first["day"] != updated["day"]).all() and n == 220
        with pytest.raises(ValueError, match=r"X lacks 2 of 8 rows .* shop='b', day=2024-05-02.*make_future"):
            forecaster.predict(X=frame_of(library, {k: v[:6] for k, v in columns_of(ahead).items()}))
        with pytest.raises(ValueError, match="X was None; expected the known-future covariates 'promotion'"):
            forecaster.predict()

    def test_evaluation(self, library):
        columns = long_columns()
        del columns["promotion"]
        y, options = columns["sales"], {"n_windows": 2, "level": 80}
        arrays = quick().cross_validation([y[:120], y[120:]], **options)
        found = columns_of(quick(**LONG).cross_validation(frame_of(library, columns), **options))
        assert list(found) == ["shop", "day", "cutoff", "sales", "RNNForecaster", "RNNForecaster-lo-80",
                               "RNNForecaster-hi-80"]  # fmt: skip
        np.testing.assert_array_equal(found["sales"][:8], y[112:120])
        expected = np.concatenate([each.forecast for each in arrays]).ravel()
        np.testing.assert_array_equal(found["RNNForecaster"], expected)
        assert (found["day"] > found["cutoff"]).all() and len(np.unique(found["cutoff"])) == 2
        table = columns_of(quick(**LONG).backtest(frame_of(library, columns), **options))
        assert table["step"].tolist() == ["1", "2", "3", "4", "all"]
        np.testing.assert_array_equal(table["mae"], quick().backtest([y[:120], y[120:]], **options)["mae"])


class TestManySeries:
    def test_short_series_and_gaps(self):
        y = waves()
        holes = y[:, 0].copy()
        holes[[3, 50, 51, 52, 199]] = np.nan
        forecaster = quick().fit([holes, y[:9, 1], y[:60, 1]])
        forecasts = forecaster.predict(6, level=80)
        assert [each.shape for each in forecasts.forecast] == [(6,)] * 3
        assert all(np.isfinite(each).all() for part in forecasts for each in part)
        assert forecaster.ids_ == (0, 1, 2) and forecaster.naive_error_.shape == (3,)

    def test_a_gap_is_no_value(self):
        y = waves(noise=0.0)[:, 0]
        filled, gap = y.copy(), y.copy()
        gap[100:103] = np.nan
        filled[100:103] = gap[99]
        forecaster = quick(max_iter=3).fit(gap)
        told = forecaster.predict(context=gap[:104])
        assert (told != forecaster.predict(context=filled[:104])).any()

    def test_arrays_as_context_need_one_series(self):
        forecaster = quick().fit([waves()[:, 0], waves()[:, 1]])
        with pytest.raises(ValueError, match="context has no ids, and fit saw 2 series"):
            forecaster.predict(context=waves()[:, 0])

    def test_new_series_without_an_embedding(self):
        columns = {name: values for name, values in long_columns().items() if name != "promotion"}
        new = columns | {"shop": np.array(["c"] * 220)}
        new = {name: values[:120] for name, values in new.items()}
        known = {name: values[:120] for name, values in columns.items()}
        forecaster = quick(series_embedding=None, **LONG).fit(columns)
        np.testing.assert_allclose(
            forecaster.predict(context=new)["RNNForecaster"],
            forecaster.predict(context=known)["RNNForecaster"],
            rtol=0.02,
        )
        with pytest.raises(ValueError, match="context has the id 'c', which was not in fit; known are 'b'"):
            quick(**LONG).fit(columns).predict(context=new)
        with pytest.raises(ValueError, match="y has the id 'c', which was not in fit"):
            forecaster.update(new)

    def test_joint_needs_shared_times(self):
        with pytest.raises(ValueError, match="y has 2 series; expected one: multivariate='joint'"):
            quick(multivariate="joint").fit([waves()[:, 0], waves()[:, 1]])


class TestDistributions:
    @pytest.mark.parametrize("loss", ["gaussian", "student_t"])
    def test_paths_of_a_likelihood(self, loss):
        y = waves()
        forecaster = quick(decoder="recursive", loss=loss, max_iter=3, tol=0).fit(y)
        paths = forecaster.sample_paths(50, 7)
        assert paths.shape == (50, 7, 2)
        np.testing.assert_array_equal(paths, forecaster.sample_paths(50, 7))
        assert (paths != forecaster.sample_paths(50, 7, random_state=3)).any()
        forecast, lower, upper = forecaster.predict(level=[50, 90])
        assert (lower[..., 1] <= lower[..., 0]).all() and (lower[..., 0] <= forecast).all()
        assert (upper[..., 1] >= upper[..., 0]).all() and (upper[..., 0] >= forecast).all()
        assert forecaster.conformal_ is None

    def test_counts(self):
        y = np.random.default_rng(0).poisson(5, 300).astype(float)
        forecaster = quick(decoder="recursive", loss="negative_binomial", max_iter=5, tol=0).fit(y)
        paths = forecaster.sample_paths(20)
        np.testing.assert_array_equal(paths, np.round(paths))
        assert abs(np.mean(paths) - 5) < 2 and (paths >= 0).all()
        with pytest.raises(ValueError, match="y"):
            forecaster.fit(y + 0.5)

    def test_quantiles(self):
        forecaster = quick(quantiles=[0.1, 0.9]).fit(waves())
        found = forecaster.predict_quantiles([0.1, 0.3, 0.5, 0.9])
        assert (np.diff(found, axis=-1) >= 0).all()
        np.testing.assert_array_equal(found[..., 2], forecaster.predict())
        np.testing.assert_allclose(found[..., 1], (found[..., 0] + found[..., 2]) / 2)
        np.testing.assert_allclose(forecaster.predict(level=80).lower, found[..., 0])
        with pytest.raises(ValueError, match=r"quantile 0.05 was asked for; .* trained are 0.1, 0.5, 0.9"):
            forecaster.predict_quantiles([0.05])

    def test_conformal_paths_follow_the_forecast(self):
        forecaster = quick().fit(waves())
        paths = forecaster.sample_paths(200)
        assert paths.shape == (200, 4, 2)
        assert np.abs(np.median(paths, axis=0) - forecaster.predict()).max() < 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"loss": "gaussian"}, "loss='gaussian' was given with decoder='segment'"),
            ({"loss": "quantile", "decoder": "recursive"}, "expected a likelihood"),
            ({"quantiles": [0.5, 1.5]}, "quantiles was"),
            ({"quantiles": [0.5], "loss": "huber"}, "loss was 'huber'; expected 'quantile'"),
        ],
    )
    def test_what_does_not_go_together(self, options, message):
        with pytest.raises(ValueError, match=message):
            quick(**options).fit(waves())

    @pytest.mark.parametrize("options", [{}, {"quantiles": [0.1, 0.9]}])
    @pytest.mark.parametrize("form", ["vector", "matrix", "windows", "list"])
    def test_a_number_is_a_list_of_one_without_its_axis(self, options, form):
        y = waves()
        data = {"vector": y[:, 0], "matrix": y, "windows": y, "list": [y[:, 0], y[:90, 1]]}[form]
        context = np.stack([y[:50], y[50:100]]) if form == "windows" else None
        forecaster = quick(**options).fit(data)
        one = forecaster.predict(level=80, context=context)
        listed = forecaster.predict(level=[80], context=context)
        quantile = forecaster.predict_quantiles(0.9, context=context)
        pairs = [(one.lower, listed.lower), (one.upper, listed.upper), (quantile, listed.upper)]
        if form == "list":
            pairs = [pair for each in pairs for pair in zip(*each, strict=True)]
        for number, axis in pairs:
            assert axis.shape == (*number.shape, 1)
            np.testing.assert_allclose(number, axis[..., 0], rtol=1e-12)
        assert np.shape(one.lower[0]) == np.shape(one.forecast[0])

    def test_levels(self):
        y = waves()
        with pytest.raises(ValueError, match="intervals need errors of forecasts of a part held out"):
            quick(early_stopping=False).fit(y).predict(level=80)
        forecaster = quick().fit(y)
        with pytest.raises(ValueError, match="level=99 needs at least 199 held-out forecasts"):
            quick().fit(y[:60, 0]).predict(level=99)
        with pytest.raises(ValueError, match="level was 100; expected numbers between 0 and 100"):
            forecaster.predict(level=100)
        assert forecaster.predict(8, level=[50]).upper.shape == (8, 2, 1)
        with pytest.raises(ValueError, match="h was 40; expected at most 20 with a level"):
            forecaster.predict(40, level=50)


class TestGoingOn:
    @pytest.mark.parametrize("options", [{}, {"decoder": "direct"}, {"decoder": "recursive"},
                                         {"multivariate": "joint"}])  # fmt: skip
    def test_update_is_the_joined_context(self, options):
        y = waves()
        forecaster = quick(**options).fit(y[:180])
        joined = forecaster.predict(6, context=y)
        forecaster.update(y[180:185]).update(y[185:])
        np.testing.assert_array_equal(forecaster.predict(6), joined)

    def test_an_update_of_some_series_leaves_the_others(self):
        columns = {name: values for name, values in long_columns().items() if name != "promotion"}
        ids, times = columns["shop"], columns["day"]
        last = np.sort(np.unique(times))[-10]
        fitted = quick(**LONG).fit({name: values[times < last] for name, values in columns.items()})
        histories = [len(history) for history in fitted.conformal_._history]
        late = (times >= last) & (ids == fitted.ids_[0])
        fitted.update({name: values[late] for name, values in columns.items()})
        grown = [len(history) for history in fitted.conformal_._history]
        assert grown[0] == histories[0] + 10 and grown[1:] == histories[1:]
        fitted.predict(level=50)

    def test_adaptive_intervals_grow_with_the_errors(self):
        y = waves()
        forecaster, split = quick().fit(y[:120, 0]), quick(intervals="split").fit(y[:120, 0])
        rng = np.random.default_rng(1)
        rough = y[120:, 0] + 3 * rng.standard_normal(80)
        before, after = (
            np.ptp(forecaster.predict(level=50)[1:], axis=0).mean(),
            np.ptp(forecaster.update(rough).predict(level=50)[1:], axis=0).mean(),
        )
        assert after > 2 * before
        fixed = [np.ptp(split.predict(level=50)[1:], axis=0).mean()]
        fixed.append(np.ptp(split.update(rough).predict(level=50)[1:], axis=0).mean())
        assert fixed[0] == pytest.approx(fixed[1])

    def test_partial_fit(self):
        y = waves()
        forecaster = quick().partial_fit(y)
        assert forecaster.n_iter_ == 1 and forecaster.conformal_ is None
        first = forecaster.predict()
        forecaster.partial_fit(y).partial_fit(y[:150])
        assert forecaster.n_iter_ == 3
        assert (forecaster.predict(context=y) != first).any()
        np.testing.assert_array_equal(forecaster.predict(), forecaster.predict(context=y[:150]))

    def test_partial_fit_of_some_series_changes_the_vectors_of_these(self):
        columns = {name: values for name, values in long_columns().items() if name != "promotion"}
        only = columns["shop"] == "a"
        forecaster, touched = quick(series_embedding=2, **LONG).fit(columns), []

        def record(info):
            if info["event"] == "batch":  # gradients, as Adam moves on what it moved before
                touched.append(info["network"]._store["series"][1].any(axis=1))

        forecaster.set_params(callbacks=record)
        forecaster.partial_fit({name: values[only] for name, values in columns.items()})
        np.testing.assert_array_equal(np.any(touched, axis=0), [key == "a" for key in forecaster.ids_])

    def test_averaged_weights(self):
        y, updates = waves(), []

        def record(info):
            if info["event"] == "batch":
                updates.append(info["network"].parameters.copy())

        forecaster = quick(ema_momentum=0.9, early_stopping=False, callbacks=record).fit(y)
        weights = 0.9 ** np.arange(len(updates) - 1, -1, -1.0)
        expected = weights @ np.array(updates, float) / weights.sum()
        np.testing.assert_allclose(forecaster.network_.parameters, expected, rtol=1e-4, atol=1e-6)
        # data that come one by one are shown without averaging
        pair = [quick(ema_momentum=momentum).partial_fit(y).partial_fit(y[:150]) for momentum in (None, 0.9)]
        np.testing.assert_array_equal(*(each.predict() for each in pair))

    def test_validation_data(self):
        y = waves()
        given = quick(max_iter=2).fit(y[:180], validation=y[180:])
        part = quick(max_iter=2).fit(y, validation=0.1)
        np.testing.assert_array_equal(given.predict(), part.predict())
        assert given.validation_scores_ == part.validation_scores_
        with pytest.raises(ValueError, match="validation has 3 time steps; expected at least the horizon, 4"):
            quick().fit(y[:180], validation=y[180:183])
        with pytest.raises(ValueError, match="validation was 2"):
            quick().fit(y, validation=2)

    def test_samples_of_an_epoch(self):
        seen = []
        quick(samples_per_epoch=64, batch_size=32, max_iter=2, tol=0,
              callbacks=lambda info: seen.append(info["event"])).fit(waves())  # fmt: skip
        assert seen == ["batch", "batch", "epoch"] * 2
