"""Electricity demand one day ahead: RNNRegressor in a pipeline and a grid search.

Takes about ten seconds and ends in the error on three months that were not seen in training.
"""

from numpy.lib.stride_tricks import sliding_window_view
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from numbarnn import RNNRegressor
from numbarnn.datasets import load_electricity

DAY, WEEK, TEST = 24, 168, 90 * 24

demand = load_electricity().data[:, 0]

# A row holds the 168 hours of a week; the target is the demand 24 hours after the last of them.
X = sliding_window_view(demand[:-DAY], WEEK)
y = demand[WEEK + DAY - 1 :]
# every fifth hour is enough to learn from
X_train, X_test, y_train, y_test = X[:-TEST:5], X[-TEST:], y[:-TEST:5], y[-TEST:]

# n_channels=24: the network takes a day as one step, so that a week is seven steps of 24 values
network = RNNRegressor(
    n_channels=DAY,
    hidden_size=32,
    learning_rate_init=3e-3,
    early_stopping=True,
    n_iter_no_change=3,
    random_state=0,
)
model = TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())
cell = "regressor__rnnregressor__cell"
search = GridSearchCV(
    model, {cell: ["gru", "lstm", "rnn"]}, cv=TimeSeriesSplit(2), scoring="neg_mean_absolute_error"
)
search.fit(X_train, y_train)

for parameters, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"{parameters[cell]:4}: cross-validated error {-score:.1f} GW")
print("On the last 90 days:")
print(f"as in the same hour of the day before: error {mean_absolute_error(y_test, X_test[:, -1]):.1f} GW")
error = mean_absolute_error(y_test, search.predict(X_test))
print(f"RNNRegressor:                          error {error:.1f} GW")
