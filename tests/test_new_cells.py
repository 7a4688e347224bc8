"""Every cell learns to remember, through an estimator, in a second."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from numbarnn import RNNRegressor
from numbarnn.cells import CELLS

N_TIMESTEPS = 20


def adding_problem(n_samples, seed):
    """Return sequences (value, mark) and the sum of the two values that are marked, one in each half."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n_samples, N_TIMESTEPS, 2))
    x[:, :, 0] = rng.random((n_samples, N_TIMESTEPS))
    half = N_TIMESTEPS // 2
    for start in (0, half):
        x[np.arange(n_samples), start + rng.integers(half, size=n_samples), 1] = 1
    return x, (x[:, :, 0] * x[:, :, 1]).sum(axis=1)


def model_of(cell, **options):
    layers = 2 if cell == "indrnn" else 1  # whose units see each other only in a second layer
    options = {"max_iter": 40, "n_iter_no_change": 40, "tol": 0, "num_layers": layers, **options}
    return RNNRegressor(cell=cell, hidden_size=16, learning_rate_init=1e-2, batch_size=32, random_state=0,
                        **options)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.startswith("rnn")])
def test_adding_problem(cell):
    model = model_of(cell).fit(*adding_problem(1200, 0))
    assert model.score(*adding_problem(300, 1)) > 0.95


def test_cells_without_recurrent_weights_have_fewer_parameters():
    x, y = adding_problem(50, 0)
    sizes = {}
    for cell in ("gru", "mgu", "mingru", "indrnn"):
        with pytest.warns(ConvergenceWarning):
            network = model_of(cell, max_iter=1, num_layers=1).fit(x, y).network_
        sizes[cell] = sum(value.size for value in network.recurrent.parameters.values())
    assert sizes == {"gru": 3 * (16 * 18 + 32), "mgu": 2 * (16 * 18 + 32), "mingru": 2 * 16 * 3,
                     "indrnn": 16 * 3 + 16}
