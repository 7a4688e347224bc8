"""Real time series that come with the package, all in the public domain (``README.md`` states the sources).

Every loader reads a compressed CSV file inside the package and needs neither pandas nor a network.

Examples
--------
>>> from numbarnn.datasets import LOADERS
>>> sorted(LOADERS)
['co2', 'electricity', 'weather']
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from importlib.resources import files

import numpy as np
from sklearn.utils import Bunch

__all__ = ["LOADERS", "load_co2", "load_electricity", "load_weather"]


def load_electricity() -> Bunch:
    """Load the hourly electricity demand of the contiguous United States, 2017 to 2019.

    26,280 hours without a gap, in gigawatts (mean power of the hour).
    The demand has a daily and a weekly season and follows the weather, with peaks in summer and winter.

    Returns
    -------
    Bunch
        Dictionary-like object with the attributes

        data : ndarray of shape (26280, 1), float64
            Demand in GW.
        time : ndarray of shape (26280,), datetime64[h]
            End of each hour, UTC.
        feature_names, units : list of str
            Name and unit of each column of `data`.
        frequency : str
            Distance of two time steps, as pandas writes it: ``"h"``.
        season_length : int
            168 steps: a week. (The day, 24 steps, is the shorter season.)
        DESCR : str
            This text.

    Notes
    -----
    Source: U.S. Energy Information Administration (EIA), Hourly Electric Grid Monitor (form EIA-930), demand
    of the lower 48 states, as collected in March 2021 by the R package USgrid.
    Licence: public domain. Publications of the U.S. government are not subject to copyright; the EIA asks to
    be named as the source (https://www.eia.gov/about/copyrights_reuse.php).

    Examples
    --------
    >>> from numbarnn.datasets import load_electricity
    >>> electricity = load_electricity()
    >>> electricity.data.shape, electricity.units, str(electricity.time[0])
    ((26280, 1), ['GW'], '2017-01-01T00')
    """
    bunch = _load("us_electricity.csv.gz", "datetime64[h]", ["GW"], "h", 168, load_electricity)
    bunch.data /= 1000.0  # the file is in MWh, as published
    return bunch


def load_co2() -> Bunch:
    """Load the weekly carbon dioxide concentration at Mauna Loa, March 1958 to December 2001.

    2,284 weeks of a steady rise with a yearly season. 59 weeks without a measurement (18 in a row in 1964 are
    the longest gap) are filled by linear interpolation in time; `interpolated` marks them.

    Returns
    -------
    Bunch
        Dictionary-like object with the attributes

        data : ndarray of shape (2284, 1), float64
            Concentration in parts per million by volume.
        interpolated : ndarray of shape (2284, 1), bool
            True where nothing was measured.
        time : ndarray of shape (2284,), datetime64[D]
            The Saturday that ends each week.
        feature_names, units : list of str
            Name and unit of each column of `data`.
        frequency : str
            Distance of two time steps, as pandas writes it: ``"W-SAT"``.
        season_length : int
            52 steps: a year, short of it by a day and a quarter.
        DESCR : str
            This text.

    Notes
    -----
    Source: C. D. Keeling and T. P. Whorf, Atmospheric CO2 concentrations derived from flask air samples at
    sites in the SIO network. In Trends: A Compendium of Data on Global Change. Carbon Dioxide Information
    Analysis Center, Oak Ridge National Laboratory, U.S. Department of Energy, 2004; the copy that statsmodels
    carries.
    Licence: public domain.

    Examples
    --------
    >>> from numbarnn.datasets import load_co2
    >>> co2 = load_co2()
    >>> co2.data.shape, co2.feature_names, int(co2.interpolated.sum())
    ((2284, 1), ['co2'], 59)
    """
    bunch = _load("co2.csv.gz", "datetime64[D]", ["ppm"], "W-SAT", 52, load_co2)
    bunch.interpolated = np.isnan(bunch.data)
    missing, steps = bunch.interpolated[:, 0], np.arange(len(bunch.data))
    bunch.data[missing, 0] = np.interp(steps[missing], steps[~missing], bunch.data[~missing, 0])
    return bunch


def load_weather() -> Bunch:
    """Load the daily weather of Seattle, 2012 to 2015.

    1,461 days without a gap, four channels: precipitation, highest and lowest temperature, wind speed.

    Returns
    -------
    Bunch
        Dictionary-like object with the attributes

        data : ndarray of shape (1461, 4), float64
            Precipitation in mm, highest and lowest temperature in degrees Celsius, mean wind speed in m/s.
        time : ndarray of shape (1461,), datetime64[D]
            The day.
        feature_names, units : list of str
            Name and unit of each column of `data`.
        frequency : str
            Distance of two time steps, as pandas writes it: ``"D"``.
        season_length : int
            365 steps: a year.
        DESCR : str
            This text.

    Notes
    -----
    Source: U.S. National Oceanic and Atmospheric Administration (NOAA), National Centers for Environmental
    Information, daily summaries; the copy that vega_datasets carries (``seattle-weather``).
    Licence: public domain (https://www.weather.gov/disclaimer).

    Examples
    --------
    >>> from numbarnn.datasets import load_weather
    >>> weather = load_weather()
    >>> weather.feature_names, weather.data.shape
    (['precipitation', 'temp_max', 'temp_min', 'wind'], (1461, 4))
    """
    units = ["mm", "°C", "°C", "m/s"]
    return _load("seattle_weather.csv.gz", "datetime64[D]", units, "D", 365, load_weather)


LOADERS: dict[str, Callable[[], Bunch]] = {
    "electricity": load_electricity,
    "co2": load_co2,
    "weather": load_weather,
}


def _load(
    filename: str, time_dtype: str, units: list[str], frequency: str, season_length: int, loader: Callable
) -> Bunch:
    """Read a compressed CSV file whose first column is the time; an empty field becomes NaN."""
    path = files(__name__) / "data" / filename
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="ascii") as text:
        header, *rows = csv.reader(text)
    return Bunch(
        data=np.array([[float(field or "nan") for field in row[1:]] for row in rows]),
        time=np.array([row[0] for row in rows], dtype=time_dtype),
        feature_names=header[1:],
        units=units,
        frequency=frequency,
        season_length=season_length,
        DESCR=loader.__doc__,
    )
