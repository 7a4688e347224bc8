"""Daily sales of twenty shops, two weeks ahead: one network for all, which knows the promotions to come.

The data are a long pandas frame, a row for each shop and day (a polars frame works as well). They are
simulated: a week, a year, and promotions that sell half as much again. Takes about ten seconds, and ends in a
table of errors and in a picture in the current folder.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from numbarnn import RNNForecaster
from numbarnn.plotting import plot_forecast

N_SHOPS, N_DAYS, HORIZON = 20, 730, 14

rng = np.random.default_rng(0)
days = pd.date_range("2023-01-01", periods=N_DAYS + HORIZON, freq="D")
week = 1 + 0.4 * np.isin(days.day_of_week, [4, 5]) - 0.5 * (days.day_of_week == 6)
year = 1 + 0.3 * np.sin(2 * np.pi * days.day_of_year / 365.25)
shops = []
for shop in range(N_SHOPS):
    promotion = np.repeat(rng.random(len(days) // 3) < 0.15, 3)  # three days each
    sold = rng.lognormal(4, 0.5) * week * year * (1 + 0.5 * promotion) * rng.lognormal(0, 0.08, len(days))
    shops.append(
        pd.DataFrame(
            {"unique_id": f"shop {shop:02}", "ds": days, "promotion": promotion.astype(float), "y": sold}
        )
    )
table = pd.concat(shops, ignore_index=True)
known = table["ds"] < days[N_DAYS]
sales, truth = table[known], table[~known]

forecaster = RNNForecaster(
    HORIZON, context_length=28, hidden_size=32, future_covariates=["promotion"], calendar="auto",
    learning_rate_init=1e-2, max_iter=15, random_state=0,
)  # fmt: skip

# Forecasts made at four points of the past, by a network that had not seen what came after the first of them.
errors = forecaster.backtest(sales, n_windows=4, level=[80])
print(errors.iloc[[0, 6, 13, 14]][["step", "mae", "mase", "coverage_80"]].round(2).to_string(index=False))

# Forecasts of the two weeks to come, whose promotions are planned.
forecast = forecaster.fit(sales).predict(X=truth[["unique_id", "ds", "promotion"]], level=[80, 95])
error = np.abs(forecast["RNNForecaster"].to_numpy() - truth["y"].to_numpy()).mean()
print(
    f"Mean absolute error of the two weeks to come: {error:.1f}; sales are {truth['y'].mean():.0f} on average"
)

figure = Figure(figsize=(9, 4), layout="constrained")
past, future, ahead = (frame[frame["unique_id"] == "shop 00"] for frame in (sales, truth, forecast))
past = past.iloc[-3 * HORIZON :]
plot_forecast(
    past["y"], ahead["RNNForecaster"], future["y"], figure.add_subplot(), level=[80, 95],
    lower=ahead[["RNNForecaster-lo-80", "RNNForecaster-lo-95"]],
    upper=ahead[["RNNForecaster-hi-80", "RNNForecaster-hi-95"]],
    time=pd.concat([past["ds"], future["ds"]]), ylabel="sold", title="A shop",
)  # fmt: skip
figure.savefig("many_series.png", dpi=150)
print("picture: many_series.png")
