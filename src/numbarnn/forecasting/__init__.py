"""Forecasting of time series with recurrent networks."""

from .forecaster import RNNForecaster

__all__ = ["RNNForecaster"]
