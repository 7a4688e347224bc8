"""Optimizers against torch.optim's numbers (fixtures/make_torch_optim.py) and against their definitions."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from numbarnn.optimizers import OPTIMIZERS

CASES = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ("rmsprop", {"beta_2": 0.99}),
    "adam": ("adam", {}),
    "adamw": ("adamw", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1}),
}


@pytest.fixture(scope="module")
def torch_steps():
    with np.load(Path(__file__).parent / "fixtures" / "torch_optim.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_same_steps_as_torch(torch_steps, case, dtype, tolerance):
    name, options = CASES[case]
    parameters = torch_steps["start"].astype(dtype)
    optimizer = OPTIMIZERS[name](parameters.size, dtype, **options)
    for gradient, expected in zip(torch_steps["gradients"], torch_steps[case], strict=True):
        # a gradient twice as large, scaled by a half: the same step
        optimizer.update(parameters, (2 * gradient).astype(dtype), float(torch_steps["rate"]), scale=0.5)
        assert_allclose(parameters, expected, rtol=tolerance, atol=tolerance)
    assert parameters.dtype == optimizer.state.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sgd_is_exactly_parameter_minus_rate_times_gradient(rng_vector, dtype):
    parameters, gradients = (vector.astype(dtype) for vector in rng_vector)
    expected = parameters - np.dtype(dtype).type(0.037) * gradients
    OPTIMIZERS["sgd"](parameters.size, dtype).update(parameters, gradients, 0.037)
    assert_array_equal(parameters, expected)


@pytest.fixture
def rng_vector():
    return np.random.default_rng(1).normal(size=(2, 1001))


@pytest.mark.parametrize("case", CASES)
def test_state_can_be_copied_and_pickled(rng_vector, case):
    name, options = CASES[case]
    parameters, gradients = rng_vector
    optimizer = OPTIMIZERS[name](parameters.size, "float64", **options)
    optimizer.update(parameters, gradients, 0.01)
    snapshot, copy = optimizer.snapshot(), pickle.loads(pickle.dumps(optimizer))
    results = []
    for again in (optimizer, copy):
        p = parameters.copy()
        again.update(p, gradients, 0.01)
        results.append(p)
    optimizer.restore(snapshot)
    p = parameters.copy()
    optimizer.update(p, gradients, 0.01)
    assert_array_equal(results[0], results[1])
    assert_array_equal(results[0], p)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nan_passes_through(name):
    parameters = np.ones(3, "float32")
    OPTIMIZERS[name](3, "float32").update(parameters, np.array([0, np.nan, 1], "float32"), 0.1)
    assert_array_equal(np.isnan(parameters), [False, True, False])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"sgd"}))
def test_running_means_do_not_stay_subnormal(case, dtype):
    name, options = CASES[case]
    optimizer = OPTIMIZERS[name](40, dtype, **options)
    tiny = np.finfo(dtype).tiny
    optimizer.state[...] = np.geomspace(tiny, 4 * tiny, 40)
    parameters, zeros = np.zeros(40, dtype), np.zeros(40, dtype)
    for _ in range(20):
        optimizer.update(parameters, zeros, 0.01)
    for array in (optimizer.state, parameters):
        assert ((array == 0) | (np.abs(array) >= tiny)).all()
    # the mode of the caller is as before
    assert np.float64(5e-324) * np.float64(1.0) == 5e-324
