"""Forecasting of time series with recurrent networks."""

from .conformal import Conformal
from .evaluation import CrossValidation
from .forecaster import RNNForecaster
from .prediction import Forecast

__all__ = ["Conformal", "CrossValidation", "Forecast", "RNNForecaster"]
