"""Forecasting of time series with recurrent networks."""

from .forecaster import RNNForecaster
from .prediction import Forecast

__all__ = ["Forecast", "RNNForecaster"]
