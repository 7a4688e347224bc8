"""Estimators: RNNRegressor and RNNClassifier, with the interface and the rules of scikit-learn.

Nothing here imports Numba before `fit` is called, so that the package is imported quickly.
"""

from numbarnn.estimators.classifier import RNNClassifier
from numbarnn.estimators.regressor import RNNRegressor

__all__ = ["RNNClassifier", "RNNRegressor"]
