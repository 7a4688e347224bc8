"""How much to stock: sampled futures of counts, from a network that draws them step by step.

Spare parts are sold a few a week, often none, and a stock must last for eight weeks. What matters is the sum
over them, whose distribution does not follow from the intervals of single weeks: it takes whole paths. Takes
about ten seconds, and ends in how often the stock was enough; the sales are simulated.
"""

import numpy as np

from numbarnn import RNNForecaster

N_PARTS, N_WEEKS, LEAD_TIME = 200, 156, 8

rng = np.random.default_rng(0)
rate = rng.lognormal(0, 0.8, N_PARTS)[:, np.newaxis] * (1 + 0.5 * np.sin(2 * np.pi * np.arange(N_WEEKS) / 52))
sold = rng.negative_binomial(2, 2 / (2 + rate)).astype(float)
past, future = sold[:, :-LEAD_TIME], sold[:, -LEAD_TIME:]
print(f"{N_PARTS} parts, {(past == 0).mean():.0%} of the weeks without a sale")

forecaster = RNNForecaster(
    LEAD_TIME, context_length=52, decoder="recursive", loss="negative_binomial", hidden_size=16,
    learning_rate_init=5e-3, max_iter=8, random_state=0,
)  # fmt: skip
forecaster.fit(list(past))

paths = np.stack(forecaster.sample_paths(500))  # (n_parts, n_paths, n_weeks)
needed = future.sum(axis=1)
stocks = {
    "90 % quantile of the sum": np.quantile(paths.sum(axis=2), 0.9, axis=1),
    "sum of the 90 % quantiles": np.quantile(paths, 0.9, axis=1).sum(axis=1),
}
for name, stock in stocks.items():
    print(f"{name:25}: {stock.sum():.0f} in stock, enough for {(needed <= stock).mean():.0%} of the parts")
