"""Data sets: what is promised of every series, and the facts that its docstring states."""

from pathlib import Path

import numpy as np
import pytest

import numbarnn.datasets as datasets

FOLDER = Path(datasets.__file__).parent
STEP = {"h": np.timedelta64(1, "h"), "D": np.timedelta64(1, "D"), "W-SAT": np.timedelta64(7, "D")}


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_every_series_is_regular_and_finite(name):
    bunch = datasets.LOADERS[name]()
    n_timesteps, n_channels = bunch.data.shape
    assert bunch.data.dtype == np.float64 and np.isfinite(bunch.data).all()
    assert bunch.time.shape == (n_timesteps,)
    assert len(bunch.feature_names) == len(bunch.units) == n_channels
    assert (np.diff(bunch.time) == STEP[bunch.frequency]).all()
    assert 1 < bunch.season_length < n_timesteps / 2


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_source_and_licence_are_stated(name):
    description = datasets.LOADERS[name]().DESCR
    assert "Source:" in description and "Licence: public domain" in description
    assert f"`load_{name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_load_is_the_callers_own():
    datasets.load_co2().data[:] = 0
    assert datasets.load_co2().data.min() > 300


def test_co2_marks_what_was_not_measured():
    co2 = datasets.load_co2()
    assert co2.interpolated.shape == co2.data.shape and co2.interpolated.sum() == 59
    gap = np.flatnonzero(co2.interpolated[:, 0])[0]
    assert co2.data[gap - 1, 0] <= co2.data[gap, 0] <= co2.data[gap + 1, 0] or (
        co2.data[gap - 1, 0] >= co2.data[gap, 0] >= co2.data[gap + 1, 0]
    )
    assert str(co2.time[0]) == "1958-03-29" and str(co2.time[-1]) == "2001-12-29"


def test_electricity_is_in_gigawatts_with_a_daily_season():
    electricity = datasets.load_electricity()
    demand = electricity.data[:, 0]
    assert 250 < demand.min() < demand.max() < 800
    by_hour = demand.reshape(-1, 24).mean(axis=0)
    assert by_hour.argmin() in (7, 8, 9, 10)  # night in America, by UTC
    assert str(electricity.time[-1]) == "2019-12-31T23"


def test_weather_has_four_years():
    weather = datasets.load_weather()
    low, high = (weather.data[:, weather.feature_names.index(name)] for name in ("temp_min", "temp_max"))
    assert (low <= high).all() and (weather.data[:, 0] >= 0).all()
    assert len(weather.time) == 3 * 365 + 366


def test_files_are_small():
    assert sum(path.stat().st_size for path in (FOLDER / "data").iterdir()) < 500_000
