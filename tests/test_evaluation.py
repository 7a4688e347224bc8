"""Cross-validation, backtests, scores and the importance of covariates."""

import signal

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from numbarnn import RNNForecaster
from numbarnn.datasets import LOADERS
from numbarnn.demo import SETTINGS
from numbarnn.forecasting import CrossValidation


def quick(horizon=4, context_length=12, **options):
    given = {"max_iter": 3, "n_jobs": 1, "random_state": 0, "hidden_size": 8, "samples_per_epoch": None}
    return RNNForecaster(horizon, context_length, **given | options)


def waves(n_timesteps=200, n_channels=2):
    t = np.arange(n_timesteps)[:, np.newaxis]
    periods = 12 + 5 * np.arange(n_channels)
    noise = 0.1 * np.random.default_rng(0).standard_normal((n_timesteps, n_channels))
    return 3 * periods + np.sin(2 * np.pi * t / periods) + noise


def interrupt_in_fit(number, press):
    """Return a callback that interrupts the fit of this number, from 0, in its second epoch."""
    networks = []

    def callback(info):
        if not any(info["network"] is each for each in networks):
            networks.append(info["network"])
        if len(networks) == number + 1 and info["epoch"] == 1:
            if press == "callback":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)

    return callback


class TestCrossValidation:
    def test_it_is_fit_update_and_predict(self):
        y = waves()
        found = quick().cross_validation(y, n_windows=3, step_size=5, level=[80, 50])
        assert isinstance(found, CrossValidation)
        assert found.cutoff.tolist() == [186, 191, 196] and found.lower.shape == (3, 4, 2, 2)
        by_hand = quick().fit(y[:186])
        for k, cutoff in enumerate(found.cutoff):
            if k:
                by_hand.update(y[found.cutoff[k - 1] : cutoff])
            forecast, lower, upper = by_hand.predict(level=[80, 50])
            np.testing.assert_array_equal(found.y[k], y[cutoff : cutoff + 4])
            np.testing.assert_array_equal(found.forecast[k], forecast)
            np.testing.assert_allclose(found.lower[k], lower, rtol=1e-12)
            np.testing.assert_allclose(found.upper[k], upper, rtol=1e-12)

    @pytest.mark.parametrize("refit", [True, 2])
    def test_refit(self, refit):
        y = waves()
        found = quick().cross_validation(y, n_windows=3, refit=refit)
        one = quick().fit(y[: found.cutoff[1]] if refit is True else y[: found.cutoff[0]])
        np.testing.assert_array_equal(found.forecast[1], one.predict(context=y[: found.cutoff[1]]))
        last = quick().fit(y[: found.cutoff[2]])
        np.testing.assert_array_equal(found.forecast[2], last.predict())

    def test_the_future_changes_nothing(self):
        y = waves()
        changed = y.copy()
        changed[194:] += 50
        options = {"n_windows": 3, "step_size": 3, "level": 80}
        one, other = (quick().cross_validation(each, **options) for each in (y, changed))
        # cutoffs 190, 193, 196: only the last one has seen a changed value
        np.testing.assert_array_equal(one.forecast[:2], other.forecast[:2])
        np.testing.assert_array_equal(one.lower[:2], other.lower[:2])
        assert (one.forecast[2] != other.forecast[2]).any()

    def test_the_forecaster_itself_does_not_change(self):
        forecaster = quick()
        forecaster.cross_validation(waves(), n_windows=2)
        with pytest.raises(NotFittedError):
            forecaster.predict()

    def test_lists_leave_out_what_is_too_short(self):
        y = waves()
        with pytest.warns(UserWarning, match="1 of 3 series, the first 1, have less than 17 time steps"):
            found = quick().cross_validation([y[:, 0], y[:10, 1], y[:60, 1]], n_windows=3)
        assert [each.cutoff.tolist() for each in found] == [[188, 192, 196], [48, 52, 56]]

    @pytest.mark.parametrize(
        "options", [{"quantiles": [0.1, 0.9]}, {"decoder": "recursive", "loss": "gaussian"}]
    )
    def test_bounds_of_the_network(self, options):
        found = quick(**options).cross_validation(waves(), n_windows=2, level=80)
        assert (found.lower[..., 0] <= found.forecast).all() and (found.forecast <= found.upper[..., 0]).all()

    def test_covariates(self):
        y = waves()
        X = np.random.default_rng(1).standard_normal((200, 2))
        found = quick(past_covariates=[1]).cross_validation(y, X, n_windows=2)
        fitted = quick(past_covariates=[1]).fit(y[:192], X[:192])
        np.testing.assert_array_equal(found.forecast[0], fitted.predict(X=X[192:196, :1]))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_windows": 0}, "n_windows was 0; expected an integer from 1"),
            ({"step_size": 1.5}, "step_size was 1.5"),
            ({"refit": -1}, "refit was -1"),
            ({"n_windows": 100}, "y has 200 time steps; expected at least 405"),
            ({"level": 100}, "level was 100"),
        ],
    )
    def test_errors(self, options, message):
        with pytest.raises(ValueError, match=message):
            quick().cross_validation(waves(), **options)

    @pytest.mark.parametrize("refit", [False, True])
    @pytest.mark.parametrize("press", ["callback", "ctrl-c"])
    def test_interrupt_in_the_first_fit(self, refit, press):
        forecaster = quick(callbacks=interrupt_in_fit(1, press)).fit(waves()[:50])
        before, expected = forecaster.predict(), forecaster.get_params()
        with pytest.raises(KeyboardInterrupt):
            forecaster.cross_validation(waves(), n_windows=4, refit=refit)
        np.testing.assert_array_equal(forecaster.predict(), before)
        assert forecaster.get_params() == expected

    @pytest.mark.parametrize("press", ["callback", "ctrl-c"])
    @pytest.mark.parametrize(("refit", "n_finished"), [(True, 2), (2, 4)])
    def test_an_interrupt_loses_nothing_that_was_finished(self, refit, n_finished, press):
        y, options = waves(), {"n_windows": 7, "refit": refit, "level": [80]}
        whole = quick().cross_validation(y, **options)
        with pytest.warns(ConvergenceWarning, match=f"the last {7 - n_finished} of 7 windows") as caught:
            found = quick(callbacks=interrupt_in_fit(2, press)).cross_validation(y, **options)
        assert len(caught) == 1 and caught[0].filename == __file__
        for part, all_of_it in zip(found, whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[:n_finished])
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            table = quick(callbacks=interrupt_in_fit(2, press)).backtest(y, **options)
        assert table["mae"][-1] == pytest.approx(np.abs(found.y - found.forecast).mean())

    def test_progress(self, capsys):
        quick().cross_validation(waves(), n_windows=2, refit=True, verbose=1)
        assert "cross_validation: fit 2/2" in capsys.readouterr().err
        quick().cross_validation(waves(), n_windows=2, verbose=1)
        assert "epoch 2/3" in capsys.readouterr().err
        quick(verbose=1).cross_validation(waves(), n_windows=2, verbose=0)
        assert not capsys.readouterr().err


class TestBacktest:
    def test_table(self):
        y = waves()
        table = quick().backtest(y, n_windows=3, level=[80])
        folds = quick().cross_validation(y, n_windows=3, level=[80])
        assert table["step"].tolist() == ["1", "2", "3", "4", "all"]
        error = folds.forecast - folds.y
        np.testing.assert_allclose(table["mae"], [*np.abs(error).mean((0, 2)), np.abs(error).mean()])
        np.testing.assert_allclose(table["rmse"][-1], np.sqrt(np.square(error).mean()))
        np.testing.assert_allclose(table["bias"][0], error[:, 0].mean())
        naive = np.abs(np.diff(y[: folds.cutoff[0]][:170], axis=0)).mean(0)
        np.testing.assert_allclose(table["mase"][-1], (np.abs(error) / naive).mean(), rtol=0.05)
        assert set(table) == {"step", "mae", "rmse", "mase", "bias", "coverage_80", "width_80", "pinball_80"}


class TestScore:
    def test_it_goes_on_from_the_history(self):
        y = waves(203)
        forecaster = quick().fit(y[:193])
        forecasts, history = [], y[:193]
        for start in (193, 197, 201):
            forecasts.append(forecaster.predict(context=y[:start]))
        error = np.abs(np.concatenate(forecasts)[:10] - y[193:])
        assert forecaster.score(y[193:], metric="mae") == pytest.approx(error.mean())
        assert forecaster.score(y[193:]) == pytest.approx((error / forecaster.naive_error_).mean())
        assert len(history) == 193

    def test_metric(self):
        with pytest.raises(ValueError, match="metric was 'r2'; expected"):
            quick().fit(waves()).score(waves(), metric="r2")


class TestImportance:
    def test_what_matters_is_found(self):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((400, 2))
        y = 3 * X[:, 0] + 0.1 * rng.standard_normal(400)
        forecaster = quick(4, 8, max_iter=15, learning_rate_init=0.02, normalize="standard")
        forecaster.fit(y[:300], X[:300])
        table = forecaster.feature_importance(y[300:], X[300:], n_repeats=2, random_state=0)
        assert table["covariate"].tolist() == ["0", "1"]
        assert table["importance"][0] > 5 * abs(table["importance"][1]) and (table["std"] >= 0).all()

    def test_without_covariates(self):
        with pytest.raises(ValueError, match="feature_importance needs covariates"):
            quick().fit(waves()).feature_importance(waves())


class TestCoverage:
    """What intervals promise, they hold: on a series of known noise, and on real ones."""

    def test_known_noise(self):
        t = np.arange(1200)
        y = np.sin(2 * np.pi * t / 12) + 0.3 * np.random.default_rng(0).standard_normal(1200)
        forecaster = quick(6, 24, max_iter=20, learning_rate_init=0.01, normalize="standard")
        folds = forecaster.cross_validation(y, n_windows=395, step_size=1, level=[80, 95])
        truth = folds.y[..., np.newaxis]
        inside = ((truth >= folds.lower) & (truth <= folds.upper)).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(inside, [0.8, 0.95], atol=0.03)
        # as wide as the quantiles of the noise are apart, a little more for what the forecast misses
        width = (folds.upper - folds.lower).mean(axis=(0, 1, 2)) / 0.3
        assert (width > [2.4, 3.7]).all() and (width < [3.2, 4.9]).all()

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "step_size"), [("electricity", 5), ("co2", 1), ("weather", 1)])
    def test_bundled_series(self, name, step_size):
        """By the defaults, within 3 points on each channel; as in benchmarks/intervals.py."""
        y, setting = LOADERS[name]().data, SETTINGS[name]
        n_windows = (setting.n_test - setting.horizon) // step_size + 1
        folds = RNNForecaster(setting.horizon, random_state=0).cross_validation(
            y, n_windows=n_windows, step_size=step_size, level=[80, 95]
        )
        truth = folds.y[..., np.newaxis]
        inside = ((truth >= folds.lower) & (truth <= folds.upper)).mean(axis=(0, 1))
        np.testing.assert_allclose(inside, np.tile([0.8, 0.95], (y.shape[1], 1)), atol=0.03)
