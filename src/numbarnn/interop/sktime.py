"""RNNForecaster for sktime: in its pipelines, its tuning and its evaluation."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone

from numbarnn.forecasting import RNNForecaster
from numbarnn.forecasting.frequency import Frequency

try:
    import pandas as pd
    from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
except ImportError as error:
    raise ImportError("numbarnn.interop.sktime needs sktime: pip install 'numbarnn[sktime]'") from error

__all__ = ["RNNForecasterSktime"]


class RNNForecasterSktime(BaseForecaster):
    """`RNNForecaster` with sktime's interface.

    The network is trained for all steps up to the last of the forecasting horizon, which therefore must be
    given in `fit`; steps of it in any selection are then answered. Exogenous variables are known-future
    covariates, but those that `past_covariates` names. `update` moves on the history, and no weight. From an
    index of dates calendar features can be made, and what it leaves out is missing; without one, or if its
    frequency is none that `RNNForecaster` knows, rows are steps.

    Parameters
    ----------
    forecaster : RNNForecaster, default=None
        Not fitted; its `horizon` is replaced, its other parameters are used and can be tuned as
        ``forecaster__hidden_size`` and so on. None takes the defaults.

    Attributes
    ----------
    forecaster_ : RNNForecaster
        Fitted.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from numbarnn import RNNForecaster
    >>> from numbarnn.interop.sktime import RNNForecasterSktime
    >>> model = RNNForecasterSktime(RNNForecaster(horizon=1, max_iter=2, n_jobs=1, random_state=0))
    >>> model.fit(load_airline(), fh=[1, 2, 12]).predict().index.astype(str).tolist()
    ['1961-01', '1961-02', '1961-12']
    """

    _tags: ClassVar[dict[str, Any]] = {
        "authors": ["numbarnn developers"],
        "maintainers": ["numbarnn developers"],
        "python_dependencies": ["numbarnn"],
        "y_inner_mtype": "pd.DataFrame",
        "X_inner_mtype": "pd.DataFrame",
        "capability:multivariate": True,
        "capability:exogenous": True,
        "capability:missing_values": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:non_contiguous_X": False,
        "capability:update": True,
        "requires-fh-in-fit": True,
    }

    def __init__(self, forecaster: RNNForecaster | None = None) -> None:
        self.forecaster = forecaster
        super().__init__()

    def _fit(self, y: pd.DataFrame, X: pd.DataFrame | None, fh: ForecastingHorizon) -> Self:
        """Train for the farthest step of the horizon."""
        forecaster = RNNForecaster(horizon=1) if self.forecaster is None else clone(self.forecaster)
        self.forecaster_ = forecaster.set_params(horizon=self._n_steps(fh))
        self._timed, self._columns, self._last = self._has_times(y.index), y.columns, y.index[-1]
        self.forecaster_.fit(self._targets(y), self._rows(X))
        return self

    def _predict(self, fh: ForecastingHorizon, X: pd.DataFrame | None) -> pd.DataFrame:
        """Forecast every step to the farthest, and select."""
        n_steps = self._n_steps(fh)
        forecast = self.forecaster_.predict(n_steps, self._ahead(X, n_steps)).to_numpy()
        return pd.DataFrame(self._select(fh, forecast), fh.to_absolute_index(self.cutoff), self._columns)

    def _predict_quantiles(self, fh: ForecastingHorizon, X: pd.DataFrame | None, alpha: list) -> pd.DataFrame:
        """Forecast quantiles; sktime makes intervals of them."""
        n_steps = self._n_steps(fh)
        quantiles = self.forecaster_.predict_quantiles(alpha, n_steps, self._ahead(X, n_steps)).to_numpy()
        quantiles = quantiles.reshape(n_steps, len(alpha), -1).swapaxes(1, 2)
        names = [range(len(self._columns)) if self._columns.isna().any() else self._columns, alpha]
        return pd.DataFrame(
            self._select(fh, quantiles).reshape(len(fh), -1),  # a channel's quantiles side by side
            fh.to_absolute_index(self.cutoff),
            pd.MultiIndex.from_product(names),
        )

    def _update(self, y: pd.DataFrame, X: pd.DataFrame | None = None, update_params: bool = True) -> Self:
        """Take in what is new since the last call; the weights stay."""
        new = y.index > self._last
        if new.any():
            X = None if X is None else X.loc[y.index[new]]
            self.forecaster_.update(self._targets(y[new]), self._rows(X))
            self._last = y.index[-1]
        return self

    def _n_steps(self, fh: ForecastingHorizon) -> int:
        """Return the farthest step of the horizon."""
        return int(fh.to_relative(self.cutoff).to_numpy().max())

    def _select(self, fh: ForecastingHorizon, values: np.ndarray) -> np.ndarray:
        """Return the steps of the horizon out of all from 1."""
        return values[fh.to_relative(self.cutoff).to_numpy().astype(np.int64) - 1]

    def _targets(self, y: pd.DataFrame) -> pd.DataFrame:
        """Return y as our forecaster reads it, with names that no column of X has."""
        return self._rows(y.astype(float).set_axis([f"y {column}" for column in y.columns], axis=1))

    def _rows(self, table: pd.DataFrame | None) -> pd.DataFrame | None:
        """Return a frame with times for our forecaster, or without."""
        return table if table is None or self._timed else table.reset_index(drop=True)

    def _ahead(self, X: pd.DataFrame | None, n_steps: int) -> pd.DataFrame | None:
        """Return the rows of X of the next steps; what is missing there is named by the forecaster."""
        if X is None:
            return None
        ahead = ForecastingHorizon(np.arange(1, n_steps + 1), is_relative=True, freq=self._cutoff)
        return self._rows(X.reindex(ahead.to_absolute_index(self.cutoff)))

    @staticmethod
    def _has_times(index: pd.Index) -> bool:
        """Whether these are dates with a frequency that our forecaster knows."""
        try:
            Frequency.parse(getattr(index, "inferred_freq", None) or getattr(index, "freqstr", None))
        except ValueError:
            return False
        return len(index) > 2

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return small settings for sktime's checks."""
        tiny = {"horizon": 1, "hidden_size": 4, "max_iter": 1, "n_jobs": 1, "random_state": 0}
        return [
            {"forecaster": RNNForecaster(decoder="recursive", loss="gaussian", **tiny)},
            {"forecaster": RNNForecaster(quantiles=(0.01, 0.05, 0.25, 0.75, 0.95, 0.99), **tiny)},
        ]
