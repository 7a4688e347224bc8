"""Forecasting of time series with recurrent networks."""

from .evaluation import CrossValidation
from .forecaster import RNNForecaster
from .prediction import Forecast

__all__ = ["CrossValidation", "Forecast", "RNNForecaster"]
