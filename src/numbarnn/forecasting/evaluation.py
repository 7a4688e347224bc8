"""Evaluation."""


class Evaluation:
    """The methods of `RNNForecaster` that evaluate."""
