"""Losses against finite differences, against scikit-learn's own loss functions, and at the edges."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.neural_network._base import LOSS_FUNCTIONS

from numbarnn.losses import LOSSES

CASES = {
    "squared_error": (LOSSES["squared_error"](), 3),
    "absolute_error": (LOSSES["absolute_error"](), 3),
    "huber": (LOSSES["huber"](delta=0.7), 2),
    "quantile": (LOSSES["quantile"](level=0.3), 2),
    "quantiles": (LOSSES["quantile"](level=[0.1, 0.5, 0.9]), 2),
    "poisson": (LOSSES["poisson"](), 2),
    "log_loss_2": (LOSSES["log_loss"](), 2),
    "log_loss_4": (LOSSES["log_loss"](), 4),
}


def make(case, leading, seed=0):
    """A loss, targets and raw outputs of it."""
    loss, n_targets = CASES[case]
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(*leading, loss.n_raw(n_targets)))
    if case.startswith("log_loss"):
        return loss, rng.integers(0, n_targets, (*leading, 1)), raw
    y = rng.normal(size=(*leading, n_targets))
    return loss, rng.poisson(2.0, y.shape).astype(float) if case == "poisson" else y, raw


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("leading", [(5,), (3, 4)])
@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_the_loss(case, leading, weighted):
    loss, y, raw = make(case, leading)
    weight = np.random.default_rng(1).uniform(0, 2, leading) if weighted else None
    _, gradient = loss(y, raw, weight)
    for index in np.ndindex(raw.shape):
        step = np.zeros_like(raw)
        step[index] = 1e-6
        slope = (loss(y, raw + step, weight)[0] - loss(y, raw - step, weight)[0]) / 2e-6
        assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_no_weights_stand_for_the_mean(case):
    loss, y, raw = make(case, (6,))
    value, gradient = loss(y, raw)
    weighted_value, weighted_gradient = loss(y, raw, np.full(6, 1 / 6))
    assert_allclose(value, weighted_value)
    assert_allclose(gradient, weighted_gradient)


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32_and_inputs_stay_as_they_are(case):
    loss, y, raw = make(case, (6,))
    y = y if y.dtype.kind == "i" else y.astype("float32")
    raw = raw.astype("float32")
    before = y.copy(), raw.copy()
    for weight in (None, np.full(6, 1 / 6, "float32")):
        value, gradient = loss(y, raw, weight)
        assert isinstance(value, float)
        assert gradient.dtype == loss.predict(raw).dtype == np.float32
        assert gradient.shape == raw.shape
    assert (y == before[0]).all() and (raw == before[1]).all()


def test_values_are_those_of_scikit_learn():
    loss, y, raw = make("squared_error", (8,))
    assert_allclose(loss(y, raw)[0], LOSS_FUNCTIONS["squared_error"](y, raw))
    loss, y, raw = make("poisson", (8,))
    assert_allclose(loss(y, raw)[0], LOSS_FUNCTIONS["poisson"](y, loss.predict(raw)) / y.shape[1])
    for case, name in (("log_loss_2", "binary_log_loss"), ("log_loss_4", "log_loss")):
        loss, y, raw = make(case, (8,))
        probability = loss.predict(raw)
        truth = np.eye(probability.shape[1])[y[:, 0]]
        if name == "binary_log_loss":
            truth, probability = truth[:, 1:], probability[:, 1:]
        assert_allclose(loss(y, raw)[0], LOSS_FUNCTIONS[name](truth, probability))


def test_huber_is_squared_error_near_and_linear_far():
    huber, squared = LOSSES["huber"](delta=2.0), LOSSES["squared_error"]()
    y, near, far = np.zeros((1, 1)), np.array([[1.5]]), np.array([[-10.0]])
    assert huber(y, near)[0] == squared(y, near)[0]
    assert huber(y, far)[0] == 2 * (10 - 1)
    assert huber(y, far)[1] == -2


@pytest.mark.parametrize("case", ["log_loss_2", "log_loss_4"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_cross_entropy_does_not_overflow(case, size):
    loss, y, raw = make(case, (5,))
    raw = np.full_like(raw, size, dtype="float32")
    raw[:, 0] = -size
    value, gradient = loss(y, raw)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert_allclose(loss.predict(raw).sum(axis=1), 1)


def test_a_step_of_weight_zero_does_not_count():
    loss, y, raw = make("log_loss_4", (2, 3))
    weight = np.array([[1, 1, 0], [1, 0, 0]]) / 3
    value, gradient = loss(y, raw, weight)
    other = raw.copy()
    other[weight == 0] = 99
    assert loss(y, other, weight)[0] == value
    assert (gradient[weight == 0] == 0).all()


def test_several_levels_are_sorted_each_with_its_own_level():
    loss = LOSSES["quantile"](level=[0.9, 0.1])
    assert loss.predict(np.array([[3.0, 5.0, 1.0, 0.0]])).tolist() == [[[5.0, 3.0], [1.0, 0.0]]]
    y = np.random.default_rng(0).normal(size=(500, 1))
    best = [np.quantile(y, level) for level in (0.9, 0.1)]
    assert np.abs(loss(y, np.tile(best, (500, 1)))[1].sum(axis=0)).max() < 2e-3


@pytest.mark.parametrize("level", [0, 1, -0.1, [0.5, 1.5], float("nan"), [[0.1]]])
def test_bad_levels_are_refused(level):
    with pytest.raises(ValueError, match="quantile was"):
        LOSSES["quantile"](level=level)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="y had the value -1.0"):
        LOSSES["poisson"]().check(np.array([[2.0], [-1.0]]))
