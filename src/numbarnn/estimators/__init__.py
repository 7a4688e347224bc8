"""Estimators: RNNRegressor and RNNClassifier, with the interface and the rules of scikit-learn."""

from numbarnn.estimators.classifier import RNNClassifier
from numbarnn.estimators.regressor import RNNRegressor

__all__ = ["RNNClassifier", "RNNRegressor"]
