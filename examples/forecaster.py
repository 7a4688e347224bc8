"""Ten years of weekly CO2 ahead, from a forecaster that gives one year at a time.

Takes about ten seconds, and ends in an error and in two pictures in the current folder.
"""

import numpy as np
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

from numbarnn import RNNForecaster
from numbarnn.datasets import load_co2
from numbarnn.plotting import plot_forecast, plot_loss

YEAR, N_TEST = 52, 10 * 52

co2 = load_co2()
series = co2.data[:, 0]
train, test = series[:-N_TEST], series[-N_TEST:]

forecaster = RNNForecaster(horizon=YEAR, context_length=3 * YEAR, learning_rate_init=3e-3, n_iter_no_change=5,
                           random_state=0)  # fmt: skip
forecaster.fit(train)

# Beyond the horizon the forecaster reads what it has forecast.
forecast = forecaster.predict(N_TEST)

# Or one year ahead from each week, knowing everything before it: all windows in one call.
first = len(train) - forecaster.context_length_
contexts = sliding_window_view(series[first:-YEAR], forecaster.context_length_)
rolling = forecaster.predict(context=contexts[:, :, np.newaxis])[:, :, 0]
truth = sliding_window_view(test, YEAR)
print(
    f"Mean absolute error of {len(rolling)} forecasts, a year each: {np.abs(rolling - truth).mean():.2f} ppm"
)
print(f"and of ten years forecast in one go: {np.abs(forecast - test).mean():.2f} ppm")

figure = Figure(figsize=(9, 4), layout="constrained")
plot_forecast(train[-N_TEST:], forecast, test, figure.add_subplot(), time=co2.time[-2 * N_TEST :],
              ylabel="CO2 (ppm)", title="CO2 at Mauna Loa, ten years ahead")  # fmt: skip
figure.savefig("co2_forecast.png", dpi=150)
figure = Figure(figsize=(6, 4), layout="constrained")
plot_loss(forecaster, figure.add_subplot())
figure.savefig("co2_loss.png", dpi=150)
print("pictures: co2_forecast.png, co2_loss.png")
