"""Our estimators in other people's pipelines; a test whose library is not installed is left out."""

import warnings

import numpy as np
import pytest

from numbarnn import RNNForecaster, RNNRegressor

pytestmark = pytest.mark.filterwarnings("default")  # warnings of the libraries are theirs

PERIOD, N_STEPS, HORIZON = 12, 240, 6


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


@pytest.fixture
def season(pandas):
    """A season and its last steps: noise-free, so that a network that sees the right lags forecasts it."""
    times = pandas.date_range("2020-01-01", periods=N_STEPS, freq="D")
    values = np.sin(2 * np.pi * np.arange(N_STEPS) / PERIOD).astype(np.float32)
    series = pandas.Series(values, index=times, name="y")
    return series.iloc[:-HORIZON], series.iloc[-HORIZON:]


def network():
    return RNNRegressor(
        hidden_size=8, learning_rate_init=0.03, batch_size=32, max_iter=25, n_jobs=1, random_state=0
    )


def quietly(function, *arguments, **options):
    """Call it without the warning that a short training ends at max_iter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def test_skforecast_recursive(season):
    module = pytest.importorskip("skforecast.recursive")
    train, test = season
    forecaster = module.ForecasterRecursive(estimator=network(), lags=PERIOD)
    quietly(forecaster.fit, train)
    forecast = quietly(forecaster.predict, HORIZON)
    assert (forecast.index == test.index).all()
    assert np.abs(forecast.to_numpy() - test.to_numpy()).max() < 0.2


def test_skforecast_direct(season):
    module = pytest.importorskip("skforecast.direct")
    train, test = season
    forecaster = module.ForecasterDirect(estimator=network(), lags=PERIOD, steps=HORIZON, n_jobs=1)
    quietly(forecaster.fit, train)
    forecast = quietly(forecaster.predict)
    assert np.abs(forecast.to_numpy() - test.to_numpy()).max() < 0.2


def test_mlforecast(season, pandas):
    mlforecast = pytest.importorskip("mlforecast")
    train, test = season
    frame = pandas.concat(
        pandas.DataFrame({"unique_id": name, "ds": train.index, "y": sign * train.to_numpy()})
        for name, sign in (("a", 1), ("b", -1))
    )
    forecaster = mlforecast.MLForecast({"rnn": network()}, freq="D", lags=range(PERIOD, 0, -1), num_threads=1)
    quietly(forecaster.fit, frame)
    forecast = quietly(forecaster.predict, HORIZON)
    for name, sign in (("a", 1), ("b", -1)):
        ours = forecast.loc[forecast["unique_id"] == name, "rnn"].to_numpy()
        assert np.abs(ours - sign * test.to_numpy()).max() < 0.2


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
def test_sktime_reduction(season, strategy):
    compose = pytest.importorskip("sktime.forecasting.compose")
    train, test = season
    forecaster = compose.make_reduction(network(), window_length=PERIOD, strategy=strategy)
    quietly(forecaster.fit, train, fh=np.arange(1, HORIZON + 1))
    forecast = quietly(forecaster.predict)
    assert np.abs(forecast.to_numpy().ravel() - test.to_numpy()).max() < 0.2


@pytest.mark.parametrize("multi_models", [True, False])
def test_darts(season, multi_models):
    models = pytest.importorskip("darts.models")
    darts = pytest.importorskip("darts")
    train, test = season
    model = getattr(models, "SKLearnModel", None) or models.RegressionModel  # its name before 0.37
    forecaster = model(lags=PERIOD, output_chunk_length=HORIZON, model=network(), multi_models=multi_models)
    quietly(forecaster.fit, darts.TimeSeries.from_series(train))
    forecast = quietly(forecaster.predict, HORIZON)
    assert np.abs(forecast.values().ravel() - test.to_numpy()).max() < 0.2


@pytest.fixture
def adapter():
    pytest.importorskip("sktime")
    from numbarnn.interop.sktime import RNNForecasterSktime

    return RNNForecasterSktime


def test_sktime_adapter_answers_the_steps_that_were_asked_for(adapter, season):
    train, test = season
    parameters = {"hidden_size": 8, "max_iter": 3, "n_jobs": 1, "random_state": 0}
    model = adapter(RNNForecaster(horizon=1, **parameters))
    forecast = quietly(model.fit, train, fh=[1, 3, HORIZON]).predict()
    ours = quietly(RNNForecaster(horizon=HORIZON, **parameters).fit, train.to_numpy(dtype=float)).predict()
    assert (forecast.index == test.index[[0, 2, HORIZON - 1]]).all()
    np.testing.assert_array_equal(forecast.to_numpy(), ours[[0, 2, HORIZON - 1]])
    assert model.get_params()["forecaster__hidden_size"] == 8 and model.forecaster.horizon == 1


def test_sktime_adapter_makes_calendar_features(adapter, pandas, season):
    train, test = season
    tiny = {"hidden_size": 4, "max_iter": 2, "n_jobs": 1, "random_state": 0, "calendar": ["dayofweek"]}
    forecast = quietly(adapter(RNNForecaster(1, **tiny)).fit, train, fh=[1, HORIZON]).predict()
    ours = quietly(RNNForecaster(HORIZON, **tiny).fit, train).predict()
    np.testing.assert_array_equal(forecast.to_numpy(), ours.to_numpy()[[0, HORIZON - 1]])


def test_sktime_adapter_knows_covariates_by_name(adapter, pandas, season):
    y = pandas.concat(season)
    rng = np.random.default_rng(0)
    X = pandas.DataFrame({"y": rng.normal(size=N_STEPS), "past": rng.normal(size=N_STEPS)}, index=y.index)
    forecaster = RNNForecaster(1, past_covariates=["past"], hidden_size=4, max_iter=2, n_jobs=1)
    model = quietly(adapter(forecaster).fit, y[:-HORIZON], X[:-HORIZON], fh=[1, 3])
    forecast = model.predict(X=X[-HORIZON:])
    later = X[-HORIZON:].assign(past=np.nan)  # not known for the future
    pandas.testing.assert_series_equal(model.predict(X=later), forecast)
    with pytest.raises(ValueError, match="of X was NaN in 2 of 3 rows, the first ds=2020-08-23"):
        model.predict(X=X[-HORIZON : 1 - HORIZON])


def test_sktime_adapter_takes_missing_times_for_missing_values(adapter, season):
    train, _ = season
    forecaster = RNNForecaster(1, hidden_size=4, max_iter=2, n_jobs=1, random_state=0)
    holes, absent = train.copy(), train.drop(train.index[[50, 51, 90]])
    holes.iloc[[50, 51, 90]] = np.nan
    first = quietly(adapter(forecaster).fit, holes, fh=[1]).predict()
    model = quietly(adapter(forecaster).fit, absent.asfreq("D"), fh=[1])
    assert (model.predict().to_numpy() == first.to_numpy()).all()
    with pytest.raises(ValueError, match="there would be a gap after the history"):
        model.update(season[1][2:], update_params=False)


@pytest.mark.slow
def test_sktime_checks(adapter):
    from sktime.utils.estimator_checks import check_estimator

    quietly(check_estimator, adapter, raise_exceptions=True, verbose=False)
